"""The reference of `qwave` and its manual page have all that the command takes.

What it takes is asked of the command as a shell asks it for what may come next.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from docs.made.__main__ import PAGE
from docs.made.commands import commands
from docs.made.manual import manual
from docs.made.pages import MARK, markdown

ROOT = Path(__file__).parents[2]
NAMES = [command.name for command in commands()]


# Each question is answered by a process of its own, and what all of them load is loaded once.
ASKING = """
import os, sys
from typer.main import get_command
from openqwave.cli.program import app
get_command(app)
for words in sys.argv[1:]:
    print(words, end="\\0", flush=True)
    if not os.fork():
        os.environ["_QWAVE_COMPLETE"] = "complete_bash"
        os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = words, str(words.count(" "))
        app(prog_name="qwave")
    os.wait()
    print(end="\\0", flush=True)
"""


@cache
def answers() -> dict[str, frozenset[str]]:
    """What may come after words of which the last one has begun: a command, and an option."""
    asked = [f"{name} " for name in NAMES] + [f"{name} -" for name in NAMES]
    done = subprocess.run(
        [sys.executable, "-c", ASKING, *asked],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.split("\0")
    assert told[:-1:2] == asked
    return {words: frozenset(found.split()) for words, found in zip(asked, told[1::2], strict=True)}


def completed(words: str) -> frozenset[str]:
    return answers()[words]


def options(name: str) -> frozenset[str]:
    # All have these, and the page says so once.
    return completed(f"{name} -") - {"-h", "--help"}


def test_all_commands_are_known() -> None:
    assert completed("qwave ") == {name.split()[1] for name in NAMES[1:]}
    for command in commands():
        if command.has_commands:
            inner = {
                name.removeprefix(f"{command.name} ").split()[0]
                for name in NAMES
                if name.startswith(f"{command.name} ")
            }
            assert completed(f"{command.name} ") == inner
    assert len(NAMES) > 15


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_all_options(name: str) -> None:
    found = re.search(rf"^#+ {name}$(.*?)(?=^#|\Z)", markdown(), re.MULTILINE | re.DOTALL)
    assert found is not None
    cells = re.findall(r"^\| `(-.*?)` \|", found[1], re.MULTILINE)
    told = {word.split()[0] for cell in cells for word in cell.split(", ")}
    assert told == options(name)


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_manual_has_all_options(name: str) -> None:
    found = re.search(
        rf"^\.SS {name}$(.*?)(?=^\.S|\Z)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    heads = re.findall(r"^\.TP\n(\\fB.*)$", found[1], re.MULTILINE)
    told = {option for head in heads for option in re.findall(r"\\fB(.*?)\\fR", head)}
    assert {option.replace("\\-", "-") for option in told} == options(name)


def test_the_manual_that_is_kept_is_the_one_that_is_made() -> None:
    assert PAGE.read_text(encoding="utf-8") == manual(), "run .venv/bin/python -m docs.made"


def test_every_argument_is_on_the_page() -> None:
    placed = re.findall(r"^\| `([^-`]*)` \| .+ \|$", markdown(), re.MULTILINE)
    arguments = [each.placed for command in commands() for each in command.arguments]
    assert [each.replace("\\|", "|") for each in placed] == arguments
    assert {"[HOST]", "PID|PROGRAM", "[FILES...]"} <= set(arguments)


def test_the_page_has_room_for_them() -> None:
    assert MARK in (ROOT / "docs/commands.md").read_text(encoding="utf-8")
