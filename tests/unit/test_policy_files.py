"""`policy.d`: the order of its files, what wins, where it comes from, and each mistake."""

from __future__ import annotations

import os
import random
import re
from importlib import resources
from ipaddress import ip_network
from pathlib import Path

import pytest

from openqwave.admission.policy import Experiments, Limits, Marks
from openqwave.admission.profiles import PROFILES
from openqwave.admission.rules import Conditions, Grant, Ports, Rule
from openqwave.model.flow import TrafficType, Transport
from openqwave.service import config
from openqwave.service.config import Config, ConfigError, load
from openqwave.service.documents import parse_document
from openqwave.service.policyfiles import check_policy
from openqwave.service.rulefiles import row_of

VOICE, CONTROL = TrafficType.VOICE, TrafficType.CONTROL

RULE = '[[rule]]\nname = "{name}"\ndscp = {dscp}\n'


@pytest.fixture(autouse=True)
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's /etc/qwave."""
    etc = tmp_path / "etc"
    (etc / "policy.d").mkdir(parents=True)
    monkeypatch.setattr(config, "DEFAULT_PATH", etc / "qwaved.toml")
    return etc


def put(etc: Path, **files: str) -> None:
    for name, text in files.items():
        (etc / "policy.d" / f"{name}.toml").write_text(text)


def mistakes(text: str) -> list[tuple[int | None, str]]:
    path = Path("/etc/qwave/policy.d/x.toml")
    with pytest.raises(ConfigError) as caught:
        parse_document(text.encode(), path, check_policy)
    assert caught.value.path == path
    return [(each.line, each.reason) for each in caught.value.mistakes]


# -- order ------------------------------------------------------------------------------


def test_without_files_nothing_is_different(etc: Path) -> None:
    assert load() == Config()
    (etc / "policy.d").rmdir()
    assert load() == Config()


def test_later_files_win_key_by_key(etc: Path) -> None:
    (etc / "qwaved.toml").write_text(
        "[marks]\nvoice = { dscp = 46, pcp = 6 }\n[limits]\nflows = 1\nhandles = 1\n"
        "[service]\nlog_level = 'debug'\n"
    )
    put(
        etc,
        a10="[limits]\nflows = 3\n[experiments]\nallowed = ['10.0.0.0/8', '192.0.2.0/24']\n",
        a9="[limits]\nflows = 4\n[marks]\nvoice = { dscp = 44 }\ncontrol = 'none'\n",
        b="[experiments]\nallowed = ['10.1.0.0/16']\n[marks.control]\ndscp = 40\n",
    )
    found = load()
    # By name, as text: a10 before a9.
    assert [each.name for each in found.files] == ["qwaved.toml", "a10.toml", "a9.toml", "b.toml"]
    assert found.policy.limits == Limits(handles=1, flows=4)
    assert found.policy.marks[VOICE] == Marks(44, 6)
    assert found.policy.marks[CONTROL] == Marks(40, 7)
    # A list is one value.
    assert found.policy.experiments == Experiments(allowed=("10.1.0.0/16",))
    assert found.log_level == 10
    assert found.path == etc / "qwaved.toml"


def test_a_later_file_lifts_a_limit(etc: Path) -> None:
    (etc / "qwaved.toml").write_text(
        "[access]\npriority_needs_contract = true\n"
        "[limits]\ncontracts_per_user_kbps = 5_000\ncontracts_per_host_percent = 50\n"
    )
    assert load().policy.limits == Limits(
        contracts_per_user_bps=5_000_000, contracts_per_host_ppm=500_000
    )
    put(etc, a="limits.contracts_per_user_kbps = 'none'\naccess.priority_needs_contract = false\n")
    found = load()
    assert found.policy.limits == Limits(contracts_per_host_ppm=500_000)
    assert not found.policy.priority_needs_contract
    origins = {".".join(map(str, place)): str(one) for place, one in found.origins.items()}
    assert origins == {
        "access.priority_needs_contract": f"{etc}/policy.d/a.toml:2",
        "limits.contracts_per_user_kbps": f"{etc}/policy.d/a.toml:1",
        "limits.contracts_per_host_percent": f"{etc}/qwaved.toml:5",
    }


def test_each_value_has_its_file_and_line(etc: Path) -> None:
    (etc / "qwaved.toml").write_text("[marks]\nvoice = { dscp = 46, pcp = 6 }\n")
    put(
        etc,
        a="# mine\n\n[marks]\nvoice.dscp = 44\ncontrol = 'none'\nbackground = { dscp = 1 }\n",
        b="marks.control.dscp = 40\nmarks.background = 'none'\n" + RULE.format(name="x", dscp=1),
    )
    found = load()
    policy = etc / "policy.d"
    assert {".".join(map(str, place)): str(one) for place, one in found.origins.items()} == {
        "marks.voice.dscp": f"{policy}/a.toml:4",
        "marks.voice.pcp": f"{etc}/qwaved.toml:2",
        "marks.control.dscp": f"{policy}/b.toml:1",
        "marks.background": f"{policy}/b.toml:2",
    }
    assert found.policy.rules[0].origin == f"{policy}/b.toml:3"


def test_a_profile_is_under_all_types_whoever_names_them(etc: Path) -> None:
    (etc / "qwaved.toml").write_text("[marks]\nvoice = { dscp = 44 }\n")
    put(etc, a="marks.profile = 'rfc8325'")
    found = load()
    assert found.policy.marks == {**PROFILES["rfc8325"], VOICE: Marks(44, 6)}
    assert found.profile == "rfc8325"


def test_a_rule_takes_the_place_of_an_earlier_one_of_its_name(etc: Path) -> None:
    one = RULE.format(name="one", dscp=1) + "user = 'ann'\n"
    put(
        etc,
        a=one + RULE.format(name="two", dscp=2),
        b=RULE.format(name="three", dscp=3) + RULE.format(name="one", dscp=4),
    )
    rules = load().policy.rules
    assert [(each.name, each.grant.dscp) for each in rules] == [
        ("two", 2),
        ("three", 3),
        ("one", 4),
    ]
    # Whole: the user is not asked for any longer.
    assert rules[-1].conditions == Conditions()


def test_which_files_count(etc: Path) -> None:
    folder = etc / "policy.d"
    for name in (".hidden.toml", "a.toml~", "a.conf", "README"):
        (folder / name).write_text("no toml at all [")
    put(etc, good="limits.flows = 2")
    assert load().files == (folder / "good.toml",)


def test_another_configuration_has_no_directory_unless_named(etc: Path, tmp_path: Path) -> None:
    put(etc, a="limits.flows = 2")
    other = tmp_path / "other.toml"
    other.write_text("limits.handles = 5")
    (tmp_path / "policy.d").mkdir()
    (tmp_path / "policy.d" / "b.toml").write_text("limits.flows = 3")
    assert load(other).policy.limits == Limits(handles=5)
    assert load(other, etc / "policy.d").policy.limits == Limits(handles=5, flows=2)
    assert load(other, [tmp_path / "policy.d" / "b.toml"]).policy.limits == Limits(5, 3)
    assert load(None, []).policy.limits == Limits()


# -- refused whole ----------------------------------------------------------------------


def test_all_mistakes_of_all_files_are_told(etc: Path) -> None:
    (etc / "qwaved.toml").write_text("[limits]\nflows = 0\n")
    put(etc, a="\nlimits.flow = 1\nlimits.flows = -1\n", b="limits.flows = 2", c="x = [")
    (etc / "policy.d" / "d.toml").mkdir()
    with pytest.raises(ConfigError) as caught:
        load()
    policy = etc / "policy.d"
    lines = str(caught.value).splitlines()
    for line, start in zip(
        lines,
        [
            f"{etc}/qwaved.toml, line 2: limits.flows is 0",
            f"{policy}/a.toml, line 2: limits.flow is not known",
            f"{policy}/a.toml, line 3: limits.flows is -1",
            f"{policy}/c.toml, line 1: is no TOML",
            f"{policy}/d.toml: cannot be read: Is a directory",
        ],
        strict=True,
    ):
        assert line.startswith(start)
    assert caught.value.path == etc / "qwaved.toml"


def test_a_directory_that_was_named_has_to_be_there(etc: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(None, etc / "nothing")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(None, [etc / "nothing.toml"])


@pytest.mark.timeout(30)
def test_a_pipe_that_nobody_writes_to_is_an_empty_file(etc: Path) -> None:
    os.mkfifo(etc / "policy.d" / "a.toml")
    assert load() == Config()
    # One that somebody writes to is read to its end, as a shell's <(...) is.
    reading, writing = os.pipe()
    os.write(writing, b"limits.flows = 9")
    os.close(writing)
    try:
        assert load(None, [Path(f"/dev/fd/{reading}")]).policy.limits.flows == 9
    finally:
        os.close(reading)


def test_too_many_files(etc: Path) -> None:
    for number in range(257):
        put(etc, **{f"a{number}": ""})
    with pytest.raises(ConfigError, match="more than 256 policy files"):
        load()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("\n[service]\nlog_level = 'info'", 2, "service has no place here; it is the service's"),
        ("[sink]", 1, "belongs in qwaved.toml"),
        ("enforcement = 3", 1, "belongs in qwaved.toml"),
        ("[rules]", 1, "rules is not known; is 'rule' meant?"),
        ("[rule]\nname = 'x'", 1, "rule is a table and has to be a list, each of which is a table"),
        ("rule = [3]", 1, "rule #1 is 3 and has to be a table"),
        ("[[rule]]\nname = 'x'", 1, "rule #1 gives nothing; it needs dscp, traffic_type or rate"),
        ("[[rule]]\ndscp = 3", 1, "rule #1 needs name"),
        (RULE + "dscps = 3", 4, "rule #1.dscps is not known; is 'dscp' meant? known in [rule #1]"),
        (RULE + "\n" + RULE, 6, 'rule #2.name is "x", as of another rule above'),
        (RULE + "program = 'bin/x'", 4, "the absolute path of a program, or its bare name"),
        (RULE + "program = '/usr//bin/x'", 4, "the absolute path of a program"),
        (RULE + "program = '/usr/bin/'", 4, "the absolute path of a program"),
        (RULE + "program = ''", 4, "the absolute path of a program"),
        (RULE + "user = 'a b'", 4, "the name or number of a user"),
        (RULE + "user = 1000", 4, "rule #1.user is 1000 and has to be the name or number of a"),
        (RULE + "unit = 'sshd'", 4, 'is "sshd" and has to be the name of a systemd unit with its'),
        (RULE + "cgroup = 'user.slice'", 4, "a cgroup as /proc/PID/cgroup has it"),
        (RULE + "protocol = 'sctp'", 4, 'is "sctp" and has to be "tcp" or "udp"'),
        (RULE + "remote = '10.0.0.0/33'", 4, "has to be a network"),
        (RULE + "local = '10.1.0.0/8'", 4, '"10.0.0.0/8" is the network, "10.1.0.0" the address'),
        (RULE + "local = '10.0.0.1'\nremote = '::1'", 5, "has addresses of two families"),
        (RULE + "remote = '::ffff:10.0.0.1'", 4, "whose packets are IPv4"),
        (RULE + "remote_ports = 0", 4, "a whole number from 1 to 65535 or a range, as"),
        (RULE + "remote_ports = '5'", 4, 'is "5" and has to be a whole number from 1 to 65535 or'),
        (RULE + "local_ports = '9-5'", 4, "a range within 1 to 65535, the lower port first"),
        (RULE + "local_ports = '1:99999'", 4, "a range within 1 to 65535"),
        (RULE + "remote_ports = [1, 2]", 4, "is a list and has to be"),
        (RULE + "traffic_type = 'video'", 4, 'has to be "audio_video" or'),
        (RULE + "rate_kbps = 0", 4, "a whole number from 1 to"),
        ("[[rule]]\nname = 'x'\ndscp = 64", 3, "rule #1.dscp is 64 and has to be a whole number"),
        ("[[rule]]\nname = ''\ndscp = 6", 2, "a name of its own, of at most 64 characters"),
        ('[[rule]]\nname = "a\\nb"\ndscp = 6', 2, "a name of its own"),
        ("[experiments]\nallowed = ['x']", 2, "has to be a network"),
    ],
)
def test_a_mistake_has_a_line_and_a_reason(text: str, line: int, words: str) -> None:
    ((found, reason),) = mistakes(text.replace("{name}", "x").replace("{dscp}", "1"))
    assert found == line
    assert words in reason
    assert reason.isprintable()


def test_rules_stand_in_policy_files_only(etc: Path) -> None:
    (etc / "qwaved.toml").write_text("\n" + RULE.format(name="x", dscp=1))
    with pytest.raises(ConfigError, match="line 2: rule has no place here; rules belong in a file"):
        load()


# -- rules ------------------------------------------------------------------------------


def test_what_a_rule_can_say(etc: Path) -> None:
    text = """
[[rule]]
name = "all of it"
program = "/usr/bin/iperf3"
user = "ann"
unit = "iperf.service"
cgroup = "/system.slice"
protocol = "udp"
local = "192.0.2.1"
remote = "198.51.100.0/24"
local_ports = 5000
remote_ports = "5004:5010"
dscp = 46
traffic_type = "voice"
rate_kbps = 2000
[[rule]]
name = "six"
remote = "2001:db8::/32"
remote_ports = "1-65535"
traffic_type = "background"
"""
    put(etc, a=text)
    path = etc / "policy.d" / "a.toml"
    first, second = load().policy.rules
    assert first == Rule(
        "all of it",
        Conditions(
            program="/usr/bin/iperf3",
            user="ann",
            unit="iperf.service",
            cgroup="/system.slice",
            protocol=Transport.UDP,
            local=ip_network("192.0.2.1"),
            remote=ip_network("198.51.100.0/24"),
            local_ports=Ports(5000, 5000),
            remote_ports=Ports(5004, 5010),
        ),
        Grant(46, TrafficType.VOICE, 2_000_000),
        f"{path}:2",
    )
    assert second.grant == Grant(None, TrafficType.BACKGROUND, None)
    assert row_of(second) == {
        "remote": "2001:db8::/32",
        "remote_ports": "1-65535",
        "traffic_type": "background",
    }


# -- anything at all --------------------------------------------------------------------

GOOD = """
access.operators_group = "netdev"
[marks]
profile = "rfc8325"
voice = { dscp = 46, pcp = 6 }
control = "none"
[limits]
flows = 100
[experiments]
allowed = ["10.0.0.0/8", "fd00::/8"]
[rates]
default_minimum_kbps = 64
[[rule]]
name = "calls"
program = "/usr/bin/baresip"
user = "ann"
unit = "a.service"
cgroup = "/user.slice"
protocol = "udp"
local = "192.0.2.1"
remote = "198.51.100.0/24"
local_ports = 5000
remote_ports = "5004-5010"
dscp = 46
traffic_type = "voice"
rate_kbps = 200
[[rule]]
name = "rest"
traffic_type = "background"
"""
LINES = GOOD.splitlines(keepends=True)
# Tables, each with what belongs in it.
BLOCKS = re.split(r"^(?=\[)", GOOD, flags=re.MULTILINE)[1:]
PIECES = [
    *LINES,
    *"[]{}=,.\"'#\\ \n\0é",
    *("[[rule]]\n", "[rule]\n", "[[rule.x]]\n", "rule = []\n", '"""', "'''", "\r\n", "\\u12"),
    *("-1", "1e999", "nan", "07:32:00", "true", "9" * 30, "'::ffff:1.2.3.4'", "'5-4'", "{a = 1}"),
]


def mutated(chance: random.Random) -> bytes:
    """A good file, or pieces of one, with some of it changed."""
    if chance.random() < 0.3:
        text = "".join(chance.choices(PIECES, k=chance.randrange(14)))
    else:
        text = "".join(chance.sample(BLOCKS, k=chance.randrange(1, len(BLOCKS) + 1)))
        if chance.random() < 0.5:
            text = re.sub(r"\d+", lambda _: str(chance.randrange(-9, 99)), text, count=3)
    raw = bytearray(text.encode())
    for _ in range(chance.choice((0, 0, 1, 2, 3))):
        at = chance.randrange(len(raw) + 1)
        raw[at : at + chance.randrange(3)] = chance.choice(PIECES).encode()
    if raw and chance.random() < 0.1:
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


def test_nothing_but_a_refusal_with_file_and_line_comes_of_any_file(etc: Path) -> None:
    chance = random.Random(7)
    file, refused, ruled = etc / "policy.d" / "a.toml", 0, 0
    for _ in range(10_000):
        raw = mutated(chance)
        file.write_bytes(raw)
        try:
            found = load()
        except ConfigError as error:
            refused += 1
            count = raw.count(b"\n") + 1
            for each in error.mistakes:
                assert each.path == file, raw
                assert each.line is not None, raw
                assert 1 <= each.line <= count, raw
                assert each.reason.isprintable(), raw
            for line in str(error).splitlines():
                assert re.match(rf"{re.escape(str(file))}, line \d+: .", line), raw
        else:
            ruled += bool(found.policy.rules)
            places = [str(one) for one in found.origins.values()]
            places += [each.origin for each in found.policy.rules]
            assert all(re.fullmatch(rf"{re.escape(str(file))}:\d+", one) for one in places), raw
    # All three are tried.
    assert 500 < refused < 9_500
    assert ruled > 200


def test_the_packaged_example_changes_nothing_and_is_good(etc: Path) -> None:
    text = (resources.files("openqwave.service") / "packaging/policy.d/50-example.toml").read_text()
    put(etc, a=text)
    assert load() == Config()
    put(etc, a=re.sub("^#(?! )", "", text, flags=re.MULTILINE))
    found = load()
    assert found.profile == "rfc8325"
    assert [each.name for each in found.policy.rules] == ["calls", "backups"]
