"""What was refused, and why: the request for a list of that, and what the list consists of.

It is the feature `REFUSALS`, which is asked for by nobody whose other end has not named it.
"""

from __future__ import annotations

from typing import Final

from openqwave.ipc.packets import Id, Packet
from openqwave.ipc.rows import Row

# The name of this part of the protocol.
REFUSALS: Final = "refusals"


class ListRefusals(Packet, frozen=True):
    """A page of `RefusalRow`, those with numbers above `after`, ascending."""

    id: Id
    after: int = 0


class RefusalRow(Row, frozen=True, kw_only=True, gc=False):
    """One thing that was refused, once or again and again.

    Attributes:
        number: Higher ones are later. What is refused again in the same words gets a new number,
            and its old one is not there any more.
        time_ns: When, CLOCK_REALTIME; the last time.
        pid: The process that asked; 0 where the service cannot see it.
        program: What that calls itself; empty where it was turned away before it said so.
        user: Whose it is, by name.
        uid: By number.
        request: What was asked for: the `type` of the packet.
        code: The Win32 error number.
        name: Its name.
        detail: The sentence that the program was told.
        flow: The flow that it was about; None for none. Of a flow that was asked to be made, none.
        host: Where that goes, or was to go: an address, with a port where there is one.
        times: How often.
        since_ns: The first time; None where it was refused once.
    """

    number: int
    time_ns: int
    pid: int
    program: str
    user: str
    uid: int
    request: str
    code: int
    name: str
    detail: str
    flow: int | None = None
    host: str | None = None
    times: int = 1
    since_ns: int | None = None
