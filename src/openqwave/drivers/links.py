"""Which queue lies on the way out: asked of the kernel through netlink.

Only the fq qdisc paces what a socket sends. It can be an interface's root, or stand under
mq, one for each hardware queue; then all of them have to be fq, because which queue a
packet takes is the driver's choice.

pyroute2 drives its sockets with an event loop of its own, which cannot run where one is
running already. Each question is therefore put in a short-lived thread, which is in the
network namespace of the thread that starts it. That costs a few milliseconds; rates
change seldom.
"""

from __future__ import annotations

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint

# TC_H_ROOT: the parent of an interface's root qdisc; its handle's major number is the
# upper half (linux/pkt_sched.h).
_ROOT = 0xFFFFFFFF
_MAJOR = 0xFFFF0000

# Qdiscs that only spread packets over the queues of the hardware.
_MULTI_QUEUE = frozenset({"mq", "mqprio"})

_PACING = "fq"


def _root_queues(destination: Endpoint, interface: int) -> set[str]:
    """The kinds of queue that packets to the destination can pass at the interface."""
    # Importing pyroute2 takes longer than the question, and most programs never ask it.
    from pyroute2 import IPRoute, NetlinkError

    selector = {"oif": interface} if interface else {}
    if destination.scope_id:
        selector = {"oif": destination.scope_id}
    try:
        with IPRoute() as netlink:
            (route, *_) = netlink.route("get", dst=str(destination.address), **selector)
            index = route.get_attr("RTA_OIF")
            qdiscs = list(netlink.get_qdiscs(index=index))
    except NetlinkError as error:
        raise OSError(error.code or errno.EIO, f"netlink refused: {error}") from error
    root = next((qdisc for qdisc in qdiscs if qdisc["parent"] == _ROOT), None)
    if root is None:
        return set()
    kind = root.get_attr("TCA_KIND")
    if kind not in _MULTI_QUEUE:
        return {kind}
    return {
        qdisc.get_attr("TCA_KIND")
        for qdisc in qdiscs
        if qdisc["parent"] != _ROOT and qdisc["parent"] & _MAJOR == root["handle"] & _MAJOR
    }


class Links:
    """Answers questions about interfaces; keeps nothing open."""

    def is_paced(self, destination: Endpoint, interface: int) -> bool:
        """Does the interface towards the destination run fq?

        Args:
            destination: Where packets go.
            interface: The one the socket is bound to, or 0.

        Raises:
            OSError: The kernel could not be asked, or has no route any more.
        """
        with ThreadPoolExecutor(1, "openqwave-netlink") as thread:
            return thread.submit(_root_queues, destination, interface).result() == {_PACING}

    def linux_version(self) -> tuple[int, int]:
        """Major and minor version of the running kernel."""
        found = re.match(r"(\d+)\.(\d+)", os.uname().release)
        return (int(found[1]), int(found[2])) if found else (0, 0)
