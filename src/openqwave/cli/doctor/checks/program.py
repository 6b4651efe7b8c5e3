"""What marks packets beyond options of sockets: the kernel's programs, closed sockets, nftables."""

from __future__ import annotations

from typing import Final

from openqwave.cli.doctor.findings import Finding, limited, ok, unknown
from openqwave.enforcement.bpf.backend import DataPlane
from openqwave.model.value import value

_AS_ROOT: Final = "look as root: sudo qwave doctor"
_STANDS_IN: Final = (
    "nftables or the options of sockets mark instead, without meter, tags and counters"
)


@value
class Trial:
    """What became of a trial to load the program, with small tables, closed again at once.

    Attributes:
        trouble: Why it did not load; empty if it did.
        lacks_rights: Whether that was for want of rights of who tried.
        has_tcx: Whether the kernel has TCX; None if it could not be asked.
        deaf: Why closed sockets would not be heard of; empty if they would.
        cgroups: Where cgroup v2 is mounted; empty for nowhere.
        nameless: Why it cannot be learnt which program makes a socket; empty if it can.
    """

    trouble: str = ""
    lacks_rights: bool = False
    has_tcx: bool | None = None
    deaf: str = ""
    cgroups: str = ""
    nameless: str = ""


def program(trial: Trial, backend: str) -> Finding:
    """Judge whether the service's program can be had.

    Args:
        trial: What became of it.
        backend: What the running service marks by; empty where none runs.
    """
    topic = "program"
    if not trial.trouble:
        way = {True: "TCX", False: "clsact", None: "a way that could not be asked for"}
        return ok(topic, f"the program that marks packets loads; attached by {way[trial.has_tcx]}")
    if backend == DataPlane.name:
        return ok(topic, "the service has its program in the kernel")
    if trial.lacks_rights:
        lacks, _, _ = trial.trouble.partition(";")
        return unknown(topic, f"whether it loads cannot be tried: {lacks}", _AS_ROOT)
    return limited(
        topic, f"{trial.trouble}; {_STANDS_IN}", "see docs/refusals.md, The kernel's program"
    )


def closed_sockets(trial: Trial) -> Finding:
    """Judge whether closed sockets are heard of at once."""
    topic = "cgroup v2"
    if not trial.cgroups:
        return limited(
            topic,
            "no cgroup v2 hierarchy is mounted, so closed sockets are found by looking for them",
            "mount -t cgroup2 none /sys/fs/cgroup/unified",
        )
    if trial.trouble:
        return unknown(
            topic,
            f"mounted at {trial.cgroups}; whether the program can be attached there was not tried",
            _AS_ROOT if trial.lacks_rights else "",
        )
    if trial.deaf:
        return limited(topic, trial.deaf, "see docs/data-plane.md, Closed sockets")
    return ok(topic, f"closed sockets are heard of at {trial.cgroups}")


def makers(trial: Trial) -> Finding:
    """Judge whether rules of the policy may name programs."""
    topic = "programs"
    if trial.trouble:
        return unknown(
            topic,
            "whether rules may name programs was not tried",
            _AS_ROOT if trial.lacks_rights else "",
        )
    if trial.nameless:
        return limited(
            topic,
            f"{trial.nameless}; rules by user, unit, cgroup and addresses work, and so does qwave "
            "run",
            "see docs/refusals.md, The kernel's program",
        )
    return ok(topic, "the kernel tells which program makes a socket, so rules may name programs")


def nftables(trouble: str, *, lacks_rights: bool, has_program: bool) -> Finding:
    """Judge whether nftables can be had.

    Args:
        trouble: Why not; empty if it can.
        lacks_rights: Whether that was for want of rights of who asked.
        has_program: Whether the kernel's program can be had, which is better.
    """
    topic = "nftables"
    if not trouble:
        return ok(topic, "libnftables answers, and so does the kernel")
    if lacks_rights:
        return unknown(topic, f"cannot be tried: {trouble}", _AS_ROOT)
    if has_program:
        return ok(topic, f"{trouble}; not needed, since the program loads")
    return limited(
        topic,
        f"{trouble}; the options of sockets mark instead",
        "install libnftables1, on a kernel with nftables and its family inet",
    )
