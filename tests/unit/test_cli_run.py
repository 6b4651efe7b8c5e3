"""`qwave run` and `qwave attach` without a kernel that marks: what is asked, undone and told.

Cgroups are folders here, and a process is in one when it was told to be.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from openqwave.cli.run import attaching, gathering, scopes, starting
from openqwave.cli.run.attaching import run_attach, run_end
from openqwave.cli.run.gathering import gather
from openqwave.cli.run.starting import CannotBecome, execute, own_environment, path_of, run_command
from openqwave.cli.run.wishes import Wish
from openqwave.drivers import cgroups
from openqwave.drivers.cgroups import CgroupTrouble, Group, NoSuchProcess, NotAllowed
from openqwave.drivers.families import look_up
from openqwave.ipc import messages as ms
from openqwave.model.cgroups import GroupMount
from openqwave.model.errors import AccessDenied, FlowNotFound, QosError, ServiceUnavailable
from openqwave.model.flow import TrafficType
from tests.unit.fake_service import Script, fake_service

VOICE = Wish(TrafficType.VOICE)
NONE = ServiceUnavailable("no service answers at /run/x")


@dataclass
class FakePrograms:
    """A service that does as it is told, and notes what it was asked."""

    refusal: QosError | None = None
    rows: Sequence[ms.ProgramRow] = ()
    started: list[dict[str, Any]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    seen: list[Path] = field(default_factory=list)

    def start_run(self, cgroup: int, **asked: Any) -> ms.StartedRun:  # noqa: ANN401 - as the real
        if self.refusal is not None:
            raise self.refusal
        self.started.append(asked)
        self.seen.append(Path(os.readlink(f"/proc/self/fd/{cgroup}")))
        return ms.StartedRun(run=7, dscp=56, words="a program: it marks", adopted=2)

    def end_run(self, run: int) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.ended.append(run)

    def programs(self) -> Sequence[ms.ProgramRow]:
        return self.rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class Tree:
    """Folders for cgroups; where each process is, and who was moved."""

    root: Path
    places: dict[int, Path] = field(default_factory=dict)
    moves: list[tuple[int, str]] = field(default_factory=list)
    is_closed: bool = False

    def folder_of(self, _: GroupMount, pid: int) -> Path:
        return self.places.get(pid, self.root)

    def left(self) -> list[str]:
        return [each.name for each in self.root.iterdir()]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    fake = FakePrograms()
    for module in (starting, attaching):
        monkeypatch.setattr(module, "open_programs", lambda: fake)
    return fake


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    found = Tree(tmp_path / "own")
    found.root.mkdir()

    def take(group: Group, pid: int) -> None:
        found.moves.append((pid, group.path.name))
        found.places[pid] = group.path

    def make(parent: Path, kind: str, pid: int) -> Group:
        if found.is_closed:
            raise NotAllowed(f"no cgroup can be made below {parent}")
        return cgroups.make(parent, kind, pid)

    def threads(group: Group) -> list[int]:
        return [pid for pid, place in found.places.items() if place == group.path]

    monkeypatch.setattr(Group, "take", take)
    monkeypatch.setattr(Group, "threads", threads)
    for module in (starting, attaching):
        monkeypatch.setattr(module, "make", make)
        monkeypatch.setattr(module, "mounted", lambda: GroupMount(str(tmp_path), "/"))
    for module in (starting, attaching, gathering):
        monkeypatch.setattr(module, "folder_of", found.folder_of)
    return found


class Became(BaseException):
    """The process would be another program now."""


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []

    def become(path: str, argv: list[str], _: Mapping[str, str]) -> None:
        found.append((path, argv))
        raise Became

    monkeypatch.setattr(os, "execve", become)
    return found


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen([path_of("sleep"), "600"]) as process:
        yield process.pid
        process.kill()


# -- commands ---------------------------------------------------------------------------


def test_commands_are_found_as_the_shell_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second, first / "folder"):
        folder.mkdir()
    (first / "tool").write_text("")
    (second / "tool").write_text("")
    (second / "tool").chmod(0o755)
    (first / "plain").write_text("")
    monkeypatch.setenv("PATH", f"{first}:{second}")
    assert path_of("tool") == str(second / "tool")
    assert path_of(str(second / "tool")) == str(second / "tool")
    for name, status, words in (
        ("plain", 126, f"{first}/plain: Permission denied"),
        ("folder", 126, f"{first}/folder: Is a directory"),
        ("nowhere", 127, "nowhere: No such file or directory"),
        ("./tool", 127, "./tool: No such file or directory"),
        ("", 127, ": No such file or directory"),
    ):
        with pytest.raises(CannotBecome) as raised:
            path_of(name)
        assert (raised.value.status, str(raised.value)) == (status, words)


@pytest.mark.parametrize(
    ("text", "status"),
    [("#!/no/such/interpreter\n", 127), ("\x7fELF and nothing else", 126)],
)
def test_what_the_kernel_does_not_execute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: int
) -> None:
    script = tmp_path / "script"
    script.write_text(text)
    script.chmod(0o755)
    before = signal.getsignal(signal.SIGPIPE)
    # A file of no kind goes to the shell, so it is the shell that has to be no program.
    monkeypatch.setattr(starting, "_SHELL", str(tmp_path))
    with pytest.raises(CannotBecome) as raised:
        execute(str(script), ["script"], {})
    assert raised.value.status == status
    assert signal.getsignal(signal.SIGPIPE) == before


def become_another(code: str, env: Mapping[str, str], *argv: str) -> str:
    """What a process prints that runs some code and becomes a command."""
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BECOME = """
import sys
from openqwave.cli.run.starting import execute, own_environment, path_of
execute(path_of(sys.argv[1]), sys.argv[1:], own_environment())
"""


@pytest.mark.parametrize(
    "given",
    [{}, {"LANG": "C"}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "POSIX"}, {"A": "b c"}],
    ids=str,
)
def test_the_environment_is_the_one_that_was_given(given: dict[str, str]) -> None:
    env = {"PATH": os.environ["PATH"]} | given
    lines = become_another(BECOME, env, "env").splitlines()
    assert dict(line.split("=", 1) for line in lines) == env


def test_no_signal_is_ignored_that_was_not() -> None:
    told = become_another(BECOME, os.environ, "grep", "SigIgn:", "/proc/self/status")
    ignored = int(told.split()[1], 16)
    # The interpreter ignores these.
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_a_script_that_names_no_interpreter_is_the_shells(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$0 $1"\n')
    script.chmod(0o755)
    assert become_another(BECOME, os.environ, str(script), "one") == f"{script} one\n"


def test_the_interpreters_own_mark_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMETHING", "else")
    assert own_environment()["SOMETHING"] == "else"


# -- run --------------------------------------------------------------------------------


def test_a_command_is_run_in_a_cgroup_of_its_own(
    programs: FakePrograms, tree: Tree, became: list[tuple[str, list[str]]]
) -> None:
    wish = Wish(TrafficType.AUDIO_VIDEO, 46, 2_000_000, holds_back=False, name="film")
    with pytest.raises(Became):
        run_command(wish, ["sh", "-c", "exit"])
    (path, argv) = became[0]
    assert (os.path.basename(path), argv) == ("sh", ["sh", "-c", "exit"])
    (asked,) = programs.started
    assert asked == {
        "program": "film",
        "pid": os.getpid(),
        "traffic_type": 3,
        "dscp": 46,
        "rate_bps": 2_000_000,
        "hold_back": False,
        "adopt": False,
    }
    # It was in there when the service was asked.
    assert tree.moves[0] == (os.getpid(), programs.seen[0].name)
    assert programs.seen[0].parent == tree.root


@pytest.mark.parametrize(
    ("wish", "name", "hold_back"),
    [
        (VOICE, "sh", False),
        (Wish(rate_bps=64_000), "sh", True),
        (Wish(dscp=1, name="x"), "x", False),
    ],
)
def test_what_is_asked_for(
    programs: FakePrograms,
    tree: Tree,
    became: list[tuple[str, list[str]]],
    wish: Wish,
    name: str,
    hold_back: bool,
) -> None:
    del tree
    with pytest.raises(Became):
        run_command(wish, ["sh"])
    assert len(became) == 1
    (asked,) = programs.started
    assert (asked["program"], asked["hold_back"]) == (name, hold_back)


def test_what_is_refused_leaves_nothing(
    programs: FakePrograms, tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.refusal = AccessDenied("an exact DSCP needs the right to it; ask with --type")
    assert run_command(VOICE, ["sh"]) == 125
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "qwave run: an exact DSCP needs the right to it; ask with --type\n",
    )
    assert tree.left() == []
    assert tree.places[os.getpid()] == tree.root


def test_a_command_that_cannot_be_executed_after_all(
    programs: FakePrograms,
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise OSError(7, "Argument list too long")

    monkeypatch.setattr(os, "execve", fail)
    assert run_command(VOICE, ["sh"]) == 126
    assert capsys.readouterr().err == (f"qwave run: {path_of('sh')}: Argument list too long\n")
    assert programs.ended == [7]
    assert tree.left() == []
    assert tree.places[os.getpid()] == tree.root


def test_a_command_that_is_not_there_asks_nobody(
    programs: FakePrograms, tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(VOICE, ["no-such-command"]) == 127
    assert capsys.readouterr().err == ("qwave run: no-such-command: No such file or directory\n")
    assert programs.started == []
    assert tree.left() == []


def test_no_service(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> None:
        raise NONE

    monkeypatch.setattr(starting, "open_programs", none)
    monkeypatch.setattr(attaching, "open_programs", none)
    assert run_command(VOICE, ["sh"]) == 125
    assert "`qwave service install`" in capsys.readouterr().err
    assert run_end(1, as_json=False) == 2
    assert "`qwave service install`" in capsys.readouterr().err
    assert tree.left() == []


def test_an_older_service_is_told_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starting, "mounted", lambda: GroupMount(str(tmp_path), "/"))
    monkeypatch.setattr(starting, "folder_of", lambda *_: tmp_path)
    monkeypatch.setattr(Group, "take", lambda *_: None)
    with fake_service(tmp_path, Script(features=(), answers={ms.Close: b"null"})) as service:
        monkeypatch.setenv("QWAVE_SOCKET", str(service.path))
        assert run_command(VOICE, ["sh"]) == 125
    assert "is older than this: update it" in capsys.readouterr().err
    assert not list(tmp_path.glob("qwave-*"))


def test_no_cgroups(
    programs: FakePrograms,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sleeper: int,
) -> None:
    monkeypatch.setattr(cgroups, "_MOUNTS", "/dev/null")
    assert run_command(VOICE, ["sh"]) == 125
    assert "mount -t cgroup2" in capsys.readouterr().err
    assert run_attach(sleeper, VOICE, as_json=False) == 2
    assert "mount -t cgroup2" in capsys.readouterr().err
    assert programs.started == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument"),
        (["sh"], "--type, --dscp or --rate"),
        (["--type", "film", "sh"], "is not one of"),
        (["--dscp", "64", "sh"], "less than or equal"),
        (["--rate", "2mbps", "sh"], "write bits, as 2mbit"),
        (["--remark", "--type", "voice", "sh"], "go with --rate"),
        (["--nonsense", "sh"], "--nonsense"),
    ],
)
def test_wrong_usage_of_run_is_no_status_of_a_command(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openqwave.cli", "run", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb"},
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert words in done.stderr


def test_options_after_the_command_are_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openqwave.cli", "run", "--type=voice", "sh", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"QWAVE_SOCKET": ""},
    )
    # It got as far as to look for the service.
    assert done.returncode == 125
    assert "QWAVE_SOCKET is empty" in done.stderr


# -- a place by systemd -----------------------------------------------------------------
#
# It does not run where tests do, so a stand-in says what it was asked.


@dataclass
class StandIn:
    """What stands for systemd-run.

    Attributes:
        path: Where it is.
        refuses: The file that makes it refuse.
    """

    path: Path
    refuses: Path


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder = tmp_path / "bin"
    folder.mkdir()
    found = StandIn(folder / "systemd-run", tmp_path / "refuses")
    found.path.write_text(
        "#!/bin/sh\n"
        f"[ -e {found.refuses} ] || exit 0\n"
        "printf 'Failed to connect to bus:\\n No medium' >&2\n"
        "exit 1\n"
    )
    found.path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(scopes, "BOOTED", tmp_path)
    return found


@pytest.mark.parametrize("uid", [0, 1000])
def test_where_no_cgroup_can_be_made_systemd_is_asked(
    programs: FakePrograms,
    tree: Tree,
    became: list[tuple[str, list[str]]],
    systemd: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
) -> None:
    tree.is_closed = True
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(Became):
        run_command(
            Wish(TrafficType.VOICE, rate_bps=2_000_000), ["sh", "-c", "a b"], is_verbose=True
        )
    ((path, argv),) = became
    assert path == str(systemd.path)
    at = argv.index(sys.executable)
    user = ["--user"] if uid else []
    assert argv[:at] == [
        path,
        *user,
        "--scope",
        "--quiet",
        "--collect",
        "--property=Delegate=yes",
        "--",
    ]
    assert argv[at + 1 :] == [
        "-P",
        "-m",
        "openqwave.cli",
        "run",
        "--in-scope",
        "--type=voice",
        "--rate=2000000",
        "--hold-back",
        "--verbose",
        "--",
        "sh",
        "-c",
        "a b",
    ]
    assert programs.started == []


def test_systemd_is_asked_once(
    programs: FakePrograms, tree: Tree, systemd: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    del systemd
    tree.is_closed = True
    assert run_command(VOICE, ["sh"], is_in_scope=True) == 125
    assert "no cgroup can be made below" in capsys.readouterr().err
    assert programs.started == []


def test_what_systemd_says_is_told(
    programs: FakePrograms, tree: Tree, systemd: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    del programs
    tree.is_closed = True
    systemd.refuses.touch()
    assert run_command(VOICE, ["sh"]) == 125
    err = capsys.readouterr().err
    assert "(Failed to connect to bus: No medium); log in anew, or run it as root" in err


@pytest.mark.parametrize("missing", ["BOOTED", "_ASKER"])
def test_no_systemd(
    programs: FakePrograms,
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    del programs
    tree.is_closed = True
    monkeypatch.setattr(scopes, "BOOTED", tree.root)
    monkeypatch.setattr(scopes, missing, tree.root / "no" if missing == "BOOTED" else "no-such")
    assert run_command(VOICE, ["sh"]) == 125
    assert "no systemd to ask for another place; run it as root" in capsys.readouterr().err


# -- attach -----------------------------------------------------------------------------


def test_a_process_is_attached_to(
    programs: FakePrograms, tree: Tree, sleeper: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_attach(sleeper, Wish(rate_bps=64_000), as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    (group,) = programs.seen
    assert document == {
        "format": 1,
        "command": "attach",
        "run": 7,
        "name": "sleep",
        "pid": sleeper,
        "dscp": 56,
        "words": "a program: it marks",
        "cgroup": str(group),
        "processes": [sleeper],
        "elsewhere": [],
        "adopted": 2,
        "unreachable": 0,
    }
    assert tree.moves == [(sleeper, group.name)]
    (asked,) = programs.started
    assert (asked["adopt"], asked["hold_back"], asked["pid"]) == (True, True, sleeper)


def test_it_is_said_in_words(
    programs: FakePrograms, tree: Tree, sleeper: int, capsys: pytest.CaptureFixture[str]
) -> None:
    del programs, tree
    assert run_attach(sleeper, VOICE, as_json=False) == 0
    assert capsys.readouterr().out == (
        "Run 7 of sleep: 1 process, 2 sockets that were there before, DSCP 56.\n"
        "By a program: it marks.\n"
        "`qwave attach --end 7` ends it.\n"
    )


def test_what_is_refused_moves_nobody_for_good(
    programs: FakePrograms, tree: Tree, sleeper: int, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.refusal = AccessDenied("that is another user's")
    assert run_attach(sleeper, VOICE, as_json=False) == 2
    assert capsys.readouterr().err == "qwave attach: that is another user's\n"
    assert tree.left() == []
    assert tree.places[sleeper] == tree.root


def test_where_no_cgroup_can_be_made_below_a_process(
    programs: FakePrograms, tree: Tree, sleeper: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.is_closed = True
    assert run_attach(sleeper, VOICE, as_json=False) == 2
    assert "`sudo qwave attach`" in capsys.readouterr().err
    assert programs.started == []


def kernel_threads() -> list[int]:
    return [
        int(name)
        for name in os.listdir("/proc")
        if name.isdecimal() and (kin := look_up(int(name))) is not None and kin.is_kernel
    ]


def test_whom_nobody_attaches_to(
    programs: FakePrograms,
    tree: Tree,
    sleeper: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = subprocess.Popen([path_of("true")])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    for pid, words in [
        (999_999_999, "there is no process 999999999"),
        (1, "everything descends from"),
        (os.getpid(), "this command itself"),
        (ended.pid, f"process {ended.pid} has ended"),
        *[(pid, "a thread of the kernel") for pid in kernel_threads()[:1]],
    ]:
        assert run_attach(pid, VOICE, as_json=False) == 2
        assert words in capsys.readouterr().err
    ended.wait()
    monkeypatch.setattr(os, "geteuid", lambda: 65_534)
    assert run_attach(sleeper, VOICE, as_json=False) == 2
    assert "is another user's (0), and only root attaches to such" in capsys.readouterr().err
    assert programs.started == []
    assert tree.left() == []


def test_an_end_moves_processes_back(
    programs: FakePrograms, tree: Tree, sleeper: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_attach(sleeper, VOICE, as_json=False) == 0
    (group,) = programs.seen
    programs.rows = [
        ms.ProgramRow(kind="rule", number=7, name="a rule of that number"),
        ms.ProgramRow(kind="attach", number=7, name="sleep", cgroup=f"/own/{group.name}"),
    ]
    capsys.readouterr()
    assert run_end(7, as_json=False) == 0
    assert capsys.readouterr().out == "Run 7 of sleep has ended.\n"
    assert programs.ended == [7]
    assert tree.places[sleeper] == tree.root
    assert tree.left() == []


def test_an_end_after_everybody_has_gone(
    programs: FakePrograms, tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    del tree
    programs.rows = [
        ms.ProgramRow(kind="run", number=7, name="x", cgroup="/own/qwave-run-1-17-0123abcd")
    ]
    assert run_end(7, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "format": 1,
        "command": "attach",
        "ended": 7,
        "stays": None,
    }


def test_who_has_made_the_cgroup_keeps_it(
    programs: FakePrograms, tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.root / "a.service").mkdir()
    programs.rows = [ms.ProgramRow(kind="run", number=7, name="x", cgroup="/own/a.service")]
    assert run_end(7, as_json=False) == 0
    assert "/own/a.service was not made by qwave" in capsys.readouterr().out
    assert tree.left() == ["a.service"]


def test_an_end_of_what_is_not_there(
    programs: FakePrograms, tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    del tree
    assert run_end(7, as_json=False) == 2
    assert (
        "there is no run 7; `qwave flows` lists those that you may end\n" in capsys.readouterr().err
    )
    programs.rows = [ms.ProgramRow(kind="run", number=7, name="x")]
    programs.refusal = FlowNotFound("there is no run 7 of this user")
    assert run_end(7, as_json=False) == 2
    assert "there is no run 7 of this user" in capsys.readouterr().err


# -- who is moved -----------------------------------------------------------------------


@pytest.fixture
def gathering_of(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], list[int]]], gathering.Gathered]:
    def call(family: Callable[[], list[int]]) -> gathering.Gathered:
        monkeypatch.setattr(gathering, "family_of", lambda _: family())
        with cgroups.make(tree.root, "attach", os.getpid()) as group:
            return gather(GroupMount("/", "/"), group, tree.root, 100)

    return call


Gather = Callable[[Callable[[], list[int]]], gathering.Gathered]


def test_those_who_are_born_meanwhile_are_moved_too(tree: Tree, gathering_of: Gather) -> None:
    looks: Iterator[list[int]] = iter([[100, 101], [100, 101, 102], [100, 101, 102]])
    found = gathering_of(lambda: next(looks))
    assert found.inside == (100, 101, 102)
    assert [pid for pid, _ in tree.moves] == [100, 101, 102]


def test_who_is_in_another_cgroup_stays_there(tree: Tree, gathering_of: Gather) -> None:
    tree.places[101] = tree.root / "container"
    tree.places[102] = tree.root.parent / "session"
    found = gathering_of(lambda: [100, 101, 102, os.getpid()])
    assert (found.inside, found.elsewhere) == ((100,), (101, 102))


def test_a_process_that_ends_meanwhile(gathering_of: Gather) -> None:
    looks: Iterator[list[int]] = iter([[100], []])
    with pytest.raises(NoSuchProcess, match="process 100 has ended"):
        gathering_of(lambda: next(looks))


def test_those_who_multiply_too_fast_are_left(gathering_of: Gather) -> None:
    family = [100]

    def more() -> list[int]:
        family.append(family[-1] + 1)
        return family

    with pytest.raises(CgroupTrouble, match="kill -STOP 100"):
        gathering_of(more)
