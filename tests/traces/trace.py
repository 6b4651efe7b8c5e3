"""Samples with a known truth, as files: recordings of `qwave probe --samples` with a header more.

A trace is such a recording, one JSON object a line, whose first line has one field more, "trace":
what was measured and what the truth was, by the link's own counters. So `qwave probe --replay`
reads it; a packed one (.jsonl.gz) by `qwave probe --replay <(zcat FILE)`.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwave.cli.probe.recording import FORMAT
from openqwave.estimate.path import report
from openqwave.estimate.samples import Sample, from_json, to_json
from openqwave.model.estimates import PathReport
from openqwave.probing.progress import Wish

FOLDER = Path(__file__).parent
PLAIN, PACKED = ".jsonl", ".jsonl.gz"
# Of a plain file; a larger one is packed.
LARGEST_PLAIN_BYTES = 80_000


@dataclass(frozen=True)
class Trace:
    """A measurement that can be judged.

    Attributes:
        name: Of the file, without its ending.
        description: What the path was like, and how the truth is known.
        truth: Values of the report's fields, by name; those that are not known are left out. On a
            link that is shared by turns, `available_bps` is the fair share.
        wish: What was wanted of the measurement.
        samples: As they were seen, in order.
        supports_priority: What the route check found.
        elapsed_ns: How long it took.
        sent_bytes: What it cost.
    """

    name: str
    description: str
    truth: dict[str, int]
    wish: Wish
    samples: tuple[Sample, ...]
    supports_priority: bool | None = None
    elapsed_ns: int = 0
    sent_bytes: int = 0

    def report(self) -> PathReport:
        """What the estimators say of it today."""
        return report(self.samples, self.supports_priority)

    def lines(self) -> str:
        """All of it as text."""
        first = {
            "kind": "measurement",
            "format": FORMAT,
            "openqwave": "trace",
            "wish": dataclasses.asdict(self.wish),
            "trace": {"description": self.description, "truth": self.truth},
        }
        last = {
            "kind": "end",
            "supports_priority": self.supports_priority,
            "elapsed_ns": self.elapsed_ns,
            "sent_bytes": self.sent_bytes,
        }
        lines = [json.dumps(first), *map(to_json, self.samples), json.dumps(last)]
        return "".join(f"{line}\n" for line in lines)

    def write(self, folder: Path = FOLDER) -> Path:
        """Write it, packed if it is large; the same trace makes the same file."""
        text = self.lines().encode("ascii")
        for ending in (PLAIN, PACKED):
            (folder / f"{self.name}{ending}").unlink(missing_ok=True)
        if len(text) <= LARGEST_PLAIN_BYTES:
            path = folder / f"{self.name}{PLAIN}"
            path.write_bytes(text)
        else:
            path = folder / f"{self.name}{PACKED}"
            path.write_bytes(gzip.compress(text, 9, mtime=0))
        return path


def paths(folder: Path = FOLDER) -> list[Path]:
    """The files of all traces, by name."""
    return sorted([*folder.glob(f"*{PLAIN}"), *folder.glob(f"*{PACKED}")])


def text_of(path: Path) -> str:
    """What a file holds, packed or not."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.name.endswith(".gz") else data).decode("ascii")


def read(path: Path) -> Trace:
    """Read a trace.

    Raises:
        ValueError: It is none, or its header says no truth.
    """
    lines = text_of(path).splitlines()
    objects: list[dict[str, Any]] = [json.loads(lines[0]), json.loads(lines[-1])]
    first, last = objects
    if "trace" not in first or last.get("kind") != "end":
        raise ValueError(f"{path.name}: no trace, or one without its end")
    return Trace(
        name=path.name.removesuffix(".gz").removesuffix(PLAIN),
        description=first["trace"]["description"],
        truth=first["trace"]["truth"],
        wish=Wish(**first["wish"]),
        samples=tuple(map(from_json, lines[1:-1])),
        supports_priority=last["supports_priority"],
        elapsed_ns=last["elapsed_ns"],
        sent_bytes=last["sent_bytes"],
    )
