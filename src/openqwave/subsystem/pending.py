"""Requests that are answered later, each exactly once.

What they wait for is a condition on a flow's path (`notices`), the knowledge without which a rate
can be neither granted nor refused, or numbers that are measured from now on. They are found by
request, by flow and by path, so that an input costs what it concerns and not what there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from openqwave.model.flow import NoticeKind

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.subsystem import requests as rq
    from openqwave.subsystem.flows import Flow


class Want(IntEnum):
    """What a request waits for. Rates come first where several can be answered."""

    RATE = 0
    FRESH = 1
    CONGESTED = 2
    UNCONGESTED = 3
    AVAILABLE = 4


WANT_OF = {
    NoticeKind.CONGESTED: Want.CONGESTED,
    NoticeKind.UNCONGESTED: Want.UNCONGESTED,
    NoticeKind.AVAILABLE: Want.AVAILABLE,
}


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """One request.

    Attributes:
        request_id: Its name.
        flow: On which flow.
        want: What it waits for.
        rate_bps: The rate that is wanted; 0 where none is.
        asked_ns: When it came.
        request: The request itself, for a rate.
    """

    request_id: int
    flow: Flow
    want: Want
    rate_bps: int = 0
    asked_ns: int = 0
    request: rq.SetRate | None = None


class PendingRequests:
    """All of them."""

    def __init__(self) -> None:
        self._by_id: dict[int, Pending] = {}
        self._by_flow: dict[int, dict[int, Pending]] = {}
        self._by_host: dict[Endpoint, dict[int, Pending]] = {}
        self._count_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def entry_count(self) -> int:
        """How many entries are kept in all tables."""
        by_place = len(self._by_id) + len(self._by_flow) + len(self._by_host)
        return by_place + len(self._count_of)

    def add(self, pending: Pending) -> None:
        """One more."""
        flow, request_id = pending.flow, pending.request_id
        self._by_id[request_id] = pending
        self._by_flow.setdefault(flow.flow_id, {})[request_id] = pending
        self._by_host.setdefault(flow.path_host(), {})[request_id] = pending
        self._count_of[flow.owner] = self._count_of.get(flow.owner, 0) + 1

    def take(self, pending: Pending) -> None:
        """It is about to be answered."""
        flow, request_id = pending.flow, pending.request_id
        host = flow.path_host()
        del self._by_id[request_id]
        del self._by_flow[flow.flow_id][request_id]
        if not self._by_flow[flow.flow_id]:
            del self._by_flow[flow.flow_id]
        del self._by_host[host][request_id]
        if not self._by_host[host]:
            del self._by_host[host]
        self._count_of[flow.owner] -= 1
        if not self._count_of[flow.owner]:
            del self._count_of[flow.owner]

    def find(self, request_id: int) -> Pending | None:
        """The one of a name; None when it is answered, or never was."""
        return self._by_id.get(request_id)

    def count(self, owner: int) -> int:
        """How many of one process."""
        return self._count_of.get(owner, 0)

    def of_flow(self, flow: Flow) -> list[Pending]:
        """Those of a flow."""
        return list(self._by_flow.get(flow.flow_id, {}).values())

    def of_host(self, host: Endpoint) -> list[Pending]:
        """Those of a path, in the order in which they are to have their turn."""
        found: Iterable[Pending] = self._by_host.get(host, {}).values()
        return sorted(found, key=lambda pending: pending.want)

    def has_kind(self, flow: Flow, want: Want) -> bool:
        """Does one of a kind wait on a flow?"""
        return any(one.want is want for one in self._by_flow.get(flow.flow_id, {}).values())

    def waits_on(self, host: Endpoint) -> bool:
        """Does any wait on a path?"""
        return host in self._by_host
