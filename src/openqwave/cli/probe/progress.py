"""What is shown while a measurement works: on standard error, so that the result stays alone.

On a terminal one line that changes, elsewhere a line a second, and nothing where nobody waits
long enough to look.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from openqwave.cli.probe.rendering import bytes_sent
from openqwave.cli.views import Bar, PlainView, SilentView, View

if TYPE_CHECKING:
    from openqwave.probing.measurement import Progressed

_NS_PER_S = 1_000_000_000


def describe(progressed: Progressed) -> str:
    """What is known so far, in a few words."""
    words = [progressed.phase.value]
    if progressed.capacity_bps is not None:
        words.append(f"about {progressed.capacity_bps / 1e6:.3g} Mbit/s")
    if progressed.rtt_ns is not None:
        words.append(f"round trip {progressed.rtt_ns / 1e6:.3g} ms")
    words.append(f"{bytes_sent(progressed.sent_bytes)} sent")
    return ", ".join(words)


class LineView(PlainView):
    """Writes a line a second."""

    def __init__(self) -> None:
        self._second = 0

    def show(self, progressed: Progressed) -> None:
        """Write a line if a second has begun since the last."""
        second = progressed.elapsed_ns // _NS_PER_S
        if second > self._second:
            self._second = second
            sys.stderr.write(f"{second:3d} s  {describe(progressed)}\n")
            sys.stderr.flush()


class LiveView(Bar):
    """A bar and what is known.

    Args:
        duration_ns: How long the measurement takes.
    """

    def __init__(self, duration_ns: int) -> None:
        super().__init__("probing", duration_ns)

    def show(self, progressed: Progressed) -> None:
        """Redraw."""
        self.draw(progressed.elapsed_ns, describe(progressed))


def view(duration_ns: int, *, is_quick: bool) -> View[Progressed]:
    """Choose how to show a measurement that takes some time."""
    if is_quick:
        return SilentView()
    return LiveView(duration_ns) if sys.stderr.isatty() else LineView()
