"""The engine at work: driven by calls, time and the kernel, in the library and in the service.

One engine serves all handles, so that two of them see each other's flows and cannot mark
one socket two ways. Each call is one step (`steps`): request in, kernel work done, answer
out.

Paths are measured by a `surveying.Surveyor`, made with the first adaptive flow or tracked
host; what it finds comes in as another input under the same lock.

A forked child has a copy of everything, and none of it is its own: whatever it asks is
refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.model.errors import Refusal
from openqwave.runtime.steps import WRONG_PROCESS, Directory, Steps
from openqwave.subsystem.requests import CloseHandle

if TYPE_CHECKING:
    from openqwave.admission.policy import Policy
    from openqwave.drivers.clock import Clock
    from openqwave.enforcement.backend import Backend
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.estimates import PathView
    from openqwave.model.path import PathFacts
    from openqwave.probing.sink_limits import SinkLimits
    from openqwave.runtime.pathmemory import PathMemory
    from openqwave.runtime.surveying import Surveyor
    from openqwave.subsystem.effects import Answer, Experiment
    from openqwave.subsystem.requests import Found

__all__ = ["Directory", "Runtime"]


class Runtime(Steps):
    """The engine with what it needs of the kernel.

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
        memory: PathMemory | None = None,
    ) -> None:
        """Start without handles.

        Args:
            policy: The administrator's decisions.
            directory: Finds sockets.
            backend: Carries out plans.
            clock: Tells the time and sleep; the kernel's clocks when None.
            first_flow_id: Where flow ids start.
            memory: Keeps what is found out of paths for the next run; nothing does when None.
        """
        super().__init__(policy, directory, backend, clock=clock, first_flow_id=first_flow_id)
        self._policy = policy
        self._memory = memory
        self._surveyor: Surveyor | None = None
        self._open_handles = 0

    def is_open(self) -> bool:
        """Has anybody a handle?"""
        return self._open_handles > 0

    def open_handle_for(self, owner: int, uid: int | None = None) -> int | Refusal:
        """A new handle's id, or ERROR_NO_SYSTEM_RESOURCES.

        Args:
            owner: The process whose handle it is.
            uid: The user whose limits hold for it; None for none.
        """
        if not self.belongs_here():
            return WRONG_PROCESS
        others: list[Answer] = []
        try:
            with self._lock:
                # A sleep before the handle was opened is none of its business.
                self._notice_sleep(*self._clock.read(), others)
                handle_id = self._engine.open_handle(owner, uid)
                if not isinstance(handle_id, Refusal):
                    self._open_handles += 1
                    if self._open_handles == 1:
                        self._come_alive()
        finally:
            self._hand_over(others)
        return handle_id

    def close(self) -> None:
        """End every handle, and the sink; the sockets get their own options back."""
        if not self.belongs_here():
            return
        self.stop_sink()
        for handle_id in self._engine.handle_ids():
            self.submit(handle_id, CloseHandle())
        # Nobody will come back for what stays warm.
        self.tell(lambda engine, now_ns: engine.receive_interruption(now_ns=now_ns))

    # -- policy -----------------------------------------------------------------------

    def set_policy(self, policy: Policy) -> None:
        """Go by other decisions of the administrator from now on.

        Flows get the marks of their types, paths are looked up anew, what was granted stays; see
        `Engine.receive_policy`. What is measured goes on with what it may cost from now on.

        Raises:
            InvalidParameter: A network of `policy.experiments` is none, or a number allows nothing;
                then nothing changes.
        """
        if not self.belongs_here():
            return
        # Also where nothing is measured yet: it says what is wrong with the policy.
        surveyor = self._survey()
        surveyor.obey(policy.experiments)
        self._policy = policy
        self.tell(lambda engine, now_ns: engine.receive_policy(policy, now_ns=now_ns))
        surveyor.locate_all()

    # -- paths ------------------------------------------------------------------------

    def find_path(self, host: Endpoint, namespace: int, interface: int = 0) -> Found:
        """How a host is reached from a namespace, and an interface if a socket is bound to one."""
        return self._survey().find(host.host(), namespace, interface)

    def _survey(self) -> Surveyor:
        # Of two that are made at once, nobody would close what the first has opened.
        with self._lock:
            if self._surveyor is None:
                # Its modules are many, and programs that only mark never need them.
                from openqwave.runtime.surveying import Surveyor

                self._surveyor = Surveyor(self, self._policy.experiments)
            return self._surveyor

    def _begin_experiments(self, effect: Experiment) -> None:
        self._survey().carry_out(effect)

    def receive_path_view(self, host: Endpoint, view: PathView | None) -> None:
        """What is known of the path to a host, from whoever measures it."""
        self.tell(lambda engine, now_ns: engine.receive_path_view(host, view, now_ns=now_ns))

    def recall(self, facts: PathFacts) -> None:
        """Experiments on a path begin: let the engine know what was known of it before."""
        view = None if self._memory is None else self._memory.recall(facts)
        if view is not None:
            self.tell(
                lambda engine, now_ns: engine.receive_recalled(facts.host, view, now_ns=now_ns)
            )

    def remember(self, facts: PathFacts, view: PathView) -> None:
        """Keep what experiments have found out of a path for the next run."""
        if self._memory is not None:
            self._memory.keep(facts, view)

    def see_to_timers(self) -> None:
        """Have somebody wait for the engine's timers; errors as with `Surveyor.wake`."""
        if self.until_timer_s() is not None:
            self._survey().wake()

    # -- the sink ---------------------------------------------------------------------

    def serve_sink(self, limits: SinkLimits) -> None:
        """Answer the experiments of other hosts from now on: those on the link, and allowed ones.

        It is begun by the thread that measures, which from now on stays. What is in the way (a
        program that has the port) is told by `sink_state`, and tried again every so often.

        Args:
            limits: What is granted at most; where others were, the sink begins anew.

        Raises:
            OSError: There is no descriptor for the thread.
            RuntimeError: There is no thread to be had.
        """
        if self.belongs_here():
            self._survey().serve_sink(limits)

    def stop_sink(self) -> None:
        """Answer nobody any more; harmless if nobody was. The port is closed a moment later."""
        with self._lock:
            surveyor = self._surveyor
        if surveyor is not None and self.belongs_here():
            surveyor.serve_sink(None)

    def sink_state(self) -> tuple[bool, str]:
        """Is a sink served, and if not, why not, as a sentence; empty if nobody wants one."""
        with self._lock:
            surveyor = self._surveyor
        return (False, "") if surveyor is None else surveyor.sink_state()

    # -- who is there -----------------------------------------------------------------

    def _let_go(self) -> None:
        """After the last handle nothing needs to be open."""
        self._open_handles -= 1
        if self._open_handles == 0:
            self._fall_silent()
            if self._surveyor is not None:
                self._surveyor.rest()

    def _come_alive(self) -> None:
        """The first handle was opened."""

    def _fall_silent(self) -> None:
        """The last handle was closed."""
