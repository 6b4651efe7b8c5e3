"""Run a program that dies with the thread that started it: `python tether.py PARENT PROGRAM ...`.

PR_SET_PDEATHSIG asks the kernel for a signal at the parent's end. It has to be set in the child,
and a callback between fork and exec is no place for it in a process with threads, so this small
program sets it and becomes the wanted one. The setting survives execve, except into a set-user-id
program or one with file capabilities, and it is not inherited by the program's own children.

The parent may have died before the request was made. Its process id is compared for that; a
parent that is gone has been replaced by another.

Source: prctl(2), PR_SET_PDEATHSIG(2const).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    try:
        os.execvp(program[0], program)  # noqa: S606 - no shell is wanted here
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
