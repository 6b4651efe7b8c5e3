"""QOSStartTrackingClient and QOSStopTrackingClient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from openqwave.model.codes import TRUE, ErrorCode
from openqwave.qos2.arguments import BadArgument, integer
from openqwave.qos2.handles import opened_by, refuse
from openqwave.qos2.lasterror import fail
from openqwave.qos2.sockaddrs import endpoint_at
from openqwave.qos2.troubles import IN_START_TRACKING, NOT_OF_PATHS, named

if TYPE_CHECKING:
    from openqwave.client.session import AnySession
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.errors import Refusal
    from openqwave.qos2.troubles import Names


def QOSStartTrackingClient(QOSHandle: object, DestAddr: object, Flags: object) -> int:
    """Begin light experiments on the path to a host.

    Args:
        QOSHandle: The handle.
        DestAddr: A sockaddr; its port is ignored.
        Flags: 0.

    Returns:
        TRUE, or FALSE with a last error.
    """
    return _track(
        QOSHandle,
        DestAddr,
        Flags,
        lambda session, host: session.start_tracking(host),
        IN_START_TRACKING,
    )


def QOSStopTrackingClient(QOSHandle: object, DestAddr: object, Flags: object) -> int:
    """End the interest in the path to a host; flows are not affected.

    Args:
        QOSHandle: The handle.
        DestAddr: A sockaddr; its port is ignored.
        Flags: 0.

    Returns:
        TRUE, or FALSE with a last error.
    """
    return _track(
        QOSHandle,
        DestAddr,
        Flags,
        lambda session, host: session.stop_tracking(host),
        NOT_OF_PATHS,
    )


def _track(
    QOSHandle: object,
    DestAddr: object,
    Flags: object,
    act: Callable[[AnySession, Endpoint], Refusal | None],
    names: Names,
) -> int:
    opened = opened_by(QOSHandle)
    if opened is None:
        return fail(ErrorCode.ERROR_INVALID_HANDLE)
    try:
        endpoint = endpoint_at(DestAddr)
        if endpoint is None or integer(Flags):
            raise BadArgument
    except BadArgument as bad:
        return refuse(opened, bad.code)
    refusal = act(opened.session, endpoint.host())
    return TRUE if refusal is None else fail(named(refusal.code, names))


__all__ = ["QOSStartTrackingClient", "QOSStopTrackingClient"]
