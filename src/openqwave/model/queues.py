"""What lies at the way out of this host: interfaces, their queues, and the leaves of a pool.

A queue (qdisc, in the kernel's words) has a handle: the upper 16 bits are its own number, the
lower ones number its classes. A queue that nobody set up has the number 0. Sources: tc(8),
linux/pkt_sched.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from openqwave.model.value import value

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint

# TC_H_ROOT: the parent of an interface's root queue.
ROOT_PARENT = 0xFFFF_FFFF
# TC_H_MAJ_MASK: a queue's own number within a handle.
MAJOR_MASK = 0xFFFF_0000


class Hop(NamedTuple):
    """What decides which interface a packet leaves by, as far as a plan tells.

    A tuple, because a flow of thousands of destinations hashes each of them.

    Attributes:
        packed: The host's address, as in `Endpoint`.
        interface: The index of the one that the packet has to leave by; 0 for what routes say.
    """

    packed: bytes
    interface: int


def hop_to(destination: Endpoint, bound: int = 0) -> Hop:
    """The hop towards a destination.

    Args:
        destination: Where packets go; one with a scope has its interface.
        bound: The index of the interface that the socket is bound to; 0 for none.
    """
    return Hop(destination.packed, destination.scope_id or bound)


@value
class Outlet:
    """An interface that packets leave by.

    Attributes:
        index: Its number.
        name: Its name.
        mtu_bytes: The largest IP packet.
        header_bytes: What queues count of a packet besides IP: the link header.
        is_loopback: Whether all that leaves by it goes to this host.
    """

    index: int
    name: str
    mtu_bytes: int
    header_bytes: int
    is_loopback: bool = False


@value
class Queue:
    """One queue of an interface.

    Attributes:
        interface: The interface's index.
        kind: What it is, such as "fq".
        handle: Its number in the upper 16 bits; 0 where nobody set it up.
        parent: The handle of what it hangs from, or `ROOT_PARENT`.
        flow_limit_packets: Of fq: how many packets one flow may have waiting; else 0.
        horizon_ns: Of fq: how far ahead a departure time may lie; 0 if it does not say.
    """

    interface: int
    kind: str
    handle: int
    parent: int
    flow_limit_packets: int = 0
    horizon_ns: int = 0

    @property
    def is_root(self) -> bool:
        """Does every packet of the interface pass it?"""
        return self.parent == ROOT_PARENT


@value
class LeafState:
    """One leaf of a pool, as the kernel has it.

    Attributes:
        classid: Its handle.
        rate_bytes_per_s: What it lets pass, bytes of IP packets.
        waiting_packets: What waits in it.
    """

    classid: int
    rate_bytes_per_s: int
    waiting_packets: int
