"""The record of what was placed, so that exactly that is taken away again.

It is written before anything else is placed and names all that will be, so an installation that was
killed halfway can be taken away, too. It lies where only root can write: what it names is removed
by root.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from openqwave.cli.service.placing import write_whole
from openqwave.cli.service.troubles import CANNOT_RUN, Trouble

if TYPE_CHECKING:
    from openqwave.cli.service.layout import Layout

_FORMAT: Final = 1
MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an installation has placed.

    Attributes:
        version: Of the package.
        interpreter: The Python that runs the service.
        code_digest: Of the program's packages.
        files: Digests of the files' content, by place.
        directories: Those that were made, the inner ones first; removed if empty.
        owned: Directories that are the service's with whatever is in them.
        has_made_user: The user was made, and nobody else's.
        is_complete: It got to the end.
    """

    version: str
    interpreter: str
    code_digest: str
    files: dict[str, str] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    owned: list[str] = field(default_factory=list)
    has_made_user: bool = False
    is_complete: bool = False


def digest_of(content: bytes) -> str:
    """A name for some content."""
    return hashlib.sha256(content).hexdigest()


def digest_on_disk(path: Path) -> str | None:
    """A name for what a file holds; None where there is none."""
    try:
        return digest_of(path.read_bytes())
    except FileNotFoundError:
        return None


def content_of(manifest: Manifest) -> bytes:
    """A manifest as a file has it."""
    return json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=1).encode() + b"\n"


def save(manifest: Manifest, layout: Layout) -> None:
    """Write a manifest to its place."""
    write_whole(layout.on_disk(layout.manifest), content_of(manifest), MODE)


def load(layout: Layout) -> Manifest | None:
    """Read the manifest; None where nothing is installed.

    Raises:
        Trouble: It cannot be understood.
    """
    path = layout.on_disk(layout.manifest)
    try:
        read: dict[str, Any] = json.loads(path.read_bytes())
        if read.pop("format") != _FORMAT:
            raise Trouble(
                f"{path} was written by another version of qwave; use that one", CANNOT_RUN
            )
        return Manifest(**read)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise Trouble(f"{path} cannot be read: {error.strerror}", CANNOT_RUN) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Trouble(f"{path} is damaged: {error}", CANNOT_RUN) from error
