"""Sockets are described by the kernel, found again by their cookies, and never kept open."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from openqwave.drivers.sockets import SocketDirectory, SocketLike
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import Transport
from openqwave.model.sockets import SocketFacts
from tests.unit.loopback import KINDS, Bench

SO_COOKIE = 57


def cookie_of(sock: socket.socket) -> int:
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)


class Wrapped:
    """Stands for a socket as asyncio's transport sockets do."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()


@pytest.fixture
def directory() -> SocketDirectory:
    return SocketDirectory()


@contextmanager
def borrowed(directory: SocketDirectory, cookie: int) -> Iterator[socket.socket | None]:
    sock = directory.borrow(cookie)
    try:
        yield sock
    finally:
        directory.give_back(sock)


def finds(directory: SocketDirectory, cookie: int) -> bool:
    with borrowed(directory, cookie) as found:
        return found is not None and cookie_of(found) == cookie


# -- describing -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["object", "number", "wrapped"])
def test_facts(directory: SocketDirectory, sockets: Bench, kind: str, form: str) -> None:
    sock = sockets.make(kind)
    forms: dict[str, SocketLike] = {
        "object": sock,
        "number": sock.fileno(),
        "wrapped": Wrapped(sock),
    }
    facts = directory.describe(forms[form])
    assert isinstance(facts, SocketFacts)
    assert facts.cookie == cookie_of(sock) == directory.cookie_of(forms[form])
    assert facts.transport is (Transport.TCP if kind.startswith("tcp") else Transport.UDP)
    assert facts.version == (6 if "6" in kind else 4)
    peer = KINDS[kind][2]
    if peer is None:
        assert facts.peer is None
    else:
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        assert facts.peer == Endpoint(socket.inet_pton(family, peer), sock.getpeername()[1])


def test_an_unconnected_socket_names_its_interface(
    directory: SocketDirectory, sockets: Bench
) -> None:
    sock = sockets.make("udp4")
    sock.setsockopt(socket.SOL_SOCKET, 62, 1)  # SO_BINDTOIFINDEX, loopback
    facts = directory.describe(sock)
    assert isinstance(facts, SocketFacts)
    assert facts.interface == 1


def test_other_protocols_are_not_supported(directory: SocketDirectory) -> None:
    # By contract: "TCP and UDP over IPv4 and IPv6. Anything else: ERROR_NOT_SUPPORTED."
    left, right = socket.socketpair()
    with left, right:
        refusal = directory.describe(left)
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED


@pytest.mark.root
@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_PACKET, socket.SOCK_DGRAM, 0),
        (socket.AF_NETLINK, socket.SOCK_RAW, 0),
    ],
    ids=["raw udp", "raw icmp", "packet", "netlink"],
)
def test_raw_sockets_are_not_supported(
    directory: SocketDirectory, family: int, kind: int, protocol: int
) -> None:
    with socket.socket(family, kind, protocol) as sock:
        refusal = directory.describe(sock)
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED


def test_no_sockets(directory: SocketDirectory, sockets: Bench) -> None:
    # By contract: "Not a socket: ERROR_INVALID_PARAMETER."
    closed = sockets.make("udp4")
    closed.close()
    reader, writer = os.pipe()
    try:
        for thing in (closed, -1, 10**6, 1 << 40, reader, Wrapped(closed), object(), "3", None):
            for answer in (directory.describe(thing), directory.cookie_of(thing)):  # type: ignore[arg-type]  # wrong on purpose
                assert isinstance(answer, Refusal), thing
                assert answer.code is ErrorCode.ERROR_INVALID_PARAMETER
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.usefixtures("fd_guard")
def test_describing_leaves_nothing_open(directory: SocketDirectory) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        directory.describe(sock.fileno())
        directory.describe(Wrapped(sock))
        directory.describe(10**6)
        facts = directory.describe(0)
        assert isinstance(facts, Refusal)


# -- finding again --------------------------------------------------------------------


@pytest.mark.parametrize("form", ["object", "number", "wrapped"])
def test_found_again(directory: SocketDirectory, sockets: Bench, form: str) -> None:
    sock = sockets.make("udp4")
    cookie = cookie_of(sock)
    forms: dict[str, SocketLike] = {
        "object": sock,
        "number": sock.fileno(),
        "wrapped": Wrapped(sock),
    }
    directory.remember(cookie, forms[form])
    assert finds(directory, cookie)
    assert not directory.is_gone(cookie)
    directory.forget(cookie)
    assert directory.borrow(cookie) is None


def test_an_object_is_lent_as_it_is(directory: SocketDirectory, sockets: Bench) -> None:
    sock = sockets.make("udp4")
    directory.remember(cookie_of(sock), sock)
    lent = directory.borrow(cookie_of(sock))
    assert lent is sock
    directory.give_back(lent)
    assert sock.fileno() >= 0, "giving back must not close the application's own object"


@pytest.mark.parametrize("form", ["object", "number"])
def test_found_after_dup_and_close(directory: SocketDirectory, form: str) -> None:
    # "the application duplicated the descriptor and closed the first"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        cookie = cookie_of(sock)
        directory.remember(cookie, sock if form == "object" else sock.fileno())
        copy = sock.dup()
    with copy:
        assert finds(directory, cookie)
        assert finds(directory, cookie), "the second time by the new number"
    assert directory.is_gone(cookie)


def test_found_after_detach(directory: SocketDirectory) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    cookie = cookie_of(sock)
    directory.remember(cookie, sock)
    number = sock.detach()
    try:
        assert finds(directory, cookie)
    finally:
        os.close(number)
    assert directory.is_gone(cookie)


def test_found_after_the_object_was_collected(directory: SocketDirectory) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    cookie = cookie_of(sock)
    directory.remember(cookie, sock)
    again = socket.socket(fileno=os.dup(sock.fileno()))
    sock.close()
    del sock
    gc.collect()
    with again:
        assert finds(directory, cookie)


def test_a_reused_number_is_another_socket(directory: SocketDirectory) -> None:
    # "File numbers are reused within microseconds; a cookie is never."
    first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    cookie, number = cookie_of(first), first.fileno()
    directory.remember(cookie, number)
    first.close()
    # The lowest free number is taken, so it is the same one.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
        assert second.fileno() == number
        assert directory.is_gone(cookie)
        assert directory.borrow(cookie) is None
        assert second.fileno() == number


def test_a_reused_number_that_is_no_socket(directory: SocketDirectory) -> None:
    first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    cookie, number = cookie_of(first), first.fileno()
    directory.remember(cookie, number)
    first.close()
    reader, writer = os.pipe()
    try:
        if number not in (reader, writer):
            os.dup2(reader, number)
        assert directory.is_gone(cookie)
    finally:
        for open_number in {reader, writer, number}:
            os.close(open_number)


@pytest.mark.usefixtures("fd_guard")
def test_looking_leaves_nothing_open(directory: SocketDirectory) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        cookie = cookie_of(sock)
        directory.remember(cookie, sock.fileno())
        for _ in range(3):
            assert finds(directory, cookie)
        copy = sock.dup()
    with copy:
        assert finds(directory, cookie)
    assert directory.is_gone(cookie)


def test_the_peer_sees_the_end(directory: SocketDirectory) -> None:
    # "a copy of the descriptor kept in between would hold the application's connection open
    # after the application closed it: the peer would wait for an end that never comes".
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with far:
        far.settimeout(10)
        for form in (near, near.fileno()):
            directory.remember(cookie_of(near), form)
            assert finds(directory, cookie_of(near))
        near.close()
        assert far.recv(1) == b""
