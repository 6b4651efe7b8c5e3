"""Every block of code in the pages that can be run is run by a test, and this says by which.

A block is known by its page and its first line. A new one fails here until somebody says what runs
it, or why nothing can.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from docs.made.commands import Command, commands
from docs.made.manual import manual
from openqwave.service.config import load
from openqwave.service.metrics.catalogue import METRICS
from tests.pages import ROOT, Block, blocks, is_as_shown, pages, text_of

# What can be run, in any way. Configuration, JSON and YAML are read by tests below.
RUNNABLE = ("python", "sh", "console", "c", "bash")

# These read the block from its page, or type all of the page.
READ = {
    ("README.md", "import openqwave as qw"): "repo/test_examples.py::test_five_lines_in_a_program",
    ("README.md", "with qw.open() as qos:"): "repo/test_examples.py::test_an_adaptive_flow",
    (
        "README.md",
        "from openqwave.qos2 import *",
    ): "repo/test_examples.py::test_a_program_for_windows",
    ("README.md", "scripts/venv.sh cli"): "kernel/test_pages_typed.py::test_the_readmes_service",
    (
        "docs/adaptive.md",
        "import openqwave as qw",
    ): "repo/test_examples.py::test_a_stream_that_adapts",
    (
        "docs/adaptive.md",
        "from openqwave import aio",
    ): "repo/test_examples.py::test_a_stream_that_adapts",
    ("docs/asyncio.md", ""): "kernel/test_pages_typed.py::test_streaming_from_asyncio",
    ("docs/commands.md", "$ qwave --install-completion"): (
        "unit/test_cli_completion.py::test_completion_is_set_up_for_oneself"
    ),
    ("docs/control-protocol.md", "#include <stdio.h>"): (
        "unit/test_ipc_page.py::test_the_program_in_c"
    ),
    ("docs/data-plane.md", "tc filter del dev eth0"): (
        "kernel/test_pages_on_links.py::test_what_a_crash_has_left_is_taken_away_by_hand"
    ),
    ("docs/doctor.md", "qwave doctor --json | jq"): "unit/test_pages_piped.py::test_doctor",
    ("docs/lab.md", "from openqwave.lab.topology import Lab"): (
        "kernel/test_pages_on_links.py::test_a_lab"
    ),
    ("docs/lab.md", "from openqwave.lab.links import"): (
        "kernel/test_pages_on_links.py::test_a_link_as_a_model_says"
    ),
    ("docs/metrics.md", "curl http://"): "kernel/test_pages_typed.py::test_a_service_by_hand",
    ("docs/overview.md", "qwave flows --json | jq"): "unit/test_pages_piped.py::test_flows",
    (
        "docs/pages.md",
        ".venv/bin/python -m docs.made",
    ): "repo/test_pages.py::test_the_manual_is_made",
    ("docs/refusals.md", "import openqwave as qw"): (
        "kernel/test_pages_on_links.py::test_a_rate_that_is_not_granted"
    ),
    ("docs/service.md", "sudo .venv/bin/qwave service install"): (
        "kernel/test_pages_typed.py::test_installing_the_service"
    ),
    ("docs/service.md", "qwaved --config"): "kernel/test_pages_typed.py::test_a_service_by_hand",
    ("docs/tutorial.md", ""): "kernel/test_pages_typed.py::test_the_tutorial",
    ("docs/windows-sink.md", ""): "kernel/test_pages_typed.py::test_a_sink_for_windows",
}

# The same commands on hosts that tests make: the page's are somebody's own, or have no end.
LIKEWISE = {
    ("README.md", "make demo"): "kernel/test_demo.py::test_promises_are_kept",
    ("README.md", "qwave sink"): "kernel/test_probe_and_sink.py::test_people_get_a_table",
    ("docs/adaptive-demo.md", "qwave demo adaptive"): (
        "kernel/test_demo_adaptive.py::test_the_story_is_played"
    ),
    ("docs/adaptive.md", "qwave sink &"): "kernel/test_examples.py::test_a_stream_adapts",
    ("docs/capture.md", "sudo qwave capture -i eth0"): (
        "kernel/test_capture.py::test_a_measurement_is_told_by_name"
    ),
    ("docs/doctor.md", "qwave doctor "): "kernel/test_doctor.py::test_a_host_as_it_comes",
    ("docs/overview.md", "qwave paths 10.0.1.2 --plot"): (
        "kernel/test_plots.py::test_a_path_of_the_service_is_drawn"
    ),
    ("docs/probe.md", "qwave sink"): "kernel/test_probe_and_sink.py::test_people_get_a_table",
    ("docs/probe.md", "qwave probe 10.0.1.2 --plot"): (
        "kernel/test_plots.py::test_a_measurement_and_its_recording_make_the_same_picture"
    ),
    (
        "docs/run.md",
        "qwave run --type voice",
    ): "kernel/test_run_rates.py::test_everything_together_is_held_back_to_a_rate",
    ("docs/top.md", "qwave top"): "unit/test_cli_top.py::test_all_of_the_host_is_on_one_screen",
}

NOT_RUN = {
    ("docs/accuracy.md", "make bench-paths"): "takes 20 minutes and a quiet machine",
    ("docs/congestion-bench.md", "make bench-congestion"): "takes 15 minutes and a quiet machine",
    ("docs/kernels.md", "make test-kernel"): "builds a kernel first; it runs tests itself",
    ("docs/kernels.md", ".venv/bin/python -m tests.other_kernel run"): "likewise",
}

ALL = [block for page in pages() for block in blocks(page)]


def keys(block: Block) -> list[tuple[str, str]]:
    """What lists say of a block."""
    listed = [*READ, *LIKEWISE, *NOT_RUN]
    return [key for key in listed if key[0] == block.page and block.first.startswith(key[1])]


def named(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("block", [each for each in ALL if each.language in RUNNABLE], ids=named)
def test_every_block_is_run(block: Block) -> None:
    # The longest beginning is meant: other blocks of the page may begin alike.
    assert keys(block), f"which test runs this?\n{block.text}"


def test_nothing_is_listed_that_is_not_there() -> None:
    used = {max(found, key=lambda key: len(key[1])) for block in ALL if (found := keys(block))}
    assert used == {*READ, *LIKEWISE, *NOT_RUN}


@cache
def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("key", "test"), [*(READ | LIKEWISE).items()])
def test_the_tests_are_there(key: tuple[str, str], test: str) -> None:
    file, _, name = test.partition("::")
    text = source(ROOT / "tests" / file)
    if key in READ:
        assert key[0].removeprefix("docs/") in text
    assert not name or name in {
        node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)
    }


# -- what pages say of commands -----------------------------------------------------------

KNOWN = {command.name: command for command in commands()}
# Commands in sentences, and at the beginning of lines in blocks.
INLINE = re.compile(r"(?<!`)`(?:sudo )?(qwave [^`]+)`(?!`)")
LINE = re.compile(r"^(?:\$ )?(?:sudo )?(?:\.venv/bin/)?(qwave .*?)(?: +#.*)?$", re.MULTILINE)
# What is a shell's, and what pages leave out.
ENDS = re.compile(r"[|>&;]|\.\.\.|…")


def command_lines() -> set[tuple[str, str]]:
    found = set()
    for page in pages():
        text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
        # A command may be folded where the sentence is.
        found |= {(page, " ".join(line.split())) for line in INLINE.findall(text)}
        for block in blocks(page, "sh", "console", "text", "bash"):
            found |= {(page, line) for line in LINE.findall(block.text)}
    return found


def command_of(words: list[str]) -> tuple[Command, list[str]]:
    """The command that is meant, and what it is given."""
    count = len(words)
    while " ".join(words[:count]) not in KNOWN:
        count -= 1
    return KNOWN[" ".join(words[:count])], words[count:]


@pytest.mark.parametrize(("page", "line"), sorted(command_lines()))
def test_commands_take_what_pages_say(page: str, line: str) -> None:
    del page
    words = shlex.split(ENDS.split(line)[0])
    command, given = command_of(words)
    taken = {name: option for option in command.options for name in option.names}
    while given:
        word = given.pop(0)
        if not word.startswith("-") or word == "-":
            # What stands behind it may be another command's.
            assert not command.has_commands or command.name == "qwave" or command.runs_alone, word
            assert command.name != "qwave" or word.isupper(), f"no command: {word}"
            if command.arguments and command.arguments[-1].placed.startswith("COMMAND"):
                break
            continue
        if word == "--":
            break
        name, _, inner = word.partition("=")
        assert name in taken or name in ("-h", "--help"), f"{command.name} has no {name}"
        if name in taken and taken[name].value and not inner and given:
            given.pop(0)


def test_there_are_command_lines() -> None:
    assert len(command_lines()) > 60


def test_the_manual_is_made(tmp_path: Path) -> None:
    (block,) = blocks("docs/pages.md", "sh")
    # In a copy, so that what is kept here is not changed by being tested.
    for name in ("docs/made", "src/openqwave/service/packaging/man"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "packaging").symlink_to("src/openqwave/service/packaging")
    page = tmp_path / "packaging/man/qwave.1"
    page.unlink()
    command = block.text.replace(".venv/bin/python", shlex.quote(sys.executable))
    done = subprocess.run(
        ["sh", "-c", command],  # noqa: S607 - as people do
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert page.read_text(encoding="utf-8") == manual()


# -- how sessions are compared -------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "shown", "is_same"),
    [
        ("a 1\nb\n", ["a 1", "b"], True),
        ("a 1\nb\n", ["a 1"], False),
        ("a 1\n", ["a 1", "b"], False),
        ("a  1 \n\nb\n", ["a 1", "b"], True),
        ("a 1\nb\nc\n", ["a 1", "..."], True),
        ("a 1\nb\nc\n", ["...", "c"], True),
        ("c\n", ["...", "c"], True),
        ("xc\n", ["...", "c"], False),
        ("", ["..."], True),
        ("", [], True),
        ("x\n", [], False),
        ("a x b\n", ["a ... b"], True),
        ("a x\n b\n", ["a ... b"], False),
        ("a 5\nb\nc\n", ["a 9", "...", "c"], True),
        ("a 5\nb\nc\n", ["b 9", "...", "c"], False),
    ],
)
def test_what_is_as_shown(printed: str, shown: list[str], is_same: bool) -> None:
    assert is_as_shown(printed, shown, [(r"[59]", "NUMBER")]) == is_same


# -- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("block", [each for each in ALL if each.language == "toml"], ids=named)
def test_configuration_is_as_the_service_takes_it(block: Block, tmp_path: Path) -> None:
    main, policy = tmp_path / "qwaved.toml", tmp_path / "50-page.toml"
    main.touch()
    # The service's own file has no rules.
    (policy if "[[rule]]" in block.text else main).write_text(block.text, encoding="utf-8")
    # It says what it does not take.
    load(main, [policy] if policy.exists() else None)


@pytest.mark.parametrize("block", [each for each in ALL if each.language == "json"], ids=named)
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", [each for each in ALL if each.language == "yaml"], ids=named)
def test_metrics_that_are_asked_for_are_there(block: Block) -> None:
    asked = set(re.findall(r"\bqwave_\w+", block.text))
    assert asked <= {metric.sample for metric in METRICS}
