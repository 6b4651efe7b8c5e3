"""Limits of what contracts hold towards a far host, and through an interface."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openqwave.admission.ledger import QUOTE_NS
from openqwave.admission.policy import Limits, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Fundamentals, Unmeasurable
from openqwave.model.flow import NoticeKind
from openqwave.model.path import LinkType, PathFacts
from openqwave.subsystem import requests as rq
from tests.unit.driven import NO_MECHANISM, STRANGER, A, B, C, Driven, notify, query, rate, view

# "Refused: ERROR_NETWORK_BUSY", and the recovery that goes with it.
BUSY = ErrorCode.ERROR_NETWORK_BUSY
MBIT = 1_000_000
PERCENT = 10_000
WIDE = 1_000 * MBIT
ROUTER = b"\xc0\x00\x02\xfe"


class Limited(Driven):
    """An engine with a handle, and paths of a kind."""

    def __init__(self, **limits: int) -> None:
        super().__init__(Policy(limits=Limits(**limits)))
        self.handle = self.open()

    def measured(
        self, host: Endpoint = A, capacity_bps: int | None = 100 * MBIT, available_bps: int = WIDE
    ) -> None:
        """What is known of a path now."""
        self.see(
            host,
            view(
                bottleneck_bps=capacity_bps,
                available_bps=available_bps,
                rtt_ns=MBIT,
                is_congested=False,
            ),
        )

    def leave_by(
        self, host: Endpoint, interface: int, speed_bps: int, gateway: bytes = b""
    ) -> None:
        """How a host is reached now."""
        name = f"eth{interface}"
        facts = PathFacts(
            host.host(), interface, name, b"", gateway, 1500, LinkType.WIRED, speed_bps
        )
        self.carry_out(self.engine.receive_path(host, facts, now_ns=self.now_ns))

    def adaptive(self, cookie: int, host: Endpoint = A, handle: int | None = None) -> int:
        return self.flow(handle or self.handle, cookie, host, is_adaptive=True)

    def granted(self, flow: int, rate_bps: int) -> None:
        self.grant(self.handle, rate(flow, rate_bps))

    def busy(self, flow: int, rate_bps: int) -> str:
        """Ask for a rate that is refused; the sentence."""
        result = self.result(self.handle, rate(flow, rate_bps))
        assert isinstance(result, Refusal)
        assert result.code is BUSY
        return result.detail

    def available(self, flow: int) -> int | None:
        found = self.grant(self.handle, query(flow, rq.Question.FUNDAMENTALS))
        assert isinstance(found, Fundamentals)
        return found.available_bps

    def limit(self, **limits: int) -> None:
        policy = Policy(limits=Limits(**limits))
        self.carry_out(self.engine.receive_policy(policy, now_ns=self.now_ns))


# -- towards a host -------------------------------------------------------------------


def test_contracts_towards_a_host_together() -> None:
    driven = Limited(contracts_per_host_bps=10 * MBIT)
    for host in (A, B):
        driven.measured(host)
    first, second, elsewhere = driven.adaptive(1), driven.adaptive(2), driven.adaptive(3, B)
    driven.granted(first, 6 * MBIT)
    assert driven.busy(second, 5 * MBIT) == (
        "contracts towards 192.0.2.1 hold 6000000 of the 10000000 bit/s that policy allows "
        "(limits.contracts_per_host_kbps); ask for 4000000 bit/s at most, or be told when 5000000 "
        "bit/s are there"
    )
    driven.granted(second, 4 * MBIT)
    driven.granted(elsewhere, 10 * MBIT)
    # "A decrease is always granted".
    driven.granted(first, 5 * MBIT)
    assert "ask for 5000000 bit/s at most" in driven.busy(second, 5 * MBIT + 1)
    driven.granted(second, 5 * MBIT)
    driven.grant(driven.handle, rq.RemoveSocket(first, None))
    driven.granted(second, 10 * MBIT)
    assert driven.engine.limits_reached == {"contracts_per_host_kbps": 2}


def test_other_processes_and_administrators_count() -> None:
    driven = Limited(contracts_per_host_bps=10 * MBIT)
    driven.measured()
    other = driven.engine.open_handle(STRANGER, 1000)
    assert isinstance(other, int)
    flow = driven.adaptive(1, handle=other)
    driven.grant(other, rate(flow, 10 * MBIT))
    # This handle has no user whose limits hold; the network has no more room for that.
    assert "nothing is left" in driven.busy(driven.adaptive(2), 1)


def test_what_cannot_be_measured_is_limited_as_a_rate() -> None:
    # By contract: rates are granted without admission there.
    driven = Limited(contracts_per_host_bps=10 * MBIT, contracts_per_host_ppm=50 * PERCENT)
    first, second = driven.adaptive(1), driven.adaptive(2)
    driven.granted(first, 6 * MBIT)
    driven.busy(second, 5 * MBIT)
    driven.granted(second, 4 * MBIT)


def test_flows_that_have_no_path_are_not_limited_by_one() -> None:
    driven = Limited(contracts_per_host_bps=MBIT, contracts_per_interface_ppm=PERCENT)
    driven.granted(driven.flow(driven.handle), 99 * MBIT)


def test_a_share_of_what_the_path_carries() -> None:
    driven = Limited(contracts_per_host_ppm=50 * PERCENT)
    driven.measured(capacity_bps=20 * MBIT)
    flow, other = driven.adaptive(1), driven.adaptive(2)
    driven.granted(flow, 4 * MBIT)
    assert "limits.contracts_per_host_percent" in driven.busy(other, 7 * MBIT)
    driven.granted(other, 6 * MBIT)
    # The path carries less now; what was granted stays, and nothing grows.
    driven.measured(capacity_bps=10 * MBIT)
    assert "nothing is left" not in driven.busy(other, 6 * MBIT + 1)
    driven.granted(other, MBIT)
    driven.busy(other, MBIT + 1)
    driven.measured(capacity_bps=40 * MBIT)
    driven.granted(other, 16 * MBIT)


def test_a_share_of_what_is_not_known_is_no_limit() -> None:
    driven = Limited(contracts_per_host_ppm=50 * PERCENT)
    driven.measured(capacity_bps=None, available_bps=20 * MBIT)
    driven.granted(driven.adaptive(1), 15 * MBIT)
    # And one that is being measured is waited for.
    driven.see(B, view())
    flow = driven.adaptive(2, B)
    asked = driven.waits(driven.handle, rate(flow, 6 * MBIT))
    driven.measured(B, capacity_bps=10 * MBIT)
    assert driven.code_of(asked) is BUSY


def test_the_smaller_of_both_holds() -> None:
    for capacity, most in ((10, 5), (30, 8)):
        driven = Limited(contracts_per_host_bps=8 * MBIT, contracts_per_host_ppm=50 * PERCENT)
        driven.measured(capacity_bps=capacity * MBIT)
        flow = driven.adaptive(1)
        driven.busy(flow, most * MBIT + 1)
        assert driven.available(flow) == most * MBIT
        driven.granted(flow, most * MBIT)


def test_the_path_limits_as_well() -> None:
    driven = Limited(contracts_per_host_bps=10 * MBIT)
    driven.measured(available_bps=3 * MBIT)
    flow = driven.adaptive(1)
    assert "the path can carry 3000000 bit/s" in driven.busy(flow, 4 * MBIT)
    assert driven.available(flow) == 3 * MBIT


def test_the_recovery_that_must_work() -> None:
    # "query the available bandwidth, stream at the lower rate with priority, ask
    # QOSNotifyAvailable for the wanted rate, and when it fires set that rate again."
    driven = Limited(contracts_per_host_bps=10 * MBIT)
    driven.measured()
    other, flow = driven.adaptive(1), driven.adaptive(2)
    driven.granted(other, 7 * MBIT)
    driven.busy(flow, 8 * MBIT)
    spare = driven.available(flow)
    assert spare == 3 * MBIT
    driven.granted(flow, spare)
    waiting = driven.waits(driven.handle, notify(flow, NoticeKind.AVAILABLE, 8 * MBIT))
    driven.measured()
    assert waiting not in driven.answers
    driven.granted(other, 2 * MBIT)
    driven.measured()
    assert driven.answers[waiting] is None
    driven.granted(flow, 8 * MBIT)


def test_what_was_said_to_be_available_is_honoured_for_a_moment() -> None:
    driven = Limited(contracts_per_host_ppm=50 * PERCENT)
    driven.measured(capacity_bps=20 * MBIT)
    flow, other = driven.adaptive(1), driven.adaptive(2)
    assert driven.available(flow) == 10 * MBIT
    # Each estimate finds another capacity.
    driven.measured(capacity_bps=19 * MBIT)
    driven.busy(other, 10 * MBIT)
    driven.granted(flow, 10 * MBIT)
    driven.granted(flow, 0)
    driven.measured(capacity_bps=20 * MBIT)
    assert driven.available(flow) == 10 * MBIT
    driven.measured(capacity_bps=19 * MBIT)
    # Another flow may take it, and it is a promise for a moment only.
    driven.granted(other, MBIT)
    driven.busy(flow, 9 * MBIT + 1)
    driven.now_ns += QUOTE_NS + 1
    driven.busy(flow, 9 * MBIT)
    driven.granted(flow, 17 * MBIT // 2)


def test_another_policy_holds_at_once() -> None:
    driven = Limited(contracts_per_host_bps=20 * MBIT)
    driven.measured()
    flow = driven.adaptive(1)
    assert driven.available(flow) == 20 * MBIT
    driven.limit(contracts_per_host_bps=10 * MBIT)
    driven.busy(flow, 20 * MBIT)
    driven.limit()
    driven.granted(flow, 50 * MBIT)
    # What is above a lowered limit stays.
    driven.limit(contracts_per_host_bps=MBIT)
    assert driven.treatment().rate_bps == 50 * MBIT
    driven.busy(driven.adaptive(2), 1)


def test_a_rate_that_the_kernel_refuses_takes_no_room() -> None:
    driven = Limited(contracts_per_host_bps=10 * MBIT)
    driven.measured()
    flow = driven.adaptive(1)
    driven.mechanism.refusals.append(NO_MECHANISM)
    assert driven.refusal(driven.handle, rate(flow, 10 * MBIT)) is NO_MECHANISM.code
    driven.granted(driven.adaptive(2), 10 * MBIT)


# -- through an interface -------------------------------------------------------------


def by_interfaces(driven: Limited) -> tuple[int, int, int]:
    """Flows to hosts on the link of eth1, behind a router there, and on the link of eth2."""
    flows = driven.adaptive(1, A), driven.adaptive(2, B), driven.adaptive(3, C)
    driven.leave_by(A, 1, 100 * MBIT)
    driven.leave_by(B, 1, 100 * MBIT, ROUTER)
    driven.leave_by(C, 2, 100 * MBIT)
    for host in (A, B, C):
        driven.measured(host)
    return flows


def test_contracts_through_an_interface_together() -> None:
    driven = Limited(contracts_per_interface_ppm=60 * PERCENT)
    near, behind, elsewhere = by_interfaces(driven)
    driven.granted(near, 40 * MBIT)
    said = driven.busy(behind, 21 * MBIT)
    assert "contracts through eth1 hold 40000000 of the 60000000 bit/s that policy allows" in said
    assert "limits.contracts_per_interface_percent" in said
    assert driven.available(behind) == 20 * MBIT
    driven.granted(behind, 20 * MBIT)
    driven.granted(elsewhere, 60 * MBIT)
    driven.granted(near, 0)
    driven.granted(behind, 60 * MBIT)


def test_contracts_go_with_the_way() -> None:
    driven = Limited(contracts_per_interface_ppm=60 * PERCENT)
    near, behind, elsewhere = by_interfaces(driven)
    driven.granted(near, 40 * MBIT)
    driven.granted(elsewhere, 30 * MBIT)
    # Packets to A leave by eth2 now; nobody loses what was granted.
    driven.leave_by(A, 2, 100 * MBIT)
    driven.measured(A)
    assert driven.treatment(1).rate_bps == 40 * MBIT
    driven.busy(elsewhere, 30 * MBIT + 1)
    driven.granted(behind, 60 * MBIT)
    driven.granted(near, 30 * MBIT)
    driven.busy(near, 30 * MBIT + 1)


def test_an_interface_gets_another_speed() -> None:
    driven = Limited(contracts_per_interface_ppm=50 * PERCENT)
    near, behind, _ = by_interfaces(driven)
    driven.granted(near, 50 * MBIT)
    for host, gateway in ((A, b""), (B, ROUTER)):
        driven.leave_by(host, 1, 1_000 * MBIT, gateway)
    driven.granted(behind, 450 * MBIT)
    driven.busy(near, 50 * MBIT + 1)


@pytest.mark.parametrize("kind", ["no speed", "no way"])
def test_where_the_speed_is_not_known_nothing_is_limited(kind: str) -> None:
    driven = Limited(contracts_per_interface_ppm=PERCENT)
    flow = driven.adaptive(1)
    if kind == "no speed":
        driven.leave_by(A, 1, 0)
        driven.measured(available_bps=90 * MBIT)
    else:
        why = Unmeasurable("behind a router")
        driven.carry_out(driven.engine.receive_path(A, why, now_ns=driven.now_ns))
    driven.granted(flow, 90 * MBIT)


def test_contracts_of_before_the_limit_count() -> None:
    driven = Limited()
    near, behind, _ = by_interfaces(driven)
    driven.granted(near, 40 * MBIT)
    driven.limit(contracts_per_interface_ppm=50 * PERCENT)
    driven.busy(behind, 11 * MBIT)
    driven.granted(behind, 10 * MBIT)
    driven.limit()
    driven.granted(behind, 60 * MBIT)


def test_nothing_is_left_when_all_is_over() -> None:
    limits = {
        "contracts_per_host_bps": WIDE,
        "contracts_per_host_ppm": 90 * PERCENT,
        "contracts_per_interface_ppm": 90 * PERCENT,
    }
    driven = Limited(**limits)
    empty = driven.engine.entry_count
    flows = by_interfaces(driven)
    for flow in flows:
        driven.granted(flow, 10 * MBIT)
    driven.limit(contracts_per_host_bps=MBIT)
    driven.limit(**limits)
    for flow in flows:
        driven.grant(driven.handle, rq.RemoveSocket(flow, None))
    # The paths stay warm for two minutes.
    driven.wait(200 * 10**9)
    assert driven.engine.entry_count == empty


def test_another_port_is_the_same_host() -> None:
    driven = Limited(contracts_per_host_bps=10 * MBIT)
    driven.measured()
    driven.granted(driven.adaptive(1), 10 * MBIT)
    driven.busy(driven.adaptive(2, replace(A, port=9)), 1)
