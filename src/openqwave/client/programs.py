"""Speaking for programs that ask for nothing: runs, and the list of what is treated.

It takes the service: without one there is nothing that outlives the program that asks.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeVar, cast

from openqwave.client.connection import ANSWER_PATIENCE_S, Connection
from openqwave.client.dialing import dial
from openqwave.client.whereabouts import NoService, look, socket_path
from openqwave.ipc import messages as ms
from openqwave.ipc.pages import page_of
from openqwave.ipc.programs import PROGRAMS, started_run_of
from openqwave.ipc.values import nothing_of
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal, ServiceUnavailable, error_of
from openqwave.runtime.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openqwave.client.dialing import Dialled

# Adopting looks through all descriptors of all processes of a cgroup.
_PATIENCE_S: Final = 3 * ANSWER_PATIENCE_S

_T = TypeVar("_T")


class Programs:
    """One connection to the service; runs that were started through it outlive it."""

    def __init__(self, dialled: Dialled) -> None:
        """Take over a connection that was welcomed; see `open_programs`."""
        self._service = dialled.welcome.service
        self._can_ask = PROGRAMS in dialled.welcome.features
        self._connection = Connection(dialled, _PATIENCE_S)

    def start_run(
        self,
        cgroup: int,
        *,
        program: str,
        pid: int,
        traffic_type: int | None = None,
        dscp: int | None = None,
        rate_bps: int | None = None,
        hold_back: bool = False,
        adopt: bool = False,
    ) -> ms.StartedRun:
        """Treat the traffic of a cgroup's processes in one way, for as long as there are some.

        Args:
            cgroup: A descriptor of its directory (cgroup v2).
            program: What runs there, for people.
            pid: Its process, likewise.
            traffic_type: Marks as of this type; None for none.
            dscp: An exact code point, 0 to 63, which comes before that of the type.
            rate_bps: Of all its sockets together; None for no limit.
            hold_back: What is above the rate waits, where that can be had; otherwise it is sent
                with marks of best effort.
            adopt: Sockets that its processes have already are treated so, too.

        Raises:
            InvalidParameter: It is no cgroup, or a number makes no sense.
            AccessDenied: The cgroup is another user's; or there is no right to an exact DSCP.
            NoSystemResources: This user has as many runs as one may have.
            NotSupported: What marks packets there cannot tell programs, or the service is older
                than such requests.
            ReinitializationNeeded: The service is gone.
        """
        name = program.encode("utf-8", "replace").decode("utf-8")[: ms.MAX_PROGRAM_CHARS]
        message = ms.StartRun(
            self._connection.next_id(),
            name,
            pid,
            traffic_type,
            dscp,
            rate_bps,
            hold_back,
            adopt,
        )
        return self._ask(message, started_run_of, (cgroup,))

    def end_run(self, run: int) -> None:
        """End a run before its processes end.

        Raises:
            FlowNotFound: There is no such run of this user.
            NotSupported: The service is older than such requests.
            ReinitializationNeeded: The service is gone.
        """
        self._ask(ms.EndRun(self._connection.next_id(), run), nothing_of)

    def programs(self) -> tuple[ms.ProgramRow, ...]:
        """Runs that this user may see, then the policy's rules, the best first.

        Raises:
            NotSupported: The service is older than such requests.
            ReinitializationNeeded: The service is gone.
        """
        found: list[ms.ProgramRow] = []
        has_more = True
        while has_more:
            message = ms.ListPrograms(self._connection.next_id(), len(found))
            rows, has_more = self._ask(message, partial(page_of, kind=ms.ProgramRow))
            found += rows
        return tuple(found)

    def close(self) -> None:
        """End the connection; closing twice is harmless."""
        self._connection.close()

    def _ask(
        self, message: ms.Request, convert: Callable[[bytes], _T], descriptors: Sequence[int] = ()
    ) -> _T:
        if not self._can_ask:
            raise error_of(
                Refusal(
                    ErrorCode.ERROR_NOT_SUPPORTED,
                    f"the service, {self._service}, is older than this: update it",
                )
            )
        answer = self._connection.ask(message, convert, descriptors)
        if isinstance(answer, Pending):
            # No such request is postponed today; one that is waits as long as it takes.
            answer = cast("_T | Refusal", answer.future.result())
        if isinstance(answer, Refusal):
            raise error_of(answer)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_programs() -> Programs:
    """Connect to the service.

    Raises:
        ServiceUnavailable: There is none.
        NoSystemResources: It has no room for another connection.
    """
    path = socket_path()
    dialled = look(path) or dial(path)
    if isinstance(dialled, NoService):
        raise ServiceUnavailable(f"{dialled.reason}; it takes qwaved to mark other programs")
    if isinstance(dialled, Refusal):
        raise error_of(dialled)
    return Programs(dialled)
