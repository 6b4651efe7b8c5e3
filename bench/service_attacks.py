"""How long a client of the service waits while another user means harm.

    python -m bench.service_attacks       # as root, which becomes another user

In one run, by turns: the round trip of setting a flow's type with nobody else there, beside a
program of another user that only computes (so that both processors are busy, as they are under
attack), and beside programs of that user that flood a hundred connections with requests, connect
anew for every packet of garbage or of 150 kB, hold two thousand connections, or pass a hundred
descriptors with every packet. Aim: the median at most twice that with nobody there.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import itertools
import json
import os
import resource
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openqwave as qw
from bench.service import service

NOBODY = 65_534
CONNECTIONS, FLOODING = 2_000, 100
SECONDS, BEGINNING_S = 2.0, 0.7
# No attack lasts longer, whatever happens here.
LIMIT_S = 30

HELLO = b'{"type":"hello","version":1,"features":[],"program":"hostile"}'


def connected(path: str) -> socket.socket:
    """A connection, for which nothing was said yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(path)
    return sock


def computes(path: str) -> None:
    """Have no business with the service."""
    del path
    while True:
        pass


def floods(path: str) -> None:
    """Ask more than is answered, on many connections."""
    many = [connected(path) for _ in range(FLOODING)]
    for sock in many:
        sock.send(HELLO)
        sock.recv(65_536)
        sock.setblocking(False)
    for number in itertools.count(1):
        for sock in many:
            with contextlib.suppress(BlockingIOError):
                sock.send(b'{"type":"check","id":%d}' % number)
            with contextlib.suppress(BlockingIOError):
                sock.recv(65_536)


def talks_nonsense(path: str) -> None:
    """Connect for every packet of garbage."""
    _reconnect(path, os.urandom(200))


def sends_giants(path: str) -> None:
    """Connect for every packet of more than any buffer."""
    _reconnect(path, b"x" * 150_000)


def passes_descriptors(path: str) -> None:
    """Connect for every hundred of pipes."""
    reading, _ = os.pipe()
    _reconnect(path, HELLO, [reading] * 100)


def crowds(path: str) -> None:
    """Hold connections, and say nothing more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * CONNECTIONS), hard))
    many = [connected(path) for _ in range(CONNECTIONS)]
    for sock in many:
        with contextlib.suppress(OSError):
            sock.send(HELLO)
    signal.pause()


def _reconnect(path: str, packet: bytes, descriptors: list[int] | None = None) -> None:
    rights = array.array("i", descriptors or [])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
    while True:
        with contextlib.suppress(OSError), connected(path) as sock:
            sock.sendmsg([packet], ancillary)


ATTACKS: tuple[Callable[[str], None], ...] = (
    computes,
    floods,
    talks_nonsense,
    sends_giants,
    passes_descriptors,
    crowds,
)


@contextlib.contextmanager
def beside(attack: Callable[[str], None], path: str) -> Iterator[None]:
    """Have another user do something meanwhile."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(LIMIT_S)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            attack(path)
        finally:
            os._exit(0)
    try:
        # It is under way when it has its connections, which takes a fraction of a second.
        time.sleep(BEGINNING_S)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def round_trips_us(flow: qw.Flow) -> list[float]:
    """How long setting the type takes, for some seconds."""
    kinds = itertools.cycle((qw.TrafficType.VOICE, qw.TrafficType.BACKGROUND))
    taken = []
    end_s = time.monotonic() + SECONDS
    for kind in kinds:
        began_ns = time.perf_counter_ns()
        flow.set_traffic_type(kind)
        taken.append((time.perf_counter_ns() - began_ns) / 1_000)
        if time.monotonic() > end_s:
            break
    return taken


def measure(path: str) -> dict[str, list[float]]:
    """Round trips with nobody there, and beside each attack."""
    with (
        qw.open(service=True) as qos,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect(("127.0.0.1", 9))
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        round_trips_us(flow)
        taken = {"nobody there": round_trips_us(flow)}
        for attack in ATTACKS:
            with beside(attack, path):
                taken[attack.__name__.replace("_", " ")] = round_trips_us(flow)
    return taken


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.stderr.write("needs root, to have another user attack: sudo -E\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        # The other user has to come in.
        Path(folder).chmod(0o755)
        with service(Path(folder)):
            taken = measure(os.environ["QWAVE_SOCKET"])
    alone_us = statistics.median(taken["nobody there"])
    rows = {
        name: {
            "median_us": round(statistics.median(each), 1),
            "p99_us": round(statistics.quantiles(each, n=100)[98], 1),
            "times_alone": round(statistics.median(each) / alone_us, 2),
        }
        for name, each in taken.items()
    }
    if options.json:
        print(json.dumps(rows))
        return 0
    print(f"{'beside somebody who':<24}{'median us':>10}{'99 %':>10}{'times alone':>13}")
    for name, row in rows.items():
        print(f"{name:<24}{row['median_us']:>10}{row['p99_us']:>10}{row['times_alone']:>13}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
