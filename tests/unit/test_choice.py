"""Plans divided between what is in the kernel and the options of sockets."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import pytest

from openqwave.enforcement.choice import Candidate, Chosen
from openqwave.enforcement.memory import Memory
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.flow import Transport, Treatment
from openqwave.subsystem.effects import Applied, Share, SocketPlan

HERE, ELSEWHERE = 7, 8
PEER = Endpoint(bytes([192, 0, 2, 1]), 5_000)
MARKED = Treatment(40, 5)
SHAPED = Treatment(40, 5, 8_000_000)
PACED = Treatment(rate_bps=8_000_000)
TCP, UDP = Transport.TCP, Transport.UDP


class Part(Memory):
    """A mechanism that refuses when it is told to."""

    refusal: Refusal | None = None

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:  # type: ignore[override]
        if self.refusal is not None and any(plan.shares for plan in plans):
            return self.refusal
        return super().apply(plans)

    def of(self) -> Mapping[int, Treatment]:
        return {cookie: plan.shares[-1].treatment for cookie, plan in self.plans.items()}


class Rig:
    """A mechanism in the kernel that can hold rates, and options."""

    def __init__(self, paced: frozenset[Transport] = frozenset({TCP})) -> None:
        self.options, self.plane = Part(), Part()
        candidate = Candidate("bpf", lambda: self.plane, paced)
        self.chosen = Chosen(self.options, self.plane, candidate, HERE, "")

    def apply(self, *plans: SocketPlan) -> Applied | Refusal:
        return self.chosen.apply(plans)


def plan(
    cookie: int,
    transport: Transport,
    treatment: Treatment,
    *,
    sockets: int = 1,
    namespace: int = HERE,
    flow_id: int = 10,
) -> SocketPlan:
    return SocketPlan(cookie, (Share(flow_id, treatment, sockets, (PEER,)),), transport, namespace)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_one_tcp_socket_paces_itself(rig: Rig) -> None:
    assert rig.apply(plan(1, TCP, SHAPED)) == Applied()
    assert (rig.plane.of(), rig.options.of()) == ({1: MARKED}, {1: PACED})
    rig.apply(plan(1, TCP, MARKED))
    assert (rig.plane.of(), rig.options.of()) == ({1: MARKED}, {})


def test_udp_is_held_in_the_kernel(rig: Rig) -> None:
    rig.apply(plan(1, UDP, SHAPED))
    assert (rig.plane.of(), rig.options.of()) == ({1: SHAPED}, {})


def test_a_flow_of_both_has_one_rate(rig: Rig) -> None:
    """What a flow's newest socket is told must not end the rate of the others."""
    rig.apply(plan(1, UDP, SHAPED))
    assert rig.apply(plan(2, TCP, SHAPED, sockets=2)) == Applied()
    assert (rig.plane.of(), rig.options.of()) == ({1: SHAPED, 2: SHAPED}, {})


def test_tcp_is_not_held_twice_when_others_join(rig: Rig) -> None:
    rig.apply(plan(1, TCP, SHAPED))
    rig.apply(plan(1, TCP, SHAPED, sockets=2), plan(2, TCP, SHAPED, sockets=2))
    assert (rig.plane.of(), rig.options.of()) == ({1: SHAPED, 2: SHAPED}, {})
    rig.apply(SocketPlan(2, ()), plan(1, TCP, SHAPED))
    assert (rig.plane.of(), rig.options.of()) == ({1: MARKED}, {1: PACED})


def test_where_only_options_hold_rates_they_are_asked() -> None:
    rig = Rig(frozenset(Transport))
    rig.apply(plan(1, UDP, SHAPED, sockets=2))
    assert (rig.plane.of(), rig.options.of()) == ({1: MARKED}, {1: PACED})


def test_sockets_elsewhere_have_options(rig: Rig) -> None:
    rig.apply(plan(1, UDP, SHAPED, namespace=ELSEWHERE))
    assert (rig.plane.of(), rig.options.of()) == ({}, {1: SHAPED})


def test_what_options_refuse_is_undone_in_the_kernel(rig: Rig) -> None:
    rig.apply(plan(1, TCP, MARKED))
    rig.options.refusal = Refusal(ErrorCode.ERROR_ACCESS_DENIED, "no")
    assert rig.apply(plan(1, TCP, SHAPED), plan(2, TCP, SHAPED, flow_id=11)) == rig.options.refusal
    assert (rig.plane.of(), rig.options.of()) == ({1: MARKED}, {})
    assert rig.plane.plans[1] == plan(1, TCP, MARKED)


def test_the_kernel_is_left_clean_though_options_are_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "no")

    rig.apply(plan(1, UDP, MARKED))
    monkeypatch.setattr(rig.options, "clean_up", fail)
    with pytest.raises(OSError, match="no"):
        rig.chosen.clean_up()
    assert rig.plane.of() == {}
