"""`policy.d` and a running service: SIGHUP brings a change in force, and never half of one."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import openqwave as qw
from openqwave.client.whereabouts import SOCKET_VARIABLE

# A bound for what takes a fraction of a second.
PATIENCE_S = 30.0

RULE = '[[rule]]\nname = "calls"\nprogram = "baresip"\ntraffic_type = "voice"\n'


class Service:
    """A qwaved of the test's own, which marks by options and has no sink."""

    def __init__(self, folder: Path) -> None:
        self.policy = folder / "policy.d"
        self.policy.mkdir()
        self.path = str(folder / "s")
        config = folder / "qwaved.toml"
        config.write_text(
            f'[service]\nsocket = "{self.path}"\nstate_directory = "{folder}"\n'
            '[enforcement]\nbackend = "socket-options"\n[sink]\nenabled = false\n'
        )
        self._arguments = ["--config", str(config), "--policy", str(self.policy)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command(), stderr=subprocess.PIPE, bufsize=0, env=self._environment()
        )
        self.hear("listening at")

    def check(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command(), "--check"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "openqwave.service", *self._arguments]

    def _environment(self) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"}

    def hear(self, words: str) -> list[str]:
        """What it says until it says that."""
        assert self._process is not None
        assert self._process.stderr is not None
        end_s = time.monotonic() + PATIENCE_S
        heard: list[str] = []
        while not any(words in line for line in heard):
            left_s = end_s - time.monotonic()
            is_ready, _, _ = select.select([self._process.stderr], [], [], max(0.0, left_s))
            line = self._process.stderr.readline() if is_ready else b""
            assert line, f"it said only {heard}"
            heard.append(line.decode().rstrip("\n"))
        return heard

    def reload(self, words: str) -> list[str]:
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        return self.hear(words)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=60)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service(tmp_path)
    monkeypatch.setenv(SOCKET_VARIABLE, service.path)
    try:
        yield service
    finally:
        service.stop()


def dscp(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) >> 2


def test_a_reload_covers_policy_files_and_a_mistake_changes_nothing(service: Service) -> None:
    (service.policy / "10.toml").write_text("marks.profile = 'rfc4594'")
    service.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, qw.open(service=True) as qos:
        qos.add_socket(sock, ("127.0.0.1", 9), traffic_type=qw.TrafficType.VOICE, adaptive=False)
        assert dscp(sock) == 46
        # Files that come, and later ones that win.
        (service.policy / "20.toml").write_text("marks.voice.dscp = 44\nmarks.voice.pcp = 6")
        service.reload("was read again")
        assert dscp(sock) == 44
        # What is good in a file with a mistake is not in force, nor is what is good in others.
        (service.policy / "20.toml").write_text("marks.voice.dscp = 40\n\nlimits.flows = 0\n")
        (service.policy / "30.toml").write_text("marks.voice.dscp = 41\nmarks.x = 1\n")
        heard = service.reload("stays")
        assert f"{service.policy}/20.toml, line 3: limits.flows is 0" in heard[-2]
        assert f"{service.policy}/30.toml, line 2: marks.x is not known" in heard[-1]
        assert heard[-1].endswith("; the running configuration stays")
        assert dscp(sock) == 44
        # Files that go.
        for each in service.policy.iterdir():
            each.unlink()
        service.reload("was read again")
        assert dscp(sock) == 56


def test_rules_are_not_passed_over_in_silence(service: Service) -> None:
    (service.policy / "10.toml").write_text(RULE)
    service.start()
    (service.policy / "20.toml").write_text(RULE.replace("calls", "more"))
    heard = service.reload("of 2 rules for programs are in force")
    # Of a user who may load no program into the kernel, none is.
    assert "2 of 2" in heard[-1] or "cannot tell whose they are" in heard[-1]


def test_a_check_and_a_start_read_them_too(service: Service) -> None:
    assert service.check().returncode == 0
    (service.policy / "10.toml").write_text("\nmarks.voice = 3")
    checked = service.check()
    assert checked.returncode == 78
    assert f"{service.policy}/10.toml, line 2: marks.voice is 3" in checked.stderr
