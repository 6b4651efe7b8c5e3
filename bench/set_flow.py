"""What a flow costs: add + set type + remove, beside the bare setsockopt calls.

The peer is the shortest sequence of setsockopt calls that leaves the same marks behind:
for an IPv4 socket IP_TOS and SO_PRIORITY, for an IPv6 one IPV6_TCLASS as well, written
once to mark, once to re-mark and once to give back. It saves nothing, checks nothing and
keeps no ECN bits; what the library does beyond it (describe the socket, read what the
application had, prove each write by reading it back, give exactly that back) is its
price.

Each round times the three in turn on the same socket, so that whatever else the machine
does falls on all of them alike. Run: python bench/set_flow.py [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import socket
import statistics
import sys
import time
from ctypes import byref, c_int, c_void_p, sizeof
from typing import TYPE_CHECKING

import openqwave as qw
from openqwave import qos2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The aim of the project for the median of either face against the bare calls.
AIM = 12.0

_VIDEO_TOS, _VOICE_TOS, _PRIORITY = 40 << 2, 56 << 2, 6


def bare(sock: socket.socket, *, is_v6: bool) -> Callable[[], None]:
    """The setsockopt calls that a flow stands for."""
    write = sock.setsockopt

    def v4() -> None:
        for tos, priority in ((_VIDEO_TOS, _PRIORITY), (_VOICE_TOS, _PRIORITY), (0, 0)):
            write(socket.IPPROTO_IP, socket.IP_TOS, tos)
            write(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)

    def v6() -> None:
        for tos, priority in ((_VIDEO_TOS, _PRIORITY), (_VOICE_TOS, _PRIORITY), (0, 0)):
            write(socket.IPPROTO_IP, socket.IP_TOS, tos)
            write(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            write(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)

    return v6 if is_v6 else v4


def python_face(qos: qw.Qos, sock: socket.socket) -> Callable[[], None]:
    """The same through `openqwave`."""

    def run() -> None:
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO, adaptive=False)
        flow.set_traffic_type(qw.TrafficType.VOICE)
        flow.remove_socket(sock)

    return run


def windows_face(handle: c_void_p, sock: socket.socket) -> Callable[[], None]:
    """The same through `openqwave.qos2`, with arguments as ctypes programs pass them."""
    voice = c_int(qos2.QOSTrafficTypeVoice)
    video, flags = qos2.QOSTrafficTypeAudioVideo, qos2.QOS_NON_ADAPTIVE_FLOW
    set_type, size = qos2.QOSSetTrafficType, sizeof(voice)

    def run() -> None:
        flow_id = qos2.QOS_FLOWID(0)
        added = qos2.QOSAddSocketToFlow(handle, sock, None, video, flags, byref(flow_id))
        changed = qos2.QOSSetFlow(handle, flow_id, set_type, size, byref(voice), 0, None)
        removed = qos2.QOSRemoveSocketFromFlow(handle, sock, flow_id, 0)
        if not (added and changed and removed):
            raise RuntimeError(f"a call failed with {qos2.GetLastError()}")

    return run


def sockets() -> Iterator[tuple[str, socket.socket]]:
    """The kinds of socket that are measured, connected over loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(("127.0.0.1", 9))
        yield "UDP over IPv4", udp
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as dual:
        dual.connect(("::ffff:127.0.0.1", 9))
        yield "UDP, dual stack", dual
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as tcp,
    ):
        yield "TCP over IPv4", tcp


def timed(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[int]]:
    """Nanoseconds of each run, taken in turn."""
    clock = time.perf_counter_ns
    times: dict[str, list[int]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(rounds // 10):
            run()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in runs.items():
                start = clock()
                run()
                times[name].append(clock() - start)
    finally:
        gc.enable()
    return times


def measure(rounds: int) -> list[dict[str, object]]:
    """One row for each kind of socket."""
    rows: list[dict[str, object]] = []
    handle = qos2.HANDLE()
    if not qos2.QOSCreateHandle(byref(qos2.QOS_VERSION(1, 0)), byref(handle)):
        raise RuntimeError(f"no handle: {qos2.GetLastError()}")
    with qw.open(embedded=True) as qos:
        for kind, sock in sockets():
            runs = {
                "setsockopt": bare(sock, is_v6=sock.family == socket.AF_INET6),
                "openqwave": python_face(qos, sock),
                "openqwave.qos2": windows_face(handle, sock),
            }
            times = timed(runs, rounds)
            peer_ns = statistics.median(times["setsockopt"])
            for name, samples in times.items():
                median_ns = statistics.median(samples)
                rows.append(
                    {
                        "socket": kind,
                        "through": name,
                        "median_ns": median_ns,
                        "p99_ns": statistics.quantiles(samples, n=100)[98],
                        "ratio": round(median_ns / peer_ns, 2),
                    }
                )
    qos2.QOSCloseHandle(handle)
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5_000, help="samples each (default 5000)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    if options.rounds < 100:
        parser.error("--rounds: at least 100")
    rows = measure(options.rounds)
    if options.json:
        json.dump({"python": platform.python_version(), "aim": AIM, "rows": rows}, sys.stdout)
        print()
        return 0
    print(f"add + set type + remove, {options.rounds} rounds, Python {platform.python_version()}")
    print(f"{'socket':<18}{'through':<18}{'median us':>10}{'99 % us':>10}{'ratio':>8}")
    for row in rows:
        median_us, p99_us = (float(str(row[key])) / 1000 for key in ("median_ns", "p99_ns"))
        print(
            f"{row['socket']:<18}{row['through']:<18}{median_us:>10.1f}{p99_us:>10.1f}"
            f"{row['ratio']:>8}"
        )
    print(f"aim: at most {AIM:g} times the bare setsockopt calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
