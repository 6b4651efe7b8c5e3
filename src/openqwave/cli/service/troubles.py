"""How a command of `qwave service` ends early."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
# It was tried, and undone.
FAILED: Final = 1
# Nothing was tried.
CANNOT_RUN: Final = 2
# As an init script says it of a service that does not run (Linux Standard Base, 20.2).
NOT_RUNNING: Final = 3


class Trouble(Exception):
    """It does not go on.

    Attributes:
        status: The exit status.
        is_undone: What was done before is undone, if it had to be.
    """

    def __init__(self, message: str, status: int = FAILED, *, is_undone: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.is_undone = is_undone
