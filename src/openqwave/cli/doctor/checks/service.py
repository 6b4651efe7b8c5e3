"""The service: whether it runs, as what, how it stands with interfaces, who may choose a DSCP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.findings import Finding, limited, ok, unknown
from openqwave.enforcement.bpf.backend import DataPlane

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from openqwave.ipc.rows import StatusRow

_MOST_NAMED: Final = 5


def none_runs(reason: str) -> Finding:
    """No service answers."""
    return limited(
        "service",
        f"none: {reason}; each program is its own subsystem, with options of sockets only",
        "sudo qwave service install",
    )


def running(status: StatusRow, version: str) -> Iterator[Finding]:
    """Judge a service by what it says of itself.

    Args:
        status: That.
        version: Of this command.
    """
    if status.version == version:
        yield ok("service", f"{status.service}, process {status.pid}, at {status.socket}")
    else:
        yield limited(
            "service",
            f"process {status.pid} is version {status.version}, and this command {version}",
            "sudo qwave service install",
        )
    backend = status.backend
    if backend.name == DataPlane.name:
        yield ok("marks by", f"{backend.name}: {backend.reason}")
    else:
        yield limited("marks by", f"{backend.name}: {backend.reason}", "as it says")
    for place in status.interfaces:
        if not place.is_attached:
            yield limited("exit", place.words, "as it says", place.name)


def operators(group: str, members: Collection[str] | None, user: str, trouble: str) -> Finding:
    """Judge who may choose a DSCP of their own.

    Args:
        group: The group that may.
        members: Who is in it; None if there is no such group.
        user: Who asks.
        trouble: Why the configuration could not be read; empty if it could.
    """
    topic = "operators"
    if trouble:
        return unknown(topic, f"which group may choose a DSCP is not known: {trouble}")
    if members is None:
        return limited(
            topic,
            f"there is no group {group!r}, so only administrators may choose a DSCP; types are for "
            "everybody",
            f"sudo groupadd {group}, or another operators_group under [access]",
        )
    return ok(topic, f"who is in {group!r} may choose a DSCP: {_named(sorted(members), user)}")


def _named(members: Sequence[str], user: str) -> str:
    if not members:
        return "nobody yet (sudo usermod -aG adds a user)"
    shown = ", ".join(members[:_MOST_NAMED])
    more = f" and {len(members) - _MOST_NAMED} more" if len(members) > _MOST_NAMED else ""
    return f"{shown}{more}; you are {'one' if user in members else 'not'}"
