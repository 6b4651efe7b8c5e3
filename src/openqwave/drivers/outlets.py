"""Which interfaces packets to some destinations leave by, asked of the kernel.

The kernel chooses as for a packet that is routed by its destination alone. What it may know
besides, a mark on the socket or the source address of a policy rule, is not asked for; a route
over several interfaces at once (multipath) shows one of them.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Final

from openqwave.drivers.netlink import Netlink, attribute, attributes, number
from openqwave.drivers.rtnetlink import (
    ROUTE,
    RTA_DST,
    RTA_OIF,
    RTM_GETLINK,
    RTM_GETROUTE,
    RouteChanges,
    link_question,
    to_link,
)
from openqwave.model.endpoint import MAPPED_PREFIX
from openqwave.model.queues import Outlet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.model.queues import Hop

# ARPHRD_LOOPBACK (linux/if_arp.h).
_LOOPBACK: Final = 772
# It and ARPHRD_ETHER (linux/if_arp.h): what has an Ethernet header in front of IP
# when it is queued. Tunnels put theirs on behind the queue. Of others it is not known: they count
# as having none, so that a rate can only be lower than what was asked for.
_WITH_ETHERNET_HEADER: Final = frozenset({1, _LOOPBACK})
_ETHERNET_HEADER_BYTES = 14
_U32 = struct.Struct("=I")


class Outlets:
    """Answers where packets leave; the network namespace is that of the thread that makes it."""

    def __init__(self, netlink: Netlink) -> None:
        """Begin to hear of changes.

        Args:
            netlink: Who is asked, of NETLINK_ROUTE and the same namespace; stays open as long as
                this is used.

        Raises:
            OSError: No descriptor is to be had.
        """
        self._netlink = netlink
        self._changes = RouteChanges()

    def towards(self, hops: Sequence[Hop]) -> list[int | OSError]:
        """The index of the interface that packets leave by.

        Args:
            hops: Where they go; each costs a question, so none should be among them twice.

        Returns:
            For each hop the interface, or why there is none.

        Raises:
            OSError: The kernel could not be asked.
        """
        questions = []
        for hop in hops:
            packed = hop.packed.removeprefix(MAPPED_PREFIX)
            family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
            question = ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
            question += attribute(RTA_DST, packed)
            if hop.interface:
                question += attribute(RTA_OIF, _U32.pack(hop.interface))
            questions.append(question)
        answers = self._netlink.ask_each(RTM_GETROUTE, questions)
        return [
            answer
            if isinstance(answer, OSError)
            else number(attributes(answer[ROUTE.size :]), RTA_OIF)
            for answer in answers
        ]

    def outlet(self, interface: int) -> Outlet | None:
        """What is known of an interface; None if it is gone.

        Raises:
            OSError: The kernel could not be asked.
        """
        (answer,) = self._netlink.ask_each(RTM_GETLINK, [link_question(interface)])
        if isinstance(answer, OSError):
            if answer.errno == errno.ENODEV:
                return None
            raise answer
        link = to_link(answer)
        has_header = link.hardware in _WITH_ETHERNET_HEADER
        header_bytes = _ETHERNET_HEADER_BYTES if has_header else 0
        is_loopback = link.hardware == _LOOPBACK
        return Outlet(interface, link.name, link.mtu_bytes, header_bytes, is_loopback)

    def have_changed(self) -> bool:
        """Have links, addresses or routes changed since the last question?

        Raises:
            OSError: The kernel could not be asked.
        """
        return self._changes.have_happened()

    def close(self) -> None:
        """Hear no more; harmless when done before."""
        self._changes.close()
