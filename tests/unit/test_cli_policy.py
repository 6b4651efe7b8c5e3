"""`qwave policy`: what it writes, its exit statuses, and the page that shows it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner

from openqwave.admission.profiles import PROFILES
from openqwave.admission.rules import Program
from openqwave.cli.policy import values
from openqwave.cli.policy.question import BadPlace, Place, place_of
from openqwave.cli.program import app
from openqwave.client.whereabouts import SOCKET_VARIABLE
from openqwave.drivers.programs import (
    NoProcess,
    named_program,
    own_address_towards,
    process_program,
)
from openqwave.enforcement.bpf.words import MARKS_PROGRAMS, NAME
from openqwave.ipc import messages as ms
from openqwave.ipc.pages import program_page
from openqwave.model.errors import Refusal
from openqwave.model.flow import TrafficType
from openqwave.service import config, settings
from openqwave.service.config import Config, load
from tests.kernel.service_stage import NOBODY
from tests.unit.fake_service import Script, fake_service

NO_SERVICE = (
    "QWAVE_SOCKET is empty, which means that no service is wanted; it takes qwaved to mark other "
    "programs"
)
PAGE = (Path(__file__).parents[2] / "docs/policy.md").read_text()


class Host:
    """A host with an /etc/qwave of its own, and what the last command said there."""

    def __init__(self, etc: Path) -> None:
        self.etc = etc
        (etc / "policy.d").mkdir(parents=True)
        self.output = self.errors = ""

    def put(self, name: str, text: str) -> Path:
        file = self.etc / "policy.d" / name
        file.write_text(text)
        return file

    def run(self, *arguments: str) -> int:
        done = CliRunner().invoke(app, ["policy", *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.output, self.errors = done.stdout, done.stderr
        return done.exit_code

    def told(self) -> dict[str, Any]:
        found = json.loads(self.output)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "etc" / "qwaved.toml")
    return Host(tmp_path / "etc")


def rule(name: str, **said: object) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    return "\n".join(["[[rule]]", f'name = "{name}"', *lines, ""])


# -- check ------------------------------------------------------------------------------


def test_files_that_are_good(host: Host) -> None:
    assert host.run("check") == 0
    assert host.output == "0 files, 0 rules: good\n"
    host.put("a.toml", "limits.flows = 3")
    assert host.run("check") == 0
    assert host.output == "1 file, 0 rules: good\n"


def test_rules_are_not_accepted_in_silence(host: Host) -> None:
    host.put("a.toml", rule("x", dscp=1))
    assert host.run("check") == 0
    told, good = host.output.splitlines()
    assert told == f"No rule is carried out now, because no service is to be had: {NO_SERVICE}"
    assert good == "1 file, 1 rule: good"


def test_all_mistakes_are_told_with_file_and_line(host: Host) -> None:
    one = host.put("a.toml", "limits.flows = 0\n\nmarks.voice = 3")
    two = host.put("b.toml", "x = [")
    assert host.run("check") == 1
    assert host.output == ""
    lines = host.errors.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{one}, line 1: limits.flows is 0")
    assert lines[1].startswith(f"{one}, line 3: marks.voice is 3")
    assert lines[2].startswith(f"{two}, line 1: is no TOML")
    # And so do the other two.
    for arguments in (["show"], ["explain", "1", "--to", "127.0.0.1:9"]):
        assert host.run(*arguments) == 1
        assert host.errors.splitlines() == lines


def test_files_in_place_of_the_hosts(host: Host, tmp_path: Path) -> None:
    host.put("a.toml", "nonsense = 1")
    mine = tmp_path / "mine.toml"
    mine.write_text("limits.flows = 0")
    assert host.run("check", str(mine)) == 1
    assert host.errors.startswith(f"{mine}, line 1: limits.flows is 0")
    mine.write_text("limits.flows = 1")
    assert host.run("check", str(mine)) == 0
    assert host.run("check", str(mine), "--policy", str(tmp_path)) == 2
    assert host.run("check", str(tmp_path / "none.toml")) == 1
    assert "cannot be read: No such file" in host.errors


def test_doubts(host: Host, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.touch()
    (tmp_path / "link").symlink_to(real)
    file = host.put(
        "a.toml",
        rule("gone", program=str(tmp_path / "gone"), dscp=1)
        + rule("link", program=str(tmp_path / "link"), dscp=1)
        + rule("good", program=str(real), user="root", dscp=1)
        + rule("user", user="nobody-of-that-name", dscp=1)
        + rule("first", protocol="udp", dscp=1)
        + rule("second", protocol="udp", dscp=2),
    )
    assert host.run("check") == 0
    assert host.output.splitlines()[:-2] == [
        f"{file}:1: rule 'gone': there is no {tmp_path}/gone",
        f"{file}:5: rule 'link': processes are known by the file itself, and {tmp_path}/link leads "
        f"to {real}",
        f"{file}:14: rule 'user': there is no user nobody-of-that-name",
        f"{file}:18: rule 'first' is for the same traffic as 'second' at {file}:22, which stands "
        "later and always holds",
    ]


# -- show -------------------------------------------------------------------------------


def shown(host: Host) -> dict[str, tuple[str, str]]:
    """Value and source by key, as the page has them."""
    rows = {}
    for line in host.output.splitlines():
        if match := re.fullmatch(r"([\w.]+) +(\S.*?)  +(\S.*)", line):
            rows[match[1]] = (match[2], match[3])
    return rows


def test_every_key_is_shown_as_its_default(host: Host) -> None:
    assert host.run("show") == 0
    rows = shown(host)
    assert {source for _, source in rows.values()} == {"default", "profile qwave, default"}
    keys = {".".join(key.split(".")[:2]) for key in rows}
    tables = {
        "access": settings.Access,
        "marks": settings.Marks,
        "limits": settings.ClientLimits,
        "experiments": settings.Experiments,
        "rates": settings.Rates,
    }
    assert keys == {
        f"{name}.{key}" for name, kind in tables.items() for key in kind.__struct_fields__
    }
    # What is shown, said in a file, changes nothing.
    said = "\n".join(f"{key} = {value}" for key, (value, _) in rows.items())
    host.put("a.toml", said)
    assert load() == Config()


def test_each_value_has_its_source(host: Host) -> None:
    (host.etc / "qwaved.toml").write_text("[limits]\nflows = 7\nhandles = 7\n")
    one = host.put("a.toml", "marks.profile = 'wmm'\nmarks.control = 'none'\nlimits.flows = 8\n")
    two = host.put("b.toml", "\nmarks.voice.dscp = 46\nmarks.best_effort.dscp = 1")
    assert host.run("show") == 0
    assert host.output.splitlines()[:3] == [f"# {host.etc}/qwaved.toml", f"# {one}", f"# {two}"]
    rows = shown(host)
    assert rows["limits.flows"] == ("8", f"{one}:3")
    assert rows["limits.handles"] == ("7", f"{host.etc}/qwaved.toml:3")
    assert rows["marks.profile"] == ('"wmm"', f"{one}:1")
    assert rows["marks.control"] == ('"none"', f"{one}:2")
    assert rows["marks.voice.dscp"] == ("46", f"{two}:2")
    assert rows["marks.voice.pcp"] == ("6", f"profile wmm, {one}:1")
    assert rows["marks.best_effort.dscp"] == ("1", f"{two}:3")
    assert rows["marks.best_effort.pcp"] == ("0", "default")


def test_limits_and_switches_are_shown_as_files_have_them(host: Host) -> None:
    (host.etc / "qwaved.toml").write_text("[limits]\ncontracts_per_user_kbps = 5_000\n")
    one = host.put(
        "a.toml",
        "[access]\npriority_needs_contract = true\n[limits]\nflows_per_user = 9\n"
        "contracts_per_host_percent = 62.5\ncontracts_per_host_kbps = 'none'\n",
    )
    assert host.run("show") == 0
    rows = shown(host)
    assert rows["access.priority_needs_contract"] == ("true", f"{one}:2")
    assert rows["limits.flows_per_user"] == ("9", f"{one}:4")
    assert rows["limits.destinations_per_user"] == ("65536", "default")
    assert rows["limits.contracts_per_user_kbps"] == ("5000", f"{host.etc}/qwaved.toml:2")
    assert rows["limits.contracts_per_host_percent"] == ("62.5", f"{one}:5")
    assert rows["limits.contracts_per_host_kbps"] == ('"none"', f"{one}:6")
    assert rows["limits.contracts_per_interface_percent"] == ('"none"', "default")
    assert host.run("show", "--json") == 0
    by_key = {each["key"]: each["value"] for each in host.told()["values"]}
    assert by_key["access.priority_needs_contract"] is True
    assert by_key["limits.contracts_per_host_percent"] == 62.5


def test_show_for_programs(host: Host) -> None:
    file = host.put("a.toml", "limits.flows = 8\n" + rule("x", dscp=1, remote="10.0.0.0/8"))
    assert host.run("show", "--json") == 0
    told = host.told()
    assert told["format"] == 1
    assert told["files"] == [str(file)]
    assert told["rules_are_carried_out"] is False
    by_key = {each.pop("key"): each for each in told["values"]}
    assert by_key["limits.flows"] == {"value": 8, "file": str(file), "line": 1, "profile": None}
    assert by_key["limits.handles"]["file"] is None
    assert told["rules"] == [
        {
            "name": "x",
            "origin": f"{file}:2",
            "remote": "10.0.0.0/8",
            "dscp": 1,
            "in_force": False,
            "how": f"no service carries it out: {NO_SERVICE}",
        }
    ]
    assert len(by_key) == len(values.values_of(load()))


# -- explain ----------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "100"]) as process:
        yield process
        process.kill()


def test_a_process_is_known_by_its_file_user_and_cgroup(
    host: Host, sleeper: subprocess.Popen[bytes]
) -> None:
    path = os.path.realpath("/bin/sleep")
    cgroup = Path(f"/proc/{sleeper.pid}/cgroup").read_text()
    unified = re.search(r"^0::(.*)$", cgroup, re.MULTILINE)
    host.put(
        "a.toml",
        rule("name", program=os.path.basename(path), dscp=1)
        + rule("path", program=path, dscp=2)
        + rule("user", user=str(os.geteuid()), dscp=3, remote_ports=9)
        + rule("other", user="12345", dscp=4),
    )
    assert host.run("explain", str(sleeper.pid), "--to", "127.0.0.1:9", "--json") == 0
    told = host.told()
    assert told["program"] == path
    assert told["uid"] == os.geteuid()
    assert told["cgroup"] == (None if unified is None else unified[1])
    assert told["local"] == "127.0.0.1"
    assert told["winner"]["name"] == "user"
    assert told["winner"]["dscp"] == 3
    assert told["rules_are_carried_out"] is False
    assert [(each["name"], each["matches"]) for each in told["losers"]] == [
        ("path", True),
        ("name", True),
        ("other", False),
    ]
    assert host.run("explain", str(sleeper.pid), "--to", "127.0.0.1:10", "--json") == 0
    assert host.told()["winner"]["name"] == "path"


def test_no_rule_and_no_process(host: Host) -> None:
    assert host.run("explain", "cat", "--to", "127.0.0.1:9") == 3
    assert "No rule would hold: no rule is for this traffic.\n" in host.output
    assert host.run("explain", str(2**22 + 1), "--to", "127.0.0.1:9") == 2
    assert host.errors.startswith("There is no process 4194305")


def test_both_protocols(host: Host) -> None:
    host.put("a.toml", rule("t", protocol="tcp", dscp=1) + rule("u", protocol="udp", dscp=2))
    for protocol, name in (("tcp", "t"), ("udp", "u")):
        arguments = ("explain", "cat", "--to", "[::1]:9", "--protocol", protocol, "--json")
        assert host.run(*arguments) == 0
        assert host.told()["winner"]["name"] == name


def test_a_type_is_worth_what_the_policy_gives_it(host: Host) -> None:
    host.put("a.toml", "marks.profile = 'wmm'\n" + rule("x", traffic_type="voice"))
    assert host.run("explain", "cat", "--to", "127.0.0.1:9", "--json") == 0
    assert host.told()["winner"]["dscp"] == 48
    host.put("b.toml", rule("x", traffic_type="best_effort", rate_kbps=5))
    assert host.run("explain", "cat", "--to", "127.0.0.1:9") == 0
    assert "its packets would carry what the program gives them" in host.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["cat", "--to", "127.0.0.1"],
        ["cat", "--to", "localhost:9"],
        ["cat", "--to", "127.0.0.1:0"],
        ["cat", "--to", "127.0.0.1:99999"],
        ["cat", "--to", "::1:9"],
        ["cat", "--to", "[::1]9"],
        ["cat", "--to", "[::1]:9", "--from", "127.0.0.1"],
        ["1", "--to", "127.0.0.1:9", "--user", "root"],
        ["1", "--to", "127.0.0.1:9", "--cgroup", "/"],
        ["cat", "--to", "127.0.0.1:9", "--protocol", "sctp"],
        ["cat"],
    ],
)
def test_wrong_usage(host: Host, arguments: list[str]) -> None:
    assert host.run("explain", *arguments) == 2
    assert host.output == ""


def test_a_wrong_port_is_named(host: Host) -> None:
    assert host.run("explain", "cat", "--to", "127.0.0.1:99999") == 2
    assert "99999 is no port: those are from 1 to 65535." in host.errors


def test_a_directory_is_no_file(host: Host) -> None:
    host.put("a.toml", "")
    assert host.run("check", str(host.etc / "policy.d")) == 2
    told = " ".join(host.errors.replace("│", " ").split())
    assert "is a directory: name its files, or use --policy." in told


def test_places() -> None:
    def read(text: str) -> tuple[str, int | None]:
        place: Place = place_of(text, needs_port=False)
        return str(place.address), place.port

    assert read("192.0.2.1") == ("192.0.2.1", None)
    assert read("192.0.2.1:5") == ("192.0.2.1", 5)
    assert read("2001:db8::1") == ("2001:db8::1", None)
    assert read("[2001:db8::1]:65535") == ("2001:db8::1", 65535)
    assert read("[::ffff:192.0.2.1]:5") == ("192.0.2.1", 5)
    for text in ("", "[", "[]", ":5", "[::1", "[::1]:", "1.2.3.4:x", "[1.2.3.4]5"):
        with pytest.raises(BadPlace):
            place_of(text, needs_port=False)


# -- what /proc says --------------------------------------------------------------------


def test_what_runs_from_a_file_that_is_gone(tmp_path: Path) -> None:
    copy = tmp_path / "sleep"
    copy.write_bytes(Path("/bin/sleep").read_bytes())
    copy.chmod(0o755)
    with subprocess.Popen([str(copy), "100"]) as process:
        try:
            copy.unlink()
            assert process_program(process.pid).program.path == str(copy)
        finally:
            process.kill()


def test_a_process_that_has_ended(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(NoProcess):
        process_program(sleeper.pid)


def as_nobody(do: Callable[[], str], *, is_effective_only: bool = False) -> str:
    """What a process of nobody says."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        if is_effective_only:
            os.seteuid(NOBODY)
        else:
            os.setuid(NOBODY)
        os.write(writing, do().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.root
def test_the_file_of_anothers_process_is_not_known(sleeper: subprocess.Popen[bytes]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")

    def look() -> str:
        seen = process_program(sleeper.pid)
        return f"{seen.program.path} {seen.program.uid} {' '.join(seen.unknown)}"

    said = as_nobody(look)
    assert said.startswith("None 0 its executable: Permission denied; root may look")


@pytest.mark.root
def test_the_user_is_the_one_that_counts() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")

    def look() -> str:
        # Whose uid is 0 still, but who acts as another user.
        return str(process_program(os.getpid()).program.uid)

    assert as_nobody(look, is_effective_only=True) == str(NOBODY)


def test_a_program_that_need_not_run() -> None:
    nobody = named_program("cat", "nobody-of-that-name", "/x")
    assert nobody.unknown == (
        "its user's number: there is no user nobody-of-that-name on this host",
    )
    cat = named_program("cat", "root", "/x")
    assert cat.unknown == ()
    assert cat.program.path == os.path.realpath(str(cat.program.path))
    assert cat.program.uid == 0
    none = named_program("no-such-program-here", "4000000000")
    assert none.program == Program(
        name="no-such-program-here", user="4000000000", uid=4_000_000_000
    )
    assert len(none.unknown) == 2


def test_which_address_packets_leave_with() -> None:
    for text in ("127.0.0.1", "::1"):
        assert own_address_towards(ip_address(text)) == ip_address(text)
    # Nobody is reached by a link-local address without its link.
    assert own_address_towards(ip_address("fe80::1")) is None


# -- what the service carries out -----------------------------------------------------


@contextlib.contextmanager
def serving(*rows: ms.ProgramRow, features: Sequence[str] = ms.FEATURES) -> Iterator[None]:
    """A service that has these rules."""
    answers: dict[type, bytes | Refusal | None] = {
        ms.ListPrograms: program_page(rows),
        ms.Close: b"null",
    }
    script = Script(features=features, answers=answers)
    with (
        tempfile.TemporaryDirectory() as folder,
        fake_service(Path(folder), script) as service,
        mock.patch.dict(os.environ, {SOCKET_VARIABLE: str(service.path)}),
    ):
        yield


def row(name: str, **said: Any) -> ms.ProgramRow:  # noqa: ANN401 - fields
    fields = {"kind": "rule", "number": 1, "backend": NAME, "reason": "so", **said}
    return ms.ProgramRow(name=name, **fields)


def in_force(host: Host, *rows: ms.ProgramRow) -> dict[str, tuple[bool, str]]:
    with serving(*rows):
        assert host.run("show", "--json") == 0
    return {each["name"]: (each["in_force"], each["how"]) for each in host.told()["rules"]}


def test_what_the_service_carries_out(host: Host) -> None:
    file = host.put("a.toml", rule("x", user="root", dscp=1) + rule("y", traffic_type="voice"))
    mine = (
        row("x", asks='user = "root"', dscp=1),
        row("y", asks="all traffic", dscp=56, backend="", reason="not carried out: no room"),
    )
    assert in_force(host, *mine) == {
        "x": (True, "kernel program: so"),
        "y": (False, "not carried out: no room"),
    }
    assert host.told()["rules_are_carried_out"] is False
    with serving(*mine):
        assert host.run("check") == 0
        assert host.output.splitlines() == [
            f"{file}:5: rule 'y' is not in force: not carried out: no room",
            "In force: 1 of 2 rules",
            "1 file, 2 rules: good",
        ]
        assert host.run("show") == 0
        assert "  in force: kernel program: so\n" in host.output
        assert "  not in force: not carried out: no room\n" in host.output
        assert host.run("explain", "cat", "--to", "127.0.0.1:9", "--json") == 0
        assert host.told()["winner"]["in_force"] is False
        assert host.told()["rules_are_carried_out"] is False
        assert host.run("explain", "cat", "--user", "root", "--to", "127.0.0.1:9", "--json") == 0
        assert host.told()["winner"]["how"] == "kernel program: so"
        assert host.told()["rules_are_carried_out"] is True


def test_a_run_comes_before_rules(host: Host) -> None:
    host.put("a.toml", rule("x", dscp=1))
    asked = ("explain", "cat", "--to", "127.0.0.1:9", "--cgroup", "/a/b/c")
    runs = (
        row("outer", kind="run", number=3, cgroup="/a", dscp=10),
        row("inner", kind="attach", number=4, cgroup="/a/b", dscp=46),
        row("other", kind="run", number=5, cgroup="/a/bb", dscp=46),
        row("unseen", kind="run", number=6),
    )
    with serving(*runs):
        assert host.run(*asked, "--json") == 0
        assert host.told()["run"] == {"number": 4, "name": "inner", "dscp": 46}
        assert host.run(*asked) == 0
        assert "Run 4 of 'inner', which it is part of, comes before rules" in host.output
        assert host.run("explain", "cat", "--to", "127.0.0.1:9", "--json") == 0
        assert host.told()["run"] is None
    with serving(*runs[2:]):
        assert host.run(*asked, "--json") == 0
        assert host.told()["run"] is None


@pytest.mark.parametrize(
    "other",
    [
        {"asks": 'user = "bob"', "dscp": 1},
        {"asks": 'user = "root"', "dscp": 2},
        {"asks": 'user = "root"', "dscp": 1, "rate_bps": 5_000},
        {"asks": 'user = "root"', "dscp": 1, "kind": "run"},
    ],
)
def test_what_the_service_has_otherwise(host: Host, other: dict[str, Any]) -> None:
    host.put("a.toml", rule("x", user="ann", dscp=1))
    for rows in ((row("x", **other),), ()):
        held, how = in_force(host, *rows)["x"]
        assert not held
        assert "systemctl reload qwaved" in how


def test_a_service_that_is_older_than_rules(host: Host) -> None:
    host.put("a.toml", rule("x", dscp=1))
    with serving(features=()):
        assert host.run("show", "--json") == 0
    (told,) = host.told()["rules"]
    assert not told["in_force"]
    assert "is older than this" in told["how"]


# -- the page ---------------------------------------------------------------------------


def test_the_pages_example(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = pwd.struct_passwd(("ann", "x", 1000, 1000, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", {"ann": ann}.__getitem__)
    blocks = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (block,) = [one for one in blocks if "[[rule]]" in one]
    file = host.put("50-calls.toml", block)
    assert [each.name for each in load().policy.rules] == ["calls", "backups", "lab"]
    (told,) = re.findall(r"^```text\n\$ qwave policy (explain .*?)^```$", PAGE, re.M | re.S)
    command, _, wanted = told.partition("\n")
    calls = row(
        "calls",
        asks='program = "/usr/bin/baresip", protocol = "udp", remote_ports = "5004-5010"',
        dscp=46,
        reason=MARKS_PROGRAMS,
    )
    with serving(calls):
        assert host.run(*command.split()) == 0
    assert host.output.replace(str(host.etc), "/etc/qwave") == wanted
    # And what is wrong with it, made wrong.
    bad = block.replace('profile = "rfc8325"', "\n[marks.voice]\ndscp = 64")
    file.write_text(bad.replace("5004-5010", "5010-5004"))
    (wrong,) = re.findall(r"^```text\n\$ qwave policy check\n(.*?)^```$", PAGE, re.M | re.S)
    assert host.run("check") == 1
    assert host.errors.replace(str(host.etc), "/etc/qwave") == wrong


def test_the_pages_table_of_marks() -> None:
    rows = re.findall(r"^\| ([a-z ]+) \| (.*) \|$", PAGE, re.MULTILINE)
    found = {
        name: cells.split(" | ") for name, cells in rows if "," in cells or "untouched" in cells
    }
    for traffic_type in TrafficType:
        cells = found[traffic_type.name.lower().replace("_", " ")]
        profiles = ("qwave", "rfc8325", "rfc4594", "wmm", "none")
        for cell, profile in zip(cells, profiles, strict=True):
            marks = PROFILES[profile][traffic_type]
            assert cell == ("untouched" if marks is None else f"{marks.dscp}, {marks.pcp}")


def test_the_command_itself(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("limits.flows = 0")
    arguments = [sys.executable, "-m", "openqwave.cli", "policy", "check", str(file)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"{file}, line 1: limits.flows is 0" in done.stderr
