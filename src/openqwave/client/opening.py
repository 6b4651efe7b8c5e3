"""Where a handle comes from: the service, if one answers, or the subsystem inside the process.

The choice is made once for each handle, and a handle is one or the other for its life. That there
is no service is no error, unless the service was insisted on; why there is none can be read. A
service that is there and refuses another handle is not got round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openqwave.client.embedded import process_subsystem
from openqwave.client.whereabouts import NoService, look, socket_path
from openqwave.model.errors import InvalidParameter, Refusal, ServiceUnavailable, error_of
from openqwave.runtime.session import Session

if TYPE_CHECKING:
    from openqwave.client.session import AnySession

EMBEDDED: Final = "embedded"
SERVICE: Final = "service"


@dataclass(frozen=True, slots=True)
class Backend:
    """Where the subsystem runs, and why there.

    Attributes:
        name: ``service``: in qwaved, for all processes of the host; ``embedded``: inside this
            process, as an ordinary user.
        reason: Why it was chosen.
    """

    name: str
    reason: str


def open_session(*, embedded: bool = False, service: bool = False) -> tuple[AnySession, Backend]:
    """Open a handle.

    Args:
        embedded: Insist on the engine inside this process.
        service: Insist on the service.

    Returns:
        The handle's calls, and where its subsystem runs.

    Raises:
        InvalidParameter: Both were insisted on.
        ServiceUnavailable: The service was insisted on, and there is none.
        NoSystemResources: Too many handles are open.
    """
    if embedded and service:
        raise InvalidParameter("embedded=True and service=True exclude each other")
    if embedded:
        return _embedded("embedded=True was asked for")
    path = socket_path()
    opened = look(path) or _remote(path)
    if not isinstance(opened, NoService):
        return opened
    if service:
        raise ServiceUnavailable(
            f"{opened.reason}; start qwaved, or leave service=True out to run embedded"
        )
    return _embedded(opened.reason)


def _remote(path: str) -> tuple[AnySession, Backend] | NoService:
    # See `openqwave.client.whereabouts`.
    from openqwave.client.dialing import dial
    from openqwave.client.remote import RemoteSession

    dialled = dial(path)
    if isinstance(dialled, NoService):
        return dialled
    if isinstance(dialled, Refusal):
        raise error_of(dialled)
    return RemoteSession(dialled), Backend(SERVICE, f"{dialled.welcome.service} answers at {path}")


def _embedded(reason: str) -> tuple[AnySession, Backend]:
    host = process_subsystem()
    handle_id = host.open_handle()
    if isinstance(handle_id, Refusal):
        raise error_of(handle_id)
    return Session(host, handle_id), Backend(EMBEDDED, reason)
