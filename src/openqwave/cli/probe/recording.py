"""The file of `--samples` and `--replay`: one JSON object a line, "kind" first.

The first line is of kind "measurement": the version of the program that wrote it, the IP version
towards the sink, and what was wanted of the measurement. Whom it went to is not in it, so that a
file can be given away. The samples follow, in the order in which they were complete, as
`estimate.samples` writes them. The last line is of kind "end" and holds what is no sample: what
the route check found, the time and the bytes; and how many of the samples each result rested on,
the measurement's first and then those of a watch. Without it (the program was ended in the middle)
a file replays all the same, as one measurement.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from openqwave.cli.plot.history import history_of
from openqwave.cli.probe.outcome import Outcome
from openqwave.estimate.samples import Sample, from_json, to_json
from openqwave.probing.measurement import Wish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from openqwave.cli.plot.history import History
    from openqwave.model.estimates import PathReport

# Changes when a reader of the old form would misread the new one.
FORMAT = 1

_FIRST, _LAST = "measurement", "end"


class BadRecordingError(ValueError):
    """A file is no recording; the message says where and why."""


class UnwritableError(Exception):
    """A file cannot be written, or not any more; the message says why."""


class Recorder:
    """Writes a recording while a measurement goes on; a context manager.

    Everything raises `UnwritableError` if it cannot be done.

    Args:
        path: The file, which is replaced.
        wish: What is wanted of the measurement.
        version: Of the program.
    """

    def __init__(self, path: Path, wish: Wish, version: str) -> None:
        self._path = path
        self._count = 0
        self._results: list[int] = []
        with self._writing():
            self._file = path.open("w", encoding="ascii")
        self._write(
            {
                "kind": _FIRST,
                "format": FORMAT,
                "openqwave": version,
                "wish": dataclasses.asdict(wish),
            }
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"{self._path}: cannot be written: {error.strerror}"
            raise UnwritableError(message) from error

    def _write(self, fields: dict[str, Any]) -> None:
        self._write_line(json.dumps(fields, separators=(",", ":")))

    def _write_line(self, line: str) -> None:
        with self._writing():
            self._file.write(line + "\n")

    def add(self, sample: Sample) -> None:
        """Write a sample."""
        self._write_line(to_json(sample))
        self._count += 1

    def conclude(self, _: PathReport) -> None:
        """Note that a result rests on the samples so far."""
        self._results.append(self._count)

    def end(self, outcome: Outcome) -> None:
        """Write the last line, and close the file."""
        self._write(
            {
                "kind": _LAST,
                "supports_priority": outcome.report.supports_priority,
                "elapsed_ns": outcome.elapsed_ns,
                "sent_bytes": outcome.sent_bytes,
                "results": self._results,
            }
        )
        self._close()

    def _close(self) -> None:
        with self._writing():
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What went wrong first is what is told.
        with contextlib.suppress(*[UnwritableError] if kind else []):
            self._close()


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file holds.

    Attributes:
        wish: What was wanted of the measurement.
        samples: In the order of the file.
        supports_priority: What the route check found.
        elapsed_ns: How long the measurement took; 0 if the file does not say.
        sent_bytes: What it cost, likewise.
        results: How many of the samples each result rested on: that of the measurement, and those
            of a watch after it. Empty if the file does not say: then it is one of all samples.
    """

    wish: Wish
    samples: tuple[Sample, ...]
    supports_priority: bool | None = None
    elapsed_ns: int = 0
    sent_bytes: int = 0
    results: tuple[int, ...] = ()

    def history(self, *, only_ends: bool = False) -> History:
        """Compute the results anew, each from its samples.

        Args:
            only_ends: Those of a watch, but the last, are left out.
        """
        counts = self.results or (len(self.samples),)
        if only_ends:
            counts = (counts[0], *counts[1:][-1:])
        return history_of(self.samples, counts, self.supports_priority)

    def outcome(self, history: History | None = None) -> Outcome:
        """Compute the last result anew.

        Args:
            history: What `history` gave, where somebody has it already.
        """
        return Outcome(
            report=(history or self.history(only_ends=True)).last_report(),
            elapsed_ns=self.elapsed_ns,
            sent_bytes=self.sent_bytes,
            destination=None,
            checked_priority=self.wish.checks_priority,
        )


def read(path: Path) -> Recording:
    """Read a file.

    Raises:
        OSError: It cannot be read.
        BadRecordingError: It is no recording.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        raise BadRecordingError(f"{path} is no recording of samples: {error}") from error
    if not lines:
        raise BadRecordingError(f"{path} is empty")
    samples: list[Sample] = []
    last: dict[str, Any] = {}
    number = 1
    try:
        wish = _read_first(lines[0])
        for line in lines[1:]:
            number += 1
            if last:
                raise ValueError("something follows the end")
            fields = json.loads(line)
            if isinstance(fields, dict) and fields.get("kind") == _LAST:
                last = _checked_last(fields, len(samples))
            else:
                samples.append(from_json(line))
    except (ValueError, TypeError) as error:
        raise BadRecordingError(f"{path}, line {number}: {error}") from error
    return Recording(wish, tuple(samples), **last)


def _read_first(line: str) -> Wish:
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("kind") != _FIRST:
        raise ValueError(f'a recording begins with an object of kind "{_FIRST}"')
    if fields.get("format") != FORMAT:
        raise ValueError(f"format {fields.get('format')!r}; this program reads {FORMAT}")
    wish = fields.get("wish")
    if not isinstance(wish, dict) or not all(type(each) in (int, bool) for each in wish.values()):
        raise ValueError("the wish is an object of numbers")
    return Wish(**wish)


def _checked_last(fields: dict[str, Any], count: int) -> dict[str, Any]:
    supports = fields.get("supports_priority")
    numbers = {name: fields.get(name) for name in ("elapsed_ns", "sent_bytes")}
    if supports not in (True, False, None) or not all(
        type(number) is int for number in numbers.values()
    ):
        raise ValueError("the end holds supports_priority, elapsed_ns and sent_bytes")
    # Older recordings have none.
    results = fields.get("results", [])
    if not isinstance(results, list) or not all(type(each) is int for each in results):
        raise ValueError("results are a list of whole numbers")
    if any(one > other for one, other in pairwise([0, *results, count])):
        raise ValueError(f"results do not rest on more and more of {count} samples")
    return {"supports_priority": supports, "results": tuple(results)} | numbers
