"""Tracked hosts: who takes an interest in which path.

An interest is counted once for each handle. Hosts that a closed handle tracked stay warm
for a while, so that a program that restarts finds its paths measured; until then anybody
may stop tracking them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.subsystem.destinations import refuse_host

if TYPE_CHECKING:
    from openqwave.admission.policy import Limits
    from openqwave.model.endpoint import Endpoint
    from openqwave.subsystem.notices import Notices
    from openqwave.subsystem.registry import Handle
    from openqwave.subsystem.requests import StartTracking, StopTracking

# How long a host stays warm: two minutes cover the restart of a program, and experiments
# that nobody wants do not go on for longer.
WARM_NS = 120 * 1_000_000_000


class Tracking:
    """The interests of all handles; each handle keeps its own list."""

    def __init__(self, notices: Notices, limits: Limits) -> None:
        self._notices = notices
        self._limits = limits
        self._warm: dict[Endpoint, int] = {}

    def start(self, handle: Handle, request: StartTracking) -> Refusal | None:
        """Take an interest; None when it is taken."""
        host = _host_of(request)
        if isinstance(host, Refusal):
            return host
        refusal = refuse_host(host) or request.route or self._notices.refuse_tracking(host)
        if refusal is not None:
            return refusal
        if host not in handle.tracked and len(handle.tracked) >= self._limits.tracked_hosts:
            return Refusal(
                ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "too many hosts are tracked; stop some"
            )
        handle.tracked[host] = None
        return None

    def stop(self, handle: Handle, request: StopTracking, *, now_ns: int) -> Refusal | None:
        """Lose an interest; None when it is lost."""
        host = _host_of(request)
        if isinstance(host, Refusal):
            return host
        refusal = refuse_host(host)
        if refusal is not None:
            return refusal
        if host in handle.tracked:
            del handle.tracked[host]
            return None
        if self._warm.pop(host, now_ns) > now_ns:
            return None
        return Refusal(
            ErrorCode.ERROR_INVALID_PARAMETER, f"this handle does not track {host.address}"
        )

    def let_go(self, handle: Handle, *, now_ns: int) -> None:
        """A handle ends; what it tracked stays warm."""
        self._warm = {host: end_ns for host, end_ns in self._warm.items() if end_ns > now_ns}
        self._warm.update(dict.fromkeys(handle.tracked, now_ns + WARM_NS))


def _host_of(request: StartTracking | StopTracking) -> Endpoint | Refusal:
    """The host that is meant; a port says nothing about a path."""
    return request.host if isinstance(request.host, Refusal) else request.host.host()
