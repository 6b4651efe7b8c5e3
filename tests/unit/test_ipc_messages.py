"""Packets: each one's bytes, what may be left out, what is read and what is not."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable

import msgspec
import pytest

from openqwave.ipc import messages as ms
from openqwave.ipc.errors import MAX_REASON_CHARS, ProtocolError
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import ReinitializationNeeded
from tests.unit.joined_ends import REQUESTS

REPLIES: list[ms.Reply] = [
    ms.Welcome(1, (), "qwaved 0.1", True),
    ms.Welcome(1, ("one", "two"), "", False),
    ms.Farewell(1164, "ERROR_DEVICE_REINITIALIZATION_NEEDED", "the service ends"),
    ms.Refused(ms.MAX_ID, 87, "ERROR_INVALID_PARAMETER", 'a "DSCP" is 0 to 63\n'),
    ms.Pending(5),
    ms.Lost(1164, "ERROR_DEVICE_REINITIALIZATION_NEEDED", "the machine slept"),
]
HELLO = ms.Hello(1, (), "a program")

# The bytes are the protocol: another language depends on each of these.
BYTES: list[tuple[ms.Hello | ms.Request, str]] = [
    (HELLO, '{"type":"hello","version":1,"features":[],"program":"a program"}'),
    (
        ms.AddSocket(1, 0, 4, False, "192.0.2.7", 5004, number=12),
        '{"type":"add_socket","id":1,"flow":0,"traffic_type":4,"adaptive":false,'
        '"address":"192.0.2.7","port":5004,"number":12}',
    ),
    (
        ms.AddSocket(1, 0, 4, True, None, 0),
        '{"type":"add_socket","id":1,"flow":0,"traffic_type":4,"adaptive":true,'
        '"address":null,"port":0}',
    ),
    (ms.RemoveSocket(2, 9, True), '{"type":"remove_socket","id":2,"flow":9,"whole":true}'),
    (ms.SetTrafficType(3, 9, 5), '{"type":"set_traffic_type","id":3,"flow":9,"traffic_type":5}'),
    (
        ms.SetRate(4, 9, 1_000_000, 1, 2),
        '{"type":"set_rate","id":4,"flow":9,"rate_bps":1000000,"shaping":1,"reason":2}',
    ),
    (
        ms.SetRate(4, 9, None, 0, 0, True, True),
        '{"type":"set_rate","id":4,"flow":9,"rate_bps":null,"shaping":0,"reason":0,'
        '"overlapped":true,"self_paced":true}',
    ),
    (ms.SetDscp(5, 9, 46), '{"type":"set_dscp","id":5,"flow":9,"dscp":46}'),
    (
        ms.Query(6, 9, "fundamentals", fresh=True),
        '{"type":"query","id":6,"flow":9,"question":"fundamentals","fresh":true}',
    ),
    (ms.Notify(7, 9, 2, 10), '{"type":"notify","id":7,"flow":9,"kind":2,"rate_bps":10}'),
    (
        ms.StartTracking(8, "fe80::1", 2),
        '{"type":"start_tracking","id":8,"address":"fe80::1","scope_id":2}',
    ),
    (ms.StopTracking(9, "192.0.2.7"), '{"type":"stop_tracking","id":9,"address":"192.0.2.7"}'),
    (ms.EnumerateFlows(10), '{"type":"enumerate_flows","id":10}'),
    (ms.Cancel(11, 7), '{"type":"cancel","id":11,"request":7}'),
    (ms.Check(12), '{"type":"check","id":12}'),
    (ms.Close(13), '{"type":"close","id":13}'),
    (ms.ListFlows(14, 3), '{"type":"list_flows","id":14,"after":3}'),
    (ms.ListPaths(15, 3), '{"type":"list_paths","id":15,"after":3}'),
    (ms.AskStatus(16), '{"type":"status","id":16}'),
    (
        ms.StartRun(17, "player", 812, 4, rate_bps=20_000_000, hold_back=True),
        '{"type":"start_run","id":17,"program":"player","pid":812,"traffic_type":4,'
        '"rate_bps":20000000,"hold_back":true}',
    ),
    (
        ms.StartRun(18, "sshd", 9, dscp=0, adopt=True),
        '{"type":"start_run","id":18,"program":"sshd","pid":9,"dscp":0,"adopt":true}',
    ),
    (ms.EndRun(19, 3), '{"type":"end_run","id":19,"run":3}'),
    (ms.ListPrograms(20, 3), '{"type":"list_programs","id":20,"after":3}'),
    (ms.ListRefusals(21, 3), '{"type":"list_refusals","id":21,"after":3}'),
]


@pytest.mark.parametrize(("message", "text"), BYTES, ids=[text for _, text in BYTES])
def test_bytes_of_requests(message: ms.Hello | ms.Request, text: str) -> None:
    assert ms.encode_packet(message) == text.encode()
    assert ms.decode_request(text.encode()) == message


def test_bytes_are_told_of_every_request() -> None:
    kinds = {type(message) for message, _ in BYTES}
    assert kinds == {ms.Hello, *typing.get_args(ms.Request)}
    assert {type(make(1)) for make in REQUESTS} == set(typing.get_args(ms.Request))
    assert {type(reply) for reply in REPLIES} | {ms.Answer} == set(typing.get_args(ms.Reply))


@pytest.mark.parametrize("make", REQUESTS)
def test_requests_are_read_as_they_were_written(make: Callable[[int], ms.Request]) -> None:
    for request_id in (1, ms.MAX_ID):
        message = make(request_id)
        data = ms.encode_packet(message)
        assert ms.decode_request(data) == message
        assert len(data) < 200  # A C program's buffer of a few hundred bytes is enough.


@pytest.mark.parametrize("reply", REPLIES)
def test_replies_are_read_as_they_were_written(reply: ms.Reply) -> None:
    assert ms.decode_reply(ms.encode_packet(reply)) == reply


def test_an_answer_holds_its_value_as_it_stands() -> None:
    data = b'{"type":"answer","id":3,"value":{"flows":[1, 2],"more":false}}'
    answer = ms.decode_reply(data)
    assert isinstance(answer, ms.Answer)
    assert (answer.id, bytes(answer.value)) == (3, b'{"flows":[1, 2],"more":false}')
    assert ms.encode_packet(ms.Answer(3, msgspec.Raw(b"null"))) == (
        b'{"type":"answer","id":3,"value":null}'
    )


def test_what_later_versions_add_is_ignored() -> None:
    added = b'{"later":{"x":[1,{}]},"type":"check","id":3,"urgent":true}'
    assert ms.decode_request(added) == ms.Check(3)
    assert ms.decode_reply(b'{"type":"pending","id":3,"since":[1.5e300]}') == ms.Pending(3)


def test_what_is_left_out_has_these_values() -> None:
    added = ms.AddSocket(1, 0, 4, True, None, 0)
    assert (added.scope_id, added.number) == (0, -1)
    rate = ms.SetRate(1, 2, None, 0, 0)
    assert (rate.overlapped, rate.self_paced) == (False, False)
    query = ms.Query(1, 2, "path")
    assert (query.fresh, query.overlapped) == (False, False)
    assert (ms.StartTracking(1, "").scope_id, ms.StopTracking(1, "").scope_id) == (0, 0)
    run = ms.StartRun(1, "", 0)
    assert (run.traffic_type, run.dscp, run.rate_bps) == (None, None, None)
    assert (run.hold_back, run.adopt) == (False, False)
    assert ms.ListPrograms(1).after == 0
    assert (ms.EnumerateFlows(1).after, ms.ListFlows(1).after, ms.ListPaths(1).after) == (0, 0, 0)


def test_order_and_spaces_do_not_matter() -> None:
    assert ms.decode_request(b' {"id" : 3 ,\n"type":"\\u0063heck"}\t') == ms.Check(3)


UNREADABLE = {
    "nothing": b"",
    "no JSON": b"GET / HTTP/1.1\r\n\r\n",
    "half": b'{"type":"check","id":3',
    "two": b'{"type":"check","id":3}{"type":"check","id":4}',
    "zero byte at the end": b'{"type":"check","id":3}\0',
    "byte order mark": b'\xef\xbb\xbf{"type":"check","id":3}',
    "UTF-16": '{"type":"check","id":3}'.encode("utf-16"),
    "no UTF-8": b'{"type":"hello","version":1,"features":[],"program":"\xff"}',
    "lone surrogate": b'{"type":"hello","version":1,"features":[],"program":"\\ud800"}',
    "an array": b'["check",3]',
    "null": b"null",
    "no type": b'{"id":3}',
    "a number for a type": b'{"type":3,"id":3}',
    "unknown type": b'{"type":"no_such_thing","id":3}',
    "case": b'{"type":"Check","id":3}',
    "types that differ": b'{"type":"check","type":"close!","id":3}',
    "no id": b'{"type":"check"}',
    "id 0": b'{"type":"check","id":0}',
    "id below": b'{"type":"check","id":-1}',
    "id above": b'{"type":"check","id":9007199254740992}',
    "id as text": b'{"type":"check","id":"3"}',
    "id as float": b'{"type":"check","id":3.0}',
    "id as bool": b'{"type":"check","id":true}',
    "id null": b'{"type":"check","id":null}',
    "NaN": b'{"type":"check","id":NaN}',
    "flow as text": b'{"type":"set_dscp","id":3,"flow":"9","dscp":1}',
    "missing field": b'{"type":"set_dscp","id":3,"flow":9}',
    "flag as number": b'{"type":"remove_socket","id":3,"flow":9,"whole":1}',
    "rate as float": b'{"type":"set_rate","id":3,"flow":9,"rate_bps":1e6,"shaping":1,"reason":0}',
    "a number no descriptor has": b'{"type":"add_socket","id":3,"flow":0,"traffic_type":0,'
    b'"adaptive":false,"address":null,"port":0,"number":2147483648}',
    "version 0": b'{"type":"hello","version":0,"features":[],"program":""}',
    "long program": b'{"type":"hello","version":1,"features":[],"program":"%b"}' % (b"x" * 65),
    "long program of a run": b'{"type":"start_run","id":3,"pid":1,"program":"%b"}' % (b"x" * 65),
    "features as text": b'{"type":"hello","version":1,"features":"all","program":""}',
    "deep": b'{"type":"check","id":3,"x":' + b"[" * 4_000,
    "deeper": b'{"type":"check","id":3,"x":' + b'{"":' * 60_000,
    "a reply": b'{"type":"pending","id":3}',
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        ms.decode_request(data)
    reason = caught.value.reason
    assert 0 < len(reason) <= MAX_REASON_CHARS
    assert reason.isprintable()
    assert isinstance(caught.value, ReinitializationNeeded)
    assert caught.value.code is ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "word", ["\x1b[31m", "\u202e" * 300, "a\nb", "x" * 3_000, "\u0000"], ids=ascii
)
def test_a_reason_is_one_printable_line_whatever_it_quotes(word: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        ms.decode_request(json.dumps({"type": word, "id": 1}).encode())
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) <= MAX_REASON_CHARS


def test_a_request_is_no_reply() -> None:
    for message, text in BYTES:
        with pytest.raises(ProtocolError):
            ms.decode_reply(text.encode())
        del message


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 60_000, b'{"type":"answer","id":3}', b'{"type":"check","id":3}']
)
def test_replies_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ms.decode_reply(data)


# It makes no sense and is readable: the service refuses it in its turn.
NONSENSE: list[ms.Request] = [
    ms.AddSocket(1, -(1 << 63), 9, False, "no address", 70_000, -4),
    ms.SetRate(1, 1 << 70, -1, 99, -99),
    ms.SetRate(1, 1, (1 << 64) - 1, 0, 0),
    ms.SetRate(1, 1, 10**3_000, 0, 0),
    ms.SetDscp(1, 0, 64),
    ms.Query(1, 2, "the weather"),
    ms.Notify(1, 2, 3, None),
    ms.EnumerateFlows(1, -5),
    ms.Cancel(1, 0),
    ms.StartTracking(1, "\0\U0010ffff"),
    ms.StartRun(1, "", -1, 9, 64, -1),
]


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense_is_a_request(message: ms.Request) -> None:
    assert ms.decode_request(ms.encode_packet(message)) == message


def test_names_that_are_no_text_are_said_with_question_marks() -> None:
    # How Python holds the bytes 0xff 0xfe of a name.
    packet = ms.encode_packet(ms.Hello(1, (), "caf\u00e9 \udcff\udcfe"))
    assert ms.decode_request(packet) == ms.Hello(1, (), "caf\u00e9 ??")
    row = ms.SocketRow(cookie=(1 << 64) - 1, protocol="tcp\udc80")
    assert ms.encode_packet(row) == b'{"cookie":18446744073709551615,"protocol":"tcp?"}'


def test_packets_cost_the_collector_nothing() -> None:
    for kind in (ms.Hello, *typing.get_args(ms.Request), *typing.get_args(ms.Reply)):
        assert kind.__struct_config__.gc is False
        assert kind.__struct_config__.frozen
