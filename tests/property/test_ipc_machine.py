"""Both ends of the control protocol, joined, with packets on their way in both directions.

* Each request that a program makes ends exactly once: when it is answered or refused, when the
  handle is closed, or when the connection ends, however it ends; and never with another one's
  answer.
* As long as both ends keep to the protocol neither complains, whatever the order in which their
  packets cross.
* When one of them is sent anything else, both stay what they are: nothing but `ProtocolError` is
  raised, and what is over stays over.
* What a peer can cost is bounded, also when it reads nothing.

The model is the plainest one: a set of what is under way, and the packets in two lists. A program
that was interfered with may be told of requests that it never made.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec import Raw

from openqwave.ipc import asking, serving
from openqwave.ipc import messages as ms
from openqwave.ipc.errors import ProtocolError
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import QosError, Refusal
from tests.unit.joined_ends import (
    LOSS,
    NO_FLOW,
    REQUESTS,
    client_events,
    service_events,
    take_packet,
)

LIMITS = serving.PeerLimits(outstanding=2, pause_bytes=150, queue_bytes=900)
# Of the longest packets that are made here: a refusal for too many requests, a farewell.
LONGEST_BYTES = 300
ENDS = (asking.Answered, asking.Refusing)

# Few, so that numbers are used again while they are under way and after.
LAST_ID = 5
IDS = st.integers(1, LAST_ID)
MAKERS = [make for make in REQUESTS if not isinstance(make(1), ms.Close)]
# What most happens. Each rule begins with some: Hypothesis leaves out half of the rules in each
# example, and all of these are needed for anything to happen.
Steps: TypeAlias = list[tuple[str, int]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "hello",
                "welcome",
                "ask",
                "ask",
                "receive",
                "answer",
                "refuse",
                "postpone",
                "send",
                "hear",
            ]
        ),
        st.integers(0, 99),
    ),
    min_size=1,
    max_size=12,
)

VALID = [
    ms.encode_packet(packet)
    for packet in (
        ms.Hello(1, (), "x"),
        ms.Check(1),
        ms.Close(2),
        ms.SetDscp(3, 1, 1),
        ms.Welcome(1, (), "x", False),
        ms.Answer(1, Raw(b"1")),
        ms.Refused(2, 6, "x", "y"),
        ms.Pending(3),
        ms.Lost(6, "x", "y"),
        ms.Farewell(6, "x", "y"),
    )
]
# What may happen besides; seldom, so that a lot comes before it.
UPSETS = {
    0: "farewell",
    1: "something else for the service",
    2: "something else for the program",
}
ANYTHING = st.sampled_from(VALID) | st.binary(max_size=40)


class Ends(RuleBasedStateMachine):
    """Two ends and what is between them."""

    @initialize(is_open=st.integers(0, 3))
    def connect(self, is_open: int) -> None:
        self.client = asking.ClientEnd("x")
        self.service = serving.ServiceEnd(LIMITS)
        self.to_service: deque[tuple[bytes, ms.Hello | ms.Request]] = deque()
        self.to_client: deque[bytes] = deque()
        # What the program asked and has not heard the end of; the requests that were told to
        # the service and that it has not ended, and those of them that it has postponed.
        self.under_way: dict[int, ms.Request] = {}
        self.at_service: dict[int, ms.Request] = {}
        self.postponed: set[int] = set()
        self.answers: dict[int, list[bytes]] = {}
        self.is_greeted = self.is_opened = self.has_welcomed = self.is_welcomed = False
        self.is_lost = self.is_closing = False
        self.is_interfered_with = False
        self.answer_count = 0
        if is_open:
            self.say_hello()
            self.receive()
            self.welcome()
            self._all_is_heard()
            assert self.is_welcomed

    # -- the program --------------------------------------------------------------------

    def say_hello(self) -> None:
        if self.is_greeted or self.client.is_over:
            return
        self.is_greeted = True
        data = self.client.hello()
        self.to_service.append((data, ms.Hello(1, ms.FEATURES, "x")))

    def ask(self, number: int) -> None:
        if self.is_welcomed:
            self._ask(MAKERS[number % len(MAKERS)](1 + number % LAST_ID))

    def _ask(self, message: ms.Request) -> None:
        if self.is_closing or self.client.is_over:
            with pytest.raises(QosError):
                self.client.request(message)
        elif message.id in self.under_way:
            with pytest.raises(ValueError, match="is under way"):
                self.client.request(message)
        else:
            self.to_service.append((self.client.request(message), message))
            self.under_way[message.id] = message
            self.is_closing = isinstance(message, ms.Close)

    def hear(self) -> None:
        if self.to_client:
            self._hear(self.to_client.popleft())

    def _hear(self, data: bytes) -> None:
        was_over = self.client.is_over
        try:
            self.client.receive_packet(data)
        except ProtocolError:
            assert self.is_interfered_with
            assert not was_over
            assert self.client.is_over
        events = client_events(self.client)
        if was_over:
            assert events == []
        for event in events:
            if isinstance(event, ENDS):
                assert self.under_way.pop(event.request_id, None) is not None
                if isinstance(event, asking.Answered) and not self.is_interfered_with:
                    assert self.answers[event.request_id].pop(0) == event.raw
            elif isinstance(event, asking.Welcomed):
                assert not self.is_welcomed
                self.is_welcomed = True
            elif isinstance(event, asking.Postponed):
                assert event.request_id in self.under_way
            elif isinstance(event, asking.Farewelled):
                assert event is events[-1]
        if self.client.is_over:
            assert self.under_way == {}

    # -- the service ----------------------------------------------------------------------

    def receive(self) -> None:
        if not self.to_service or self.service.is_backed_up:
            return
        data, message = self.to_service.popleft()
        was_over = self.service.is_over
        is_full = self.service.outstanding >= LIMITS.outstanding
        self.service.receive_packet(data)
        events = self._service_events()
        if was_over:
            assert events == []
        elif self.is_interfered_with or self.service.is_over:
            return
        elif isinstance(message, ms.Hello):
            assert events == [serving.Opened(message)]
        elif not isinstance(message, ms.Close) and (self.is_lost or is_full):
            assert events == []
        else:
            assert events == [serving.Asked(message)]

    def _service_events(self) -> list[serving.Event]:
        events = service_events(self.service)
        for event in events:
            if isinstance(event, serving.Opened):
                self.is_opened = True
            elif isinstance(event, serving.Asked):
                assert event.request.id not in self.at_service
                self.at_service[event.request.id] = event.request
            else:
                assert event is events[-1]
                assert self.service.is_over
                assert self.is_interfered_with or self.service.queued_bytes > LIMITS.queue_bytes
        self._bury()
        return events

    def _bury(self) -> None:
        if self.service.is_over:
            self.at_service.clear()
            self.postponed.clear()

    def welcome(self) -> None:
        if not self.is_opened:
            return
        self.is_opened = False
        self.has_welcomed = True
        self.service.welcome(service="s", lends=False)

    def end_request(self, number: int, *, is_refused: bool) -> None:
        if not self.at_service:
            return
        number = sorted(self.at_service)[number % len(self.at_service)]
        message = self.at_service.pop(number)
        self.postponed.discard(number)
        self._end(message, is_refused=is_refused)
        queued_bytes = self.service.queued_bytes
        # Another end is none.
        self.service.answer(number, b"0")
        self.service.refuse(number, NO_FLOW)
        self.service.postpone(number)
        assert self.service.queued_bytes == queued_bytes
        self._service_events()

    def _end(self, message: ms.Request, *, is_refused: bool) -> None:
        number = message.id
        if is_refused:
            self.service.refuse(number, NO_FLOW)
        else:
            self.answer_count += 1
            value = b"%d" % self.answer_count
            self.answers.setdefault(number, []).append(value)
            self.service.answer(number, value)
        if isinstance(message, ms.Close):
            assert self.service.is_over

    def postpone(self, number: int) -> None:
        if not self.at_service:
            return
        number = sorted(self.at_service)[number % len(self.at_service)]
        before = self.service.queued_bytes
        self.service.postpone(number)
        assert (self.service.queued_bytes == before) is (number in self.postponed)
        self.postponed.add(number)
        self._service_events()

    def send(self) -> None:
        packet = take_packet(self.service)
        if packet is not None:
            assert len(packet) <= LONGEST_BYTES
            self.to_client.append(packet)

    # -- both ---------------------------------------------------------------------------

    @rule(steps=STEPS)
    def go_on(self, steps: Steps) -> None:
        for what, number in steps:
            match what:
                case "hello":
                    self.say_hello()
                case "welcome":
                    self.welcome()
                case "ask":
                    self.ask(number)
                case "receive":
                    self.receive()
                case "answer" | "refuse":
                    self.end_request(number, is_refused=what == "refuse")
                case "postpone":
                    self.postpone(number)
                case "send":
                    self.send()
                case "hear":
                    self.hear()
            self.costs_are_bounded()

    # -- what ends it all -----------------------------------------------------------------

    @precondition(lambda self: self.is_welcomed and self.answer_count)
    @rule(steps=STEPS, number=IDS, is_done_first=st.booleans())
    def ask_to_close(self, steps: Steps, number: int, is_done_first: bool) -> None:
        self.go_on(steps)
        self._ask(ms.Close(number))
        if not is_done_first:
            return
        while self.to_service:
            self._all_is_heard()
            self.receive()
        for message in list(self.at_service.values()):
            if isinstance(message, ms.Close):
                del self.at_service[message.id]
                self._end(message, is_refused=False)
                self._service_events()
        self._all_is_heard()

    @precondition(lambda self: self.has_welcomed and self.answer_count)
    @rule(steps=STEPS)
    def lose(self, steps: Steps) -> None:
        self.go_on(steps)
        # When it is closing there is nothing to be lost any more.
        closes = any(isinstance(one, ms.Close) for one in self.at_service.values())
        self.is_lost |= not closes
        self.service.lose(LOSS)
        self._service_events()

    @precondition(lambda self: self.is_welcomed)
    @rule(
        steps=STEPS,
        what=st.integers(0, 29),
        data=ANYTHING,
        number=IDS,
        descriptors=st.integers(0, 17),
    )
    def upset(self, steps: Steps, what: int, data: bytes, number: int, descriptors: int) -> None:
        self.go_on(steps)
        match UPSETS.get(what):
            case "farewell":
                self.service.say_farewell(Refusal(ErrorCode.ERROR_RESOURCE_DISABLED, "bye"))
            case "something else for the service":
                self.is_interfered_with = True
                self.service.receive_packet(data, descriptors, is_cut=not number % 5)
            case "something else for the program":
                self.is_interfered_with = True
                self._hear(data)
        self._service_events()

    # -- always ---------------------------------------------------------------------------

    @invariant()
    def costs_are_bounded(self) -> None:
        assert 0 <= self.service.queued_bytes <= LIMITS.queue_bytes + 2 * LONGEST_BYTES
        # One more for closing.
        assert self.service.outstanding <= LIMITS.outstanding + 1
        assert self.service.outstanding == len(self.at_service)
        assert (self.service.queued_bytes == 0) is (self.service.next_packet() is None)

    @precondition(lambda self: self.is_welcomed)
    @rule(steps=STEPS)
    def everything_arrives(self, steps: Steps) -> None:
        self.go_on(steps)
        while self.to_service or self.at_service:
            if self.to_service:
                self.receive()
            for number in sorted(self.at_service):
                message = self.at_service.pop(number, None)
                if message is not None:
                    self.postponed.discard(number)
                    self._end(message, is_refused=False)
                    self._service_events()
            self._all_is_heard()
        self._all_is_heard()
        if not self.is_interfered_with:
            assert self.under_way == {}

    def _all_is_heard(self) -> None:
        self.to_client += iter(lambda: take_packet(self.service), None)
        while self.to_client:
            self._hear(self.to_client.popleft())

    def teardown(self) -> None:
        """The connection ends in the midst of it all."""
        self._hear(b"")
        self.service.receive_packet(b"")
        assert self._service_events() == []
        assert self.under_way == {}
        assert self.client.is_over
        assert self.service.is_over
        assert self.service.outstanding == 0


Ends.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestEnds = Ends.TestCase
