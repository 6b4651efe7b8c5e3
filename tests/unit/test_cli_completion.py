"""Completion, typed into real shells on a terminal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openqwave.cli import completing
from tests.pages import blocks, is_as_shown, session
from tests.unit.terminals import ANOTHER, Screen

COMPLETIONS = Path(__file__).parents[2] / "packaging/completions"
# Where this Python's `qwave` is.
BIN = Path(sys.executable).parent
PROMPT = "go> "
# Nothing of the user's own, and what is typed is not kept.
SHELLS = {
    "bash": ["--noprofile", "--norc", "-i"],
    "zsh": ["-f", "-i"],
    "fish": ["--no-config", "-i"],
}
READY = {
    "bash": f"PS1='{PROMPT}'; unset HISTFILE; source {COMPLETIONS}/qwave.bash; clear",
    # As it finds those of other programs.
    "zsh": f"PS1='{PROMPT}'; fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; "
    "compinit -D; unsetopt prompt_sp; clear",
    "fish": f"function fish_prompt; printf '{PROMPT}'; end; source {COMPLETIONS}/qwave.fish; "
    "set -g fish_autosuggestion_enabled 0; clear",
}


@pytest.fixture(params=list(SHELLS))
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Screen]:
    """A shell that is ready, in a directory with one file."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"needs {name} (scripts/tools.sh installs it where it can)")
    (tmp_path / "recorded.jsonl").touch()
    env = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
        "QWAVE_SOCKET": "",
    }
    screen = Screen([name, *SHELLS[name]], env, columns=100, lines=40, script=ANOTHER)
    screen.type(f"cd {tmp_path}; {READY[name]}\n".encode())
    # The command that was typed has the prompt in it, too, and is gone with `clear`.
    screen.wait_for(lambda page: page.lstrip("\n").startswith(PROMPT.rstrip()))
    yield screen
    screen.process.kill()
    screen.end()


@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("qwave doc", "qwave doctor"),
        ("qwave policy expl", "qwave policy explain"),
        ("qwave probe --wat", "qwave probe --watch"),
        ("qwave policy explain --protocol u", "qwave policy explain --protocol udp"),
        ("qwave run --type vo", "qwave run --type voice"),
        ("qwave probe localh", "qwave probe localhost"),
        ("qwave flows --user nobo", "qwave flows --user nobody"),
        # Nothing of its own: files.
        ("qwave probe --replay rec", "qwave probe --replay recorded.jsonl"),
        # After that comes a command with arguments of its own.
        ("qwave run -- slee", "qwave run -- sleep"),
        ("qwave run -- sleep rec", "qwave run -- sleep recorded.jsonl"),
        # By its path, and in another directory of the path than the first.
        (f"{BIN}/qwave doc", f"{BIN}/qwave doctor"),
    ],
)
def test_tab_completes(shell: Screen, typed: str, becomes: str) -> None:
    shell.type(f"{typed}\t".encode())
    shell.wait_for(lambda page: f"{PROMPT}{becomes}" in page.replace("\n", ""))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("qwave policy ", ["check", "show", "explain"]),
        # With help that has quotes and colons in it, where a shell shows help.
        ("qwave ", ["probe", "capture", "policy", "service"]),
        ("qwave run --", ["--type", "--hold-back", "--remark", "--verbose"]),
    ],
)
def test_tab_lists_what_there_is(shell: Screen, typed: str, words: list[str]) -> None:
    shell.type(f"{typed}\t\t".encode())
    shell.wait_for(lambda page: all(word in page for word in words))


# -- what is known ----------------------------------------------------------------------


def test_hosts_are_those_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "hosts"
    listed.write_text(
        "# 192.0.2.9 left-out\n192.0.2.7 player player.lan # video\n::1 ip6-localhost\n"
        "192.0.2.8 player $(reboot) `reboot` a'b\n"
    )
    monkeypatch.setattr(completing, "_HOSTS", listed)
    named = ["player", "player.lan", "ip6-localhost"]
    assert completing.hosts("") == ["192.0.2.7", *named, "192.0.2.8"]
    assert completing.hosts("player.") == ["player.lan"]
    monkeypatch.setattr(completing, "_HOSTS", tmp_path / "none")
    assert completing.hosts("") == []


def test_users_interfaces_and_processes() -> None:
    assert "nobody" in completing.users("no")
    assert "lo" in completing.interfaces("l")
    own = str(os.getpid())
    assert dict(completing.processes(own))[own]
    assert all(number.startswith("1") for number, _ in completing.processes("1"))


@pytest.mark.parametrize("name", list(SHELLS))
def test_the_command_can_make_it_itself(name: str, tmp_path: Path) -> None:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name} (scripts/tools.sh installs it where it can)")
    # For which shell is asked is found out by who has started the command.
    done = subprocess.run(
        [path, "-c", f'"{BIN / "qwave"}" --show-completion || exit 1'],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "_QWAVE_COMPLETE=" in done.stdout


def test_completion_is_set_up_for_oneself(tmp_path: Path) -> None:
    (block,) = blocks("docs/commands.md", "console")
    (command,) = session(block)
    # By a shell, which the command finds out; with something after it, or bash would become it.
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{command.typed}; true"],  # noqa: S607 - whichever is here
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), "SHELL": "/bin/bash"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert is_as_shown(done.stdout, command.shown), done.stdout + done.stderr
    made = tmp_path / ".bash_completions/qwave.sh"
    assert "_QWAVE_COMPLETE=" in made.read_text(encoding="utf-8")
    assert str(made) in (tmp_path / ".bashrc").read_text(encoding="utf-8")
