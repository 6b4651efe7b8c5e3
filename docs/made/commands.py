"""What `qwave` takes, read from the command itself: the source of its page and its manual.

Help is the docstrings and the options' words as typer has them. So whoever changes a command
changes its reference, and cannot forget to.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import PurePath
from typing import Any

import typer

from openqwave.cli.program import app

NAME = "qwave"


@dataclass(frozen=True, slots=True)
class Parameter:
    """An option, or an argument.

    Attributes:
        names: As they are typed, the short one first; none for an argument.
        value: What stands for its value; empty for a switch.
        words: What it is, in a sentence or two, in Markdown.
        is_required: The command does not do without.
        is_repeated: It may be there several times.
    """

    names: tuple[str, ...]
    value: str
    words: str
    is_required: bool = False
    is_repeated: bool = False

    @property
    def typed(self) -> str:
        """How an option is typed, all its names."""
        names = ", ".join(self.names)
        return f"{names} {self.value}" if self.value else names

    @property
    def placed(self) -> str:
        """How an argument stands in the line."""
        several = "..." if self.is_repeated else ""
        bare = self.value.strip("[]")
        return f"{bare}{several}" if self.is_required else f"[{bare}{several}]"


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or a group of them.

    Attributes:
        name: With those of the groups that it is in, "qwave policy check".
        paragraphs: What it does, in Markdown; the first is one sentence.
        arguments: In their order.
        options: In their order, without `--help`, which all have.
        has_commands: It is a group.
        runs_alone: A group that does something without the name of a command, too.
    """

    name: str
    paragraphs: tuple[str, ...]
    arguments: tuple[Parameter, ...]
    options: tuple[Parameter, ...]
    has_commands: bool
    runs_alone: bool

    @property
    def usage(self) -> str:
        """How it is typed."""
        words = [self.name]
        words += [f"{one.names[0]} {one.value}" for one in self.options if one.is_required]
        if any(not one.is_required for one in self.options):
            words.append("[OPTIONS]")
        words += [one.placed for one in self.arguments]
        if self.has_commands:
            words.append("[COMMAND]" if self.runs_alone else "COMMAND")
        return " ".join(words)


def commands() -> list[Command]:
    """All commands; `qwave` itself first, each group before what is in it."""
    return list(_walk(typer.main.get_command(app), NAME))


def _walk(command: Any, name: str) -> Iterator[Command]:  # noqa: ANN401 - typer's, which moved
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    parts: dict[str, Any] = getattr(command, "commands", {})
    yield Command(
        name,
        tuple(" ".join(part.split()) for part in cleandoc(command.help or "").split("\n\n")),
        tuple(_parameter(one) for one in shown if one.param_type_name == "argument"),
        tuple(
            _parameter(one)
            for one in shown
            if one.param_type_name == "option" and "--help" not in one.opts
        ),
        bool(parts),
        bool(getattr(command, "invoke_without_command", False)),
    )
    for part, inner in parts.items():
        if not inner.hidden:
            yield from _walk(inner, f"{name} {part}")


def _parameter(one: Any) -> Parameter:  # noqa: ANN401 - typer's, which moved
    is_option = one.param_type_name == "option"
    is_switch = bool(getattr(one, "is_flag", False))
    choices = _choices(one)
    value = "" if is_switch else one.metavar or "|".join(choices) or (one.name or "").upper()
    words = [one.help or ""]
    if (bounds := _bounds(one)) and not is_switch:
        words.append(bounds)
    if (default := _default(one)) is not None and not is_switch:
        words.append(f"Default: {default}.")
    names = (*one.opts, *one.secondary_opts) if is_option else ()
    is_repeated = bool(getattr(one, "multiple", False)) or one.nargs == -1
    return Parameter(names, value, " ".join(filter(None, words)), bool(one.required), is_repeated)


def _choices(one: Any) -> tuple[str, ...]:  # noqa: ANN401 - typer's, which moved
    kind = getattr(getattr(one, "type_descriptor", None), "annotation", None)
    if isinstance(kind, enum.EnumMeta):
        members: list[enum.Enum] = list(kind)
        return tuple(str(member.value) for member in members)
    return tuple(map(str, getattr(getattr(one, "type", None), "choices", ())))


def _bounds(one: Any) -> str:  # noqa: ANN401 - typer's, which moved
    least, most = (
        getattr(one, end, None) or getattr(getattr(one, "type", None), end, None)
        for end in ("min", "max")
    )
    if least is not None and most is not None:
        return f"From {least} to {most}."
    return "" if least is None else f"At least {least}." if most is None else f"At most {most}."


def _default(one: Any) -> str | None:  # noqa: ANN401 - typer's, which moved
    default = one.default
    if not one.show_default or default in (None, (), []) or callable(default):
        return None
    if isinstance(default, enum.Enum):
        return str(default.value)
    if isinstance(default, float):
        return f"{default:g}"
    return str(default) if isinstance(default, str | int | PurePath) else None
