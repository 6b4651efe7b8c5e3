"""The objects that come with this package, read and found to be of this version."""

from __future__ import annotations

from importlib import resources

from openqwave.enforcement.bpf import elf
from openqwave.enforcement.missing import MechanismMissing


def read_object(name: str, layout: tuple[int, ...]) -> elf.Object:
    """Read one.

    Args:
        name: Of its file.
        layout: Sizes and offsets as `openqwave.enforcement.bpf.layout` has them.

    Raises:
        MechanismMissing: It is broken, or of another version than this program.
    """
    data = resources.files("openqwave.enforcement.bpf").joinpath(name).read_bytes()
    try:
        found = elf.read(data)
    except elf.BrokenObject as error:
        raise MechanismMissing(f"{name} is broken: {error}; install it again") from error
    if found.layout != layout:
        raise MechanismMissing(
            f"{name} is of another version than this program; build it by scripts/bpf.sh"
        )
    return found
