"""What is counted for collectors: requests, outcomes of enforcement, sums over paths."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address

import pytest

from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import endpoint_at
from openqwave.model.errors import Refusal
from openqwave.model.flow import Treatment
from openqwave.model.traffic import FlowTraffic
from openqwave.service.metrics.applying import CountedBackend
from openqwave.service.metrics.paths import PathSums
from openqwave.service.metrics.requests import BOUNDS_NS, Durations, Requests
from openqwave.subsystem.effects import Applied, SocketPlan
from openqwave.subsystem.views import PathTally

SECOND = 1_000_000_000
HERE, THERE = (endpoint_at(ip_address(f"192.0.2.{last}"), 0, 0) for last in (1, 2))


# -- requests ---------------------------------------------------------------------------


def test_requests_are_counted_by_kind_and_error() -> None:
    requests = Requests()
    requests.ended("check", None)
    requests.ended("set_rate", ErrorCode.ERROR_NETWORK_BUSY)
    requests.ended("set_rate", ErrorCode.ERROR_NETWORK_BUSY)
    requests.ended("set_rate", None)
    assert requests.results() == {
        ("check", None): 1,
        ("set_rate", None): 1,
        ("set_rate", ErrorCode.ERROR_NETWORK_BUSY): 2,
    }


def test_a_duration_is_in_the_range_up_to_its_bound() -> None:
    requests = Requests()
    for took_ns in (0, BOUNDS_NS[0], BOUNDS_NS[0] + 1, BOUNDS_NS[-1], BOUNDS_NS[-1] + 1):
        requests.took("check", took_ns)
    counts = [0] * (len(BOUNDS_NS) + 1)
    counts[0], counts[1], counts[-2], counts[-1] = 2, 1, 1, 1
    whole_ns = 2 * (BOUNDS_NS[0] + BOUNDS_NS[-1] + 1)
    assert requests.durations() == {"check": Durations(tuple(counts), whole_ns)}


def test_what_was_read_does_not_change() -> None:
    requests = Requests()
    requests.took("check", 1)
    durations, results = requests.durations(), requests.results()
    requests.took("check", 1)
    requests.ended("check", ErrorCode.ERROR_BUSY)
    assert durations["check"].counts[0] == 1
    assert results == {("check", None): 0}


# -- enforcement ------------------------------------------------------------------------


class Backend:
    """Answers what it is told."""

    name = "a test's own"

    def __init__(self, outcome: Applied | Refusal | OSError) -> None:
        self.outcome = outcome

    def apply(self, _: tuple[SocketPlan, ...]) -> Applied | Refusal:
        if isinstance(self.outcome, OSError):
            raise self.outcome
        return self.outcome

    def observe(self) -> Mapping[int, Treatment]:
        return {1: Treatment()}

    def tags_at(self, interface: int) -> bool:
        return interface == 7

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        return dict.fromkeys(flow_ids, FlowTraffic())

    def explain(self, cookie: int) -> tuple[str, str]:
        return self.name, str(cookie)

    def outlives(self, cookie: int) -> bool:
        return cookie == 3

    def take_gone(self) -> Collection[int]:
        return (3,)

    def reconcile(self) -> None:
        raise OSError("as asked")

    def clean_up(self) -> None:
        raise OSError("as asked")


def test_outcomes_of_enforcement_are_counted() -> None:
    plan = (SocketPlan(1, ()),)
    backend = Backend(Applied())
    counted = CountedBackend(backend)
    assert counted.apply(plan) == Applied()
    backend.outcome = Refusal(ErrorCode.ERROR_NOT_SUPPORTED, "no")
    assert counted.apply(plan) == backend.outcome
    backend.outcome = OSError("no")
    with pytest.raises(OSError, match="no"):
        counted.apply(plan)
    assert counted.changes == 1
    assert counted.errors == {"not_supported": 1, "os_error": 1}


def test_all_else_is_the_backends() -> None:
    counted = CountedBackend(Backend(Applied()))
    assert counted.name == "a test's own"
    assert counted.observe() == {1: Treatment()}
    assert (counted.tags_at(7), counted.tags_at(8)) == (True, False)
    assert counted.traffic([5]) == {5: FlowTraffic()}
    assert counted.explain(4) == ("a test's own", "4")
    assert counted.take_gone() == (3,)
    assert (counted.outlives(3), counted.outlives(4)) == (True, False)
    for call in (counted.reconcile, counted.clean_up):
        with pytest.raises(OSError, match="as asked"):
            call()


# -- paths ------------------------------------------------------------------------------


def test_congestion_is_summed_over_time_and_paths() -> None:
    sums = PathSums()
    both = [PathTally(HERE, True, 0), PathTally(THERE, True, 0)]
    sums.take(both, now_ns=100 * SECOND)
    assert (sums.congestion_ns, sums.congested, sums.known) == (0, 2, 2)
    sums.take(both, now_ns=101 * SECOND)
    assert sums.congestion_ns == 2 * SECOND
    sums.take([PathTally(HERE, False, 0), PathTally(THERE, True, 0)], now_ns=102 * SECOND)
    assert sums.congestion_ns == 3 * SECOND
    sums.take([], now_ns=103 * SECOND)
    assert (sums.congestion_ns, sums.congested, sums.known) == (3 * SECOND, 0, 0)


def test_what_was_not_looked_at_was_not_congested() -> None:
    sums = PathSums()
    sums.take([PathTally(HERE, True, 0)], now_ns=0)
    sums.take([PathTally(HERE, True, 0)], now_ns=3_600 * SECOND)
    assert sums.congestion_ns == 0


def test_experiments_that_begin_anew_lose_nothing() -> None:
    sums = PathSums()
    for sent in (100, 250, 40, 60):
        sums.take([PathTally(HERE, False, sent), PathTally(THERE, False, 5)], now_ns=0)
    assert sums.probe_bytes == 250 + 60 + 5
    sums.take([], now_ns=0)
    sums.take([PathTally(HERE, False, 10)], now_ns=0)
    assert sums.probe_bytes == 250 + 60 + 5 + 10
