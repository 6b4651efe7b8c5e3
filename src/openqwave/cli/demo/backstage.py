"""What stages with an emulated link need behind the scenes: processors, programs, punctuality.

A link's emulator is a program, and one that is not run in time makes a jitter that no link has. So
it gets a processor for itself where there are two, and is asked afterwards how punctual it was.
Programs write to files in memory, so that nothing is on a disk if all of this is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from openqwave.lab.emulation import EmulatorCounters, WayCounters

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence

    from openqwave.lab.hosts import Host

QWAVE = (sys.executable, "-m", "openqwave.cli")


def give_up_a_cpu(resources: contextlib.ExitStack) -> int | None:
    """Keep this process, and what it starts, off one processor; None where there is but one."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        return None
    given_up = max(allowed)
    os.sched_setaffinity(0, allowed - {given_up})
    resources.callback(os.sched_setaffinity, 0, allowed)
    return given_up


def processor_wait_ns(pid: int) -> int:
    """How long a process has waited for a processor; 0 where the kernel does not count it."""
    try:
        # Time on a processor, time waiting for one, and how often (Documentation/scheduler/
        # sched-stats.rst of the kernel).
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:
        return 0


def between(before: EmulatorCounters, after: EmulatorCounters) -> EmulatorCounters:
    """Counters with the lateness of the frames between two readings."""

    def gained(then: WayCounters, now: WayCounters) -> WayCounters:
        pairs = zip(then.lateness, now.lateness, strict=True)
        return replace(now, lateness=tuple(late - earlier for earlier, late in pairs))

    return replace(
        after,
        forward=gained(before.forward, after.forward),
        backward=gained(before.backward, after.backward),
    )


def memory(resources: contextlib.ExitStack) -> int:
    """Make a file in memory; return its descriptor."""
    fd = os.memfd_create("openqwave-demo")
    resources.callback(os.close, fd)
    return fd


class Program:
    """A program on a host, writing to memory; it ends with the lab."""

    def __init__(
        self,
        host: Host,
        resources: contextlib.ExitStack,
        command: Sequence[str],
        *,
        pass_fd: int | None = None,
    ) -> None:
        self._output, self._errors = memory(resources), memory(resources)
        self._process = host.popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            pass_fds=() if pass_fd is None else (pass_fd,),
        )

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def output(self, since: int = 0) -> str:
        """What it has written so far, from one byte on."""
        return _text(self._output, since)

    def last_error(self) -> str:
        """The last line that it has written to standard error."""
        lines = _text(self._errors).splitlines()
        return lines[-1] if lines else ""


def _text(fd: int, since: int = 0) -> str:
    # Not by read, which would move the place where the program writes.
    return os.pread(fd, os.fstat(fd).st_size, since).decode(errors="replace")
