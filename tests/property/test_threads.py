"""Two threads and two handles: whatever they do at once, nothing is corrupted.

The threads start together and make a bounded number of random calls on sockets that they
share. What comes out differs from run to run; what has to hold does not.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import openqwave as qw
from openqwave.admission.policy import Experiments
from openqwave.client.embedded import Embedded
from openqwave.drivers.sockets import own_namespace
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.runtime.pending import Pending
from openqwave.runtime.surveying import Surveyor
from tests.unit.driven import ROOT, endpoint, view
from tests.unit.loopback import PORT, Bench, bench, options_of
from tests.unit.own_subsystem import open_in, own_subsystem

CALLS = 2_000
PATIENCE_S = 60.0
HERE = endpoint("127.0.0.1", 0)

# What a call may meet when somebody else changes the same flow or socket at the same time.
EXPECTED = (
    qw.AlreadyExists,
    qw.FlowNotFound,
    qw.InvalidParameter,
    qw.NetworkBusy,
    qw.NotSupported,
    qw.NoData,
    qw.RetryLater,
)


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Let threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def sockets() -> Iterator[Bench]:
    with bench() as made:
        yield made


class Caller:
    """One thread's random calls through one handle."""

    def __init__(self, host: Embedded, shared: list[socket.socket], seed: int) -> None:
        self.host, self.shared = host, shared
        self.random = random.Random(seed)
        self.qos = open_in(host)
        self.flows: list[qw.Flow] = []
        self.pending: list[Pending] = []

    def run(self, start: threading.Barrier) -> None:
        start.wait(PATIENCE_S)
        steps: list[Callable[[], object]] = [
            self.add,
            self.add,
            self.join,
            self.change,
            self.change,
            self.leave,
            self.end,
            self.wait,
            self.cancel,
            self.see,
            self.reopen,
        ]
        for _ in range(CALLS):
            try:
                self.random.choice(steps)()
            except EXPECTED:
                continue
        self.qos.close()

    def sock(self) -> socket.socket:
        return self.random.choice(self.shared)

    def flow(self) -> qw.Flow:
        if not self.flows:
            self.add()
        return self.random.choice(self.flows)

    def add(self) -> None:
        kind = self.random.choice(list(qw.TrafficType))
        self.flows.append(
            self.qos.add_socket(
                self.sock(),
                ("127.0.0.1", PORT + self.random.randrange(3)),
                traffic_type=kind,
                adaptive=self.random.random() < 0.5,
            )
        )

    def join(self) -> None:
        self.flow().add_socket(self.sock(), ("127.0.0.1", PORT + self.random.randrange(3)))

    def change(self) -> None:
        flow = self.flow()
        flow.set_traffic_type(self.random.choice(list(qw.TrafficType)))
        assert flow.packet_priority().conformant_dscp in {0, 8, 40, 56}

    def leave(self) -> None:
        self.flow().remove_socket(self.sock())

    def end(self) -> None:
        if self.flows:
            self.flows.pop(self.random.randrange(len(self.flows))).close()

    def wait(self) -> None:
        kind = self.random.choice([qw.NoticeKind.CONGESTED, qw.NoticeKind.UNCONGESTED])
        answer = self.qos.session.notify(self.flow().id, kind, None)
        if isinstance(answer, Pending):
            self.pending.append(answer)

    def cancel(self) -> None:
        if self.pending:
            self.qos.session.cancel(self.random.choice(self.pending).request_id)

    def see(self) -> None:
        self.host.receive_path_view(
            HERE, view(is_congested=self.random.choice([None, False, True]))
        )

    def reopen(self) -> None:
        if self.random.random() < 0.1:
            self.qos.close()
            self.qos, self.flows = open_in(self.host), []


def test_paths_are_looked_up_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Surveyor] = []

    def make(host: Embedded, policy: Experiments) -> Surveyor:
        made.append(Surveyor(host, policy))
        # The other thread comes for one meanwhile.
        time.sleep(0.05)
        return made[-1]

    start = threading.Barrier(2)

    def find(host: Embedded) -> None:
        start.wait(PATIENCE_S)
        host.find_path(HERE, own_namespace())

    with own_subsystem() as host:
        open_in(host)
        monkeypatch.setattr("openqwave.runtime.surveying.Surveyor", make)
        with ThreadPoolExecutor(2) as pool:
            for one in [pool.submit(find, host) for _ in range(2)]:
                one.result(PATIENCE_S)
    assert len(made) == 1


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_corrupted(sockets: Bench, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = [sockets.make("udp4") for _ in range(3)]
    before = [options_of(sock) for sock in shared]
    start = threading.Barrier(2)
    with own_subsystem() as host:
        host.receive_path_view(HERE, view())
        callers = [Caller(host, shared, 2 * seed + number) for number in range(2)]
        with ThreadPoolExecutor(2) as pool:
            ended = [pool.submit(caller.run, start) for caller in callers]
            for one in ended:
                one.result(PATIENCE_S)
        # Nothing of the flows is left on the sockets.
        assert [options_of(sock) for sock in shared] == before
        # Every request was answered, exactly once: a future takes no second result.
        answers = [pending.future.result(0) for caller in callers for pending in caller.pending]
        codes = {answer.code for answer in answers if isinstance(answer, Refusal)}
        assert codes <= {ErrorCode.ERROR_OPERATION_ABORTED, ErrorCode.ERROR_NOT_SUPPORTED}
        assert all(answer is None for answer in answers if not isinstance(answer, Refusal))
        # The registry is empty, and the subsystem is as good as new.
        watcher = open_in(host)
        flow = watcher.add_socket(
            shared[0],
            ("127.0.0.1", PORT),
            traffic_type=qw.TrafficType.VOICE,
            adaptive=False,
        )
        monkeypatch.setattr("openqwave.runtime.session.own_credentials", lambda: ROOT)
        assert watcher.flow_ids() == (flow.id,)
        assert options_of(shared[0]).tos == 56 << 2
    assert [options_of(sock) for sock in shared] == before
