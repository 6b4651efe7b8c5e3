"""How long a quick measurement may take, so that the whole command takes less than a second.

The interpreter's start is part of it and differs by a factor of five between machines, so it is
not guessed: the kernel knows when the process began (proc_pid_stat(5), field 22, in ticks of the
clock that CLOCK_BOOTTIME counts too).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_NS_PER_S = 1_000_000_000
WHOLE_NS = _NS_PER_S

# From the last sample to the end of the process: the estimate takes 10 to 50 ms, closing and the
# interpreter's end as long, and some of it is for a busy machine.
END_NS = 150_000_000

# Less than this measures nothing; the command is late then, and honest.
LEAST_NS = 250_000_000

# Field 22, counted from the first one after the name in brackets, which is the third.
_START_FIELD = 22 - 3


def age_ns() -> int:
    """How long this process has been there, exact to a tick of 10 ms."""
    text = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(text.rpartition(")")[2].split()[_START_FIELD])
    started_ns = ticks * _NS_PER_S // os.sysconf("SC_CLK_TCK")
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started_ns


def duration_ns(wanted_ns: int) -> int:
    """How long to measure: what is wanted, or what is left of the second."""
    return max(LEAST_NS, min(wanted_ns, WHOLE_NS - END_NS - age_ns()))
