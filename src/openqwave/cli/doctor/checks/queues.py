"""Queues that hold flows to rates: which the kernel has, and which each interface runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.findings import Finding, limited, missing, ok, unknown
from openqwave.drivers.kernelparts import Part
from openqwave.enforcement.shaping.queues import OUR_ROOT, means_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from openqwave.model.queues import Queue

# The kernel's parts, as a module and in its configuration.
FQ: Final = "sch_fq", "NET_SCH_FQ"
HTB: Final = "sch_htb", "NET_SCH_HTB"
TBF: Final = "sch_tbf", "NET_SCH_TBF"

_HAD: Final = frozenset({Part.THERE, Part.LOADABLE})
_SHAPERS: Final = "queues"
_ROOT: Final = "queue"


def shapers(parts: Mapping[str, Part], running: Sequence[Queue]) -> Finding:
    """Judge which queues the kernel has.

    Args:
        parts: How it has each, by the module's name.
        running: All queues of all interfaces.
    """
    found = dict(parts)
    for queue in running:
        found[f"sch_{queue.kind}"] = Part.THERE
    fq, htb, tbf = (found.get(module, Part.UNKNOWN) for module, _ in (FQ, HTB, TBF))
    names = (("fq", fq), ("HTB", htb), ("TBF", tbf))
    words = ", ".join(f"{name} {_WORDS[part]}" for name, part in names)
    has_pool = htb in _HAD and tbf in _HAD
    if fq in _HAD:
        return ok(_SHAPERS, f"the kernel can hold UDP to rates: {words}")
    if Part.UNKNOWN in (fq, htb, tbf) and not has_pool:
        return unknown(
            _SHAPERS,
            f"{words}: neither /proc/config.gz nor /lib/modules says which",
            "try: tc qdisc replace dev DEV root fq",
        )
    if has_pool:
        return limited(
            _SHAPERS,
            f"{words}: the service can hold UDP to rates by a pool of HTB, and programs without "
            "the service cannot",
            "build or load the module sch_fq",
        )
    return missing(
        _SHAPERS,
        f"{words}: no queue here can hold UDP to a rate",
        "build or load the module sch_fq, or sch_htb and sch_tbf",
    )


_WORDS: Final = {
    Part.THERE: "is there",
    Part.LOADABLE: "can be loaded",
    Part.ABSENT: "is not there",
    Part.UNKNOWN: "is perhaps there",
}


def has_fq(parts: Mapping[str, Part]) -> bool:
    """May the kernel have fq?"""
    return parts.get(FQ[0], Part.UNKNOWN) is not Part.ABSENT


def root(name: str, queues: Sequence[Queue], *, may_install: bool, has_fq: bool = True) -> Finding:
    """Judge the root queue of an interface.

    Args:
        name: The interface.
        queues: Its queues.
        may_install: Whether the service's configuration lets it put a queue there.
        has_fq: Whether the kernel may have fq.
    """
    found = next((queue for queue in queues if queue.is_root), None)
    kind = "no queue" if found is None else found.kind
    cure = f"tc qdisc replace dev {name} root fq" if has_fq else f"tc qdisc del dev {name} root"
    allow = 'queues = "install" under [enforcement]'
    if found is not None and found.handle == OUR_ROOT:
        return ok(_ROOT, f"{kind}, put there by the service, holds UDP to rates", name)
    if means_of(queues) is not None:
        return ok(_ROOT, f"{kind} holds UDP to rates", name)
    if found is not None and found.handle:
        return limited(
            _ROOT,
            f"{kind} {found.handle >> 16:x}:, which somebody set up, cannot hold UDP to a rate, "
            "and the service leaves it",
            f"{cure}, if nobody needs it",
            name,
        )
    if may_install:
        return ok(_ROOT, f"{kind}, which the service may replace when UDP is to be held", name)
    return limited(
        _ROOT,
        f"{kind} cannot hold UDP to a rate (TCP is held by its sockets), and the service may not "
        "put another there",
        f"{cure}, or {allow}" if has_fq else f"{allow} in the service's configuration",
        name,
    )
