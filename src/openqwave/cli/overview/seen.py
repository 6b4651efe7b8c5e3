"""What a look at the service found: as a document, and as a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from openqwave.cli.overview.flows import page_of_flows
from openqwave.cli.overview.paths import page_of_paths
from openqwave.cli.overview.refusals import page_of_refusals
from openqwave.cli.overview.status import page_of_status, page_without_service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.cli.overview.pages import Page
    from openqwave.ipc.messages import FlowRow, PathRow, ProgramRow, RefusalRow, StatusRow


@dataclass(frozen=True, slots=True)
class FlowsSeen:
    """Flows.

    Attributes:
        rows: Those that were wanted.
        sees_all: Whether the service shows this user all.
        is_filtered: Whether some were not wanted.
        spoken_for: Runs and rules, likewise.
    """

    rows: Sequence[FlowRow]
    sees_all: bool
    is_filtered: bool
    spoken_for: Sequence[ProgramRow] = ()

    @property
    def things(self) -> str:
        """See `showing.Seen`."""
        return "flows and programs" if self.spoken_for else "flows"

    def fields(self) -> dict[str, Any]:
        """See `showing.Seen`."""
        return {
            "scope": "all" if self.sees_all else "own",
            "flows": [_fields_of(row) for row in self.rows],
            "programs": [_fields_of(row) for row in self.spoken_for],
        }

    def page(self, width: int | None) -> Page:
        """See `showing.Seen`."""
        return page_of_flows(
            self.rows,
            sees_all=self.sees_all,
            is_filtered=self.is_filtered,
            width=width,
            spoken_for=self.spoken_for,
        )


@dataclass(frozen=True, slots=True)
class PathsSeen:
    """Paths; see `FlowsSeen`."""

    rows: Sequence[PathRow]
    is_filtered: bool

    @property
    def things(self) -> str:
        """See `showing.Seen`."""
        return "paths"

    def fields(self) -> dict[str, Any]:
        """See `showing.Seen`."""
        return {"paths": [_fields_of(row) for row in self.rows]}

    def page(self, width: int | None) -> Page:
        """See `showing.Seen`."""
        return page_of_paths(self.rows, is_filtered=self.is_filtered, width=width)


@dataclass(frozen=True, slots=True)
class RefusalsSeen:
    """What was refused, the newest first; see `FlowsSeen`."""

    rows: Sequence[RefusalRow]
    sees_all: bool
    is_filtered: bool

    @property
    def things(self) -> str:
        """See `showing.Seen`."""
        return "refusals"

    def fields(self) -> dict[str, Any]:
        """See `showing.Seen`."""
        return {
            "scope": "all" if self.sees_all else "own",
            "refusals": [_fields_of(row) for row in self.rows],
        }

    def page(self, width: int | None) -> Page:
        """See `showing.Seen`."""
        return page_of_refusals(
            self.rows, sees_all=self.sees_all, is_filtered=self.is_filtered, width=width
        )


@dataclass(frozen=True, slots=True)
class StatusSeen:
    """The service's status."""

    row: StatusRow

    @property
    def things(self) -> str:
        """See `showing.Seen`."""
        return "lines"

    def fields(self) -> dict[str, Any]:
        """See `showing.Seen`."""
        return {"running": True} | _fields_of(self.row)

    def page(self, width: int | None) -> Page:
        """See `showing.Seen`."""
        return page_of_status(self.row, width)


@dataclass(frozen=True, slots=True)
class NoServiceSeen:
    """No service.

    Attributes:
        reason: Why not.
        advice: What to do about it.
    """

    reason: str
    advice: str

    @property
    def things(self) -> str:
        """See `showing.Seen`."""
        return "lines"

    def fields(self) -> dict[str, Any]:
        """See `showing.Seen`."""
        return {"running": False, "programs_run": "embedded", "reason": self.reason}

    def page(self, width: int | None) -> Page:
        """See `showing.Seen`."""
        return page_without_service(self.reason, self.advice, width)


def _fields_of(row: msgspec.Struct) -> dict[str, Any]:
    """A row with all of its fields, also those that are not known."""
    return {name: _plain(part) for name, part in msgspec.structs.asdict(row).items()}


def _plain(part: object) -> object:
    if isinstance(part, msgspec.Struct):
        return _fields_of(part)
    return [_plain(each) for each in part] if isinstance(part, tuple) else part
