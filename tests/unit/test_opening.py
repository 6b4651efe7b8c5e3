"""Which subsystem a handle is opened at, and what is said of the other one."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from ctypes import byref
from pathlib import Path
from typing import Any

import pytest

import openqwave as qw
from openqwave.client import dialing
from openqwave.client.dialing import program_name
from openqwave.client.opening import open_session
from openqwave.client.whereabouts import DEFAULT_SOCKET, socket_path
from openqwave.ipc import messages as ms
from openqwave.model.codes import ErrorCode
from openqwave.qos2 import (
    ERROR_NO_SYSTEM_RESOURCES,
    HANDLE,
    QOS_VERSION,
    GetLastError,
    QOSCloseHandle,
    QOSCreateHandle,
)
from tests.unit.far_end import PATIENCE_S

WELCOME = ms.encode_packet(ms.Welcome(1, (), "qwaved 7", False))


def farewell(code: ErrorCode, detail: str) -> bytes:
    return ms.encode_packet(ms.Farewell(int(code), code.name, detail))


class Listener:
    """Says one thing to whoever says hello.

    Attributes:
        path: Its socket.
        hello: What was said to it.
        is_over: Set when the client's end was closed.
    """

    def __init__(self, path: Path, greeting: bytes | None) -> None:
        self.path = str(path)
        self.hello: ms.Hello | None = None
        self.is_over = threading.Event()
        self._greeting = greeting
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            with sock:
                hello = ms.decode_request(sock.recv(4_096))
                assert isinstance(hello, ms.Hello)
                self.hello = hello
                if self._greeting == b"":
                    return
                if self._greeting is not None:
                    sock.send(self._greeting)
                while data := sock.recv(4_096):
                    request = ms.decode_request(data)
                    sock.send(b'{"type":"answer","id":%d,"value":null}' % request.id)  # type: ignore[union-attr]
                self.is_over.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def start(greeting: bytes | None) -> Listener:
        made.append(Listener(tmp_path / "qwaved.sock", greeting))
        monkeypatch.setenv("QWAVE_SOCKET", made[-1].path)
        return made[-1]

    yield start
    for listener in made:
        listener.close()


# -- where it is looked for -----------------------------------------------------------------


def test_where_a_service_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWAVE_SOCKET")
    assert socket_path() == DEFAULT_SOCKET == "/run/qwave/qwaved.sock"
    monkeypatch.setenv("QWAVE_SOCKET", "/elsewhere")
    assert socket_path() == "/elsewhere"
    monkeypatch.setenv("QWAVE_SOCKET", "")
    assert socket_path() == ""


def test_tests_do_not_find_a_service_by_chance() -> None:
    assert os.environ["QWAVE_SOCKET"] == ""
    with qw.open() as qos:
        assert qos.backend == qw.Backend(
            "embedded", "QWAVE_SOCKET is empty, which means that no service is wanted"
        )
        assert qos.session.is_local


def test_a_service_that_answers(listen: Callable[..., Listener]) -> None:
    listener = listen(WELCOME)
    with qw.open() as qos:
        assert qos.backend == qw.Backend("service", f"qwaved 7 answers at {listener.path}")
        assert not qos.session.is_local
        assert listener.hello == ms.Hello(1, ms.FEATURES, program_name())
    assert listener.is_over.wait(PATIENCE_S)


def test_insisting(listen: Callable[..., Listener]) -> None:
    listen(WELCOME)
    with qw.open(service=True) as qos:
        assert qos.backend.name == "service"
    with qw.open(embedded=True) as qos:
        assert qos.backend == qw.Backend("embedded", "embedded=True was asked for")
    with pytest.raises(qw.InvalidParameter):
        qw.open(embedded=True, service=True)


# -- why there is none ------------------------------------------------------------------------


def stream_socket(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "no service answers at {path} (No such file or directory)"),
        (lambda path: path.touch(), "no service answers at {path} (Connection refused)"),
        (stream_socket, "no service answers at {path} (Protocol wrong type for socket)"),
    ],
    ids=["nothing", "a file", "a stream"],
)
def test_nobody_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Any],
    reason: str,
) -> None:
    path = tmp_path / "qwaved.sock"
    made = make(path)
    monkeypatch.setenv("QWAVE_SOCKET", str(path))
    expect_embedded(reason.format(path=path))
    if made is not None:
        made.close()


def expect_embedded(reason: str) -> None:
    """The fallback says why; who insists is told the same, and what to do."""
    with qw.open() as qos:
        assert qos.backend == qw.Backend("embedded", reason)
    # By contract: "Service wanted but not to be had: ERROR_SERVICE_DEPENDENCY_FAIL."
    with pytest.raises(ConnectionError) as caught:
        qw.open(service=True)
    assert type(caught.value) is qw.ServiceUnavailable
    assert caught.value.detail.startswith(reason)
    assert "start qwaved" in caught.value.detail


def test_a_path_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWAVE_SOCKET", "/" + "x" * 200)
    with qw.open() as qos:
        assert qos.backend.name == "embedded"
        assert "No such file" in qos.backend.reason


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (b"\xff", "cannot be understood: "),
        (ms.encode_packet(ms.Welcome(2, (), "x", False)), "version 2 was not offered"),
        (ms.encode_packet(ms.Pending(1)), "cannot be understood: "),
        (b"", "the service at {path} said: "),
        (
            farewell(ErrorCode.ERROR_REVISION_MISMATCH, "version 1 is spoken no more"),
            "the service at {path} said: version 1 is spoken no more",
        ),
        (None, "the service at {path} did not say welcome within 0.05 s"),
    ],
    ids=["garbage", "newer", "out of turn", "ends", "farewell", "silence"],
)
def test_no_welcome(
    listen: Callable[..., Listener],
    monkeypatch: pytest.MonkeyPatch,
    greeting: bytes | None,
    reason: str,
) -> None:
    dial = dialing.dial
    patience_s = 0.05 if greeting is None else PATIENCE_S
    monkeypatch.setattr(dialing, "dial", lambda path: dial(path, patience_s))
    listener = listen(greeting)
    with qw.open() as qos:
        assert qos.backend.name == "embedded"
        assert reason.format(path=listener.path) in qos.backend.reason


def test_a_service_that_is_full_is_not_got_round(listen: Callable[..., Listener]) -> None:
    refusal = farewell(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "64 handles are open")
    listen(refusal)
    with pytest.raises(qw.NoSystemResources, match="64 handles are open"):
        qw.open()


# -- the Windows face -------------------------------------------------------------------------


def test_the_windows_face_finds_the_service(listen: Callable[..., Listener]) -> None:
    listener = listen(WELCOME)
    handle: Any = HANDLE()
    assert QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle)), GetLastError()
    assert listener.hello is not None
    assert QOSCloseHandle(handle)
    assert listener.is_over.wait(PATIENCE_S)


def test_the_windows_face_is_refused(listen: Callable[..., Listener]) -> None:
    listen(farewell(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "64 handles are open"))
    handle: Any = HANDLE(7)
    assert not QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle))
    assert GetLastError() == ERROR_NO_SYSTEM_RESOURCES
    assert handle.value == 7


# -- what this program calls itself -------------------------------------------------------------


@pytest.mark.parametrize(
    ("called", "name"),
    [
        (["/usr/bin/player", "x"], "player"),
        (["/usr/lib/python3/player/__main__.py"], "player"),
        (["-c"], "python"),
        ([""], "python"),
        ([], "python"),
        (["/tmp/\udcff.py"], "?.py"),  # noqa: S108 - nothing is there
    ],
)
def test_names_of_programs(monkeypatch: pytest.MonkeyPatch, called: list[str], name: str) -> None:
    monkeypatch.setattr(sys, "argv", called)
    assert program_name() == name


def test_a_long_name_is_cut(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["p" * 200])
    listener = listen(WELCOME)
    session, _ = open_session()
    session.close()
    assert listener.hello is not None
    assert listener.hello.program == "p" * ms.MAX_PROGRAM_CHARS
