"""Which mechanism is chosen, and how plans are divided between it and the options of sockets."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import pytest

from openqwave.enforcement.backend import Backend
from openqwave.enforcement.choice import Candidate, Chosen, choose
from openqwave.enforcement.memory import Memory
from openqwave.enforcement.missing import MechanismMissing
from openqwave.enforcement.wishes import Mechanism, Wishes
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import Transport, Treatment
from openqwave.subsystem.effects import Applied, Share, SocketPlan

HERE, THERE = 7, 8
END = Endpoint(bytes([192, 0, 2, 1]), 5_000)
VOICE, BULK = Treatment(56, 6), Treatment(8, 1)
SHAPED, METERED = Treatment(40, 5, 8_000_000), Treatment(40, 5, 8_000_000, excess_is_remarked=True)
TCP = frozenset({Transport.TCP})
NO = Refusal(ErrorCode.ERROR_NOT_SUPPORTED, "it cannot")


class Answering(Memory):
    """A backend that refuses, or finds sockets gone, when it is told to."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.refusal: Refusal | None = None
        self.gone: Collection[int] = ()
        self.calls = 0

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:  # type: ignore[override]  # may refuse
        self.calls += 1
        if self.refusal is not None and any(plan.shares for plan in plans):
            return self.refusal
        super().apply(tuple(plan for plan in plans if plan.cookie not in self.gone))
        return Applied(frozenset(plan.cookie for plan in plans) & frozenset(self.gone))


class Rig:
    """Options, a plane, and what is chosen."""

    def __init__(self, paced: frozenset[Transport] = TCP, *, knows_sockets: bool = True) -> None:
        self.options, self.plane = Answering("options"), Answering("plane")
        candidate = Candidate("bpf", lambda: self.plane, paced, knows_sockets)
        self.chosen = choose(Wishes(), self.options, [candidate], namespace=HERE)

    def apply(self, *plans: SocketPlan) -> Applied | Refusal:
        return self.chosen.apply(plans)

    @property
    def held(self) -> tuple[dict[int, SocketPlan], dict[int, SocketPlan]]:
        return dict(self.plane.plans), dict(self.options.plans)


def plan(
    cookie: int,
    treatment: Treatment,
    transport: Transport = Transport.UDP,
    namespace: int = HERE,
) -> SocketPlan:
    return SocketPlan(cookie, (Share(cookie, treatment, 1, (END,)),), transport, namespace)


def missing(words: str) -> Callable[[], Backend]:
    def make() -> Backend:
        raise MechanismMissing(words)

    return make


# -- the choice -------------------------------------------------------------------------


def chosen_of(
    wish: Mechanism, *made: tuple[Mechanism, Callable[[], Backend]], namespace: int = HERE
) -> Chosen:
    candidates = [Candidate(name, make, TCP) for name, make in made]
    return choose(Wishes(wish), Answering("options"), candidates, namespace=namespace)


def test_the_first_that_can_be_had_is_taken() -> None:
    best, second = Answering("best"), Answering("second")
    chosen = chosen_of("auto", ("bpf", lambda: best), ("nftables", lambda: second))
    assert (chosen.name, chosen.reason) == ("best", "it is the best that can be had here")
    chosen = chosen_of("auto", ("bpf", missing("no right")), ("nftables", lambda: second))
    assert (chosen.name, chosen.reason) == ("second", "bpf cannot be had: no right")
    chosen = chosen_of("auto", ("bpf", missing("no right")), ("nftables", missing("no table")))
    assert chosen.name == "options"
    assert chosen.reason == "bpf cannot be had: no right; nftables cannot be had: no table"


def test_who_names_one_insists() -> None:
    second = Answering("second")
    made: list[tuple[Mechanism, Callable[[], Backend]]] = [
        ("bpf", missing("no right")),
        ("nftables", lambda: second),
    ]
    assert chosen_of("nftables", *made).name == "second"
    assert chosen_of("socket-options", *made).name == "options"
    with pytest.raises(MechanismMissing, match="no right"):
        chosen_of("bpf", *made)


def test_where_namespaces_have_no_names_options_remain() -> None:
    chosen = chosen_of("auto", ("bpf", lambda: Answering("best")), namespace=0)
    assert chosen.name == "options"
    assert "Linux 5.14" in chosen.reason


# -- plans ------------------------------------------------------------------------------


def test_marks_are_the_planes_alone() -> None:
    rig = Rig()
    wanted = plan(1, VOICE)
    assert rig.apply(wanted) == Applied()
    assert rig.held == ({1: wanted}, {})
    assert rig.options.calls == 0
    assert rig.chosen.explain(1)[0] == "plane"
    rig.apply(SocketPlan(1, ()))
    assert rig.held == ({}, {})


def test_another_namespaces_sockets_have_options() -> None:
    rig = Rig()
    for namespace in (THERE, 0):
        wanted = plan(1, VOICE, namespace=namespace)
        rig.apply(wanted)
        assert rig.held == ({}, {1: wanted})
        name, why = rig.chosen.explain(1)
        assert name == rig.options.name
        assert "another network namespace" in why
        rig.apply(SocketPlan(1, ()))
        assert rig.held == ({}, {})


def test_tcp_is_paced_by_its_socket() -> None:
    rig = Rig()
    wanted = plan(1, SHAPED, Transport.TCP)
    rig.apply(wanted)
    marks = replace(wanted.shares[0], treatment=Treatment(40, 5))
    rate = replace(wanted.shares[0], treatment=Treatment(rate_bps=8_000_000))
    assert rig.plane.plans[1].shares == (marks,)
    assert rig.options.plans[1].shares == (rate,)
    assert rig.chosen.observe() == {1: SHAPED}
    assert "SO_MAX_PACING_RATE" in rig.chosen.explain(1)[1]
    # The rate ends, the marks stay; and the other way round.
    rig.apply(plan(1, VOICE, Transport.TCP))
    assert rig.held == ({1: plan(1, VOICE, Transport.TCP)}, {})
    rig.apply(wanted)
    rig.apply(SocketPlan(1, ()))
    assert rig.held == ({}, {})


@pytest.mark.parametrize(
    ("treatment", "transport"), [(METERED, Transport.TCP), (SHAPED, Transport.UDP)]
)
def test_other_rates_are_the_planes(treatment: Treatment, transport: Transport) -> None:
    rig = Rig()
    rig.apply(plan(1, treatment, transport))
    assert rig.held == ({1: plan(1, treatment, transport)}, {})


def test_either_both_parts_or_neither() -> None:
    rig = Rig()
    rig.apply(plan(1, VOICE, Transport.TCP), plan(2, BULK))
    before = rig.held
    rig.options.refusal = NO
    assert rig.apply(plan(1, SHAPED, Transport.TCP), plan(2, VOICE), plan(3, VOICE)) == NO
    assert rig.held == before
    rig.options.refusal, rig.plane.refusal = None, NO
    assert rig.apply(plan(1, SHAPED, Transport.TCP)) == NO
    assert rig.held == before


def test_what_one_finds_gone_is_gone_for_both() -> None:
    rig = Rig()
    rig.options.gone = {1}
    assert rig.apply(plan(1, SHAPED, Transport.TCP), plan(2, VOICE)) == Applied(frozenset({1}))
    assert rig.held == ({2: plan(2, VOICE)}, {})
    assert rig.chosen.explain(1)[0] == rig.options.name


def test_what_a_table_cannot_tell_gets_options() -> None:
    rig = Rig(frozenset(Transport), knows_sockets=False)
    rig.apply(plan(1, VOICE))
    rig.plane.refusal = NO
    assert rig.apply(plan(2, VOICE)) == Applied()
    assert rig.held == ({1: plan(1, VOICE)}, {2: plan(2, VOICE)})
    assert "cannot tell" in rig.chosen.explain(2)[1]
    # One that the table knows stays with it, and so does the refusal.
    assert rig.apply(plan(1, BULK)) == NO
    rig.plane.refusal = None
    # And the other with its options, to the end of its flows.
    rig.apply(plan(2, BULK))
    assert rig.held == ({1: plan(1, VOICE)}, {2: plan(2, BULK)})
    rig.apply(SocketPlan(2, ()))
    rig.apply(plan(2, VOICE))
    assert rig.held == ({1: plan(1, VOICE), 2: plan(2, VOICE)}, {})


def test_a_program_that_refuses_is_not_gone_around() -> None:
    rig = Rig()
    rig.plane.refusal = NO
    assert rig.apply(plan(1, SHAPED)) == NO
    assert rig.options.calls == 0


def test_nothing_is_left() -> None:
    rig = Rig()
    rig.apply(plan(1, SHAPED, Transport.TCP), plan(2, VOICE, namespace=THERE))
    rig.chosen.clean_up()
    assert rig.held == ({}, {})
    assert rig.chosen.observe() == {}
