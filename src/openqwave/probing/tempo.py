"""How much a watch sends: by how closely a path is to be followed, and what its budget allows.

A hundredth of a path is enough for `Effort.ALERT` from 20 Mbit/s on. At 5 Mbit/s it is some 50
small probes a second; at 1 Mbit/s it is seven, with a train of three packets every twenty seconds:
congestion is then told within a second or later, and a change of load within some ten. Below
0.15 Mbit/s the least that keeps the sink's connection (`SLOWEST`) is more than a hundredth.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

S = 1_000_000_000


class Effort(enum.Enum):
    """How closely a path is followed."""

    LIGHT = "nothing waits for what is found"
    ALERT = "flows hold contracts on the path, or wait for it"


# Small probes see every queue, trains only the capacity and few moments; a train costs as much as
# dozens of probes.
PROBES_PART = 2 / 3
# What nobody waits for leaves most of the budget for when somebody does.
PACE_PARTS = {Effort.LIGHT: 1 / 3, Effort.ALERT: 1.0}
# A tempo that differs by less is not worth setting: each new one brings the next probe forward.
SAME_PART = 0.2


@dataclass(frozen=True, slots=True)
class Tempo:
    """How much a watch sends, and how often it reports.

    Attributes:
        probes: Small probes a second.
        train_ns: From one train to the next.
        report_ns: From one report to the next.
    """

    probes: int
    train_ns: int
    report_ns: int

    def is_about(self, other: Tempo) -> bool:
        """Would nobody notice the difference?"""
        return (
            self.report_ns == other.report_ns
            and abs(self.probes - other.probes) <= SAME_PART * other.probes
            and abs(self.train_ns - other.train_ns) <= SAME_PART * other.train_ns
        )


# At 100 a second, 200 ms hold twenty probes, enough to tell a queue from chance.
WANTED = {
    Effort.LIGHT: Tempo(probes=20, train_ns=5 * S, report_ns=5 * S),
    Effort.ALERT: Tempo(probes=100, train_ns=S, report_ns=S),
}
# A sink ends a session of which it hears nothing for a minute.
SLOWEST = Tempo(probes=1, train_ns=45 * S, report_ns=S)


def affordable(effort: Effort, pace_bps: float, *, probe_bytes: int, train_bytes: int) -> Tempo:
    """The tempo of an effort, or what of it the budget allows.

    Args:
        effort: What is wanted.
        pace_bps: What the budget allows all the time.
        probe_bytes: What a small probe costs.
        train_bytes: What a train costs.
    """
    wanted = WANTED[effort]
    each_s = PACE_PARTS[effort] * pace_bps / 8
    # What small probes do not need is for trains.
    probes = max(SLOWEST.probes, min(wanted.probes, int(each_s * PROBES_PART / probe_bytes)))
    rest = max(1.0, each_s - probes * probe_bytes)
    train_ns = min(SLOWEST.train_ns, max(wanted.train_ns, round(train_bytes * S / rest)))
    return Tempo(probes, train_ns, wanted.report_ns)
