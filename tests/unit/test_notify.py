"""What a service manager is told, and when it cannot be."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from openqwave.service.notify import Notifier

HALF_S = 500_000_000


class Manager:
    """A service manager's socket."""

    def __init__(self, name: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(name)
        self._sock.setblocking(False)

    @property
    def name(self) -> str:
        name = self._sock.getsockname()
        return "@" + name[1:].decode() if isinstance(name, bytes) else name

    def heard(self) -> list[str]:
        told = []
        while True:
            try:
                told.append(self._sock.recv(4_096).decode())
            except BlockingIOError:
                return told

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager("" if request.param == "abstract" else str(tmp_path / "notify"))
    yield made
    made.close()


def test_what_is_told(manager: Manager, fd_guard: None) -> None:
    del fd_guard
    environment = {"NOTIFY_SOCKET": manager.name, "HOME": "/"}
    notifier = Notifier(environment, now_ns=lambda: 1_234_567_899)
    assert environment == {"HOME": "/"}
    notifier.ready("listening at /run/qwave/qwaved.sock")
    notifier.reloading()
    notifier.tell("two\nlines READY=1")
    notifier.keep_alive()
    notifier.stopping()
    assert manager.heard() == [
        "READY=1\nSTATUS=listening at /run/qwave/qwaved.sock",
        "RELOADING=1\nMONOTONIC_USEC=1234567",
        "STATUS=two lines READY=1",
        "STOPPING=1",
    ]


def test_the_watchdog_is_told_at_half_its_time(manager: Manager) -> None:
    now_ns = 10
    notifier = Notifier(
        {
            "NOTIFY_SOCKET": manager.name,
            "WATCHDOG_USEC": "1000000",
            "WATCHDOG_PID": str(os.getpid()),
        },
        now_ns=lambda: now_ns,
    )
    assert notifier.watchdog_ns == HALF_S
    times = []
    for now_ns in range(10, 10 + 4 * HALF_S, HALF_S // 5):
        notifier.keep_alive()
        if manager.heard() == ["WATCHDOG=1"]:
            times.append((now_ns - 10) / HALF_S)
    assert times == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("variables", "is_watched"),
    [
        ({"WATCHDOG_USEC": "30000000"}, True),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "-5"}, False),
        ({"WATCHDOG_PID": str(os.getpid())}, False),
        ({}, False),
    ],
)
def test_whom_the_watchdog_watches(
    manager: Manager, variables: dict[str, str], *, is_watched: bool
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name, **variables})
    notifier.keep_alive()
    assert manager.heard() == (["WATCHDOG=1"] if is_watched else [])
    assert (notifier.watchdog_ns is not None) == is_watched


@pytest.mark.parametrize("name", [None, "", "vsock:2:1234", "relative"])
def test_without_a_service_manager(name: str | None, caplog: pytest.LogCaptureFixture) -> None:
    environment = {"WATCHDOG_USEC": "1000000"}
    if name is not None:
        environment["NOTIFY_SOCKET"] = name
    notifier = Notifier(environment)
    notifier.ready("")
    notifier.keep_alive()
    notifier.stopping()
    assert environment == {}
    assert len(caplog.records) == (1 if name else 0)


def test_who_cannot_be_told_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fd_guard: None
) -> None:
    del fd_guard
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    for _ in range(3):
        notifier.ready("here")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "READY=1" in record.getMessage()
    assert "No such file" in record.getMessage()


def test_one_that_does_not_read_keeps_nobody_waiting(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    # More than any queue of datagrams takes (net.unix.max_dgram_qlen).
    for _ in range(2_000):
        notifier.tell("still here")
    assert manager.heard()
