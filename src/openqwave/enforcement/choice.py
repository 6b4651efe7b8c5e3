"""Which mechanism carries out what is wanted of a socket, found out at the start, with reasons.

The best first: the kernel's program (`openqwave.enforcement.bpf`), which marks by destination,
meters, shapes and counts; a table of rules (`openqwave.enforcement.nft`), which marks by
destination; the options of the sockets themselves, which need no rights. What cannot be had is
remembered with the reason, for whoever asks.

**One mechanism marks a socket.** Where the program or the table does, the socket's own options stay
as the application made them. Setting them, too, where a socket has one flow would spare nothing:
the program looks at every packet anyway. But options mark all that an unconnected socket sends,
also to those who are in no flow; they need the socket's descriptor for each change; and after a
crash they stay on a socket that lives on, where a program is gone with its process.

**TCP is paced by its socket**, whoever marks it: the kernel's TCP holds itself to a rate without a
queue in between (`openqwave.enforcement.pacing`). So the plan for a TCP socket under contract has
two parts, and either both are in force or neither. An option holds one socket. Where a flow has
several, and what is in the kernel can hold it to its rate, that does, TCP or not: one rate for all
of them.

**Sockets of other network namespaces** than the service's leave through interfaces where it has
nothing. They are marked by options, and so are those whose namespace the kernel does not tell
(before Linux 5.14).

**A table knows addresses, not sockets**, and cannot tell what a socket sends that has no port yet.
Options can; so a socket that such a mechanism refuses is marked by them, from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.enforcement.missing import MechanismMissing
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import Transport, Treatment
from openqwave.model.value import value
from openqwave.subsystem.effects import Applied, SocketPlan

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from openqwave.enforcement.backend import Backend
    from openqwave.enforcement.wishes import Mechanism, Wishes
    from openqwave.model.traffic import FlowTraffic
    from openqwave.subsystem.effects import Share

# What the configuration calls each, from the best on.
_FIRST: Final = "it is the best that can be had here"
_NAMED: Final = "the configuration names it"
_NO_NAMESPACES: Final = (
    "the kernel does not tell in which network namespace a socket is; Linux 5.14 does"
)
_BY_TCP: Final = "the kernel's TCP paces by SO_MAX_PACING_RATE"
_BY_FQ: Final = "the fq queue paces by SO_MAX_PACING_RATE"
_UNTOLD: Final = "a table of rules cannot tell the packets of this socket"
_ALL: Final = frozenset(Transport)
_ELSEWHERE: Final = "the socket is in another network namespace than the service"

# Makes a mechanism; raises `MechanismMissing`.
Maker: TypeAlias = "Callable[[], Backend]"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mechanism that may be had.

    Attributes:
        mechanism: What the configuration calls it.
        make: Makes it, and attaches it to the kernel.
        paced_by_socket: Sockets of these protocols are held to a rate by an option.
        knows_sockets: Whether it can tell the packets of any socket.
    """

    mechanism: Mechanism
    make: Maker
    paced_by_socket: frozenset[Transport]
    knows_sockets: bool = True


def choose(
    wishes: Wishes, options: Backend, candidates: Sequence[Candidate], *, namespace: int
) -> Chosen:
    """Take the first mechanism that can be had, or the one that is named.

    Args:
        wishes: What the configuration says.
        options: Options of sockets, which can always be had.
        candidates: What may be had beside them, from the best on.
        namespace: The network namespace of the service; 0 where the kernel has no name for it.

    Raises:
        MechanismMissing: The one that is named cannot be had.
    """
    missing: list[str] = []
    named = wishes.backend != "auto"
    for candidate in candidates:
        if named and candidate.mechanism != wishes.backend:
            continue
        try:
            if not namespace:
                raise MechanismMissing(_NO_NAMESPACES)
            plane = candidate.make()
        except MechanismMissing as error:
            missing.append(f"{candidate.mechanism} cannot be had: {error}")
            if named:
                raise
        else:
            why = _NAMED if named else "; ".join(missing) or _FIRST
            return Chosen(options, plane, candidate, namespace, why)
    return Chosen(options, None, None, namespace, _NAMED if named else "; ".join(missing))


@value
class _Parts:
    """One socket's plan, divided; None where a mechanism has nothing to do with it."""

    plane: SocketPlan | None
    options: SocketPlan | None


class Chosen:
    """The backend of the service: what is in the kernel, and the options of sockets beside it.

    Attributes:
        reason: Why it is that mechanism.
        plane: What is in the kernel; None where nothing is.
    """

    def __init__(
        self,
        options: Backend,
        plane: Backend | None,
        candidate: Candidate | None,
        namespace: int,
        reason: str,
    ) -> None:
        """Put the mechanisms together.

        Args:
            options: Options of sockets.
            plane: What is in the kernel; None where nothing is.
            candidate: What is known of that; None likewise.
            namespace: The network namespace in which it is.
            reason: Why it is that mechanism.
        """
        self._options = options
        self.plane = plane
        self._paced_by_socket = candidate.paced_by_socket if candidate else frozenset()
        self._knows_sockets = candidate is None or candidate.knows_sockets
        self._plane_has_rates = self._paced_by_socket != _ALL
        self._namespace = namespace
        self.reason = reason
        # What is in force, as it was asked for.
        self._plans: dict[int, SocketPlan] = {}
        # Sockets that the plane has refused.
        self._refused: set[int] = set()

    @property
    def name(self) -> str:
        """See `openqwave.enforcement.backend.Backend.name`."""
        return self._options.name if self.plane is None else self.plane.name

    # -- plans ------------------------------------------------------------------------

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:
        """See `openqwave.enforcement.backend.Backend.apply`."""
        plane = self.plane
        if plane is None:
            return self._options.apply(plans)
        for_plane: list[SocketPlan] = []
        for_options: list[SocketPlan] = []
        for plan in plans:
            parts = self._divide(plan)
            if parts.plane is not None:
                for_plane.append(parts.plane)
            if parts.options is not None:
                for_options.append(parts.options)
        applied = plane.apply(tuple(for_plane))
        if isinstance(applied, Refusal):
            return self._try_options(plans, applied)
        if for_options:
            outcome = self._options.apply(tuple(for_options))
            if isinstance(outcome, Refusal):
                return self._undo(plane, for_plane, outcome)
            applied = Applied(applied.gone | outcome.gone, applied.untagged | outcome.untagged)
        for plan in plans:
            if plan.shares:
                self._plans[plan.cookie] = plan
            else:
                self._forget(plan.cookie)
        if applied.gone:
            plane.apply(tuple([SocketPlan(cookie, ()) for cookie in applied.gone]))
            for cookie in applied.gone:
                self._forget(cookie)
        return applied

    def _forget(self, cookie: int) -> None:
        self._plans.pop(cookie, None)
        self._refused.discard(cookie)

    def _try_options(self, plans: tuple[SocketPlan, ...], refused: Refusal) -> Applied | Refusal:
        """Have new sockets marked by options, where the plane cannot tell their packets."""
        if (
            self._knows_sockets
            or refused.code is not ErrorCode.ERROR_NOT_SUPPORTED
            or any(plan.cookie in self._plans or not plan.shares for plan in plans)
        ):
            return refused
        outcome = self._options.apply(plans)
        if isinstance(outcome, Refusal):
            return refused
        for plan in plans:
            if plan.cookie not in outcome.gone:
                self._plans[plan.cookie] = plan
                self._refused.add(plan.cookie)
        return outcome

    def _undo(self, plane: Backend, written: Sequence[SocketPlan], refused: Refusal) -> Refusal:
        """Bring the kernel back to what it was; options have undone theirs."""
        before = [self._divide_in_force(plan.cookie).plane for plan in written]
        outcome = plane.apply(
            tuple(
                [
                    plan or SocketPlan(now.cookie, ())
                    for plan, now in zip(before, written, strict=True)
                ]
            )
        )
        if isinstance(outcome, Refusal):
            detail = f"{refused.detail}; and undoing it in the kernel failed: {outcome.detail}"
            return Refusal(refused.code, detail)
        return refused

    def _divide(self, plan: SocketPlan) -> _Parts:
        """A plan's parts; with what ends where an earlier plan had one that this has not."""
        before = self._divide_in_force(plan.cookie)
        if not plan.shares:
            nothing = SocketPlan(plan.cookie, ())
            # Options may owe something to a socket of which nothing is known here.
            return _Parts(
                None if before.plane is None else nothing,
                nothing if before.options is not None or before.plane is None else None,
            )
        parts = self._parts_of(plan)
        if parts.options is None and before.options is not None:
            return _Parts(parts.plane, SocketPlan(plan.cookie, ()))
        return parts

    def _divide_in_force(self, cookie: int) -> _Parts:
        plan = self._plans.get(cookie)
        return _Parts(None, None) if plan is None else self._parts_of(plan)

    def _parts_of(self, plan: SocketPlan) -> _Parts:
        if plan.namespace != self._namespace or plan.cookie in self._refused:
            return _Parts(None, plan)
        if plan.transport not in self._paced_by_socket:
            return _Parts(plan, None)
        delayed = [share for share in plan.shares if _is_delayed(share)]
        if not delayed:
            return _Parts(plan, None)
        if self._plane_has_rates and any(share.sockets_in_flow > 1 for share in delayed):
            return _Parts(plan, None)
        marks, rates = [], []
        for share in plan.shares:
            treatment = share.treatment
            marks.append(replace(share, treatment=replace(treatment, rate_bps=None)))
            rates.append(replace(share, treatment=Treatment(rate_bps=treatment.rate_bps)))
        return _Parts(replace(plan, shares=tuple(marks)), replace(plan, shares=tuple(rates)))

    # -- what is in force -------------------------------------------------------------

    def observe(self) -> Mapping[int, Treatment]:
        """See `openqwave.enforcement.backend.Backend.observe`."""
        found = dict(self._options.observe())
        if self.plane is not None:
            for cookie, treatment in self.plane.observe().items():
                paced = found.get(cookie)
                found[cookie] = (
                    treatment if paced is None else replace(treatment, rate_bps=paced.rate_bps)
                )
        return found

    def tags_at(self, interface: int) -> bool:
        """See `openqwave.enforcement.backend.Backend.tags_at`."""
        return self.plane is not None and self.plane.tags_at(interface)

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """See `openqwave.enforcement.backend.Backend.traffic`."""
        return (self.plane or self._options).traffic(flow_ids)

    def explain(self, cookie: int) -> tuple[str, str]:
        """See `openqwave.enforcement.backend.Backend.explain`."""
        plan = self._plans.get(cookie)
        if self.plane is None or plan is None:
            return self._options.explain(cookie)
        parts = self._parts_of(plan)
        if parts.plane is None:
            name, how = self._options.explain(cookie)
            why = _UNTOLD if cookie in self._refused else _ELSEWHERE
            return name, f"{how}; {why}"
        name, how = self.plane.explain(cookie)
        if parts.options is not None:
            how += f"; {_BY_TCP if plan.transport is Transport.TCP else _BY_FQ}"
        return name, how

    def take_gone(self) -> Collection[int]:
        """See `openqwave.enforcement.backend.Backend.take_gone`."""
        return () if self.plane is None else self.plane.take_gone()

    def outlives(self, cookie: int) -> bool:
        """See `openqwave.enforcement.backend.Backend.outlives`."""
        return self.plane is not None and self.plane.outlives(cookie)

    def reconcile(self) -> None:
        """See `openqwave.enforcement.backend.Backend.reconcile`."""
        if self.plane is not None:
            self.plane.reconcile()

    def clean_up(self) -> None:
        """See `openqwave.enforcement.backend.Backend.clean_up`."""
        try:
            self._options.clean_up()
        finally:
            if self.plane is not None:
                self.plane.clean_up()
        self._plans.clear()
        self._refused.clear()


def _is_delayed(share: Share) -> bool:
    """Are packets above a rate to wait, rather than to be marked otherwise?"""
    return share.treatment.rate_bps is not None and not share.treatment.excess_is_remarked
