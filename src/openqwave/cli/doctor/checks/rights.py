"""The rights of who runs this, and of the service.

No right is needed to mark sockets of one's own. What the service's are for: see its manual page.
Numbers: linux/capability.h.
"""

from __future__ import annotations

from typing import Final

from openqwave.cli.doctor.findings import Finding, limited, ok, unknown

NET_ADMIN: Final = 12
_SYS_ADMIN: Final = 21
_BPF, _PERFMON = 39, 38

# What the service uses beside that, and for what.
_USED: Final = (
    (NET_ADMIN, "CAP_NET_ADMIN", "programs, tables and queues in the kernel"),
    (_BPF, "CAP_BPF", "the program that marks packets"),
    (19, "CAP_SYS_PTRACE", "changing marks of programs that do not ask again"),
    (2, "CAP_DAC_READ_SEARCH", "finding sockets after a fork or a kill"),
    (13, "CAP_NET_RAW", "probes with an 802.1p tag"),
)
# CAP_SYS_ADMIN contains them, as it did before they were rights of their own (Linux 5.8).
_IN_SYS_ADMIN: Final = frozenset({_BPF, _PERFMON})


def holds(held: int, capability: int) -> bool:
    """Is a capability in a set?"""
    if capability in _IN_SYS_ADMIN and held >> _SYS_ADMIN & 1:
        return True
    return bool(held >> capability & 1)


def of_caller(user: str, held: int) -> Finding:
    """Judge the rights of who runs this.

    Args:
        user: Who that is.
        held: The effective capabilities, a bit each.
    """
    lacks = [name for bit, name, _ in _USED[:2] if not holds(held, bit)]
    if not lacks:
        return ok("your rights", f"{user} may look at everything here")
    return limited(
        "your rights",
        f"{user} lacks {' and '.join(lacks)}: enough to mark and to pace, but some of what "
        "follows cannot be seen",
        "look as root: sudo qwave doctor",
    )


def of_service(pid: int, held: int | None) -> Finding:
    """Judge the rights of the running service.

    Args:
        pid: Its process.
        held: Its effective capabilities; None if they cannot be seen.
    """
    topic = "its rights"
    if held is None:
        return unknown(
            topic,
            f"the rights of process {pid} cannot be seen from here",
            "look in the same pid namespace, as root",
        )
    lacks = [f"{name} ({use})" for bit, name, use in _USED if not holds(held, bit)]
    if not lacks:
        return ok(topic, "the service has all rights that it uses")
    return limited(
        topic,
        f"the service lacks {', '.join(lacks)}",
        "install it (sudo qwave service install); in a container, have the rights granted to it",
    )
