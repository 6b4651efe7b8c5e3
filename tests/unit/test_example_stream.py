"""What `examples/adaptive_stream.py` decides, on a flow that does as the test says."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import pytest

import openqwave as qw
from examples.adaptive_stream import Sender, Teller, main

CONTENT_BPS, WANTED_BPS = 8_000_000, 8_160_000
MARKS = qw.PacketPriority(40, 0, 0, 0)


class ScriptedFlow:
    """A flow whose path, kernel and neighbours are what a test makes of them.

    Attributes:
        free_bps: What the path has; None while it is not known.
        refusals: Errors that the next requests for a rate get, in turn.
        granted: The rates that were granted, with the reason and who paces.
    """

    def __init__(self) -> None:
        self.free_bps: int | None = 20_000_000
        self.refusals: list[qw.QosError] = []
        self.granted: list[tuple[int, qw.RateReason, bool]] = []
        self.kernel_paces = True
        self.unmeasured: qw.QosError | None = None
        self.waits: list[tuple[str, int | None]] = []
        self.come = threading.Event()

    def fundamentals(self) -> qw.Fundamentals:
        if self.unmeasured is not None:
            raise self.unmeasured
        return qw.Fundamentals(20_000_000, self.free_bps, 10_000_000)

    def set_rate(
        self,
        rate_bps: int,
        *,
        shaping: qw.Shaping = qw.Shaping.SHAPE_AND_MARK,
        reason: qw.RateReason,
        self_paced: bool = False,
    ) -> None:
        assert shaping is qw.Shaping.SHAPE_AND_MARK
        if not self_paced and not self.kernel_paces:
            raise qw.NotSupported("no fq")
        if self.refusals:
            raise self.refusals.pop(0)
        self.granted.append((rate_bps, reason, self_paced))

    def packet_priority(self) -> qw.PacketPriority:
        return MARKS

    def pacer(self) -> qw.Pacer:
        return qw.Pacer(self.granted[-1][0])

    def wait_congested(self) -> None:
        self.waits.append(("congested", None))
        self.come.wait(10)

    def wait_available(self, rate_bps: int) -> None:
        self.waits.append(("available", rate_bps))
        self.come.wait(10)


class Told:
    """Takes what a sender tells."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def __call__(self, event: str, sentence: str, **fields: object) -> None:
        assert sentence
        self.events.append((event, fields))

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


@pytest.fixture
def flow() -> ScriptedFlow:
    return ScriptedFlow()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        yield sock


@pytest.fixture
def sender(flow: ScriptedFlow, told: Told, receiver: socket.socket) -> Iterator[Sender]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(receiver.getsockname())
        yield Sender(sock, cast("qw.Flow", flow), CONTENT_BPS, cast("Teller", told))


@pytest.fixture
def background(flow: ScriptedFlow) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool
        flow.come.set()


def come(error: Exception | None = None) -> Future[None]:
    """A notice that has come."""
    notice: Future[None] = Future()
    if error is None:
        notice.set_result(None)
    else:
        notice.set_exception(error)
    return notice


def soon() -> float:
    return time.monotonic() + 0.05


# -- the beginning --------------------------------------------------------------------


def test_the_whole_rate_with_headers(sender: Sender, flow: ScriptedFlow) -> None:
    sender.begin(20_000_000)
    assert flow.granted == [(WANTED_BPS, qw.RateReason.NOT_APPLICABLE, False)]
    assert sender.pacer is None


def test_less_where_less_is_free(sender: Sender, flow: ScriptedFlow) -> None:
    sender.begin(5_000_000)
    assert [rate_bps for rate_bps, _, _ in flow.granted] == [5_000_000]


@pytest.mark.parametrize("error", [qw.NetworkBusy("taken"), qw.RetryLater("soon")])
def test_who_is_refused_asks_for_less(
    sender: Sender, flow: ScriptedFlow, told: Told, error: qw.QosError
) -> None:
    flow.refusals, flow.free_bps = [error, error], 6_000_000
    sender.begin(20_000_000)
    # What is free then, and a tenth less than what was refused.
    assert [rate_bps for rate_bps, _, _ in flow.granted] == [5_400_000]
    assert told.names == ["refused", "refused", "rate"]


@pytest.mark.parametrize("free_bps", [0, WANTED_BPS // 10 - 1])
def test_a_full_path_gets_no_contract(
    sender: Sender, flow: ScriptedFlow, told: Told, background: ThreadPoolExecutor, free_bps: int
) -> None:
    sender.begin(free_bps)
    assert (flow.granted, told.names) == ([], ["full"])
    assert sender.pacer is not None
    # But it is told when it can have one.
    sender.next_notice(background)
    flow.come.set()
    background.shutdown()
    assert flow.waits == [("available", WANTED_BPS)]


def test_the_program_paces_where_the_kernel_cannot(sender: Sender, flow: ScriptedFlow) -> None:
    flow.kernel_paces = False
    sender.begin(20_000_000)
    assert flow.granted == [(WANTED_BPS, qw.RateReason.NOT_APPLICABLE, True)]
    assert sender.pacer is not None


def test_estimates_are_waited_for(sender: Sender, flow: ScriptedFlow, told: Told) -> None:
    flow.free_bps = None
    assert sender.estimates(soon()) is None
    assert told.names == ["waiting"]
    flow.unmeasured = qw.NoData("nothing yet")
    assert sender.estimates(soon()) is None
    flow.unmeasured, flow.free_bps = None, 1
    assert sender.estimates(soon()) == qw.Fundamentals(20_000_000, 1, 10_000_000)


def test_who_ends_before_they_come_asks_for_nothing(
    sender: Sender, flow: ScriptedFlow, background: ThreadPoolExecutor
) -> None:
    flow.unmeasured = qw.NoData("nothing yet")
    sender.run(background, soon())
    assert flow.granted == []


def test_without_estimates_there_are_marks(
    sender: Sender, flow: ScriptedFlow, told: Told, background: ThreadPoolExecutor
) -> None:
    flow.unmeasured = qw.NotSupported("no sink")
    sender.run(background, soon())
    assert flow.granted == [(WANTED_BPS, qw.RateReason.NOT_APPLICABLE, False)]
    assert flow.waits == []
    assert told.names == ["unmeasured", "rate"]


def test_other_errors_end_it(sender: Sender, flow: ScriptedFlow) -> None:
    flow.unmeasured = qw.HostUnreachable("gone")
    with pytest.raises(qw.HostUnreachable):
        sender.estimates(soon())


# -- notices --------------------------------------------------------------------------


def test_congestion_and_back(
    sender: Sender, flow: ScriptedFlow, told: Told, background: ThreadPoolExecutor
) -> None:
    flow.come.set()
    sender.begin(20_000_000)
    assert sender.next_notice(background).result() is None
    notice = sender.react(come(), background)
    assert notice is not None
    notice.result()
    notice = sender.react(notice, background)
    assert notice is not None
    notice.result()
    assert flow.granted[1:] == [
        (WANTED_BPS // 10, qw.RateReason.CONGESTION, False),
        (WANTED_BPS, qw.RateReason.CONGESTION, False),
    ]
    assert flow.waits == [("congested", None), ("available", WANTED_BPS), ("congested", None)]
    assert told.names == ["rate", "congested", "rate", "available", "rate"]


def test_who_is_too_late_waits_again(
    sender: Sender, flow: ScriptedFlow, told: Told, background: ThreadPoolExecutor
) -> None:
    flow.come.set()
    sender.begin(20_000_000)
    sender.react(come(), background)
    flow.refusals = [qw.NetworkBusy("taken")]
    notice = sender.react(come(), background)
    assert notice is not None
    notice.result()
    assert flow.waits[-1] == ("available", WANTED_BPS)
    assert sender.granted_bps == WANTED_BPS // 10
    assert told.names[-1] == "refused"


def test_a_kernel_that_never_raises_a_rate(
    sender: Sender, flow: ScriptedFlow, background: ThreadPoolExecutor
) -> None:
    flow.come.set()
    sender.begin(20_000_000)
    sender.react(come(), background)
    assert sender.pacer is None
    flow.kernel_paces = False
    sender.react(come(), background)
    assert flow.granted[-1] == (WANTED_BPS, qw.RateReason.CONGESTION, True)
    assert sender.pacer is not None


def test_a_path_that_is_lost_ends_the_waiting(
    sender: Sender, told: Told, background: ThreadPoolExecutor
) -> None:
    sender.begin(20_000_000)
    assert sender.react(come(qw.UnexpectedNetworkError("broke")), background) is None
    assert told.names[-1] == "lost"
    assert sender.granted_bps == WANTED_BPS


# -- bursts ---------------------------------------------------------------------------


def test_forty_bursts_a_second(sender: Sender, flow: ScriptedFlow, receiver: socket.socket) -> None:
    sender.begin(20_000_000)
    # 8.16 Mbit/s are 714 packets of 1428 bytes a second.
    assert sender.send_burst() == 17
    assert {len(receiver.recv(2_000)) for _ in range(17)} == {1_400}
    flow.kernel_paces = False
    sender.set_rate(100, qw.RateReason.USER_CAUSED)
    assert sender.send_burst() == 1


def test_a_second_is_told(sender: Sender, told: Told, flow: ScriptedFlow) -> None:
    sender.begin(20_000_000)
    sender.tell_second(714, 1.0)
    assert told.events[-1][1] == {
        "sent_bps": 714 * 1_428 * 8,
        "granted_bps": WANTED_BPS,
        "capacity_bps": 20_000_000,
        "available_bps": 20_000_000,
    }
    flow.unmeasured = qw.NotSupported("no sink")
    sender.tell_second(714, 2.0)
    assert told.events[-1][1]["capacity_bps"] is None


# -- the command ----------------------------------------------------------------------


def test_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    Teller(as_json=False)("rate", "granted", rate_bps=1)
    assert capsys.readouterr().out == "  0.0 s  granted\n"
    Teller(as_json=True)("rate", "granted", rate_bps=1)
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told.pop("time_ns") > 0
    assert told == {"event": "rate", "rate_bps": 1}


@pytest.mark.parametrize(
    "arguments",
    [[], ["send", "::1"], ["send", "::1", "8M"], ["send", "::1", "0"], ["receive", "-1"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["receive", "65536"], ["send", "::1%nowhere", "8000000"], ["send", "::1", "1", "65536"]],
)
def test_what_cannot_be_done(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("adaptive_stream: ")
