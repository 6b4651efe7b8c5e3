"""Findings as a page for people, and as a document for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from openqwave.cli.doctor.findings import Verdict
from openqwave.cli.overview.pages import Line, Page, folded
from openqwave.cli.overview.words import cells, clean, cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.cli.doctor.findings import Finding

_GAP: Final = "  "
# The longest names that are not cut: "others' QoS" of an interface whose name has 15 letters.
_WIDEST_NAME: Final = 27
# Below this many cells text is put under the names.
_NARROWEST_TEXT: Final = 30
_INDENT: Final = "    "
_VERDICT: Final = max(map(len, Verdict))
_STYLES: Final = {
    Verdict.OK: "green",
    Verdict.LIMITED: "yellow",
    Verdict.MISSING: "bold red",
    Verdict.UNKNOWN: "cyan",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found; what `qwave.cli.overview.showing` shows.

    Attributes:
        findings: It, in the order in which it was looked at.
        host: The host that was named; None for none.
    """

    findings: Sequence[Finding]
    host: str | None = None

    @property
    def things(self) -> str:
        """See `showing.Seen`."""
        return "findings"

    @property
    def is_missing(self) -> bool:
        """Is something missing that is needed?"""
        return any(each.verdict is Verdict.MISSING for each in self.findings)

    def fields(self) -> dict[str, Any]:
        """See `showing.Seen`."""
        return {
            "command": "doctor",
            "host": self.host,
            "counts": {str(verdict): count for verdict, count in self._counts().items()},
            "findings": [
                {
                    "topic": each.topic,
                    "subject": each.subject or None,
                    "verdict": str(each.verdict),
                    "reason": clean(each.reason),
                    "fix": clean(each.fix) or None,
                }
                for each in self.findings
            ],
        }

    def page(self, width: int | None) -> Page:
        """See `showing.Seen`."""
        names = [_name_of(each) for each in self.findings]
        name_width = max(map(cells, names), default=0)
        page = Page()
        for finding, name in zip(self.findings, names, strict=True):
            page.blocks.append(_block(finding, name, name_width, width))
        counts = [f"{count} {verdict}" for verdict, count in self._counts().items() if count]
        total = ", ".join(counts) or "nothing was looked at"
        page.foot.extend([[(line, "bold")] for line in folded(total, width)])
        return page

    def _counts(self) -> dict[Verdict, int]:
        found = Counter(each.verdict for each in self.findings)
        return {verdict: found[verdict] for verdict in Verdict}


def _name_of(finding: Finding) -> str:
    name = f"{finding.topic} {clean(finding.subject)}" if finding.subject else finding.topic
    return cut(name, _WIDEST_NAME)


def _block(finding: Finding, name: str, name_width: int, width: int | None) -> list[Line]:
    verdict = finding.verdict
    head: Line = [
        (name + " " * (name_width - cells(name)) + _GAP, ""),
        (f"{verdict:<{_VERDICT}}", _STYLES[verdict]),
    ]
    column = name_width + len(_GAP) + _VERDICT + len(_GAP)
    is_narrow = width is not None and width - column < _NARROWEST_TEXT
    indent = _INDENT if is_narrow else " " * column
    lines = folded(clean(finding.reason), width, indent)
    fix = folded(f"fix: {clean(finding.fix)}", width, indent) if finding.fix else []
    if not is_narrow and lines:
        head += [(_GAP, ""), (lines.pop(0)[column:], "")]
    return [head, *[[(line, "")] for line in lines], *[[(line, "dim")] for line in fix]]
