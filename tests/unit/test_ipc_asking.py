"""The program's end of a connection: what it may ask, what it is told, how everything ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import Raw

from openqwave.ipc import messages as ms
from openqwave.ipc.asking import (
    TRANSITIONS,
    Answered,
    ClientEnd,
    Event,
    Farewelled,
    HandleLost,
    Postponed,
    Refusing,
    State,
    Welcomed,
)
from openqwave.ipc.errors import ProtocolError
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import (
    InvalidHandle,
    InvalidParameter,
    NoSystemResources,
    QosError,
    Refusal,
    ReinitializationNeeded,
)
from tests.unit.joined_ends import LOSS, NULL, REQUESTS, JoinedEnds, client_events

WELCOME = ms.Welcome(1, (), "qwaved 1", False)
LOST = ms.Lost(1164, "ERROR_DEVICE_REINITIALIZATION_NEEDED", LOSS.detail)
FULL = Refusal(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "too many connections")
FAREWELL = ms.Farewell(1450, "ERROR_NO_SYSTEM_RESOURCES", FULL.detail)
ABORTED = ms.Refused(1, 995, "ERROR_OPERATION_ABORTED", "cancelled")


def opened() -> ClientEnd:
    end = ClientEnd("a program")
    end.hello()
    hear(end, WELCOME)
    return end


def hear(end: ClientEnd, *replies: ms.Reply) -> list[Event]:
    for reply in replies:
        end.receive_packet(ms.encode_packet(reply))
    return client_events(end)


def answer(request_id: int, value: bytes = NULL) -> ms.Answer:
    return ms.Answer(request_id, Raw(value))


def asking(*numbers: int) -> ClientEnd:
    """An end with requests under way."""
    end = opened()
    for number in numbers:
        end.request(ms.Check(number))
    return end


def assert_is_over(end: ClientEnd, error: type[QosError]) -> None:
    """Nothing comes any more, and nothing can be asked."""
    assert end.is_over
    for reply in (WELCOME, FAREWELL, answer(1)):
        assert hear(end, reply) == []
    end.receive_packet(b"\xff")
    end.receive_packet(b"")
    assert client_events(end) == []
    with pytest.raises(error):
        end.request(ms.Check(77))


def broken(end: ClientEnd, data: bytes) -> list[Event]:
    """What becomes of an end that is told what may not be said."""
    with pytest.raises(ProtocolError):
        end.receive_packet(data)
    events = client_events(end)
    gone = events[-1]
    assert isinstance(gone, Farewelled)
    assert gone.refusal.code is ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
    assert_is_over(end, ReinitializationNeeded)
    return events


# -- opening ----------------------------------------------------------------------------


def test_hello() -> None:
    end = ClientEnd("x" * 100, ("a", "b"))
    assert ms.decode_request(end.hello()) == ms.Hello(1, ("a", "b"), "x" * 64)
    with pytest.raises(RuntimeError):
        end.hello()


def test_a_program_whose_name_is_no_text() -> None:
    assert ms.decode_request(ClientEnd("caf\udce9").hello()) == ms.Hello(1, ms.FEATURES, "caf?")


def test_nothing_is_asked_before_the_welcome() -> None:
    end = ClientEnd("")
    for _ in range(2):
        with pytest.raises(RuntimeError):
            end.request(ms.Check(1))
        if not end.is_over:
            end = ClientEnd("")
            end.hello()
    hear(end, WELCOME)
    assert ms.decode_request(end.request(ms.Check(1))) == ms.Check(1)


def test_the_welcome() -> None:
    end = ClientEnd("", ("a", "b"))
    end.hello()
    welcome = ms.Welcome(1, ("b",), "qwaved 1", True)
    assert hear(end, welcome) == [Welcomed(welcome)]
    assert not end.is_over
    assert end.refusal is None


@pytest.mark.parametrize(
    "welcome", [ms.Welcome(2, (), "", False), ms.Welcome(1, ("x",), "", False)]
)
def test_a_welcome_to_what_was_not_offered(welcome: ms.Welcome) -> None:
    end = ClientEnd("", ("a",))
    end.hello()
    broken(end, ms.encode_packet(welcome))


def test_being_turned_away() -> None:
    end = ClientEnd("")
    end.hello()
    assert hear(end, FAREWELL) == [Farewelled(FULL)]
    assert_is_over(end, NoSystemResources)


# -- the table ----------------------------------------------------------------------------


def prepared(state: State) -> ClientEnd:
    if state is State.NEW:
        return ClientEnd("")
    if state is State.GREETING:
        end = ClientEnd("")
        end.hello()
        return end
    end = opened()
    if state is State.LOST:
        hear(end, LOST)
    elif state is State.CLOSING:
        end.request(ms.Close(9))
    elif state is State.OVER:
        hear(end, FAREWELL)
    return end


TOLD: dict[type, tuple[ms.Reply, Event]] = {
    ms.Welcome: (WELCOME, Welcomed(WELCOME)),
    ms.Lost: (LOST, HandleLost(LOSS)),
    ms.Farewell: (FAREWELL, Farewelled(FULL)),
}


# What the service may say, and whether it is the end.
ALLOWED: dict[tuple[State, type], bool] = {
    (State.GREETING, ms.Welcome): False,
    (State.GREETING, ms.Farewell): True,
    (State.OPEN, ms.Lost): False,
    (State.OPEN, ms.Farewell): True,
    (State.LOST, ms.Farewell): True,
    # It was on its way when close was asked for.
    (State.CLOSING, ms.Lost): False,
    (State.CLOSING, ms.Farewell): True,
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", TOLD)
def test_what_the_service_may_say_unasked(state: State, kind: type) -> None:
    end = prepared(state)
    reply, event = TOLD[kind]
    if state is State.OVER:
        assert hear(end, reply) == []
    elif (state, kind) in ALLOWED:
        assert event in hear(end, reply)
        assert end.is_over is ALLOWED[state, kind]
    else:
        broken(end, ms.encode_packet(reply))


def test_the_table_has_nothing_else() -> None:
    assert set(TRANSITIONS) == set(ALLOWED)


@pytest.mark.parametrize("state", [each for each in State if each is not State.OVER])
@pytest.mark.parametrize("reply", [answer(1), ABORTED, ms.Pending(1)])
def test_answers_to_what_was_not_asked(state: State, reply: ms.Reply) -> None:
    broken(prepared(state), ms.encode_packet(reply))


@pytest.mark.parametrize("state", [each for each in State if each is not State.OVER])
@pytest.mark.parametrize("data", [b"\xff", b"{}", b" " * (ms.MAX_ANSWER_BYTES + 1)])
def test_garbage(state: State, data: bytes) -> None:
    broken(prepared(state), data)


def test_the_longest_answer() -> None:
    end = asking(1)
    data = ms.encode_packet(answer(1))
    end.receive_packet(data + b" " * (ms.MAX_ANSWER_BYTES - len(data)))
    assert client_events(end) == [Answered(1, NULL)]


# -- requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", REQUESTS)
def test_every_request_can_be_asked_and_answered(make: Callable[[int], ms.Request]) -> None:
    end = opened()
    message = make(5)
    assert end.request(message) == ms.encode_packet(message)
    assert hear(end, answer(5, b'{"x": 1}')) == [Answered(5, b'{"x": 1}')]


def test_ids_are_given_out_in_order() -> None:
    end = opened()
    assert [end.next_id() for _ in range(3)] == [1, 2, 3]


def test_an_id_is_used_once_at_a_time() -> None:
    end = asking(1)
    with pytest.raises(ValueError, match="1 is under way"):
        end.request(ms.SetDscp(1, 2, 3))
    assert hear(end, answer(1)) == [Answered(1, NULL)]
    end.request(ms.SetDscp(1, 2, 3))


def test_a_request_that_fits_no_packet_is_not_asked() -> None:
    end = opened()
    room = ms.MAX_REQUEST_BYTES - len(ms.encode_packet(ms.StartTracking(1, "")))
    with pytest.raises(InvalidParameter):
        end.request(ms.StartTracking(1, "x" * (room + 1)))
    assert len(end.request(ms.StartTracking(1, "x" * room))) == ms.MAX_REQUEST_BYTES


def test_refusals_and_what_waits() -> None:
    end = asking(1, 2)
    told = hear(end, ms.Pending(1), answer(2), ABORTED)
    assert told == [
        Postponed(1),
        Answered(2, NULL),
        Refusing(1, Refusal(ErrorCode.ERROR_OPERATION_ABORTED, "cancelled")),
    ]


def test_a_request_is_pending_once() -> None:
    end = asking(1)
    assert hear(end, ms.Pending(1)) == [Postponed(1)]
    events = broken(end, ms.encode_packet(ms.Pending(1)))
    assert [type(event) for event in events] == [Refusing, Farewelled]


def test_a_request_ends_once() -> None:
    end = asking(1)
    assert hear(end, answer(1)) == [Answered(1, NULL)]
    assert [type(event) for event in broken(end, ms.encode_packet(ABORTED))] == [Farewelled]


def test_a_code_of_later_times() -> None:
    end = asking(1)
    (event,) = hear(end, ms.Refused(1, 99_999, "ERROR_OF_LATER_TIMES", "try tomorrow"))
    assert event == Refusing(
        1, Refusal(ErrorCode.ERROR_GEN_FAILURE, "ERROR_OF_LATER_TIMES (99999): try tomorrow")
    )


# -- ends -----------------------------------------------------------------------------------


def test_a_farewell_ends_what_is_under_way() -> None:
    end = asking(2, 1)
    assert hear(end, ms.Pending(1), FAREWELL) == [
        Postponed(1),
        Refusing(2, FULL),
        Refusing(1, FULL),
        Farewelled(FULL),
    ]
    assert_is_over(end, NoSystemResources)


def test_a_service_that_is_gone_without_a_word() -> None:
    end = asking(1)
    end.receive_packet(b"")
    refusing, gone = client_events(end)
    assert isinstance(refusing, Refusing)
    assert isinstance(gone, Farewelled)
    assert refusing.refusal == gone.refusal == end.refusal
    assert gone.refusal.code is ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED
    assert_is_over(end, ReinitializationNeeded)


def test_a_service_that_talks_nonsense_ends_what_is_under_way() -> None:
    events = broken(asking(1, 2), b"nonsense")
    assert [type(event) for event in events] == [Refusing, Refusing, Farewelled]


def test_a_lost_handle_can_only_be_closed() -> None:
    joined = JoinedEnds().open()
    joined.say(ms.Check(1))
    joined.service.lose(LOSS)
    assert joined.hear() == [HandleLost(LOSS)]
    assert joined.say(ms.Check(2)) == []
    assert joined.hear() == [Refusing(2, LOSS)]
    joined.say(ms.Close(3))
    joined.service.answer(3, NULL)
    refusing, answered = joined.hear()
    assert isinstance(refusing, Refusing)
    assert (refusing.request_id, refusing.refusal.code) == (1, ErrorCode.ERROR_OPERATION_ABORTED)
    assert answered == Answered(3, NULL)
    assert_is_over(joined.client, InvalidHandle)


@pytest.mark.parametrize(
    "reply", [answer(9), ms.Refused(9, 6, "ERROR_INVALID_HANDLE", "it is closed")]
)
def test_closing_ends_everything(reply: ms.Answer | ms.Refused) -> None:
    end = asking(1, 2)
    end.request(ms.Close(9))
    with pytest.raises(InvalidHandle):
        end.request(ms.Check(3))
    # What was on its way is told still.
    assert hear(end, answer(2), ms.Pending(1)) == [Answered(2, NULL), Postponed(1)]
    aborted, closed = hear(end, reply)
    assert isinstance(aborted, Refusing)
    assert (aborted.request_id, aborted.refusal.code) == (1, ErrorCode.ERROR_OPERATION_ABORTED)
    assert isinstance(closed, Answered | Refusing)
    assert closed.request_id == 9
    assert_is_over(end, InvalidHandle)


def test_a_service_that_is_gone_while_it_was_to_close() -> None:
    end = opened()
    end.request(ms.Close(9))
    end.receive_packet(b"")
    refusing, gone = client_events(end)
    assert isinstance(refusing, Refusing)
    assert isinstance(gone, Farewelled)
    assert_is_over(end, ReinitializationNeeded)
