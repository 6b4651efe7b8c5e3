"""How the program that makes a socket is learnt, from the socket's beginning on.

The program `created` runs when a process makes a socket, and notes the process's executable with
the socket. It hangs, as `release` does, from the root of cgroup v2, and its link ends with its
descriptor. It is loaded when somebody first asks for executables, because it needs what the rest
does not: CAP_PERFMON, and the kernel's description of its types (BTF).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from openqwave.enforcement.bpf import btf, layout, syscalls
from openqwave.enforcement.bpf.btf import Field
from openqwave.enforcement.bpf.release import attach
from openqwave.enforcement.bpf.rights import CAP_PERFMON, has_right
from openqwave.enforcement.bpf.shipped import read_object
from openqwave.enforcement.missing import MechanismMissing

if TYPE_CHECKING:
    from collections.abc import Callable

_OBJECT: Final = "created.bpf.o"
_TYPES: Final = "/sys/kernel/btf/vmlinux"
# struct places of created.bpf.c, in its order: fields that are one behind the other.
PLACES: Final = (
    (Field("task_struct", "mm"),),
    (Field("mm_struct", "exe_file"),),
    (Field("file", "f_inode"),),
    (Field("inode", "i_ino"),),
    (Field("file", "f_path"), Field("path", "dentry")),
    (Field("dentry", "d_name"), Field("qstr", "name")),
)


def kernel_types() -> bytes:
    """What the running kernel says of its types.

    Raises:
        MechanismMissing: It says nothing.
    """
    try:
        with open(_TYPES, "rb") as file:
            return file.read()
    except OSError as error:
        raise MechanismMissing(
            f"{_TYPES} cannot be read ({error.strerror}): the kernel needs CONFIG_DEBUG_INFO_BTF"
        ) from error


class Creation:
    """Notes executables with the sockets that they make, once it is told to."""

    def __init__(self, owners: int, types: Callable[[], bytes] = kernel_types) -> None:
        """Note nothing yet.

        Args:
            owners: Descriptor of what is kept with sockets; stays open as long as this is used.
            types: Reads the kernel's description of its types.
        """
        self._owners = owners
        self._types = types
        self._link: int | None = None
        self._reason: str | None = None

    def begin(self) -> str:
        """Note executables from now on; harmless when that is so already.

        Returns:
            Why it cannot be; empty where it can. It is tried once.
        """
        if self._reason is None:
            try:
                self._link = self._attach()
                self._reason = ""
            except MechanismMissing as error:
                self._reason = f"which program makes a socket cannot be learnt here: {error}"
        return self._reason

    def close(self) -> None:
        """Note no more, for good."""
        if self._link is not None:
            os.close(self._link)
            self._link = None
        self._reason = "the kernel's program was taken away: restart the service"

    def _attach(self) -> int:
        if not has_right(CAP_PERFMON):
            raise MechanismMissing(
                "CAP_PERFMON is missing; run the service as root, or give it that right "
                "(AmbientCapabilities= in its unit)"
            )
        try:
            found = btf.offsets(self._types(), [field for way in PLACES for field in way])
        except btf.BrokenTypes as error:
            raise MechanismMissing(f"{error}; take another kernel") from error
        places = layout.PLACES.pack(*(sum(found[field] for field in way) for way in PLACES))
        try:
            program = _load(self._owners, places)
        except OSError as error:
            text = error.strerror or str(error)
            raise MechanismMissing(f"{text}; Linux 6.1 or later takes the program") from error
        try:
            return attach(program, where=syscalls.SOCK_CREATE)
        finally:
            os.close(program)


def _load(owners: int, places: bytes) -> int:
    """Have the program verified; its descriptor."""
    found = read_object(_OBJECT, layout.CREATED_LAYOUT)
    shape = found.maps["places"]
    fd = syscalls.map_create(shape.kind, shape.key_bytes, shape.value_bytes, 1, "places")
    try:
        syscalls.update(fd, layout.SLOT.pack(0), places)
        code = found.programs["created"].linked({"owners": owners, "places": fd})
        kind, where = syscalls.CGROUP_SOCK, syscalls.SOCK_CREATE
        return syscalls.prog_load(kind, code, found.license, "created", where)
    finally:
        # The program holds it.
        os.close(fd)
