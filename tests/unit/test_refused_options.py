"""The kernel refuses one option of several: what the socket is owed is known, and all is undone."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from openqwave.drivers.sockets import SocketDirectory
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import Treatment
from openqwave.subsystem.effects import Applied, Share, SocketPlan
from tests.unit.loopback import Bench, options_of, set_pacing, set_priority, set_tclass, set_tos

HERE = Endpoint(bytes([127, 0, 0, 1]), 9)
FIRST, SECOND = Treatment(8, 1, 4_000_000), Treatment(56, 6, 8_000_000)
KINDS = ("tcp4 connected", "tcp6 connected")
# TOS, class, priority, pacing.
MOST_OPTIONS = 4


class NoQueues:
    """TCP needs none."""

    def is_paced(self, *_: object) -> bool:
        return False

    def linux_version(self) -> tuple[int, int]:
        return (6, 7)


class Refusing:
    """Lets some options through, and then refuses one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._let = -1
        self.has_refused = False
        real = socket.socket.setsockopt

        def setsockopt(sock: socket.socket, *arguments: Any) -> None:  # noqa: ANN401
            if self._let == 0:
                self._let = -1
                self.has_refused = True
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            self._let -= 1
            real(sock, *arguments)

        patch.setattr(socket.socket, "setsockopt", setsockopt)

    def after(self, count: int) -> None:
        self._let = count


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", range(MOST_OPTIONS))
@pytest.mark.parametrize("has_marks", [False, True])
def test_what_is_owed_outlives_a_refusal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str, count: int, *, has_marks: bool
) -> None:
    sock, known = bench.make(kind), SocketDirectory()
    set_tos(sock, 0x20)
    if sock.family == socket.AF_INET6:
        set_tclass(sock, 0x40)
    set_priority(sock, 3)
    set_pacing(sock, 1 << 40)
    own = options_of(sock)
    cookie = known.cookie_of(sock)
    assert isinstance(cookie, int)
    known.remember(cookie, sock)
    backend = SocketOptions(known, NoQueues())
    refusing = Refusing(monkeypatch)

    def apply(*treatments: Treatment) -> Applied | Refusal:
        shares = tuple(Share(1, treatment, 1, (HERE,)) for treatment in treatments)
        return backend.apply((SocketPlan(cookie, shares),))

    if has_marks:
        assert isinstance(apply(FIRST), Applied)
    before = options_of(sock)
    refusing.after(count)
    outcome = apply(SECOND)
    refusing.after(-1)
    if refusing.has_refused:
        assert isinstance(outcome, Refusal)
        assert options_of(sock) == before
    else:
        assert kind == "tcp4 connected"
    assert isinstance(apply(SECOND), Applied)
    assert options_of(sock).tos == 56 << 2
    assert 950_000 < options_of(sock).pacing < 1_000_000
    assert isinstance(apply(), Applied)
    assert options_of(sock) == own
