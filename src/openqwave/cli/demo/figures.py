"""The demo's numbers, and whether they are what it promises.

Sent is the sender's count, received and delays are the receiving program's, and code points are
those of the packets that arrived at the receiver's interface. Lost is what was sent in one half
and never received, also if it was lost at the half's very end.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from openqwave.cli.demo.stage import AFTER, BEFORE, BULK, STREAM, Records, setup
from openqwave.lab.traffic import Report

# The version of the JSON object; grows when a field changes its meaning or goes away.
FORMAT = 1

# What is promised of a stream in a flow on a link that is more than full.
MOST_LOST = 0.001
MOST_OF_THE_DELAY = 0.25
# Windows' code point for the traffic type AudioVideo.
STREAM_DSCP = 40
BULK_DSCP = 0


@dataclass(frozen=True, slots=True)
class Half:
    """One stream in one half.

    Attributes:
        sent: Packets sent.
        received: Distinct packets that reached the receiving program.
        delivered_bps: Their rate over the half, IP and UDP headers included.
        median_ns: Median one-way delay; None if nothing came.
        p99_ns: 99th percentile of it, likewise.
        max_ns: Greatest, likewise.
        dscps: Packets that arrived at the receiver's interface, by code point.
    """

    sent: int
    received: int
    delivered_bps: int
    median_ns: int | None
    p99_ns: int | None
    max_ns: int | None
    dscps: dict[int, int]

    @property
    def lost(self) -> int:
        """Packets sent and not received."""
        return self.sent - self.received

    @property
    def lost_share(self) -> float:
        """Lost of sent, 0 to 1; 0 if none was sent."""
        return self.lost / self.sent if self.sent else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it with JSON's types."""
        return {
            "sent_packets": self.sent,
            "received_packets": self.received,
            "lost_packets": self.lost,
            "lost_percent": round(100 * self.lost_share, 4),
            "delivered_bps": self.delivered_bps,
            "delay_median_ns": self.median_ns,
            "delay_p99_ns": self.p99_ns,
            "delay_max_ns": self.max_ns,
            "wire_dscp": {str(dscp): count for dscp, count in sorted(self.dscps.items())},
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise, and whether it was kept.

    Attributes:
        name: A word for programs.
        promise: What should be, in words.
        measured: What was, in words.
        kept: Whether that is it.
    """

    name: str
    promise: str
    measured: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that was measured.

    Attributes:
        half_s: How long each half lasted.
        flow: The video program's report on its flow.
        halves: By stream and phase.
        uncaptured: Packets that the capture had no room for.
        socket_drops: Packets that the receiving programs were too slow for.
        slipped_ns: By how much the senders fell behind their schedules.
    """

    half_s: float
    flow: Report
    halves: dict[tuple[int, int], Half]
    uncaptured: int
    socket_drops: int
    slipped_ns: int

    @property
    def before(self) -> Half:
        """The stream without a flow."""
        return self.halves[STREAM, BEFORE]

    @property
    def after(self) -> Half:
        """The stream in its flow."""
        return self.halves[STREAM, AFTER]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The demo's promises."""
        return (_loss(self.after), _delay(self.before, self.after), _marks(self.halves))

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return all(verdict.kept for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Return it with JSON's types."""
        names = {BEFORE: "without_flow", AFTER: "in_flow"}
        flow = {key: value for key, value in self.flow.items() if key not in ("event", "time_ns")}
        return {
            "format": FORMAT,
            "versions": {
                "openqwave": version("openqwave"),
                "python": platform.python_version(),
                "kernel": platform.release(),
            },
            "setup": setup() | {"half_s": self.half_s},
            "flow": flow,
            **{
                name: {
                    "stream": self.halves[STREAM, phase].to_json(),
                    "bulk": self.halves[BULK, phase].to_json(),
                }
                for phase, name in names.items()
            },
            "measurement": {
                "uncaptured_packets": self.uncaptured,
                "socket_drops": self.socket_drops,
                "slipped_ns": self.slipped_ns,
            },
            "verdicts": {
                verdict.name: {
                    "promise": verdict.promise,
                    "measured": verdict.measured,
                    "kept": verdict.kept,
                }
                for verdict in self.verdicts
            },
            "kept": self.kept,
        }


def figures_of(records: Records) -> Figures:
    """Work the numbers out."""
    return Figures(
        half_s=records.half_s,
        flow=records.flow,
        halves={
            (stream, phase): _half(records, stream, phase)
            for stream in (STREAM, BULK)
            for phase in (BEFORE, AFTER)
        },
        uncaptured=records.uncaptured,
        socket_drops=sum(report["socket_drops"] for report in records.received.values()),
        slipped_ns=max(report["slipped_ns"] for report in records.sent.values()),
    )


def _half(records: Records, stream: int, phase: int) -> Half:
    received: dict[str, Any] = next(
        (each for each in records.received[stream]["streams"] if each["phase"] == phase),
        {"received": 0, "ip_bytes": 0, "delay_ns": {}},
    )
    account = records.wire.accounts.get((stream, phase))
    sent = records.sent[stream]["sent_by_phase"]
    return Half(
        sent=sent[phase] if phase < len(sent) else 0,
        received=received["received"],
        delivered_bps=round(received["ip_bytes"] * 8 / records.half_s),
        median_ns=received["delay_ns"].get("p50"),
        p99_ns=received["delay_ns"].get("p99"),
        max_ns=received["delay_ns"].get("max"),
        dscps=dict(account.dscps) if account else {},
    )


def _loss(after: Half) -> Verdict:
    return Verdict(
        "loss",
        f"in its flow, the stream loses at most {100 * MOST_LOST:g} %",
        f"{after.lost:,} of {after.sent:,} packets lost",
        after.sent > 0 and after.lost <= MOST_LOST * after.sent,
    )


def _delay(before: Half, after: Half) -> Verdict:
    promise = "in its flow, the stream's 99th percentile delay is under a quarter of the one before"
    if before.p99_ns is None or after.p99_ns is None:
        return Verdict("delay", promise, "nothing arrived", kept=False)
    return Verdict(
        "delay",
        promise,
        f"{after.p99_ns / 1e6:.1f} ms after {before.p99_ns / 1e6:.1f} ms",
        after.p99_ns < MOST_OF_THE_DELAY * before.p99_ns,
    )


def _marks(halves: dict[tuple[int, int], Half]) -> Verdict:
    seen = {key: set(half.dscps) for key, half in halves.items()}
    marks = {key: " and ".join(map(str, sorted(each))) or "none" for key, each in seen.items()}
    return Verdict(
        "marks",
        f"in its flow, all packets of the stream carry DSCP {STREAM_DSCP}, and those of the bulk "
        f"{BULK_DSCP}",
        f"DSCP {marks[STREAM, AFTER]} on the stream's, {marks[BULK, AFTER]} on the bulk's",
        seen[STREAM, AFTER] == {STREAM_DSCP} and seen[BULK, AFTER] == {BULK_DSCP},
    )
