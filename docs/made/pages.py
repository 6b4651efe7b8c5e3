"""The reference of all commands, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from docs.made.commands import Command, Parameter, commands

# What in docs/commands.md stands for all that.
MARK = "<!-- every command -->"


def markdown() -> str:
    """Every command with its arguments and options."""
    return "\n".join(line for command in commands() for line in _section(command))


def _section(command: Command) -> Iterator[str]:
    # Commands of groups stand below them.
    yield f"{'#' * max(2, len(command.name.split()))} {command.name}"
    yield ""
    yield f"```none\n{command.usage}\n```"
    for paragraph in command.paragraphs:
        yield f"\n{paragraph}"
    if command.arguments:
        yield from _table("argument", command.arguments)
    if command.options:
        yield from _table("option", command.options)
    yield ""


def _table(title: str, parameters: tuple[Parameter, ...]) -> Iterator[str]:
    yield f"\n| {title} | |\n| --- | --- |"
    for each in parameters:
        typed = each.typed if each.names else each.placed
        yield f"| {_cell(f'`{typed}`')} | {_cell(each.words)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
