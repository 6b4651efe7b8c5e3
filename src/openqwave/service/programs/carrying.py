"""Runs and rules carried out: the whole of it anew, whenever something has changed.

Rules, runs, the files of programs, users, cgroups: each of them may change at any time. What is
wanted is worked out anew then, and the mechanism takes the whole of it and does what differs. Where
there is no mechanism that can tell programs, every rule has that for a reason; nothing is silently
left undone.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import select
import time
from typing import TYPE_CHECKING, Final

from openqwave.drivers.cgroups import CgroupTrouble, mounted
from openqwave.drivers.grouptree import GroupTree
from openqwave.drivers.heldsockets import Reached
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.service.programs.conditions import HostNames
from openqwave.service.programs.ruling import Ruler, Ruling, names_in, places_in
from openqwave.service.programs.runfile import RunFile
from openqwave.service.programs.runs import Runs
from openqwave.service.programs.surveying import claim_sockets, former_files, tell_makers
from openqwave.service.programs.treatments import is_withheld

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from openqwave.admission.policy import Policy
    from openqwave.enforcement.claims import Executable, ProgramMarks, RuleClaim, RunClaim
    from openqwave.model.cgroups import GroupMount
    from openqwave.model.traffic import FlowTraffic
    from openqwave.runtime.runtime import Runtime
    from openqwave.service.programs.ruling import RuleState
    from openqwave.service.programs.runs import Run
    from openqwave.service.server import Server

_log = logging.getLogger("openqwave.service")

# What the kernel refused, it may have room for later.
_TRY_AGAIN_S: Final = 10.0
# How long the loop is kept by the sockets of one run of a user, who may have any number: some ten
# thousand are reached. Root's has its time.
_ADOPT_S: Final = 0.5
WITHHELD: Final = "the policy gives such marks with a rate only (priority_needs_contract)"


class Carrying:
    """Has runs and rules carried out; by the server's loop only.

    Attributes:
        why_not: Why no program can be told from others here; empty where they can.
        policy: What is in force.
        runs: Those that are held.
        ruling: What the rules come to at present.
        mount: Where cgroups are; None for nowhere.
        no_groups: Why they are nowhere.
    """

    def __init__(
        self,
        runtime: Runtime,
        marks: ProgramMarks | None,
        why_not: str,
        policy: Policy,
        run_directory: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take up what a former service held, and carry everything out.

        Args:
            runtime: Its lock is held while the kernel is changed.
            marks: Carries it out; None where nothing can.
            why_not: Why nothing can.
            policy: Has the rules.
            run_directory: Where runs are kept.
            clock: Monotonic seconds.

        Raises:
            OSError: A descriptor is not to be had.
        """
        self.why_not = "" if marks is not None else why_not
        self._runtime = runtime
        self._clock = clock
        self._marks = marks
        self.policy = policy
        new_id = itertools.count(1).__next__
        self._names = HostNames()
        self._ruler = Ruler(self._names, new_id)
        self.ruling = Ruling()
        self.mount: GroupMount | None = None
        self.no_groups = ""
        self._tree: GroupTree | None = None
        self._units: frozenset[str] = frozenset()
        self._cgroups: frozenset[str] = frozenset()
        self._known: frozenset[Executable] = frozenset()
        self._surveyed = Reached()
        self._trouble = ""
        self._try_again_s = 0.0
        # What is in force.
        self._carried: tuple[tuple[RuleClaim, ...], list[RunClaim]] = (), []
        self._told: dict[str, str] = {}
        self._told_count = ""
        file = RunFile(run_directory / "runs")
        self.runs = Runs(file, new_id, clock)
        self._epoll = select.epoll()
        self._epoll.register(self.runs.fileno(), select.EPOLLIN)
        try:
            self.mount = mounted()
            self._take_up(file, self.mount)
        except CgroupTrouble as error:
            self.no_groups = str(error)
        self.obey(policy)
        for run in self.runs.all():
            if run.saved.adopt:
                self.adopt(run)

    def _take_up(self, file: RunFile, mount: GroupMount) -> None:
        ended = self.runs.take_up(mount)
        if file.complaint:
            _log.warning("%s; runs of before are not taken up again", file.complaint)
        taken = self.runs.all()
        if taken or ended:
            _log.info("%d runs of before are taken up again, %d have ended", len(taken), ended)
            self.runs.save()

    # -- the server's -----------------------------------------------------------------

    def watch(self, server: Server) -> None:
        """Have the loop hear of cgroups that become empty, come and go."""
        server.watch(self._epoll.fileno(), self.look)

    def look(self) -> None:
        """See what has become of cgroups."""
        changed = self.runs.look()
        if self._tree is not None:
            changed = self._tree.take() or changed
        if changed:
            self.carry_out()

    def tick(self) -> None:
        """Once a second: files of programs, groups that are gone, what did not succeed."""
        now_s = self._clock()
        changed = self._names.look_again(now_s)
        if self._tree is not None:
            changed = self._tree.look_again() or changed
        changed = self.runs.look() or changed
        if changed or (self._trouble and now_s >= self._try_again_s):
            self.carry_out()

    def obey(self, policy: Policy) -> None:
        """Go by another policy from now on: its rules, its marks."""
        self.policy = policy
        users, programs = names_in(policy.rules)
        paths = {each for each in programs if each.startswith("/")}
        self._names.keep(users, paths)
        for path, inode in former_files(paths) if paths and self._marks else ():
            self._names.remember(path, inode)
        self._units, self._cgroups = places_in(policy.rules)
        self._follow_groups(is_wanted=bool(self._units or self._cgroups))
        self.carry_out()

    def close(self) -> None:
        """Let go of all; runs are taken up again by the next start. Harmless when done before."""
        self._follow_groups(is_wanted=False)
        self.runs.close()
        self._epoll.close()

    def refuse_rate(self, uid: int, rate_bps: int) -> Refusal | None:
        """May a user have a run of a rate, beside all that he has? None means yes."""
        return self._runtime.look(lambda engine: engine.refuse_run(uid, rate_bps))

    # -- carrying out -----------------------------------------------------------------

    def _follow_groups(self, *, is_wanted: bool) -> None:
        if self._tree is not None and not is_wanted:
            self._tree.close()
            self._tree = None
        elif self._tree is None and is_wanted and self.mount is not None:
            try:
                self._tree = GroupTree(self.mount, self._is_named)
            except OSError as error:
                _log.warning("cgroups cannot be followed: %s", error)
                return
            self._epoll.register(self._tree.fileno(), select.EPOLLIN)
            if self._tree.trouble:
                _log.warning("cgroups are looked at once a second: %s", self._tree.trouble)

    def _is_named(self, path: str) -> bool:
        """Does a rule name the cgroup at a path, or a unit that it is of?"""
        return path in self._cgroups or path.rpartition("/")[2] in self._units

    def carry_out(self) -> Refusal | None:
        """Make the kernel as it is wanted now; None, or why it stays as it was."""
        rates = self.runs.rates()
        self._runtime.tell(lambda engine, now_ns: engine.receive_runs(rates, now_ns=now_ns))
        marks = self._marks
        if marks is None:
            self.ruling = self._ruler.rule(self.policy, self._tree, self.why_not)
            self._tell()
            return None
        no_programs = marks.program_conditions if names_in(self.policy.rules)[1] else ""
        ruling = self.ruling = self._ruler.rule(self.policy, self._tree, no_programs)
        wanted = ruling.claims, self.runs.claims(self.policy)
        refused = None if wanted == self._carried else self._order(marks, wanted)
        self._trouble = "" if refused is None else refused.detail
        if refused is None:
            self._carried = wanted
            self._survey(marks, ruling.programs)
        else:
            self._try_again_s = self._clock() + _TRY_AGAIN_S
        self._tell()
        return refused

    def _order(
        self, marks: ProgramMarks, wanted: tuple[tuple[RuleClaim, ...], list[RunClaim]]
    ) -> Refusal | None:
        try:
            # Under the lock, as all that changes the kernel.
            return self._runtime.look(lambda _: marks.carry_out(*wanted))
        except OSError as error:
            return Refusal(ErrorCode.ERROR_GEN_FAILURE, f"the kernel refused: {error}")

    def _survey(self, marks: ProgramMarks, programs: frozenset[Executable]) -> None:
        """Tell of the sockets that processes of programs had before rules named these."""
        new = programs - self._known
        self._known = programs
        if new:
            self._surveyed = tell_makers(marks, new)
            _log.info(
                "sockets that were there before and are of programs of rules: %d; processes that "
                "could not be looked into: %d",
                self._surveyed.sockets,
                self._surveyed.unreachable,
            )

    def _tell(self) -> None:
        """Log what has changed of rules that are not carried out."""
        states = self.ruling.states
        told = {each.rule.name: self.how(each)[1] for each in states if not self.is_in_force(each)}
        for state in states if not self.why_not else ():
            why = told.get(state.rule.name)
            if why is not None and self._told.get(state.rule.name) != why:
                level = logging.WARNING if state.obstacle or self._trouble else logging.INFO
                _log.log(level, "rule %r (%s): %s", state.rule.name, state.rule.origin, why)
        self._told = told
        count = f"{len(states) - len(told)} of {len(states)} rules for programs are in force"
        if count != self._told_count and states:
            if self.why_not:
                _log.warning("%s: %s", count, self.why_not)
            else:
                _log.info("%s", count)
        self._told_count = count

    def is_in_force(self, state: RuleState) -> bool:
        """Is there traffic that a rule may hold for, and is that told from other traffic?"""
        return not (state.obstacle or state.waits_for or self._trouble or self.why_not)

    def how(self, state: RuleState) -> tuple[str, str]:
        """What carries a rule out, and how; or nothing, and why."""
        if state.obstacle or self.why_not:
            return "", f"not carried out: {state.obstacle or self.why_not}"
        if self._trouble:
            return "", f"not carried out: {self._trouble}"
        if state.waits_for:
            return "", f"for no traffic now: {state.waits_for}"
        name, how = self.explained(state.claim_id)
        if state.rule.conditions.program is not None and self._surveyed.unreachable:
            how += (
                "; sockets that were there before could not be looked for in processes: "
                f"{self._surveyed.unreachable}"
            )
        return name, how

    def explained(self, claim_id: int) -> tuple[str, str]:
        """What carries a claim out, in a word, and how; or nothing, and why."""
        return ("", self.why_not) if self._marks is None else self._marks.explain_claim(claim_id)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many runs there are, how many rules, and how many of these are in force.

        For any thread.
        """
        states = self.ruling.states
        return self.runs.count, len(states), sum(map(self.is_in_force, states))

    def adopt(self, run: Run) -> None:
        """Let the sockets that a run's processes have already belong to it."""
        marks = self._marks
        if marks is not None:
            most_s = _ADOPT_S if run.saved.uid else float("inf")
            with contextlib.closing(run.group.processes()) as pids:
                run.reached = claim_sockets(marks, run.claim_id, pids, run.group.holds, most_s)

    def how_of_run(self, run: Run) -> tuple[str, str]:
        """What carries a run out, and how; or nothing, and why."""
        if self._trouble:
            return "", self._trouble
        if is_withheld(run.wish, self.policy):
            return "", WITHHELD
        return self.explained(run.claim_id)

    def traffic(self) -> Mapping[int, FlowTraffic]:
        """What was counted of runs and rules, by claim; nothing where nobody counts."""
        marks = self._marks
        if marks is None:
            return {}
        ids = [each.claim_id for each in self.runs.all()]
        ids += [each.claim_id for each in self.ruling.states]
        try:
            return self._runtime.look(lambda _: marks.traffic_of(ids))
        except OSError as error:
            _log.warning("what programs have sent cannot be told: %s", error)
            return {}
