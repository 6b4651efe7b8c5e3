"""What sort of time it is."""

from __future__ import annotations

from pathlib import Path


def is_virtual() -> bool:
    """Whether time stands still while programs work, and jumps while they wait (see `guest`)."""
    return "time-travel=" in Path("/proc/cmdline").read_text(encoding="ascii", errors="replace")
