"""Tracked hosts: who takes an interest in which path.

An interest is counted once for each handle. Hosts that a closed handle tracked stay warm
for a while, so that a program that restarts finds its paths measured; until then anybody
may stop tracking them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Unmeasurable
from openqwave.subsystem.destinations import refuse_host
from openqwave.subsystem.notices import refuse_unmeasurable

if TYPE_CHECKING:
    from openqwave.admission.policy import Policy
    from openqwave.model.endpoint import Endpoint
    from openqwave.subsystem.notices import Notices
    from openqwave.subsystem.paths import Paths
    from openqwave.subsystem.quotas import Quotas
    from openqwave.subsystem.registry import Handle
    from openqwave.subsystem.requests import StartTracking, StopTracking


class Tracking:
    """The interests of all handles; each handle keeps its own list."""

    def __init__(self, notices: Notices, paths: Paths, quotas: Quotas, policy: Policy) -> None:
        self._notices = notices
        self._paths = paths
        self._quotas = quotas
        self._policy = policy

    def obey(self, policy: Policy) -> None:
        """Go by another policy from now on."""
        self._policy = policy

    def refuse(self, handle: Handle, request: StartTracking) -> Refusal | None:
        """Can the handle take an interest, as far as the request itself says? None means yes."""
        host = _host_of(request)
        if isinstance(host, Refusal):
            return host
        refusal = refuse_host(host) or request.route
        if refusal is not None:
            return refusal
        if host not in handle.tracked and len(handle.tracked) >= self._policy.limits.tracked_hosts:
            return self._quotas.refuse("tracked_hosts", "too many hosts are tracked; stop some")
        if isinstance(request.path, Refusal):
            return request.path
        if isinstance(request.path, Unmeasurable) and request.path.is_of_caller:
            return refuse_unmeasurable(request.path)
        if isinstance(request.path, Unmeasurable) or request.path is None:
            return self._notices.refuse_tracking(host)
        return None

    def start(self, handle: Handle, host: Endpoint) -> Refusal | None:
        """Take an interest in a host of which it was told how it is reached."""
        refusal = self._notices.refuse_tracking(host)
        if refusal is not None:
            return refusal
        handle.tracked[host] = None
        self._paths.track(host, handle.handle_id)
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
            self._paths.untrack(host, handle.handle_id)
            return None
        path = self._paths.find(host)
        if path is not None and path.warm_until_ns > now_ns:
            path.warm_until_ns = 0
            return None
        return Refusal(
            ErrorCode.ERROR_INVALID_PARAMETER, f"this handle does not track {host.address}"
        )

    def let_go(self, handle: Handle, *, now_ns: int) -> None:
        """A handle ends; what it tracked stays warm."""
        for host in handle.tracked:
            path = self._paths.find(host)
            if path is not None:
                path.warm_until_ns = now_ns + self._policy.experiments.warm_ns
            self._paths.untrack(host, handle.handle_id)

    def take_back(self, handle: Handle) -> None:
        """A handle goes on after all."""
        for host in handle.tracked:
            self._paths.track(host, handle.handle_id)


def _host_of(request: StartTracking | StopTracking) -> Endpoint | Refusal:
    """The host that is meant; a port says nothing about a path."""
    return request.host if isinstance(request.host, Refusal) else request.host.host()
