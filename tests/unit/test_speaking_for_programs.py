"""Runs and rules at the service: who may, what is carried out, what is told, what outlives it."""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, ClassVar, cast

import pytest

from openqwave.admission.policy import Limits, Policy
from openqwave.admission.rights import Credentials
from openqwave.admission.rules import Conditions, Grant, Rule
from openqwave.drivers.handedgroup import NoGroup
from openqwave.enforcement.claims import Claim, Executable, RuleClaim, RunClaim
from openqwave.ipc import messages as ms
from openqwave.ipc.pages import page_of
from openqwave.ipc.programs import started_run_of
from openqwave.model.cgroups import GroupMount
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import TrafficType, Treatment
from openqwave.model.traffic import FlowTraffic
from openqwave.runtime.runtime import Runtime
from openqwave.service.peers import Peer
from openqwave.service.programs import carrying, runs, spoken
from openqwave.service.programs.carrying import Carrying
from openqwave.service.programs.spoken import SpokenFor
from openqwave.subsystem.effects import Effect
from openqwave.subsystem.engine import Engine
from tests.unit.fake_marks import FakeMarks

# Nobody has these.
ANN, BOB = 54_321, 54_322


@dataclass
class Group:
    """A cgroup as a test has it."""

    number: int
    uid: int = ANN
    pids: tuple[int, ...] = (1,)
    is_removed: bool = False
    is_gone: bool = False


class FakeGroup:
    """A cgroup that is held; stands for `HandedGroup`."""

    groups: ClassVar[dict[str, Group]] = {}

    def __init__(self, path: str) -> None:
        self._group = self.groups[path]
        self.path, self.number, self.uid = path, self._group.number, self._group.uid
        self.is_closed = False
        self._pipe = os.pipe()

    def fileno(self) -> int:
        return self._pipe[0]

    @property
    def is_gone(self) -> bool:
        return self._group.is_gone

    def is_populated(self) -> bool:
        return bool(self._group.pids)

    def processes(self) -> Iterator[int]:
        yield from self._group.pids

    def holds(self, pid: int) -> bool:
        return pid in self._group.pids

    def remove(self) -> bool:
        self._group.is_removed = not self._group.pids
        return self._group.is_removed

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            os.close(self._pipe[0])
            os.close(self._pipe[1])


class Looked:
    """A runtime whose lock is nobody's."""

    def __init__(self, policy: Policy) -> None:
        self.engine = Engine(policy)

    def look(self, look: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as the call
        return look(self.engine)

    def tell(self, tell: Callable[[Engine, int], list[Effect]]) -> None:
        assert tell(self.engine, 0) == []


class Caller:
    """Who asks."""

    def __init__(self, uid: int, *groups: str, has_net_admin: bool = False) -> None:
        self.uid = uid
        self._credentials = Credentials(uid, has_net_admin, frozenset(groups))

    def credentials(self) -> Credentials:
        return self._credentials


class Clock:
    """Seconds, as a test has them."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Stage:
    """The service's part, with all around it made up.

    Attributes:
        marks: What carries out.
        carrying: What has it carried out.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.marks = FakeMarks()
        self.clock = clock
        self._folder = folder
        self.carrying: Carrying
        self.start(Policy())

    def start(self, policy: Policy, marks: FakeMarks | None = None, why_not: str = "") -> None:
        """Start, or start again."""
        marks = self.marks if marks is None and not why_not else marks
        self.runtime = Looked(policy)
        self.carrying = Carrying(
            cast("Runtime", self.runtime), marks, why_not, policy, self._folder, self.clock
        )
        self._spoken = SpokenFor(self.carrying)

    def again(self, policy: Policy | None = None) -> None:
        """End in order, and start anew with a mechanism that knows nothing."""
        self.carrying.close()
        self.marks = FakeMarks()
        self.start(policy or self.carrying.policy)

    def ask(self, caller: Caller, request: ms.Request, path: str = "") -> bytes | Refusal:
        self.handed = path
        descriptor = os.open(os.devnull, os.O_RDONLY) if path else -1
        return self._spoken.answer(cast("Peer", caller), request, descriptor)

    def begin(self, caller: Caller, path: str, **asked: Any) -> ms.StartedRun:  # noqa: ANN401 - fields
        return started_run_of(done(self.ask(caller, ms.StartRun(1, "app", 7, **asked), path)))

    def in_force(self) -> tuple[list[RuleClaim], list[RunClaim]]:
        """Rules and runs as the mechanism has them."""
        return list(self.marks.rules), list(self.marks.runs)

    def rows(self, caller: Caller) -> list[ms.ProgramRow]:
        return list(page_of(done(self.ask(caller, ms.ListPrograms(1))), ms.ProgramRow)[0])


def done(answer: bytes | Refusal) -> bytes:
    assert isinstance(answer, bytes), answer
    return answer


def code(answer: bytes | Refusal) -> ErrorCode:
    assert isinstance(answer, Refusal), answer
    assert answer.detail
    return answer.code


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Stage]:
    FakeGroup.groups = {"/a": Group(11), "/b": Group(12, BOB)}

    class Handed(FakeGroup):
        def __init__(self, descriptor: int, mount: GroupMount, likely: int) -> None:
            del mount, likely
            os.close(descriptor)
            if found.handed not in self.groups:
                raise NoGroup("it is something else")
            super().__init__(found.handed)

    class Found(FakeGroup):
        @classmethod
        def at(cls, path: str, mount: GroupMount) -> FakeGroup:
            del mount
            if path not in cls.groups:
                raise FileNotFoundError(path)
            return FakeGroup(path)

    # A pipe is no file that can be told by POLLPRI, which is all that is asked of it here.
    monkeypatch.setattr(spoken, "HandedGroup", Handed)
    monkeypatch.setattr(runs, "HandedGroup", Found)
    monkeypatch.setattr(carrying, "mounted", lambda: GroupMount(str(tmp_path), "/"))
    found = Stage(tmp_path, clock)
    yield found
    found.carrying.close()


ME = Caller(ANN)
ROOT = Caller(0)
VOICE = int(TrafficType.VOICE)


# -- runs ---------------------------------------------------------------------------------


def test_the_newest_run_of_a_group_holds_beside_one_that_has_just_ended(stage: Stage) -> None:
    stage.begin(ME, "/a", traffic_type=VOICE)
    FakeGroup.groups["/a"].pids = ()
    stage.carrying.look()
    FakeGroup.groups["/a"].pids = (1,)
    stage.begin(ME, "/a", rate_bps=5_000)
    # The mechanism goes by the last.
    assert [run.claim.claim_id for run in stage.in_force()[1]] == [1, 2]


def test_a_group_that_was_removed_before_anybody_entered_it_is_let_go_of_at_once(
    stage: Stage,
) -> None:
    FakeGroup.groups["/a"].pids = ()
    stage.begin(ME, "/a")
    stage.carrying.look()
    assert len(stage.rows(ME)) == 1
    FakeGroup.groups["/a"].is_gone = True
    stage.carrying.look()
    assert stage.rows(ME) == []


def test_a_run(stage: Stage) -> None:
    started = stage.begin(ME, "/a", traffic_type=VOICE, rate_bps=5_000, hold_back=True)
    assert started == ms.StartedRun(run=1, dscp=56, words="fake: claim 1")
    treatment = Treatment(56, 6, 5_000)
    assert stage.marks.runs == (RunClaim(Claim(1, treatment, may_delay=True), frozenset({11})),)
    stage.marks.traffic[1] = FlowTraffic(1, 2, 3, 4, 5)
    assert stage.rows(ME) == [
        ms.ProgramRow(
            kind="run",
            number=1,
            name="app",
            user=str(ANN),
            uid=ANN,
            pid=7,
            cgroup="/a",
            traffic_type="voice",
            dscp=56,
            priority=6,
            rate_bps=5_000,
            excess="waits",
            sent_packets=1,
            sent_bytes=2,
            excess_packets=3,
            excess_bytes=4,
            dropped_packets=5,
            backend="fake",
            reason="claim 1",
        )
    ]


def test_what_is_above_a_rate_is_sent_without_priority_unless_it_waits(stage: Stage) -> None:
    stage.begin(ME, "/a", rate_bps=5_000)
    (run,) = stage.marks.runs
    assert run.claim == Claim(1, Treatment(rate_bps=5_000, excess_is_remarked=True))
    assert stage.rows(ME)[0].excess == "is sent with the marks of best effort"


@pytest.mark.parametrize(
    "asked",
    [
        {"traffic_type": 6},
        {"traffic_type": -1},
        {"dscp": 64},
        {"dscp": -1},
        {"rate_bps": 0},
        {"rate_bps": -5},
        {"rate_bps": 1 << 64},
    ],
)
def test_what_makes_no_sense(stage: Stage, asked: dict[str, Any]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    answer = stage.ask(ROOT, ms.StartRun(1, "app", 7, **asked), "/a")
    assert code(answer) is ErrorCode.ERROR_INVALID_PARAMETER
    wait_for_descriptors(before)
    assert stage.in_force()[1] == []


def wait_for_descriptors(count: int) -> None:
    """What may take long to close is closed by another thread."""
    for _ in range(1_000):
        if len(os.listdir("/proc/self/fd")) <= count:
            return
        select.select([], [], [], 0.01)
    raise AssertionError("a descriptor is left open")


def test_no_cgroup(stage: Stage) -> None:
    request = ms.StartRun(1, "app", 7)
    assert code(stage.ask(ME, request)) is ErrorCode.ERROR_INVALID_PARAMETER
    assert code(stage.ask(ME, request, "/nothing")) is ErrorCode.ERROR_INVALID_PARAMETER


def test_a_cgroup_of_another_user(stage: Stage) -> None:
    request = ms.StartRun(1, "app", 7)
    assert code(stage.ask(ME, request, "/b")) is ErrorCode.ERROR_ACCESS_DENIED
    for caller in (Caller(BOB), ROOT, Caller(ANN, has_net_admin=True)):
        stage.begin(caller, "/b")


def test_an_exact_dscp_needs_the_right_to_it(stage: Stage) -> None:
    request = ms.StartRun(1, "app", 7, dscp=46)
    answer = stage.ask(ME, request, "/a")
    assert code(answer) is ErrorCode.ERROR_ACCESS_DENIED
    # No flow goes on here, so nothing is said of one.
    assert isinstance(answer, Refusal)
    assert answer.detail.endswith("'netdev'; name a traffic type, which takes no right")
    assert stage.begin(Caller(ANN, "netdev"), "/a", dscp=46).dscp == 46


def test_no_more_than_policy_lets_a_user_have(stage: Stage) -> None:
    stage.carrying.obey(Policy(limits=Limits(runs_per_user=1)))
    stage.begin(ME, "/a")
    request = ms.StartRun(1, "app", 7)
    assert code(stage.ask(ME, request, "/a")) is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    stage.begin(Caller(BOB), "/b")
    stage.begin(ROOT, "/a")


def test_rates_of_runs_are_limited_as_contracts_of_a_user_are(stage: Stage) -> None:
    stage.again(Policy(limits=Limits(contracts_per_user_bps=5_000)))
    stage.begin(ME, "/a", rate_bps=3_000)
    request = ms.StartRun(1, "app", 7, rate_bps=2_001)
    answer = stage.ask(ME, request, "/a")
    assert code(answer) is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    assert "contracts_per_user_kbps" in cast("Refusal", answer).detail
    stage.begin(ME, "/a", rate_bps=2_000)
    stage.begin(ME, "/a")
    stage.begin(Caller(BOB), "/b", rate_bps=5_000)
    stage.begin(ROOT, "/a", rate_bps=50_000)


def test_the_rate_of_a_run_that_has_ended_is_free_at_once(stage: Stage) -> None:
    stage.again(Policy(limits=Limits(contracts_per_user_bps=5_000)))
    stage.begin(ME, "/a", rate_bps=5_000)
    FakeGroup.groups["/a"].pids = ()
    stage.carrying.look()
    FakeGroup.groups["/a"].pids = (1,)
    stage.begin(ME, "/a", rate_bps=5_000)


def test_rates_of_runs_count_with_the_contracts_of_flows(stage: Stage) -> None:
    stage.again(Policy(limits=Limits(contracts_per_user_bps=10_000)))
    first = stage.begin(ME, "/a", rate_bps=6_000)
    stage.begin(ROOT, "/a", rate_bps=9_000)
    assert stage.runtime.engine.refuse_run(0, 9_000) is None
    stage.begin(Caller(ANN, has_net_admin=True), "/a", rate_bps=1_000)
    for _ in range(2):
        refused = stage.runtime.engine.refuse_run(ANN, 3_001)
        assert isinstance(refused, Refusal)
        assert "hold 7000 of the 10000 bit/s" in refused.detail
        # After the next start as before.
        stage.again()
    done(stage.ask(ME, ms.EndRun(2, first.run)))
    assert stage.runtime.engine.refuse_run(ANN, 9_000) is None
    assert stage.runtime.engine.refuse_run(ANN, 9_001) is not None


def test_a_priority_that_needs_a_contract_needs_a_rate(stage: Stage) -> None:
    stage.carrying.obey(Policy(priority_needs_contract=True))
    started = stage.begin(ME, "/a", traffic_type=VOICE)
    assert started.dscp is None
    assert "priority_needs_contract" in started.words
    assert stage.marks.runs[0].claim.treatment == Treatment()
    assert stage.rows(ME)[0].backend == ""
    assert stage.begin(ME, "/a", traffic_type=VOICE, rate_bps=5_000).dscp == 56
    assert stage.begin(ME, "/a", traffic_type=int(TrafficType.BACKGROUND)).dscp == 8
    # The policy that comes decides anew.
    stage.carrying.obey(Policy())
    assert stage.marks.runs[0].claim.treatment == Treatment(56, 6)


def test_what_the_kernel_has_no_room_for_is_refused_and_leaves_nothing(stage: Stage) -> None:
    stage.begin(ME, "/a")
    stage.marks.refusal = Refusal(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "the table is full")
    request = ms.StartRun(1, "app", 7)
    assert code(stage.ask(ME, request, "/a")) is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
    stage.marks.refusal = OSError(12, "no memory")
    assert code(stage.ask(ME, request, "/a")) is ErrorCode.ERROR_GEN_FAILURE
    stage.marks.refusal = None
    assert [row.number for row in stage.rows(ME)] == [1]
    assert len(stage.in_force()[1]) == 1


def test_where_nothing_tells_programs_a_run_is_refused_with_the_reason(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.carrying.close()
    with caplog.at_level(logging.INFO, "openqwave"):
        stage.start(Policy(rules=(Rule("one", Conditions(), Grant(1)),)), why_not="only options")
    answer = stage.ask(ME, ms.StartRun(1, "app", 7), "/a")
    assert code(answer) is ErrorCode.ERROR_NOT_SUPPORTED
    assert isinstance(answer, Refusal)
    assert answer.detail == "only options"
    assert [row.reason for row in stage.rows(ME)] == ["not carried out: only options"]
    assert [row.backend for row in stage.rows(ME)] == [""]
    assert caplog.messages == ["0 of 1 rules for programs are in force: only options"]


def test_a_run_ends_when_nobody_is_in_its_cgroup(stage: Stage) -> None:
    stage.begin(ME, "/a")
    group = FakeGroup.groups["/a"]
    stage.carrying.look()
    assert len(stage.rows(ME)) == 1
    group.pids = ()
    stage.carrying.look()
    assert stage.rows(ME) == []
    assert group.is_removed
    # What its sockets still have to say is said with its marks.
    assert len(stage.in_force()[1]) == 1
    stage.clock.now_s += runs.LINGER_S / 2
    stage.carrying.tick()
    assert len(stage.in_force()[1]) == 1
    stage.clock.now_s += runs.LINGER_S
    stage.carrying.tick()
    assert stage.in_force()[1] == []
    assert stage.begin(ME, "/a").run == 2


def test_a_run_that_nobody_came_into_is_given_up(stage: Stage) -> None:
    FakeGroup.groups["/a"].pids = ()
    stage.begin(ME, "/a")
    stage.carrying.tick()
    assert len(stage.rows(ME)) == 1
    stage.clock.now_s += 11
    stage.carrying.tick()
    assert stage.rows(ME) == []


def test_a_run_is_ended_by_its_user_and_by_administrators(stage: Stage) -> None:
    for caller in (ME, ROOT):
        run = stage.begin(ME, "/a").run
        assert code(stage.ask(Caller(BOB), ms.EndRun(1, run))) is ErrorCode.ERROR_NOT_FOUND
        assert stage.ask(caller, ms.EndRun(1, run)) == b"null"
        assert stage.in_force()[1] == []
        assert code(stage.ask(caller, ms.EndRun(1, run))) is ErrorCode.ERROR_NOT_FOUND
        assert not FakeGroup.groups["/a"].is_removed


def test_who_sees_which(stage: Stage) -> None:
    stage.carrying.obey(Policy(rules=(Rule("one", Conditions(), Grant(1)),)))
    stage.begin(ME, "/a")
    stage.begin(Caller(BOB), "/b")
    assert [row.uid for row in stage.rows(ME)] == [ANN, None]
    assert [row.uid for row in stage.rows(Caller(BOB))] == [BOB, None]
    assert [row.uid for row in stage.rows(ROOT)] == [ANN, BOB, None]
    rest = page_of(done(stage.ask(ROOT, ms.ListPrograms(1, 2))), ms.ProgramRow)[0]
    assert [row.kind for row in rest] == ["rule"]


HOLDER = """
import socket, sys
held = [socket.socket() for _ in range(3)]
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[int]:
    """A process with three sockets."""
    process = Popen([sys.executable, "-c", HOLDER], stdin=PIPE, stdout=PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.communicate("")


def test_sockets_of_a_users_run_do_not_hold_the_service_up(
    stage: Stage, holder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGroup.groups["/a"].pids = (holder,)
    monkeypatch.setattr(carrying, "_ADOPT_S", -1)
    started = stage.begin(ME, "/a", adopt=True)
    assert (started.adopted, started.unreachable) == (0, 1)
    assert stage.begin(ROOT, "/a", adopt=True).adopted == 3


def test_sockets_that_were_there_before_are_adopted(stage: Stage, holder: int) -> None:
    FakeGroup.groups["/a"].pids = (holder,)
    started = stage.begin(ME, "/a", adopt=True)
    assert (started.adopted, started.unreachable) == (3, 0)
    assert stage.marks.claimed == [1, 1, 1]
    assert stage.rows(ME)[0].kind == "attach"
    # Who is not in the cgroup any more is not meant.
    FakeGroup.groups["/a"].pids = (1,)
    assert stage.begin(ME, "/a").adopted == 0


def test_the_next_start_takes_runs_up_again(stage: Stage, holder: int) -> None:
    FakeGroup.groups["/a"].pids = (holder,)
    stage.begin(ME, "/a", traffic_type=VOICE, adopt=True)
    stage.begin(Caller(BOB), "/b", rate_bps=5_000)
    FakeGroup.groups["/c"] = Group(13)
    stage.begin(ME, "/c")
    FakeGroup.groups["/d"] = Group(14)
    stage.begin(ME, "/d")
    before = {row.number: replace_reason(row) for row in stage.rows(ROOT)}
    del FakeGroup.groups["/c"]
    # Another one of the same path is another one.
    FakeGroup.groups["/d"].number = 15
    stage.again()
    after = {row.number: replace_reason(row) for row in stage.rows(ROOT)}
    assert after == {number: before[number] for number in (1, 2)}
    assert len(stage.in_force()[1]) == 2
    assert len(stage.marks.claimed) == 3
    assert stage.begin(ME, "/a").run == 5


def replace_reason(row: ms.ProgramRow) -> tuple[object, ...]:
    return (row.kind, row.name, row.uid, row.cgroup, row.dscp, row.rate_bps)


def test_a_run_that_ended_meanwhile_is_not_taken_up(stage: Stage) -> None:
    stage.begin(ME, "/a")
    group = FakeGroup.groups["/a"]
    group.pids = ()
    stage.again()
    assert stage.rows(ROOT) == []
    assert group.is_removed
    stage.again()
    assert stage.rows(ROOT) == []


def test_a_file_that_is_broken_is_told(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.begin(ME, "/a")
    (tmp_path / "runs").write_text("{")
    stage.again()
    assert "runs of before are not taken up again" in caplog.text
    assert stage.rows(ROOT) == []


# -- rules --------------------------------------------------------------------------------


def rules(*conditions: Conditions) -> Policy:
    found = (Rule(f"rule {n}", each, Grant(10), f"f:{n}") for n, each in enumerate(conditions))
    return Policy(rules=tuple(found))


def test_rules_are_in_force_as_long_as_the_policy_has_them(stage: Stage) -> None:
    stage.carrying.obey(rules(Conditions(user="0")))
    assert stage.in_force()[0][0].users == frozenset({0})
    assert stage.carrying.counts == (0, 1, 1)
    stage.carrying.obey(Policy())
    assert stage.in_force()[0] == []
    assert stage.carrying.counts == (0, 0, 0)


def test_what_has_not_changed_is_not_ordered_again(stage: Stage) -> None:
    policy = rules(Conditions(user="0"))
    stage.carrying.obey(policy)
    before = stage.marks.orders
    stage.carrying.obey(policy)
    stage.carrying.look()
    stage.carrying.tick()
    assert stage.marks.orders == before


def test_rows_of_rules(stage: Stage) -> None:
    stage.carrying.obey(
        rules(Conditions(program="app"), Conditions(user="root", program="app", unit="x.service"))
    )
    first, second = stage.rows(ME)
    assert (first.number, first.name, first.asks, first.origin) == (
        1,
        "rule 0",
        'program = "app"',
        "f:0",
    )
    assert (first.dscp, first.priority, first.backend) == (10, 0, "fake")
    # There may be processes that even this one may not look into.
    assert first.reason.partition(";")[0] == "claim 1"
    assert (second.user, second.cgroup, second.backend) == ("root", "x.service", "")
    assert second.reason == "for no traffic now: no unit x.service runs now"


def test_a_unit_that_starts_and_ends(stage: Stage, tmp_path: Path) -> None:
    stage.carrying.obey(rules(Conditions(unit="x.service")))
    assert stage.in_force()[0] == []
    folder = tmp_path / "system.slice" / "x.service"
    folder.mkdir(parents=True)
    stage.carrying.look()
    assert [each.groups for each in stage.in_force()[0]] == [frozenset({folder.stat().st_ino})]
    folder.rmdir()
    stage.carrying.look()
    # Its sockets may have something left to send.
    assert len(stage.in_force()[0]) == 1
    # Rules that need no cgroups have nobody follow them.
    stage.carrying.obey(rules(Conditions(user="0")))
    folder.mkdir()
    stage.carrying.look()
    assert [each.groups for each in stage.in_force()[0]] == [None]


def test_a_program_that_is_installed_later(stage: Stage, tmp_path: Path) -> None:
    program = tmp_path / "app"
    stage.carrying.obey(rules(Conditions(program=str(program))))
    assert stage.in_force()[0] == []
    program.touch()
    stage.carrying.tick()
    inode = program.stat().st_ino
    found = [each.programs for each in stage.in_force()[0]]
    assert found == [frozenset({Executable("app", inode)})]


def test_sockets_of_programs_that_were_there_before_are_told(stage: Stage, holder: int) -> None:
    path = os.path.realpath(f"/proc/{holder}/exe")
    inode = Path(path).stat().st_ino
    own = Executable(Path(path).name, inode)
    stage.carrying.obey(rules(Conditions(program=path)))
    assert stage.marks.known.count(own) >= 3
    assert set(stage.marks.known) == {own}
    # Once: the kernel notes those that are made later.
    stage.marks.known.clear()
    stage.carrying.obey(rules(Conditions(program=path), Conditions(user="0")))
    assert stage.marks.known == []
    stage.carrying.obey(rules(Conditions(program=own.name)))
    assert stage.marks.known.count(own) >= 3


def test_what_rules_cannot_have_is_told_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.marks.program_conditions = "no BTF"
    with caplog.at_level(logging.INFO, "openqwave"):
        stage.carrying.obey(rules(Conditions(program="app"), Conditions(user="0")))
        stage.carrying.tick()
        stage.carrying.obey(stage.carrying.policy)
    assert caplog.messages == [
        "rule 'rule 0' (f:0): not carried out: no BTF",
        "1 of 2 rules for programs are in force",
    ]
    assert caplog.records[0].levelno == logging.WARNING
    assert len(stage.in_force()[0]) == 1


def test_what_the_kernel_refused_is_tried_again(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.marks.refusal = Refusal(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "the table is full")
    stage.carrying.obey(rules(Conditions(user="0")))
    assert stage.rows(ME)[0].reason == "not carried out: the table is full"
    assert "the table is full" in caplog.text
    stage.marks.refusal = None
    stage.carrying.tick()
    assert stage.in_force()[0] == []
    stage.clock.now_s += 11
    stage.carrying.tick()
    assert len(stage.in_force()[0]) == 1
    assert stage.rows(ME)[0].backend == "fake"


def test_marks_of_types_follow_the_policy(stage: Stage) -> None:
    voice = Rule("one", Conditions(), Grant(traffic_type=TrafficType.VOICE))
    stage.carrying.obey(Policy(rules=(voice,)))
    assert stage.in_force()[0][0].claim.treatment == Treatment(56, 6)
    marks = {**Policy().marks, TrafficType.VOICE: None}
    stage.carrying.obey(replace(Policy(rules=(voice,)), marks=marks))
    assert stage.in_force()[0][0].claim.treatment == Treatment()


def test_closing_twice_is_harmless(stage: Stage) -> None:
    stage.begin(ME, "/a")
    stage.carrying.close()
    stage.carrying.close()


def test_nothing_is_left_open(stage: Stage) -> None:
    before = len(os.listdir("/proc/self/fd"))
    stage.again(rules(Conditions(unit="x.service")))
    stage.begin(ME, "/a")
    stage.again(Policy())
    for run in stage.carrying.runs.all():
        stage.ask(ROOT, ms.EndRun(1, run.saved.number))
    wait_for_descriptors(before)
