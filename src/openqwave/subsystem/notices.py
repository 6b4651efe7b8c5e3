"""What can be said of a flow's path now: conditions, estimates, admission.

Everything here is asked of what `paths` knows and what the ledger holds; nothing changes by it
but the quote that a flow is given: what is said to be free for it is honoured for a moment, so
that the same rate, asked for at once, is granted unless another flow took it.

**Hysteresis.** The verdict of congestion has its own (`estimate.congestion`). A rate counts as
available only on a path that is not congested, by numbers that were measured since it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Fundamentals, Unmeasurable
from openqwave.model.path import PathStatus
from openqwave.subsystem.path import cannot_measure
from openqwave.subsystem.pending import Want

if TYPE_CHECKING:
    from openqwave.admission.ledger import Ledger
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.estimates import Congestion, PathView
    from openqwave.subsystem.flows import Flow
    from openqwave.subsystem.path import Path
    from openqwave.subsystem.paths import Paths
    from openqwave.subsystem.pending import Pending
    from openqwave.subsystem.quotas import Quotas

ABORTED: Final = Refusal(
    ErrorCode.ERROR_OPERATION_ABORTED, "the operation was cancelled, or its flow or handle ended"
)
RETRY: Final = Refusal(
    ErrorCode.ERROR_RETRY, "not enough is known of the path yet; ask again shortly"
)
_NO_DATA: Final = Refusal(ErrorCode.ERROR_NO_DATA, "nothing is known of the path yet")


class Notices:
    """Answers from what is known; see the module's text."""

    def __init__(self, paths: Paths, ledger: Ledger, quotas: Quotas) -> None:
        self._paths = paths
        self._ledger = ledger
        self._quotas = quotas

    def refuse_waiting(self, flow: Flow) -> Refusal | None:
        """Could a condition on the flow's path ever be noticed? None means yes."""
        if not flow.is_adaptive:
            return _not_adaptive()
        path = self._paths.of_flow(flow)
        obstacle = path.obstacle
        if (
            isinstance(obstacle, Refusal)
            and obstacle.code is ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY
        ):
            # Every other trouble of a path may pass.
            return obstacle
        return None if path.is_measurable else unmeasurable(path)

    def holds(self, pending: Pending, now_ns: int) -> bool:
        """Is it so now? What is said to be available is promised for a moment."""
        flow = pending.flow
        match pending.want:
            case Want.CONGESTED:
                return self._paths.congestion_of(flow).is_congested is True
            case Want.UNCONGESTED:
                return self._paths.congestion_of(flow).is_congested is False
            case Want.AVAILABLE:
                path = self._paths.of_flow(flow)
                # What is remembered of a path that is not measured now promises nothing.
                spare_bps = None if path.obstacle else self._spare_bps(path, now_ns)
                if spare_bps is None:
                    return False
                if pending.rate_bps - flow.held_bps > self._allowed(flow, path, spare_bps, now_ns):
                    return False
                self._quote(flow, path, now_ns)
                return True
        return False

    def fundamentals(
        self, flow: Flow, now_ns: int, *, is_own: bool = True
    ) -> Fundamentals | Refusal:
        """The estimates of the flow's path; available is what is free beyond all contracts."""
        if not flow.is_adaptive:
            return _not_adaptive()
        path = self._paths.of_flow(flow)
        view = self._paths.view_of(path, now_ns)
        if view is None:
            if isinstance(path.obstacle, Unmeasurable):
                return unmeasurable(path)
            return path.obstacle or _NO_DATA
        return self.fundamentals_of(flow, path, view, now_ns, is_own=is_own)

    def fundamentals_of(
        self, flow: Flow, path: Path, view: PathView, now_ns: int, *, is_own: bool = True
    ) -> Fundamentals | Refusal:
        """The same from a view that is there."""
        known = view.fundamentals
        if known == Fundamentals():
            # Numbers that experiments claim nothing of come with a time; a path that has told
            # nothing yet has none.
            return _NO_DATA if view.since_ns is None else RETRY
        spare_bps = self._ledger.spare_of(path.links)
        if known.available_bps is None or spare_bps is None:
            return known
        if is_own:
            self._quote(flow, path, now_ns)
        spare_bps = max(0, self._allowed(flow, path, spare_bps, now_ns))
        return Fundamentals(known.bottleneck_bps, spare_bps, known.rtt_ns)

    def _allowed(self, flow: Flow, path: Path, spare_bps: int, now_ns: int) -> int:
        """What of that which is spare policy lets the flow have."""
        room_bps = self._quotas.room_bps(flow, path, now_ns)
        return spare_bps if room_bps is None else min(spare_bps, room_bps)

    def _quote(self, flow: Flow, path: Path, now_ns: int) -> None:
        flow.quote = self._ledger.quote(path.links, now_ns=now_ns, capacity_bps=path.capacity_bps)

    def status(self, flow: Flow, now_ns: int) -> PathStatus:
        """Everything that is believed of a flow's path; congested is also what the flow is."""
        path = self._paths.of_flow(flow)
        return self.path_status(path, self._paths.congestion_of(flow), now_ns)

    def path_status(self, path: Path, congestion: Congestion, now_ns: int) -> PathStatus:
        """Everything that is believed of a path, with a verdict of congestion."""
        view = self._paths.view_of(path, now_ns)
        obstacle = path.obstacle
        return PathStatus(
            path.host,
            path.facts,
            Fundamentals() if view is None else view.fundamentals,
            None if view is None else view.available_low_bps,
            0.0 if view is None else view.confidence,
            None if view is None else now_ns - path.seen_ns,
            congestion,
            self._ledger.total_held_bps(path.host),
            path.own_bps,
            0 if path.view is None else path.view.sent_bytes,
            obstacle.detail
            if isinstance(obstacle, Refusal)
            else ""
            if obstacle is None
            else obstacle.reason,
        )

    def judge_rate(self, flow: Flow, rate_bps: int, now_ns: int) -> Refusal | bool:
        """May a flow have a rate, and can its path carry it?

        Returns:
            True: it can, or nobody can tell. False: it is not known yet. Else why not.
        """
        if rate_bps <= flow.held_bps:
            return True
        refusal = self._quotas.refuse_user(flow, rate_bps)
        if refusal is not None or not flow.is_adaptive:
            return refusal or True
        path = self._paths.of_flow(flow)
        if isinstance(path.obstacle, Refusal):
            return _of_the_host(path.obstacle)
        refusal = self._quotas.refuse_path(flow, path, rate_bps, now_ns)
        if refusal is not None:
            return refusal
        if not path.is_measurable:
            return True
        if self._spare_bps(path, now_ns) is None:
            return False
        # What was said to be free before a congestion is not.
        quote = None if path.congestion.is_congested else flow.quote
        most_bps = self._ledger.refuse(
            flow.flow_id, path.links, rate_bps, quote=quote, now_ns=now_ns
        )
        if most_bps is None:
            return True
        return Refusal(ErrorCode.ERROR_NETWORK_BUSY, self._busy(path, rate_bps, most_bps))

    def _busy(self, path: Path, rate_bps: int, most_bps: int) -> str:
        if path.congestion.is_congested:
            why = path.congestion.reason
            text = f"the path is congested ({'' if why is None else why.value})"
        else:
            text = f"the path can carry {most_bps} bit/s of this flow"
        return f"{text}; ask for less, or to be told when {rate_bps} bit/s are there"

    def _spare_bps(self, path: Path, now_ns: int) -> int | None:
        if self._paths.view_of(path, now_ns) is None:
            return None
        return self._ledger.spare_of(path.links)

    def refuse_tracking(self, host: Endpoint) -> Refusal | None:
        """Can the path to a host be measured, as far as is known? None means yes."""
        path = self._paths.find(host)
        if path is None:
            return refuse_unmeasurable(cannot_measure(host))
        if path.has_no_sink:
            return Refusal(
                ErrorCode.ERROR_HOST_UNREACHABLE,
                f"no sink answers at {host.address}; run `qwave sink` there",
            )
        if isinstance(path.obstacle, Refusal):
            return _of_the_host(path.obstacle)
        return None if path.is_measurable else unmeasurable(path)


def _of_the_host(why: Refusal) -> Refusal:
    """What experiments that timed out say of the host: it is gone."""
    if why.code is ErrorCode.ERROR_TIMEOUT:
        return Refusal(ErrorCode.ERROR_HOST_UNREACHABLE, why.detail)
    return why


def refuse_unmeasurable(why: Unmeasurable) -> Refusal:
    """The refusal of what needs estimates."""
    return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, f"{why.reason}; marking and shaping work without")


def unmeasurable(path: Path) -> Refusal:
    """Why a path has no estimates."""
    why = path.obstacle
    return refuse_unmeasurable(why if isinstance(why, Unmeasurable) else cannot_measure(path.host))


def _not_adaptive() -> Refusal:
    return Refusal(
        ErrorCode.ERROR_NOT_SUPPORTED, "a non-adaptive flow has no estimates of its path"
    )
