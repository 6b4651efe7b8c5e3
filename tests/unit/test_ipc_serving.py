"""The service's end of a connection: what it lets a peer do, what it answers, what it costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openqwave.ipc import messages as ms
from openqwave.ipc.serving import (
    TRANSITIONS,
    Asked,
    Opened,
    PeerLimits,
    ServiceEnd,
    State,
    Step,
    Violated,
)
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from tests.unit.joined_ends import (
    LIMITS,
    LOSS,
    NO_FLOW,
    NULL,
    REQUESTS,
    sent,
    service_events,
    take_packet,
)

HELLO = ms.encode_packet(ms.Hello(1, (), "a program"))
CHECK, CLOSE = ms.encode_packet(ms.Check(1)), ms.encode_packet(ms.Close(2))


def opened(limits: PeerLimits = LIMITS) -> ServiceEnd:
    end = ServiceEnd(limits)
    end.receive_packet(HELLO)
    assert service_events(end) == [Opened(ms.Hello(1, (), "a program"))]
    end.welcome(service="qwaved 1", lends=True)
    assert sent(end) == [ms.Welcome(1, (), "qwaved 1", True)]
    return end


def ask(end: ServiceEnd, message: ms.Request, descriptors: int = 0) -> None:
    end.receive_packet(ms.encode_packet(message), descriptors)


def asked(end: ServiceEnd, message: ms.Request, descriptors: int = 0) -> None:
    """A request that reaches the service."""
    ask(end, message, descriptors)
    assert service_events(end) == [Asked(message)]


def violation(end: ServiceEnd) -> str:
    """That the peer is done with, and why."""
    event = service_events(end)[-1]
    assert isinstance(event, Violated)
    farewell = sent(end)[-1]
    assert isinstance(farewell, ms.Farewell)
    assert (farewell.code, farewell.name) == (87, "ERROR_INVALID_PARAMETER")
    assert event.reason in farewell.detail
    assert_is_over(end)
    return event.reason


def assert_is_over(end: ServiceEnd) -> None:
    """Nothing that is done to it has an effect any more."""
    assert end.is_over
    for data in (HELLO, CHECK, b"x", b""):
        end.receive_packet(data, 3, is_cut=True)
    end.welcome(service="", lends=False)
    end.answer(1, NULL)
    end.refuse(1, NO_FLOW)
    end.postpone(1)
    end.lose(LOSS)
    end.say_farewell(LOSS)
    assert service_events(end) == []
    assert sent(end) == []
    assert (end.queued_bytes, end.outstanding, end.is_over) == (0, 0, True)


# -- the table ------------------------------------------------------------------------


def prepared(state: State) -> ServiceEnd:
    """An end in that state, with nothing left to be told or sent."""
    end = ServiceEnd(LIMITS)
    if state is State.NEW:
        return end
    if state is State.GREETED:
        end.receive_packet(HELLO)
    else:
        end = opened()
    if state is State.LOST:
        end.lose(LOSS)
    elif state is State.CLOSING:
        ask(end, ms.Close(9))
    elif state is State.OVER:
        end.say_farewell(LOSS)
    service_events(end)
    sent(end)
    return end


PACKETS = {Step.HELLO: HELLO, Step.REQUEST: CHECK, Step.CLOSE: CLOSE}


# What a peer may say, and what the service is told of it; in every other case it is done with.
ALLOWED: dict[tuple[State, Step], list[type]] = {
    (State.NEW, Step.HELLO): [Opened],
    (State.OPEN, Step.REQUEST): [Asked],
    (State.OPEN, Step.CLOSE): [Asked],
    (State.LOST, Step.REQUEST): [],
    (State.LOST, Step.CLOSE): [Asked],
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", PACKETS)
def test_what_a_peer_may_say(state: State, step: Step) -> None:
    end = prepared(state)
    end.receive_packet(PACKETS[step])
    if state is State.OVER:
        assert_is_over(end)
    elif (state, step) in ALLOWED:
        assert not end.is_over
        assert [type(event) for event in service_events(end)] == ALLOWED[state, step]
    else:
        assert "out of turn" in violation(end)


def test_the_table_has_nothing_else() -> None:
    own = {(State.GREETED, Step.WELCOME), (State.OPEN, Step.LOSE)}
    assert set(TRANSITIONS) == own | set(ALLOWED)


@pytest.mark.parametrize("state", State)
def test_when_the_service_may_welcome(state: State) -> None:
    end = prepared(state)
    if state is State.GREETED:
        end.welcome(service="q", lends=False)
        assert sent(end) == [ms.Welcome(1, (), "q", False)]
        ask(end, ms.Check(1))
        assert service_events(end) == [Asked(ms.Check(1))]
    elif state is State.OVER:
        end.welcome(service="q", lends=False)
        assert_is_over(end)
    else:
        with pytest.raises(RuntimeError):
            end.welcome(service="q", lends=False)
        assert sent(end) == []


@pytest.mark.parametrize("state", State)
def test_when_a_handle_can_be_lost(state: State) -> None:
    end = prepared(state)
    end.lose(LOSS)
    end.lose(NO_FLOW)
    lost = ms.Lost(1164, "ERROR_DEVICE_REINITIALIZATION_NEEDED", LOSS.detail)
    assert sent(end) == ([lost] if state is State.OPEN else [])


@pytest.mark.parametrize("state", State)
def test_a_farewell_can_be_said_at_any_time(state: State) -> None:
    end = prepared(state)
    end.say_farewell(NO_FLOW)
    assert service_events(end) == []
    farewell = ms.Farewell(1168, "ERROR_NOT_FOUND", NO_FLOW.detail)
    assert sent(end) == ([] if state is State.OVER else [farewell])
    assert_is_over(end)


@pytest.mark.parametrize("state", State)
def test_a_connection_can_end_at_any_time(state: State) -> None:
    end = prepared(state)
    end.receive_packet(b"")
    assert_is_over(end)


@pytest.mark.parametrize("state", [each for each in State if each is not State.OVER])
def test_garbage_at_any_time(state: State) -> None:
    end = prepared(state)
    end.receive_packet(b"\xff\x00")
    violation(end)


# -- requests ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", REQUESTS)
def test_every_request_reaches_the_service(make: Callable[[int], ms.Request]) -> None:
    end = opened()
    asked(end, make(5))
    end.answer(5, b"[1]")
    assert take_packet(end) == _answer(5, b"[1]")
    assert take_packet(end) is None


def _answer(request_id: int, value: bytes) -> bytes:
    return b'{"type":"answer","id":%d,"value":%b}' % (request_id, value)


def test_an_answer_byte_for_byte() -> None:
    end = opened()
    asked(end, ms.Check(5))
    end.answer(5, b'{"x": 1}')
    assert end.next_packet() == end.next_packet() == _answer(5, b'{"x": 1}')
    assert end.queued_bytes == len(_answer(5, b'{"x": 1}'))
    end.packet_sent()
    assert end.next_packet() is None
    assert end.queued_bytes == 0


def test_requests_are_told_in_order_and_answered_in_any() -> None:
    end = opened()
    for number in (3, 1, 2):
        ask(end, ms.Check(number))
    assert end.outstanding == 3
    assert service_events(end) == [Asked(ms.Check(3)), Asked(ms.Check(1)), Asked(ms.Check(2))]
    end.answer(2, NULL)
    end.refuse(3, NO_FLOW)
    end.answer(1, NULL)
    assert [reply.id for reply in sent(end) if isinstance(reply, ms.Answer | ms.Refused)] == [
        2,
        3,
        1,
    ]
    assert end.outstanding == 0


def test_a_request_ends_once() -> None:
    end = opened()
    asked(end, ms.Check(1))
    end.refuse(1, NO_FLOW)
    end.answer(1, NULL)
    end.refuse(1, NO_FLOW)
    end.postpone(1)
    end.answer(2, NULL)  # Never asked.
    assert sent(end) == [ms.Refused(1, 1168, "ERROR_NOT_FOUND", NO_FLOW.detail)]


def test_pending_is_told_once_and_before_the_end() -> None:
    end = opened()
    asked(end, ms.Notify(1, 9, 0, None))
    end.postpone(1)
    end.postpone(1)
    assert end.outstanding == 1
    end.answer(1, NULL)
    end.postpone(1)
    assert [type(reply) for reply in sent(end)] == [ms.Pending, ms.Answer]


def test_an_id_can_be_used_again_when_its_request_has_ended() -> None:
    end = opened()
    for _ in range(3):
        asked(end, ms.Check(1))
        end.answer(1, NULL)
    ask(end, ms.Check(1))
    ask(end, ms.SetDscp(1, 2, 3))
    assert "1 is under way" in violation(end)


def test_an_answer_that_fits_no_packet_is_refused() -> None:
    end = opened(PeerLimits())
    room = ms.MAX_ANSWER_BYTES - len(_answer(1, b'""'))
    for size in (room, room + 1):
        asked(end, ms.ListFlows(1))
        end.answer(1, b'"%b"' % (b"x" * size))
    first, second = sent(end)
    assert isinstance(first, ms.Answer)
    assert isinstance(second, ms.Refused)
    assert second.code == ErrorCode.ERROR_INSUFFICIENT_BUFFER
    assert end.outstanding == 0


def test_details_are_cut() -> None:
    end = opened(PeerLimits())
    asked(end, ms.Check(1))
    end.refuse(1, Refusal(ErrorCode.ERROR_GEN_FAILURE, "\0" * 100_000))
    (refused,) = sent(end)
    assert isinstance(refused, ms.Refused)
    assert refused.detail == "\0" * 1_024
    end.say_farewell(Refusal(ErrorCode.ERROR_GEN_FAILURE, "\udcff" * 100_000))
    (farewell,) = sent(end)
    assert isinstance(farewell, ms.Farewell)
    assert farewell.detail == "?" * 1_024


# -- the hello --------------------------------------------------------------------------


def test_features_are_those_of_both() -> None:
    end = ServiceEnd(LIMITS)
    end.receive_packet(ms.encode_packet(ms.Hello(7, ("b", "c", "x"), "")))
    service_events(end)
    end.welcome(service="", lends=False, features=("a", "b", "c"))
    assert sent(end) == [ms.Welcome(1, ("b", "c"), "", False)]


def test_a_second_hello() -> None:
    end = opened()
    end.receive_packet(HELLO)
    assert "out of turn" in violation(end)


# -- what a peer sends that it may not ----------------------------------------------------


def test_a_packet_that_was_cut() -> None:
    end = opened()
    end.receive_packet(CHECK, is_cut=True)
    assert "more than 4096 bytes" in violation(end)


def test_a_request_may_be_so_long() -> None:
    end = opened()
    asked_for = ms.StartTracking(1, "x" * (ms.MAX_REQUEST_BYTES - 45))
    data = ms.encode_packet(asked_for)
    data += b" " * (ms.MAX_REQUEST_BYTES - len(data))
    end.receive_packet(data)
    assert service_events(end) == [Asked(asked_for)]
    end.receive_packet(CHECK + b" " * (ms.MAX_REQUEST_BYTES + 1 - len(CHECK)))
    assert "more than 4096 bytes" in violation(end)


def most(message: ms.Request) -> int:
    """How many descriptors the page allows, in other words than the code's."""
    match message:
        case ms.AddSocket() | ms.RemoveSocket(whole=False) | ms.StartRun():
            return 1
        case _ if hasattr(message, "flow"):
            return 16
        case _:
            return 0


@pytest.mark.parametrize("make", REQUESTS)
def test_how_many_descriptors_may_come(make: Callable[[int], ms.Request]) -> None:
    message = make(5)
    for number in range(most(message) + 1):
        end = opened()
        asked(end, message, number)
    ask(end := opened(), message, most(message) + 1)
    assert f"{most(message) + 1} descriptors" in violation(end)


def test_no_descriptors_with_hello() -> None:
    end = ServiceEnd(LIMITS)
    end.receive_packet(HELLO, 1)
    violation(end)


def test_descriptors_without_a_message() -> None:
    end = opened()
    end.receive_packet(b"", 1)
    assert violation(end) == "descriptors without a message"


def test_what_came_before_a_violation_is_told() -> None:
    end = opened()
    ask(end, ms.Check(1))
    end.receive_packet(b"garbage")
    first, second = service_events(end)
    assert (first, type(second)) == (Asked(ms.Check(1)), Violated)
    end.answer(1, NULL)
    (farewell,) = sent(end)
    assert isinstance(farewell, ms.Farewell)


# -- what a peer can cost -----------------------------------------------------------------


def test_more_requests_than_may_wait_are_refused() -> None:
    end = opened()
    for number in range(1, LIMITS.outstanding + 1):
        asked(end, ms.Notify(number, 9, 0, None))
    ask(end, ms.Check(99))
    assert service_events(end) == []
    (refused,) = sent(end)
    assert isinstance(refused, ms.Refused)
    assert (refused.id, refused.code) == (99, ErrorCode.ERROR_NO_SYSTEM_RESOURCES)
    assert end.outstanding == LIMITS.outstanding
    # One that ends makes room; closing needs none.
    end.answer(1, NULL)
    asked(end, ms.Check(99))
    asked(end, ms.Close(100))


def test_one_that_does_not_read_is_not_read_from() -> None:
    end = opened()
    number = 0
    while [end.is_backed_up] == [False]:
        assert end.queued_bytes <= LIMITS.pause_bytes
        number += 1
        asked(end, ms.Check(number))
        end.answer(number, NULL)
    assert end.queued_bytes <= LIMITS.pause_bytes + len(_answer(number, NULL))
    assert not end.is_over
    # It goes on as soon as the peer reads.
    end.packet_sent()
    assert [end.is_backed_up] == [False]
    while end.next_packet() is not None:
        end.packet_sent()
    assert end.queued_bytes == 0


def test_what_is_queued_has_an_end() -> None:
    end = opened()
    last = 0
    while not end.is_over:
        last += 1
        ask(end, ms.Check(last))
        end.answer(last, NULL)
    events = service_events(end)
    assert isinstance(events[-1], Violated)
    assert "not read" in events[-1].reason
    assert end.queued_bytes < LIMITS.queue_bytes + 300
    replies = sent(end)
    assert isinstance(replies[-1], ms.Farewell)
    assert len(replies) == last + 1
    assert_is_over(end)


def test_what_is_refused_by_the_end_itself_has_an_end_too() -> None:
    # Neither is read by the service, so it must not be the service that notices.
    for prepare in (lambda end: end.lose(LOSS), _fill):
        end = opened()
        prepare(end)
        service_events(end)
        for number in range(100, 200):
            ask(end, ms.Check(number))
        assert end.is_over
        assert end.queued_bytes < LIMITS.queue_bytes + 400
        (violated,) = service_events(end)
        assert isinstance(violated, Violated)


def _fill(end: ServiceEnd) -> None:
    for number in range(1, LIMITS.outstanding + 1):
        ask(end, ms.Check(number))


def test_the_limits_leave_room_for_what_is_allowed() -> None:
    limits = PeerLimits()
    end = opened(limits)
    long = Refusal(ErrorCode.ERROR_OPERATION_ABORTED, "x" * 120)
    for number in range(1, 4_097):
        asked(end, ms.Notify(number, 9, 0, None))
    # All at once, and the peer reads nothing meanwhile.
    end.lose(LOSS)
    for number in range(1, 4_097):
        end.refuse(number, long)
    assert not end.is_over
    assert end.is_backed_up
    assert end.queued_bytes < limits.queue_bytes


# -- a lost handle, and closing -----------------------------------------------------------


def test_requests_of_a_lost_handle_are_refused_but_close() -> None:
    end = opened()
    asked(end, ms.Notify(1, 9, 0, None))
    end.lose(LOSS)
    ask(end, ms.Check(2))
    ask(end, ms.ListFlows(3))
    assert service_events(end) == []
    assert sent(end) == [
        ms.Lost(1164, "ERROR_DEVICE_REINITIALIZATION_NEEDED", LOSS.detail),
        ms.Refused(2, 1164, "ERROR_DEVICE_REINITIALIZATION_NEEDED", LOSS.detail),
        ms.Refused(3, 1164, "ERROR_DEVICE_REINITIALIZATION_NEEDED", LOSS.detail),
    ]
    # What was pending is still the service's to end.
    end.refuse(1, Refusal(ErrorCode.ERROR_OPERATION_ABORTED, ""))
    assert sent(end) == [ms.Refused(1, 995, "ERROR_OPERATION_ABORTED", "")]
    asked(end, ms.Close(4))
    end.answer(4, NULL)
    assert [type(reply) for reply in sent(end)] == [ms.Answer]
    assert_is_over(end)


@pytest.mark.parametrize("is_refused", [False, True])
def test_the_end_of_close_is_the_last_packet(is_refused: bool) -> None:
    end = opened()
    asked(end, ms.Notify(1, 9, 0, None))
    asked(end, ms.Close(2))
    assert not end.is_over
    if is_refused:
        end.refuse(2, NO_FLOW)
    else:
        end.answer(2, NULL)
    end.refuse(1, NO_FLOW)
    assert [type(reply) for reply in sent(end)] == [ms.Refused if is_refused else ms.Answer]
    assert_is_over(end)


def test_others_can_be_answered_before_close_is() -> None:
    end = opened()
    asked(end, ms.Notify(1, 9, 0, None))
    asked(end, ms.Close(2))
    end.refuse(1, NO_FLOW)
    end.answer(2, NULL)
    assert [type(reply) for reply in sent(end)] == [ms.Refused, ms.Answer]
