"""Child processes inside namespaces that cannot outlive the one who started them.

A child is killed by the kernel when its parent *thread* ends (see `tether`), so all children of a
lab are started by one thread that lives as long as the lab. The end of that thread, by `close`,
by the end of the process or by SIGKILL, is the end of the children. What they start themselves is
out of reach: a program that forks has to look after its own.

A child inherits the namespace of the thread that starts it, so that thread enters the wanted one
for the moment of the start.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import IO

from openqwave.lab import tether
from openqwave.lab.namespaces import Namespace

# A generator needs one timer period to notice SIGTERM; the rest is a busy machine.
TERMINATION_S = 2.0


# What a standard stream may be: a descriptor, PIPE, DEVNULL, a file, or None for the parent's.
Redirection = int | IO[str] | None


class Children:
    """The processes of one lab, and the thread that is their parent."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._parent: threading.Thread | None = None

    def start(
        self,
        namespace: Namespace,
        argv: Sequence[str],
        *,
        stdin: Redirection = None,
        stdout: Redirection = None,
        stderr: Redirection = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        """Start a program in a namespace, as `subprocess.Popen` does in text mode.

        Args:
            namespace: Where its network is.
            argv: The program, sought on PATH, and its arguments.
            stdin: Its standard input; None for this process's.
            stdout: Its standard output, likewise.
            stderr: Its standard error, likewise.
            env: Its environment; None for this process's.
            pass_fds: Descriptors that it gets, under the same numbers.

        Raises:
            OSError: The tether could not be started. A program that does not exist ends with
                status 1 and says so on its standard error.
        """
        if self._parent is None:
            self._parent = threading.Thread(target=self._work, name="lab-parent", daemon=True)
            self._parent.start()
        command = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *argv]
        started: Future[subprocess.Popen[str]] = Future()

        def order() -> None:
            try:
                with namespace.enter():
                    process = subprocess.Popen(
                        command,
                        stdin=stdin,
                        stdout=stdout,
                        stderr=stderr,
                        env=env,
                        pass_fds=pass_fds,
                        text=True,
                        bufsize=1,
                        # Ctrl-C is for the lab, which then ends its children in order.
                        process_group=0,
                    )
                self._processes.append(process)  # Here: a caller may be interrupted waiting.
                started.set_result(process)
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
                started.set_exception(error)

        self._orders.put(order)
        return started.result()

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            order()

    def close(self) -> None:
        """Ask every child to end, insist after `TERMINATION_S`, and close their pipes."""
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + TERMINATION_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in self._processes:
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._processes.clear()
        parent, self._parent = self._parent, None
        if parent is not None:
            self._orders.put(None)
            parent.join()
