"""Looks at the whole host, one after the other, whether or not there is a service.

What was refused is gathered: each look asks only for what is new since the one before.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.cli.overview.asking import NoService, Service, ServiceFailed
from openqwave.cli.overview.looking import Looker, next_look_s
from openqwave.cli.overview.words import clean

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from openqwave.cli.interruption import Interruption
    from openqwave.ipc.messages import FlowRow, PathRow, ProgramRow, RefusalRow, StatusRow

# As many as a service remembers.
_MOST_REFUSALS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Look:
    """What the service said.

    Attributes:
        at_s: When, CLOCK_REALTIME.
        status: How the service is.
        flows: All that this user may see, by ascending ids.
        paths: All paths.
        sees_all: Whether the service shows this user the flows of everybody.
        refusals: What was refused, the oldest first.
        programs: Those that ask for nothing and are spoken for: runs, and rules, the best first.
    """

    at_s: float
    status: StatusRow
    flows: Sequence[FlowRow]
    paths: Sequence[PathRow]
    sees_all: bool
    refusals: Sequence[RefusalRow] = ()
    programs: Sequence[ProgramRow] = ()


@dataclass(frozen=True, slots=True)
class Away:
    """No service answered.

    Attributes:
        at_s: When, CLOCK_REALTIME.
        reason: Why not.
    """

    at_s: float
    reason: str


Glance: TypeAlias = Look | Away


def same_refusal(row: RefusalRow) -> Hashable:
    """What rows have in common that are one, refused again and again."""
    asked = row.request, row.flow, None if row.flow else row.host
    return row.uid, row.pid, row.program, *asked, row.code, row.detail


class Refused:
    """What was refused, by one look after the other."""

    def __init__(self) -> None:
        self._pid = 0
        self._last = 0
        self._rows: dict[Hashable, RefusalRow] = {}
        self._all: tuple[RefusalRow, ...] = ()

    def gathered(self, service: Service, pid: int) -> tuple[RefusalRow, ...]:
        """All that is known, the oldest first.

        Args:
            service: Asked for what is new.
            pid: Its process; another one has refused other things.
        """
        if pid != self._pid:
            self._pid, self._last, self._all = pid, 0, ()
            self._rows.clear()
        new = service.refusals(self._last)
        if not new:
            return self._all
        for row in new:
            self._rows.pop(same_refusal(row), None)
            self._rows[same_refusal(row)] = row
        while len(self._rows) > _MOST_REFUSALS:
            del self._rows[next(iter(self._rows))]
        self._last, self._all = new[-1].number, tuple(self._rows.values())
        return self._all


def looks(
    interruption: Interruption, interval_s: float, for_s: float | None = None
) -> Iterator[Glance]:
    """Look again and again; the next look begins when this one's glance is taken, or later.

    There is never more than one question under way, and each is answered before the next.

    Args:
        interruption: May end any wait.
        interval_s: How often.
        for_s: For how long; None for until it is interrupted.

    Yields:
        What was seen.

    Raises:
        Interrupted: The end was asked for.
    """
    looker, refused = Looker(interruption), Refused()
    began_s = time.monotonic()
    end_s = math.inf if for_s is None else began_s + for_s
    try:
        while True:
            yield _glance(looker, refused)
            now_s = time.monotonic()
            began_s = next_look_s(began_s, now_s, interval_s)
            if began_s >= end_s:
                interruption.pause(max(0.0, end_s - now_s))
                return
            interruption.pause(began_s - now_s)
    finally:
        looker.close()


def _glance(looker: Looker, refused: Refused) -> Glance:
    def ask(service: Service) -> Look:
        status = service.status()
        flows, paths = service.flows(), service.paths()
        refusals, programs = refused.gathered(service, status.pid), service.programs()
        return Look(time.time(), status, flows, paths, status.sees_all, refusals, programs)

    try:
        return looker.look(ask)
    except (NoService, ServiceFailed) as error:
        return Away(time.time(), clean(str(error)))
