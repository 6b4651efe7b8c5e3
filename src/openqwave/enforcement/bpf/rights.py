"""Which rights this thread has of those that the kernel asks for."""

from __future__ import annotations

from typing import Final

# From linux/capability.h.
CAP_NET_ADMIN: Final = 12
CAP_SYS_ADMIN: Final = 21
CAP_PERFMON: Final = 38
CAP_BPF: Final = 39


def has_right(number: int) -> bool:
    """Has this thread a right, or CAP_SYS_ADMIN, which for BPF is as good?"""
    with open("/proc/thread-self/status", encoding="ascii") as status:
        held = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    return bool((held >> number | held >> CAP_SYS_ADMIN) & 1)


def missing_right() -> str:
    """Which right this thread lacks for programs at interfaces; empty if none.

    The kernel asks for them in its first user namespace. Where they are there and it refuses all
    the same, a security module does, or a container.
    """
    wanted = ((CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_BPF, "CAP_BPF"))
    names = [name for bit, name in wanted if not has_right(bit)]
    if not names:
        return ""
    return (
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing; run the service as "
        "root, or give it both rights (AmbientCapabilities= in its unit)"
    )
