"""The configuration: what it means, and each mistake with its file, line and reason."""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from openqwave.admission.policy import Experiments, Limits, Marks, Policy
from openqwave.admission.profiles import PROFILES
from openqwave.enforcement.wishes import Wishes
from openqwave.model.flow import TrafficType
from openqwave.probing.sink_limits import SinkLimits
from openqwave.service import config, settings
from openqwave.service.config import MAX_FILE_BYTES, Config, ConfigError, load, parse
from openqwave.service.limits import ServerLimits
from openqwave.service.metrics.places import Place as Spot
from openqwave.service.metrics.places import Wanted
from openqwave.service.toml_lines import DEEPEST, Place, line_of, line_of_depth, places_of

FILE = Path("/etc/qwave/qwaved.toml")
EXAMPLE = (resources.files("openqwave.service") / "packaging/qwaved.toml").read_text()


def read(text: str) -> Config:
    return parse(text.encode(), FILE)


def mistakes(text: str | bytes) -> list[tuple[int | None, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text.encode() if isinstance(text, str) else text, FILE)
    assert caught.value.path == FILE
    assert (caught.value.line, caught.value.reason) == (
        caught.value.mistakes[0].line,
        caught.value.mistakes[0].reason,
    )
    return [(each.line, each.reason) for each in caught.value.mistakes]


# -- what it means ----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# nothing\n", "[marks]\n[limits]\n[sink]\n"])
def test_what_is_not_said_is_as_without_a_file(text: str) -> None:
    assert replace(read(text), path=None) == Config()


def test_the_defaults_are_those_of_what_they_configure() -> None:
    assert Config().policy == Policy()
    assert Config().server_limits == ServerLimits()
    assert Config().sink == SinkLimits()
    assert Config().enforcement == Wishes()
    assert Config().metrics is None
    assert Config().path is None


def test_everything_can_be_said() -> None:
    found = read(
        """
        service = { socket = "/run/q.sock", state_directory = "/srv/q", log_level = "debug" }
        access.operators_group = "wheel"
        access.priority_needs_contract = true
        rates.default_minimum_kbps = 100

        [marks]
        voice = { dscp = 46, pcp = 6 }
        control = "none"
        audio_video.dscp = 34
        best_effort = { dscp = 1 }

        [limits]
        handles = 1
        flows = 2
        destinations = 8
        destinations_per_flow = 3
        tracked_hosts = 4
        pending_operations = 5
        connections = 6
        connections_per_user = 7
        flows_per_user = 9
        destinations_per_user = 10
        contracts_per_user_kbps = 20_000
        contracts_per_host_kbps = 30_000
        contracts_per_host_percent = 62.5
        contracts_per_interface_percent = 80

        [experiments]
        share_percent = 0.5
        most_kbps = 250
        burst_kb = 50
        allowed = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]
        forbidden = ["0.0.0.0/0"]
        estimate_age_s = 10
        answer_s = 0.5
        warm_s = 0

        [enforcement]
        backend = "nftables"
        most_flows = 100
        queues = "install"
        interfaces = ["eth0", "wlan0.7"]

        [sink]
        sessions = 11
        sessions_per_peer = 12
        datagrams_per_s = 13
        peer_datagrams_per_s = 14

        [metrics]
        listen = "[::]:9177"
        beyond_this_host = true
        paths = 0
        """
    )
    assert found == Config(
        policy=Policy(
            marks={
                **Policy().marks,
                TrafficType.VOICE: Marks(46, 6),
                TrafficType.CONTROL: None,
                # The priority of the type, which was not named.
                TrafficType.AUDIO_VIDEO: Marks(34, 5),
                TrafficType.BEST_EFFORT: Marks(1, 0),
            },
            default_minimum_bps=100_000,
            operators_group="wheel",
            priority_needs_contract=True,
            limits=Limits(
                handles=1,
                flows=2,
                destinations_per_flow=3,
                tracked_hosts=4,
                pending_operations=5,
                destinations=8,
                flows_per_user=9,
                destinations_per_user=10,
                contracts_per_user_bps=20_000_000,
                contracts_per_host_bps=30_000_000,
                contracts_per_host_ppm=625_000,
                contracts_per_interface_ppm=800_000,
            ),
            experiments=Experiments(
                share_ppm=5_000,
                most_bps=250_000,
                burst_bytes=50_000,
                allowed=("10.0.0.0/8", "2001:db8::/32", "192.0.2.1"),
                forbidden=("0.0.0.0/0",),
                estimate_age_ns=10 * 10**9,
                answer_ns=5 * 10**8,
                warm_ns=0,
            ),
        ),
        server_limits=ServerLimits(6, 7),
        enforcement=Wishes(
            "nftables", 100, may_install_queues=True, interfaces=("eth0", "wlan0.7")
        ),
        sink=replace(
            SinkLimits(),
            sessions=11,
            sessions_per_peer=12,
            datagrams_per_s=13,
            peer_datagrams_per_s=14,
        ),
        metrics=Wanted(Spot(address="::", port=9177), paths=0),
        socket="/run/q.sock",
        state_directory="/srv/q",
        log_level=logging.DEBUG,
        path=FILE,
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_marks_come_from_a_profile(profile: str) -> None:
    assert read(f"[marks]\nprofile = '{profile}'").policy.marks == PROFILES[profile]


def test_what_is_said_of_a_type_comes_before_the_profile() -> None:
    found = read("marks = { profile = 'rfc8325', voice.dscp = 44, control = 'none' }").policy.marks
    assert found == {
        **PROFILES["rfc8325"],
        # With the priority that voice has in the profile.
        TrafficType.VOICE: Marks(44, 6),
        TrafficType.CONTROL: None,
    }


def test_contracts_are_limited_only_where_a_file_says_so() -> None:
    none = "\n".join(
        f"{key} = 'none'"
        for key in settings.ClientLimits.__struct_fields__
        if key.startswith("contracts_")
    )
    assert none.count("none") == 4
    assert read(f"[limits]\n{none}").policy.limits == Limits()


def test_a_sink_can_be_switched_off() -> None:
    assert read("[sink]\nenabled = false").sink is None
    assert read("[sink]\nenabled = true\nsessions = 3").sink == SinkLimits(sessions=3)


def test_nothing_can_be_changed_afterwards() -> None:
    found = read("")
    with pytest.raises(AttributeError):
        found.socket = "/elsewhere"  # type: ignore[misc]  # what is tried
    with pytest.raises(TypeError):
        found.policy.marks[TrafficType.VOICE] = None  # type: ignore[index]  # likewise


def test_the_example_changes_nothing_and_tells_the_defaults() -> None:
    assert replace(read(EXAMPLE), path=None) == Config()
    uncommented = re.sub("^#(?! )", "", EXAMPLE, flags=re.MULTILINE)
    assert replace(read(uncommented), path=None) == Config()
    # And it has everything that can be said.
    told = tomllib.loads(uncommented)
    everything = {
        field.name: set(field.type.__struct_fields__)
        for field in msgspec.structs.fields(settings.Settings)
    }
    assert {name: set(keys) for name, keys in told.items()} == everything


def test_the_pages_example_is_good() -> None:
    page = (Path(__file__).parents[2] / "docs/service.md").read_text()
    block, *_ = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    found = read(block)
    assert found.policy.marks[TrafficType.VOICE] == Marks(46, 6)
    assert found.sink is None


# -- mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[service]\nsocket = 3", 2, "service.socket is 3 and has to be an absolute path"),
        ("[service]\nsocket = 'x.sock'", 2, 'is "x.sock" and has to be an absolute path'),
        ("[service]\nsocket = '/run/'", 2, "to a file"),
        (f"[service]\nsocket = '/{'x' * 107}'", 2, "at most 107 bytes"),
        (f"[service]\nsocket = '/{'ü' * 60}'", 2, "has more than 107 bytes"),
        ('[service]\nsocket = "/a\\u0000b"', 2, r'"/a\x00b" and has to be an absolute path'),
        ("[service]\nstate_directory = 'var'", 2, "has to be an absolute path"),
        ("[service]\nlog_level = 'loud'", 2, 'has to be "debug" or "error" or "info" or "warn'),
        ("[access]\noperators_group = ''", 2, "the name of a group"),
        ("[access]\noperators_group = 'a b'", 2, "the name of a group"),
        ("[access]\npriority_needs_contract = 1", 2, "is 1 and has to be true or false"),
        ("[marks]\nvoice = {dscp = 64}", 2, "marks.voice.dscp is 64 and has to be a whole number "),
        ("[marks]\nvoice = {dscp = -1}", 2, "from 0 to 63"),
        ("[marks]\nvoice = {dscp = 46.0}", 2, "is 46.0 and has to be a whole number"),
        ("[marks]\nvoice = {dscp = true}", 2, "is true and has to be a whole number"),
        ("[marks]\nvoice = {dscp = '46'}", 2, 'is "46" and has to be a whole number'),
        ("[marks]\nvoice = {dscp = 1979-05-27}", 2, "is 1979-05-27 and has to be a whole number"),
        ("[marks.voice]\ndscp = 1\npcp = 8", 3, "marks.voice.pcp is 8 and has to be a whole"),
        ("[marks]\n\n[marks.voice]\npcp = 1", 3, "marks.voice needs dscp"),
        ("[marks]\nvoice = 'some'", 2, 'is "some" and has to be "none" or a table'),
        ("[marks]\nvoice = []", 2, 'is a list and has to be "none" or a table'),
        ("[marks]\nvideo = 'none'", 2, "marks.video is not known; is 'audio_video' meant? known"),
        ("[marks]\nxyz = 'none'", 2, "marks.xyz is not known; known in [marks]: profile, best_eff"),
        ("[marks]\nprofile = 'rfc'", 2, 'is "rfc" and has to be "none" or "qwave" or "rfc4594"'),
        ("[limits]\nflows = 0", 2, "limits.flows is 0 and has to be a whole number from 1 to"),
        ("[limits]\nflows = 9223372036854775807", 2, "from 1 to 1048576"),
        (f"[limits]\nflows = {'9' * 300}", 2, "is a number of many digits and has to be"),
        ("[limits]\nflow = 1", 2, "limits.flow is not known; is 'flows' meant?"),
        ("[limits]\nflows_per_user = 'none'", 2, 'is "none" and has to be a whole number from 1'),
        (
            "[limits]\n\ncontracts_per_user_kbps = 0",
            3,
            'is 0 and has to be a whole number from 1 to 100000000 or "none"',
        ),
        ("[limits]\ncontracts_per_host_kbps = 'all'", 2, 'is "all" and has to be a whole number '),
        (
            "[limits]\ncontracts_per_host_percent = 101",
            2,
            'is 101 and has to be a number from 0.1 to 100 or "none"',
        ),
        ("[limits]\ncontracts_per_interface_percent = 0", 2, "is 0 and has to be"),
        ("[limits]\ncontracts_per_interface_percent = nan", 2, "is nan and has to be"),
        ("[experiments]\nshare_percent = 101", 2, "has to be a number from 0.0001 to 100"),
        ("[experiments]\nshare_percent = 0", 2, "has to be a number from 0.0001 to 100"),
        ("[experiments]\nshare_percent = nan", 2, "is nan and has to be a number"),
        ("[experiments]\nwarm_s = inf", 2, "is inf and has to be a number from 0 to 86400"),
        ("[experiments]\nallowed = '10.0.0.0/8'", 2, "has to be a list, each of which is a netw"),
        ("[experiments]\nallowed = [\n'10.0.0.0/8',\n3]", 4, "experiments.allowed #2 is 3 and has"),
        (
            "[experiments]\nforbidden = [\n\n'10.0.0.0/33']",
            4,
            '#1 is "10.0.0.0/33" and has to be a',
        ),
        (
            "[experiments]\nallowed = [ # one\n '10.1.2.3/8', ]",
            3,
            'an address within a network; "10.0.0.0/8" is the network, "10.1.2.3" the address',
        ),
        ("[rates]\ndefault_minimum_kbps = 0", 2, "rates.default_minimum_kbps is 0"),
        (
            "[enforcement]\nbackend = 'ebpf'",
            2,
            'has to be "auto" or "bpf" or "nftables" or "socket',
        ),
        ("[enforcement]\nmost_flows = 0", 2, "enforcement.most_flows is 0 and has to be a whole"),
        ("[metrics]\nlisten = 9177", 2, "metrics.listen is 9177 and has to be an address"),
        ("[metrics]\nlisten = '9177'", 2, 'is "9177" and has to be an address with a port, as "'),
        ("[metrics]\nlisten = '::1:9177'", 2, 'has to be an address with a port, as "127.0.0.1'),
        ("[metrics]\nlisten = 'localhost:9177'", 2, "has to be an address with a port"),
        ("[metrics]\nlisten = '127.0.0.1:65536'", 2, "has to be an address with a port"),
        ("[metrics]\nlisten = '127.0.0.1:0'", 2, "has to be an address with a port"),
        ("[metrics]\nlisten = ''", 2, "has to be an address with a port"),
        (f"[metrics]\nlisten = '/{'ü' * 60}'", 2, "has to be an absolute path of at most 107 byt"),
        ("[metrics]\nlisten = '0.0.0.0:9177'", 2, "where other hosts may ask; nobody is asked"),
        ("[metrics]\npaths = 1001", 2, "metrics.paths is 1001 and has to be a whole number from"),
        ("[enforcement]\nqueues = true", 2, 'is true and has to be "install" or "keep"'),
        ("[enforcement]\ninterfaces = 'eth0'", 2, "a list, each of which is the name of an int"),
        ("[enforcement]\ninterfaces = ['eth0', 'a/b']", 2, 'interfaces #2 is "a/b" and has to be'),
        ("[sink]\nenabled = 1", 2, "sink.enabled is 1 and has to be true or false"),
        ("\n[sinks]\nenabled = true", 2, "sinks is not known; is 'sink' meant? known at the top: "),
        ("marks = 3", 1, "marks is 3 and has to be a table"),
        ("[[marks]]\nvoice = 'none'", 1, "marks is a list and has to be a table"),
        ('"a\\nb" = 1', 1, r'"a\nb" is not known'),
        ("a.b.c.d = 1", 1, "a is not known"),
        ("[service\n", 1, "is no TOML: Expected ']'"),
        ("[a]\n[a]", 2, "is no TOML: Cannot declare ('a',) twice"),
        ("\n\nsocket = '", 3, "is no TOML"),
        ("a = 1\na = 2", 2, "is no TOML: Cannot overwrite a value"),
        ("\nx = " + "[" * 5_000, 2, "has lists in lists beyond measure"),
        ("\n\nx = " + "1" * 5_000, 3, "has a number of too many digits"),
    ],
)
def test_a_mistake_has_a_line_and_a_reason(text: str, line: int, words: str) -> None:
    ((found, reason),) = mistakes(text)
    assert found == line
    assert words in reason
    assert "\n" not in reason
    assert reason.isprintable()


def test_all_mistakes_are_told_from_the_top_down() -> None:
    text = """
[sink]
sessions = 0
[marks]
voice = { dscp = 99, pcp = 99 }
[experiments]
allowed = ["x", "10.0.0.0/8", "y"]
[nonsense]
"""
    assert [line for line, _ in mistakes(text)] == [3, 5, 5, 7, 7, 8]
    with pytest.raises(ConfigError) as caught:
        read(text)
    first, *_, last = str(caught.value).splitlines()
    assert (
        first
        == f"{FILE}, line 3: sink.sessions is 0 and has to be a whole number from 1 to 1048576"
    )
    assert last.startswith(f"{FILE}, line 8: nonsense is not known; known at the top: service, ")


def test_bytes_that_are_no_text() -> None:
    assert mistakes(b"# fine\n# \xff\n") == [(2, "is not UTF-8")]


def test_a_file_that_is_too_large() -> None:
    parse(b"#" * MAX_FILE_BYTES, FILE)
    ((line, reason),) = mistakes(b"#" * (MAX_FILE_BYTES + 1))
    assert line is None
    assert "larger than" in reason


def test_lines_end_as_they_do_elsewhere_too() -> None:
    assert mistakes("[limits]\r\n\r\nflows = 0\r\n")[0][0] == 3


# -- files ------------------------------------------------------------------------------


def test_a_named_file_has_to_be_there(tmp_path: Path) -> None:
    file = tmp_path / "qwaved.toml"
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: cannot be read: No such file or directory"
    assert (caught.value.path, caught.value.line) == (file, None)
    file.write_text("[limits]\nflows = 7\n")
    assert load(file).policy.limits.flows == 7
    assert load(file).path == file


def test_the_default_file_need_not_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "etc" / "qwaved.toml"
    monkeypatch.setattr(config, "DEFAULT_PATH", file)
    assert load() == Config()
    file.parent.mkdir()
    assert load() == Config()
    file.write_text("[limits]\nflows = 7\n")
    assert load().policy.limits.flows == 7
    file.write_text("flows = 7")
    with pytest.raises(ConfigError):
        load()


@pytest.mark.parametrize("name", [".", "x/y", "a\0b", "x" * 300])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    tmp_path.joinpath("x").write_text("")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / name)


def test_a_default_file_that_may_not_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(config, "_read_file", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        load()


# -- anything at all --------------------------------------------------------------------

GOOD = re.sub("^#(?! )", "", EXAMPLE, flags=re.MULTILINE)
LINES = GOOD.splitlines(keepends=True)
# What TOML is made of, and what it is not.
MARKS = [*"[]{}=,.\"'#\\ \n\0é", "[[", "]]", '"""', "'''", "\r\n", "a.b", "\\u12"]
VALUES = ["-1", "1e999", "nan", "07:32:00", "0x1f", "true", "9" * 30, "[1, [2]]", "{a = 1}"]
PIECES = [*LINES, *MARKS, *VALUES]


def mutated(chance: random.Random) -> bytes:
    """The example, or pieces of it, with some of it changed."""
    if chance.random() < 0.5:
        text = "".join(chance.choices(PIECES, k=chance.randrange(12)))
    else:
        start = chance.randrange(len(LINES))
        text = "".join(LINES[start : start + chance.randrange(20)])
    raw = bytearray(text.encode())
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(raw) + 1)
        raw[at : at + chance.randrange(3)] = chance.choice(PIECES).encode()
    if raw and chance.random() < 0.1:
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


def test_nothing_but_a_refusal_comes_of_anything() -> None:
    chance = random.Random(5)
    refused = 0
    for _ in range(10_000):
        raw = mutated(chance)
        found = refusal(raw)
        if found is not None:
            refused += 1
            count = raw.count(b"\n") + 1
            assert all(1 <= (each.line or 0) <= count for each in found.mistakes), raw
            assert all(each.reason.isprintable() for each in found.mistakes), raw
    # Both are tried.
    assert 500 < refused < 9_500


def refusal(raw: bytes) -> ConfigError | None:
    try:
        parse(raw, FILE)
    except ConfigError as error:
        return error
    return None


# -- lines ------------------------------------------------------------------------------


def test_where_things_are() -> None:
    text = '''# comment with [brackets] and = signs
top = 1
a.b."c.d" = [ # 1, 2
  "x # y", """
two ] lines
""",
  { p = 1, q = [
     \'\'\'']\'\'\', 1979-05-27 07:32:00 ] },
]

[ t . u ]   # table
v = "\\" ["
[[list]]
n = 1
  [list.sub]
  k = 1
[[list]]
n = 2
[list.sub]
k = 2
[late.inner]
[late]
'''
    found = places_of(text)
    wanted: dict[Place, int] = {
        ("top",): 2,
        ("a", "b"): 3,
        ("a", "b", "c.d"): 3,
        ("a", "b", "c.d", 0): 4,
        ("a", "b", "c.d", 1): 4,
        ("a", "b", "c.d", 2, "p"): 7,
        ("a", "b", "c.d", 2, "q", 0): 8,
        ("a", "b", "c.d", 2, "q", 1): 8,
        ("t", "u"): 11,
        ("t", "u", "v"): 12,
        ("list", 0): 13,
        ("list", 0, "n"): 14,
        ("list", 0, "sub", "k"): 16,
        ("list", 1): 17,
        ("list", 1, "n"): 18,
        ("list", 1, "sub"): 19,
        ("list", 1, "sub", "k"): 20,
        ("late", "inner"): 21,
        # Named by the table in it, and then itself.
        ("late",): 22,
    }
    assert {place: found.get(place) for place in wanted} == wanted
    assert line_of(found, ("list", 1, "sub", "missing", 3)) == 19
    assert line_of(found, ("missing",)) is None
    assert line_of_depth(text, 3) == 7
    assert line_of_depth(text, 9) is None


def places_in(value: object, place: Place = ()) -> list[Place]:
    """All places of a value."""
    found: list[Place] = [place] if place else []
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    for part, inner in parts:
        found += places_in(inner, (*place, part))
    return found


KEYS = st.one_of(st.sampled_from(["a", "b", "1", "-", "_"]), st.text(max_size=3))
SPACE = st.sampled_from(["", " ", "\t"])
BREAK = st.sampled_from(["", "\n", " # ]\n", "\r\n  "])


@st.composite
def quoted(draw: st.DrawFn) -> str:
    content = draw(st.text(st.sampled_from("ab#[]{}=,.\"'\\\n "), max_size=6))
    if draw(st.booleans()) and "'" not in content:
        return f"'''{content}'''" if "\n" in content else f"'{content}'"
    escaped = content.replace("\\", "\\\\").replace('"', '\\"')
    if draw(st.booleans()):
        return f'"""{escaped}"""'
    return '"' + escaped.replace("\n", "\\n") + '"'


@st.composite
def keys(draw: st.DrawFn) -> str:
    key = draw(KEYS)
    if re.fullmatch("[A-Za-z0-9_-]+", key) and draw(st.booleans()):
        return key
    return '"' + "".join(f"\\U{ord(char):08X}" for char in key) + '"'


def values() -> st.SearchStrategy[str]:
    plain = st.sampled_from(
        ["1", "-1.5e3", "true", "1979-05-27 07:32:00Z", "inf", "0x_f"[:2] + "f"]
    )
    return st.recursive(
        st.one_of(plain, quoted()), lambda inner: st.one_of(arrays(inner), tables(inner))
    )


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    text = "["
    elements = draw(st.lists(inner, max_size=3))
    for index, element in enumerate(elements):
        text += draw(BREAK) + element + draw(BREAK)
        if index < len(elements) - 1 or draw(st.booleans()):
            text += ","
    return text + draw(BREAK) + "]"


@st.composite
def tables(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(keys(), SPACE, inner), max_size=3))
    return "{" + ",".join(f"{space}{key}{space}={space}{one}" for key, space, one in pairs) + " }"


@st.composite
def documents(draw: st.DrawFn) -> str:
    text = ""
    for _ in range(draw(st.integers(0, 5))):
        match draw(st.integers(0, 4)):
            case 0:
                text += f"[{draw(keys())}]\n"
            case 1:
                text += f"[[{draw(keys())}.{draw(keys())}]] # [x]\n"
            case 2:
                text += f"{draw(keys())}.{draw(keys())} = {draw(values())}\r\n"
            case _:
                text += f"{draw(keys())}{draw(SPACE)}={draw(values())}\n"
        text += draw(st.sampled_from(["", "\n", "# a = [\n"]))
    return text


# A processor that is busy is no mistake.
@trying(deadline=None)
@given(documents())
def test_every_place_has_a_line_in_which_it_is(text: str) -> None:
    try:
        read_text = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = places_of(text)
    told = {place for place in places_in(read_text) if len(place) <= DEEPEST}
    assert told == set(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
    # Values of one array, and of one table in a line, stand where they are read.
    for place, line in lines.items():
        if isinstance(place[-1], int) and place[-1] > 0:
            assert lines[*place[:-1], place[-1] - 1] <= line
