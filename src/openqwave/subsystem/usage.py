"""What flows under contract really send, from what the kernel counts.

A contract that is in use is part of what was measured; one that is not in use yet is not, and
counts as used nevertheless. So the ledger has to know how much of the contracts of a path was on
the wire when its estimate was made.

TCP's bytes are counted for each socket; UDP's for each flow, where enforcement has a program in the
kernel that counts. Without one, what left the interface is known, so the UDP flows on it are taken
to send what is left when all that is counted is subtracted, each in proportion to its contract and
never more than that. Other programs' traffic through the same interface is then taken for theirs,
by which a contract that is not in use may be lent to others until it is.

Rates are means over about a second: as long as an estimate looks back. A flow that has stopped is
not in the next estimate any more, though it is in that mean for a while, and what it holds would be
sold twice; so what its contract has in use is never more than the last two readings found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from openqwave.model.flow import Transport
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openqwave.admission.ledger import Ledger
    from openqwave.model.estimates import FlowCounters
    from openqwave.model.path import FirstHop
    from openqwave.model.traffic import FlowTraffic
    from openqwave.subsystem.flows import Flow
    from openqwave.subsystem.path import Path
    from openqwave.subsystem.paths import Paths
    from openqwave.subsystem.registry import Registry

_BITS_NS = 8 * 1_000_000_000
# Time over which rates are smoothed, and the shortest that a rate is taken over.
SMOOTHING_NS, LEAST_NS = 1_000_000_000, 50_000_000
# Counters that were read so long ago say nothing of the time since.
LONGEST_NS = 10_000_000_000
# And after so long nobody takes their rate for what is sent now: a few readings of the slowest.
STALE_NS = 3_000_000_000

_NO_TRAFFIC: Mapping[int, FlowTraffic] = MappingProxyType({})


@value
class LinkLoad:
    """What an interface has sent since it was made.

    Attributes:
        sent_bytes: IP packets and link headers.
        speed_bps: What it can carry; 0 if unknown.
    """

    sent_bytes: int
    speed_bps: int = 0


@dataclass(slots=True)
class Meter:
    """A rate from a count that grows.

    Attributes:
        count: Bytes, at the last reading.
        at_ns: When that was.
        rate_bps: Smoothed.
        seen_bps: What the last reading found by itself.
        lately_bps: The higher of the last two of these.
        unseen: How much of the smoothed rate is of the time before the first reading, of 1.
    """

    count: int
    at_ns: int
    rate_bps: float = 0.0
    seen_bps: float = 0.0
    lately_bps: float = 0.0
    unseen: float = 1.0

    @property
    def used_bps(self) -> float:
        """What was sent when the next estimate was made, and not more."""
        return min(self.rate_bps, self.lately_bps)

    def read(self, count: int, now_ns: int) -> float:
        """Take the count of now; returns the smoothed rate."""
        elapsed_ns = now_ns - self.at_ns
        if elapsed_ns < LEAST_NS:
            return self.rate_bps
        if count < self.count or elapsed_ns > LONGEST_NS:
            # Another socket or interface, or too long ago.
            self.rate_bps = self.seen_bps = self.lately_bps = 0.0
            self.unseen = 1.0
        else:
            seen_bps = (count - self.count) * _BITS_NS / elapsed_ns
            weight = min(1.0, elapsed_ns / SMOOTHING_NS)
            self.rate_bps += weight * (seen_bps - self.rate_bps)
            self.seen_bps, self.lately_bps = seen_bps, max(seen_bps, self.seen_bps)
            self.unseen *= 1.0 - weight
        self.count, self.at_ns = count, now_ns
        return self.rate_bps

    @property
    def is_known(self) -> bool:
        """Has any reading found a rate?"""
        return self.unseen < 1.0

    def now_bps(self, now_ns: int) -> int | None:
        """What is sent now: the mean of the last second, or of what of it was counted.

        Returns:
            None where nothing was counted that says something of now.
        """
        if not self.is_known or now_ns - self.at_ns > STALE_NS:
            return None
        # The smoothed rate takes the time before the first reading for one of silence.
        return round(self.rate_bps / (1.0 - self.unseen))


class Usage:
    """Rates of flows and interfaces; see the module's text."""

    def __init__(self, registry: Registry, paths: Paths, ledger: Ledger) -> None:
        self._registry = registry
        self._paths = paths
        self._ledger = ledger
        # By the id of a flow, which has one socket; and by the index of an interface.
        self._flows: dict[int, Meter] = {}
        self._links: dict[int, Meter] = {}

    @property
    def entry_count(self) -> int:
        """How many counts are kept."""
        return len(self._flows) + len(self._links)

    def forget_flow(self, flow: Flow) -> None:
        """A flow has ended."""
        self._flows.pop(flow.flow_id, None)
        if self._links and next(self._measured(), None) is None:
            self._links.clear()

    def sending_bps(self, flow: Flow, now_ns: int) -> int | None:
        """What a flow sends now: TCP's payload, UDP's IP packets; None where nobody counts."""
        meter = self._flows.get(flow.flow_id)
        return None if meter is None else meter.now_bps(now_ns)

    def _measured(self) -> Iterator[tuple[Path, Flow, int]]:
        """Each flow on a measured path, with its socket."""
        for path in self._paths.all():
            if path.facts is None or not path.is_measurable:
                continue
            for flow in self._registry.flows_towards(path.host).values():
                yield path, flow, next(iter(flow.sockets))

    def sockets(self) -> tuple[int, ...]:
        """Those whose counters are wanted."""
        return tuple(cookie for _, _, cookie in self._measured())

    def datagram_flows(self) -> tuple[int, ...]:
        """The flows of UDP whose traffic is wanted."""
        return tuple(
            flow.flow_id
            for _, flow, cookie in self._measured()
            if Transport.UDP in flow.sockets[cookie].values()
        )

    def take(
        self,
        counters: Mapping[int, FlowCounters],
        loads: Mapping[int, LinkLoad],
        traffic: Mapping[int, FlowTraffic] = _NO_TRAFFIC,
        *,
        now_ns: int,
    ) -> list[Path]:
        """Take what was counted.

        Args:
            counters: By the cookie of a socket.
            loads: What leaves each interface, by its index.
            traffic: By the id of a flow of UDP, where somebody counts that.
            now_ns: When.

        Returns:
            The paths of flows whose own verdict has changed.
        """
        changed: list[Path] = []
        own_bps: dict[Path, float] = {}
        # Of each interface: what is counted there of flows, and the other flows under contract.
        counted_bps: dict[int, float] = {}
        udp: dict[int, list[tuple[Path, int]]] = {}
        meters: dict[int, Meter] = {}
        for path, flow, cookie in self._measured():
            own_bps.setdefault(path, 0.0)
            counted, passed = counters.get(cookie), traffic.get(flow.flow_id)
            if path.facts is None or (counted is None and passed is None):
                continue
            sent_bytes = None if counted is None else counted.sent_bytes
            if counted is not None:
                self._judge(flow, path, counted, changed, now_ns)
            if sent_bytes is None and passed is not None:
                sent_bytes = passed.sent_bytes
            interface = path.facts.interface
            if sent_bytes is None:
                if flow.held_bps:
                    udp.setdefault(interface, []).append((path, flow.held_bps))
                continue
            meter = self._flows.get(flow.flow_id) or Meter(sent_bytes, now_ns)
            meters[flow.flow_id] = meter
            rate_bps = meter.read(sent_bytes, now_ns)
            counted_bps[interface] = counted_bps.get(interface, 0.0) + rate_bps
            own_bps[path] += min(meter.used_bps, flow.held_bps)
        self._flows = meters
        used = {path.facts.interface for path in own_bps if path.facts is not None}
        links: dict[int, Meter] = {}
        for interface in used & loads.keys():
            load = loads[interface]
            link = links[interface] = self._links.get(interface) or Meter(load.sent_bytes, now_ns)
            sent_bps = link.read(load.sent_bytes, now_ns)
            shares = udp.get(interface, [])
            held_bps = sum(rate_bps for _, rate_bps in shares)
            used_bps = link.used_bps
            left_bps = max(0.0, used_bps - counted_bps.get(interface, 0.0))
            for path, rate_bps in shares:
                own_bps[path] += rate_bps * min(1.0, left_bps / held_bps)
            self._tell_first_hops(interface, load, sent_bps, own_bps)
        self._links = links
        for path, rate in own_bps.items():
            path.own_bps = round(rate)
        return changed

    def _judge(
        self, flow: Flow, path: Path, counted: FlowCounters, changed: list[Path], now_ns: int
    ) -> None:
        judge = self._paths.flow_congestion(flow)
        before = judge.verdict.is_congested
        judge.observe(counted, now_ns=now_ns)
        if judge.verdict.is_congested != before:
            changed.append(path)

    def _tell_first_hops(
        self, interface: int, load: LinkLoad, sent_bps: float, own_bps: Mapping[Path, float]
    ) -> None:
        """What is free of an interface whose speed is known, whoever uses it."""
        if not load.speed_bps:
            return
        hops: dict[FirstHop, float] = {}
        for path, rate_bps in own_bps.items():
            if path.facts is not None and path.facts.interface == interface:
                hop = path.facts.first_hop
                hops[hop] = hops.get(hop, 0.0) + rate_bps
        for hop, rate_bps in hops.items():
            free_bps = max(0, load.speed_bps - round(sent_bps))
            self._ledger.see(hop, free_bps, min(round(rate_bps), self._ledger.total_held_bps(hop)))
