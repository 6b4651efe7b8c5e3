"""What the service costs: a call through it beside a bare echo and beside a process a change.

    python -m bench.service [--flows 10000,100000]

In one run, interleaved: the round trip of setting a flow's type, and of adding and removing a
socket, through `qwaved`; a bare echo of packets of the same sizes between two Python processes
over the same kind of socket, which is what no service in Python can be faster than; and a `tc`
process (or `nft` where it is there), which is how marks are changed by scripts. All of that with
every process on one processor, which shows what the work costs, and wherever the kernel puts them:
to wake another processor takes longer than either side works, and which pair is put on one is
chance, so only the first table compares like with like. Then calls a second with one and with
fifty clients, and the resident memory with flows.

Aims: the median of setting a type at most 4 times the bare echo; 10,000 flows in under 100 MB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import openqwave as qw

ROUNDS, CALLS = 40, 50
PROCESSES = 60
CLIENTS = 50
FLOWS_OF_SOCKET = 100
SECONDS = 3.0

# What a request to set a type and its answer are long.
REQUEST = b'{"type":"set_traffic_type","id":1234,"flow":12,"traffic_type":3}'
ANSWER = b'{"type":"answer","id":1234,"value":null}'

_ECHO = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
answer = sys.argv[2].encode()
while sock.recv(4096):
    sock.send(answer)
"""

_LOAD = """
import socket, sys, time
import openqwave as qw
with qw.open(service=True) as qos, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(("127.0.0.1", 9))
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    sys.stdout.write("ready\\n"); sys.stdout.flush()
    end = time.monotonic() + float(sys.stdin.readline())
    kinds = (qw.TrafficType.VOICE, qw.TrafficType.AUDIO_VIDEO)
    count = 0
    while time.monotonic() < end:
        flow.set_traffic_type(kinds[count % 2])
        count += 1
    print(count)
"""


@contextmanager
def service(folder: Path) -> Iterator[int]:
    """The service; its process."""
    (folder / "qwaved.toml").write_text(
        f'[service]\nstate_directory = "{folder}"\n[sink]\nenabled = false\n'
        "[limits]\nflows = 200000\ndestinations = 200000\n"
        "flows_per_user = 200000\ndestinations_per_user = 200000\n"
        "[enforcement]\nmost_flows = 262144\n"
    )
    path = str(folder / "qwaved.sock")
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(folder / "notify"))
    argv = [sys.executable, "-m", "openqwave.service", "--config", str(folder / "qwaved.toml")]
    argv += ["--socket", path, "--run-directory", str(folder)]
    process = subprocess.Popen(
        argv,
        env=os.environ | {"NOTIFY_SOCKET": str(folder / "notify")},
    )
    notices.settimeout(20)
    while b"READY=1" not in notices.recv(4_096):
        pass
    os.environ["QWAVE_SOCKET"] = path
    try:
        yield process.pid
    finally:
        notices.close()
        process.terminate()
        process.wait()


@contextmanager
def echo() -> Iterator[socket.socket]:
    """The other end of a process that answers every packet."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-c", _ECHO, str(theirs.fileno()), ANSWER.decode()],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    with ours:
        yield ours
    process.wait()


def each_us(call: Callable[[], object], count: int) -> list[float]:
    """How long calls take, one by one."""
    clock = time.perf_counter_ns
    taken = []
    for _ in range(count):
        began = clock()
        call()
        taken.append((clock() - began) / 1_000)
    return taken


def resident_bytes(pid: int) -> int:
    """What a process holds in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


@contextmanager
def on_processors(processors: set[int], pid: int) -> Iterator[None]:
    """Have this process, those it starts meanwhile, and another one run on some processors."""
    before = os.sched_getaffinity(0)
    for task in (0, *map(int, os.listdir(f"/proc/{pid}/task"))):
        os.sched_setaffinity(task, processors)
    try:
        yield
    finally:
        for task in (0, *map(int, os.listdir(f"/proc/{pid}/task"))):
            os.sched_setaffinity(task, before)


def round_trips() -> dict[str, list[float]]:
    """Interleaved rounds of all that is compared, in microseconds."""
    taken: dict[str, list[float]] = {"bare echo": [], "set type": [], "add and remove": []}
    with (
        echo() as sock,
        qw.open(service=True) as qos,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as steady,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as passing,
    ):
        steady.connect(("127.0.0.1", 9))
        passing.connect(("127.0.0.1", 9))
        flow = qos.add_socket(steady, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        kinds = [qw.TrafficType.VOICE, qw.TrafficType.AUDIO_VIDEO]

        def ping() -> None:
            sock.send(REQUEST)
            sock.recv(4_096)

        def change() -> None:
            kinds.reverse()
            flow.set_traffic_type(kinds[0])

        def pass_by() -> None:
            kind = qw.TrafficType.VOICE
            qos.add_socket(passing, traffic_type=kind, adaptive=False).close()

        for _ in range(ROUNDS):
            taken["bare echo"] += each_us(ping, CALLS)
            taken["set type"] += each_us(change, CALLS)
            taken["add and remove"] += each_us(pass_by, CALLS)
    for program, arguments in (("tc", ["qdisc", "show", "dev", "lo"]), ("nft", ["list", "tables"])):
        path = shutil.which(program)
        if path is None:
            continue
        change_by_process = partial(
            subprocess.run, [path, *arguments], stdout=subprocess.DEVNULL, check=True
        )
        taken[f"a {program} process"] = each_us(change_by_process, PROCESSES)
    return taken


def calls_per_s(clients: int) -> float:
    """Type changes a second, of so many clients together."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _LOAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(clients)
    ]
    pipes = [(process.stdin, process.stdout) for process in running]
    for orders, said in pipes:
        if orders is None or said is None or said.readline() != b"ready\n":
            raise RuntimeError("a client did not start")
    total = 0
    for orders, _ in pipes:
        if orders is not None:
            orders.write(f"{SECONDS}\n".encode())
            orders.flush()
    for process in running:
        output, _ = process.communicate()
        total += int(output)
    return total / SECONDS


def memory(pid: int, counts: Sequence[int]) -> dict[int, int]:
    """Resident bytes of the service with so many flows, a hundred to a socket."""
    found = {0: resident_bytes(pid)}
    with contextlib.ExitStack() as stack:
        qos = stack.enter_context(qw.open(service=True))
        made = 0
        for count in counts:
            while made < count:
                if made % FLOWS_OF_SOCKET == 0:
                    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    stack.enter_context(sock)
                qos.add_socket(
                    sock,
                    ("127.0.0.1", 1_024 + made % FLOWS_OF_SOCKET),
                    traffic_type=qw.TrafficType.VOICE,
                    adaptive=False,
                )
                made += 1
            found[count] = resident_bytes(pid)
    return found


def rows_of(taken: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """What is printed of round trips."""
    echo_us = statistics.median(taken["bare echo"])
    return {
        name: {
            "median": round(statistics.median(each), 1),
            "p99": round(statistics.quantiles(each, n=100)[98], 1),
            "times_the_echo": round(statistics.median(each) / echo_us, 2),
        }
        for name, each in taken.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--flows", default="10000,100000", help="for the memory, by commas")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as pid:
        idle = resident_bytes(pid)
        everywhere = os.sched_getaffinity(0)
        placements = {
            "one processor": {min(everywhere)},
            "wherever the kernel puts them": everywhere,
        }
        tables = {}
        for placement, processors in placements.items():
            with on_processors(processors, pid):
                tables[placement] = rows_of(round_trips())
        rates = {clients: calls_per_s(clients) for clients in (1, CLIENTS)}
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as pid:
        flows = memory(pid, [int(count) for count in options.flows.split(",")])
    sizes_mb = {"idle": round(idle / 1e6, 1)}
    sizes_mb |= {f"{count} flows": round(size / 1e6, 1) for count, size in flows.items()}
    if options.json:
        print(json.dumps({"round_trips_us": tables, "calls_per_s": rates, "resident_mb": sizes_mb}))
        return
    for placement, rows in tables.items():
        print(f"{placement}:")
        print(f"{'round trip':<20}{'median us':>10}{'99 %':>10}{'times the echo':>16}")
        for name, row in rows.items():
            print(f"{name:<20}{row['median']:>10}{row['p99']:>10}{row['times_the_echo']:>16}")
    for clients, rate in rates.items():
        print(f"{clients} client{'s' if clients > 1 else ''}: {rate:,.0f} type changes a second")
    for name, size in sizes_mb.items():
        print(f"resident memory, {name}: {size} MB")


if __name__ == "__main__":
    main()
