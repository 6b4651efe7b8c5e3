"""What the engine knows of paths, and who waits to hear of them.

A path is known by the host at its far end. Without a view of it the host cannot be
measured, and everything that needs estimates is refused with ERROR_NOT_SUPPORTED, while
marking and shaping work without admission. With a view, questions are answered from it
and conditions are judged by it; a condition that does not hold yet keeps its request
waiting until a view comes for which it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Fundamentals, PathView
from openqwave.model.flow import NoticeKind
from openqwave.subsystem.effects import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openqwave.model.endpoint import Endpoint
    from openqwave.subsystem.flows import Flow
    from openqwave.subsystem.registry import Handle, Registry


@dataclass(frozen=True, slots=True)
class _Pending:
    """One request that waits for a condition on a flow's path."""

    request_id: int
    flow: Flow
    kind: NoticeKind
    rate_bps: int | None


_ABORTED = Refusal(
    ErrorCode.ERROR_OPERATION_ABORTED, "the operation was cancelled, or its flow or handle ended"
)


class Notices:
    """Path views and pending requests."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._views: dict[Endpoint, PathView] = {}
        # What each flow held when the view of its host came: what was granted since is
        # not in use yet, and so not in the estimate.
        self._held_at_view: dict[Endpoint, dict[int, int]] = {}
        self._pending: dict[int, _Pending] = {}

    def receive_view(self, host: Endpoint, view: PathView | None) -> Iterator[Answer]:
        """A path changed: answer the requests whose condition holds now."""
        host = host.host()
        if view is None:
            self._views.pop(host, None)
        else:
            self._views[host] = view
        self._held_at_view[host] = {
            flow.flow_id: _held_bps(flow) for flow in self._flows_towards(host)
        }
        # Nothing is granted while answers are handed out, so one figure serves all.
        spare_bps = None if view is None else self._spare_bps(host, view)
        for pending in tuple(self._pending.values()):
            if pending.flow.destination().host() != host:
                continue
            if view is None:
                self._forget(pending)
                yield Answer(pending.request_id, self._unmeasurable(pending.flow))
            elif self._holds(pending, view, spare_bps):
                self._forget(pending)
                yield Answer(pending.request_id, None)

    def pending_count(self, owner: int) -> int:
        """How many requests of one process wait."""
        return sum(pending.flow.owner == owner for pending in self._pending.values())

    def ask(
        self, request_id: int, flow: Flow, kind: NoticeKind, rate_bps: int | None
    ) -> bool | Refusal:
        """Does the condition hold? False: not yet, and the request waits from now on."""
        view = self._view(flow)
        if view is None:
            return self._unmeasurable(flow)
        if kind is NoticeKind.AVAILABLE and (rate_bps or 0) <= _held_bps(flow):
            return Refusal(
                ErrorCode.ERROR_INVALID_PARAMETER,
                "ask for a rate above the flow's present contract",
            )
        if kind in flow.pending:
            return Refusal(
                ErrorCode.ERROR_ALREADY_EXISTS,
                "a request of this kind is pending on the flow; cancel it first",
            )
        pending = _Pending(request_id, flow, kind, rate_bps)
        if self._holds(pending, view, self._spare_bps(flow.destination().host(), view)):
            return True
        flow.pending[kind] = request_id
        self._pending[request_id] = pending
        return False

    def cancel(self, handle: Handle, request_id: int) -> Answer | None:
        """Abort one request of a handle; None when it is not pending there."""
        pending = self._pending.get(request_id)
        if pending is None or pending.flow.handle_id != handle.handle_id:
            return None
        self._forget(pending)
        return Answer(request_id, _ABORTED)

    def abort(self, flow: Flow) -> list[Answer]:
        """Abort everything that waits on a flow."""
        if not flow.pending:
            return []
        aborted = [self._pending[request_id] for request_id in flow.pending.values()]
        for pending in aborted:
            self._forget(pending)
        return [Answer(pending.request_id, _ABORTED) for pending in aborted]

    def fundamentals(self, flow: Flow) -> Fundamentals | Refusal:
        """The estimates of the flow's path."""
        view = self._view(flow)
        if view is None:
            return self._unmeasurable(flow)
        if view.fundamentals == Fundamentals():
            return Refusal(ErrorCode.ERROR_NO_DATA, "nothing is known of the path yet")
        return view.fundamentals

    def refuse_rate(self, flow: Flow, rate_bps: int) -> Refusal | None:
        """Can the path carry it? None means yes, or that the path cannot be measured.

        A decrease is always granted; what the flow holds already counts as its own, and
        what others were granted since the path was last seen counts as used.
        """
        view = self._view(flow)
        if view is None or rate_bps <= _held_bps(flow):
            return None
        spare_bps = self._spare_bps(flow.destination().host(), view)
        if spare_bps is None:
            return Refusal(
                ErrorCode.ERROR_RETRY, "not enough is known of the path yet; ask again shortly"
            )
        if rate_bps <= spare_bps + _held_bps(flow):
            return None
        return Refusal(
            ErrorCode.ERROR_NETWORK_BUSY,
            f"the path has {max(0, spare_bps)} bit/s to spare; ask for less, or to be told when "
            f"{rate_bps} bit/s are there",
        )

    def _spare_bps(self, host: Endpoint, view: PathView) -> int | None:
        """What can still be granted towards a host; None while that is not known."""
        available_bps = view.fundamentals.available_bps
        return None if available_bps is None else available_bps - self._granted_since_view(host)

    def _granted_since_view(self, host: Endpoint) -> int:
        before = self._held_at_view[host]
        return sum(
            max(0, _held_bps(flow) - before.get(flow.flow_id, 0))
            for flow in self._flows_towards(host)
        )

    def _flows_towards(self, host: Endpoint) -> list[Flow]:
        return [
            flow
            for flow in self._registry.flows.values()
            if flow.is_adaptive and flow.destination().host() == host
        ]

    def refuse_tracking(self, host: Endpoint) -> Refusal | None:
        """Can the path to the host be measured? None means yes."""
        if host.host() in self._views:
            return None
        return _cannot_measure(host)

    def _view(self, flow: Flow) -> PathView | None:
        return self._views.get(flow.destination().host()) if flow.is_adaptive else None

    def _unmeasurable(self, flow: Flow) -> Refusal:
        if not flow.is_adaptive:
            return Refusal(
                ErrorCode.ERROR_NOT_SUPPORTED, "a non-adaptive flow has no estimates of its path"
            )
        return _cannot_measure(flow.destination())

    @staticmethod
    def _holds(pending: _Pending, view: PathView, spare_bps: int | None) -> bool:
        """Is it so? `spare_bps` is what can still be granted on the path."""
        match pending.kind:
            case NoticeKind.CONGESTED:
                return view.is_congested is True
            case NoticeKind.UNCONGESTED:
                return view.is_congested is False
            case NoticeKind.AVAILABLE:
                wanted_bps = (pending.rate_bps or 0) - _held_bps(pending.flow)
                return spare_bps is not None and wanted_bps <= spare_bps

    def _forget(self, pending: _Pending) -> None:
        del self._pending[pending.request_id]
        del pending.flow.pending[pending.kind]


def _held_bps(flow: Flow) -> int:
    contract = flow.settings.contract
    return 0 if contract is None else contract.rate_bps


def _cannot_measure(host: Endpoint) -> Refusal:
    return Refusal(
        ErrorCode.ERROR_NOT_SUPPORTED,
        f"the path to {host.address} cannot be measured; marking and shaping work without",
    )
