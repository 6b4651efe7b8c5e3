"""Flows of UDP held to a rate by what their packets leave by.

What an interface can do is told in `openqwave.enforcement.shaping.queues`; here flows meet
interfaces. A flow gets departure times where all of its packets leave through fq: its program
counts what it sends wherever that goes, so the rate is one for all interfaces. Or it gets a leaf of
a pool, where all leave by one interface: leaves of two interfaces do not know of each other.

**Others' changes.** `reconcile` looks again: where routes lead, whether roots and leaves are what
they were. A pool or an fq of ours that somebody took away is put back, if the kernel's default is
there now; what somebody put in its place stays, and the flow is refused with the reason. It stays
known, and is shaped again when that can be.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from openqwave.enforcement.shaping.leaves import (
    LeafDriver,
    Leaves,
    bytes_per_s,
    least_rate_bps,
)
from openqwave.enforcement.shaping.queues import (
    DepartureTimes,
    InterfaceQueues,
    Means,
    QueueDriver,
    means_of,
)
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import address_text
from openqwave.model.errors import Refusal, refusal_of_os_error
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from openqwave.model.queues import Hop, Outlet

# What the kernel says of a leaf whose root has changed under it: no such queue, not of this kind,
# no such interface.
_CHANGED = frozenset({errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV})

# The number of no interface.
_NO_WAY = 0


@value
class Leaf:
    """A flow's packets are to be given this handle as their priority.

    Attributes:
        classid: The leaf's.
    """

    classid: int


Shaped: TypeAlias = DepartureTimes | Leaf


class Ways(Protocol):
    """Tells where packets leave; see `openqwave.drivers.outlets`, also for the errors."""

    def towards(self, hops: Sequence[Hop]) -> Sequence[int | OSError]:
        """The index of the interface that packets leave by, for each hop."""

    def outlet(self, interface: int) -> Outlet | None:
        """What is known of an interface; None if it is gone."""

    def have_changed(self) -> bool:
        """Have links, addresses or routes changed since the last question?"""


class Driver(QueueDriver, LeafDriver, Protocol):
    """Reads and changes queues and leaves; see `openqwave.drivers.qdiscs`."""


@dataclass(slots=True)
class _Flow:
    """A flow that is shaped, or is to be.

    Attributes:
        rate_bps: Its rate.
        ways: The interface that packets to each hop leave by; `_NO_WAY` for none.
        outcome: What it got; None before it got anything.
    """

    rate_bps: int
    ways: dict[Hop, int] = field(default_factory=dict)
    outcome: Shaped | Refusal | None = None


class Shapers:
    """Gives flows their rates; for one thread."""

    def __init__(self, driver: Driver, ways: Ways, may_install: Collection[str] | None) -> None:
        """Change nothing yet.

        Args:
            driver: Reads and changes queues.
            ways: Tells where packets leave; of the same network namespace.
            may_install: Names of the interfaces that may be given another root; None for all.
        """
        self._driver = driver
        self._ways = ways
        self._queues = InterfaceQueues(driver, may_install)
        self._leaves = Leaves(driver)
        self._flows: dict[int, _Flow] = {}
        # What interfaces were found or made to be able to do.
        self._known: dict[int, tuple[Outlet, Means]] = {}

    def grant(self, flow_id: int, rate_bps: int, hops: Collection[Hop]) -> Shaped | Refusal:
        """Hold a flow to a rate from now on; for a flow that has one, change it.

        A refusal changes nothing: a flow that had a rate keeps it.

        Args:
            flow_id: Whose.
            rate_bps: Bits per second of IP packets; above 0.
            hops: All that its sockets send to, each once; at least one.

        Returns:
            What its packets are to be given; or ERROR_NOT_SUPPORTED where an interface on the way
            cannot shape, ERROR_HOST_UNREACHABLE without a route, ERROR_NO_SYSTEM_RESOURCES when
            all leaves are in use, ERROR_ACCESS_DENIED without CAP_NET_ADMIN.
        """
        old = self._flows.get(flow_id)
        if (
            old is not None
            and isinstance(old.outcome, DepartureTimes | Leaf)
            and old.rate_bps == rate_bps
            and old.ways.keys() == set(hops)
        ):
            return old.outcome
        wanted = _Flow(rate_bps)
        if old is not None:
            wanted.ways = {hop: old.ways[hop] for hop in hops if hop in old.ways}
        outcome = self._carry_out(flow_id, wanted, hops)
        if not isinstance(outcome, Refusal):
            self._flows[flow_id] = wanted
        elif old is not None and isinstance(old.outcome, Leaf):
            # It may have been re-rated before something else failed.
            self._give(flow_id, old)
        else:
            self._leaves.free(flow_id)
        return outcome

    def end(self, flow_id: int) -> None:
        """Hold a flow to no rate any more; harmless for one that is not held.

        What waits leaves at the rate that it had, and later packets overtake it.
        """
        self._flows.pop(flow_id, None)
        self._leaves.free(flow_id)

    def _carry_out(self, flow_id: int, flow: _Flow, hops: Collection[Hop]) -> Shaped | Refusal:
        """Find a flow's ways and give it its rate there; the outcome is noted."""
        refusal = self._find_ways(flow, hops)
        flow.outcome = self._give(flow_id, flow) if refusal is None else refusal
        return flow.outcome

    def _find_ways(self, flow: _Flow, hops: Collection[Hop]) -> Refusal | None:
        missing = [hop for hop in hops if not flow.ways.get(hop)]
        if not missing and not flow.ways:
            return Refusal(
                ErrorCode.ERROR_NOT_SUPPORTED,
                "a rate is held where packets leave, so a flow needs a destination: name one when "
                "the socket is added",
            )
        try:
            found = self._ways.towards(missing) if missing else ()
        except OSError as error:
            return refusal_of_os_error(error, "routes cannot be looked up")
        for hop, way in zip(missing, found, strict=True):
            if isinstance(way, OSError):
                address = address_text(hop.packed)
                return Refusal(
                    ErrorCode.ERROR_HOST_UNREACHABLE,
                    f"no route to {address} ({way.strerror}): see that the host has one (ip route "
                    f"get {address})",
                )
            flow.ways[hop] = way
        return None

    def _find_ways_anew(self, flow: _Flow) -> Refusal | None:
        """Find out by which interfaces a flow leaves now."""
        # Which hops there are must not be forgotten with their ways.
        flow.ways = dict.fromkeys(flow.ways, _NO_WAY)
        return self._find_ways(flow, tuple(flow.ways))

    def _give(self, flow_id: int, flow: _Flow) -> Shaped | Refusal:
        """Give a flow its rate at the interfaces of its ways."""
        try:
            outcome = self._try_to_give(flow_id, flow)
        except OSError as error:
            if error.errno not in _CHANGED:
                return refusal_of_os_error(error, "a rate cannot be set")
            # The root is not any more what it was; see what it is.
            for interface in set(flow.ways.values()):
                self._forget(interface)
            refusal = self._find_ways_anew(flow) if error.errno == errno.ENODEV else None
            if refusal is not None:
                return refusal
            try:
                outcome = self._try_to_give(flow_id, flow)
            except OSError as second:
                return Refusal(
                    ErrorCode.ERROR_NOT_SUPPORTED,
                    "the kernel lacks a queue that a pool is made of, or somebody keeps taking it "
                    f"away: see that the modules sch_htb and sch_tbf are there ({second.strerror})",
                )
        return outcome

    def _try_to_give(self, flow_id: int, flow: _Flow) -> Shaped | Refusal:
        horizons_ns = []
        pools: list[Outlet] = []
        interfaces = sorted(set(flow.ways.values()))
        for interface in interfaces:
            known = self._prepare(interface)
            if isinstance(known, Refusal):
                return known
            outlet, means = known
            if isinstance(means, DepartureTimes):
                horizons_ns.append(means.horizon_ns)
            else:
                pools.append(outlet)
        if not pools:
            self._leaves.free(flow_id)
            return DepartureTimes(min(horizons_ns))
        if len(interfaces) > 1:
            return Refusal(
                ErrorCode.ERROR_NOT_SUPPORTED,
                f"the flow leaves by {len(interfaces)} interfaces, and {pools[0].name} cannot hold "
                "it to one rate together with others: use one flow for each, or run fq on all of "
                f"them (tc qdisc replace dev {pools[0].name} root fq)",
            )
        (outlet,) = pools
        least_bps = least_rate_bps(outlet)
        if flow.rate_bps < least_bps:
            return Refusal(
                ErrorCode.ERROR_NOT_SUPPORTED,
                f"{outlet.name} cannot hold a flow to less than {least_bps} bit/s: ask for more",
            )
        classid = self._leaves.allocate(flow_id)
        if isinstance(classid, Refusal):
            return classid
        self._leaves.put(outlet, classid, flow.rate_bps)
        return Leaf(classid)

    def _prepare(self, interface: int) -> tuple[Outlet, Means] | Refusal:
        known = self._known.get(interface)
        if known is not None:
            return known
        outlet = self._ways.outlet(interface)
        if outlet is None:
            return Refusal(
                ErrorCode.ERROR_ADAP_HDW_ERR,
                "the interface that the flow leaves by is gone: try again when there is a route",
            )
        means = self._queues.prepare(outlet)
        if isinstance(means, Refusal):
            return means
        self._known[interface] = (outlet, means)
        return outlet, means

    def _forget(self, interface: int) -> None:
        self._known.pop(interface, None)
        self._leaves.forget(interface)

    def reconcile(self) -> Mapping[int, Shaped | Refusal]:
        """Bring back what others changed, and follow routes.

        Returns:
            The flows whose outcome is another one now, refusals among them.

        Raises:
            OSError: The kernel could not be asked.
        """
        have_moved = self._ways.have_changed()
        stale = self._stale(have_moved=have_moved)
        for interface in stale:
            self._forget(interface)
        rates = {
            outlet.index: self._leaves.rates(outlet.index)
            for outlet, means in self._known.values()
            if means == "pool"
        }
        changed: dict[int, Shaped | Refusal] = {}
        for flow_id, flow in self._flows.items():
            before = flow.outcome
            is_lost = have_moved or _NO_WAY in flow.ways.values()
            refusal = self._find_ways_anew(flow) if is_lost else None
            if refusal is not None:
                flow.outcome = refusal
            elif self._is_wrong(flow, stale, rates, have_moved=have_moved):
                flow.outcome = self._give(flow_id, flow)
            if flow.outcome is not None and flow.outcome != before:
                changed[flow_id] = flow.outcome
        return changed

    def _stale(self, *, have_moved: bool) -> set[int]:
        """Interfaces that are not any more what they were found to be."""
        if not self._known:
            return set()
        queues = self._driver.queues()
        stale = set()
        for interface, (outlet, means) in self._known.items():
            here = [queue for queue in queues if queue.interface == interface]
            if means_of(here) != means or (have_moved and self._ways.outlet(interface) != outlet):
                stale.add(interface)
        return stale

    def _is_wrong(
        self,
        flow: _Flow,
        stale: Collection[int],
        rates: Mapping[int, Mapping[int, int]],
        *,
        have_moved: bool,
    ) -> bool:
        """Is a flow perhaps not held to its rate?"""
        outcome = flow.outcome
        if isinstance(outcome, Refusal) or have_moved:
            return True
        if any(way in stale for way in flow.ways.values()):
            return True
        if isinstance(outcome, Leaf):
            rate = bytes_per_s(flow.rate_bps)
            return any(
                rates.get(way, {}).get(outcome.classid) != rate for way in flow.ways.values()
            )
        return False

    def observe(self) -> Mapping[int, int]:
        """What flows are held to at this moment, as the kernel has it: bits per second.

        A flow that is not held to any rate is missing. Departure times are the program's; here
        counts that the queue on the way honours them.

        Raises:
            OSError: The kernel could not be asked.
        """
        queues = self._driver.queues()
        held: dict[int, int] = {}
        rates: dict[int, Mapping[int, int]] = {}
        for flow_id, flow in self._flows.items():
            interfaces = set(flow.ways.values())
            means = [
                means_of([queue for queue in queues if queue.interface == interface])
                for interface in interfaces
            ]
            if isinstance(flow.outcome, Leaf) and means == ["pool"]:
                (interface,) = interfaces
                if interface not in rates:
                    rates[interface] = self._leaves.rates(interface)
                rate = rates[interface].get(flow.outcome.classid)
                if rate is not None:
                    held[flow_id] = rate * 8
            elif isinstance(flow.outcome, DepartureTimes) and all(
                isinstance(each, DepartureTimes) for each in means
            ):
                held[flow_id] = flow.rate_bps
        return held

    def clean_up(self) -> None:
        """Take away all that is ours, of a former process too; what waits there is lost.

        Raises:
            OSError: The kernel refused for an interface; the others are as they were before.
        """
        self._flows.clear()
        self._known.clear()
        self._leaves = Leaves(self._driver)
        self._queues.clean_up()
