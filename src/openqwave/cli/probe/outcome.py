"""What a measurement came to, and its form in JSON.

All times are nanoseconds and all rates bits a second, as integers. An estimate is an object with
"value", "low", "high", "confidence" and "method"; one that is not known has null for the numbers
and says why in "doubt" (a name for programs) and "reason" (a sentence for people).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openqwave.model.estimates import Doubt, Estimate, Estimated, Inconclusive, PathReport

# Changes when a field changes its meaning or goes away, not when one is added.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Destination:
    """Whom was measured towards.

    Attributes:
        host: As it was asked for.
        address: What that is, with the scope of a link-local address.
        version: Of IP, 4 or 6.
    """

    host: str
    address: str
    version: int

    def __str__(self) -> str:
        """The name and the address, once if they are the same."""
        if self.host == self.address:
            return self.address
        return f"{self.host} ({self.address})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one measurement.

    Attributes:
        report: The numbers.
        elapsed_ns: How long it took.
        sent_bytes: What it cost, in bytes of IP packets to the sink.
        destination: The sink; None for a recorded measurement, which does not say.
        checked_priority: Whether 802.1p was tried.
    """

    report: PathReport
    elapsed_ns: int
    sent_bytes: int
    destination: Destination | None
    checked_priority: bool

    @property
    def is_conclusive(self) -> bool:
        """Are both the capacity and the available bandwidth known?"""
        return isinstance(self.report.capacity_bps, Estimate) and isinstance(
            self.report.available_bps, Estimate
        )

    @property
    def is_silent(self) -> bool:
        """Did not a single small probe come back?"""
        rtt = self.report.rtt_ns
        return isinstance(rtt, Inconclusive) and rtt.doubt is Doubt.NO_SAMPLES

    @property
    def supports_priority(self) -> bool | None:
        """Whether the path carries 802.1p tags; None where it is not known.

        To the protocol a route check without any answer means no. Where nothing else is answered,
        either, it says nothing of tags.
        """
        return None if self.is_silent else self.report.supports_priority

    @property
    def priority_doubt(self) -> str:
        """Why it is not known whether priority is supported; empty if it is known."""
        if self.supports_priority is not None:
            return ""
        if not self.checked_priority:
            return "it was not tried"
        if self.is_silent:
            return "no probe was answered"
        return "the route check came to no result"

    def to_json(self) -> dict[str, Any]:
        """The whole of it; see the module's text."""
        report, to = self.report, self.destination
        return {
            "format": FORMAT,
            "host": None if to is None else to.host,
            "address": None if to is None else to.address,
            "ip_version": None if to is None else to.version,
            "is_conclusive": self.is_conclusive,
            "capacity_bps": _to_json(report.capacity_bps),
            "available_bps": _to_json(report.available_bps),
            "rtt_ns": _to_json(report.rtt_ns),
            "jitter_there_ns": _to_json(report.jitter_there_ns),
            "jitter_back_ns": _to_json(report.jitter_back_ns),
            "loss_ppm": _to_json(report.loss_ppm),
            "supports_priority": self.supports_priority,
            "priority_reason": self.priority_doubt or None,
            "link": report.link,
            "boost_bps": report.boost_bps,
            "clock_drift_ppm": round(report.drift_ppm, 3),
            "elapsed_ns": self.elapsed_ns,
            "sent_bytes": self.sent_bytes,
        }


def reason_of(inconclusive: Inconclusive) -> str:
    """Why a number is not known, in one line."""
    reason = inconclusive.doubt.value
    return f"{reason} ({inconclusive.detail})" if inconclusive.detail else reason


def _to_json(estimated: Estimated) -> dict[str, Any]:
    if isinstance(estimated, Inconclusive):
        return {
            "value": None,
            "low": None,
            "high": None,
            "doubt": estimated.doubt.name.lower(),
            "reason": reason_of(estimated),
        }
    return {
        "value": estimated.value,
        "low": estimated.low,
        "high": estimated.high,
        "confidence": estimated.confidence,
        "method": estimated.method,
    }
