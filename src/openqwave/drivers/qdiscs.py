"""The queues of interfaces, by netlink: listed, installed, taken away; and classes re-rated.

A queue is put in the place of a default one only. Without NLM_F_REPLACE the kernel refuses to
override a root that somebody set up (EEXIST), in the same step in which it would replace it; and a
root is taken away by its handle (EINVAL for another one). So no race with an administrator can
take away a queue of theirs.

**What is counted.** Queues count the bytes of the frame, with the link header. A size table of no
entries and a negative overhead (tc-stab(8)) takes the header off again, so rates are those of IP
packets, of whatever size. A train of segments (GSO) would count as one packet, short of all
headers but one; it never gets there, because the leaf queue cuts trains.

**A leaf** is an HTB class that holds the rate, with a token bucket (TBF) as its queue that holds
none: it is there because it cuts what is longer than its bucket into segments, which HTB passes
whole. Cut segments count with their link headers, so trains get 1 % less than other packets do.

**Cost.** A class is re-rated by one message, 10 us from Python whatever else there is. Layouts:
linux/pkt_sched.h, net/sched/sch_{fq,htb,tbf}.c, rtnetlink(7).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from openqwave.drivers.netlink import (
    NLM_F_CREATE,
    Attributes,
    Netlink,
    attribute,
    attributes,
)
from openqwave.model.queues import ROOT_PARENT, LeafState, Queue

if TYPE_CHECKING:
    from collections.abc import Iterator

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_RTM_NEWTCLASS, _RTM_GETTCLASS = 40, 42

# struct tcmsg: family, interface, handle, parent, info.
_TC = struct.Struct("=B3xiIII")
_TCA_KIND, _TCA_OPTIONS, _TCA_STATS2, _TCA_STAB = 1, 2, 7, 8
_TCA_STATS_QUEUE = 3
_U8 = struct.Struct("=B")
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")

# TCA_FQ_*: the numbers of sch_fq's options.
_FQ_LIMIT, _FQ_FLOW_LIMIT, _FQ_HORIZON, _FQ_HORIZON_DROP = 1, 2, 14, 15
_NS_PER_US = 1_000

# struct tc_htb_glob: version, quantum divisor, default class, debug, direct packets. The version
# is 3; a default class of 0 lets what belongs to no class pass at once.
_HTB_GLOBAL = struct.Struct("=IIIII")
_HTB_VERSION = 3
_HTB_PARAMETERS, _HTB_INIT, _HTB_RATE64, _HTB_CEIL64 = 1, 2, 6, 7
# struct tc_ratespec: cell_log, link layer, overhead, alignment, minimum, rate. With the link layer
# given (Ethernet is 1: no padding) the kernel wants no table of times.
_RATE = struct.Struct("=BBHhHI")
_PLAIN_LINK_LAYER = 1
_MAX_U32 = 0xFFFF_FFFF
# The rest of struct tc_htb_opt: buffer, buffer of the ceiling, quantum, level, priority.
_HTB_REST = struct.Struct("=IIIII")
# What a class may send before it is another's turn: about a packet. Given, because the kernel
# would make one of the rate, and complain in its log of what it makes.
_QUANTUM_BYTES = 1514
# The kernel counts the time of a bucket in ticks of 64 ns.
_NS_PER_TICK = 64

_TBF_PARAMETERS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
# The rest of struct tc_tbf_qopt: limit, bucket, size of packets at the peak rate.
_TBF_REST = struct.Struct("=III")
# 100 Gbit/s: a bucket of a packet is full again before the class can send the next one.
_UNLIMITED_BYTES_PER_S = 12_500_000_000

# struct tc_sizespec: cell_log, size_log, alignment, overhead, link layer, minimum, largest packet,
# entries.
_SIZES = struct.Struct("=BBhiIIII")
_STAB_BASE = 1


def _tc(interface: int, handle: int, parent: int) -> bytes:
    return _TC.pack(0, interface, handle, parent, 0)


def _kind(name: str) -> bytes:
    return attribute(_TCA_KIND, name.encode() + b"\0")


def _rate(bytes_per_s: int) -> bytes:
    return _RATE.pack(0, _PLAIN_LINK_LAYER, 0, 0, 0, min(bytes_per_s, _MAX_U32))


def _u32(found: Attributes, kind: int) -> int:
    data = found.get(kind, b"")
    return int(_U32.unpack_from(data)[0]) if len(data) >= _U32.size else 0


def _to_queue(body: bytes) -> Queue:
    _, interface, handle, parent, _ = _TC.unpack_from(body)
    found = attributes(body[_TC.size :])
    kind = found.get(_TCA_KIND, b"").rstrip(b"\0").decode(errors="replace")
    if kind != "fq":
        return Queue(interface, kind, handle, parent)
    options = attributes(found.get(_TCA_OPTIONS, b""))
    horizon_ns = _u32(options, _FQ_HORIZON) * _NS_PER_US
    return Queue(interface, kind, handle, parent, _u32(options, _FQ_FLOW_LIMIT), horizon_ns)


def _to_leaf(body: bytes) -> LeafState:
    classid = _TC.unpack_from(body)[2]
    found = attributes(body[_TC.size :])
    options = attributes(found.get(_TCA_OPTIONS, b""))
    if _HTB_RATE64 in options:
        rate = int(_U64.unpack_from(options[_HTB_RATE64])[0])
    elif _HTB_PARAMETERS in options:
        rate = int(_RATE.unpack_from(options[_HTB_PARAMETERS])[5])
    else:
        rate = 0
    statistics = attributes(found.get(_TCA_STATS2, b""))
    return LeafState(classid, rate, _u32(statistics, _TCA_STATS_QUEUE))


class Qdiscs:
    """The queues of one network namespace: that of the socket it is given."""

    def __init__(self, netlink: Netlink) -> None:
        """Change nothing yet.

        Args:
            netlink: Who is asked, of NETLINK_ROUTE; stays open as long as this is used.
        """
        self._netlink = netlink

    def queues(self, interface: int = 0) -> list[Queue]:
        """The queues of an interface, or of all of them.

        Raises:
            OSError: The kernel could not be asked.
        """
        # The kernel lists those of all interfaces whatever is asked.
        found = map(_to_queue, self._netlink.dump(_RTM_GETQDISC, _tc(0, 0, 0)))
        return [queue for queue in found if interface in (0, queue.interface)]

    def install_fq(
        self,
        interface: int,
        handle: int,
        *,
        limit_packets: int,
        flow_limit_packets: int,
        horizon_ns: int,
    ) -> None:
        """Make fq the root of an interface that has a default one.

        Args:
            interface: Its index.
            handle: The new root's.
            limit_packets: How many packets may wait in all.
            flow_limit_packets: How many of one flow.
            horizon_ns: How far ahead a departure time may lie; up to 71 minutes.

        Raises:
            FileNotFoundError: The kernel has no fq.
            FileExistsError: Somebody has set up a root.
            OSError: Any other refusal of the kernel's.
        """
        options = (
            attribute(_FQ_LIMIT, _U32.pack(limit_packets))
            + attribute(_FQ_FLOW_LIMIT, _U32.pack(flow_limit_packets))
            + attribute(_FQ_HORIZON, _U32.pack(horizon_ns // _NS_PER_US))
            + attribute(_FQ_HORIZON_DROP, _U8.pack(1))
        )
        self._add(interface, handle, ROOT_PARENT, "fq", attribute(_TCA_OPTIONS, options))

    def install_htb(self, interface: int, handle: int, header_bytes: int) -> None:
        """Make HTB the root of an interface that has a default one; what has no class passes.

        Args:
            interface: Its index.
            handle: The new root's.
            header_bytes: What is taken off each packet's length.

        Raises:
            OSError: As `install_fq`, of HTB.
        """
        sizes = _SIZES.pack(0, 0, 0, -header_bytes, _PLAIN_LINK_LAYER, 0, 0, 0)
        start = _HTB_GLOBAL.pack(_HTB_VERSION, 1, 0, 0, 0)
        self._add(
            interface,
            handle,
            ROOT_PARENT,
            "htb",
            attribute(_TCA_OPTIONS, attribute(_HTB_INIT, start))
            + attribute(_TCA_STAB, attribute(_STAB_BASE, sizes)),
        )

    def _add(self, interface: int, handle: int, parent: int, kind: str, rest: bytes) -> None:
        body = _tc(interface, handle, parent) + _kind(kind) + rest
        self._netlink.change(_RTM_NEWQDISC, body, NLM_F_CREATE)

    def remove_root(self, interface: int, handle: int) -> None:
        """Take away a root, and what waits in it; the kernel puts its default there.

        Raises:
            OSError: There is no root of this handle, or any other refusal of the kernel's.
        """
        self._netlink.change(_RTM_DELQDISC, _tc(interface, handle, ROOT_PARENT))

    def put_class(
        self, interface: int, root: int, classid: int, rate_bytes_per_s: int, burst_ns: int
    ) -> None:
        """Make a class of an HTB root, or re-rate it; what waits in it stays.

        Args:
            interface: The interface's index.
            root: The handle of the HTB.
            classid: The class's.
            rate_bytes_per_s: What it lets pass; above 0.
            burst_ns: The time whose share of the rate may pass at once after idleness.

        Raises:
            FileNotFoundError: There is no such HTB.
            OSError: Any other refusal of the kernel's.
        """
        rate = _rate(rate_bytes_per_s)
        ticks = burst_ns // _NS_PER_TICK
        parameters = rate + rate + _HTB_REST.pack(ticks, ticks, _QUANTUM_BYTES, 0, 0)
        wide = _U64.pack(rate_bytes_per_s)
        options = (
            attribute(_HTB_PARAMETERS, parameters)
            + attribute(_HTB_RATE64, wide)
            + attribute(_HTB_CEIL64, wide)
        )
        body = _tc(interface, classid, root) + _kind("htb") + attribute(_TCA_OPTIONS, options)
        self._netlink.change(_RTM_NEWTCLASS, body, NLM_F_CREATE)

    def put_segmenter(
        self, interface: int, classid: int, packet_bytes: int, limit_bytes: int
    ) -> None:
        """Give a class the queue that cuts trains; one that is there is changed.

        Args:
            interface: The interface's index.
            classid: The class.
            packet_bytes: The longest that is not cut; longer single packets are dropped.
            limit_bytes: How much may wait.

        Raises:
            FileNotFoundError: The kernel has no TBF, or there is no such class.
            OSError: Any other refusal of the kernel's.
        """
        rate = _rate(_UNLIMITED_BYTES_PER_S)
        parameters = rate + bytes(_RATE.size) + _TBF_REST.pack(limit_bytes, 0, 0)
        options = (
            attribute(_TBF_PARAMETERS, parameters)
            + attribute(_TBF_RATE64, _U64.pack(_UNLIMITED_BYTES_PER_S))
            + attribute(_TBF_BURST, _U32.pack(packet_bytes))
        )
        self._add(interface, 0, classid, "tbf", attribute(_TCA_OPTIONS, options))

    def leaves(self, interface: int, root: int) -> Iterator[LeafState]:
        """The classes of an HTB; none where there is no such root.

        Raises:
            OSError: The kernel could not be asked.
        """
        # Those of the queues below it have other handles.
        return map(_to_leaf, self._netlink.dump(_RTM_GETTCLASS, _tc(interface, 0, root)))
