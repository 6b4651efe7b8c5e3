"""`qwave` as a process of its own, many times: by forks of one that has loaded it.

To load the program takes most of the time of a command that only says what is wrong with its
arguments. So one process loads it, and forks for each command with the command's own arguments,
environment, folder and descriptors, as a shell would start it.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from functools import cache
from typing import Final

# A bound for what takes a second.
_TIMEOUT_S: Final = 60.0

_LOADED: Final = """
import contextlib, json, os, socket, sys, time
from openqwave.cli.main import run

ORDERS = int(sys.argv.pop())
# What is loaded only for help and for what is wrong.
for arguments in ("demo", "--help"), ("demo", "--nonsense"), ("capture", "-r", "/nonexistent"):
    sys.argv[1:] = arguments
    with contextlib.suppress(SystemExit):
        run()

def wait():
    with socket.socket(fileno=ORDERS) as orders:
        while True:
            order, descriptors, _, _ = socket.recv_fds(orders, 1 << 20, 3)
            if not order:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                break
            for descriptor in descriptors:
                os.close(descriptor)
            _, status = os.waitpid(pid, 0)
            orders.send(str(os.waitstatus_to_exitcode(status)).encode())
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    arguments, environment, folder = json.loads(order)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv[1:] = arguments

wait()
run()
"""


@cache
def _loaded() -> socket.socket:
    """Where the process that has loaded the program takes orders, for as long as this one runs."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-c", _LOADED, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    theirs.close()
    ours.settimeout(_TIMEOUT_S)

    def end() -> None:
        ours.close()
        process.wait(_TIMEOUT_S)

    atexit.register(end)
    return ours


def qwave(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `qwave` to its end, in a pipe.

    Args:
        *arguments: Its arguments.
        **environment: What its environment has beside this process's.
    """
    told = (arguments, {**os.environ, "COLUMNS": "80", **environment}, os.getcwd())
    loaded = _loaded()
    with (
        open(os.devnull, "rb") as given,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        descriptors = [given.fileno(), output.fileno(), errors.fileno()]
        socket.send_fds(loaded, [json.dumps(told).encode()], descriptors)
        status = int(loaded.recv(16))
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(list(arguments), status, *texts)
