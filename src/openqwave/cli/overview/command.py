"""`qwave flows`, `paths`, `refusals`, `status`, in order: connect, look, show; and exit statuses.

Watching is looking again. What is lost with a handle, as when the machine slept, is only the
connection: another one is made at once.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.cli.interruption import Interrupted, Interruption
from openqwave.cli.overview.asking import NoService, ServiceFailed
from openqwave.cli.overview.filters import Wanted, place_of
from openqwave.cli.overview.looking import ADVICE, Looker, next_look_s
from openqwave.cli.overview.seen import (
    FlowsSeen,
    NoServiceSeen,
    PathsSeen,
    RefusalsSeen,
    StatusSeen,
)
from openqwave.cli.overview.showing import view
from openqwave.cli.overview.words import clean
from openqwave.cli.plot import target
from openqwave.cli.probe.target import BadHostError, addresses_of

if TYPE_CHECKING:
    from pathlib import Path

    from openqwave.cli.overview.asking import Service
    from openqwave.cli.overview.showing import Seen
    from openqwave.ipc.messages import FlowRow, RefusalRow

SHOWN, CANNOT_RUN, NO_SERVICE = 0, 2, 3

# The service begins to count what is sent when it is asked, and has a rate a quarter of a second
# later; it knows the addresses of sockets then, too. On a busy machine that may take twice as long;
# what is not known then stays unknown.
_COUNTING_S, _COUNTINGS = 0.4, 2
# Of so many sockets it counts, and no more.
_MOST_COUNTED: Final = 4_096
_COUNTED_PROTOCOL: Final = "tcp"


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        user: Only flows of this user, by name or number.
        pid: Only flows of this process.
        host: Only what concerns this host, by name or address.
        as_json: Documents instead of pages.
        watches: Look again and again.
        interval_s: How often.
        watch_s: For how long; None for until Ctrl-C.
        plot: Where to draw the path to the host; None for nowhere.
    """

    user: str | None = None
    pid: int | None = None
    host: str | None = None
    as_json: bool = False
    watches: bool = False
    interval_s: float = 1.0
    watch_s: float | None = None
    plot: Path | None = None


_Look: TypeAlias = "Callable[[Looker, Wanted], Seen]"


def run_flows(options: Options) -> int:
    """Show flows; return the exit status. All else is on standard output and error."""
    return _run(options, _look_at_flows)


def run_paths(options: Options) -> int:
    """Show paths, likewise; or look at one for a while, and draw it."""
    if options.plot is not None and (why := target.obstacle(options.plot)):
        _tell(why)
        return CANNOT_RUN
    return _run(options, _look_at_paths)


def run_refusals(options: Options) -> int:
    """Show what was refused, likewise."""
    return _run(options, _look_at_refusals)


def run_status(options: Options) -> int:
    """Show the status, likewise; that there is no service is a status, too."""
    return _run(options, _look_at_status)


def _look_at_flows(looker: Looker, wanted: Wanted) -> Seen:
    def ask(service: Service) -> FlowsSeen:
        sees_all = looker.sees_all_of(service)
        rows = [row for row in service.flows() if wanted.takes_flow(row)]
        spoken_for = [row for row in service.programs() if wanted.takes_program(row)]
        return FlowsSeen(rows, sees_all, not wanted.is_all, spoken_for)

    return looker.look(ask)


def _look_at_paths(looker: Looker, wanted: Wanted) -> Seen:
    rows = looker.look(lambda service: service.paths())
    found = [row for row in rows if wanted.takes_path(row)]
    found.sort(key=lambda row: place_of(row.host))
    return PathsSeen(found, is_filtered=not wanted.is_all)


def _look_at_refusals(looker: Looker, wanted: Wanted) -> Seen:
    def ask(service: Service) -> tuple[list[RefusalRow], bool]:
        if not service.remembers_refusals:
            raise ServiceFailed("the service is an earlier one, and remembers no refusals")
        return service.refusals(), looker.sees_all_of(service)

    rows, sees_all = looker.look(ask)
    found = [row for row in reversed(rows) if wanted.takes_refusal(row)]
    return RefusalsSeen(found, sees_all, is_filtered=not wanted.is_all)


def _look_at_status(looker: Looker, _: Wanted) -> Seen:
    try:
        return StatusSeen(looker.look(lambda service: service.status()))
    except NoService as none:
        return NoServiceSeen(clean(str(none)), ADVICE)


def _run(options: Options, look: _Look) -> int:
    try:
        with Interruption() as interruption:
            wanted = _wanted(options, interruption)
            looker = Looker(interruption)
            try:
                if options.plot is not None:
                    # Here, because nothing else has any use for it.
                    from openqwave.cli.overview.plotting import collect

                    return collect(options, options.plot, looker, wanted)
                if options.watches:
                    return _watch(options, look, looker, wanted)
                return _show(options, look, looker, wanted)
            finally:
                looker.close()
    except Interrupted as interrupted:
        _tell("Interrupted.")
        return interrupted.status
    except NoService as none:
        _tell(
            f"No QoS service: {clean(str(none))}. {ADVICE}. Without it each program's flows are "
            "known to itself alone."
        )
    except ServiceFailed as failed:
        _tell(f"{clean(str(failed))[:1].upper()}{clean(str(failed))[1:]}.")
    except BadHostError as error:
        _tell(f"{clean(str(error))}")
    return CANNOT_RUN


def _wanted(options: Options, interruption: Interruption) -> Wanted:
    hosts = None
    if options.host is not None:
        found = addresses_of(options.host, interruption)
        hosts = frozenset(each.unmapped().address for each in found)
    return Wanted(options.user, options.pid, hosts)


def _show(options: Options, look: _Look, looker: Looker, wanted: Wanted) -> int:
    """Look until all is known that can be, and show it."""
    seen = look(looker, wanted)
    for number in range(_COUNTINGS):
        if not _is_worth_another(seen, is_first=number == 0):
            break
        looker.interruption.pause(_COUNTING_S)
        seen = look(looker, wanted)
    with view(as_json=options.as_json, watches=False) as shown:
        shown.show(seen)
    return NO_SERVICE if isinstance(seen, NoServiceSeen) else SHOWN


def _is_worth_another(seen: Seen, *, is_first: bool) -> bool:
    """Is there something that the service may know in a moment?

    The addresses that sockets have on this side are waited for once: one that was never used has
    none.
    """
    if not isinstance(seen, FlowsSeen) or len(seen.rows) > _MOST_COUNTED:
        return False
    for row in seen.rows:
        if is_first and any(one.local is None for one in row.sockets):
            return True
        if row.sending_bps is None and _is_counted(row):
            return True
    return False


def _is_counted(row: FlowRow) -> bool:
    """Is there somebody who counts what a flow sends?"""
    if row.sent_packets is not None:
        return True
    return len(row.sockets) == row.socket_count and all(
        one.protocol == _COUNTED_PROTOCOL for one in row.sockets
    )


def _watch(options: Options, look: _Look, looker: Looker, wanted: Wanted) -> int:
    """Look and show until the time is over, or a signal comes, which is the end in order."""
    began_s = time.monotonic()
    end_s = math.inf if options.watch_s is None else began_s + options.watch_s
    try:
        seen = look(looker, wanted)
        with view(as_json=options.as_json, watches=True) as shown:
            while True:
                shown.show(seen)
                now_s = time.monotonic()
                began_s = next_look_s(began_s, now_s, options.interval_s)
                if began_s >= end_s:
                    return SHOWN
                looker.interruption.pause(began_s - now_s)
                seen = look(looker, wanted)
    except Interrupted:
        return SHOWN


def _tell(message: str) -> None:
    sys.stderr.write(message + "\n")
