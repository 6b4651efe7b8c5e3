"""Ways to show work that takes time; each kind of work has its own pictures and lines.

Nothing here loads the terminal library: a quick command has no time for it.
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
