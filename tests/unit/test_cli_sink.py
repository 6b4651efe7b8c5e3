"""`qwave sink` without a network: what it tells, as lines and as JSON, and how it ends."""

from __future__ import annotations

import json
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Self, TypeAlias

import pytest

from openqwave.cli.sink import command
from openqwave.cli.sink.command import Options, networks_of, run_sink
from openqwave.cli.sink.reporting import (
    Listening,
    fields_of,
    final_fields,
    final_lines,
    sentence_of,
)
from openqwave.drivers.ports import PortTaken
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import GeneralFailure, QosError, TimedOut
from openqwave.probing.session import Event
from openqwave.probing.sink import Sink
from openqwave.probing.sink_limits import SinkLimits
from openqwave.probing.sink_reports import (
    Experiment,
    RefusalsSeen,
    Refused,
    RouteCheckSummarised,
    SessionClosed,
    SessionOpened,
    SinkCounts,
    TrainTimed,
)
from openqwave.wire.qlpb import Observation
from tests.unit.commands import qwave

PEER = Endpoint(bytes([192, 0, 2, 1]), 49_200)
NOTHING: dict[Refused, int] = dict.fromkeys(Refused, 0)

TOLD: list[tuple[Event | Listening, str, dict[str, Any]]] = [
    (
        Listening((4, 6), None, ()),
        "listening on port 2177, TCP and UDP, IPv4 and IPv6; for hosts on this host's links",
        {
            "event": "listening",
            "port": 2177,
            "ip_versions": [4, 6],
            "address": None,
            "allowed": [],
        },
    ),
    (
        Listening((4,), "192.0.2.7", ("10.0.0.0/8", "fd00::/8")),
        "listening on port 2177, TCP and UDP, 192.0.2.7; for hosts on this host's links, "
        "10.0.0.0/8, fd00::/8",
        {
            "event": "listening",
            "port": 2177,
            "ip_versions": [4],
            "address": "192.0.2.7",
            "allowed": ["10.0.0.0/8", "fd00::/8"],
        },
    ),
    (
        SessionOpened(3, PEER, Experiment.PACKET_PAIR),
        "192.0.2.1:49200 packet pair: opened",
        {
            "event": "session opened",
            "connection": 3,
            "peer": "192.0.2.1:49200",
            "experiment": "packet_pair",
        },
    ),
    (
        SessionClosed(3, PEER, Experiment.ROUTE_CHECK, None, 5, 0),
        "192.0.2.1:49200 route check: closed after 5 results",
        {
            "event": "session closed",
            "connection": 3,
            "peer": "192.0.2.1:49200",
            "experiment": "route_check",
            "reason": None,
            "results": 5,
            "discarded_bytes": 0,
        },
    ),
    (
        SessionClosed(3, PEER, Experiment.DISCARD, Refused.IDLE, 0, 12_345),
        "192.0.2.1:49200 discard: closed after 12,345 bytes thrown away: "
        "the session was silent for too long",
        {
            "event": "session closed",
            "connection": 3,
            "peer": "192.0.2.1:49200",
            "experiment": "discard",
            "reason": "idle",
            "results": 0,
            "discarded_bytes": 12_345,
        },
    ),
    (
        TrainTimed(3, PEER, 17, 16, 1468, 1_234_500),
        "192.0.2.1:49200 train: 16 packets of 1468 bytes in 1.234 ms",
        {
            "event": "train",
            "connection": 3,
            "peer": "192.0.2.1:49200",
            "sequence": 17,
            "packets": 16,
            "payload_bytes": 1468,
            "spread_ns": 1_234_500,
        },
    ),
    (
        RouteCheckSummarised(3, PEER, Observation.INVERSION),
        "192.0.2.1:49200 route check: priority overtook",
        {
            "event": "route check",
            "connection": 3,
            "peer": "192.0.2.1:49200",
            "observation": "inversion",
        },
    ),
    (
        RefusalsSeen(Refused.MALFORMED_DATAGRAM, PEER, 1200, "shorter than its header"),
        "192.0.2.1:49200 refused 1,200 times: a datagram is no probe (shorter than its header)",
        {
            "event": "refused",
            "reason": "malformed_datagram",
            "peer": "192.0.2.1:49200",
            "count": 1200,
            "detail": "shorter than its header",
        },
    ),
    (
        RefusalsSeen(Refused.NO_SESSION, PEER, 1),
        "192.0.2.1:49200 refused: a probe belongs to no connection",
        {
            "event": "refused",
            "reason": "no_session",
            "peer": "192.0.2.1:49200",
            "count": 1,
            "detail": "",
        },
    ),
]


@pytest.mark.parametrize(("event", "sentence", "fields"), TOLD)
def test_events_are_told(event: Event, sentence: str, fields: dict[str, Any]) -> None:
    assert sentence_of(event) == sentence
    assert fields_of(event) == fields
    assert json.loads(json.dumps(fields)) == fields


def test_what_nobody_asked_for_is_not_told() -> None:
    assert sentence_of(Event()) is None
    assert fields_of(Event()) is None


@pytest.mark.parametrize("observation", list(Observation))
def test_every_observation_has_words(observation: Observation) -> None:
    assert sentence_of(RouteCheckSummarised(1, PEER, observation))


COUNTS = SinkCounts(
    connections=3,
    open_sessions=1,
    datagrams=12_345,
    trains=42,
    groups=5,
    gaps=1_234,
    discarded_bytes=0,
    lost_events=0,
    refused=NOTHING | {Refused.REFLECTION: 5, Refused.MALFORMED_DATAGRAM: 12_000},
)


def test_the_end_counts() -> None:
    assert final_lines(COUNTS) == [
        "done: 3 connections, 42 trains timed, 5 groups of route checks, "
        "1,234 small probes answered, 0 bytes thrown away",
        "refused: 12,005",
        "     12,000  a datagram is no probe",
        "          5  a probe from another port than 2177, which could be forged to hit a third "
        "party",
    ]
    fields = final_fields(COUNTS)
    assert fields["refused"] == {reason.name.lower(): 0 for reason in Refused} | {
        "reflection": 5,
        "malformed_datagram": 12_000,
    }
    told = {key: value for key, value in fields.items() if key not in ("event", "refused")}
    assert told == {
        "connections": 3,
        "datagrams": 12_345,
        "trains": 42,
        "route_check_groups": 5,
        "small_probes": 1_234,
        "discarded_bytes": 0,
        "lost_events": 0,
    }


def test_nothing_refused_is_said_and_lost_events_are() -> None:
    quiet = SinkCounts(**{**as_arguments(COUNTS), "refused": NOTHING, "lost_events": 7})
    assert final_lines(quiet)[1:] == [
        "refused: nothing",
        "not told, because they came too fast: 7 events",
    ]


def as_arguments(counts: SinkCounts) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in SinkCounts.__slots__}


# ---- a scripted driver


Step: TypeAlias = Event | QosError | Callable[[], object]


class Script:
    """Stands in for the driver; what it is asked for, it notes."""

    versions = (4, 6)

    def __init__(self, steps: Sequence[Step], refusal: QosError | None) -> None:
        self.steps = deque(steps)
        self.refusal = refusal
        self.arguments: tuple[Any, ...] = ()
        self.sink: Sink | None = None
        self.is_open = False
        self.is_cancelled = False

    def __call__(self, *arguments: object) -> Self:
        self.arguments = arguments
        return self

    def __enter__(self) -> Self:
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def serve(self, sink: Sink) -> Self:
        self.sink = sink
        if self.refusal is not None:
            raise self.refusal
        return self

    def cancel(self) -> None:
        self.is_cancelled = True

    def next_event(self, timeout_s: float | None) -> Event | None:
        assert timeout_s is not None, "nothing may be waited for without an end"
        if not self.steps:
            if self.is_cancelled:
                return None
            raise TimedOut
        step = self.steps.popleft()
        if isinstance(step, QosError):
            raise step
        if isinstance(step, Event):
            return step
        step()
        raise TimedOut


Output = pytest.CaptureFixture[str]
Scripted = Callable[..., Script]

OPENED = SessionOpened(1, PEER, Experiment.PACKET_PAIR)
CLOSED = SessionClosed(1, PEER, Experiment.PACKET_PAIR, None, 1, 0)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    def make(*steps: Step, refusal: QosError | None = None) -> Script:
        script = Script(steps, refusal)
        monkeypatch.setattr(command, "ExperimentHost", script)
        return script

    return make


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(
    number: signal.Signals, scripted: Scripted, capsys: Output
) -> None:
    # What happened before the end is told after the signal.
    script = scripted(OPENED, lambda: signal.raise_signal(number), CLOSED)
    assert run_sink(Options(as_json=True)) == 0
    told = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert [each["event"] for each in told] == [
        "listening",
        "session opened",
        "session closed",
        "final",
    ]
    assert all(each["time_ns"] > 1_600_000_000 * 10**9 for each in told)
    assert script.is_cancelled
    assert not script.is_open


def test_it_ends_by_itself(scripted: Scripted, capsys: Output) -> None:
    scripted(OPENED)
    assert run_sink(Options(seconds=0.3)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [each[9:] for each in lines[:2]] == [
        "listening on port 2177, TCP and UDP, IPv4 and IPv6; for hosts on this host's links",
        "192.0.2.1:49200 packet pair: opened",
    ]
    assert lines[2].startswith("done: 0 connections, ")
    assert lines[3:] == ["refused: nothing"]


def test_what_cannot_start_is_status_2(scripted: Scripted, capsys: Output) -> None:
    scripted(refusal=PortTaken("TCP port 2177 is held by qwave (process 7); end that one"))
    assert run_sink(Options()) == 2
    output = capsys.readouterr()
    assert output.out == "", "it never listened"
    assert output.err == (
        "The sink cannot run: TCP port 2177 is held by qwave (process 7); end that one\n"
    )


def test_what_breaks_is_status_2(scripted: Scripted, capsys: Output) -> None:
    scripted(OPENED, GeneralFailure("the experiment broke"))
    assert run_sink(Options()) == 2
    assert capsys.readouterr().err == "The sink cannot run: the experiment broke\n"


def test_options_reach_the_sink(scripted: Scripted) -> None:
    limits = SinkLimits(sessions=7)
    script = scripted()
    assert run_sink(Options(("10.0.0.0/8", "any"), limits, seconds=0.1)) == 0
    assert script.arguments[0] == ["10.0.0.0/8", "0.0.0.0/0", "::/0"]
    assert script.sink is not None
    assert script.sink._limits is limits  # noqa: SLF001 - what was asked for


def test_any_is_everywhere() -> None:
    assert networks_of(()) == []
    assert networks_of(("any", "fd00::/8")) == ["0.0.0.0/0", "::/0", "fd00::/8"]


# ---- the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--allow", "nonsense"], "'nonsense' does not appear to be an IPv4 or IPv6 network"),
        (["--allow", "10.0.0.0/33"], "10.0.0.0/33"),
        (["--address", "nowhere"], "'nowhere' does not appear to be"),
        (["--limit-sessions", "0"], "--limit-sessions"),
        (["--limit-rate", "-1"], "--limit-rate"),
        (["--for", "nan"], "--for"),
        (["extra"], "extra"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], words: str) -> None:
    done = qwave("sink", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_help_shows_the_limits() -> None:
    done = qwave("sink", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.replace("│", " ").split())
    limits = asdict(SinkLimits())
    for name in ("sessions", "sessions_per_peer", "datagrams_per_s", "peer_datagrams_per_s"):
        assert f"[default: {limits[name]}]" in text
    assert '"any" serves whoever can send packets here' in text
    assert max(map(len, done.stdout.splitlines())) <= 80
