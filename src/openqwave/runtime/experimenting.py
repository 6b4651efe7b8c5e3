"""Sessions towards sinks, one for each path that is measured; for the thread that measures.

Each session happens in the thread of an `ExperimentHost`, and what it says comes back here through
the surveyor's queue. What it found out is told to the subsystem, which also keeps it for its next
run; and as experiments on a path begin, it is reminded of what it knew.

**Failure.** A session that cannot be begun ends alone; an experiment host that broke is replaced.
"""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING

from openqwave.drivers.experiments import ExperimentHost
from openqwave.drivers.mailbox import Mailbox
from openqwave.model.errors import QosError, Refusal
from openqwave.model.estimates import Congestion, Unmeasurable
from openqwave.probing.budget import Budget
from openqwave.probing.outcomes import Ended, Failed
from openqwave.probing.progress import Wish
from openqwave.probing.tracking import CongestionTold, Effort, Tracking
from openqwave.probing.tracking import Estimated as Told
from openqwave.runtime.probetags import ProbeTags
from openqwave.subsystem.effects import (
    Experiment,
    MeasureAfresh,
    SetEffort,
    StartExperiments,
    StopExperiments,
)
from openqwave.subsystem.findings import HOST_IS_OVER, obstacle_of, obstacle_of_error, view_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.admission.policy import Experiments
    from openqwave.drivers.experiments import Running
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.path import PathFacts
    from openqwave.probing.session import Event
    from openqwave.runtime.runtime import Runtime

# Books of paths that are not measured any more are looked through when there are so many: those in
# which nothing stands are of no use.
_MANY_BUDGETS = 64


class _Forwarding(Mailbox):
    """A mailbox whose events go to the thread that measures instead of waiting for a reader."""

    def __init__(self, experimenting: Experimenting, facts: PathFacts, number: int) -> None:
        super().__init__()
        self._experimenting = experimenting
        self._facts = facts
        self._number_here = number

    def put(self, event: Event) -> None:
        """Forward an event."""
        there = self._experimenting
        there.do(lambda: there.hear(self._facts, self._number_here, event))

    def close(self, error: BaseException | None = None) -> None:
        """Forward the end."""
        is_first = not self.is_closed
        super().close(error)
        if is_first:
            there = self._experimenting
            there.do(lambda: there.lose(self._facts, self._number_here, error))


class Experimenting:
    """Runs sessions; see the module's text.

    Attributes:
        policy: What experiments may cost and where they may go, for those that begin from now on.
        do: Has something done by the thread that measures; for any thread.
    """

    def __init__(
        self,
        subsystem: Runtime,
        policy: Experiments,
        do: Callable[[Callable[[], None]], None],
        count: Callable[[], None],
    ) -> None:
        """Begin with nothing to measure.

        Args:
            subsystem: What experiments are for.
            policy: See the attribute.
            do: See the attribute.
            count: Tells the subsystem what flows have sent up to now.
        """
        self._subsystem = subsystem
        self.policy = policy
        self.do = do
        self._count = count
        self._host: ExperimentHost | None = None
        self._sessions: dict[Endpoint, tuple[int, Tracking, Running]] = {}
        self._budgets: dict[Endpoint, Budget] = {}
        self._verdicts: dict[Endpoint, Congestion] = {}
        self._told: dict[Endpoint, Told] = {}
        self._tags: dict[Endpoint, ProbeTags] = {}
        self._number = 0

    @property
    def is_busy(self) -> bool:
        """Is anything measured?"""
        return bool(self._sessions)

    # -- the host ---------------------------------------------------------------------

    def host(self) -> ExperimentHost:
        """What runs experiments, begun if need be.

        Raises:
            QosError: The kernel refused what it needs.
        """
        if self._host is None:
            host = ExperimentHost(self.policy.allowed)
            host.start()
            self._host = host
        return self._host

    def lose_host(self, host: ExperimentHost) -> None:
        """It broke: the next one that is wanted is another."""
        if host is self._host:
            close_host(self.take_host())

    def take_host(self) -> ExperimentHost | None:
        """What runs experiments, to be closed by the caller."""
        host, self._host = self._host, None
        return host

    # -- what is wanted ---------------------------------------------------------------

    def obey(self) -> None:
        """Policy has changed: what runs goes by it, too."""
        policy = self.policy
        for host in self._sessions:
            self._allow(host)
        if self._host is not None:
            # One that broke is replaced by one that knows.
            with contextlib.suppress(QosError):
                self._host.call(lambda loop: loop.allow(policy.allowed))

    def carry_out(self, effect: Experiment) -> None:
        """Begin, end, or change what is measured."""
        match effect:
            case StartExperiments(facts):
                self._start(facts)
            case StopExperiments(host):
                self._stop(host)
            case SetEffort(host, is_alert):
                effort = Effort.ALERT if is_alert else Effort.LIGHT
                self._act(host, lambda session, now_ns: session.set_effort(effort, now_ns=now_ns))
            case MeasureAfresh(host):
                self._act(host, lambda session, now_ns: session.measure_afresh(now_ns=now_ns))

    def _act(self, host: Endpoint, action: Callable[[Tracking, int], None]) -> None:
        entry = self._sessions.get(host)
        if entry is not None:
            _, session, running = entry
            # The session may have ended this moment; then its end is on its way here.
            with contextlib.suppress(QosError):
                running.do(lambda now_ns: action(session, now_ns))

    def _allow(self, host: Endpoint) -> Budget:
        """The books of a path, by the policy of now."""
        policy = self.policy
        terms = policy.share_ppm, policy.most_bps, policy.burst_bytes
        budget = self._budgets.get(host)
        if budget is None:
            self._forget_budgets()
            budget = self._budgets[host] = Budget(*terms)
        else:
            budget.allow(*terms)
        return budget

    def _forget_budgets(self) -> None:
        if len(self._budgets) >= _MANY_BUDGETS:
            now_ns = time.monotonic_ns()
            self._budgets = {
                host: budget
                for host, budget in self._budgets.items()
                if host in self._sessions or not budget.is_untouched(now_ns)
            }

    def _start(self, facts: PathFacts) -> None:
        host = facts.host
        self._stop(host)
        self._number += 1
        session = Tracking(
            Wish(version=host.version, checks_priority=facts.is_on_link),
            self._allow(host),
            random=random.SystemRandom().random,
        )
        mailbox = _Forwarding(self, facts, self._number)
        tags = ProbeTags(self._subsystem, facts.interface) if facts.may_carry_tags else None
        runner: ExperimentHost | None = None
        try:
            self._subsystem.recall(facts)
            runner = self.host()
            running = runner.run(session, host, mailbox, tags)
        except Exception as error:  # noqa: BLE001 - told to everybody who waits
            if runner is not None and isinstance(error, QosError) and error.code in HOST_IS_OVER:
                self.lose_host(runner)
            self._tell_ended(host, obstacle_of_error(error))
            return
        self._sessions[host] = self._number, session, running
        if tags is not None:
            self._tags[host] = tags

    def _stop(self, host: Endpoint) -> None:
        entry = self._sessions.pop(host, None)
        self._verdicts.pop(host, None)
        self._told.pop(host, None)
        self._tags.pop(host, None)
        if entry is not None:
            with contextlib.suppress(QosError):
                entry[2].cancel()

    def break_off(self, error: Exception) -> None:
        """End all experiments, of which something went wrong."""
        for host in list(self._sessions):
            self._stop(host)
            self._tell_ended(host, obstacle_of_error(error))

    # -- what is said -----------------------------------------------------------------

    def _is_current(self, host: Endpoint, number: int) -> bool:
        entry = self._sessions.get(host)
        return entry is not None and entry[0] == number

    def hear(self, facts: PathFacts, number: int, event: Event) -> None:
        """A session has something to say; in the thread."""
        host = facts.host
        if not self._is_current(host, number):
            return
        match event:
            case Told():
                # What flows send belongs to what was measured beside them.
                self._count()
                self._told[host] = event
                tags = self._tags.get(host)
                view = view_of(
                    event,
                    self._verdicts.get(host, Congestion()),
                    were_tagged=tags is not None and tags.were_tagged,
                )
                # First kept, then told: who has seen it may close what keeps it.
                self._subsystem.remember(facts, view)
                self._subsystem.receive_path_view(host, view)
            case CongestionTold(congestion=congestion):
                self._verdicts[host] = congestion
                self._subsystem.tell(
                    lambda engine, now_ns: engine.receive_congestion(
                        host, congestion, now_ns=now_ns
                    )
                )
                told = self._told.get(host)
                if congestion.is_congested and told is not None:
                    # What was free before is not, and must not be believed after a restart.
                    self._subsystem.remember(facts, view_of(told, congestion))
            case Failed() | Ended():
                self._stop(host)
                self._tell_ended(host, obstacle_of(host, event))

    def lose(self, facts: PathFacts, number: int, error: BaseException | None) -> None:
        """A session is over; in the thread. Whoever said so before is not asked again."""
        if not self._is_current(facts.host, number):
            return
        self._stop(facts.host)
        self._tell_ended(facts.host, obstacle_of_error(error))

    def _tell_ended(self, host: Endpoint, why: Unmeasurable | Refusal) -> None:
        self._subsystem.tell(
            lambda engine, now_ns: engine.receive_experiments_ended(host, why, now_ns=now_ns)
        )


def close_host(host: ExperimentHost | None) -> None:
    """Close what ran experiments, and wait until nothing of it is open."""
    if host is not None:
        # One that broke says so; who used it has heard it already.
        with contextlib.suppress(QosError):
            host.close()
