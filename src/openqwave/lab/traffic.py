"""Generators and sinks at work on the hosts of a lab.

Each runs `agent` in a process on its host. A thread of this process reads the reports as they
come, so an agent is never held up by a full pipe, and whoever wants one waits for it by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import IO, Any, Self, cast

from openqwave.lab.hosts import Host
from openqwave.lab.specs import Spec, to_json

Report = dict[str, Any]

# Starting an interpreter takes 0.1 s; a machine with other work, several times that.
START_TIMEOUT_S = 20.0
# A final report follows the request by a timer period and the time to write it.
STOP_TIMEOUT_S = 10.0


class AgentError(RuntimeError):
    """An agent failed, or ended without the report that was waited for."""


class Agent:
    """One generator or sink; stopped at the end of a `with` block, and with its lab.

    Attributes:
        host: Where it runs.
        spec: What it does.
        ready: Its report "ready": "address" and "port" of its socket.
    """

    def __init__(self, host: Host, spec: Spec) -> None:
        """Start it and wait until its socket is open.

        Raises:
            AgentError: It could not start; the message is its own.
            TimeoutError: It did not start in time.
        """
        self.host = host
        self.spec = spec
        self._reports: list[Report] = []
        self._arrival = threading.Condition()
        self._ended = False
        self._process = host.popen(
            [sys.executable, "-m", "openqwave.lab.agent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # They are pipes, as asked; the type of Popen cannot say so.
        self._input = cast("IO[str]", self._process.stdin)
        self._output = cast("IO[str]", self._process.stdout)
        self._reader = threading.Thread(target=self._read, name="lab-reports", daemon=True)
        self._reader.start()
        host.at_close(self.close)
        self._input.write(to_json(spec) + "\n")
        self.ready = self.wait_for("ready", START_TIMEOUT_S)

    @property
    def port(self) -> int:
        """The port of its socket."""
        return int(self.ready["port"])

    def _read(self) -> None:
        for line in self._output:
            with self._arrival:
                self._reports.append(json.loads(line))
                self._arrival.notify_all()
        with self._arrival:
            self._ended = True
            self._arrival.notify_all()

    @property
    def ended(self) -> bool:
        """Whether it will report no more."""
        with self._arrival:
            return self._ended

    def reports(self, since: int = 0) -> list[Report]:
        """Return its reports so far, from one number on."""
        with self._arrival:
            return self._reports[since:]

    def wait_for(self, event: str, timeout_s: float, since: int = 0) -> Report:
        """Return its first report of some kind, from one number on, when it has come.

        Raises:
            AgentError: It reported an error, or ended without such a report.
            TimeoutError: None came in time.
        """
        deadline = time.monotonic() + timeout_s
        seen = since
        with self._arrival:
            while True:
                for report in self._reports[seen:]:
                    if report["event"] == event:
                        return report
                    if report["event"] == "error":
                        raise AgentError(f"the agent on {self.host.name}: {report['message']}")
                seen = max(seen, len(self._reports))
                if self._ended:
                    raise AgentError(f"the agent on {self.host.name} ended without {event!r}")
                if not self._arrival.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no {event!r} from the agent on {self.host.name}")

    def wait(self, timeout_s: float) -> Report:
        """Wait for its own end; return its final report. Errors as with `wait_for`."""
        final = self.wait_for("final", timeout_s)
        self._release()
        return final

    def stop(self) -> Report:
        """Ask it to end; return its final report. Errors as with `wait_for`."""
        self._input.close()
        return self.wait(STOP_TIMEOUT_S)

    def _release(self) -> None:
        self._process.wait(STOP_TIMEOUT_S)
        self._reader.join(STOP_TIMEOUT_S)
        self._input.close()
        self._output.close()

    def close(self) -> None:
        """End it, without waiting for its final report; harmless when done before."""
        if self._process.poll() is None:
            self._process.terminate()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
