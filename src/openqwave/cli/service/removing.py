"""Taking the service away: exactly what was placed, and what it has made while it ran."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openqwave.cli.service import accounts, manifest
from openqwave.cli.service.installing import remove_owned

if TYPE_CHECKING:
    from openqwave.cli.interruption import Interruption
    from openqwave.cli.service.layout import Layout
    from openqwave.cli.service.supervision import Supervisor


@dataclass(frozen=True, slots=True)
class Removed:
    """What was done.

    Attributes:
        removed: Files and directories.
        kept: What the administrator has changed, and which stays.
        has_stopped: It ran.
        has_removed_user: The user, which the installation had made.
    """

    removed: list[str]
    kept: list[str]
    has_stopped: bool
    has_removed_user: bool


def uninstall(
    layout: Layout, supervisor: Supervisor | None, interruption: Interruption
) -> Removed | None:
    """Remove what is installed; None where nothing is.

    The record goes last, so that what was interrupted or failed can be done again.

    Raises:
        Trouble: Something could not be removed.
        Interrupted: A signal came.
        OSError: Likewise.
    """
    record = manifest.load(layout)
    if record is None:
        return None
    has_stopped = False
    if supervisor is not None:
        has_stopped = supervisor.pid() is not None
        supervisor.stop()
    interruption.check()
    removed: list[str] = []
    kept: list[str] = []
    for name, digest in record.files.items():
        on_disk = layout.on_disk(Path(name))
        found = manifest.digest_on_disk(on_disk)
        if found is None:
            continue
        if found != digest and Path(name) == layout.config:
            kept.append(str(on_disk))
            continue
        on_disk.unlink()
        removed.append(str(on_disk))
        interruption.check()
    for name in record.owned:
        on_disk = layout.on_disk(Path(name))
        if on_disk.exists():
            remove_owned(on_disk)
            removed.append(str(on_disk))
        interruption.check()
    if supervisor is not None:
        supervisor.forget()
    has_removed_user = record.has_made_user and layout.is_this_host and accounts.is_there()
    if has_removed_user:
        accounts.remove()
    interruption.check()
    layout.on_disk(layout.manifest).unlink()
    for name in record.directories:
        # What somebody else has put there since is theirs.
        with contextlib.suppress(OSError):
            layout.on_disk(Path(name)).rmdir()
            removed.append(str(layout.on_disk(Path(name))))
    return Removed(removed, kept, has_stopped, has_removed_user)
