"""What experiments on a path have told, as the engine takes it.

Whoever drives sessions towards sinks hands what they say through here: an estimate becomes a view,
an end becomes the reason why the path is not measured. A host where nobody listens cannot be
measured; everything else that goes wrong is a trouble that may pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import QosError, Refusal
from openqwave.model.estimates import (
    Congestion,
    Estimate,
    Estimated,
    Fundamentals,
    PathView,
    Unmeasurable,
)
from openqwave.probing.outcomes import Ended, Failed, Failure

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.probing.progress import Estimated as Told

# Sinks that do not answer in time are told apart from those that break off, because a query for
# fresh numbers tells them apart.
_CODE_OF: Final = {
    Failure.UNREACHABLE: ErrorCode.ERROR_HOST_UNREACHABLE,
    Failure.CONNECT_TIMED_OUT: ErrorCode.ERROR_TIMEOUT,
    Failure.NO_AGREEMENT: ErrorCode.ERROR_TIMEOUT,
    Failure.NO_SUMMARY: ErrorCode.ERROR_TIMEOUT,
}

# Errors of this host or its administrator: no waiting mends them.
_HOPELESS: Final = frozenset(
    {
        ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY,
        ErrorCode.ERROR_ACCESS_DENIED,
        ErrorCode.ERROR_BUSY,
        ErrorCode.ERROR_INVALID_PARAMETER,
        ErrorCode.ERROR_NOT_SUPPORTED,
    }
)
# What an experiment host answers that has broken, or has been closed.
HOST_IS_OVER: Final = frozenset({ErrorCode.ERROR_GEN_FAILURE, ErrorCode.ERROR_OPERATION_ABORTED})


def view_of(told: Told, congestion: Congestion, *, were_tagged: bool = False) -> PathView:
    """The view that an estimate and the last verdict make together.

    Args:
        told: The estimate.
        congestion: The verdict.
        were_tagged: The probes that were to have 802.1p tags had them. Without, that they came
            through says nothing of tags.
    """
    report = told.report
    available = report.available_bps
    claimed = available if isinstance(available, Estimate) else None
    return PathView(
        Fundamentals(_value(report.capacity_bps), _value(available), _value(report.rtt_ns)),
        congestion,
        None if claimed is None else claimed.low,
        0.0 if claimed is None else claimed.confidence,
        told.since_ns,
        told.sent_bytes,
        report.supports_priority if were_tagged else None,
    )


def obstacle_of(host: Endpoint, end: Failed | Ended) -> Unmeasurable | Refusal:
    """Why a path is not measured any more, by the last event of its session."""
    if isinstance(end, Ended):
        return Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, "the sink ended the experiments")
    reason = end.reason
    if reason in (Failure.NO_SINK, Failure.DECLINED):
        return Unmeasurable(
            f"no sink answers at {host.address} ({reason.value}); run `qwave sink` there"
        )
    text = f"{reason.value}; {end.detail}" if end.detail else reason.value
    return Refusal(_CODE_OF.get(reason, ErrorCode.ERROR_UNEXP_NET_ERR), text)


def obstacle_of_error(error: BaseException | None) -> Unmeasurable | Refusal:
    """The same, by the error that it ended with; None where nobody said."""
    if not isinstance(error, QosError) or error.code in HOST_IS_OVER:
        what = "ended without a word" if error is None else f"broke: {error!r}"
        return Refusal(ErrorCode.ERROR_UNEXP_NET_ERR, f"the experiments {what}")
    if error.code in _HOPELESS:
        return Unmeasurable(error.detail, is_of_this_host=True)
    return Refusal(error.code, error.detail)


def _value(number: Estimated) -> int | None:
    return number.value if isinstance(number, Estimate) else None
