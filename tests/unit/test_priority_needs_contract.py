"""Where policy wants a contract before priority: marks that are withheld, come and go.

From clients.md: "Where policy asks for admission control the type is not honoured until a rate is
set". From the contract: "Non-adaptive: marks apply from the call's return [...], unless policy
demands admission."
"""

from __future__ import annotations

import socket

import pytest

import openqwave as qw
from openqwave.admission.policy import QUEUE_BULK, QUEUE_INTERACTIVE, WINDOWS_MARKS, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.flow import (
    UNTOUCHED,
    NoticeKind,
    PacketPriority,
    Shaping,
    TrafficType,
    Treatment,
)
from openqwave.subsystem import requests as rq
from tests.unit.driven import NO_MECHANISM, ROOT, A, B, notify, rate, view
from tests.unit.loopback import options_of
from tests.unit.own_subsystem import open_in, own_subsystem
from tests.unit.test_policy_reload import OTHER_MARKS, Ruled
from tests.unit.test_service_views import Shown

MBIT = 1_000_000
STRICT = Policy(priority_needs_contract=True)
VOICE, VIDEO = TrafficType.VOICE, TrafficType.AUDIO_VIDEO
CS7 = Treatment(56, QUEUE_INTERACTIVE)

# Above best effort; the others give way, or ask for nothing.
PRIORITY_TYPES = [
    TrafficType.EXCELLENT_EFFORT,
    TrafficType.AUDIO_VIDEO,
    TrafficType.VOICE,
    TrafficType.CONTROL,
]


def test_windows_does_not_ask_for_that_by_itself() -> None:
    assert Policy().priority_needs_contract is False


@pytest.mark.parametrize("kind", TrafficType, ids=lambda kind: kind.name)
def test_marks_come_with_the_rate_and_go_with_it(kind: TrafficType) -> None:
    driven = Ruled(STRICT)
    flow = driven.flow(driven.handle, traffic_type=kind)
    usual = Ruled()
    usual.flow(usual.handle, traffic_type=kind)
    plain = usual.treatment()
    assert driven.treatment() == (UNTOUCHED if kind in PRIORITY_TYPES else plain)
    driven.grant(driven.handle, rate(flow, MBIT))
    assert driven.treatment() == Treatment(plain.dscp, plain.queue_priority, MBIT)
    # By contract: "no shaping and no marking, until a type or rate is set again."
    driven.grant(driven.handle, rate(flow, 0))
    assert driven.treatment() == UNTOUCHED
    driven.grant(driven.handle, rq.SetTrafficType(flow, kind))
    assert driven.treatment() == (UNTOUCHED if kind in PRIORITY_TYPES else plain)
    driven.grant(driven.handle, rq.RemoveSocket(flow, None))
    assert driven.mechanism.plans == {}


def test_what_is_told_of_marks_is_what_is_so() -> None:
    driven = Ruled(STRICT)
    flow = driven.flow(driven.handle)
    assert driven.priority(flow) == PacketPriority(0, 0, 0, 0)
    driven.grant(driven.handle, rate(flow, MBIT))
    assert driven.priority(flow) == PacketPriority(56, 0, 0, 0)


def test_another_type_keeps_the_rate_and_needs_it() -> None:
    driven = Ruled(STRICT)
    flow = driven.flow(driven.handle, traffic_type=TrafficType.BACKGROUND)
    assert driven.treatment() == Treatment(8, QUEUE_BULK)
    driven.grant(driven.handle, rq.SetTrafficType(flow, VOICE))
    assert driven.treatment() == UNTOUCHED
    driven.grant(driven.handle, rate(flow, MBIT))
    # "an admitted rate stays"
    driven.grant(driven.handle, rq.SetTrafficType(flow, VIDEO))
    assert driven.treatment() == Treatment(40, QUEUE_INTERACTIVE, MBIT)


@pytest.mark.parametrize(
    ("shaping", "expected"),
    [
        # "packets go unmarked", with a contract as without.
        (Shaping.SHAPE_ONLY, Treatment(rate_bps=MBIT)),
        (
            Shaping.USE_NON_CONFORMANT_MARKINGS,
            Treatment(56, QUEUE_INTERACTIVE, MBIT, excess_is_remarked=True),
        ),
    ],
)
def test_each_way_to_shape(shaping: Shaping, expected: Treatment) -> None:
    driven = Ruled(STRICT)
    flow = driven.flow(driven.handle)
    driven.grant(driven.handle, rate(flow, MBIT, shaping))
    assert driven.treatment() == expected


def test_an_exact_code_point_has_a_right_of_its_own() -> None:
    driven = Ruled(STRICT)
    flow = driven.flow(driven.handle)
    driven.grant(driven.handle, rq.SetDscp(flow, 46, ROOT))
    # "success means the traffic is treated as asked"
    assert driven.treatment() == Treatment(46, QUEUE_INTERACTIVE)
    driven.grant(driven.handle, rq.SetTrafficType(flow, VOICE))
    assert driven.treatment() == UNTOUCHED


def test_a_rate_that_is_refused_marks_nothing() -> None:
    driven = Ruled(STRICT)
    flow = driven.flow(driven.handle)
    driven.mechanism.refusals.append(NO_MECHANISM)
    assert driven.refusal(driven.handle, rate(flow, MBIT)) is NO_MECHANISM.code
    assert driven.treatment() == UNTOUCHED
    driven.grant(driven.handle, rate(flow, MBIT))
    # A contract that could not be ended goes on, with its marks.
    driven.mechanism.refusals.append(NO_MECHANISM)
    assert driven.refusal(driven.handle, rate(flow, 0)) is NO_MECHANISM.code
    assert driven.priority(flow).conformant_dscp == 56


def test_adaptive_flows_are_as_ever_and_so_are_their_notices() -> None:
    found = []
    for policy in (Policy(), STRICT):
        driven = Ruled(policy)
        driven.see(A, view(bottleneck_bps=20 * MBIT, available_bps=5 * MBIT, is_congested=False))
        flow = driven.flow(driven.handle, is_adaptive=True)
        seen = [driven.treatment()]
        congested = driven.waits(driven.handle, notify(flow, NoticeKind.CONGESTED))
        assert driven.refusal(driven.handle, rate(flow, 6 * MBIT)) is ErrorCode.ERROR_NETWORK_BUSY
        seen.append(driven.treatment())
        driven.grant(driven.handle, rate(flow, 4 * MBIT))
        seen.append(driven.treatment())
        driven.see(A, view(bottleneck_bps=20 * MBIT, available_bps=0, is_congested=True))
        assert driven.answers[congested] is None
        driven.grant(driven.handle, rate(flow, 0))
        seen.append(driven.treatment())
        found.append(seen)
    assert found[0] == found[1]
    assert found[1] == [UNTOUCHED, UNTOUCHED, Treatment(56, QUEUE_INTERACTIVE, 4 * MBIT), UNTOUCHED]


def test_a_policy_that_changes_reaches_every_flow() -> None:
    driven = Ruled()
    free = driven.flow(driven.handle, 1)
    held = driven.flow(driven.handle, 2)
    driven.grant(driven.handle, rate(held, MBIT))
    driven.flow(driven.handle, 3, traffic_type=TrafficType.BACKGROUND)
    driven.flow(driven.handle, 4, is_adaptive=True)
    ended = driven.flow(driven.handle, 5)
    driven.grant(driven.handle, rate(ended, 0))
    # Of those, one loses its marks, and gets them back.
    assert driven.obey(STRICT) == [(1,)]
    assert driven.treatment(1) == UNTOUCHED
    assert driven.treatment(2) == Treatment(56, QUEUE_INTERACTIVE, MBIT)
    assert driven.obey(Policy()) == [(1,)]
    assert driven.treatment(1) == CS7
    # Where the kernel does not let go of them, that is what is told.
    driven.picky.refused = {1}
    driven.obey(STRICT)
    assert driven.priority(free).conformant_dscp == 56


def test_it_goes_by_type_and_not_by_what_the_marks_are() -> None:
    marks = {**OTHER_MARKS.marks, TrafficType.BEST_EFFORT: WINDOWS_MARKS[VOICE]}
    driven = Ruled(Policy(marks=marks, priority_needs_contract=True))
    # Whoever marks best effort means everybody.
    driven.flow(driven.handle, 1, traffic_type=TrafficType.BEST_EFFORT)
    driven.flow(driven.handle, 2)
    assert (driven.treatment(1), driven.treatment(2)) == (CS7, UNTOUCHED)


def test_two_flows_of_one_socket() -> None:
    driven = Ruled(STRICT)
    driven.flow(driven.handle, 1, A)
    other = driven.flow(driven.handle, 1, B)
    driven.grant(driven.handle, rate(other, MBIT))
    found = [share.treatment for share in driven.mechanism.plans[1].shares]
    assert found == [UNTOUCHED, Treatment(56, QUEUE_INTERACTIVE, MBIT)]


def test_in_words() -> None:
    shown = Shown(STRICT)
    handle = shown.open()
    flow = shown.flow(handle, 1)
    row = shown.row()
    assert (row.marking, row.dscp, row.backend) == ("needs a rate", None, "none")
    assert "policy wants a rate to be set before priority" in row.backend_reason
    shown.grant(handle, rate(flow, MBIT))
    row = shown.row()
    assert (row.marking, row.dscp) == ("by type", 56)
    shown.grant(handle, rate(flow, 0))
    assert shown.row().marking == "ended"
    shown.grant(handle, rq.SetTrafficType(flow, VOICE))
    assert shown.row().marking == "needs a rate"
    shown.carry_out(shown.engine.receive_policy(Policy(), now_ns=shown.now_ns))
    assert (shown.row().marking, shown.row().dscp) == ("by type", 56)
    # Marks that could not be taken away are no withheld ones.
    shown.mechanism.refusals.append(NO_MECHANISM)
    shown.carry_out(shown.engine.receive_policy(STRICT, now_ns=shown.now_ns))
    assert (shown.row().marking, shown.row().dscp) == ("by type", 56)


def test_a_type_without_marks_waits_for_nothing() -> None:
    shown = Shown(Policy(marks=dict.fromkeys(TrafficType), priority_needs_contract=True))
    shown.flow(shown.open(), 1)
    assert shown.row().marking == "by type"


def test_embedded_on_a_real_socket() -> None:
    with (
        own_subsystem(STRICT) as host,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
        open_in(host) as qos,
    ):
        before = options_of(sock)
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        assert options_of(sock) == before
        flow.set_rate(MBIT)
        assert options_of(sock).tos >> 2 == 56
        flow.set_rate(0)
        assert options_of(sock) == before
        flow.set_rate(MBIT)
        flow.remove_socket(sock)
        assert options_of(sock) == before
