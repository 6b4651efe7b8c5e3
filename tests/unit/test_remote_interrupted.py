"""Ctrl-C at every line of a call to the service: the handle goes on, and nothing is left behind."""

from __future__ import annotations

import contextlib
import dis
import linecache
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest

from openqwave.client import connection, deliveries, packets, underway
from openqwave.client.remote import RemoteSession
from openqwave.ipc import asking
from openqwave.ipc import messages as ms
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
from openqwave.runtime.pending import Pending
from tests.unit.far_end import PATIENCE_S, FarEnd, Reply, joined
from tests.unit.test_client_remote import await_no_thread

MODULES = {module.__file__ for module in (connection, deliveries, packets, underway, asking)}
RATE = (Shaping.SHAPE_ONLY, RateReason.CONGESTION)
SLEPT = Refusal(ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED, "the machine slept")
OVER = Refusal(ErrorCode.ERROR_OPERATION_ABORTED, "the operation ended")


class CtrlC:
    """Interrupts the calling thread at a line of `MODULES`, counted from 1."""

    def __init__(self, line: int) -> None:
        self._left = line
        self.was_sent = False

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ANN401 - as settrace has it
        del argument
        if frame.f_code.co_filename not in MODULES:
            return None
        if event == "line" and not _is_no_place(frame):
            self._left -= 1
            if self._left == 0:
                self.was_sent = True
                raise KeyboardInterrupt
        return self._trace


def _is_no_place(frame: FrameType) -> bool:
    """Does the interpreter handle no signals there?

    It does after calls and at the ends of loops, so not where a ``try`` begins, or between the
    last steps of a ``with`` statement.
    """
    operation = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    is_with = text.lstrip().startswith("with ")
    return operation == "NOP" or (
        is_with and not operation.startswith(("LOAD_FAST", "LOAD_GLOBAL"))
    )


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for what another thread hands over would wait for long."""
    monkeypatch.setattr(deliveries, "_PATIENCE_S", 2 * PATIENCE_S)


@dataclass
class Stage:
    """A session, its far end, a flow's socket, and what is pending beforehand."""

    session: RemoteSession
    far: FarEnd
    sock: socket.socket
    pending: list[Pending]

    def add(self) -> object:
        return self.session.add_socket(0, self.sock, None, TrafficType.VOICE, is_adaptive=False)

    def wait(self) -> object:
        return self.session.notify(1, NoticeKind.CONGESTED, None)


@contextlib.contextmanager
def stage(*, pending: bool) -> Iterator[Stage]:
    with (
        joined() as (session, far),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        far.replies[ms.Notify] = far.replies[ms.SetRate] = "pending"
        made = Stage(session, far, sock, [])
        if pending:
            waiting = made.wait()
            assert isinstance(waiting, Pending)
            made.pending.append(waiting)
        yield made


def in_between(made: Stage) -> None:
    """The answer comes after a result that somebody else waits for."""

    def reply(request: ms.Request) -> Reply:
        del request
        if made.pending:
            made.far.refuse(made.pending[0].request_id, OVER)
        return b"null"

    made.far.replies[ms.SetDscp] = reply


# What is done, and whether something is pending beforehand.
CALLS: dict[str, tuple[Callable[[Stage], object], bool]] = {
    "add": (Stage.add, False),
    "add while pending": (Stage.add, True),
    "notify": (Stage.wait, False),
    "notify while pending": (Stage.wait, True),
    "set rate": (lambda s: s.session.set_rate(1, 5, *RATE), False),
    "set DSCP": (lambda s: s.session.set_dscp(1, 5), False),
    "set DSCP while pending": (lambda s: s.session.set_dscp(1, 5), True),
    "remove": (lambda s: s.session.remove_socket(1, s.sock), False),
}


def run(made: Stage, call: Callable[[Stage], object], line: int) -> tuple[bool, object]:
    """Make a call that is interrupted at a line; tell whether it was, and its result if not."""
    ctrl_c = CtrlC(line)
    try:
        with ctrl_c:
            result = call(made)
    except KeyboardInterrupt:
        return True, None
    # Where it came after everything was done, or was swallowed, which would be wrong.
    assert not ctrl_c.was_sent
    return False, result


def lines() -> Iterator[int]:
    yield from range(1, 2_000)
    pytest.fail("the call has no end")


@pytest.mark.parametrize("name", CALLS)
def test_interrupted_calls(name: str) -> None:
    call, pending = CALLS[name]
    for line in lines():
        with stage(pending=pending) as made:
            was_interrupted, result = run(made, call, line)
            if was_interrupted and not pending:
                # Nothing is waited for that was never sent.
                await_no_thread()
            # The handle goes on.
            assert made.session.refuse() is None, line
            if was_interrupted:
                # Nothing is there that nobody knows of.
                known = {one.request_id for one in made.pending}
                made.far.await_until(
                    lambda: made.far.flows == set() and made.far.pending == known  # noqa: B023 - at once
                )
            else:
                made.pending += [result] if isinstance(result, Pending) else []
            # Who waited waits still, and gets its result.
            for waiting in made.pending:
                assert not waiting.future.done()
                made.far.refuse(waiting.request_id, OVER)
                assert waiting.future.result(PATIENCE_S) == OVER
            await_no_thread()
            if not was_interrupted:
                assert line > 20
                return


@pytest.mark.parametrize("name", ["in between", "cancel", "lost"])
def test_results_of_others_are_not_lost(name: str) -> None:
    calls: dict[str, Callable[[Stage], object]] = {
        "in between": lambda s: s.session.set_dscp(1, 5),
        "cancel": lambda s: s.session.cancel(s.pending[0].request_id),
        "lost": lambda s: s.session.set_traffic_type(1, TrafficType.VOICE),
    }
    for line in lines():
        with stage(pending=True) as made:
            in_between(made)
            made.far.replies[ms.SetTrafficType] = SLEPT
            was_interrupted, _ = run(made, calls[name], line)
            lost = made.session.refuse()
            if name == "lost" and lost is None:
                # It was interrupted before it was sent.
                assert made.session.set_traffic_type(1, TrafficType.VOICE) == SLEPT
            elif name != "lost":
                assert lost is None, line
            if was_interrupted and not made.pending[0].future.done():
                # Neither asked nor told.
                made.far.refuse(made.pending[0].request_id, OVER)
            result = made.pending[0].future.result(PATIENCE_S)
            assert isinstance(result, Refusal)
            assert result.code is ErrorCode.ERROR_OPERATION_ABORTED
            await_no_thread()
            if not was_interrupted:
                return


def test_an_interrupted_close_can_be_made_again() -> None:
    for line in lines():
        with stage(pending=True) as made:
            was_interrupted, _ = run(made, lambda s: s.session.close(), line)
            again = made.session.close()
            assert again is None or again.code is ErrorCode.ERROR_INVALID_HANDLE
            assert made.far.is_ended.wait(PATIENCE_S)
            result = made.pending[0].future.result(PATIENCE_S)
            assert isinstance(result, Refusal)
            assert result.code is ErrorCode.ERROR_OPERATION_ABORTED
            await_no_thread()
            if not was_interrupted:
                return


def test_ctrl_c_while_an_answer_is_waited_for() -> None:
    with stage(pending=False) as made:
        interrupted: list[object] = []
        main = threading.get_ident()

        def interrupt(request: ms.Request) -> Reply:
            interrupted.append(request)
            # As the terminal does it: the wait in the kernel is cut short.
            signal.pthread_kill(main, signal.SIGINT)
            return None

        made.far.replies[ms.AddSocket] = interrupt
        with pytest.raises(KeyboardInterrupt):
            made.add()
        (request,) = interrupted
        assert isinstance(request, ms.AddSocket)
        made.far.flows.add(7)
        made.far.answer(request.id, b"7")
        made.far.await_until(lambda: made.far.flows == set())
        assert made.session.refuse() is None
