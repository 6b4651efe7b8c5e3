"""What the service remembers of refusals: how much, in which order, of whom; and over a socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast
from unittest import mock

import pytest

from openqwave.admission.policy import Limits, Policy
from openqwave.ipc import messages as ms
from openqwave.ipc.asking import Answered, Farewelled, Refusing
from openqwave.ipc.pages import page_of, refusal_page
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.runtime.runtime import Runtime
from openqwave.service.peers import Peer
from openqwave.service.refusals import OF_A_USER, OF_ALL, UNHEARD, Refusals
from tests.unit.own_service import OwnService, own_service
from tests.unit.test_service_server import Client

BUSY = Refusal(ErrorCode.ERROR_NETWORK_BUSY, "the path has 3 Mbit/s to give")
DENIED = Refusal(ErrorCode.ERROR_ACCESS_DENIED, "an exact DSCP needs a right")
ANNA, BERT = 1000, 1001
SECOND_NS = 1_000_000_000


class Memory(Refusals):
    """With a clock of its own, and flows that go nowhere but where a test says."""

    def __init__(self, far_ends: dict[int, str] | None = None) -> None:
        self.now_ns = 0
        self.looked_up: list[tuple[int, int]] = []
        self._far_ends = far_ends or {}
        super().__init__(cast("Runtime", None), self._tick)

    def _tick(self) -> int:
        self.now_ns += SECOND_NS
        return self.now_ns

    def _far_end(self, owner: int, flow_id: int) -> str:
        self.looked_up.append((owner, flow_id))
        return self._far_ends.get(flow_id, "")

    def note(
        self,
        request: ms.Hello | ms.Request,
        refusal: Refusal = BUSY,
        *,
        uid: int = ANNA,
        pid: int = 7,
        program: str = "obs",
    ) -> None:
        identity = SimpleNamespace(program="python3.11")
        peer = SimpleNamespace(uid=uid, pid=pid, owner=pid, program=program, identity=identity)
        self.remember(cast("Peer", peer), request, refusal)

    def told(self, after: int = 0, uid: int | None = None) -> list[ms.RefusalRow]:
        return list(self.rows(after, uid))


def rate(flow: int, bps: int = 1) -> ms.SetRate:
    return ms.SetRate(1, flow, bps, 1, 0)


def test_all_of_it_is_remembered() -> None:
    memory = Memory({17: "192.0.2.7"})
    memory.note(rate(17))
    (row,) = memory.told()
    assert row == ms.RefusalRow(
        number=1,
        time_ns=SECOND_NS,
        pid=7,
        program="obs",
        user=row.user,
        uid=ANNA,
        request="set_rate",
        code=54,
        name="ERROR_NETWORK_BUSY",
        detail="the path has 3 Mbit/s to give",
        flow=17,
        host="192.0.2.7",
    )
    assert page_of(refusal_page(memory.told()), ms.RefusalRow) == ((row,), False)


@pytest.mark.parametrize(
    ("request_", "host"),
    [
        (ms.AddSocket(1, 0, 4, True, "192.0.2.7", 5004), "192.0.2.7:5004"),
        (ms.AddSocket(1, 0, 4, True, "2001:db8::7", 5004), "[2001:db8::7]:5004"),
        (ms.AddSocket(1, 0, 4, True, None, 0), None),
        (ms.StartTracking(1, "192.0.2.9"), "192.0.2.9"),
        (ms.StopTracking(1, "192.0.2.9"), "192.0.2.9"),
        (ms.StartTracking(1, "x" * 4_000), "x" * 64),
        (ms.Check(1), None),
    ],
)
def test_where_it_was_to_go(request_: ms.Request, host: str | None) -> None:
    memory = Memory()
    memory.note(request_)
    assert [(row.host, row.flow) for row in memory.told()] == [(host, None)]


def test_what_is_no_flow_is_not_looked_for() -> None:
    """A number that no page could hold would take the page from everybody."""
    memory = Memory()
    for flow in (0, -1, 1 << 53, 1 << 80):
        memory.note(ms.SetDscp(1, flow, 9), Refusal(ErrorCode.ERROR_NOT_FOUND, str(flow)))
    assert memory.looked_up == []
    assert [row.flow for row in memory.told()] == [None] * 4
    assert page_of(refusal_page(memory.told()), ms.RefusalRow)[0]


def test_again_in_the_same_words_is_one_that_counts() -> None:
    memory = Memory({1: "192.0.2.7"})
    for _ in range(3):
        memory.note(rate(1))
    memory.note(rate(2))
    memory.note(rate(1))
    rows = memory.told()
    assert [(row.flow, row.times, row.number, row.time_ns) for row in rows] == [
        (2, 1, 4, 4 * SECOND_NS),
        (1, 4, 5, 5 * SECOND_NS),
    ]
    assert [row.since_ns for row in rows] == [None, SECOND_NS]
    # Where it goes is looked up once.
    assert memory.looked_up == [(7, 1), (7, 2)]
    # What is not the same is not one: another process, another reason, another request.
    memory.note(rate(1), pid=8)
    memory.note(rate(1), DENIED)
    memory.note(ms.SetDscp(1, 1, 9), DENIED)
    assert [row.times for row in memory.told(5)] == [1, 1, 1]


def test_who_asks_again_gets_what_is_new() -> None:
    memory = Memory()
    for flow in range(1, 6):
        memory.note(rate(flow))
    assert [row.number for row in memory.told(3)] == [4, 5]
    assert memory.told(5) == []
    memory.note(rate(2))
    assert [(row.number, row.flow, row.times) for row in memory.told(5)] == [(6, 2, 2)]


def test_others_are_not_told() -> None:
    memory = Memory()
    memory.note(rate(1), uid=ANNA)
    memory.note(rate(2), uid=BERT)
    memory.note(rate(3), uid=ANNA)
    assert [row.flow for row in memory.told(uid=ANNA)] == [1, 3]
    assert [row.flow for row in memory.told(uid=BERT)] == [2]
    assert memory.told(uid=1002) == []
    assert [(row.flow, row.uid) for row in memory.told()] == [(1, ANNA), (2, BERT), (3, ANNA)]


def test_a_flood_of_one_user_pushes_out_nobody_elses() -> None:
    memory = Memory()
    memory.note(rate(1), uid=BERT)
    for flow in range(1, 10 * OF_ALL):
        memory.note(rate(flow), uid=ANNA)
    assert [row.flow for row in memory.told(uid=BERT)] == [1]
    flooded = memory.told(uid=ANNA)
    assert len(flooded) == OF_A_USER
    assert flooded[-1].flow == 10 * OF_ALL - 1


def test_of_all_there_are_so_many_and_those_with_most_lose_first() -> None:
    memory = Memory()
    users = OF_ALL // OF_A_USER
    for uid in range(users):
        for flow in range(OF_A_USER):
            memory.note(rate(flow + 1), uid=uid)
    for uid in range(users, users + OF_ALL):
        memory.note(rate(1), uid=uid)
        assert len(memory.told(uid=uid)) == 1
    left = memory.told()
    assert len(left) == OF_ALL
    # Everybody's one is kept before anybody's second.
    assert {row.uid for row in left} == set(range(users, users + OF_ALL))


def test_what_its_own_program_ended_is_no_refusal() -> None:
    memory = Memory()
    memory.note(ms.Notify(1, 1, 0, None), Refusal(ErrorCode.ERROR_OPERATION_ABORTED, "cancelled"))
    assert memory.told() == []


def test_what_it_calls_itself() -> None:
    memory = Memory()
    memory.note(rate(1), program="")
    memory.note(UNHEARD, program="")
    memory.note(ms.Hello(1, (), "obs"), program="obs")
    assert [(row.program, row.request) for row in memory.told()] == [
        ("python3.11", "set_rate"),
        ("", "hello"),
        ("obs", "hello"),
    ]


def test_a_sentence_has_an_end() -> None:
    memory = Memory()
    for end in ("a", "b"):
        memory.note(rate(1), Refusal(ErrorCode.ERROR_INVALID_PARAMETER, "x" * 5_000 + end))
    (row,) = memory.told()
    assert (len(row.detail), row.times) == (1_024, 2)


# -- over a socket ----------------------------------------------------------------------


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        yield sock


def remembered(service: OwnService) -> list[ms.RefusalRow]:
    return list(service.server.refusals.rows(0, None))


def test_a_request_that_is_refused_is_remembered(udp: socket.socket) -> None:
    with own_service() as service:
        client = Client(service.path)
        flow = client.add(udp)
        assert isinstance(client.ask(ms.Check(client.end.next_id())), Answered)
        assert remembered(service) == []
        answer = client.ask(ms.SetDscp(client.end.next_id(), flow, 64))
        assert isinstance(answer, Refusing)
        (row,) = remembered(service)
        assert (row.request, row.flow, row.host, row.program) == (
            "set_dscp",
            flow,
            "127.0.0.1:9",
            "a test",
        )
        assert (row.code, row.detail) == (int(answer.refusal.code), answer.refusal.detail)


def test_where_the_flow_of_somebody_else_goes_is_not_told(udp: socket.socket) -> None:
    with own_service() as service:
        flow = Client(service.path).add(udp)
        stranger = Client(service.path)
        peer = max(service.server.peers(), key=lambda each: each.opened_ns)
        with mock.patch.object(peer, "pid", peer.pid + 1):
            stranger.ask(ms.SetDscp(stranger.end.next_id(), flow, 9))
        (row,) = remembered(service)
        assert (row.flow, row.host, row.name) == (flow, None, "ERROR_NOT_FOUND")


def test_who_is_turned_away_is_remembered() -> None:
    with own_service(Policy(limits=Limits(handles=1))) as service:
        first = Client(service.path)
        second = Client(service.path, says_hello=False)
        second.sock.send(second.end.hello())
        assert isinstance(second.event(), Farewelled)
        (row,) = remembered(service)
        assert (row.request, row.program, row.name) == (
            "hello",
            "a test",
            "ERROR_NO_SYSTEM_RESOURCES",
        )
        first.close()


def test_a_page_has_an_end_and_the_next_goes_on() -> None:
    memory = Memory()
    for flow in range(1, OF_A_USER + 1):
        memory.note(rate(flow), Refusal(ErrorCode.ERROR_GEN_FAILURE, f"{flow} " + "x" * 1_000))
    after, found = 0, list[ms.RefusalRow]()
    more = True
    while more:
        rows, more = page_of(refusal_page(memory.rows(after, ANNA)), ms.RefusalRow)
        found += rows
        after = rows[-1].number
    assert [row.flow for row in found] == list(range(1, OF_A_USER + 1))


def test_requests_that_are_done_cost_nothing(udp: socket.socket) -> None:
    with own_service() as service, mock.patch.object(service.server.refusals, "remember") as asked:
        client = Client(service.path)
        flow = client.add(udp)
        for kind in (1, 2, 3):
            request = ms.SetTrafficType(client.end.next_id(), flow, kind)
            assert isinstance(client.ask(request), Answered)
        asked.assert_not_called()
        client.ask(ms.SetTrafficType(client.end.next_id(), flow, 9))
        asked.assert_called_once()
