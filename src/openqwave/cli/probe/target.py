"""The host of `qwave probe HOST`: a name or an address becomes one address, once.

A name is looked up in a thread, because the system's resolver does not let go for Ctrl-C, and may
wait many seconds for a server that does not answer. Addresses need no look-up.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from openqwave.cli.probe.outcome import Destination
from openqwave.model.endpoint import Endpoint
from openqwave.wire.qlpb import PORT

if TYPE_CHECKING:
    from openqwave.cli.interruption import Interruption

_FAMILIES = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}

# What a look-up comes to: an address each, as the socket module names them.
_Found = list[tuple[Any, ...]]


class BadHostError(ValueError):
    """The host that was named is none that can be measured towards; the message says why."""


def resolve(
    host: str, version: int | None, interruption: Interruption
) -> tuple[Endpoint, Destination]:
    """Find the address of a host: the first that the system prefers.

    Args:
        host: A name, or an address, an IPv6 one perhaps with %scope.
        version: The IP version that is wanted; None for either.
        interruption: May end the look-up.

    Raises:
        BadHostError: There is no such host, or none that can be measured towards.
        Interrupted: A signal came.
    """
    found = _look_up(host, version, interruption)
    endpoint = _endpoint_of(found[0][4])
    _check(host, endpoint, version)
    address = str(endpoint.address)
    if endpoint.scope_id:
        address += f"%{_scope_name(endpoint.scope_id)}"
    return endpoint, Destination(host, address, endpoint.version)


def addresses_of(host: str, interruption: Interruption) -> list[Endpoint]:
    """All addresses of a host.

    Args:
        host: A name or an address.
        interruption: May end the look-up.

    Raises:
        BadHostError: There is no such host.
        Interrupted: A signal came.
    """
    return [_endpoint_of(found[4]) for found in _look_up(host, None, interruption)]


def _endpoint_of(name: tuple[Any, ...]) -> Endpoint:
    if ":" in name[0]:
        packed = socket.inet_pton(socket.AF_INET6, name[0].partition("%")[0])
        return Endpoint(packed, PORT, name[3]).unmapped()
    return Endpoint(socket.inet_aton(name[0]), PORT)


def _scope_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        # The interface went away; its number is all that is left to say.
        return str(index)


def _look_up(host: str, version: int | None, interruption: Interruption) -> _Found:
    try:
        # An address is what it is; `_check` says so if another version was wanted.
        return _ask(host, socket.AF_UNSPEC, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return _look_up_name(host, _FAMILIES[version], interruption)
    except (OSError, ValueError) as error:
        raise BadHostError(f"{host!r} is no name or address: {error}") from error


def _ask(host: str, family: socket.AddressFamily, flags: int = 0) -> _Found:
    return socket.getaddrinfo(host, PORT, family, socket.SOCK_DGRAM, flags=flags)


def _look_up_name(host: str, family: socket.AddressFamily, interruption: Interruption) -> _Found:
    answers: list[_Found | OSError | ValueError] = []
    done = os.eventfd(0, os.EFD_CLOEXEC)

    def ask() -> None:
        try:
            answers.append(_ask(host, family))
        except (OSError, ValueError) as error:
            # A ValueError is of a name that cannot be written as one: too long, an empty part.
            answers.append(error)
        finally:
            os.eventfd_write(done, 1)

    # A daemon, or the interpreter would wait at its end for the resolver to give up. The
    # descriptor stays open for it if this is interrupted; the process ends then.
    threading.Thread(target=ask, name="openqwave-resolver", daemon=True).start()
    interruption.wait_readable(done)
    os.close(done)
    answer = answers[0]
    if isinstance(answer, list):
        return answer
    which = {socket.AF_INET: "IPv4 ", socket.AF_INET6: "IPv6 "}.get(family, "")
    why = getattr(answer, "strerror", None) or answer
    raise BadHostError(f"no {which}address is found for {host}: {why}")


def _check(host: str, endpoint: Endpoint, version: int | None) -> None:
    if version is not None and endpoint.version != version:
        raise BadHostError(f"{host} is an IPv{endpoint.version} address")
    if endpoint.is_unspecified or endpoint.is_multicast:
        raise BadHostError(f"{host} is no single host's address")
    if endpoint.is_link_local and not endpoint.scope_id:
        raise BadHostError(
            f"{host} is a link-local address: say which interface, as in {endpoint.address}%eth0"
        )
