"""The entry point: leaves with an exit status and a sentence, never with a traceback.

The option parser is loaded inside, so that a missing extra or an early Ctrl-C is told too.
"""

from __future__ import annotations

import os
import sys

# 128 and SIGINT's number, as a shell tells it.
INTERRUPTED = 130


def run() -> None:
    """Run the program named by the command line and leave."""
    try:
        from openqwave.cli.program import app

        app(prog_name="qwave")
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "textual"):
            raise
        sys.stderr.write(
            f"qwave needs {error.name}, which is not installed: pip install 'openqwave[cli]'\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(INTERRUPTED)
    except OSError as error:
        # What commands do with files and sockets they tell themselves; this is a full disk under
        # standard output. What the interpreter still holds for it is to go nowhere at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write(f"qwave could not write its output: {error.strerror or error}\n")
        sys.exit(2)
