"""Runs one command under the tests' kernel, with this machine's files, and writes discarded.

Model. The kernel is a program (see `build`); its first process (`init.sh`) lays a file system in
memory over the host's files and runs the command. What the command prints comes out here as it is
printed, its exit status is this function's. A guest has one processor, no network but its own,
and is root of itself whoever starts it. Its system calls take some six times as long as usual.

Two clocks. The real one goes as the host's does, and a busy host makes the guest late. The virtual
one stands still while the guest works, and jumps when it waits: an hour of sleep passes at once,
and packets leave to the nanosecond when they should, on any machine. Each look at the clock takes
a little of it, or who waits in a loop would wait for ever; such loops are slow all the same.

Sources: Documentation/virt/uml/user_mode_linux_howto_v2.rst, arch/um/kernel/time.c.
"""

from __future__ import annotations

import enum
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.other_kernel.build import say

HERE = Path(__file__).parent

# Noon of 1 January 2030, UTC: where virtual time begins, so that every run is like the last.
VIRTUAL_START_NS = 1_893_499_200 * 1_000_000_000

# The exit status where the command never ended: nothing that a test could end with.
LOST = 125

# How much of what the kernel printed is worth showing when something went wrong.
CONSOLE_CHARACTERS = 3_000


class Clock(enum.Enum):
    """How time passes in a guest."""

    REAL = "real"
    VIRTUAL = "virtual"


def run(
    kernel: Path,
    command: Sequence[str],
    *,
    clock: Clock = Clock.REAL,
    memory: str = "1G",
    limit_s: float = 600.0,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command in a guest that is made for it; its output goes to this process's.

    Args:
        kernel: The executable.
        command: A program and its arguments, or one string for a shell.
        clock: How time passes.
        memory: The guest's, as "1G"; holds what it writes as well.
        limit_s: Seconds of the host's after which the guest is ended.
        environment: What the command finds there beside PATH, HOME and LANG.

    Returns:
        The command's exit status; `LOST` if the guest ended without one, or was ended.
    """
    with tempfile.TemporaryDirectory(prefix="openqwave-guest-") as folder:
        control = Path(folder)
        (control / "command").write_text(script(command, environment or {}), encoding="utf-8")
        console = control / "console"
        with console.open("wb") as file:
            guest = subprocess.Popen(
                [
                    sys.executable,
                    str(HERE / "guard.py"),
                    *kernel_command(kernel, control, file.fileno(), clock, memory),
                ],
                # Closed with this process, however that ends.
                stdin=subprocess.PIPE,
                pass_fds=[file.fileno()],
                # A key pressed in the terminal is for this process, which then ends the guest.
                start_new_session=True,
            )
        why = "ended by itself"
        try:
            guest.wait(limit_s)
        except subprocess.TimeoutExpired:
            why = f"ended after {limit_s:.0f} s"
        finally:
            if guest.stdin is not None:
                guest.stdin.close()
            guest.wait()
        try:
            return int((control / "status").read_text(encoding="ascii"))
        except (OSError, ValueError):
            said = console.read_text(encoding="utf-8", errors="replace")[-CONSOLE_CHARACTERS:]
            say(f"no exit status: {why}. The kernel said:\n{said}")
            return LOST


def script(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What the guest's shell runs."""
    variables = {"HOME": "/root", "LANG": "C.UTF-8", **environment}
    text = command[0] if len(command) == 1 else shlex.join(command)
    return "".join(
        [
            *(f"export {shlex.quote(f'{name}={value}')}\n" for name, value in variables.items()),
            "ulimit -n 65536\n",
            f"cd {shlex.quote(os.getcwd())} || exit 1\n",
            f"{text}\n",
        ]
    )


def kernel_command(
    kernel: Path, control: Path, console: int, clock: Clock, memory: str
) -> list[str]:
    """The kernel's command line: what `kernel --help` explains."""
    return [
        str(kernel),
        f"mem={memory}",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"init={HERE / 'init.sh'}",
        f"OPENQWAVE_CTL={control}",
        # Where it keeps its process id.
        f"uml_dir={control}/",
        # No terminals but two: what the command prints. The kernel's own words go to a file.
        "con=null",
        "ssl=null",
        f"con0=null,fd:{console}",
        "con1=null,fd:1",
        "con2=null,fd:2",
        "quiet",
        *(
            ["time-travel=inf-cpu", f"time-travel-start={VIRTUAL_START_NS}"]
            if clock is Clock.VIRTUAL
            else []
        ),
    ]
