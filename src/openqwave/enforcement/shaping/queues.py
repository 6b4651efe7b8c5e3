"""Which queue an interface has for shaping, and which it may be given.

Two kinds of root can delay a flow's packets:

* **fq** holds each packet until its departure time, which the program of the data plane writes.
  So does mq, which only spreads packets over the queues of the hardware, where all below it is fq.
* **a pool** is HTB with a leaf for each flow (`openqwave.enforcement.shaping.leaves`); packets of
  no flow pass it at once.

**Whose the root is** shows in its handle. 0: nobody set it up, the kernel put its default there,
and puts it back when ours goes. `OUR_ROOT`: we did, now or before a crash. Any other: a person or
a program wants it so. That is used if it is fq, and is never replaced.

**What installing costs.** The kernel stops the interface for an instant: what waits in the default
queue is lost, and so is what is sent in that moment. Taking ours away does the same. A pool passes
other traffic in order of arrival, without the fairness or the bands of the default. So it takes
the administrator's word, interface by interface. Loopback is left as it is, whatever that word:
what the host's own programs tell each other is not to wait for a flow that has a rate.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal, refusal_of_os_error
from openqwave.model.queues import MAJOR_MASK
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from openqwave.model.queues import Outlet, Queue

# "qw" in ASCII. People use small numbers, the kernel itself those from 0x8000 on.
OUR_ROOT = 0x7177_0000

# What fq lets wait. A blocking sender stops when its socket's buffer is full, so nothing is lost
# where the queue holds any whole buffer. The buffer is charged for the memory of packets, 768
# bytes at least, and is 416 KiB at most unless the administrator raises net.core.wmem_max: 555
# packets. This allows for wmem_max of 6 MB. fq's own limit of 100 does not even hold the 277 small
# packets of a socket as it comes.
FLOW_LIMIT_PACKETS = 16_384
# For all flows together: 470 sockets with such buffers. No more memory than their owners have
# anyway, because each packet stays charged to its socket.
LIMIT_PACKETS = 262_144
# How far ahead a departure time may lie. Packets of a buffer, 277 KB of full ones in 416 KiB, take
# an hour at 600 bit/s. fq's own 10 s are 220 kbit/s. The option holds 71 minutes.
HORIZON_NS = 3_600_000_000_000

# Queues that only spread packets over the queues of the hardware.
_MULTI_QUEUE: Final = frozenset({"mq", "mqprio"})

# Judging, installing, judging again; and once more when somebody else was quicker.
_TRIES = 3


@value
class DepartureTimes:
    """Packets wait until the departure time that is written on them.

    Attributes:
        horizon_ns: A packet whose time lies farther ahead would be dropped.
    """

    horizon_ns: int


Means: TypeAlias = DepartureTimes | Literal["pool"]


class QueueDriver(Protocol):
    """Reads and changes queues; see `openqwave.drivers.qdiscs`, also for the errors."""

    def queues(self, interface: int = 0) -> Sequence[Queue]:
        """The queues of an interface, or of all of them."""

    def install_fq(
        self,
        interface: int,
        handle: int,
        *,
        limit_packets: int,
        flow_limit_packets: int,
        horizon_ns: int,
    ) -> None:
        """Make fq the root of an interface that has a default one."""

    def install_htb(self, interface: int, handle: int, header_bytes: int) -> None:
        """Make HTB the root of an interface that has a default one."""

    def remove_root(self, interface: int, handle: int) -> None:
        """Take away a root; the kernel puts its default there."""


def means_of(queues: Sequence[Queue]) -> Means | None:
    """What an interface with these queues can do for a flow; None for nothing."""
    root = next((queue for queue in queues if queue.is_root), None)
    if root is None:
        return None
    if root.kind == "fq":
        return DepartureTimes(root.horizon_ns or HORIZON_NS)
    if root.kind == "htb" and root.handle == OUR_ROOT:
        return "pool"
    if root.kind in _MULTI_QUEUE:
        below = [
            queue
            for queue in queues
            # The lower half numbers the hardware's queue.
            if not queue.is_root and queue.parent & MAJOR_MASK == root.handle & MAJOR_MASK
        ]
        if below and all(queue.kind == "fq" for queue in below):
            return DepartureTimes(min(queue.horizon_ns or HORIZON_NS for queue in below))
    return None


def _may_be_better(queues: Sequence[Queue]) -> bool:
    """Is the root the kernel's own choice, and none that shapes well as it is?

    An fq that comes by itself drops what a sender's buffer holds; under mq it stays nevertheless,
    because one root for all queues of the hardware would slow the interface down.
    """
    root = next((queue for queue in queues if queue.is_root), None)
    if root is None:
        # An interface that was never up has none.
        return True
    return not root.handle and (root.kind == "fq" or means_of(queues) is None)


class InterfaceQueues:
    """Sees to it that interfaces can shape, as far as the administrator lets it."""

    def __init__(self, driver: QueueDriver, may_install: Collection[str] | None) -> None:
        """Change nothing yet.

        Args:
            driver: Reads and changes queues.
            may_install: Names of the interfaces that may be given another root; None for all.
        """
        self._driver = driver
        self._may_install = may_install

    def prepare(self, outlet: Outlet) -> Means | Refusal:
        """Have an interface able to shape.

        Returns:
            What it can do, or a refusal: ERROR_NOT_SUPPORTED where its root cannot shape and may
            not be replaced, or the kernel has no queue that could; ERROR_ACCESS_DENIED without
            CAP_NET_ADMIN.
        """
        is_allowed = not outlet.is_loopback and (
            self._may_install is None or outlet.name in self._may_install
        )
        try:
            for _ in range(_TRIES):
                queues = self._driver.queues(outlet.index)
                if not (is_allowed and _may_be_better(queues)):
                    break
                refusal = self._install(outlet)
                if refusal is not None:
                    return means_of(queues) or refusal
        except OSError as error:
            doing = f"a queue cannot be put at {outlet.name}"
            if isinstance(error, PermissionError):
                doing += " without CAP_NET_ADMIN: run the service with it, or run fq there"
            return refusal_of_os_error(error, doing)
        return means_of(queues) or _refusal(outlet, queues)

    def _install(self, outlet: Outlet) -> Refusal | None:
        """Put a root of ours in the place of the default; quietly not if somebody was quicker."""
        try:
            try:
                self._driver.install_fq(
                    outlet.index,
                    OUR_ROOT,
                    limit_packets=LIMIT_PACKETS,
                    flow_limit_packets=FLOW_LIMIT_PACKETS,
                    horizon_ns=HORIZON_NS,
                )
            except FileNotFoundError:
                self._driver.install_htb(outlet.index, OUR_ROOT, outlet.header_bytes)
        except FileNotFoundError:
            return Refusal(
                ErrorCode.ERROR_NOT_SUPPORTED,
                f"this kernel has no queue that could hold back what leaves {outlet.name}: it "
                "needs fq (module sch_fq), or HTB and TBF (sch_htb, sch_tbf)",
            )
        except FileExistsError:
            pass
        return None

    def clean_up(self) -> None:
        """Take away all roots of ours, whoever of us made them.

        Raises:
            OSError: The kernel refused for one of them; the others are gone nevertheless.
        """
        failed: OSError | None = None
        for queue in self._driver.queues():
            if queue.is_root and queue.handle == OUR_ROOT and queue.kind in ("fq", "htb"):
                try:
                    self._driver.remove_root(queue.interface, OUR_ROOT)
                except OSError as error:
                    # Gone meanwhile, with its interface or alone, is as good.
                    if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
                        failed = error
        if failed is not None:
            raise failed


def _refusal(outlet: Outlet, queues: Sequence[Queue]) -> Refusal:
    """Why an interface cannot shape, and what to do."""
    name = outlet.name
    root = next((queue for queue in queues if queue.is_root), None)
    cure = f"run fq there (tc qdisc replace dev {name} root fq)"
    if outlet.is_loopback:
        detail = (
            f"the flow goes to this host itself, and {name} is given no queue that could hold it "
            f"back: leave it without a rate, or {cure}"
        )
    elif root is not None and root.handle:
        detail = (
            f"{name} has a root queue that somebody set up, {root.kind} {root.handle >> 16:x}:, "
            f"which cannot hold back a flow and is not replaced: {cure}, or take it away"
        )
    else:
        kind = "no queue" if root is None else root.kind
        detail = (
            f"{name} has {kind}, which cannot hold back a flow, and the configuration does not "
            f"let another be put there: {cure}, or allow it for {name} ([enforcement] queues)"
        )
    return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, detail)
