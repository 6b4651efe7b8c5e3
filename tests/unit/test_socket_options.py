"""Marks by socket options: order, ECN, restoring, conflicts; with real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from openqwave.admission.rights import Credentials
from openqwave.drivers.credentials import own_credentials
from openqwave.drivers.sockets import SocketDirectory
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import UNTOUCHED, Transport, Treatment
from openqwave.subsystem.effects import Applied, Share, SocketPlan
from tests.unit.loopback import (
    KINDS,
    Bench,
    Options,
    options_of,
    pacing_of,
    set_pacing,
    set_priority,
    set_tclass,
    set_tos,
)

VOICE, BULK, PLAIN = Treatment(56, 6), Treatment(8, 2), Treatment(0, 0)
HERE = Endpoint(bytes([127, 0, 0, 1]), 9)
# skb priority to band of pfifo_fast; IP_TOS resets SO_PRIORITY to a value from the TOS bits
# (net/ipv4/route.c, ip_tos2prio).
TOS_TO_PRIORITY = {0x00: 0, 0x08: 2, 0x10: 6, 0x18: 4, 0xE0: 0, 0xB8: 4}


class NoQueues:
    """Answers as an ordinary interface does."""

    def is_paced(self, destination: Endpoint, interface: int) -> bool:
        assert destination.port
        assert interface >= 0
        return False

    def linux_version(self) -> tuple[int, int]:
        return (6, 18)


class Rig:
    """The backend over sockets of a bench."""

    def __init__(self, sockets: Bench) -> None:
        self.sockets = sockets
        self.directory = SocketDirectory()
        self.backend = SocketOptions(self.directory, NoQueues())

    def put(self, sock: socket.socket) -> int:
        cookie = self.directory.cookie_of(sock)
        assert isinstance(cookie, int)
        self.directory.remember(cookie, sock)
        return cookie

    def socket(self, kind: str) -> tuple[socket.socket, int]:
        sock = self.sockets.make(kind)
        return sock, self.put(sock)

    def bring(
        self, cookie: int, *treatments: Treatment, sockets_in_flow: int = 1
    ) -> Refusal | None:
        """Treat one socket as flows of these treatments want it."""
        outcome = self.backend.apply((plan(cookie, *treatments, sockets_in_flow=sockets_in_flow),))
        return outcome if isinstance(outcome, Refusal) else None


def plan(cookie: int, *treatments: Treatment, sockets_in_flow: int = 1) -> SocketPlan:
    shares = tuple(
        Share(number, treatment, sockets_in_flow, (HERE,))
        for number, treatment in enumerate(treatments, 1)
    )
    return SocketPlan(cookie, shares)


@pytest.fixture
def rig(sockets: Bench) -> Rig:
    return Rig(sockets)


# -- marking --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "treatment", [VOICE, BULK, PLAIN, Treatment(46, 6), Treatment(63, 6)], ids=lambda t: f"{t.dscp}"
)
def test_every_option_holds_the_mark(rig: Rig, kind: str, treatment: Treatment) -> None:
    sock, cookie = rig.socket(kind)
    assert rig.bring(cookie, treatment) is None
    assert treatment.dscp is not None
    seen = options_of(sock)
    assert seen.tos == treatment.dscp << 2
    # A dual-stack socket needs both: what it sends to mapped peers is IPv4.
    assert seen.tclass == (treatment.dscp << 2 if sock.family == socket.AF_INET6 else None)
    # Writing IP_TOS resets the priority, so this holds only if priority was written last.
    assert seen.priority == treatment.queue_priority
    assert rig.backend.observe() == {cookie: treatment}


@pytest.mark.parametrize("kind", KINDS)
def test_options_come_back(rig: Rig, kind: str) -> None:
    # "No kernel state of the flow outlives it."
    sock, cookie = rig.socket(kind)
    set_tos(sock, 0x48)
    if sock.family == socket.AF_INET6:
        set_tclass(sock, 0x88)
    set_priority(sock, 3)
    before = options_of(sock)
    for treatment in (VOICE, BULK, VOICE):
        assert rig.bring(cookie, treatment) is None
        assert options_of(sock) != before
    assert rig.bring(cookie) is None
    assert options_of(sock) == before
    assert rig.backend.observe() == {}


@pytest.mark.parametrize("priority", range(7))
def test_every_free_priority_comes_back(rig: Rig, priority: int) -> None:
    sock, cookie = rig.socket("udp4")
    set_priority(sock, priority)
    for treatment in (VOICE, BULK, PLAIN):
        rig.bring(cookie, treatment)
    rig.bring(cookie)
    assert options_of(sock).priority == priority


@pytest.mark.parametrize("kind", ["udp4", "udp6", "udp6 to mapped"])
@pytest.mark.parametrize("ecn", range(4))
def test_udp_keeps_the_applications_ecn(rig: Rig, kind: str, ecn: int) -> None:
    # "Marking never changes the two ECN bits of a packet."
    sock, cookie = rig.socket(kind)
    set_tos(sock, 0x20 | ecn)
    if sock.family == socket.AF_INET6:
        set_tclass(sock, 0x40 | (3 - ecn))
    before = options_of(sock)
    rig.bring(cookie, VOICE)
    marked = options_of(sock)
    assert marked.tos == 56 << 2 | ecn
    assert marked.tclass in (None, 56 << 2 | (3 - ecn))
    rig.bring(cookie)
    assert options_of(sock) == before


@pytest.mark.parametrize("kind", ["tcp4 connected", "tcp6 connected"])
@pytest.mark.parametrize("ecn", range(4))
def test_tcps_ecn_is_its_own(rig: Rig, kind: str, ecn: int) -> None:
    sock, cookie = rig.socket(kind)
    own = options_of(sock).tos & 3
    set_tos(sock, 0x20 | ecn)
    before = options_of(sock)
    assert before.tos == 0x20 | own, "the kernel ignores ECN bits written to TCP"
    rig.bring(cookie, VOICE)
    assert options_of(sock).tos == 56 << 2 | own
    rig.bring(cookie)
    assert options_of(sock) == before


def test_applying_twice_changes_nothing(rig: Rig) -> None:
    sock, cookie = rig.socket("udp6")
    before = options_of(sock)
    for _ in range(3):
        rig.bring(cookie, VOICE)
    assert options_of(sock).tos == 56 << 2
    for _ in range(3):
        rig.bring(cookie)
    assert options_of(sock) == before


def test_an_untouched_socket_is_not_touched(rig: Rig) -> None:
    # By contract: "BestEffort 0 | none (packet untouched)".
    sock, cookie = rig.socket("udp4")
    set_tos(sock, 0x48)
    before = options_of(sock)
    rig.bring(cookie, UNTOUCHED)
    assert options_of(sock) == before
    # Also when it was marked before: the type was changed to best effort.
    rig.bring(cookie, VOICE)
    rig.bring(cookie, UNTOUCHED)
    assert options_of(sock) == before
    assert rig.backend.observe() == {}


def test_flows_that_want_the_same_share_a_socket(rig: Rig) -> None:
    sock, cookie = rig.socket("udp4")
    assert rig.bring(cookie, VOICE, VOICE) is None
    assert options_of(sock).tos == 56 << 2


@pytest.mark.parametrize(
    "pair", [(VOICE, BULK), (VOICE, UNTOUCHED), (UNTOUCHED, VOICE), (VOICE, Treatment(56, 6, 9))]
)
def test_flows_that_want_different_things_are_refused(
    rig: Rig, pair: tuple[Treatment, Treatment]
) -> None:
    # "lack of the mechanism: ERROR_NOT_SUPPORTED. Never a silent success".
    sock, cookie = rig.socket("udp4")
    rig.bring(cookie, VOICE)
    before = options_of(sock)
    refusal = rig.bring(cookie, *pair)
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED
    assert options_of(sock) == before
    assert rig.backend.observe() == {cookie: VOICE}


def test_remarking_is_refused(rig: Rig) -> None:
    sock, cookie = rig.socket("udp4")
    before = options_of(sock)
    refusal = rig.bring(cookie, Treatment(56, 6, 1_000, excess_is_remarked=True))
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED
    assert options_of(sock) == before


@pytest.mark.parametrize("case", ["two flows", "two sockets"])
def test_a_rate_is_for_one_socket_and_one_flow(rig: Rig, case: str) -> None:
    sock, cookie = rig.socket("tcp4 connected")
    before = options_of(sock)
    paced = Treatment(56, 6, 1_000_000)
    refusal = (
        rig.bring(cookie, paced, paced)
        if case == "two flows"
        else rig.bring(cookie, paced, sockets_in_flow=2)
    )
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED
    assert options_of(sock) == before


# -- all or nothing -------------------------------------------------------------------


def test_a_refused_plan_changes_no_socket(rig: Rig) -> None:
    first, second, third = (rig.socket("udp4") for _ in range(3))
    rig.bring(first[1], BULK)
    before = [options_of(sock) for sock, _ in (first, second, third)]
    outcome = rig.backend.apply(
        (plan(first[1], VOICE), plan(second[1], VOICE), plan(third[1], VOICE, BULK))
    )
    assert isinstance(outcome, Refusal)
    assert [options_of(sock) for sock, _ in (first, second, third)] == before
    assert rig.backend.observe() == {first[1]: BULK}
    rig.bring(first[1])
    assert options_of(first[0]).tos == 0


def test_gone_sockets_are_named(rig: Rig) -> None:
    first, second = rig.socket("udp4"), rig.socket("udp4")
    rig.bring(second[1], VOICE)
    for sock, _ in (first, second):
        sock.close()
    outcome = rig.backend.apply((plan(first[1], VOICE), plan(second[1])))
    assert outcome == Applied(frozenset({first[1], second[1]}))
    assert rig.backend.observe() == {}


def test_one_gone_socket_does_not_stop_the_others(rig: Rig) -> None:
    first, second = rig.socket("udp4"), rig.socket("udp4")
    first[0].close()
    assert rig.backend.apply((plan(first[1], VOICE), plan(second[1], VOICE))) == Applied(
        frozenset({first[1]})
    )
    assert options_of(second[0]).tos == 56 << 2


def test_clean_up_gives_everything_back(rig: Rig) -> None:
    made = [rig.socket(kind) for kind in KINDS]
    before = [options_of(sock) for sock, _ in made]
    for _, cookie in made:
        rig.bring(cookie, VOICE)
    rig.backend.clean_up()
    assert [options_of(sock) for sock, _ in made] == before
    assert rig.backend.observe() == {}


class Closing(socket.socket):
    """Closed by another thread between being found and being written to."""

    def setsockopt(self, *args: Any) -> None:  # noqa: ANN401 - whatever is written
        self.close()
        super().setsockopt(*args)


def test_a_socket_closed_in_the_middle_is_gone(rig: Rig) -> None:
    with Closing(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        cookie = rig.put(sock)
        assert rig.backend.apply((plan(cookie, VOICE),)) == Applied(frozenset({cookie}))


# -- the application's own word -------------------------------------------------------

Write: TypeAlias = "tuple[Callable[[socket.socket, int], None], int]"


def both(first: Write, second: Write) -> Callable[[socket.socket], None]:
    def write(sock: socket.socket) -> None:
        for option, value in (first, second):
            option(sock, value)

    return write


# What an application may do to its socket while it is marked. The same is done to a twin
# that no flow holds; in the end both have to look alike.
WRITES: dict[str, Callable[[socket.socket], None]] = {
    "tos": lambda sock: set_tos(sock, 0x48),
    "tos and priority": both((set_tos, 0x48), (set_priority, 5)),
    "priority": lambda sock: set_priority(sock, 1),
    "priority 0": lambda sock: set_priority(sock, 0),
    # TOS values from which the kernel derives a priority.
    "tos, low delay": lambda sock: set_tos(sock, 0x10),
    "tos, throughput": lambda sock: set_tos(sock, 0x08),
    "tos, expedited": lambda sock: set_tos(sock, 0xB8),
    "twice": both((set_tos, 0x48), (set_tos, 0x90)),
    "nothing": lambda _: None,
}
WRITES6: dict[str, Callable[[socket.socket], None]] = {
    "class": lambda sock: set_tclass(sock, 0x48),
    "both": both((set_tos, 0x24), (set_tclass, 0x48)),
    "class and priority": both((set_tclass, 0x48), (set_priority, 4)),
}
STARTS: dict[str, Callable[[socket.socket], None]] = {
    "plain": lambda _: None,
    "with its own marks": both((set_tos, 0x28), (set_priority, 4)),
}


def fate(rig: Rig, kind: str, *steps: Callable[[socket.socket], None]) -> tuple[Options, Options]:
    """A socket that is marked between the first step and the rest, and a twin that is not."""
    sock, cookie = rig.socket(kind)
    twin = rig.sockets.make(kind)
    for one in (sock, twin):
        steps[0](one)
    rig.bring(cookie, VOICE)
    for step in steps[1:]:
        for one in (sock, twin):
            step(one)
        rig.bring(cookie, BULK)
    rig.bring(cookie)
    return options_of(sock), options_of(twin)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("kind", ["udp4", "tcp4 connected", "udp6", "tcp6 connected"])
def test_its_last_word_is_kept(rig: Rig, kind: str, write: str, start: str) -> None:
    ours, twins = fate(rig, kind, STARTS[start], WRITES[write])
    assert ours == twins


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("write", WRITES6)
@pytest.mark.parametrize("kind", ["udp6", "tcp6 connected"])
def test_its_last_word_is_kept_v6(rig: Rig, kind: str, write: str, start: str) -> None:
    ours, twins = fate(rig, kind, STARTS[start], WRITES6[write])
    assert ours == twins


@pytest.mark.parametrize("first", WRITES)
@pytest.mark.parametrize("second", ["tos", "priority", "nothing"])
def test_its_last_word_survives_a_change_of_type(rig: Rig, first: str, second: str) -> None:
    ours, twins = fate(rig, "udp4", STARTS["plain"], WRITES[first], WRITES[second])
    assert ours == twins


@pytest.mark.parametrize("ecn", [1, 2, 3])
def test_an_ecn_written_meanwhile_is_kept(rig: Rig, ecn: int) -> None:
    # A program that sets ECN alone reads the octet, changes two bits and writes it back.
    sock, cookie = rig.socket("udp6")
    set_tos(sock, 0x20)
    set_tclass(sock, 0x40)
    rig.bring(cookie, VOICE)
    set_tos(sock, options_of(sock).tos | ecn)
    set_tclass(sock, (options_of(sock).tclass or 0) | ecn)
    rig.bring(cookie, BULK)
    assert (options_of(sock).tos, options_of(sock).tclass) == (0x20 | ecn, 0x20 | ecn)
    assert options_of(sock).tos >> 2 == 8
    rig.bring(cookie)
    assert (options_of(sock).tos, options_of(sock).tclass) == (0x20 | ecn, 0x40 | ecn)


def test_the_kernel_derives_priorities_as_these_tests_believe(sockets: Bench) -> None:
    for tos, priority in TOS_TO_PRIORITY.items():
        sock = sockets.make("udp4")
        set_tos(sock, 4)
        set_tos(sock, tos)
        assert options_of(sock).priority == priority


@pytest.mark.parametrize("how", ["before", "meanwhile", "meanwhile, raised"])
def test_its_own_pacing_is_kept(rig: Rig, how: str) -> None:
    sock, cookie = rig.socket("tcp4 connected")
    paced = Treatment(56, 6, 8_000_000)
    if how == "before":
        set_pacing(sock, 500_000)
    rig.bring(cookie, paced)
    if how == "before":
        # "An application that paces itself more slowly than its contract keeps its rate."
        assert pacing_of(sock) == 500_000
    else:
        set_pacing(sock, 500_000 if how == "meanwhile" else 5_000_000)
    rig.bring(cookie)
    assert pacing_of(sock) == (5_000_000 if how == "meanwhile, raised" else 500_000)


# -- a priority that only somebody with rights can write ------------------------------


def is_root() -> bool:
    return own_credentials() == Credentials(0, has_net_admin=True, groups=own_credentials().groups)


def as_user(body: Callable[[], bool]) -> bool:
    """Run something as an ordinary user, in a child process."""
    child = os.fork()
    if child == 0:
        good = False
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            good = body()
        finally:
            os._exit(0 if good else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


@pytest.mark.root
def test_a_high_priority_as_root(rig: Rig) -> None:
    sock, cookie = rig.socket("udp4")
    set_tos(sock, 0x20)
    set_priority(sock, 0x10010)
    before = options_of(sock)
    assert rig.bring(cookie, VOICE) is None
    assert options_of(sock).priority == 6
    assert rig.bring(cookie) is None
    assert options_of(sock) == before


@pytest.mark.root
def test_a_high_priority_as_a_user_is_refused_untouched(rig: Rig) -> None:
    sock, cookie = rig.socket("udp6")
    set_tos(sock, 0x20)
    set_priority(sock, 7)
    before = options_of(sock)

    def body() -> bool:
        refusal = rig.bring(cookie, VOICE)
        return refusal is not None and refusal.code is ErrorCode.ERROR_ACCESS_DENIED

    assert as_user(body)
    # The socket is shared with the child, so this sees what it did.
    assert options_of(sock) == before


@pytest.mark.root
def test_marking_needs_no_rights(rig: Rig) -> None:
    made = [rig.socket(kind) for kind in KINDS]
    before = [options_of(sock) for sock, _ in made]

    def body() -> bool:
        for sock, cookie in made:
            if rig.bring(cookie, VOICE) is not None or options_of(sock).tos >> 2 != 56:
                return False
            if rig.bring(cookie) is not None:
                return False
        return True

    assert as_user(body)
    assert [options_of(sock) for sock, _ in made] == before


# -- what is said of it -----------------------------------------------------------------


def test_tags_are_not_made_and_that_is_said(rig: Rig) -> None:
    # "QOSQueryPacketPriority reports what is really applied."
    sock, cookie = rig.socket("udp4")
    tagged = Treatment(56, 6, pcp=7)
    shares = (Share(3, VOICE, 1, (HERE,)), Share(4, tagged, 1, (HERE,)))
    assert rig.backend.apply((SocketPlan(cookie, shares),)) == Applied(untagged=frozenset({4}))
    assert options_of(sock).tos == 56 << 2
    assert rig.backend.observe() == {cookie: VOICE}


def test_the_mechanism_says_what_it_does(rig: Rig) -> None:
    _, cookie = rig.socket("tcp4 connected")
    marks = "marks by IP_TOS, IPV6_TCLASS and SO_PRIORITY of the sockets"
    pace = "the kernel's TCP paces by SO_MAX_PACING_RATE"
    said = [rig.backend.explain(cookie)]
    for treatment in (VOICE, Treatment(56, 6, 8_000_000), Treatment(rate_bps=8_000_000)):
        shares = (Share(1, treatment, 1, (HERE,)),)
        assert rig.backend.apply((SocketPlan(cookie, shares, Transport.TCP),)) == Applied()
        said.append(rig.backend.explain(cookie))
    assert {name for name, _ in said} == {"socket options"}
    how = [how for _, how in said]
    assert how == ["the sockets are as the program made them", marks, f"{marks}; {pace}", pace]
