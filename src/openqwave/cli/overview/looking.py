"""Looking again and again: through one connection as long as it holds, and then another one.

What is lost with a handle, as when the machine slept, is only the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from openqwave.cli.overview.asking import HandleWasLost, Service, wanted_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.cli.interruption import Interruption

# What to do where no service is.
ADVICE: Final = (
    "`qwave service install` sets the service up, `qwaved` runs it in a terminal; "
    "QWAVE_SOCKET names another place"
)

_T = TypeVar("_T")


class Looker:
    """Looks at the service, through one connection as long as it holds.

    Args:
        interruption: May end any wait.
    """

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption
        self._service: Service | None = None
        self._sees_all: bool | None = None

    def look(self, question: Callable[[Service], _T]) -> _T:
        """Put a question; once more where the handle was lost since the last one.

        Raises:
            NoService: There is none.
            ServiceFailed: It did not answer as it should.
            Interrupted: A signal came.
        """
        is_new = self._service is None
        try:
            return question(self._connected())
        except HandleWasLost:
            self.close()
            if is_new:
                raise
            return question(self._connected())
        except BaseException:
            self.close()
            raise

    def sees_all_of(self, service: Service) -> bool:
        """Does the service show this user all flows? Asked once for each connection."""
        if self._sees_all is None:
            self._sees_all = service.sees_all()
        return self._sees_all

    def _connected(self) -> Service:
        if self._service is None:
            self._service = Service(wanted_path(), self.interruption)
        return self._service

    def close(self) -> None:
        """Let go of the connection; the next look makes another one."""
        if self._service is not None:
            self._service.close()
        self._service, self._sees_all = None, None


def next_look_s(began_s: float, now_s: float, interval_s: float) -> float:
    """When to begin the next look.

    Half of the service's time is for others, however long a look takes.

    Args:
        began_s: When the last one began.
        now_s: When it was over.
        interval_s: How often there should be one.
    """
    return max(began_s + interval_s, now_s + (now_s - began_s))
