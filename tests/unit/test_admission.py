"""Marks by policy, queue priorities, rights."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from openqwave.admission.policy import WINDOWS_MARKS, Marks, Policy, queue_priority
from openqwave.admission.rights import Credentials, refuse_enumeration, refuse_exact_dscp
from openqwave.model.codes import ErrorCode
from openqwave.model.flow import TrafficType

# Semantics 2: "Marks by traffic type".
MARKS = {
    TrafficType.BEST_EFFORT: None,  # "none (packet untouched)"
    TrafficType.BACKGROUND: Marks(8, 2),
    TrafficType.EXCELLENT_EFFORT: Marks(40, 5),
    TrafficType.AUDIO_VIDEO: Marks(40, 5),
    TrafficType.VOICE: Marks(56, 7),
    TrafficType.CONTROL: Marks(56, 7),
}

# pfifo_fast's and prio's default map from skb priority to band; band 0 leaves first
# (net/sched/sch_generic.c).
PRIO2BAND = (1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)

ROOT = Credentials(0, has_net_admin=True, groups=frozenset({"root"}))
USER = Credentials(1000, has_net_admin=False, groups=frozenset({"users"}))
OPERATOR = Credentials(1000, has_net_admin=False, groups=frozenset({"users", "netdev"}))
CAPABLE = Credentials(1000, has_net_admin=True, groups=frozenset())
BARE_ROOT = Credentials(0, has_net_admin=False, groups=frozenset())


@pytest.mark.parametrize("kind", TrafficType, ids=lambda kind: kind.name)
def test_marks_of_a_type(kind: TrafficType) -> None:
    assert WINDOWS_MARKS[kind] == MARKS[kind]
    expected = MARKS[kind]
    assert Policy().dscp_of(kind) == (None if expected is None else expected.dscp)


def test_marks_can_be_replaced() -> None:
    # Semantics 2: "The table is the default policy. An administrator may replace it".
    rfc4594 = MappingProxyType({**WINDOWS_MARKS, TrafficType.VOICE: Marks(46, 6)})
    assert Policy(marks=rfc4594).dscp_of(TrafficType.VOICE) == 46
    assert Policy().dscp_of(TrafficType.VOICE) == 56


@pytest.mark.parametrize("dscp", range(64))
def test_queue_priority_may_be_set_by_anybody(dscp: int) -> None:
    assert 0 <= queue_priority(dscp) <= 6


@pytest.mark.parametrize("dscp", range(64))
def test_queue_priority_is_in_the_band_that_was_meant(dscp: int) -> None:
    # Lower effort (RFC 8622: 1, RFC 3662: 8) waits behind best effort, CS3 and above leads
    # (RFC 8325 section 4.3), the rest is as if unmarked.
    band = 2 if dscp in (1, 8) else 0 if dscp >= 24 else 1
    assert PRIO2BAND[queue_priority(dscp)] == band


def test_priority_5_would_be_the_lowest_band() -> None:
    # 802.1p's 5 (video) as an skb priority would queue behind everything else.
    assert PRIO2BAND[5] == 2
    assert 5 not in {queue_priority(dscp) for dscp in range(64)}


@pytest.mark.parametrize(
    ("caller", "is_administrator"),
    [(ROOT, True), (BARE_ROOT, True), (CAPABLE, True), (OPERATOR, False), (USER, False)],
    ids=["root", "uid 0 without capability", "CAP_NET_ADMIN", "netdev", "user"],
)
def test_rights(caller: Credentials, is_administrator: bool) -> None:
    # Semantics 3: "Administrator = effective uid 0 or CAP_NET_ADMIN".
    assert caller.is_administrator is is_administrator
    refusal = refuse_enumeration(caller)
    # "QOSEnumerateFlows | administrator, else ERROR_ACCESS_DENIED".
    assert (refusal is None) is is_administrator
    if refusal is not None:
        assert refusal.code is ErrorCode.ERROR_ACCESS_DENIED


@pytest.mark.parametrize(
    ("caller", "group", "is_allowed"),
    [
        (ROOT, "netdev", True),
        (BARE_ROOT, "netdev", True),
        (CAPABLE, "netdev", True),
        (OPERATOR, "netdev", True),
        (OPERATOR, "wheel", False),
        (USER, "netdev", False),
        (USER, "users", True),
    ],
)
def test_exact_dscp(caller: Credentials, group: str, is_allowed: bool) -> None:
    # Semantics 3: "administrator, or a member of the configured operators' group (default
    # `netdev`), else ERROR_ACCESS_DENIED".
    refusal = refuse_exact_dscp(caller, Policy(operators_group=group), "there are others")
    assert (refusal is None) is is_allowed
    if refusal is not None:
        assert refusal.code is ErrorCode.ERROR_ACCESS_DENIED
        assert group in refusal.detail
        assert refusal.detail.endswith("; there are others")


def test_default_policy() -> None:
    policy = Policy()
    assert policy.operators_group == "netdev"
    # Semantics 4: "asks for a small default share [decision: 64 kbit/s, set by policy]".
    assert policy.default_minimum_bps == 64_000
