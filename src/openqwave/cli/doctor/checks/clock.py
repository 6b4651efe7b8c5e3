"""The clock that packets are stamped with. One-way delays are differences of two hosts' clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.findings import Finding, limited, missing, ok, unknown

if TYPE_CHECKING:
    from openqwave.drivers.clockstate import ClockState

# Reading these takes a microsecond and more, each time a packet is stamped.
_SLOW: Final = frozenset({"hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"})
_NS_PER_US: Final = 1_000


def stamps(wait_ns: int | None, trouble: str = "", *, is_lost: bool = False) -> Finding:
    """Judge whether the kernel stamps what arrives.

    Args:
        wait_ns: How long after its stamp a datagram is read here; None if none was stamped.
        trouble: Why it could not be tried; empty if it was.
        is_lost: Whether what was sent over loopback did not arrive.
    """
    topic = "stamps"
    if is_lost:
        return unknown(
            topic,
            "datagrams over loopback do not arrive, so stamps cannot be tried",
            "let the firewall accept what the interface lo carries",
        )
    if wait_ns is None:
        return missing(
            topic,
            f"the kernel does not stamp arriving packets{': ' if trouble else ''}{trouble}; "
            "estimates would rest on when Python reads them",
            "ip link set lo up, and let the container allow SO_TIMESTAMPING",
        )
    return ok(
        topic, f"the kernel stamps packets, {wait_ns / _NS_PER_US:.0f} us before Python reads"
    )


def source(clock: ClockState) -> Finding:
    """Judge what drives the clock."""
    topic = "clock source"
    if not clock.source:
        return ok(topic, "not told; nothing depends on it but how long a stamp takes")
    if clock.source in _SLOW:
        return limited(
            topic,
            f"{clock.source} takes microseconds to read, which shows in trains above 1 Gbit/s",
            "see why the kernel gave up tsc (dmesg | grep -i tsc)",
        )
    return ok(topic, f"{clock.source} is fast to read")


def synchronised(clock: ClockState) -> Finding:
    """Judge whether something keeps the clock right."""
    topic = "clock"
    if clock.is_synchronised:
        return ok(topic, f"kept right, to {clock.error_us / 1e3:.1f} ms by its keeper's word")
    return limited(
        topic,
        "nothing keeps it right, by the kernel's word; estimates use differences and do not need "
        "that, times in logs and recordings do",
        "run chrony or systemd-timesyncd; in a container the host does it",
    )
