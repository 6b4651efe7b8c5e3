"""The kernel's version, and what comes with it. Which, was seen on Linux 6.1, 6.12 and 6.18."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.findings import limited, ok, unknown

if TYPE_CHECKING:
    from openqwave.cli.doctor.findings import Finding

_TOPIC: Final = "kernel"
# What an older kernel lacks, from the newest version on. Only the first two are asked of every
# host: the others have something that stands in for them.
_PROGRAM, _NAMESPACES = (6, 1), (5, 14)
_NICE: Final = (
    ((6, 7), "UDP without the service is held to no rate (Linux 6.7)"),
    ((6, 6), "the service's program is attached by clsact instead of TCX (Linux 6.6)"),
)


def version(release: str) -> Finding:
    """Judge a kernel by its release, as `uname -r` says it."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None:
        return unknown(_TOPIC, f"{release!r} is no version of Linux that is known")
    number = int(found[1]), int(found[2])
    if number < _NAMESPACES:
        return limited(
            _TOPIC,
            f"Linux {release} does not tell in which network namespace a socket is (5.14 does), so "
            "sockets are marked by their own options alone",
            "run Linux 6.1 or later",
        )
    if number < _PROGRAM:
        return limited(
            _TOPIC,
            f"Linux {release} is older than 6.1, from which on the service's program is known to "
            "load; a table of nftables stands in",
            "run Linux 6.1 or later, better 6.7",
        )
    lacks = [words for since, words in _NICE if number < since]
    if lacks:
        return limited(_TOPIC, f"Linux {release}: {'; '.join(lacks)}", "run Linux 6.7 or later")
    return ok(_TOPIC, f"Linux {release} has all that is used")
