"""A link's rate, queue and DSCP-aware priority, by the kernel's hierarchical token bucket.

Model. A bottleneck is the egress of one interface, as tc sees it::

    1:   htb, unclassified packets to 1:20
    1:1  class   rate = the link's
    1:10   class   priority 0  bfifo  <- u32 filters, one for each code point and IP version
    1:20   class   priority 1  bfifo  <- everything else

Both leaf classes own next to nothing and borrow the link's rate from 1:1, and whoever has the
better priority borrows first. That makes strict priority, not pre-emptive, as in a router: a
priority packet waits for the one on the wire and for its own kind. Were the priority class given
the rate as its own, it would send without waiting for the parent's tokens, and the link would
run above its rate for a packet at every switch.

The rate counts Ethernet frames without preamble and check sequence, so 14 bytes a packet more
than IP: a link of 20 Mbit/s carries 19.8 Mbit/s of 1400-byte IP packets.

HTB's burst decides how the link spaces packets. A bucket of a frame or more lets two frames pass
together and packet pairs measure nothing; one byte makes every late timer a loss of rate. At 60 us
of the rate, which covers this kernel's usual lateness, the average is exact to a part in a
hundred and pairs are spaced by their size. Of the first gap after idleness the 60 us are missing.

Traps of pyroute2, avoided here: rates given as integers are bytes a second (as strings, bits);
a qdisc it has no module for, bfifo and fq among them, is silently attached to the root whatever
parent was asked for; u32 keys are text. What was installed is therefore read back.

Sources: tc-htb(8), tc-u32(8), RFC 2474 (DSCP), RFC 8200 section 3 (traffic class).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_NEWQDISC, TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from openqwave.lab.refusals import explained

# How late this kernel's timers commonly are, from above; see the module's text.
HTB_BURST_US = 60

# A leaf's own rate: the least HTB takes that keeps its time tables within 32 bits. A leaf may
# send one packet out of turn each time it has saved up for it, every 12 s for a full one.
LEAF_RATE_BYTES_PER_S = 125

# HTB's share of a round-robin turn: one full frame. Given, lest the kernel derive it from the
# leaf's rate and warn that it is small.
QUANTUM_BYTES = 1514

# HTB keeps the rate in 32 bits of bytes a second unless told otherwise.
MAX_RATE_BPS = 8 * (2**32 - 1)

ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD

ROOT = 0x1_0000
LINK_CLASS = 0x1_0001
LEAF_CLASSES = {"priority": 0x1_0010, "default": 0x1_0020}


@dataclass(frozen=True, slots=True)
class PriorityQueue:
    """A queue that is served before the other.

    Attributes:
        dscps: The code points that belong to it, 0 to 63.
        queue_bytes: How much may wait in it.
    """

    dscps: frozenset[int]
    queue_bytes: int = 30_000

    def __post_init__(self) -> None:
        if not self.dscps or not all(0 <= dscp <= 63 for dscp in self.dscps):
            raise ValueError(f"a priority queue takes DSCPs from 0 to 63, not {set(self.dscps)}")


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A rate and what waits for it.

    Attributes:
        rate_bps: Bits a second of Ethernet frames, 8 kbit/s to 34 Gbit/s.
        queue_bytes: How much may wait, frames counted whole; what comes then is dropped.
        priority: A second queue that goes first; None for none.
    """

    rate_bps: int
    queue_bytes: int
    priority: PriorityQueue | None = None

    def __post_init__(self) -> None:
        if not 8_000 <= self.rate_bps <= MAX_RATE_BPS:
            raise ValueError(f"a link's rate is from 8 kbit/s to 34 Gbit/s, not {self.rate_bps}")
        if self.queue_bytes < QUANTUM_BYTES:
            raise ValueError(f"a queue of {self.queue_bytes} bytes does not hold one full frame")


@dataclass(frozen=True, slots=True)
class QueueCounters:
    """What one queue has done since it was installed.

    Attributes:
        sent_bytes: Bytes of frames sent.
        sent_packets: Frames sent.
        dropped_packets: Frames refused because the queue was full.
        waiting_bytes: Bytes that wait now.
    """

    sent_bytes: int
    sent_packets: int
    dropped_packets: int
    waiting_bytes: int


def install(index: int, bottleneck: Bottleneck | None) -> None:
    """Make a bottleneck the root of an interface of this thread's namespace, or remove it.

    Raises:
        OSError: The kernel refused; ENOENT where it has no HTB.
        RuntimeError: The kernel took something else than was meant.
    """
    with IPRoute() as netlink, explained("a bottleneck (modules sch_htb and cls_u32)"):
        _remove_root(netlink, index)
        if bottleneck is None:
            return
        rate = bottleneck.rate_bps // 8
        netlink.tc("add", "htb", index, ROOT, parent=TC_H_ROOT, default=0x20)
        _add_class(netlink, index, LINK_CLASS, ROOT, rate, rate, 0)
        leaves = {"default": (1, bottleneck.queue_bytes)}
        if bottleneck.priority is not None:
            leaves["priority"] = (0, bottleneck.priority.queue_bytes)
        for name, (prio, queue_bytes) in leaves.items():
            handle = LEAF_CLASSES[name]
            _add_class(netlink, index, handle, LINK_CLASS, LEAF_RATE_BYTES_PER_S, rate, prio)
            # A queue's own handle has the class's minor number as its major.
            _put_qdisc(
                netlink,
                index,
                "bfifo",
                parent=handle,
                handle=(handle & 0xFFFF) << 16,
                options=struct.pack("=I", queue_bytes),
            )
        if bottleneck.priority is not None:
            for dscp in sorted(bottleneck.priority.dscps):
                _add_filters(netlink, index, dscp)
        _check(netlink, index, rate, len(leaves))


def _add_class(
    netlink: IPRoute, index: int, handle: int, parent: int, rate: int, ceil: int, prio: int
) -> None:
    """Add an HTB class; rates in bytes a second, bursts worth `HTB_BURST_US` of them."""
    netlink.tc(
        "add-class",
        "htb",
        index,
        handle,
        parent=parent,
        rate=rate,
        ceil=ceil,
        burst=max(1, rate * HTB_BURST_US // 1_000_000),
        cburst=max(1, ceil * HTB_BURST_US // 1_000_000),
        prio=prio,
        quantum=QUANTUM_BYTES,
    )


def _add_filters(netlink: IPRoute, index: int, dscp: int) -> None:
    """Send a code point to the priority class, in both IP versions.

    In IPv4 it is the upper six bits of the second byte. In IPv6 four bits of version come first,
    so it is the lower four bits of the first byte and the upper two of the second.
    """
    # Filters of different protocols cannot share a preference, hence 1 and 2.
    for preference, protocol, key in (
        (1, ETH_P_IP, f"{dscp << 2:#04x}/0xfc+1"),
        (2, ETH_P_IPV6, f"{dscp << 6:#06x}/0x0fc0+0"),
    ):
        netlink.tc(
            "add-filter",
            "u32",
            index,
            parent=ROOT,
            prio=preference,
            protocol=protocol,
            target=LEAF_CLASSES["priority"],
            keys=[key],
        )


def _put_qdisc(
    netlink: IPRoute,
    index: int,
    kind: str,
    *,
    parent: int,
    handle: int,
    options: bytes | None = None,
) -> None:
    message = tcmsg()
    message["index"] = index
    message["parent"] = parent
    message["handle"] = handle
    message["attrs"] = [["TCA_KIND", kind]]
    if options is not None:
        message["attrs"].append(["TCA_OPTIONS", options])
    message["header"]["type"] = RTM_NEWQDISC
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    netlink.nlm_request_batch([message])


def _root_qdisc(netlink: IPRoute, index: int) -> tuple[int, str]:
    """Return the root's handle and kind."""
    for message in netlink.get_qdiscs(index):
        if message["index"] == index and message["parent"] == TC_H_ROOT:
            return message["handle"], message.get_attr("TCA_KIND")
    raise RuntimeError(f"interface {index} has no root qdisc")


def _remove_root(netlink: IPRoute, index: int) -> None:
    # The kernel's own default has no handle and cannot be removed.
    handle, _ = _root_qdisc(netlink, index)
    if handle:
        netlink.tc("del", index=index, handle=handle, parent=TC_H_ROOT)


def _check(netlink: IPRoute, index: int, rate: int, leaves: int) -> None:
    classes = {message["handle"]: message for message in netlink.get_classes(index)}
    parameters = classes[LINK_CLASS].get_attr("TCA_OPTIONS").get_attr("TCA_HTB_PARMS")
    if parameters["rate"] != rate:
        raise RuntimeError(f"the kernel holds {parameters['rate']} bytes/s where {rate} were meant")
    queues = [message for message in netlink.get_qdiscs(index) if message["parent"] & 0xFFFF_0000]
    fifos = [message for message in queues if message.get_attr("TCA_KIND") == "bfifo"]
    if len(fifos) != leaves:
        raise RuntimeError(f"the kernel holds {len(fifos)} queues where {leaves} were meant")


def counters(index: int) -> Mapping[str, QueueCounters]:
    """Read the queues of an interface of this thread's namespace; empty where none is shaped."""
    with IPRoute() as netlink:
        classes = {message["handle"]: message for message in netlink.get_classes(index)}
    result = {}
    for name, handle in LEAF_CLASSES.items():
        if handle in classes:
            statistics = classes[handle].get_attr("TCA_STATS2")
            basic = statistics.get_attr("TCA_STATS_BASIC")
            queue = statistics.get_attr("TCA_STATS_QUEUE")
            result[name] = QueueCounters(
                sent_bytes=basic["bytes"],
                sent_packets=basic["packets"],
                dropped_packets=queue["drops"],
                waiting_bytes=queue["backlog"],
            )
    return result


def try_qdisc(index: int, kind: str) -> bool:
    """Make a qdisc of some kind, with its defaults, the root; False where the kernel has none.

    Raises:
        NetlinkError: It exists, and the kernel refused it for another reason.
    """
    with IPRoute() as netlink:
        try:
            # Handle 0 lets the kernel choose: one that is taken cannot change its kind.
            _put_qdisc(netlink, index, kind, parent=TC_H_ROOT, handle=0)
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return False
            raise
        _, found = _root_qdisc(netlink, index)
    if found != kind:
        raise RuntimeError(f"the kernel holds the qdisc {found} where {kind} was meant")
    return True
