"""What is known of paths from one run of the subsystem to the next: what it takes to keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from openqwave.model.estimates import PathView
    from openqwave.model.path import PathFacts


class PathMemory(Protocol):
    """Keeps what experiments found out of paths; asked by one thread, which it must not hold up."""

    def recall(self, facts: PathFacts) -> PathView | None:
        """What was known of a way to a host.

        Returns:
            With `since_ns` by this run's monotonic clock, true also where the machine slept since;
            None where nothing is known whose age is certain.
        """

    def keep(self, facts: PathFacts, view: PathView) -> None:
        """Keep what was found out just now, in place of what is kept of the same way."""
