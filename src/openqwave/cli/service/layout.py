"""Where everything of the service goes.

The program and what belongs to it go below a prefix, as what an administrator installs by hand
does (hier(7): /usr/local), the rest where systemd, man and people look for it. With another root
everything goes below that, as packagers and makers of images want it; what files say of one another
is then without that root.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The user, and the names of directories that are the service's own.
USER: Final = "qwave"

# Where systemd looks for units (systemd.unit(5)); below other prefixes it does not.
_UNIT_PREFIXES: Final = (Path("/usr"), Path("/usr/local"))


@dataclass(frozen=True, slots=True)
class Layout:
    """The places, as files that refer to one another name them; `on_disk` tells where they are.

    Attributes:
        root: The file system that is installed into.
        prefix: What the program goes below.
    """

    root: Path = Path("/")
    prefix: Path = Path("/usr/local")

    @property
    def is_this_host(self) -> bool:
        """Is it the running system, where programs can be started?"""
        return self.root == Path("/")

    def on_disk(self, place: Path) -> Path:
        """Where a place is, seen from here."""
        return self.root / place.relative_to("/")

    @property
    def library(self) -> Path:
        """What is nobody's but the service's."""
        return self.prefix / "lib" / "qwave"

    @property
    def code(self) -> Path:
        """The program's packages."""
        return self.library / "python"

    @property
    def manifest(self) -> Path:
        """The record of what was placed, where only root can change it."""
        return self.library / "installed.json"

    @property
    def program(self) -> Path:
        """What is started."""
        return self.prefix / "sbin" / "qwaved"

    @property
    def units(self) -> Path:
        """The directory of the units."""
        if self.prefix in _UNIT_PREFIXES:
            return self.prefix / "lib" / "systemd" / "system"
        return Path("/etc/systemd/system")

    @property
    def users(self) -> Path:
        """What systemd-sysusers is told of the user."""
        if self.prefix in _UNIT_PREFIXES:
            return self.prefix / "lib" / "sysusers.d" / "qwave.conf"
        return Path("/etc/sysusers.d/qwave.conf")

    @property
    def page(self) -> Path:
        """The manual page of the service."""
        return self.share / "man" / "man8" / "qwaved.8"

    @property
    def command_page(self) -> Path:
        """The manual page of the command."""
        return self.share / "man" / "man1" / "qwave.1"

    @property
    def completions(self) -> dict[str, Path]:
        """What bash, zsh and fish read to complete the command, by its name in the package."""
        return {
            "qwave.bash": self.share / "bash-completion" / "completions" / "qwave",
            "_qwave": self.share / "zsh" / "site-functions" / "_qwave",
            "qwave.fish": self.share / "fish" / "vendor_completions.d" / "qwave.fish",
        }

    @property
    def share(self) -> Path:
        """What does not depend on the machine."""
        return self.prefix / "share"

    @property
    def config(self) -> Path:
        """The administrator's file."""
        return Path("/etc/qwave/qwaved.toml")

    @property
    def run(self) -> Path:
        """The socket, the journal of marks; in memory."""
        return Path("/run/qwave")

    @property
    def state(self) -> Path:
        """What was learnt of paths."""
        return Path("/var/lib/qwave")

    @property
    def pid_file(self) -> Path:
        """Which process it is, where no service manager knows."""
        return self.run / "qwaved.pid"

    @property
    def log(self) -> Path:
        """What it says, where no service manager listens."""
        return Path("/var/log/qwaved.log")
