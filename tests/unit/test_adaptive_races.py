"""Many threads at once on one path: what is promised is promised once."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

import openqwave as qw
from openqwave.enforcement.memory import Memory
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import RateReason, Shaping
from openqwave.runtime.pending import Pending, Result
from tests.unit.driven import endpoint, view
from tests.unit.loopback import Bench
from tests.unit.own_subsystem import open_in, own_subsystem

HERE = endpoint("127.0.0.1", 0)
MBIT = 1_000_000
THREADS = 6
ROUNDS = 200
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Let threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def test_of_many_for_the_last_megabit_one_wins(sockets: Bench) -> None:
    with own_subsystem(backend=Memory()) as host, ThreadPoolExecutor(THREADS) as pool:
        flows = [open_in(host).add_socket(sockets.make("udp4 connected")) for _ in range(THREADS)]
        start = threading.Barrier(THREADS)
        for _ in range(ROUNDS):
            host.receive_path_view(HERE, view(available_bps=MBIT))

            def ask(flow: qw.Flow) -> bool:
                start.wait(PATIENCE_S)
                try:
                    flow.set_rate(MBIT)
                except qw.NetworkBusy:
                    return False
                return True

            # Who comes last to the barrier goes first.
            random.shuffle(flows)
            granted = list(pool.map(ask, flows, timeout=PATIENCE_S))
            assert sum(granted) == 1
            winner = flows[granted.index(True)]
            assert winner.rate_bps() == winner.path().held_bps == MBIT
            winner.set_rate(0)
        assert host.look(lambda engine: engine.next_timer_ns()) is None


def test_of_many_that_waited_for_it_one_wins(sockets: Bench) -> None:
    # Some ask while the numbers come, some have waited, and some give up at the same time.
    with own_subsystem(backend=Memory()) as host, ThreadPoolExecutor(THREADS + 1) as pool:
        flows = [open_in(host).add_socket(sockets.make("udp4 connected")) for _ in range(THREADS)]
        start = threading.Barrier(THREADS + 1)

        def ask(flow: qw.Flow) -> object:
            session = flow.session
            start.wait(PATIENCE_S)
            answer = session.set_rate(
                flow.id, MBIT, Shaping.SHAPE_AND_MARK, RateReason.NOT_APPLICABLE, is_overlapped=True
            )
            if not isinstance(answer, Pending):
                return answer
            if flow is flows[0]:
                session.cancel(answer.request_id)
            return answer.future.result(PATIENCE_S)

        def tell() -> None:
            start.wait(PATIENCE_S)
            host.receive_path_view(HERE, view(available_bps=MBIT))

        for _ in range(ROUNDS):
            host.receive_path_view(HERE, view())
            telling = pool.submit(tell)
            answers = list(pool.map(ask, flows, timeout=PATIENCE_S))
            telling.result(PATIENCE_S)
            codes = [one.code if isinstance(one, Refusal) else None for one in answers]
            assert codes.count(None) == 1
            assert set(codes) <= {
                None,
                ErrorCode.ERROR_NETWORK_BUSY,
                ErrorCode.ERROR_OPERATION_ABORTED,
            }
            # Only the one that gave up can have been aborted.
            assert ErrorCode.ERROR_OPERATION_ABORTED not in codes[1:]
            flows[codes.index(None)].set_rate(0)


def keep(results: list[object], future: Future[Result]) -> None:
    results.append(future.result())


def test_of_cancel_and_answer_one_happens(sockets: Bench) -> None:
    with own_subsystem(backend=Memory()) as host, ThreadPoolExecutor(2) as pool:
        flow = open_in(host).add_socket(sockets.make("udp4 connected"))
        session, start = flow.session, threading.Barrier(2)
        for _ in range(ROUNDS):
            host.receive_path_view(HERE, view())
            answer = session.set_rate(
                flow.id, MBIT, Shaping.SHAPE_AND_MARK, RateReason.NOT_APPLICABLE, is_overlapped=True
            )
            assert isinstance(answer, Pending)
            # A future takes no second result, and neither does this list.
            results: list[object] = []
            answer.future.add_done_callback(partial(keep, results))

            def cancel(request_id: int = answer.request_id) -> Refusal | None:
                start.wait(PATIENCE_S)
                return session.cancel(request_id)

            def tell() -> None:
                start.wait(PATIENCE_S)
                host.receive_path_view(HERE, view(available_bps=MBIT))

            cancelling, telling = pool.submit(cancel), pool.submit(tell)
            refusal = cancelling.result(PATIENCE_S)
            telling.result(PATIENCE_S)
            (result,) = results
            if refusal is None:
                assert isinstance(result, Refusal)
                assert result.code is ErrorCode.ERROR_OPERATION_ABORTED
                with pytest.raises(qw.NoData):
                    flow.rate_bps()
            else:
                assert result is None
                assert flow.rate_bps() == MBIT
                flow.set_rate(0)
