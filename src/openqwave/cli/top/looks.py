"""Looks at the whole host, one after the other, whether or not there is a service."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from openqwave.cli.overview.asking import NoService, Service, ServiceFailed
from openqwave.cli.overview.looking import Looker, next_look_s
from openqwave.cli.overview.words import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openqwave.cli.interruption import Interruption
    from openqwave.ipc.messages import FlowRow, PathRow, StatusRow


@dataclass(frozen=True, slots=True)
class Look:
    """What the service said.

    Attributes:
        at_s: When, CLOCK_REALTIME.
        status: How the service is.
        flows: All that this user may see, by ascending ids.
        paths: All paths.
        sees_all: Whether the service shows this user the flows of everybody.
    """

    at_s: float
    status: StatusRow
    flows: Sequence[FlowRow]
    paths: Sequence[PathRow]
    sees_all: bool


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
    looker = Looker(interruption)
    began_s = time.monotonic()
    end_s = math.inf if for_s is None else began_s + for_s
    try:
        while True:
            yield _glance(looker)
            now_s = time.monotonic()
            began_s = next_look_s(began_s, now_s, interval_s)
            if began_s >= end_s:
                interruption.pause(max(0.0, end_s - now_s))
                return
            interruption.pause(began_s - now_s)
    finally:
        looker.close()


def _glance(looker: Looker) -> Glance:
    def ask(service: Service) -> Look:
        status = service.status()
        flows, paths = service.flows(), service.paths()
        return Look(time.time(), status, flows, paths, looker.sees_all_of(service))

    try:
        return looker.look(ask)
    except (NoService, ServiceFailed) as error:
        return Away(time.time(), clean(str(error)))
