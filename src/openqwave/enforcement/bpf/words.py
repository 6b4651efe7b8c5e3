"""What people are told of the kernel's program, and why it refuses."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal, refusal_of_os_error

if TYPE_CHECKING:
    from collections.abc import Collection

NAME: Final = "kernel program"

MARKS: Final = "a program at the exits of interfaces marks by socket and destination"
MARKS_PROGRAMS: Final = "a program at the exits of interfaces marks by who made the socket"
COUNTS: Final = "a program at the exits of interfaces counts, and changes nothing"
METERS: Final = "and marks otherwise what is above the rate"
BY_FQ: Final = "and gives packets departure times, for which the fq queue holds them back"
BY_LEAF: Final = "and puts packets in a queue that holds them to the rate"

OVER: Final = Refusal(
    ErrorCode.ERROR_NOT_SUPPORTED, "the kernel's program was taken away: restart the service"
)

# What the kernel says of a table that has no room, and the table of slots that it has none.
_FULL: Final[Collection[int | None]] = frozenset({errno.E2BIG, errno.ENOSPC})


def full_claims(error: OSError) -> Refusal:
    """Why something could not be written to the tables of those who make sockets."""
    if error.errno == errno.E2BIG:
        return Refusal(
            ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
            "the kernel's tables of users, programs, cgroups and runs are full: end runs, or have "
            "rules name fewer of them, such as a cgroup above many",
        )
    return full_tables(error)


def full_tables(error: OSError) -> Refusal:
    """Why something could not be written to the kernel's tables."""
    if error.errno in _FULL:
        return Refusal(
            ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
            "the kernel's tables are full: end flows, or raise most_flows under [enforcement] in "
            "the service's configuration and restart it",
        )
    return refusal_of_os_error(error, "writing to the kernel's tables failed")
