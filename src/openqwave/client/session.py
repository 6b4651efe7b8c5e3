"""What the faces need of a handle, wherever its subsystem runs.

`openqwave.runtime.session.Session` calls an engine inside the process, `RemoteSession` the
service. Both answer with values, refusals included, and both keep the contract's order of errors;
so the faces never ask which of the two they hold, but to keep an event loop from waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from openqwave.drivers.sockets import SocketLike
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.errors import Refusal
    from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
    from openqwave.runtime.pending import Pending
    from openqwave.runtime.session import FlowAnswer
    from openqwave.subsystem.requests import Question

_T = TypeVar("_T")


class AnySession(Protocol):
    """One handle, as calls; see `openqwave.runtime.session.Session` for each."""

    @property
    def is_local(self) -> bool:
        """Is the engine inside this process, so that no call waits for another one?"""

    def refuse(self) -> Refusal | None:
        """Is the handle fit for use? None means yes."""

    def add_socket(
        self,
        flow_id: int,
        sock: SocketLike,
        destination: Endpoint | Refusal | None,
        traffic_type: TrafficType,
        *,
        is_adaptive: bool,
    ) -> int | Refusal:
        """Put a socket into a flow; the value is the flow's id."""

    def remove_socket(self, flow_id: int, sock: SocketLike | None) -> Refusal | None:
        """Take a socket out of a flow; None takes them all and ends the flow."""

    def set_traffic_type(self, flow_id: int, traffic_type: TrafficType) -> Refusal | None:
        """Change the flow's traffic type."""

    def set_rate(
        self,
        flow_id: int,
        rate_bps: int | None,
        shaping: Shaping,
        reason: RateReason,
        *,
        is_overlapped: bool = False,
        is_self_paced: bool = False,
    ) -> Refusal | Pending | None:
        """Change the flow's contract; pending while too little is known of the path."""

    def set_dscp(self, flow_id: int, dscp: int) -> Refusal | None:
        """Mark the flow with one exact code point."""

    def query(
        self,
        flow_id: int,
        question: Question,
        *,
        is_fresh: bool = False,
        is_overlapped: bool = False,
    ) -> FlowAnswer | Refusal | Pending:
        """Ask about a flow; pending while what was asked for afresh is measured."""

    def notify(
        self, flow_id: int, kind: NoticeKind, rate_bps: int | None
    ) -> Refusal | Pending | None:
        """Be told once when a condition holds."""

    def finish(self, result: _T | Refusal | Pending) -> _T | Refusal:
        """The result, waited for; a program that is interrupted leaves no request behind."""

    def start_tracking(self, host: Endpoint | Refusal) -> Refusal | None:
        """Take an interest in the path to a host."""

    def stop_tracking(self, host: Endpoint | Refusal) -> Refusal | None:
        """Lose the interest."""

    def enumerate_flows(self) -> tuple[int, ...] | Refusal:
        """The ids of all flows, ascending."""

    def cancel(self, request_id: int) -> Refusal | None:
        """Abort a pending request of this handle."""

    def close(self) -> Refusal | None:
        """End the handle and everything made through it."""
