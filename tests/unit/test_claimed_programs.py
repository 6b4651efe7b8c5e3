"""Claims into the program's tables: all or nothing, whatever fails, and what is said of them."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwave.admission.rules import Ports
from openqwave.enforcement.bpf import layout
from openqwave.enforcement.bpf.claimtable import ClaimTable, executable_key, pack_rule
from openqwave.enforcement.bpf.programs import ClaimedPrograms
from openqwave.enforcement.claims import MOST_RULES, Claim, Executable, RuleClaim, RunClaim
from openqwave.enforcement.shaping.queues import DepartureTimes
from openqwave.enforcement.shaping.shapers import Leaf, Shaped
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import UNTOUCHED, Transport, Treatment
from openqwave.model.queues import Hop
from openqwave.model.traffic import FlowTraffic

RATE = Treatment(40, None, 8_000_000)
NO_QUEUE = Refusal(ErrorCode.ERROR_NOT_SUPPORTED, "no queue can")


@dataclass
class Kernel:
    """The tables, as dictionaries; a call fails when its turn has come."""

    fails_in: int = -1
    why_not: str = ""
    up: tuple[int, ...] = (2,)
    treatments: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    numbers: dict[int, int] = field(default_factory=dict)
    sockets: dict[int, Any] = field(default_factory=dict)
    written: Any = None
    in_force: Any = None
    generation: int = 0

    @property
    def table(self) -> Any:  # noqa: ANN401 - stands for all parts
        return self

    claims = creation = table

    def turn(self) -> None:
        self.fails_in -= 1
        if self.fails_in == 0:
            raise OSError(errno.E2BIG, "no room")

    # Slots.

    def new_slot(self) -> int:
        self.turn()
        slot = next(number for number in itertools.count(1) if number not in self.used)
        self.used.add(slot)
        return slot

    def free_slot(self, slot: int) -> None:
        rules, groups = self.in_force or ((), {})
        assert slot not in {each for _, each in rules} | set(groups.values())
        assert slot not in self.numbers.values()
        assert self.treatments.pop(slot)[0] == UNTOUCHED
        self.used.remove(slot)

    def write_treatment(
        self, slot: int, treatment: Treatment, *how: object, **more: object
    ) -> None:
        # What is taken back cannot fail in the kernel's array either.
        if treatment != UNTOUCHED or more:
            self.turn()
        assert slot in self.used
        self.treatments[slot] = (treatment, *how)

    def read_meters(self, slots: Collection[int]) -> dict[int, FlowTraffic]:
        return {slot: FlowTraffic(packets=slot) for slot in slots}

    # What leads there.

    def write(self, rules: Sequence[tuple[RuleClaim, int]], groups: Mapping[int, int]) -> None:
        self.turn()
        self.written = (tuple(rules), dict(groups))

    def bring_in_force(self) -> None:
        self.turn()
        self.in_force = self.written
        self.generation += 1

    def switch_off(self) -> None:
        self.turn()
        self.in_force = None

    def put_run(self, number: int, slot: int) -> None:
        self.turn()
        self.numbers[number] = slot

    def drop_run(self, number: int) -> None:
        self.numbers.pop(number, None)

    def set_run(self, fd: int, number: int) -> None:
        self.sockets[fd] = number

    def set_executable(self, fd: int, executable: Executable) -> None:
        self.sockets[fd] = executable

    # Who makes sockets, and where packets leave.

    def begin(self) -> str:
        return self.why_not

    def outlets(self) -> tuple[int, ...]:
        return self.up


@dataclass
class Queues:
    """Holds claims to rates, or not."""

    outcome: Shaped | Refusal = NO_QUEUE
    held: dict[int, tuple[int, tuple[Hop, ...]]] = field(default_factory=dict)

    def grant(self, flow_id: int, rate_bps: int, hops: tuple[Hop, ...]) -> Shaped | Refusal:
        if not isinstance(self.outcome, Refusal):
            self.held[flow_id] = rate_bps, hops
        return self.outcome

    def end(self, flow_id: int) -> None:
        self.held.pop(flow_id, None)


class Bench:
    """Claims, and what came of them."""

    def __init__(self) -> None:
        self.kernel, self.queues = Kernel(), Queues()
        self.programs = ClaimedPrograms(cast("Any", self.kernel), cast("Any", self.queues))

    def state(self) -> tuple[object, ...]:
        """All that packets can tell; not the numbers of slots."""
        rules, groups = self.kernel.in_force or ((), {})
        found = self.kernel.treatments
        return (
            [(rule.remote_ports, found[slot]) for rule, slot in rules],
            {group: found[slot] for group, slot in groups.items()},
            sorted(map(str, (found[slot] for slot in self.kernel.used))),
            {number: found[slot] for number, slot in self.kernel.numbers.items()},
            dict(self.queues.held),
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def claim(number: int, dscp: int | None = 46, rate_bps: int | None = None) -> Claim:
    return Claim(number, Treatment(dscp, None, rate_bps), may_delay=rate_bps is not None)


def rule(one: Claim, port: int = 5) -> RuleClaim:
    return RuleClaim(one, remote_ports=Ports(port, port))


WISHES = st.builds(
    lambda numbers, treatments, are_runs: (
        [
            rule(claim(number, *treatments[number]), number)
            for number, is_run in zip(numbers, are_runs, strict=False)
            if not is_run
        ],
        [
            RunClaim(claim(number, *treatments[number]), frozenset({number * 10}))
            for number, is_run in zip(numbers, are_runs, strict=False)
            if is_run
        ],
    ),
    st.lists(st.integers(1, 4), max_size=4, unique=True),
    st.fixed_dictionaries(
        {
            number: st.sampled_from([(8, None), (46, None), (46, 1_000_000), (46, 2_000_000)])
            for number in range(1, 5)
        }
    ),
    st.lists(st.booleans(), min_size=4, max_size=4),
)


@given(st.lists(st.tuples(WISHES, st.integers(-1, 14)), max_size=8), st.booleans())
def test_all_or_nothing(steps: list[tuple[Any, int]], can_delay: bool) -> None:
    bench = Bench()
    bench.queues.outcome = DepartureTimes(1_000) if can_delay else NO_QUEUE
    for (rules, runs), fails_in in steps:
        before = bench.state()
        bench.kernel.fails_in = fails_in
        refusal = bench.programs.carry_out(rules, runs)
        bench.kernel.fails_in = -1
        if refusal is not None:
            assert refusal.code is ErrorCode.ERROR_NO_SYSTEM_RESOURCES
            assert bench.state() == before
            continue
        whole = Bench()
        whole.queues.outcome = bench.queues.outcome
        assert whole.programs.carry_out(rules, runs) is None
        now, anew = bench.state(), whole.state()
        assert now[:3] == anew[:3]
        assert sorted(map(str, now[3].values())) == sorted(map(str, anew[3].values()))  # type: ignore[attr-defined]
        assert len(bench.queues.held) == len(whole.queues.held)
        generation = bench.kernel.generation
        assert bench.programs.carry_out(rules, runs) is None
        assert bench.kernel.generation == generation
    assert bench.programs.carry_out([], []) is None
    assert not bench.kernel.used
    assert not bench.kernel.numbers
    assert not bench.queues.held
    assert bench.kernel.in_force is None


def test_the_order_of_rules_and_the_slots_of_groups(bench: Bench) -> None:
    first, second, run = claim(1), claim(2, 8), claim(3, 40)
    wanted = [rule(first, 1), rule(second, 2), rule(first, 3)]
    assert bench.programs.carry_out(wanted, [RunClaim(run, frozenset({7, 8}))]) is None
    rules, groups = bench.kernel.in_force
    assert [(each.remote_ports.low, slot) for each, slot in rules] == [(1, 1), (2, 2), (3, 1)]
    assert groups == {7: 3, 8: 3}
    assert bench.programs.traffic_of([1, 3, 9]) == {
        1: FlowTraffic(packets=1),
        3: FlowTraffic(packets=3),
    }


def test_what_is_refused(bench: Bench) -> None:
    many = [rule(claim(1))] * (MOST_RULES + 1)
    refusal = bench.programs.carry_out(many, [])
    assert refusal is not None
    assert (refusal.code, f"there are {MOST_RULES + 1}" in refusal.detail) == (
        ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
        True,
    )
    bench.kernel.why_not = "nobody tells"
    named = RuleClaim(claim(1), programs=frozenset({Executable("curl")}))
    assert bench.programs.carry_out([named], []) == Refusal(
        ErrorCode.ERROR_NOT_SUPPORTED, "nobody tells"
    )
    assert bench.programs.carry_out(many[1:], []) is None


def test_sockets_of_runs(bench: Bench) -> None:
    run = RunClaim(claim(2), frozenset())
    assert bench.programs.carry_out([rule(claim(1))], [run]) is None
    bench.programs.claim_socket(5, 2)
    (number,) = bench.kernel.numbers
    assert bench.kernel.sockets == {5: number}
    for other in (1, 3):
        with pytest.raises(OSError, match=f"no run of the number {other}"):
            bench.programs.claim_socket(5, other)
    # Another one of that number is another run.
    assert bench.programs.carry_out([], []) is None
    assert bench.programs.carry_out([], [run]) is None
    assert number not in bench.kernel.numbers
    bench.programs.know_socket(6, Executable("curl", 7))
    assert bench.kernel.sockets[6] == Executable("curl", 7)


@pytest.mark.parametrize(
    ("outcome", "up", "how", "words"),
    [
        (DepartureTimes(9), (2, 3), (RATE, None, True, 9), "departure times"),
        (Leaf(0x7177_0010), (2,), (RATE, 0x7177_0010), "in a queue"),
        (NO_QUEUE, (2,), None, "cannot wait: no queue can"),
        (DepartureTimes(9), (), None, "cannot wait: no interface is up"),
    ],
)
def test_rates_that_may_wait(
    bench: Bench,
    outcome: Shaped | Refusal,
    up: tuple[int, ...],
    how: tuple[object, ...] | None,
    words: str,
) -> None:
    metered = (Treatment(40, None, 8_000_000, excess_is_remarked=True),)
    bench.queues.outcome, bench.kernel.up = outcome, up
    held = Claim(1, RATE, may_delay=True)
    assert bench.programs.carry_out([rule(held)], []) is None
    assert bench.kernel.treatments[1] == (how or metered)
    assert words in bench.programs.explain_claim(1)[1]
    hops = [hop.interface for _, hops in bench.queues.held.values() for hop in hops]
    assert hops == (list(up) if how else [])
    # And as long as nobody wants it to wait.
    assert bench.programs.carry_out([rule(Claim(1, RATE))], []) is None
    assert bench.kernel.treatments[1] == metered
    assert "cannot wait" not in bench.programs.explain_claim(1)[1]
    assert not bench.queues.held


def test_rates_follow_interfaces(bench: Bench) -> None:
    bench.queues.outcome = Leaf(0x7177_0010)
    claims = [Claim(number, RATE, may_delay=True) for number in (1, 2)]
    assert bench.programs.carry_out([rule(each) for each in claims], []) is None

    def are_metered() -> set[bool]:
        return {treatment.excess_is_remarked for treatment, *_ in bench.kernel.treatments.values()}

    assert are_metered() == {False}
    bench.queues.outcome, bench.kernel.up = NO_QUEUE, (2, 3)
    bench.programs.reconcile(())
    assert are_metered() == {True}
    bench.queues.outcome, bench.kernel.up = DepartureTimes(9), (2, 3)
    # Of several that could not, one is tried each time; all follow once something has changed.
    bench.programs.reconcile(())
    bench.programs.reconcile(())
    assert are_metered() == {False}
    bench.queues.outcome = NO_QUEUE
    bench.programs.reconcile([-1])
    assert are_metered() == {True, False}


def test_nothing_is_said_of_what_is_not_there(bench: Bench) -> None:
    assert bench.programs.explain_claim(1) == ("", "")
    assert bench.programs.carry_out([rule(claim(1, None))], []) is None
    assert "changes nothing" in bench.programs.explain_claim(1)[1]
    bench.programs.close()
    refusal = bench.programs.carry_out([], [])
    assert refusal is not None
    assert refusal.code is ErrorCode.ERROR_NOT_SUPPORTED


# -- how it is written down ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "mask"),
    [
        ("192.0.2.0/24", "::ffff:192.0.2.0", "ffff" * 7 + "ff00"),
        ("0.0.0.0/0", "::ffff:0.0.0.0", "ffff" * 6 + "0000" * 2),
        ("2001:db8::/32", "2001:db8::", "ffff" * 2 + "0000" * 6),
        ("::/0", "::", "0000" * 8),
    ],
)
def test_networks(text: str, address: str, mask: str) -> None:
    packed = pack_rule(RuleClaim(claim(1), remote=ip_network(text)), 9)
    fields = layout.RULE.unpack(packed)
    assert fields[0:2] == (bytes(16), bytes(16))
    assert fields[2] == ip_network(f"{address}/128").network_address.packed
    assert fields[3].hex() == mask
    assert fields[4:] == (0, 65_535, 0, 65_535, 9, 0, 0, int(":" in text))


def test_ports_and_protocols() -> None:
    one = RuleClaim(
        claim(1), protocol=Transport.UDP, local_ports=Ports(1, 2), remote_ports=Ports(3, 4)
    )
    assert layout.RULE.unpack(pack_rule(one, 9))[4:] == (1, 2, 3, 4, 9, 17, 255, 0)


def test_names_of_executables() -> None:
    assert executable_key(Executable("a", 7), 1) == layout.EXECUTABLE.pack(7, 1, b"a")
    long = executable_key(Executable("é" * 40), 0)
    assert long == layout.EXECUTABLE.pack(0, 0, ("é" * 40).encode()[:63])
    assert long[-1] == 0


def test_the_table_takes_no_maps_for_granted() -> None:
    """A map that is full leaves nothing behind in the bank that is being written."""
    calls: list[tuple[str, int, bytes]] = []

    def update(fd: int, key: bytes, entry: bytes, flags: int = 0) -> None:
        del entry, flags
        if fd == 3 and len([one for one in calls if one[:2] == ("put", 3)]) == 2:
            raise OSError(errno.E2BIG, "full")
        calls.append(("put", fd, key))

    def delete(fd: int, key: bytes) -> bool:
        calls.append(("drop", fd, key))
        return True

    names = ("settings", "banks", "rules", "users", "executables", "groups", "attached", "owners")
    maps = {name: number for number, name in enumerate(names)}
    with pytest.MonkeyPatch.context() as patch:
        calling: Callable[..., Any]
        for name, calling in (("update", update), ("delete", delete)):
            patch.setattr(f"openqwave.enforcement.bpf.claimtable.syscalls.{name}", calling)
        table = ClaimTable(maps)
        rules = [(RuleClaim(claim(1), users=frozenset({1, 2, 3})), 1)]
        with pytest.raises(OSError, match="full"):
            table.write(rules, {})
        put = {one[1:] for one in calls if one[0] == "put" and one[1] == 3}
        assert put == {one[1:] for one in calls if one[0] == "drop"}
