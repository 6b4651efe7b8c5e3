"""The engine's calls, time and kernel work, one step at a time.

A lock makes each input one step: input in, kernel work done, answers out. Answers to *other*
requests than the one at hand (a condition came true, an operation was aborted) are handed over
after the lock is let go, so that nobody's callback can come back in.

Before each step it is looked at whether the machine slept, of which nobody tells.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from openqwave.drivers.clock import Clock, SystemClock
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal, refusal_of_os_error
from openqwave.runtime.forks import fork_count, watch_forks
from openqwave.runtime.pending import Pending
from openqwave.runtime.sweeping import LONGEST_FOR_QUOTA_NS, LONGEST_NS, REST_PART, Sweep
from openqwave.subsystem.effects import (
    Answer,
    Applied,
    Apply,
    Effect,
    ReadTraffic,
    SocketPlan,
)
from openqwave.subsystem.engine import Engine
from openqwave.subsystem.requests import CloseHandle, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from openqwave.admission.policy import Policy
    from openqwave.drivers.sockets import SocketLike
    from openqwave.enforcement.backend import Backend
    from openqwave.model.sockets import SocketFacts
    from openqwave.model.traffic import FlowTraffic
    from openqwave.runtime.pending import Result
    from openqwave.subsystem.effects import Experiment

_T = TypeVar("_T")

# A shorter sleep than this is no suspend that a connection would notice; real ones take
# seconds.
_SHORTEST_SLEEP_NS = 100_000_000

# Two clock readings can be torn apart by the scheduler; the largest difference of a few
# is the true one (see `openqwave.drivers.clock`).
_BASELINE_READINGS = 3

_NS_PER_S = 1_000_000_000

_NOT_COUNTED: Final = Refusal(
    ErrorCode.ERROR_NOT_SUPPORTED,
    "nothing counts the packets of this flow; the service's program in the kernel does, of sockets "
    "in its network namespace",
)

WRONG_PROCESS: Final = Refusal(
    ErrorCode.ERROR_INVALID_HANDLE,
    "the handle belongs to the process that opened it; open one in this process",
)


class Directory(Protocol):
    """Describes sockets, and finds those that are in flows; see `openqwave.drivers.sockets`."""

    def describe(self, sock: SocketLike) -> SocketFacts | Refusal:
        """What the kernel says of a socket."""

    def cookie_of(self, sock: SocketLike) -> int | Refusal:
        """The kernel's name for a socket."""

    def take_in_hand(self, cookie: int, sock: SocketLike) -> None:
        """Remember the socket that a call names, until `put_down`."""

    def put_down(self) -> None:
        """The call that named a socket is over."""

    def forget(self, cookie: int) -> None:
        """The socket is in no flow any more."""

    def is_gone(self, cookie: int) -> bool:
        """Has the application closed the last descriptor of the socket?

        Raises:
            OSError: It could not be looked for.
        """


class Steps:
    """The engine, a lock, a clock, and what carries out plans.

    Attributes:
        directory: Describes sockets, and finds those that are in flows.
    """

    def __init__(
        self,
        policy: Policy,
        directory: Directory,
        backend: Backend,
        *,
        clock: Clock | None = None,
        first_flow_id: int = 1,
    ) -> None:
        """Start without handles; arguments as with `runtime.Runtime`."""
        self._forks = watch_forks()
        self._lock = threading.RLock()
        self._clock = clock or SystemClock()
        self.directory = directory
        self._backend = backend
        self._engine = Engine(policy, first_flow_id=first_flow_id)
        self._pending: dict[int, Pending] = {}
        self._next_request_id = 1
        self._asleep_ns = max(self._clock.read()[1] for _ in range(_BASELINE_READINGS))
        self._rounds = Sweep(LONGEST_NS)
        self._full = Sweep(LONGEST_FOR_QUOTA_NS, REST_PART)

    def belongs_here(self) -> bool:
        """Is this the process that made it, and not a fork of it?"""
        return self._forks == fork_count()

    def submit(
        self, handle_id: int, request: Request, brought: tuple[int, SocketLike] | None = None
    ) -> Result | Pending:
        """Put one request to the engine and do what it wants done.

        Args:
            handle_id: Through which handle.
            request: What is asked.
            brought: The cookie and the socket of a request that names one.

        Returns:
            The answer, or `Pending` when it comes later.
        """
        if self._forks != fork_count():
            # Before the lock: another thread may have held it when the process forked.
            return WRONG_PROCESS
        others: list[Answer] = []
        try:
            with self._lock:
                now_ns, asleep_ns = self._clock.read()
                if asleep_ns > self._asleep_ns:
                    self._notice_sleep(now_ns, asleep_ns, others)
                due_ns = self._engine.next_timer_ns()
                if due_ns is not None and due_ns <= now_ns:
                    self._carry_out(self._engine.handle_timer(now_ns=now_ns), others)
                if brought is None:
                    return self._put(handle_id, request, now_ns, others)
                return self._put_with_socket(handle_id, request, *brought, now_ns, others)
        finally:
            self._hand_over(others)

    def refuse_handle(self, handle_id: int) -> Refusal | None:
        """Is the handle fit for use? None means yes."""
        if not self.belongs_here():
            return WRONG_PROCESS
        others: list[Answer] = []
        try:
            with self._lock:
                self._notice_sleep(*self._clock.read(), others)
                return self._engine.refuse_handle(handle_id)
        finally:
            self._hand_over(others)

    def handle_timers(self) -> None:
        """Let the engine do what is due."""
        self.tell(_handle_timers)

    def notice_time(self) -> None:
        """Do what time asks for though nobody calls: learn of a suspend, and see to timers."""
        self.tell(_handle_timers)

    def until_timer_s(self) -> float | None:
        """How long until the engine has something to do by itself; None for ever."""
        with self._lock:
            due_ns = self._engine.next_timer_ns()
            now_ns, _ = self._clock.read()
        return None if due_ns is None else max(0.0, (due_ns - now_ns) / _NS_PER_S)

    def look(self, ask: Callable[[Engine], _T]) -> _T:
        """Ask the engine something that changes nothing."""
        with self._lock:
            return ask(self._engine)

    def look_beside(self, ask: Callable[[Engine, Backend], _T]) -> _T:
        """Ask the engine, and what carries out its plans, something that changes nothing."""
        with self._lock:
            return ask(self._engine, self._backend)

    def apply_beside(self, plan: SocketPlan, interface: int) -> Applied | Refusal | None:
        """Have a socket of our own treated that is in no flow; the engine knows nothing of it.

        Args:
            plan: What is wanted.
            interface: Where its packets leave.

        Returns:
            What became of it; None where packets get no tags there, and nothing was done.
        """
        with self._lock:
            return self._backend.apply((plan,)) if self._backend.tags_at(interface) else None

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """What was counted of flows; those of which nothing is counted are missing.

        Raises:
            OSError: The kernel could not be asked.
        """
        with self._lock:
            return self._backend.traffic(flow_ids)

    def tell(self, tell: Callable[[Engine, int], list[Effect]]) -> None:
        """Give the engine an input that is no request, with the time of now."""
        if not self.belongs_here():
            return
        answers: list[Answer] = []
        try:
            with self._lock:
                now_ns, asleep_ns = self._clock.read()
                if asleep_ns > self._asleep_ns:
                    self._notice_sleep(now_ns, asleep_ns, answers)
                self._carry_out(tell(self._engine, now_ns), answers)
        finally:
            self._hand_over(answers)

    def take_lost(self) -> list[int]:
        """The ids of handles that were lost since the last call and are open still, oldest first.

        A suspend loses all, an interface that is made anew those that used it.
        """
        with self._lock:
            return list(self._engine.take_lost())

    def sweep(self) -> None:
        """Drop sockets that applications have closed; looks at some of them, in turn."""
        self._drop_found(self._look_for_closed)

    def drop_closed(self) -> None:
        """Drop sockets that the kernel said are closed."""
        self._drop_found(self._backend.take_gone)

    def _look_for_closed(self) -> Collection[int]:
        found = self._rounds.look(self.directory, 0, self._engine.sockets)
        gone = set(self._backend.take_gone())
        return gone.union(each for each in found if not self._backend.outlives(each))

    def _drop_found(self, find: Callable[[], Collection[int]]) -> None:
        if not self.belongs_here():
            return
        others: list[Answer] = []
        try:
            with self._lock:
                self._drop(list(find()), others)
        finally:
            self._hand_over(others)

    def _put(
        self, handle_id: int, request: Request, now_ns: int, others: list[Answer]
    ) -> Result | Pending:
        """One request; answers to others are gathered."""
        request_id = self._next_request_id
        self._next_request_id += 1
        try:
            effects = self._engine.receive_request(request_id, handle_id, request, now_ns=now_ns)
            self._carry_out(effects, others)
        except BaseException:
            self._abandon()
            raise
        # The answer to the request itself is the last but for those that it brings to others.
        for place in range(len(others) - 1, -1, -1):
            if others[place].request_id == request_id:
                result = others.pop(place).result
                if type(request) is CloseHandle and not isinstance(result, Refusal):
                    self._let_go()
                return result
        pending = self._pending[request_id] = Pending(request_id)
        return pending

    def _put_with_socket(
        self,
        handle_id: int,
        request: Request,
        cookie: int,
        sock: SocketLike,
        now_ns: int,
        others: list[Answer],
    ) -> Result | Pending:
        """One request with the socket it names; a full quota is swept once."""
        directory = self.directory
        directory.take_in_hand(cookie, sock)
        try:
            result = self._put(handle_id, request, now_ns, others)
            if isinstance(result, Refusal):
                if result.code == ErrorCode.ERROR_NO_SYSTEM_RESOURCES and self._drop(
                    self._full.look(
                        directory, handle_id, lambda: self._engine.sockets_beside(handle_id)
                    ),
                    others,
                ):
                    result = self._put(handle_id, request, now_ns, others)
                if not self._engine.holds(cookie):
                    directory.forget(cookie)
        finally:
            directory.put_down()
        return result

    def _let_go(self) -> None:
        """A handle was closed."""

    def _begin_experiments(self, effect: Experiment) -> None:
        """Have something done about experiments."""
        raise NotImplementedError

    def _notice_sleep(self, now_ns: int, asleep_ns: int, others: list[Answer]) -> None:
        """Learn how long the machine has slept; a sleep loses every handle."""
        if asleep_ns - self._asleep_ns > _SHORTEST_SLEEP_NS:
            # Where this raises, the sleep is not noted, and the next call finds it again.
            self._carry_out(self._engine.receive_interruption(now_ns=now_ns), others)
        self._asleep_ns = max(asleep_ns, self._asleep_ns)

    def _traffic_of(self, flow_id: int) -> FlowTraffic | Refusal:
        try:
            counted = self._backend.traffic((flow_id,)).get(flow_id)
        except OSError as error:
            return refusal_of_os_error(error, "reading the kernel's counters failed")
        return _NOT_COUNTED if counted is None else counted

    def _abandon(self) -> None:
        """After Ctrl-C in the middle of a change: half a change is no change."""
        self._backend.apply(self._engine.abandon())

    def _drop(self, gone: list[int], others: list[Answer]) -> bool:
        """Drop sockets that the application has closed; were there any?"""
        if not gone:
            return False
        now_ns, _ = self._clock.read()
        self._carry_out(self._engine.receive_sockets_gone(gone, now_ns=now_ns), others)
        self._backend.apply(tuple([SocketPlan(cookie, ()) for cookie in gone]))
        for cookie in gone:
            self.directory.forget(cookie)
        return True

    def _hand_over(self, answers: list[Answer]) -> None:
        """Tell those who wait; without the lock, because they may come back with a call."""
        for answer in answers:
            # Nobody waits for the answer to a call that was interrupted after it was given.
            pending = self._pending.pop(answer.request_id, None)
            if pending is not None:
                pending.future.set_result(answer.result)

    def _carry_out(self, effects: list[Effect], answers: list[Answer]) -> None:
        """Do what the engine wants done; gather the answers."""
        while effects:
            following: list[Effect] = []
            for effect in effects:
                if isinstance(effect, Answer):
                    answers.append(effect)
                elif isinstance(effect, Apply):
                    # The last of the effects that it comes with.
                    following = self._apply(effect.plans)
                elif isinstance(effect, ReadTraffic):
                    answers.append(Answer(effect.request_id, self._traffic_of(effect.flow_id)))
                else:
                    self._begin_experiments(effect)
            effects = following

    def _apply(self, plans: tuple[SocketPlan, ...]) -> list[Effect]:
        """Have plans carried out; what the engine wants done thereafter."""
        try:
            outcome = self._backend.apply(plans)
        except BaseException:
            self._abandon()
            raise
        effects = self._engine.receive_applied(outcome)
        if isinstance(outcome, Applied):
            for plan in plans:
                if not plan.shares or plan.cookie in outcome.gone:
                    self.directory.forget(plan.cookie)
        return effects


def _handle_timers(engine: Engine, now_ns: int) -> list[Effect]:
    due_ns = engine.next_timer_ns()
    return [] if due_ns is None or due_ns > now_ns else engine.handle_timer(now_ns=now_ns)
