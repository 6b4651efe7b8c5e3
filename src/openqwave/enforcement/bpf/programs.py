"""Claims carried out: programs that ask for nothing are marked, held to rates and counted.

Each claim has a slot, as a flow has. `carry_out` writes what leads there where the kernel's program
does not read yet, brings all of it in force by one write, and only then frees the slots of claims
that are gone. What fails before that write is undone.

**Rates.** A claim's sockets are not this service's, and their destinations are not known. So its
rate is held by departure times only where every interface that packets may leave by has fq, or by a
leaf of a pool where there is but one interface; else, and where a claim does not want to wait, what
is above the rate is marked as best effort. `reconcile` looks again when interfaces change. What the
host tells itself, over loopback, is marked and counted, and belongs to no rate.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from openqwave.enforcement.bpf.words import (
    BY_FQ,
    BY_LEAF,
    COUNTS,
    MARKS_PROGRAMS,
    METERS,
    NAME,
    OVER,
    full_claims,
)
from openqwave.enforcement.claims import MOST_RULES, Claim, Executable, RuleClaim, RunClaim
from openqwave.enforcement.shaping.queues import DepartureTimes
from openqwave.enforcement.shaping.shapers import Leaf
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import UNTOUCHED
from openqwave.model.queues import Hop

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from openqwave.enforcement.bpf.claimtable import ClaimTable
    from openqwave.enforcement.bpf.creation import Creation
    from openqwave.enforcement.bpf.table import FlowTable
    from openqwave.enforcement.shaping.shapers import Shaped, Shapers
    from openqwave.model.traffic import FlowTraffic

# All hosts of a link: by whichever interface is named, it is the one that packets leave by.
_WHEREVER: Final = socket.inet_aton("224.0.0.1")
_NO_EXIT: Final = "no interface is up"


class InKernel(Protocol):
    """The program's parts; see `openqwave.enforcement.bpf.presence.Presence`."""

    @property
    def table(self) -> FlowTable:
        """Where slots are."""

    @property
    def claims(self) -> ClaimTable:
        """What leads there."""

    @property
    def creation(self) -> Creation:
        """Notes who makes sockets."""

    def outlets(self) -> tuple[int, ...]:
        """The numbers of interfaces that packets may leave this host by."""


@dataclass(slots=True)
class _Held:
    """A claim that has a slot.

    Attributes:
        claim: As it stands there.
        slot: Its number.
        serial: Used for no other claim, before or after.
        run: The number by which sockets are put in it, which no other run has, before or after; 0
            where none can be.
        shaped: How the queues hold it to its rate; None where they do not.
        unshaped: Why they do not, though it wants that; else empty.
    """

    claim: Claim
    slot: int
    serial: int
    run: int = 0
    shaped: Shaped | None = None
    unshaped: str = ""

    @property
    def shaper_id(self) -> int:
        """Flows have numbers above 0."""
        return -self.serial


class ClaimedPrograms:
    """See `openqwave.enforcement.claims.ProgramMarks`."""

    def __init__(self, kernel: InKernel, shapers: Shapers) -> None:
        """Claim nothing yet.

        Args:
            kernel: What of the program's is used.
            shapers: Holds flows and claims to rates.
        """
        self._table = kernel.table
        self._claims = kernel.claims
        self._creation = kernel.creation
        self._exits = kernel
        self._shapers = shapers
        self._held: dict[int, _Held] = {}
        self._serial = 0
        self._rules: tuple[RuleClaim, ...] = ()
        self._runs: tuple[RunClaim, ...] = ()
        self._hops: tuple[Hop, ...] = ()
        self._is_over = False

    @property
    def program_conditions(self) -> str:
        """See `openqwave.enforcement.claims.ProgramMarks.program_conditions`."""
        return self._creation.begin()

    # -- what is wanted -----------------------------------------------------------------

    def carry_out(self, rules: Sequence[RuleClaim], runs: Sequence[RunClaim]) -> Refusal | None:
        """See `openqwave.enforcement.claims.ProgramMarks.carry_out`.

        Raises:
            ValueError: Two claims of one number differ.
        """
        if self._is_over:
            return OVER
        wanted, wanted_runs = tuple(rules), tuple(runs)
        if (wanted, wanted_runs) == (self._rules, self._runs):
            return None
        refusal = self._refusal_of(wanted)
        if refusal is not None:
            return refusal
        claims = _by_number([*[rule.claim for rule in wanted], *[run.claim for run in wanted_runs]])
        undo: list[Callable[[], object]] = []
        try:
            self._bring(claims, wanted, wanted_runs, undo)
        except OSError as error:
            refusal = full_claims(error)
            while undo:
                try:
                    undo.pop()()
                except OSError as second:
                    detail = f"{refusal.detail}; and undoing it failed: {second}"
                    refusal = Refusal(refusal.code, detail)
            return refusal
        self._rules, self._runs = wanted, wanted_runs
        for claim_id in self._held.keys() - {run.claim.claim_id for run in wanted_runs}:
            self._take_no_sockets(self._held[claim_id])
        for claim_id in self._held.keys() - claims.keys():
            self._let_go(self._held.pop(claim_id))
        return None

    def _refusal_of(self, rules: tuple[RuleClaim, ...]) -> Refusal | None:
        if len(rules) > MOST_RULES:
            return Refusal(
                ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
                f"the kernel's program looks at {MOST_RULES} rules for programs, and there are "
                f"{len(rules)}: put several programs or addresses under one, or take some away",
            )
        if any(rule.programs is not None for rule in rules) and self.program_conditions:
            return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, self.program_conditions)
        return None

    def _bring(
        self,
        claims: Mapping[int, Claim],
        rules: tuple[RuleClaim, ...],
        runs: tuple[RunClaim, ...],
        undo: list[Callable[[], object]],
    ) -> None:
        for claim in claims.values():
            if claim.claim_id not in self._held:
                self._begin(claim, undo)
        slots = {claim_id: self._held[claim_id].slot for claim_id in claims}
        for run in runs:
            self._take_sockets(self._held[run.claim.claim_id], undo)
        if rules or runs:
            self._claims.write(
                [(rule, slots[rule.claim.claim_id]) for rule in rules],
                {group: slots[run.claim.claim_id] for run in runs for group in run.groups},
            )
        for claim in claims.values():
            held = self._held[claim.claim_id]
            if held.claim != claim:
                undo.append(partial(self._treat, held, held.claim))
                self._treat(held, claim)
        if rules or runs:
            self._claims.bring_in_force()
        else:
            self._claims.switch_off()

    def _begin(self, claim: Claim, undo: list[Callable[[], object]]) -> None:
        """Give a claim a slot, to which nothing leads yet."""
        self._serial += 1
        held = _Held(claim, self._table.new_slot(), self._serial)
        self._held[claim.claim_id] = held
        undo.append(partial(self._forget, held))
        self._treat(held, claim)

    def _forget(self, held: _Held) -> None:
        del self._held[held.claim.claim_id]
        self._let_go(held)

    def _let_go(self, held: _Held) -> None:
        """Free the slot of a claim, to which nothing leads any more."""
        self._shapers.end(held.shaper_id)
        # Connections that are over may still name it.
        self._table.write_treatment(held.slot, UNTOUCHED)
        self._table.free_slot(held.slot)

    def _take_sockets(self, held: _Held, undo: list[Callable[[], object]]) -> None:
        if not held.run:
            self._serial += 1
            self._claims.put_run(self._serial, held.slot)
            held.run = self._serial
            undo.append(partial(self._take_no_sockets, held))

    def _take_no_sockets(self, held: _Held) -> None:
        if held.run:
            self._claims.drop_run(held.run)
            held.run = 0

    # -- rates --------------------------------------------------------------------------

    def _treat(self, held: _Held, claim: Claim) -> None:
        """Write what becomes of a claim's packets, as its rate can be held now."""
        shaped, unshaped = self._shape(held, claim)
        self._write(held, claim, shaped)
        held.claim, held.shaped, held.unshaped = claim, shaped, unshaped

    def _shape(self, held: _Held, claim: Claim) -> tuple[Shaped | None, str]:
        rate_bps = claim.treatment.rate_bps
        if rate_bps is None or not claim.may_delay:
            self._shapers.end(held.shaper_id)
            return None, ""
        hops = self._hops = self._hops_now()
        outcome = self._shapers.grant(held.shaper_id, rate_bps, hops) if hops else None
        if isinstance(outcome, DepartureTimes | Leaf):
            return outcome, ""
        self._shapers.end(held.shaper_id)
        return None, _NO_EXIT if outcome is None else outcome.detail

    def _hops_now(self) -> tuple[Hop, ...]:
        return tuple(Hop(_WHEREVER, index) for index in self._exits.outlets())

    def _write(self, held: _Held, claim: Claim, shaped: Shaped | None) -> None:
        treatment = replace(claim.treatment, excess_is_remarked=shaped is None)
        match shaped:
            case DepartureTimes(horizon_ns=horizon_ns):
                self._table.write_treatment(
                    *(held.slot, treatment, None, True, horizon_ns), spares_loopback=True
                )
            case Leaf(classid=classid):
                self._table.write_treatment(held.slot, treatment, classid, spares_loopback=True)
            case None:
                self._table.write_treatment(held.slot, treatment, spares_loopback=True)

    def reconcile(self, changed: Collection[int]) -> None:
        """Hold rates as that can be done now.

        Args:
            changed: What the shapers hold otherwise than before, by their numbers.

        Raises:
            OSError: The kernel could not be asked.
        """
        if not self._held:
            return
        have_moved = self._hops_now() != self._hops
        refused: str | None = None
        for held in self._held.values():
            if held.claim.treatment.rate_bps is None or not held.claim.may_delay:
                continue
            if not have_moved and held.shaper_id not in changed:
                # Of those that could not be held to their rates, one says whether it is time.
                if not held.unshaped or held.unshaped == refused:
                    continue
                refused = held.unshaped
            self._treat(held, held.claim)

    # -- sockets ------------------------------------------------------------------------

    def claim_socket(self, fd: int, claim_id: int) -> None:
        """See `openqwave.enforcement.claims.ProgramMarks.claim_socket`."""
        held = self._held.get(claim_id)
        if held is None or not held.run:
            raise OSError(errno.ENOENT, f"there is no run of the number {claim_id}")
        self._claims.set_run(fd, held.run)

    def know_socket(self, fd: int, executable: Executable) -> None:
        """See `openqwave.enforcement.claims.ProgramMarks.know_socket`."""
        self._claims.set_executable(fd, executable)

    # -- what came of it -----------------------------------------------------------------

    def traffic_of(self, claim_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """See `openqwave.enforcement.claims.ProgramMarks.traffic_of`."""
        slots = {
            held.slot: claim_id
            for claim_id in claim_ids
            if (held := self._held.get(claim_id)) is not None
        }
        counted = self._table.read_meters(slots)
        return {claim_id: counted[slot] for slot, claim_id in slots.items()}

    def explain_claim(self, claim_id: int) -> tuple[str, str]:
        """See `openqwave.enforcement.claims.ProgramMarks.explain_claim`."""
        held = self._held.get(claim_id)
        if held is None:
            return "", ""
        treatment = held.claim.treatment
        if treatment.rate_bps is None:
            return NAME, COUNTS if treatment == UNTOUCHED else MARKS_PROGRAMS
        match held.shaped:
            case DepartureTimes():
                how = BY_FQ
            case Leaf():
                how = BY_LEAF
            case None if held.unshaped:
                how = f"{METERS}, because that cannot wait: {held.unshaped}"
            case None:
                how = METERS
        return NAME, f"{MARKS_PROGRAMS} {how}"

    def close(self) -> None:
        """Claim nothing any more; the tables are about to go."""
        self._held.clear()
        self._rules, self._runs = (), ()
        self._is_over = True


def _by_number(claims: Iterable[Claim]) -> dict[int, Claim]:
    found: dict[int, Claim] = {}
    for claim in claims:
        if found.setdefault(claim.claim_id, claim) != claim:
            raise ValueError(f"two claims of the number {claim.claim_id} differ")
    return found
