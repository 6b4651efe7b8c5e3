"""How the service of this host is: installed, running, reachable, and why not."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.cli.service import asking, manifest

if TYPE_CHECKING:
    from openqwave.cli.service.layout import Layout
    from openqwave.cli.service.manifest import Manifest
    from openqwave.cli.service.supervision import Supervisor
    from openqwave.ipc.rows import StatusRow

_NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen.

    Attributes:
        record: What is installed; None for nothing.
        supervisor: Who keeps it; None in another root.
        pid: Its process; None if it does not run.
        uptime_ns: For how long it has run.
        socket: Where it was asked.
        status: What it said of itself; None if it did not.
        reason: Why not.
        log: The last that it wrote, where it does not answer; may be more than a line.
    """

    record: Manifest | None
    supervisor: str | None = None
    pid: int | None = None
    uptime_ns: int | None = None
    socket: str | None = None
    status: StatusRow | None = None
    reason: str = ""
    log: str = ""


def look(layout: Layout, supervisor: Supervisor | None) -> Seen:
    """See how it is.

    Raises:
        Trouble: What is installed cannot be found out.
    """
    record = manifest.load(layout)
    if supervisor is None:
        return Seen(record)
    pid = supervisor.pid() if record is not None else None
    answer = asking.ask(supervisor.socket)
    if pid is None and answer.status is not None:
        # One that was started by hand.
        pid = answer.status.pid
    return Seen(
        record,
        supervisor.name,
        pid,
        None if pid is None else _uptime_ns(pid),
        str(supervisor.socket),
        answer.status,
        answer.reason,
        supervisor.log_tail() if record is not None and answer.status is None else "",
    )


def _uptime_ns(pid: int) -> int | None:
    """How long a process has run; None if it does not any more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # proc(5): field 22, counted from 1, with the second in brackets, which may hold anything.
    ticks = int(text.rpartition(")")[2].split()[19])
    started_ns = ticks * _NS_PER_S // os.sysconf("SC_CLK_TCK")
    return max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - started_ns)
