"""What a decision about a rate costs, and that it costs the same however many flows there are.

The engine decides whether rates may be had on measured paths, with a mechanism in memory, so that
what is measured is the decision and not the kernel. Requests come from flows at random; every
second one fits and is granted, the others are refused as busy. Only the newer half of the flows
ever asks: the older half holds nothing, which whoever looked through all flows for one that holds
something would have to pass. A new view of the path comes after each twenty decisions, and is
timed by itself.

Five times a second the library gives the engine the counters of all flows; that it takes time in
proportion to them is shown by itself, because decisions wait for it.

Two peers get the same requests in the same rounds: the least that any admission needs, which is a
dictionary of who holds what, their sum and a lock; and the two setsockopt calls (IP_TOS and
SO_PRIORITY) that a granted rate comes to in the end.

Then the same question as a program asks it: a further flow on a path that is known, `add_socket`
and `set_rate` through the Python face, with the routes asked of the kernel. The path leads to this
host itself, and its numbers are made up.

Run: python bench/admission.py [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import platform
import random
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import openqwave as qw
from openqwave.admission.policy import Limits, Policy
from openqwave.client.embedded import Embedded
from openqwave.client.opening import Backend
from openqwave.client.sync import Qos
from openqwave.enforcement.memory import Memory
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Congestion, FlowCounters, Fundamentals, PathView
from openqwave.model.flow import RateReason, Shaping, TrafficType, Transport
from openqwave.model.path import LinkType, PathFacts
from openqwave.model.sockets import SocketFacts
from openqwave.runtime.session import Session
from openqwave.subsystem import requests as rq
from openqwave.subsystem.effects import Answer, Apply, Effect, Value
from openqwave.subsystem.engine import Engine
from openqwave.subsystem.usage import LinkLoad

FLOWS = (1, 100, 10_000)
PATHS = (1, 1_000)
# Flows that hold rates already when a further one comes through the Python face.
OTHERS = (1, 1_000)

# The aims of the project: a decision does not grow with the flows, but for the caches of the
# processor that more of them do not fit into; and a further flow on a known path in less than this.
FLAT_AIM, FACE_AIM_MS = 1.5, 1.0

KINDS = ("granted", "refused", "view", "sum", "setsockopt")
# All cases have their turn so often, so that whatever else the machine does falls on all alike.
PASSES = 10
VIEW_EVERY = 20
# What the paths, and the first hop, have to give; more than all rounds together ask for.
PLENTY_BPS, TOO_MUCH_BPS = 10**12, 10**13
STEP_BPS = 8
FIRST_HOST = int(ip_address("10.0.0.1"))
INTERFACE, GATEWAY = 2, ip_address("192.0.2.1").packed
_VIDEO_TOS, _PRIORITY = 40 << 2, 6

VIEW = PathView(Fundamentals(PLENTY_BPS, PLENTY_BPS, 5_000_000), Congestion(is_congested=False))


class Sum:
    """The least that admission needs: who holds what, and no more than there is in all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, int] = {}
        self._sum = 0

    def ask(self, flow: int, rate_bps: int) -> bool:
        """Is it granted?"""
        with self._lock:
            change = rate_bps - self._held.get(flow, 0)
            if self._sum + change > PLENTY_BPS:
                return False
            self._held[flow] = rate_bps
            self._sum += change
            return True


class Host:
    """An engine with adaptive flows on measured paths, driven as the library drives it.

    Attributes:
        hosts: The far ends.
        flows: The flows' ids.
        held: What they hold.
        peer: The least that admission needs, asked the same.
    """

    def __init__(self, flows: int, paths: int) -> None:
        limits = Limits(flows=max(FLOWS), tracked_hosts=max(PATHS))
        self._engine = Engine(Policy(limits=limits))
        self._memory = Memory()
        self._requests = 0
        self._now_ns = 10**12
        handle = self._engine.open_handle(1)
        if isinstance(handle, Refusal):
            raise RuntimeError(handle.detail)
        self._handle = handle
        self.hosts = [
            Endpoint(ip_address(FIRST_HOST + number).packed, 0) for number in range(paths)
        ]
        for host in self.hosts:
            self._must(rq.StartTracking(host, None, _facts_of(host)))
            self.see(host)
        self.flows = [self._add(number, self.hosts[number % paths]) for number in range(flows)]
        self.held: dict[int, int] = {}
        self.peer = Sum()
        # The first hop, which they share, is known once its interface was read twice.
        for reading in range(2):
            self._now_ns += 10**9
            self.count(reading)

    def _add(self, number: int, host: Endpoint) -> int:
        facts = SocketFacts(number + 1, Transport.UDP, 4, None)
        target = Endpoint(host.packed, 5004)
        kind = TrafficType.AUDIO_VIDEO
        answer = self._must(rq.AddSocket(0, facts, target, kind, True, None, _facts_of(host)))
        if not isinstance(answer, int):
            raise TypeError("a flow has a number")
        return answer

    def _must(self, request: rq.Request) -> Value:
        answer = self.ask(request)
        if isinstance(answer, Refusal):
            raise RuntimeError(answer.detail)
        return answer

    def ask(self, request: rq.Request) -> Value | Refusal:
        """One request, from the question to the answer."""
        self._requests += 1
        found = self._carry_out(
            self._engine.receive_request(self._requests, self._handle, request, now_ns=self._now_ns)
        )
        if found is None:
            raise RuntimeError("the request waits")
        return found.result

    def see(self, host: Endpoint) -> None:
        """A new view of a path."""
        self._carry_out(self._engine.receive_path_view(host, VIEW, now_ns=self._now_ns))

    def count(self, reading: int) -> None:
        """Read all counters, as is done five times a second."""
        counters = {
            cookie: FlowCounters(sent_bytes=1_000 * reading)
            for cookie in self._engine.watched_sockets()
        }
        loads = {INTERFACE: LinkLoad(0, PLENTY_BPS)}
        self._carry_out(self._engine.receive_counters(counters, loads, now_ns=self._now_ns))

    def _carry_out(self, effects: list[Effect]) -> Answer | None:
        found: Answer | None = None
        for effect in effects:
            if isinstance(effect, Answer):
                found = effect
            elif isinstance(effect, Apply):
                outcome = self._memory.apply(effect.plans)
                found = self._carry_out(self._engine.receive_applied(outcome)) or found
        return found


def _facts_of(host: Endpoint) -> PathFacts:
    return PathFacts(
        host, INTERFACE, "eth0", b"", GATEWAY, 1500, LinkType.WIRED, speed_bps=PLENTY_BPS
    )


def rate(flow_id: int, rate_bps: int) -> rq.SetRate:
    """The request."""
    return rq.SetRate(flow_id, rate_bps, Shaping.SHAPE_AND_MARK, RateReason.NOT_APPLICABLE)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage is collected inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def decide(host: Host, rounds: int, times: dict[str, list[int]]) -> None:
    """Nanoseconds of decisions, of views, and of what the peers took for the granted ones."""
    clock = time.perf_counter_ns
    newer = host.flows[len(host.flows) // 2 :]
    choose = random.Random(len(times["view"])).choice
    turns = [choose(newer) for _ in range(rounds)]
    held, peer = host.held, host.peer
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, undisturbed():
        write = sock.setsockopt
        for number, flow in enumerate(turns):
            is_small = number % 2 == 0
            rate_bps = held.get(flow, 0) + STEP_BPS if is_small else TOO_MUCH_BPS
            request = rate(flow, rate_bps)
            start = clock()
            answer = host.ask(request)
            times["granted" if is_small else "refused"].append(clock() - start)
            start = clock()
            is_granted = peer.ask(flow, rate_bps)
            if is_small:
                times["sum"].append(clock() - start)
            start = clock()
            write(socket.IPPROTO_IP, socket.IP_TOS, _VIDEO_TOS)
            write(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)
            times["setsockopt"].append(clock() - start)
            if is_small:
                held[flow] = rate_bps
            code = answer.code if isinstance(answer, Refusal) else None
            if code is not (None if is_small else ErrorCode.ERROR_NETWORK_BUSY):
                raise RuntimeError(f"decided wrongly: {answer!r}")
            if is_granted is not is_small:
                raise RuntimeError("the peer decided wrongly")
            if number % VIEW_EVERY == 0:
                seen = host.hosts[number // VIEW_EVERY % len(host.hosts)]
                start = clock()
                host.see(seen)
                times["view"].append(clock() - start)


def counting(host: Host) -> list[int]:
    """Nanoseconds of a reading of all counters."""
    times = []
    with undisturbed():
        for reading in range(2, 12):
            start = time.perf_counter_ns()
            host.count(reading)
            times.append(time.perf_counter_ns() - start)
    return times


def _quantiles(samples: list[int]) -> dict[str, float]:
    return {
        "median_ns": statistics.median(samples),
        "p99_ns": statistics.quantiles(samples, n=100)[98],
    }


def decisions(rounds: int) -> list[dict[str, Any]]:
    """One row for each number of flows and paths; they take turns, as `PASSES` says."""
    cases = [(flows, paths) for paths in PATHS for flows in FLOWS]
    hosts = [Host(flows, paths) for flows, paths in cases]
    taken: list[dict[str, list[int]]] = [{kind: [] for kind in KINDS} for _ in cases]
    for host in hosts:
        decide(host, rounds // 10, {kind: [] for kind in KINDS})
    for _ in range(PASSES):
        for host, times in zip(hosts, taken, strict=True):
            decide(host, rounds // PASSES, times)
    rows = []
    for (flows, paths), host, times in zip(cases, hosts, taken, strict=True):
        both = times["granted"] + times["refused"]
        rows.append(
            {
                "flows": flows,
                "paths": paths,
                "per_second": round(1e9 * len(both) / sum(both)),
                "p99_ns": _quantiles(both)["p99_ns"],
                **{f"{kind}_median_ns": statistics.median(times[kind]) for kind in KINDS},
                "counters_median_ns": statistics.median(counting(host)),
            }
        )
    return rows


@contextlib.contextmanager
def own_subsystem() -> Iterator[tuple[Embedded, Qos]]:
    """The library's own subsystem, with the mechanism in memory."""
    host = Embedded(backend=Memory())
    handle = host.open_handle()
    if isinstance(handle, Refusal):
        raise RuntimeError(handle.detail)
    with Qos(Session(host, handle), Backend("embedded", "for a bench")) as qos:
        yield host, qos


def _connected() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", 9))
    return sock


def face(others: int, rounds: int) -> dict[str, Any]:
    """A further flow on a known path, through the Python face."""
    clock = time.perf_counter_ns
    times: dict[str, list[int]] = {"openqwave": [], "setsockopt": []}
    with contextlib.ExitStack() as stack:
        host, qos = stack.enter_context(own_subsystem())
        here = Endpoint(ip_address("127.0.0.1").packed, 0)
        flows = []
        for _ in range(others):
            flows.append(qos.add_socket(stack.enter_context(_connected())))
            host.receive_path_view(here, VIEW)
        for flow in flows:
            flow.set_rate(64_000)
        sock = stack.enter_context(_connected())

        def add() -> qw.Flow:
            flow = qos.add_socket(sock, traffic_type=TrafficType.AUDIO_VIDEO)
            flow.set_rate(64_000)
            return flow

        for _ in range(rounds // 10):
            add().close()
        stack.enter_context(undisturbed())
        for _ in range(rounds):
            start = clock()
            flow = add()
            times["openqwave"].append(clock() - start)
            flow.close()
            start = clock()
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _VIDEO_TOS)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)
            times["setsockopt"].append(clock() - start)
    return {
        "others": others,
        **_quantiles(times["openqwave"]),
        "setsockopt_median_ns": statistics.median(times["setsockopt"]),
    }


def _flat(rows: list[dict[str, Any]], paths: int) -> float:
    """The most flows beside the fewest: the greater ratio of what is granted and refused."""
    fewest, *_, most = [row for row in rows if row["paths"] == paths]
    kinds = ("granted_median_ns", "refused_median_ns")
    return max(float(most[kind]) / float(fewest[kind]) for kind in kinds)


def report(rounds: int, rows: list[dict[str, Any]], faces: list[dict[str, Any]]) -> Iterator[str]:
    """The tables and the aims, line by line."""
    yield f"a decision about a rate, {rounds} rounds, Python {platform.python_version()}"
    yield (
        f"{'flows':>7}{'paths':>7}{'a second':>10}{'granted us':>12}{': sum':>7}"
        f"{': setsockopt':>14}{'refused us':>12}{'99 % us':>9}{'view us':>9}{'counters ms':>13}"
    )
    for row in rows:
        median_ns = row["granted_median_ns"]
        yield (
            f"{row['flows']:>7}{row['paths']:>7}{row['per_second']:>10}{median_ns / 1e3:>12.1f}"
            f"{median_ns / row['sum_median_ns']:>7.1f}"
            f"{median_ns / row['setsockopt_median_ns']:>14.1f}"
            f"{row['refused_median_ns'] / 1e3:>12.1f}{row['p99_ns'] / 1e3:>9.1f}"
            f"{row['view_median_ns'] / 1e3:>9.1f}{row['counters_median_ns'] / 1e6:>13.2f}"
        )
    yield "a further flow on a known path: add_socket and set_rate"
    yield f"{'others':>7}{'median us':>11}{'99 % us':>9}{': setsockopt':>14}"
    for row in faces:
        median_ns = row["median_ns"]
        yield (
            f"{row['others']:>7}{median_ns / 1e3:>11.1f}{row['p99_ns'] / 1e3:>9.1f}"
            f"{median_ns / row['setsockopt_median_ns']:>14.1f}"
        )
    for paths in PATHS:
        ratio = _flat(rows, paths)
        yield (
            f"{'met' if ratio <= FLAT_AIM else 'MISSED'}: {FLOWS[-1]} flows on {paths} paths cost "
            f"{ratio:.2f} times what one costs (aim: {FLAT_AIM:g})"
        )
    worst_ms = max(row["median_ns"] for row in faces) / 1e6
    yield (
        f"{'met' if worst_ms < FACE_AIM_MS else 'MISSED'}: a further flow takes {worst_ms:.3f} ms "
        f"(aim: {FACE_AIM_MS:g} ms)"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5_000, help="samples each (default 5000)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    if options.rounds < 100:
        parser.error("--rounds: at least 100")
    rows = decisions(options.rounds)
    faces = [face(others, options.rounds // 5) for others in OTHERS]
    if options.json:
        aims = {"flat": FLAT_AIM, "face_ms": FACE_AIM_MS}
        found = {
            "python": platform.python_version(),
            "aims": aims,
            "decisions": rows,
            "faces": faces,
        }
        json.dump(found, sys.stdout)
        print()
        return 0
    for line in report(options.rounds, rows, faces):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
