"""Runs a program and ends all of its processes with it, or with who asked: `guard.py PROGRAM ...`.

A guest is several processes of the host's, and when its first one is killed the others stay. So it
gets a session of its own here, and that is killed as a whole. The standard input is a pipe that
whoever started this program holds open: when it is closed, by whatever end of that process, the
guest is over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Run the program to its end, or to that of who asked."""
    # A leader of a session can leave neither that nor its group, which a kernel would.
    program = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, close_fds=False, start_new_session=True
    )

    def end_all() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)

    def watch() -> None:
        os.read(0, 1)  # Nobody writes there.
        end_all()

    threading.Thread(target=watch, daemon=True).start()
    # Not yet reaped, so that its number is still its own when the rest is killed.
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    end_all()
    program.wait()


if __name__ == "__main__":
    main()
