"""How right estimates are, what they cost, what others feel: beside iperf3, on real packets.

Each case is an emulated link between two hosts of the lab (`openqwave.lab.emulator`), with `qwave
sink` on one and `qwave probe` on the other as a user would run them. The truth comes from the
link's own books, over the time in which `qwave probe` sent: what its cross traffic left of the
rate. Right after it, on the same link with the same cross traffic, iperf3 fills the link with one
TCP connection for a few seconds; its rate, with the headers it leaves out added, is compared with
what the cross traffic left in its own time. A ping every 10 ms runs before and beside both.

Errors are in percent of the capacity. Each line says how late the emulator itself was (99th
percentile); where that is not small against a packet's time, the emulator is the limit, not the
estimator: it is a program on the same machine. Clock drift and steps cannot be made for one
namespace alone; tests/scenario has them in virtual time.

Needs root (or user namespaces), iperf3 and ping, a machine with nothing else to do, and 20 minutes.
Run: python bench/estimate.py [--cases REGEX] [--json FILE] [--no-iperf3]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

from bench.estimate_cases import MBIT, Case, all_cases
from openqwave.lab.emulation import EmulatedLink
from openqwave.lab.namespaces import Rights, availability, enter_user_namespace
from openqwave.lab.pathmodel import Truth
from openqwave.lab.specs import TcpSink, TcpSource
from openqwave.lab.topology import Host, Lab
from openqwave.lab.traffic import Agent

# iperf3 reports TCP's payload; a full packet has 1448 bytes of it in 1500 (20 IP, 32 TCP).
IPERF_FACTOR = 1500 / 1448
PING_INTERVAL_S = 0.01
# A ping's packet has 84 bytes; what it takes is not available, and no cross traffic of the link's.
PING_MBIT = 84 * 8 / PING_INTERVAL_S / 1e6
BASELINE_S = 1.5
MEASURE_TIMEOUT_S = 30.0
# iperf3's own handshake and report, beyond the time of the transfer.
IPERF_EXTRA_S = 10.0
# A TCP connection is waited for until, in windows of this length, it uses this part of the link.
TCP_WINDOW_S, TCP_FULL, TCP_TIMEOUT_S = 0.5, 0.85, 15.0

# What is aimed at: median and 90th percentile of the errors, in percent of the capacity.
CAPACITY_AIM, AVAILABLE_AIM = (3.0, 8.0), (3.0, 12.0)
FAST_MBIT = 100
# A number off by more than this part of the capacity, and outside its bounds, is wrong.
WRONG_PERCENT = 12.0


@dataclass(slots=True)
class Result:
    """One case; rates in Mbit/s, errors in percent of the capacity, None where not known."""

    case: str
    is_trap: bool
    rate: float
    capacity_true: float
    available_true: float
    capacity: float | None = None
    capacity_low: float | None = None
    capacity_high: float | None = None
    available: float | None = None
    available_low: float | None = None
    available_high: float | None = None
    doubt: str = ""
    method: str = ""
    seconds: float = 0.0
    sent_bytes: int = 0
    ping_before_ms: float | None = None
    ping_beside_ms: float | None = None
    iperf3: float | None = None
    iperf3_true: float | None = None
    iperf3_bytes: int = 0
    iperf3_seconds: float = 0.0
    ping_iperf3_ms: float | None = None
    late_us: float = 0.0

    @property
    def capacity_error(self) -> float | None:
        """Error of the capacity."""
        return _percent(self.capacity, self.capacity_true, self.capacity_true)

    @property
    def available_error(self) -> float | None:
        """Error of the available bandwidth."""
        return _percent(self.available, self.available_true, self.capacity_true)

    @property
    def iperf3_error(self) -> float | None:
        """Error of iperf3's rate, against what was left in its own time."""
        return _percent(self.iperf3, self.iperf3_true, self.capacity_true)

    @property
    def holds_capacity(self) -> bool | None:
        """Is the true capacity within the bounds?"""
        return _holds(self.capacity_low, self.capacity_true, self.capacity_high)

    @property
    def holds_available(self) -> bool | None:
        """Is the true available bandwidth within the bounds?"""
        return _holds(self.available_low, self.available_true, self.available_high)

    @property
    def is_wrong(self) -> bool:
        """Was a wrong number stated with confidence?"""
        return any(
            error is not None and abs(error) > WRONG_PERCENT and holds is False
            for error, holds in (
                (self.capacity_error, self.holds_capacity),
                (self.available_error, self.holds_available),
            )
        )

    @property
    def ping_rise_ms(self) -> float | None:
        """How much longer a ping waits, 95th percentile."""
        if self.ping_before_ms is None or self.ping_beside_ms is None:
            return None
        return self.ping_beside_ms - self.ping_before_ms


def _percent(value: float | None, truth: float | None, whole: float) -> float | None:
    return None if value is None or truth is None else 100 * (value - truth) / whole


def _holds(low: float | None, value: float, high: float | None) -> bool | None:
    return None if low is None or high is None else low <= value <= high


class Ping:
    """A ping every 10 ms, for as long as the `with` block lasts.

    Its output goes to a file, because nobody reads a pipe meanwhile, and a full one would stop it.
    """

    def __init__(self, host: Host, address: str, scratch: Path) -> None:
        command = ["ping", "-n", "-i", str(PING_INTERVAL_S), address]
        self._path = scratch / "ping.txt"
        with self._path.open("w", encoding="ascii") as file:
            self._process = host.popen(command, stdout=file)
        self.times_ms: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(2)
        self._process.wait(timeout=10)
        output = self._path.read_text(encoding="ascii")
        self.times_ms = [float(found) for found in re.findall(r"time=([\d.]+) ms", output)]

    @property
    def p95_ms(self) -> float | None:
        """The 95th percentile; None for too few."""
        return statistics.quantiles(self.times_ms, n=20)[-1] if len(self.times_ms) > 20 else None


@contextlib.contextmanager
def sink_on(host: Host) -> Iterator[None]:
    """`qwave sink` while the block lasts.

    Here it shares a processor with the prober, as two hosts do not: it waits while that one sends.
    Its times are the kernel's stamps all the same.
    """
    command = ["nice", "-n", "19", sys.executable, "-m", "openqwave.cli", "sink", "--json"]
    process = host.popen(command, stdout=subprocess.PIPE)
    if process.stdout is None or not process.stdout.readline():
        raise RuntimeError("qwave sink did not start")
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=10)


def window_of(samples: Path) -> tuple[int, int]:
    """When the trains and probes of a recording left, CLOCK_MONOTONIC."""
    times: list[int] = []
    for line in samples.read_text(encoding="ascii").splitlines():
        fields = json.loads(line)
        if fields["kind"] == "train":
            times += [fields["sent_ns"][0], fields["sent_ns"][-1]]
        elif fields["kind"] == "gap":
            times.append(fields["sent_ns"])
    if not times:
        raise RuntimeError("nothing was measured; is the machine busy?")
    offset_ns = time.time_ns() - time.monotonic_ns()
    return min(times) - offset_ns, max(times) - offset_ns


def truth_of(case: Case, link: EmulatedLink, since_ns: int, until_ns: int) -> tuple[float, float]:
    """Capacity and what was available of it, Mbit/s."""
    forward, _ = link.truth(since_ns, until_ns)
    available = forward.fair_share_bps if case.shares else forward.available_bps
    return forward.capacity_bps / MBIT, available / MBIT - PING_MBIT


def await_tcp(link: EmulatedLink, rate: float) -> None:
    """Wait until a TCP connection has filled the link.

    Raises:
        TimeoutError: It does not.
    """
    deadline = time.monotonic() + TCP_TIMEOUT_S
    while time.monotonic() < deadline:
        time.sleep(TCP_WINDOW_S)
        now_ns = time.monotonic_ns()
        forward, _ = link.truth(now_ns - round(TCP_WINDOW_S * 1e9), now_ns)
        if used_mbit(forward) > TCP_FULL * rate:
            return
    raise TimeoutError("the TCP connection does not fill the link")


def used_mbit(truth: Truth) -> float:
    """The rate of real packets that passed the first stage, Mbit/s."""
    return truth.carried[0].frame_bytes * 8e3 / (truth.until_ns - truth.since_ns)


def probe(left: Host, address: str, samples: Path, *options: str) -> dict[str, Any]:
    """Run `qwave probe`; return what it prints, and as "command_s" how long the command took."""
    command = [sys.executable, "-m", "openqwave.cli", "probe", address, "--json", *options]
    begun_ns = time.monotonic_ns()
    process = left.popen(
        [*command, "--samples", str(samples)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, words = process.communicate(timeout=MEASURE_TIMEOUT_S)
    if process.returncode not in (0, 3):
        raise RuntimeError(f"qwave probe: status {process.returncode}: {words}")
    found = cast("dict[str, Any]", json.loads(output))
    return found | {"command_s": (time.monotonic_ns() - begun_ns) / 1e9}


def iperf3(left: Host, right: Host, case: Case, address: str, seconds: float) -> dict[str, Any]:
    """Fill the link; return the receiver's sum."""
    server = right.popen(["iperf3", "-s", "-1", "--forceflush"], stdout=subprocess.PIPE)
    while "listening" not in cast("IO[str]", server.stdout).readline():
        if server.poll() is not None:
            raise RuntimeError("iperf3 -s ended")
    command = ["iperf3", f"-{case.version}", "-J", "-t", str(seconds), "-c", address]
    client = left.popen(command, stdout=subprocess.PIPE)
    output, _ = client.communicate(timeout=seconds + IPERF_EXTRA_S)
    server.communicate(timeout=IPERF_EXTRA_S)
    return cast("dict[str, Any]", json.loads(output)["end"]["sum_received"])


@dataclass(frozen=True, slots=True)
class Manner:
    """How cases are run.

    Attributes:
        seed: Of the links' randomness.
        iperf_s: How long iperf3 fills the link; 0 for not at all.
        is_quick: Whether it is `qwave probe --quick`, timed with the interpreter's start.
        cpu: The emulator's processor; None for any.
    """

    seed: int
    iperf_s: float
    is_quick: bool
    cpu: int | None


def measure(case: Case, manner: Manner, samples: Path) -> Result:
    """Run one case."""
    iperf_s = manner.iperf_s
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        left, right = lab.host("left"), lab.host("right")
        link = lab.emulated_link(left, right, case.link, seed=manner.seed, cpu=manner.cpu)
        address = right.ipv4 if case.version == 4 else right.ipv6
        stack.enter_context(sink_on(right))
        rate = case.rate_bps / MBIT
        result = Result(case.name, case.is_trap, rate, rate, rate)
        if case.tcp:
            tcp_sink = stack.enter_context(Agent(right, TcpSink(address)))
            source = TcpSource(address, tcp_sink.port, 60.0, congestion="cubic")
            stack.enter_context(Agent(left, source))
            await_tcp(link, rate)
        with Ping(left, address, samples.parent) as ping:
            time.sleep(BASELINE_S)
        result.ping_before_ms = ping.p95_ms
        with Ping(left, address, samples.parent) as ping:
            found = probe(left, address, samples, *(["--quick"] if manner.is_quick else []))
        result.ping_beside_ms = ping.p95_ms
        window = window_of(samples)
        result.capacity_true, result.available_true = truth_of(case, link, *window)
        take_report(result, found)
        if manner.is_quick:
            result.seconds = found["command_s"]
        if case.tcp:
            # All packets on the link but the measurement's are TCP's.
            own = result.sent_bytes * 8e3 / (window[1] - window[0])
            left_over = rate - used_mbit(link.truth(*window)[0]) + own
            result.available_true = max(0.0, left_over)
        if iperf_s and not case.tcp:
            with Ping(left, address, samples.parent) as ping:
                begun_ns = time.monotonic_ns()
                filled = iperf3(left, right, case, address, iperf_s)
                ended_ns = time.monotonic_ns()
            result.iperf3 = filled["bits_per_second"] / MBIT * IPERF_FACTOR
            result.iperf3_true = truth_of(case, link, begun_ns, ended_ns)[1]
            result.iperf3_bytes = round(filled["bytes"] * IPERF_FACTOR)
            result.iperf3_seconds = filled["seconds"]
            result.ping_iperf3_ms = ping.p95_ms
        result.late_us = link.counters().forward.late_ns(0.99) / 1e3
    return result


def take_report(result: Result, found: dict[str, Any]) -> None:
    """Enter what `qwave probe` says."""

    def mbit(name: str, part: str) -> float | None:
        value = found[name][part]
        return None if value is None else value / MBIT

    result.capacity, result.capacity_low, result.capacity_high = (
        mbit("capacity_bps", part) for part in ("value", "low", "high")
    )
    result.available, result.available_low, result.available_high = (
        mbit("available_bps", part) for part in ("value", "low", "high")
    )
    result.doubt = found["available_bps"].get("doubt") or ""
    result.method = found["available_bps"].get("method") or ""
    result.seconds = found["elapsed_ns"] / 1e9
    result.sent_bytes = found["sent_bytes"]


HEADINGS = (
    "link, Mbit/s",
    "capacity",
    "bounds",
    "true",
    "available",
    "bounds",
    "true",
    "error, %",
    "s",
    "MB",
    "ping +ms",
    "iperf3",
    "error, %",
    "MB",
    "ping +ms",
    "late, us",
)


def row(result: Result) -> list[str]:
    """One line of the table."""

    def text(value: float | None, form: str = ".1f") -> str:
        return "-" if value is None else format(value, form)

    def bounds(low: float | None, high: float | None, held: bool | None) -> str:
        if low is None or high is None:
            return "-"
        return f"{low:.1f} to {high:.1f}" + ("" if held else " (!)")

    iperf_rise = None
    if result.ping_iperf3_ms is not None and result.ping_before_ms is not None:
        iperf_rise = result.ping_iperf3_ms - result.ping_before_ms
    return [
        result.case,
        text(result.capacity),
        bounds(result.capacity_low, result.capacity_high, result.holds_capacity),
        text(result.capacity_true),
        text(result.available) if result.available is not None else result.doubt,
        bounds(result.available_low, result.available_high, result.holds_available),
        text(result.available_true),
        text(result.available_error, "+.1f"),
        text(result.seconds, ".2f"),
        text(result.sent_bytes / 1e6, ".2f"),
        text(result.ping_rise_ms, "+.1f"),
        text(result.iperf3),
        text(result.iperf3_error, "+.1f"),
        text(result.iperf3_bytes / 1e6, ".1f") if result.iperf3_bytes else "-",
        text(iperf_rise, "+.1f"),
        text(result.late_us, ".0f"),
    ]


def table(results: Sequence[Result]) -> str:
    """All lines, as Markdown."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- " * len(HEADINGS) + "|"]
    lines += ["| " + " | ".join(row(result)) + " |" for result in results]
    return "\n".join(lines)


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile of some values; they are not empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(results: Sequence[Result]) -> str:
    """The aims, and whether they are met."""
    capacity = [abs(one.capacity_error) for one in results if one.capacity_error is not None]
    available = [abs(one.available_error) for one in results if one.available_error is not None]
    filled = [abs(one.iperf3_error) for one in results if one.iperf3_error is not None]
    held = [one.holds_capacity for one in results if one.holds_capacity is not None]
    held += [one.holds_available for one in results if one.holds_available is not None]
    unknown = [one for one in results if one.available is None or one.capacity is None]
    wrong = [one.case for one in results if one.is_wrong and one.is_trap]
    slow = [one for one in results if one.rate <= FAST_MBIT]
    fast = [one for one in results if one.rate > FAST_MBIT]
    rises = [one.ping_rise_ms for one in results if one.rate >= 20 and one.ping_rise_ms is not None]
    lines = [f"{len(results)} cases."]

    def say(what: str, seen: str, aim: str, *, is_met: bool) -> None:
        lines.append(f"{'met ' if is_met else 'MISSED'} {what}: {seen} (aim: {aim})")

    for what, errors, aim in (
        ("capacity, error in % of it", capacity, CAPACITY_AIM),
        ("available bandwidth, error in % of the capacity", available, AVAILABLE_AIM),
    ):
        if errors:
            middle, ninth = quantile(errors, 0.5), quantile(errors, 0.9)
            say(
                what,
                f"median {middle:.1f}, 90th percentile {ninth:.1f}",
                f"{aim[0]:g} and {aim[1]:g}",
                is_met=middle <= aim[0] and ninth <= aim[1],
            )
    if held:
        share = sum(held) / len(held)
        say("truth within the bounds", f"{share:.0%}", "90 %", is_met=share >= 0.9)
    say(
        "inconclusive",
        f"{len(unknown)} of {len(results)}",
        "10 %",
        is_met=len(unknown) <= 0.1 * len(results),
    )
    say("wrong with confidence in a trap", ", ".join(wrong) or "none", "none", is_met=not wrong)
    if slow:
        longest, most = max(one.seconds for one in slow), max(one.sent_bytes for one in slow)
        say(
            f"up to {FAST_MBIT} Mbit/s",
            f"{longest:.2f} s, {most / 1e6:.2f} MB at most",
            "3 s, 1 MB",
            is_met=longest <= 3 and most <= 1_000_000,
        )
    if fast:
        longest = max(one.seconds for one in fast)
        say("above", f"{longest:.2f} s at most", "5 s", is_met=longest <= 5)
    if rises:
        middle, worst = quantile(rises, 0.5), max(rises)
        say(
            "a ping beside it, from 20 Mbit/s, 95th percentile",
            f"+{middle:.1f} ms in the median, +{worst:.1f} ms at most",
            "+5 ms",
            is_met=worst <= 5,
        )
    if filled:
        lines.append(
            f"     iperf3 beside it: error median {quantile(filled, 0.5):.1f}, "
            f"90th percentile {quantile(filled, 0.9):.1f}, "
            f"{statistics.fmean(one.iperf3_bytes for one in results) / 1e6:.0f} MB a case"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", default="", metavar="REGEX", help="only those that match")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results, a line each")
    parser.add_argument("--samples", type=Path, metavar="DIR", help="keep the recordings")
    parser.add_argument("--seed", type=int, default=1, help="of the links' randomness")
    parser.add_argument("--iperf3-seconds", type=float, default=4.0, metavar="N")
    parser.add_argument(
        "--quick", action="store_true", help="qwave probe --quick, timed as a whole; no iperf3"
    )
    parser.add_argument("--no-iperf3", action="store_true", help="leave the peer out")
    return parser.parse_args()


def main() -> int:
    """Run the cases."""
    options = arguments()
    cases = [case for case in all_cases() if re.search(options.cases, case.name)]
    if options.list or not cases:
        sys.stdout.write("".join(f"{case.name}\n" for case in cases))
        return 0 if cases else 2
    iperf_s = 0.0 if options.no_iperf3 or options.quick else options.iperf3_seconds
    for program in ("ping", *(["iperf3"] if iperf_s else [])):
        if shutil.which(program) is None:
            sys.stderr.write(f"{program} is needed and not installed\n")
            return 2
    found = availability()
    if not found:
        sys.stderr.write(f"{found.reason}\n")
        return 2
    if found.rights is Rights.USER_NAMESPACE:
        enter_user_namespace()
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        # The emulator has a processor of its own.
        os.sched_setaffinity(0, cpus[:-1])
    cpu = cpus[-1] if len(cpus) > 1 else None
    manner = Manner(options.seed, iperf_s, options.quick, cpu)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.samples or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for number, case in enumerate(cases, 1):
            samples = folder / f"{re.sub('[^a-z0-9]+', '-', case.name.lower())}.jsonl"
            result = measure(case, manner, samples)
            results.append(result)
            sys.stderr.write(f"{number}/{len(cases)} {' | '.join(row(result))}\n")
            if options.json:
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
    sys.stdout.write(f"{table(results)}\n\n{summary(results)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
