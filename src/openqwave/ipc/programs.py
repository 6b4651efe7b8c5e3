"""Programs that ask for nothing: requests that speak for them, and what a list of them consists of.

A run is a cgroup whose sockets are treated in one way for as long as processes are in it; a rule is
the administrator's. Both are part of the feature `PROGRAMS`, which is asked for by nobody whose
other end has not named it.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from openqwave.ipc.packets import MAX_PROGRAM_CHARS, Id, Packet, read_value
from openqwave.ipc.rows import Row

# The name of this part of the protocol.
PROGRAMS: Final = "programs"


class StartRun(Packet, frozen=True):
    """Treat the traffic of a cgroup's processes in one way; the answer is a `StartedRun`.

    One descriptor comes along: the cgroup's directory. The run outlives the connection, and ends
    when no process is in the cgroup any more.

    Attributes:
        id: Names the request.
        program: What runs there, for people; 64 characters at most.
        pid: Its process, for people.
        traffic_type: Marks as of this type, 0 to 5; None for none.
        dscp: An exact code point, 0 to 63, which comes before that of the type.
        rate_bps: Bit/s with IP and transport headers, of all its sockets together; above 0.
        hold_back: What is above the rate waits, where that can be had. Otherwise it is sent with
            marks of best effort.
        adopt: Sockets that its processes have already are treated so, too.
    """

    id: Id
    program: Annotated[str, msgspec.Meta(max_length=MAX_PROGRAM_CHARS)]
    pid: int
    traffic_type: int | None = None
    dscp: int | None = None
    rate_bps: int | None = None
    hold_back: bool = False
    adopt: bool = False


class EndRun(Packet, frozen=True):
    """End a run before its processes end; the answer is null."""

    id: Id
    run: int


class ListPrograms(Packet, frozen=True):
    """A page of `ProgramRow`, those that come after the first `after`."""

    id: Id
    after: int = 0


class StartedRun(Row, frozen=True, kw_only=True, gc=False):
    """A run that has begun.

    Attributes:
        run: Its number.
        dscp: The code point that its packets get; None where they are left as they are.
        words: How it is carried out.
        adopted: How many sockets that were there before are treated so.
        unreachable: How many processes have sockets that could not be reached.
    """

    run: int
    dscp: int | None = None
    words: str = ""
    adopted: int = 0
    unreachable: int = 0


class ProgramRow(Row, frozen=True, kw_only=True, gc=False):
    """One run, or one rule.

    Attributes:
        kind: ``run``; ``attach`` for one that processes were put into which ran before; ``rule``.
        number: Of a run, what `EndRun` takes; of a rule its place in the order, from 1, first the
            one that is before all others.
        name: What a run's program is called; a rule's name.
        user: Whose run it is; which user a rule is for; empty for any.
        uid: A run's user by number.
        pid: A run's process, as it was told.
        cgroup: A run's cgroup; a rule's cgroup or unit, as it is written.
        asks: A rule's conditions, in one line.
        origin: Where a rule is written, as ``FILE:LINE``.
        traffic_type: In words; None for none.
        dscp: The code point that packets get; None where they are left as they are. So for the
            next.
        priority: For this host's own queues.
        rate_bps: What they may send together; None without a limit.
        excess: What becomes of more than that, in words.
        sent_packets: What was sent within the rate; None where nobody counts. So for the next four.
        sent_bytes: Bytes of these IP packets.
        excess_packets: What was above the rate and was sent with the marks for such.
        excess_bytes: Bytes of these.
        dropped_packets: Not sent, because too much waited for its turn.
        backend: What marks the packets; empty where nothing does.
        reason: Why it is that one, or why nothing does.
    """

    kind: str
    number: int
    name: str
    user: str = ""
    uid: int | None = None
    pid: int | None = None
    cgroup: str = ""
    asks: str = ""
    origin: str = ""
    traffic_type: str | None = None
    dscp: int | None = None
    priority: int | None = None
    rate_bps: int | None = None
    excess: str = ""
    sent_packets: int | None = None
    sent_bytes: int | None = None
    excess_packets: int | None = None
    excess_bytes: int | None = None
    dropped_packets: int | None = None
    backend: str = ""
    reason: str = ""


_STARTED: Final = msgspec.json.Decoder(StartedRun)


def started_run_of(raw: bytes) -> StartedRun:
    """Read the answer to ``start_run``.

    Raises:
        ProtocolError: It is none.
    """
    return read_value(_STARTED, raw)
