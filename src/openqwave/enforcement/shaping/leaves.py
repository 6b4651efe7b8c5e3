"""The leaves of a pool: one for each flow, made once, and re-rated.

The program of the data plane writes a leaf's handle on a flow's packets (skb->priority), and HTB
puts them there. A flow has one leaf, of the same handle on whatever interface it leaves by, so a
change of route changes nothing in the program.

**Made once.** Adding a class takes 35 us at first and grows with their number (940 us at 7,000);
changing one takes a few whatever there is. So leaves stay when their flow ends, and a few hundred
are all there are.

**Rate.** Bytes of IP packets, exactly (see `openqwave.drivers.qdiscs`). A class sends when its
bucket is not in debt, and the bucket holds the time of `BURST_NS`; measured with twice the rate
offered: 8.00 Mbit/s for 8, 99.8 for 100, 499.9 for 500. With a bucket of a packet or more two
packets always pass together; with one of nothing, each timer that is late loses its time.

**Nothing is dropped.** A rate is changed in place, what waits stays in order. What was sent at the
old rate is paid for at the old rate: the next packet may wait as long as one took. A leaf whose
flow has ended keeps its rate until it is empty, and is given out again only then.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from openqwave.enforcement.shaping.queues import OUR_ROOT
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openqwave.model.queues import LeafState, Outlet

# Leaves are numbered in steps of 16, because the lower four bits of skb->priority also choose the
# band or the class at queues that a packet passes on other interfaces; 0 is best effort.
STEP = 16
# The most leaves, hence flows in pools at a time: what a host has at the edge of a network, and
# adding the last one still takes less than 100 us.
MOST_LEAVES = 255

# How late timers commonly are, from above, so that lateness costs nothing. At 500 Mbit/s it is
# two packets and a half, at 100 less than one.
BURST_NS = 60_000
# What may wait in a leaf: 150 sockets with the largest buffers that Linux gives unless the
# administrator says more (416 KiB), so that no blocking sender loses anything. It is no more
# memory than the senders have anyway; a bound it is for what has no socket here.
LIMIT_BYTES = 64 << 20
# Link headers in front of the longest IP packet, tags and their like included. What is longer than
# both together is cut if it is a train, and dropped if not.
HEADROOM_BYTES = 64
# HTB forgets debts older than a minute, so a packet that takes longer never leaves. Half of that
# for the longest one.
_LONGEST_PACKET_S = 30


class LeafDriver(Protocol):
    """Reads and changes leaves; see `openqwave.drivers.qdiscs`, also for the errors."""

    def put_class(
        self, interface: int, root: int, classid: int, rate_bytes_per_s: int, burst_ns: int
    ) -> None:
        """Make a class of an HTB root, or re-rate it."""

    def put_segmenter(
        self, interface: int, classid: int, packet_bytes: int, limit_bytes: int
    ) -> None:
        """Give a class the queue that cuts trains; one that is there is changed."""

    def leaves(self, interface: int, root: int) -> Iterable[LeafState]:
        """The classes of an HTB."""


def bytes_per_s(rate_bps: int) -> int:
    """A rate in what HTB counts, at least 1."""
    return max(1, rate_bps // 8)


def least_rate_bps(outlet: Outlet) -> int:
    """The lowest rate that a leaf of an interface can hold."""
    return outlet.mtu_bytes * 8 // _LONGEST_PACKET_S


class Leaves:
    """Which flow has which leaf, and what leaves there are on which interface."""

    def __init__(self, driver: LeafDriver) -> None:
        """Start with none.

        Args:
            driver: Reads and changes them.
        """
        self._driver = driver
        self._of_flow: dict[int, int] = {}
        self._used = 0
        # Freed first, first given out again: it has had the longest time to run empty.
        self._freed: deque[int] = deque()
        # By interface: leaves that are complete, with the packet size they were made for.
        self._made: dict[int, dict[int, int]] = {}

    def allocate(self, flow_id: int) -> int | Refusal:
        """Give a flow a leaf; the one it has, if it has one.

        Returns:
            The leaf's handle, or ERROR_NO_SYSTEM_RESOURCES when all are in use.

        Raises:
            OSError: The kernel could not be asked.
        """
        classid = self._of_flow.get(flow_id)
        if classid is None:
            classid = self._fresh()
            if classid is None:
                classid = self._empty()
            if classid is None:
                return Refusal(
                    ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
                    f"{MOST_LEAVES} flows are being shaped already, which is all that a pool can "
                    "hold: end some, or run fq on the interface (tc qdisc replace dev DEV root fq)",
                )
            self._of_flow[flow_id] = classid
        return classid

    def _fresh(self) -> int | None:
        if self._used >= MOST_LEAVES:
            return None
        self._used += 1
        return OUR_ROOT | self._used * STEP

    def _empty(self) -> int | None:
        """A leaf that has been freed and in which nothing waits on any interface."""
        if not self._freed:
            return None
        full = {
            leaf.classid
            for interface in self._made
            for leaf in self._driver.leaves(interface, OUR_ROOT)
            if leaf.waiting_packets
        }
        for classid in self._freed:
            if classid not in full:
                self._freed.remove(classid)
                return classid
        return None

    def free(self, flow_id: int) -> None:
        """Take a flow's leaf back; what waits there leaves at the rate that it had."""
        classid = self._of_flow.pop(flow_id, None)
        if classid is not None:
            self._freed.append(classid)

    def put(self, outlet: Outlet, classid: int, rate_bps: int) -> None:
        """Have a leaf on an interface with a pool, of a rate.

        Raises:
            FileNotFoundError: The pool is gone, or the kernel has no TBF.
            OSError: Any other refusal of the kernel's.
        """
        made = self._made.setdefault(outlet.index, {})
        rate = bytes_per_s(rate_bps)
        self._driver.put_class(outlet.index, OUR_ROOT, classid, rate, BURST_NS)
        packet_bytes = outlet.mtu_bytes + HEADROOM_BYTES
        if made.get(classid) != packet_bytes:
            self._driver.put_segmenter(outlet.index, classid, packet_bytes, LIMIT_BYTES)
            made[classid] = packet_bytes

    def forget(self, interface: int) -> None:
        """The pool of an interface is gone, with its leaves."""
        self._made.pop(interface, None)

    def rates(self, interface: int) -> dict[int, int]:
        """What the leaves of an interface let pass, by handle, in bytes a second.

        Raises:
            OSError: The kernel could not be asked.
        """
        found = self._driver.leaves(interface, OUR_ROOT)
        return {leaf.classid: leaf.rate_bytes_per_s for leaf in found}
