"""`qwave paths HOST --plot`: looks at one path for a while, and draws what was seen.

The service keeps what is, not what was; so the picture begins with the first look. It ends when the
time is over, at a signal, or when the service cannot be asked any more, and is drawn then.
"""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Final, Self

from openqwave.cli.interruption import Interrupted
from openqwave.cli.overview.asking import NoService, ServiceFailed
from openqwave.cli.overview.filters import place_of
from openqwave.cli.overview.looking import next_look_s
from openqwave.cli.overview.paths import state_of
from openqwave.cli.overview.seen import PathsSeen
from openqwave.cli.overview.showing import view
from openqwave.cli.overview.words import clean, rate
from openqwave.cli.plot.looks import GONE, Looks
from openqwave.cli.views import Bar, PlainView, SilentView, View

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from openqwave.cli.overview.command import Options
    from openqwave.cli.overview.filters import Wanted
    from openqwave.cli.overview.looking import Looker
    from openqwave.ipc.messages import PathRow

# How long it looks where nobody says: a minute shows congestion come and go, and can be waited for.
USUAL_S: Final = 60.0

# Sums of intervals are no more exact than this.
HAIR_S: Final = 0.001

DRAWN, CANNOT_DRAW = 0, 2


class NoPath(ServiceFailed):
    """The service knows no path that is meant, or several; the message says what to do."""


def collect(options: Options, plot: Path, looker: Looker, wanted: Wanted) -> int:
    """Look, show meanwhile how it goes, and draw; return the exit status.

    Args:
        options: What was asked for, with a host.
        plot: The file of the picture, which can be written.
        looker: Asks the service.
        wanted: Finds the host's paths.

    Raises:
        NoPath: There is nothing to be drawn.
        NoService: There is none, or there is none any more; what was seen is drawn then.
        ServiceFailed: It did not answer as it should, likewise.
        Interrupted: A signal came before anything was seen.
    """
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    first = _chosen(looker.look(lambda service: service.paths()), wanted, options.host or "")
    looks = Looks(first.host)
    trouble: NoService | ServiceFailed | None = None
    length_s = options.watch_s
    if length_s is None:
        length_s = math.inf if options.watches else USUAL_S
    with _view(options, length_s) as shown:
        try:
            _follow(looks, first, options, length_s, looker, shown)
        except Interrupted:
            # A signal is what ends it in order.
            pass
        except (NoService, ServiceFailed) as error:
            trouble = error
    if not options.watches:
        with view(as_json=options.as_json, watches=False) as page:
            page.show(_seen(looks))
    status = _draw(looks, options.host or first.host, began, plot)
    if trouble is not None:
        raise trouble
    return status


def _chosen(rows: Sequence[PathRow], wanted: Wanted, host: str) -> PathRow:
    """The path that is meant: the only one there, or the only one that somebody uses."""
    found = sorted(
        (row for row in rows if wanted.takes_path(row)), key=lambda row: place_of(row.host)
    )
    used = [row for row in found if row.flow_count or row.tracker_count]
    for some in (used, found):
        if len(some) == 1:
            return some[0]
    if found:
        names = ", ".join(clean(row.host) for row in found)
        raise NoPath(f"the service knows several paths to {host}: {names}. Name one of them")
    raise NoPath(
        f"the service knows no path to {host}: no adaptive flow goes there, and nobody tracks it. "
        "`qwave paths` lists those that it knows"
    )


def _follow(
    looks: Looks,
    first: PathRow,
    options: Options,
    length_s: float,
    looker: Looker,
    shown: View[Looks],
) -> None:
    """Look until the time is over."""
    start_s = began_s = time.monotonic()
    row: PathRow | None = first
    while True:
        looks.add(began_s - start_s, row)
        shown.show(looks)
        now_s = time.monotonic()
        began_s = next_look_s(began_s, now_s, options.interval_s)
        # The last look comes when the time is over, so that the picture is as long as that.
        if began_s - start_s > length_s + HAIR_S:
            return
        looker.interruption.pause(began_s - now_s)
        rows = looker.look(lambda service: service.paths())
        row = next((one for one in rows if one.host == looks.host), None)


def _draw(looks: Looks, host: str, began: str, plot: Path) -> int:
    # Here, because it takes longer to load than a look takes.
    from openqwave.cli.plot.looks_chart import draw

    try:
        draw(looks, host, began, plot)
    except OSError as error:
        _tell(f"{plot}: the picture could not be written: {error.strerror}")
        return CANNOT_DRAW
    _tell(f"Picture: {plot}")
    return DRAWN


def _tell(message: str) -> None:
    sys.stderr.write(message + "\n")


# -- meanwhile ------------------------------------------------------------------------


def _seen(looks: Looks) -> PathsSeen:
    """What was seen last, as `qwave paths` shows it."""
    is_gone = looks.last is None or looks.looks[-1].state == GONE
    return PathsSeen([] if looks.last is None or is_gone else [looks.last], is_filtered=True)


def describe(looks: Looks) -> str:
    """What was seen last, in a few words."""
    rows = _seen(looks).rows
    if not rows:
        return "the service does not know it any more"
    row = rows[0]
    free = f"{rate(row.available_bps)} of {rate(row.capacity_bps)} Mbit/s free"
    return f"{state_of(row)[0]}, {free}, {rate(row.held_bps)} held"


class _PageView(PlainView):
    """Shows what `qwave paths --watch` shows."""

    def __init__(self, *, as_json: bool) -> None:
        self._view = view(as_json=as_json, watches=True)

    def show(self, looks: Looks) -> None:
        self._view.show(_seen(looks))

    def __enter__(self) -> Self:
        self._view.__enter__()
        return self

    def __exit__(self, *how: object) -> None:
        self._view.__exit__(None, None, None)


class LineView(PlainView):
    """Writes a line for each look, on standard error."""

    def show(self, looks: Looks) -> None:
        """Write it."""
        sys.stderr.write(f"{looks.span_s:5.0f} s  {describe(looks)}\n")
        sys.stderr.flush()


class LiveView(Bar):
    """A bar and what was seen last.

    Args:
        length_s: How long it takes.
    """

    def __init__(self, length_s: float) -> None:
        super().__init__("looking", length_s)

    def show(self, looks: Looks) -> None:
        """Redraw."""
        self.draw(looks.span_s, f"{looks.span_s:.0f} s, {describe(looks)}")


def _view(options: Options, length_s: float) -> View[Looks]:
    if options.watches:
        return _PageView(as_json=options.as_json)
    if sys.stderr.isatty():
        return LiveView(length_s)
    return SilentView() if options.as_json else LineView()
