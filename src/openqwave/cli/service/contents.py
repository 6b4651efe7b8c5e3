"""What is placed: files of `openqwave.service.packaging`, and a copy of the program's packages.

A copy, because where the package is now may be a directory that the service's user cannot enter,
or that somebody other than root can write, who would then choose what runs with the service's
rights. It lies in a directory of its own, is compiled, and runs in an isolated interpreter (-I, -S)
that looks nowhere else but in the standard library. It holds what `qwaved` needs: this package
without the rooms above the service, and the packages that it depends on, with their licences.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata, resources, util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.cli.service.troubles import CANNOT_RUN, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openqwave.cli.service.layout import Layout

# What `qwaved` imports; the dependencies of the package without extras.
PACKAGES: Final = ("openqwave", "msgspec", "pyroute2")
# Rooms above the service, and what is placed elsewhere.
_LEFT_OUT: Final = ("openqwave/cli", "openqwave/lab", "openqwave/qos2")

# What the units of the package say, which are as distributions would use them.
_PACKAGED_PROGRAM: Final = "/usr/sbin/qwaved"

_PROGRAM: Final = """\
#!{interpreter} -IS
\"\"\"qwaved, placed here by `qwave service install`, which also takes it away.\"\"\"

import sys

sys.path.insert(0, {code!r})

from openqwave.service.daemon import run

if __name__ == "__main__":
    sys.exit(run())
"""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file is to hold.

    Attributes:
        data: Its bytes.
        mode: Its permissions.
    """

    data: bytes
    mode: int = 0o644


def version() -> str:
    """The version that is installed from."""
    return metadata.version("openqwave")


def files(layout: Layout, interpreter: str) -> dict[Path, Content]:
    """All files but the configuration, by place."""
    unit = _packaged("systemd/qwaved.service").decode()
    program = _PROGRAM.format(interpreter=interpreter, code=str(layout.code))
    return {
        layout.program: Content(program.encode(), 0o755),
        layout.units / "qwaved.service": Content(
            unit.replace(_PACKAGED_PROGRAM, str(layout.program)).encode()
        ),
        layout.units / "qwaved.socket": Content(_packaged("systemd/qwaved.socket")),
        layout.users: Content(_packaged("sysusers.d/qwave.conf")),
        layout.page: Content(_packaged("man/qwaved.8")),
        layout.command_page: Content(_packaged("man/qwave.1")),
        **{
            place: Content(_packaged(f"completions/{name}"))
            for name, place in layout.completions.items()
        },
    }


def example_config() -> Content:
    """A configuration that changes nothing and shows what could be changed."""
    return Content(_packaged("qwaved.toml"))


def _packaged(name: str) -> bytes:
    return (resources.files("openqwave.service") / "packaging" / name).read_bytes()


class Code:
    """The program's packages, where they are now.

    Attributes:
        digest: A name for what is in them.
    """

    def __init__(self) -> None:
        self._sources = dict(_sources())
        self.digest = self._digest()

    def _digest(self) -> str:
        names = hashlib.sha256()
        for name, source in sorted(self._sources.items()):
            if not name.endswith(".pyc"):
                names.update(f"{name}\0".encode())
                names.update(hashlib.sha256(source.read_bytes()).digest())
        return names.hexdigest()

    def copy_to(self, directory: Path) -> None:
        """Copy them into a directory, and compile what is not.

        Raises:
            OSError: They cannot be read or written.
        """
        for name, source in self._sources.items():
            target = directory / name
            for parent in reversed(target.relative_to(directory).parents):
                made = directory / parent
                if not made.exists():
                    made.mkdir()
                    made.chmod(0o755)
            shutil.copyfile(source, target)
            target.chmod(0o644)
            # Compiled files name the time of their source.
            seen = source.stat()
            os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        compileall.compile_dir(directory, quiet=2)
        for made in directory.rglob("*.pyc"):
            made.chmod(0o644)


def _sources() -> Iterator[tuple[str, Path]]:
    """Each file, by where it goes."""
    for package in PACKAGES:
        found = util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise Trouble(f"the package {package} is not where it can be copied from", CANNOT_RUN)
        top = Path(found.submodule_search_locations[0])
        for source in _walk(top, package):
            yield f"{package}/{source.relative_to(top)}", source
        for record in metadata.files(package) or ():
            if record.parts[0].endswith(".dist-info") and (
                record.name == "METADATA" or "licen" in str(record).lower()
            ):
                yield str(record), Path(str(record.locate()))


def _walk(directory: Path, name: str) -> Iterator[Path]:
    for entry in directory.iterdir():
        here = f"{name}/{entry.name}"
        if entry.is_dir():
            if here not in _LEFT_OUT:
                yield from _walk(entry, here)
        # Compiled by another Python, it would not be used.
        elif entry.suffix != ".pyc" or entry.name.endswith(f".{sys.implementation.cache_tag}.pyc"):
            yield entry
