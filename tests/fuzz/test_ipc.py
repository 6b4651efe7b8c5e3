"""Garbage for both ends of the control protocol, which it may end and nothing else.

The targets are functions of bytes that raise when something is wrong, so a coverage-guided
fuzzer can call them as they are. Here they get a corpus of good packets, the same with a few bytes
changed, and bytes of Hypothesis' choice. The packets of one run are divided by line feeds, which
JSON does not need.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from openqwave.ipc import asking, pages, serving, values
from openqwave.ipc import messages as ms
from openqwave.ipc.errors import MAX_REASON_CHARS, ProtocolError
from openqwave.ipc.programs import started_run_of
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Congestion, CongestionReason, Fundamentals
from openqwave.model.flow import PacketPriority
from openqwave.model.path import PathStatus
from tests.unit.joined_ends import (
    NO_FLOW,
    REQUESTS,
    JoinedEnds,
    client_events,
    service_events,
    take_packet,
)

Target = Callable[[bytes], None]

LIMITS = serving.PeerLimits(outstanding=3, pause_bytes=500, queue_bytes=2_000)
# A refusal that quotes, and a farewell.
LONGEST_BYTES = 700


def fuzz_request(data: bytes) -> None:
    """Any packet is a request that says the same when written again, or breaks the protocol."""
    try:
        message = ms.decode_request(data)
    except ProtocolError as error:
        reason = error.reason
    else:
        assert ms.decode_request(ms.encode_packet(message)) == message
        return
    assert reason.isprintable()
    assert len(reason) <= MAX_REASON_CHARS


def fuzz_reply(data: bytes) -> None:
    """The same for what the service sends."""
    try:
        reply = ms.decode_reply(data)
    except ProtocolError as error:
        reason = error.reason
    else:
        again = ms.decode_reply(ms.encode_packet(reply))
        if isinstance(reply, ms.Answer):
            assert isinstance(again, ms.Answer)
            assert (again.id, bytes(again.value)) == (reply.id, bytes(reply.value))
        else:
            assert again == reply
        return
    assert reason.isprintable()


READERS: list[Callable[[bytes], object]] = [
    values.fundamentals_of,
    values.packet_priority_of,
    values.path_status_of,
    values.rate_of,
    values.flow_id_of,
    values.nothing_of,
    values.status_of,
    lambda raw: pages.page_of(raw, int),
    lambda raw: pages.page_of(raw, ms.FlowRow),
    lambda raw: pages.page_of(raw, ms.PathRow),
    lambda raw: pages.page_of(raw, ms.ProgramRow),
    lambda raw: pages.page_of(raw, ms.RefusalRow),
    started_run_of,
]
MODEL = Fundamentals | PacketPriority | PathStatus


def fuzz_values(data: bytes) -> None:
    """Any answer is read, or breaks the protocol; what was read can be written and read again."""
    for read in READERS:
        try:
            value = read(data)
        except ProtocolError as error:
            reason = error.reason
        else:
            if isinstance(value, MODEL):
                assert read(values.value_to_json(value)) == value
            continue
        assert reason.isprintable()
        assert len(reason) <= 2 * MAX_REASON_CHARS


def fuzz_service(data: bytes) -> None:
    """Packets for the service's end: every request that it tells of can be ended, once."""
    end = serving.ServiceEnd(LIMITS)
    is_over, under_way = False, set[int]()
    for number, packet in enumerate(data.split(b"\n")):
        end.receive_packet(packet, number % 3, is_cut=number > 20)
        events = service_events(end)
        assert not (is_over and events)
        for event in events:
            assert not is_over
            match event:
                case serving.Opened():
                    end.welcome(service="", lends=False)
                case serving.Asked(request):
                    assert request.id not in under_way
                    under_way.add(request.id)
                    end.postpone(request.id)
                case serving.Violated(reason):
                    assert reason.isprintable()
                    assert end.is_over
                    assert end.outstanding == 0
                    is_over = True
        if not end.is_over:
            assert end.outstanding == len(under_way) <= LIMITS.outstanding + 1
            if number % 2 and under_way:
                end.refuse(under_way.pop(), NO_FLOW)
        assert end.queued_bytes <= LIMITS.queue_bytes + 2 * LONGEST_BYTES
        is_over |= end.is_over
    while (packet_out := take_packet(end)) is not None:
        ms.decode_reply(packet_out)


def fuzz_client(data: bytes) -> None:
    """Packets for a program that has asked four things, one of them to close: each ends once."""
    client = JoinedEnds().open().client
    for number in (1, 2, 3):
        client.request(ms.Check(number))
    client.request(ms.Close(4))
    under_way = {1, 2, 3, 4}
    for packet in [*data.split(b"\n"), b""]:
        was_over = client.is_over
        reason = _told(client, packet)
        assert reason.isprintable()
        assert client.is_over or not reason
        events = client_events(client)
        assert not (was_over and events)
        for event in events:
            if isinstance(event, asking.Answered | asking.Refusing):
                under_way.remove(event.request_id)
            if isinstance(event, asking.Refusing | asking.HandleLost | asking.Farewelled):
                assert isinstance(event.refusal, Refusal)
    assert client.is_over
    assert under_way == set()


def _told(client: asking.ClientEnd, packet: bytes) -> str:
    """Why a program may not be told that; empty where it may."""
    try:
        client.receive_packet(packet)
    except ProtocolError as error:
        return error.reason
    return ""


HELLO = ms.encode_packet(ms.Hello(1, (), "x"))
PATH = PathStatus(
    Endpoint(bytes((192, 0, 2, 7)), 0),
    None,
    Fundamentals(1, 2, 3),
    5,
    0.5,
    7,
    Congestion(True, CongestionReason.ECN, "x"),
    8,
    None,
    9,
    "",
)
REFUSAL = ms.RefusalRow(
    number=1,
    time_ns=1,
    pid=7,
    program="obs",
    user="anna",
    uid=1000,
    request="set_rate",
    code=54,
    name="ERROR_NETWORK_BUSY",
    detail="the path has 3 Mbit/s to give",
)
VALUES = [
    b"null",
    b"7",
    b"-1",
    b"-" + b"9" * 4_000,
    values.value_to_json(Fundamentals(1, None, 3)),
    values.value_to_json(PacketPriority(1, 2, 3, 4)),
    values.value_to_json(PATH),
    pages.flow_id_page((1, 2, 3)),
    pages.path_page([ms.PathRow(host="192.0.2.7", congested=True)]),
    pages.program_page([ms.ProgramRow(kind="run", number=3, name="player")]),
    pages.refusal_page([REFUSAL]),
    ms.encode_packet(ms.StartedRun(run=3, dscp=46, words="bpf")),
]
REPLIES = [
    ms.encode_packet(reply)
    for reply in (
        ms.Welcome(1, (), "x", False),
        ms.Pending(1),
        ms.Refused(1, 87, "ERROR_INVALID_PARAMETER", "no"),
        ms.Lost(1164, "ERROR_DEVICE_REINITIALIZATION_NEEDED", ""),
        ms.Farewell(99_999, "?", "bye"),
        *(ms.Answer(1 + number % 4, Raw(value)) for number, value in enumerate(VALUES)),
    )
]
ASKED = [ms.encode_packet(make(1 + number)) for number, make in enumerate(REQUESTS)]
CORPUS = [
    b"",
    b"{}",
    b"\n\n",
    b"\xff" * 100,
    b"[" * 4_000,
    b'{"x":' * 4_000,
    b'{"type":"check","id":1,"x":' + b"9" * 5_000 + b"}",
    b'{"type":"cancel","id":1,"request":' + b"9" * 5_000 + b"}",
    HELLO,
    HELLO + b"\n" + HELLO,
    b"\n".join([HELLO, *ASKED]),
    b"\n".join([HELLO, *ASKED[:3], *ASKED[:3]]),
    b"\n".join(REPLIES),
    b"\n".join(reversed(REPLIES)),
    *ASKED,
    *REPLIES,
    *VALUES,
]


# Bytes that JSON, numbers and text depend on.
TELLING = b'{}[]":,0\\e-u\x00\xff\n'


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Good packets with some bytes changed, some left out and some more at the end."""
    packets = draw(st.lists(st.sampled_from([HELLO, *ASKED, *REPLIES, *VALUES]), max_size=6))
    if draw(st.booleans()):
        packets.insert(0, HELLO)
    data = bytearray(b"\n".join(packets))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(
                st.sampled_from(b'{}[]":,0\\e-u\x00\xff\n')
            )
    if draw(st.booleans()):
        start = draw(st.integers(0, len(data)))
        del data[start : start + draw(st.integers(1, 8))]
    return bytes(data) + draw(st.binary(max_size=8))


# The same bytes everywhere and always; one example costs microseconds.
FIXED = settings(derandomize=True, deadline=None, database=None)

each_target = pytest.mark.parametrize(
    "target", [fuzz_request, fuzz_reply, fuzz_values, fuzz_service, fuzz_client]
)


@each_target
@pytest.mark.parametrize("data", CORPUS, ids=range(len(CORPUS)))
def test_corpus(target: Target, data: bytes) -> None:
    target(data)
    # Cut short anywhere, and with each byte changed.
    for end in range(min(len(data), 300)):
        target(data[:end])
        target(data[:end] + b'"' + data[end + 1 :])


@each_target
@given(data=mutated() | st.binary(max_size=200))
@settings(FIXED, max_examples=500)
def test_garbage(target: Target, data: bytes) -> None:
    target(data)
