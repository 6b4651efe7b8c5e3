"""Plans into the maps of the kernel's program.

**A flow is a slot.** Its treatment stands there once, however many sockets and destinations lead
to it, and so does its meter: what several sockets share is shared. A flow's change of type is one
write; a plan that lists ten thousand destinations costs only those that are new or gone.

**What leads there.** A TCP socket has one peer, so all that it sends goes to the slot of its flow.
A UDP socket can send to anybody, also a connected one once it is connected elsewhere; so each of
its destinations has an entry of its own, and what it sends to others is not touched.

**Order.** A treatment is written before anything leads to it, and a slot is free only when nothing
does any more. New ways are made before old ones are taken away. So a packet that leaves in the
middle of a change has the old marks or the new ones, and never none.

**All or nothing.** Each step leaves behind how it is undone. Slots whose flows have ended are freed
when the whole of a plan is done, so that undoing it does not lose their counters.

**Rates.** Excess that is re-marked is the program's own work. Excess that is delayed is what the
queues can hold back (`openqwave.enforcement.shaping`), which have to know all that a flow sends to.

**Namespaces.** The program is at the exit of the interfaces of one network namespace; whose sockets
those are is the caller's to know (`openqwave.enforcement.choice`).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.enforcement.bpf.ways import (
    NOWHERE,
    Flow,
    Ways,
    as_asked,
    changed_hops,
    differing,
    explained,
    moves,
)
from openqwave.enforcement.bpf.words import COUNTS, NAME, OVER, full_tables
from openqwave.enforcement.shaping.queues import DepartureTimes
from openqwave.enforcement.shaping.shapers import Leaf
from openqwave.model.errors import Refusal
from openqwave.model.flow import UNTOUCHED, Transport, Treatment
from openqwave.subsystem.effects import Applied

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from openqwave.enforcement.bpf.presence import Presence
    from openqwave.enforcement.bpf.programs import ClaimedPrograms
    from openqwave.enforcement.bpf.table import FlowTable
    from openqwave.enforcement.shaping.shapers import Shaped, Shapers
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.traffic import FlowTraffic
    from openqwave.subsystem.effects import Share, SocketPlan

_log = logging.getLogger("openqwave.service")

# The outcome of nearly every plan.
_ALL_APPLIED: Final = Applied()

_Undo: TypeAlias = "list[Callable[[], object]]"


class DataPlane:
    """The backend that has a program in the kernel.

    Attributes:
        programs: Treats programs that ask for nothing.
    """

    name = NAME

    def __init__(
        self,
        table: FlowTable,
        presence: Presence,
        shapers: Shapers,
        programs: ClaimedPrograms | None = None,
    ) -> None:
        """Start with empty tables.

        Args:
            table: The program's tables.
            presence: Keeps the program where packets leave, and hears of sockets that close.
            shapers: Holds flows to rates.
            programs: Treats programs that ask for nothing, in the same tables.
        """
        self._table = table
        self._presence = presence
        self._shapers = shapers
        self.programs = programs
        self._flows: dict[int, Flow] = {}
        self._of_slot: dict[int, Flow] = {}
        self._ways: dict[int, Ways] = {}
        # Flows to which no socket leads, any more or yet; those that give up their rate; and those
        # that have lost a socket.
        self._idle: set[int] = set()
        self._unrated: set[int] = set()
        self._narrowed: set[int] = set()
        self._is_over = False

    # -- plans ------------------------------------------------------------------------

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:
        """See `openqwave.enforcement.backend.Backend.apply`.

        Returns:
            ERROR_NO_SYSTEM_RESOURCES when the tables are full, and what
            `openqwave.enforcement.shaping` refuses.
        """
        if self._is_over:
            return OVER
        undo: _Undo = []
        try:
            refused = self._bring(plans, undo)
        except OSError as error:
            refused = full_tables(error)
        while refused is not None and undo:
            try:
                undo.pop()()
            except OSError as error:
                detail = f"{refused.detail}; and undoing it failed: {error}"
                refused = Refusal(refused.code, detail)
        if refused is None:
            self._settle_rates()
        self._unrated.clear()
        self._narrowed.clear()
        self._free_idle()
        return _ALL_APPLIED if refused is None else refused

    def _bring(self, plans: tuple[SocketPlan, ...], undo: _Undo) -> Refusal | None:
        treated: set[int] = set()
        for plan in plans:
            slots: list[int] = []
            for share in plan.shares:
                flow = self._flow_of(share.flow_id)
                slots.append(flow.slot)
                if flow.flow_id not in treated:
                    treated.add(flow.flow_id)
                    refusal = self._treat(flow, share, plans, undo)
                    if refusal is not None:
                        return refusal
            if plan.transport is Transport.TCP and len(slots) == 1:
                wanted = Ways(slots[0], {}, plan.shares[0].destinations, plan.interface)
            else:
                each = zip(slots, plan.shares, strict=True)
                ends = {slot: share.destinations for slot, share in each}
                wanted = Ways(None, ends, interface=plan.interface if ends else 0)
            if wanted != self._ways.get(plan.cookie, NOWHERE):
                self._lead(plan.cookie, wanted, undo)
        return None

    def _flow_of(self, flow_id: int) -> Flow:
        flow = self._flows.get(flow_id)
        if flow is None:
            slot = self._table.new_slot()
            flow = self._flows[flow_id] = self._of_slot[slot] = Flow(flow_id, slot)
            self._idle.add(flow_id)
        return flow

    def _treat(
        self, flow: Flow, share: Share, plans: tuple[SocketPlan, ...], undo: _Undo
    ) -> Refusal | None:
        """Write how a flow's packets are treated."""
        treatment, shaped = share.treatment, None
        if treatment.rate_bps is not None and not treatment.excess_is_remarked:
            outcome = self._shape(flow, treatment, plans, undo)
            if isinstance(outcome, Refusal):
                return outcome
            shaped = outcome
        if flow.treatment != treatment or flow.shaped != shaped:
            if flow.treatment is not None:
                undo.append(partial(self._write, flow, flow.treatment, flow.shaped))
            if flow.is_delayed and shaped is None:
                self._unrated.add(flow.flow_id)
            self._write(flow, treatment, shaped)
        return None

    def _shape(
        self, flow: Flow, treatment: Treatment, plans: tuple[SocketPlan, ...], undo: _Undo
    ) -> Shaped | Refusal | None:
        """Have the queues hold a flow to a rate, wherever it goes when all is done.

        A flow that only has fewer destinations is no reason to refuse, whatever became of the
        queues: what `reconcile` says of them holds, also that they hold it to nothing.
        """
        new, lost = changed_hops(flow, plans, self._ways)
        before = flow.treatment
        rate_bps = None if before is None or not flow.is_delayed else before.rate_bps
        if flow.shaped is not None and rate_bps == treatment.rate_bps and not new and not lost:
            # One more port of thousands of a host is no look at each.
            return flow.shaped
        hops = tuple(flow.hops)
        if rate_bps is None:
            undo.append(partial(self._shapers.end, flow.flow_id))
        else:
            undo.append(partial(self._shapers.grant, flow.flow_id, rate_bps, hops))
        after = [hop for hop in hops if hop not in lost] + new
        outcome = self._shapers.grant(flow.flow_id, treatment.rate_bps or 0, after)
        if isinstance(outcome, Refusal) and treatment == before and not new:
            return flow.shaped
        return outcome

    def _settle_rates(self) -> None:
        """All is done: end the rates that were given up, and let the others know their ways."""
        for flow_id in self._unrated:
            self._shapers.end(flow_id)
        for flow in map(self._flows.get, self._narrowed):
            if flow is not None and flow.sockets and flow.is_delayed and flow.treatment is not None:
                rate_bps = flow.treatment.rate_bps or 0
                self._shapers.grant(flow.flow_id, rate_bps, tuple(flow.hops))

    def _write(self, flow: Flow, treatment: Treatment, shaped: Shaped | None) -> None:
        match shaped:
            case DepartureTimes(horizon_ns=horizon_ns):
                self._table.write_treatment(
                    flow.slot, treatment, is_delayed=True, horizon_ns=horizon_ns
                )
            case Leaf(classid=classid):
                self._table.write_treatment(flow.slot, treatment, classid)
            case _:
                self._table.write_treatment(flow.slot, treatment)
        flow.treatment, flow.shaped, flow.unshaped = treatment, shaped, ""

    def _lead(self, cookie: int, wanted: Ways, undo: _Undo) -> None:
        """Let what a socket sends go where it is wanted."""
        held = self._ways.get(cookie, NOWHERE)
        now, then = differing(held, wanted), differing(wanted, held)
        undo.append(partial(self._bring_way, cookie, wanted, held, then, now))
        self._bring_way(cookie, held, wanted, now, then)

    def _bring_way(
        self,
        cookie: int,
        before: Ways,
        after: Ways,
        now: Mapping[Endpoint, int],
        then: Mapping[Endpoint, int],
    ) -> None:
        """Change what leads from a socket; does no harm where part of it was done before.

        Args:
            cookie: The socket.
            before: What leads from it, or what was to.
            after: What is to.
            now: Of the destinations that change, where they lead before.
            then: Where they lead afterwards.
        """
        put = {end: slot for end, slot in then.items() if now.get(end) != slot}
        drop = [end for end in now if end not in then]
        if put:
            self._table.put_destinations(cookie, put)
        if after.slots():
            self._table.put_socket(cookie, after.default, bool(after.destinations))
        else:
            self._table.drop_socket(cookie)
        if drop:
            self._table.drop_destinations(cookie, drop)
        self._note(cookie, before, after)

    def _note(self, cookie: int, before: Ways, after: Ways) -> None:
        """Remember what leads where."""
        # What is undone may not have been noted.
        held = self._ways.get(cookie, NOWHERE)
        for slot in held.slots() | after.slots():
            ends = after.ends(slot)
            moved = moves(held.ends(slot), held.interface, ends, after.interface)
            self._of_slot[slot].count(moved)
        if after.slots():
            self._ways[cookie] = after
        else:
            self._ways.pop(cookie, None)
        for slot in before.slots() - after.slots():
            flow = self._of_slot[slot]
            flow.sockets.discard(cookie)
            (self._narrowed if flow.sockets else self._idle).add(flow.flow_id)
        for slot in after.slots():
            self._of_slot[slot].sockets.add(cookie)

    def _free_idle(self) -> None:
        """Free the slots of flows to which no socket leads."""
        while self._idle:
            flow = self._flows[self._idle.pop()]
            if not flow.sockets:
                if flow.is_delayed:
                    self._shapers.end(flow.flow_id)
                del self._flows[flow.flow_id], self._of_slot[flow.slot]
                self._table.free_slot(flow.slot)

    # -- what is in force -------------------------------------------------------------

    def observe(self) -> Mapping[int, Treatment]:
        """What the kernel's tables say, by socket: what becomes of its newest flow.

        Raises:
            OSError: They cannot be read.
        """
        if self._is_over:
            return {}
        entries = self._table.entries()
        slots: dict[int, set[int]] = {
            cookie: set() if default is None else {default}
            for cookie, (default, _) in entries.sockets.items()
        }
        for (cookie, _), slot in entries.destinations.items():
            # Those of a socket that is closed lead nowhere any more.
            if cookie in slots and entries.sockets[cookie][1]:
                slots[cookie].add(slot)
        treatments = self._table.read_treatments(set().union(*slots.values()))
        newest = {
            cookie: max(found, key=lambda slot: self._of_slot[slot].flow_id)
            for cookie, found in slots.items()
            if found
        }
        held = self._shapers.observe()
        seen = {
            cookie: as_asked(treatments[slot], self._of_slot[slot], held)
            for cookie, slot in newest.items()
        }
        return {cookie: treatment for cookie, treatment in seen.items() if treatment != UNTOUCHED}

    def tags_at(self, interface: int) -> bool:
        """See `openqwave.enforcement.backend.Backend.tags_at`."""
        return self._presence.tags_at(interface)

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """See `openqwave.enforcement.backend.Backend.traffic`.

        Raises:
            OSError: The tables cannot be read.
        """
        flows = {flow.slot: flow for flow in map(self._flows.get, flow_ids) if flow is not None}
        counted = self._table.read_meters(flows)
        return {flow.flow_id: counted[slot] for slot, flow in flows.items()}

    def explain(self, cookie: int) -> tuple[str, str]:
        """See `openqwave.enforcement.backend.Backend.explain`."""
        flows = [self._of_slot[slot] for slot in self._ways.get(cookie, NOWHERE).slots()]
        # Several flows of a socket may have rates of different kinds.
        parts = {part: None for flow in flows for part in explained(flow)}
        return self.name, " ".join(parts) or COUNTS

    def take_gone(self) -> Collection[int]:
        """See `openqwave.enforcement.backend.Backend.take_gone`."""
        return self._presence.take_gone(self._is_stream)

    def outlives(self, cookie: int) -> bool:
        """See `openqwave.enforcement.backend.Backend.outlives`."""
        return self._presence.lingers(cookie)

    def _is_stream(self, cookie: int) -> bool:
        return self._ways.get(cookie, NOWHERE).default is not None

    def reconcile(self) -> None:
        """See `openqwave.enforcement.backend.Backend.reconcile`.

        Raises:
            OSError: The kernel could not be asked.
        """
        self._presence.reconcile()
        changed = self._shapers.reconcile()
        for flow_id, outcome in changed.items():
            flow = self._flows.get(flow_id)
            # Claims are held to rates by the same queues.
            if flow is None or flow.treatment is None:
                continue
            if isinstance(outcome, Refusal):
                _log.warning("flow %d is not held to its rate: %s", flow_id, outcome.detail)
                self._write(flow, flow.treatment, None)
                flow.unshaped = outcome.detail
            else:
                self._write(flow, flow.treatment, outcome)
        if self.programs is not None:
            self.programs.reconcile(changed)

    def clean_up(self) -> None:
        """Leave nothing in the kernel. There is no way back: the program is gone.

        Raises:
            OSError: A queue could not be taken away.
        """
        self._flows.clear()
        self._of_slot.clear()
        self._ways.clear()
        self._is_over = True
        if self.programs is not None:
            self.programs.close()
        try:
            self._presence.close()
        finally:
            self._shapers.clean_up()
