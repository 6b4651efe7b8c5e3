"""Ways to show work that takes time; each kind of work has its own pictures and lines.

Nothing but the bar loads the terminal library: a quick command has no time for it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self, TypeVarTuple

Seen = TypeVarTuple("Seen")


class View(Protocol[*Seen]):
    """Shows moments of some work as they come; a context manager."""

    def show(self, *seen: *Seen) -> None:
        """Show one moment."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back."""


class PlainView:
    """Has nothing to begin and nothing to give back: for views that only write."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class SilentView(PlainView):
    """Shows nothing."""

    def show(self, *seen: object) -> None:
        """Show nothing."""


class Bar:
    """A bar and what is known, in one line of standard error that goes away at the end.

    Drawn when there is something new to say, not by a thread: that would compete with the one that
    works.
    """

    def __init__(self, title: str, total: float) -> None:
        """Draw nothing yet.

        Args:
            title: What is done, in a word.
            total: How much of it there is to do, in any unit.
        """
        # Here, because this takes longer to load than a line takes to write.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[known]}", markup=False),
            console=Console(stderr=True, highlight=False),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total, known="")

    def draw(self, done: float, known: str) -> None:
        """Redraw.

        Args:
            done: How much of it is done.
            known: In a few words.
        """
        self._progress.update(self._task, completed=done, known=known, refresh=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
