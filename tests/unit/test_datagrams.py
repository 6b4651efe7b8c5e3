"""The socket of the experiments, over loopback."""

from __future__ import annotations

import gc
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from openqwave.drivers import trains
from openqwave.drivers.batches import MAX_MESSAGES, SendBatch
from openqwave.drivers.datagrams import BATCH, Marking, ProbeSocket
from openqwave.drivers.stamps import SO_TIMESTAMPING, Stamping
from openqwave.drivers.trains import SPIN_NS, SendFault, Train, Unsent
from openqwave.model.endpoint import Endpoint
from openqwave.probing.session import Arrival
from tests.unit.loopback import options_of

pytestmark = pytest.mark.usefixtures("fd_guard")

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
each_version = pytest.mark.parametrize("version", [4, 6])

# Loopback delivers within the call; this is for a machine that stands still.
PATIENCE_S = 20.0

SO_NO_CHECK = 11
IP_MTU_DISCOVER, IP_RECVERR, IP_PMTUDISC_PROBE = 10, 11, 3
IPV6_MTU_DISCOVER, IPV6_DONTFRAG = 23, 62
SOF_TIMESTAMPING_TX_SCHED = 1 << 8
# More than UDP can carry.
TOO_LARGE_BYTES = 65_508


def endpoint(version: int, port: int) -> Endpoint:
    return Endpoint(ip_address(LOOPBACK[version]).packed, port)


def copy_of(probe: ProbeSocket) -> socket.socket:
    """The same socket, to look at its options, or to set others."""
    return socket.socket(fileno=os.dup(probe.fileno()))


def receive(probe: ProbeSocket, count: int) -> list[tuple[bytes, Endpoint, Arrival]]:
    found: list[tuple[bytes, Endpoint, Arrival]] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < deadline:
        select.select([probe], [], [], 0.1)
        found += probe.receive_batch()
    return found


@pytest.fixture
def far(version: int) -> Iterator[ProbeSocket]:
    with ProbeSocket(version) as made:
        yield made


@pytest.fixture
def near(version: int) -> Iterator[ProbeSocket]:
    with ProbeSocket(version, receives=False) as made:
        yield made


# -- options --------------------------------------------------------------------------


@each_version
def test_the_options_of_a_probe(version: int) -> None:
    with ProbeSocket(version, hops=1) as probe, copy_of(probe) as sock:
        if version == 4:
            assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 1
            assert sock.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == IP_PMTUDISC_PROBE
            assert sock.getsockopt(socket.SOL_SOCKET, SO_NO_CHECK) == 1
        else:
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) == 1
            assert sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) == IP_PMTUDISC_PROBE
            assert sock.getsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG) == 1
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, SO_NO_CHECK) == 0
        ordinary = socket.socket(sock.family, socket.SOCK_DGRAM)
        with ordinary:
            usual = ordinary.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > usual
        assert probe.local_port == sock.getsockname()[1] > 0


@each_version
def test_the_priority_survives_the_mark(version: int) -> None:
    # Writing IP_TOS derives a priority of its own.
    with (
        ProbeSocket(version, marking=Marking(40 << 2, 6), receives=False) as probe,
        copy_of(probe) as sock,
    ):
        options = options_of(sock)
        assert (options.tos if version == 4 else options.tclass) == 160
        assert options.priority == 6


def test_a_port_that_is_taken() -> None:
    with ProbeSocket(4) as first, pytest.raises(OSError, match="in use"):
        ProbeSocket(4, port=first.local_port)


# -- there ----------------------------------------------------------------------------


@each_version
def test_datagrams_arrive_with_what_the_kernel_says_of_them(
    version: int, near: ProbeSocket, far: ProbeSocket
) -> None:
    before_ns = time.time_ns()
    departure = near.send_train([b"one", b"", b"three"], endpoint(version, far.local_port))
    found = receive(far, 3)
    after_ns = time.time_ns()
    assert departure.unsent is None
    assert [data for data, _, _ in found] == [b"one", b"", b"three"]
    assert {peer for _, peer, _ in found} == {endpoint(version, near.local_port)}
    stamps = [arrival.stamp_ns for _, _, arrival in found]
    assert before_ns <= stamps[0] <= stamps[1] <= stamps[2] <= after_ns
    assert {(arrival.traffic_class, arrival.hop_limit) for _, _, arrival in found} == {(0, 1)}


@each_version
def test_marks_and_hops_of_one_train(version: int, near: ProbeSocket, far: ProbeSocket) -> None:
    to = endpoint(version, far.local_port)
    near.send_train([b"marked"], to, hops=7, traffic_class=184)
    near.send_train([b"plain"], to)
    near.send(b"reply", to, 9)
    near.send(b"same", to, 1)
    assert [
        (data, arrival.traffic_class, arrival.hop_limit) for data, _, arrival in receive(far, 4)
    ] == [
        (b"marked", 184, 7),
        (b"plain", 0, 1),
        (b"reply", 0, 9),
        (b"same", 0, 1),
    ]


@each_version
def test_a_marking_is_on_every_datagram(version: int, far: ProbeSocket) -> None:
    with ProbeSocket(version, hops=3, marking=Marking(160, 6), receives=False) as near:
        near.send_train([b"a", b"b"], endpoint(version, far.local_port))
    arrivals = [arrival for _, _, arrival in receive(far, 2)]
    assert {(one.traffic_class, one.hop_limit) for one in arrivals} == {(160, 3)}


def test_a_mapped_peer_is_an_ipv4_peer() -> None:
    with ProbeSocket(4) as far, ProbeSocket(4, receives=False) as near:
        mapped = Endpoint(ip_address("::ffff:127.0.0.1").packed, far.local_port)
        assert near.send_train([b"x"], mapped).unsent is None
        assert [data for data, _, _ in receive(far, 1)] == [b"x"]


def test_a_peer_of_the_other_version_is_a_mistake() -> None:
    with ProbeSocket(4, receives=False) as near, pytest.raises(ValueError, match="IPv4"):
        near.send_train([b"x"], endpoint(6, 9))


@each_version
def test_batches_are_limited_and_go_on(version: int, near: ProbeSocket, far: ProbeSocket) -> None:
    payloads = [struct.pack("!I", turn) for turn in range(2 * BATCH + 5)]
    near.send_train(payloads, endpoint(version, far.local_port))
    # Loopback has delivered them all when the call returns.
    batches: list[list[bytes]] = []
    while batch := far.receive_batch(3 if not batches else BATCH + 1):
        batches.append([data for data, _, _ in batch])
    assert [len(batch) for batch in batches] == [3, BATCH, BATCH, 2]
    assert [data for batch in batches for data in batch] == payloads


def test_what_is_longer_than_any_message_is_counted_and_left_out() -> None:
    with ProbeSocket(4) as far, ProbeSocket(4, receives=False) as near:
        near.send_train([bytes(5000), b"short", bytes(2048)], endpoint(4, far.local_port))
        assert [len(data) for data, _, _ in receive(far, 2)] == [5, 2048]
        assert far.truncated == 1


def test_what_the_kernel_had_no_room_for_is_told() -> None:
    with ProbeSocket(4) as far, ProbeSocket(4, receives=False) as near:
        with copy_of(far) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert far.dropped == 0
        near.send_train([bytes(1000)] * 100, endpoint(4, far.local_port))
        arrived = 0
        while batch := far.receive_batch():
            arrived += len(batch)
        assert 0 < arrived < 100
        assert far.dropped == 100 - arrived


# -- trains ---------------------------------------------------------------------------


@each_version
def test_a_train_leaves_in_order_with_the_kernels_stamps(
    version: int, near: ProbeSocket, far: ProbeSocket
) -> None:
    before_ns = time.time_ns()
    payloads = [bytes([turn]) * 100 for turn in range(50)]
    departure = near.send_train(payloads, endpoint(version, far.local_port))
    after_ns = time.time_ns()
    assert departure.is_kernel == (True,) * 50
    stamps = departure.stamps_ns
    assert list(stamps) == sorted(set(stamps))
    assert before_ns <= stamps[0]
    assert stamps[-1] <= after_ns
    found = receive(far, 50)
    assert [data for data, _, _ in found] == payloads
    # Each enters the queue before it arrives.
    pairs = zip(stamps, found, strict=True)
    assert all(left < arrival.stamp_ns for left, (_, _, arrival) in pairs)


def test_a_train_of_more_than_one_call() -> None:
    count = MAX_MESSAGES + 100
    with ProbeSocket(4) as far, ProbeSocket(4, receives=False) as near:
        departure = near.send_train([b"x"] * count, endpoint(4, far.local_port))
        assert departure.unsent is None
        assert departure.is_kernel == (True,) * count
        assert len(receive(far, count)) == count


def test_numbers_of_stamps_go_on_over_trains() -> None:
    with ProbeSocket(4) as far, ProbeSocket(4, receives=False) as near:
        to = endpoint(4, far.local_port)
        last_ns = 0
        for wants_stamps in (True, False, True, True, False):
            departure = near.send_train([b"x"] * 3, to, wants_stamps=wants_stamps)
            assert departure.is_kernel == (wants_stamps,) * 3
            assert departure.stamps_ns[0] >= last_ns
            last_ns = departure.stamps_ns[-1]
            near.send(b"between", to, 1)


def test_a_paced_train_keeps_its_distance() -> None:
    gap_ns, count = 2_000_000, 6
    with ProbeSocket(4) as far, ProbeSocket(4, receives=False) as near:
        departure = near.send_train([b"x"] * count, endpoint(4, far.local_port), gap_ns)
    assert departure.is_kernel == (True,) * count
    span_ns = departure.stamps_ns[-1] - departure.stamps_ns[0]
    # The first may be stamped late (20 us were seen), none of the others early.
    assert span_ns > (count - 1) * gap_ns - 1_000_000
    assert span_ns < PATIENCE_S * 1e9


def test_without_kernel_stamps_the_clock_is_read_around_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def collect(_self: Stamping, _count: int) -> dict[int, int]:
        return {1: 77}

    monkeypatch.setattr(Stamping, "collect", collect)
    with ProbeSocket(4, receives=False) as near:
        for gap_ns in (0, 1000):
            before_ns = time.time_ns()
            departure = near.send_train([b"x"] * 4, endpoint(4, 9), gap_ns)
            after_ns = time.time_ns()
            assert departure.is_kernel == (False, True, False, False)
            first, kernels, *others = departure.stamps_ns
            assert kernels == 77
            assert before_ns <= first <= others[0] <= others[1] <= after_ns


# -- what cannot be sent --------------------------------------------------------------


@each_version
def test_a_train_ends_where_it_fails(version: int, near: ProbeSocket, far: ProbeSocket) -> None:
    to = endpoint(version, far.local_port)
    for gap_ns in (0, 1000):
        departure = near.send_train([b"a", b"b", bytes(TOO_LARGE_BYTES), b"d"], to, gap_ns)
        assert departure.unsent == Unsent(2, SendFault.TOO_LARGE)
        assert departure.is_kernel == (True, True)
        # Stamps of what follows are not those of what failed.
        before_ns = time.time_ns()
        departure = near.send_train([b"e", b"f"], to, gap_ns)
        assert departure.is_kernel == (True, True)
        assert before_ns <= departure.stamps_ns[0] < departure.stamps_ns[1] <= time.time_ns()
    assert [data for data, _, _ in receive(far, 8)] == [b"a", b"b", b"e", b"f"] * 2


def test_what_is_not_permitted() -> None:
    broadcast = Endpoint(ip_address("127.255.255.255").packed, 9)
    with ProbeSocket(4, receives=False) as near:
        departure = near.send_train([b"x"], broadcast)
        assert departure.unsent == Unsent(0, SendFault.NOT_PERMITTED)
        assert departure.stamps_ns == ()
        assert near.send(b"x", broadcast, 1) is SendFault.NOT_PERMITTED


def test_no_room_ends_a_train_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: SendBatch, _fd: int, _first: int, _count: int) -> int:
        raise BlockingIOError(11, "no room")

    rooms = iter([True, False])
    monkeypatch.setattr(SendBatch, "send", refuse)
    monkeypatch.setattr(Train, "_await_room", lambda _self: next(rooms))
    with ProbeSocket(4, receives=False) as near:
        departure = near.send_train([b"x"], endpoint(4, 9))
    assert departure.unsent == Unsent(0, SendFault.NO_BUFFERS)


def test_complaints_of_earlier_datagrams_stop_nothing() -> None:
    with ProbeSocket(4) as closed:
        nobody = endpoint(4, closed.local_port)
    with ProbeSocket(4) as far, ProbeSocket(4) as near:
        with copy_of(near) as sock:
            # As a system might have it by default; the socket itself does not ask for them.
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        to = endpoint(4, far.local_port)
        for wants_stamps in (True, False):
            # Looking for stamps would take the complaint off.
            near.send_train([b"lost"], nobody, wants_stamps=False)
            departure = near.send_train([b"a", b"b"], to, wants_stamps=wants_stamps)
            assert departure.unsent is None
            assert departure.is_kernel == (wants_stamps, wants_stamps)
            assert [data for data, _, _ in receive(far, 2)] == [b"a", b"b"]
            near.send_train([b"lost"], nobody, wants_stamps=False)
            far.send(b"back", endpoint(4, near.local_port), 1)
            assert [data for data, _, _ in receive(near, 1)] == [b"back"]


def test_the_error_queue_wakes_nobody_for_ever() -> None:
    with ProbeSocket(4) as far, ProbeSocket(4) as near:
        near.send_train([b"x"], endpoint(4, far.local_port))
        with copy_of(near) as sock:
            # A stamp that comes after the train was finished with.
            wanted = [
                (socket.SOL_SOCKET, SO_TIMESTAMPING, struct.pack("=I", SOF_TIMESTAMPING_TX_SCHED))
            ]
            sock.sendmsg([b"late"], wanted, 0, ("127.0.0.1", far.local_port))
        poll = select.poll()
        poll.register(near, select.POLLIN)
        assert poll.poll(0)
        assert near.receive_batch() == []
        assert poll.poll(0) == []


def test_datagrams_without_stamps_leave_nothing_behind() -> None:
    with ProbeSocket(4) as far, ProbeSocket(4) as near:
        to = endpoint(4, far.local_port)
        near.send_train([b"x"], to)
        near.send(b"y", to, 1)
        near.send_train([b"z"], to, wants_stamps=False)
        poll = select.poll()
        poll.register(near, select.POLLIN)
        assert poll.poll(0) == []
        assert len(receive(far, 3)) == 3


# -- pacing, in virtual time ----------------------------------------------------------


class VirtualTime:
    """Stands for the time module; looking at the clock takes a microsecond."""

    LOOK_NS = 1_000

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000
        self.slept_until_ns: list[int] = []
        self.switch_intervals_s: set[float] = set()

    def monotonic_ns(self) -> int:
        self.now_ns += self.LOOK_NS
        return self.now_ns

    def time_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        self.slept_until_ns.append(self.now_ns)
        self.switch_intervals_s.add(sys.getswitchinterval())


class VirtualBatch:
    """Sends nothing, and notes when; some sends take long."""

    def __init__(self, clock: VirtualTime, count: int, slow: dict[int, int]) -> None:
        self.clock, self.count, self.slow = clock, count, slow
        self.sent_ns: list[int] = []
        self.collected: list[bool] = []

    def send(self, _fd: int, first: int, count: int) -> int:
        assert (first, count) == (len(self.sent_ns), 1)
        self.sent_ns.append(self.clock.now_ns)
        self.clock.now_ns += self.slow.get(first, 0)
        self.collected.append(gc.isenabled())
        return 1


class NoStamps:
    """The stamps of a kernel that has none."""

    def begin(self, *, wanted: bool) -> None:
        assert wanted

    def sent(self, count: int) -> None:
        assert count == 1

    def collect(self, count: int) -> dict[int, int]:
        assert count
        return {}


def pace(
    monkeypatch: pytest.MonkeyPatch, gap_ns: int, slow: dict[int, int]
) -> tuple[VirtualTime, VirtualBatch]:
    clock = VirtualTime()
    batch = VirtualBatch(clock, 6, slow)
    monkeypatch.setattr(trains, "time", clock)
    train = Train(-1, NoStamps(), batch, gap_ns, wants_stamps=True)  # type: ignore[arg-type]  # stand-ins
    train.run()
    return clock, batch


def test_pacing_sleeps_and_is_awake_before_each(monkeypatch: pytest.MonkeyPatch) -> None:
    gap_ns = 1_000_000
    clock, batch = pace(monkeypatch, gap_ns, {})
    first_ns = batch.sent_ns[0]
    late_ns = [sent - first_ns - turn * gap_ns for turn, sent in enumerate(batch.sent_ns)]
    assert all(0 <= late <= 2 * VirtualTime.LOOK_NS for late in late_ns)
    early_ns = [
        first_ns + (turn + 1) * gap_ns - until for turn, until in enumerate(clock.slept_until_ns)
    ]
    assert len(early_ns) == 5
    assert all(abs(early - SPIN_NS) <= 2 * VirtualTime.LOOK_NS for early in early_ns)


def test_short_gaps_are_awake_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, batch = pace(monkeypatch, SPIN_NS // 2, {})
    assert clock.slept_until_ns == []
    assert len(batch.sent_ns) == 6


def test_lateness_does_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    gap_ns = 1_000_000
    _, batch = pace(monkeypatch, gap_ns, {1: 2_500_000})
    first_ns = batch.sent_ns[0]
    late_ns = [sent - first_ns - turn * gap_ns for turn, sent in enumerate(batch.sent_ns)]
    few_ns = 5 * VirtualTime.LOOK_NS
    # The third and fourth leave at once, the fifth is in time again.
    assert 1_500_000 <= late_ns[2] <= 1_500_000 + few_ns
    assert 500_000 <= late_ns[3] <= 500_000 + few_ns
    assert 0 <= late_ns[4] <= few_ns
    assert 0 <= late_ns[5] <= few_ns


def test_no_garbage_is_collected_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gc.isenabled()
    _, batch = pace(monkeypatch, 1_000_000, {})
    assert batch.collected == [False] * 6
    assert gc.isenabled()
    gc.disable()
    try:
        pace(monkeypatch, 1_000_000, {})
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_other_threads_do_not_hold_up_one_that_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    usual_s = sys.getswitchinterval()
    assert usual_s > 0.001
    clock, batch = pace(monkeypatch, 1_000_000, {})
    assert len(batch.sent_ns) == 6
    assert len(clock.switch_intervals_s) == 1
    assert max(clock.switch_intervals_s) < 0.001
    assert sys.getswitchinterval() == usual_s
    # Two at once: whoever began undoes it.
    with trains.waking_promptly():
        with trains.waking_promptly():
            pass
        assert sys.getswitchinterval() < usual_s
    assert sys.getswitchinterval() == usual_s


def test_the_threads_timers_are_as_before_afterwards() -> None:
    # This thread is the process's first, whose slack /proc tells.
    slack = Path("/proc/self/timerslack_ns")
    before = slack.read_text(encoding="ascii")
    with trains.punctual():
        assert int(slack.read_text(encoding="ascii")) == 1
    assert slack.read_text(encoding="ascii") == before
    assert int(before) > 1
