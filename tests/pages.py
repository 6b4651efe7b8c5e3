"""The blocks of code in the project's pages, and sessions at a terminal as pages show them.

In a session, a line that begins with `$ ` is typed, as are those after it that begin with `> `;
what follows is what is printed. A line of dots stands for any lines, dots within a line for
anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: Where it is, from the root of the project.
        line: Its first line's number there.
        language: As it is fenced; empty for none.
        text: What is in it.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """The first line, by which people find it."""
        return self.text.split("\n", 1)[0]


@dataclass(frozen=True)
class Command:
    """What is typed in a session, and what it prints."""

    typed: str
    shown: tuple[str, ...]


def pages() -> list[str]:
    """All pages of the project, from its root."""
    return ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    """The blocks of a page in some languages; in all where none is named."""
    text = text_of(page)
    return [
        Block(page, text.count("\n", 0, found.start(3)) + 1, found[2], found[3])
        for found in re.finditer(
            r"^(```+)\{?([\w-]*)\}?[^\n]*\n(.*?)^\1$", text, re.MULTILINE | re.DOTALL
        )
        if not languages or found[2] in languages
    ]


def session(block: Block) -> list[Command]:
    """The commands of a session, and what each prints."""
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], ()))
        elif line.startswith("> ") and not found[-1].shown:
            found[-1] = Command(f"{found[-1].typed}\n{line[2:]}", ())
        else:
            found[-1] = Command(found[-1].typed, (*found[-1].shown, line))
    return found


def is_as_shown(
    printed: str, shown: Sequence[str], differing: Sequence[tuple[str, str]] = ()
) -> bool:
    """Is what was printed what a page shows?

    Args:
        printed: All of it.
        shown: The page's lines.
        differing: What differs from one time to another, as patterns and what each is taken for, in
            both; the page has to say so. White space differs with what it separates.
    """

    def same(line: str) -> str:
        for pattern, meant in differing:
            line = re.sub(pattern, meant, line)
        return " ".join(line.split())

    wanted = "\n".join(filter(None, map(same, shown)))
    pattern = re.escape(wanted)
    # Whole lines, and none of them, too.
    pattern = re.sub(r"(?:^|(?<=\n))(?:\\\.){3}(?:\\\n|$)", r"(?:.*\\n)*", pattern)
    pattern = pattern.replace(r"\.\.\.", ".*")
    have = "".join(f"{line}\n" for line in map(same, printed.splitlines()) if line)
    return re.fullmatch(f"{pattern}\n?", have) is not None
