"""`qwave sink` and `qwave probe` as processes on the lab's hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from types import TracebackType

    from openqwave.lab.topology import Host

PORT = 2177
# Far longer than anything takes that is to end by itself.
TIMEOUT_S = 60.0

BOTH = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])

_COMMAND = [sys.executable, "-m", "openqwave.cli"]
# A shell's background job is born ignoring SIGINT, and so is what it starts.
_INTERRUPTIBLE = [
    sys.executable,
    "-c",
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from openqwave.cli.main import run\n"
    "run()\n",
]
_ENVIRONMENT = {**os.environ, "COLUMNS": "80"}


def address_of(host: Host, version: int) -> str:
    return host.ipv4 if version == 4 else host.ipv6


def start(host: Host, *arguments: str, interruptible: bool = False) -> subprocess.Popen[str]:
    """Start `qwave` on a host, with pipes for what it writes."""
    return host.popen(
        [*(_INTERRUPTIBLE if interruptible else _COMMAND), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
    )


@dataclass(frozen=True)
class Done:
    """What a command left."""

    status: int
    output: str
    errors: str

    @property
    def told(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.output)


def finish(process: subprocess.Popen[str]) -> Done:
    """Wait for a command's end."""
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in errors, errors
    return Done(process.returncode, output, errors)


def run(host: Host, *arguments: str) -> Done:
    """Run `qwave` on a host to its end."""
    return finish(start(host, *arguments))


def assert_capacity(told: dict[str, Any], rate_bps: int) -> None:
    """What was found is about right, or said to be unknown, as on a busy machine it may be."""
    capacity = told["capacity_bps"]
    if capacity["value"] is None:
        assert capacity["reason"]
        return
    assert capacity["low"] <= capacity["value"] <= capacity["high"]
    assert abs(capacity["value"] - rate_bps) < 0.25 * rate_bps


def measure(host: Host, *arguments: str) -> tuple[Done, int]:
    """Probe until the capacity is known; the last result, and how often it was tried.

    A machine that stands still for some of the time spoils a measurement, but not five of them.
    """
    for tries in range(1, 6):
        done = run(host, "probe", "--json", *arguments)
        assert done.status in (0, 3), done.errors
        if done.told["capacity_bps"]["value"] is not None:
            return done, tries
    pytest.fail(f"the capacity was never found: {done.output}")


class Sink:
    """`qwave sink --json` on a host, which listens; a context manager.

    Attributes:
        process: The program.
        events: What it told so far, as far as it was looked at; "listening" from the start.
    """

    def __init__(self, host: Host, *options: str) -> None:
        self.process = start(host, "sink", "--json", *options, interruptible=True)
        self.events: list[dict[str, Any]] = []
        assert self.read()["event"] == "listening"

    @property
    def _output(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def read(self) -> dict[str, Any]:
        """Wait for the next event."""
        line = self._output.readline()
        assert line, f"the sink ended: {self.process.stderr.read() if self.process.stderr else ''}"
        event: dict[str, Any] = json.loads(line)
        self.events.append(event)
        return event

    def wait_for(self, name: str) -> dict[str, Any]:
        """Wait for an event of a kind."""
        while True:
            event = self.read()
            if event["event"] == name:
                return event

    def end(self, number: int) -> dict[str, Any]:
        """End it by a signal; what it counted."""
        self.process.send_signal(number)
        done = finish(self.process)
        assert (done.status, done.errors) == (0, "")
        self.events += [json.loads(line) for line in done.output.splitlines()]
        final = self.events[-1]
        assert final["event"] == "final"
        return final

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT_S)


def seen_to_end(sink: Sink, number: int) -> tuple[dict[str, Any], dict[str, int]]:
    """End a sink; its counts, and of what it refused, that which happened."""
    final = sink.end(number)
    return final, {reason: count for reason, count in final["refused"].items() if count}
