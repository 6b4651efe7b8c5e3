"""Whether the running kernel has a part, or could load it; found without loading anything.

What is in the kernel itself is told by its configuration (/proc/config.gz) or by the list of
modules that were built in; what could be loaded by the list of all modules (modules.dep(5)); what
is loaded by /proc/modules. Containers often have none of these; then it is not known.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from enum import Enum
from pathlib import Path
from typing import Final

from openqwave.model.value import value

_CONFIG: Final = Path("/proc/config.gz")
_LOADED: Final = Path("/proc/modules")
_MODULES: Final = Path("/lib/modules")


class Part(Enum):
    """How the kernel has a part."""

    THERE = "there"
    LOADABLE = "loadable"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@value
class KernelParts:
    """What is told of the kernel's parts; None for a list that is not there.

    Attributes:
        config: The lines of its configuration.
        loaded: The names of the modules that are loaded.
        built_in: The names of those that are in the kernel itself.
        loadable: The names of those that can be loaded.
    """

    config: frozenset[str] | None = None
    loaded: frozenset[str] | None = None
    built_in: frozenset[str] | None = None
    loadable: frozenset[str] | None = None

    def find(self, module: str, option: str) -> Part:
        """How the kernel has one part.

        Args:
            module: What the part is called as a module, such as "sch_fq".
            option: What it is called in the configuration, such as "NET_SCH_FQ".
        """
        config = self.config or frozenset()
        if f"CONFIG_{option}=y" in config:
            return Part.THERE
        if module in (self.loaded or ()) or module in (self.built_in or ()):
            return Part.THERE
        if module in (self.loadable or ()):
            return Part.LOADABLE
        if self.loadable or f"# CONFIG_{option} is not set" in config:
            return Part.ABSENT
        # A module whose file is out of sight, as in a container, may be there or not.
        return Part.UNKNOWN


def read_parts() -> KernelParts:
    """Read all lists that are there."""
    config = loaded = built_in = loadable = None
    with (
        contextlib.suppress(OSError, EOFError),
        gzip.open(_CONFIG, "rt", encoding="utf-8") as file,
    ):
        config = frozenset(line.strip() for line in file)
    with contextlib.suppress(OSError):
        text = _LOADED.read_text(encoding="utf-8")
        loaded = frozenset(line.split()[0] for line in text.splitlines() if line)
    folder = _MODULES / os.uname().release
    with contextlib.suppress(OSError):
        built_in = _names((folder / "modules.builtin").read_text(encoding="utf-8"))
    with contextlib.suppress(OSError):
        loadable = _names((folder / "modules.dep").read_text(encoding="utf-8"))
    return KernelParts(config, loaded, built_in, loadable)


def _names(text: str) -> frozenset[str]:
    """The modules of a list of their files."""
    return frozenset(
        line.partition(":")[0].rpartition("/")[2].partition(".ko")[0].replace("-", "_")
        for line in text.splitlines()
        if line
    )
