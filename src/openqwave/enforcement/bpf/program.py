"""The kernel's program and its tables: loaded once; the tables are then only written to.

**Rights.** CAP_NET_ADMIN and CAP_BPF. What is missing is said by `MechanismMissing`.

Everything here ends with its descriptors: after `close`, or the end of the process, nothing is left
in the kernel but programs that somebody has attached.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from os import close
from typing import Final, Self

from openqwave.enforcement.bpf import btf, elf, layout, syscalls
from openqwave.enforcement.bpf.claimtable import BANKS, ClaimTable
from openqwave.enforcement.bpf.rights import missing_right
from openqwave.enforcement.bpf.shipped import read_object
from openqwave.enforcement.bpf.table import FlowTable, Sizes
from openqwave.enforcement.claims import MOST_RULES
from openqwave.enforcement.missing import MechanismMissing
from openqwave.model.value import value

__all__ = ["EgressProgram", "FlowTable", "Programs", "Sizes"]

_OBJECT: Final = "egress.bpf.o"

# The ring holds 16 bytes for a socket that was closed: 16,384 of them.
_RING_BYTES: Final = 1 << 18

_KINDS: Final = {
    "egress": (syscalls.SCHED_CLS, 0),
    "egress_untagged": (syscalls.SCHED_CLS, 0),
    "egress_raw": (syscalls.SCHED_CLS, 0),
    "release": (syscalls.CGROUP_SOCK, syscalls.SOCK_RELEASE),
}


@value
class Programs:
    """Descriptors of what can be attached.

    Attributes:
        egress: For interfaces with an Ethernet header where priority tags may be put.
        egress_untagged: For those where none may: loopback, VLAN devices.
        egress_raw: For those whose packets begin with the IP header.
        release: For a control group's sock_release.
    """

    egress: int
    egress_untagged: int
    egress_raw: int
    release: int


class EgressProgram:
    """The programs, verified by the kernel and not yet attached, and their tables.

    Attributes:
        programs: Descriptors of the programs.
        table: What they look at.
        claims: What leads from those who make sockets.
        owners: Descriptor of what is kept with sockets.
        ring_fd: Descriptor of the ring of sockets that were closed.
        ring_bytes: Its size.
    """

    def __init__(self, maps: Mapping[str, int], programs: Programs, sizes: Sizes) -> None:
        """Take over what `load` made."""
        self.programs = programs
        self.table = FlowTable(maps, sizes)
        self.claims = ClaimTable(maps)
        self.owners = maps["owners"]
        self.ring_fd = maps["released"]
        self.ring_bytes = _RING_BYTES
        self._fds = [*maps.values(), *(getattr(programs, name) for name in _KINDS)]

    @classmethod
    def load(cls, sizes: Sizes | None = None) -> Self:
        """Make the tables and have the programs verified.

        Raises:
            MechanismMissing: A right or a feature is missing; the text says which.
        """
        if sys.byteorder != "little":
            raise MechanismMissing(
                "the kernel's program is built for little-endian machines only; others are served "
                'by nftables (backend = "auto" under [enforcement])'
            )
        sizes = sizes or Sizes()
        found = read_object(_OBJECT, layout.LAYOUT)
        made: list[int] = []
        try:
            maps = {}
            for name, entries in _entries_of(sizes).items():
                maps[name] = _make(name, found.maps[name], entries)
                made.append(maps[name])
            programs = {}
            for name, (kind, attach_type) in _KINDS.items():
                code = found.programs[name].linked(maps)
                programs[name] = syscalls.prog_load(kind, code, found.license, name, attach_type)
                made.append(programs[name])
            return cls(maps, Programs(**programs), sizes)
        except OSError as error:
            for fd in made:
                close(fd)
            raise MechanismMissing(_why(error)) from error

    def close(self) -> None:
        """Let go of all of it; harmless when done before. What is attached stays attached."""
        fds, self._fds = self._fds, []
        for fd in fds:
            close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make(name: str, shape: elf.MapShape, entries: int) -> int:
    """Make a map; its descriptor."""
    if shape.kind != syscalls.SK_STORAGE:
        return syscalls.map_create(shape.kind, shape.key_bytes, shape.value_bytes, entries, name)
    types = syscalls.btf_load(btf.description(shape.value_bytes))
    try:
        return syscalls.storage_create(shape.value_bytes, types, name)
    finally:
        close(types)


def _entries_of(sizes: Sizes) -> dict[str, int]:
    """How many entries each map has."""
    slots = sizes.flows + 1
    return {
        "sockets": sizes.sockets,
        "destinations": sizes.destinations,
        "treatments": slots,
        "meters": slots,
        "fragments": sizes.fragmented,
        "settings": 1,
        "released": _RING_BYTES,
        "owners": 0,
        "banks": BANKS,
        "users": BANKS * sizes.claimants,
        "executables": BANKS * sizes.claimants,
        "groups": BANKS * sizes.claimants,
        "attached": sizes.claimants,
        "rules": BANKS * MOST_RULES,
        "closings": sizes.fragmented,
        "scratches": 1,
    }


def _why(error: OSError) -> str:
    """What is missing, and what would help."""
    text = error.strerror or str(error)
    if error.errno == errno.EPERM and not missing_right():
        return (
            f"{text}; the rights are there: a container or a security module forbids BPF, or, "
            "before Linux 5.11, the limit of locked memory (LimitMEMLOCK=infinity in the unit)"
        )
    if error.errno == errno.ENOMEM:
        return f"{text}; a smaller number of flows in the configuration needs less memory"
    if error.errno in (errno.EINVAL, errno.EACCES, errno.E2BIG):
        return f"{text}; Linux 6.1 or later takes the program"
    return text
