"""The manual page qwave(1): `qwave.1.in`, with every command in its place.

The page is kept in the tree, where packagers look for it, and a test makes it again and compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from docs.made.commands import Command, Parameter, commands

TEMPLATE = Path(__file__).with_name("qwave.1.in")
OPTIONS, COMMANDS = '.\\" OPTIONS\n', '.\\" COMMANDS\n'


def manual() -> str:
    """The page, in the language of man(7)."""
    first, *others = commands()
    text = TEMPLATE.read_text(encoding="utf-8")
    options = "".join(f"{line}\n" for each in first.options for line in _option(each))
    sections = "".join(f"{line}\n" for each in others for line in _section(each))
    return text.replace(OPTIONS, options).replace(COMMANDS, sections)


def _section(command: Command) -> Iterator[str]:
    yield f".SS {_plain(command.name)}"
    yield f".B {_plain(command.usage)}"
    for paragraph in command.paragraphs:
        yield ".PP"
        yield from _sentences(paragraph)
    for each in command.arguments:
        yield ".TP"
        yield f".I {_plain(each.value.strip('[]'))}"
        yield from _sentences(each.words)
    for each in command.options:
        yield from _option(each)


def _option(option: Parameter) -> Iterator[str]:
    yield ".TP"
    names = ", ".join(rf"\fB{_plain(name)}\fR" for name in option.names)
    yield rf"{names} \fI{_plain(option.value)}\fR" if option.value else names
    yield from _sentences(option.words)


def _sentences(text: str) -> Iterator[str]:
    """Markdown as man(7), each sentence on a line of its own, as groff(7) asks for."""
    for sentence in re.split(r"(?<=[.:;?!]) (?=[A-Z`-])", text):
        parts = sentence.split("`")
        line = "".join(
            rf"\fB{_plain(part)}\fR" if index % 2 else _plain(part)
            for index, part in enumerate(parts)
        )
        # A line that begins so would be a request.
        yield rf"\&{line}" if line.startswith((".", "'")) else line


def _plain(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
