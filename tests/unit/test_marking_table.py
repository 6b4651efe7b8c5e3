"""What marks a flow's packets: the table is total, and each transition is the contract's."""

from __future__ import annotations

from itertools import product

import pytest

from openqwave.admission.policy import Policy
from openqwave.model.flow import UNTOUCHED, Contract, RateReason, Shaping, TrafficType, Treatment
from openqwave.subsystem import requests as rq
from openqwave.subsystem.flows import MARKING_TABLE, Marking, MarkingInput, Settings
from tests.unit.driven import ROOT, Driven, rate

# An adaptive flow cannot be given an exact DSCP, and only adaptive flows are unadmitted.
REFUSED = {(Marking.UNADMITTED, MarkingInput.SET_DSCP)}

POLICY = Policy()
VOICE, AF = Treatment(56, 6), Treatment(40, 6)


@pytest.mark.parametrize(
    "pair", list(product(Marking, MarkingInput)), ids=lambda p: f"{p[0].name}-{p[1].name}"
)
def test_every_pair_is_listed_or_refused(pair: tuple[Marking, MarkingInput]) -> None:
    assert (pair in MARKING_TABLE) != (pair in REFUSED)


def test_the_table_names_nothing_else() -> None:
    assert set(MARKING_TABLE) <= set(product(Marking, MarkingInput))


def test_every_state_is_reached() -> None:
    assert set(MARKING_TABLE.values()) == set(Marking)


def reach(driven: Driven, handle: int, flow: int, state: Marking) -> None:
    """Bring a non-adaptive flow of voice into a state."""
    if state is Marking.BY_DSCP:
        driven.grant(handle, rq.SetDscp(flow, 46, ROOT))
    elif state is Marking.ENDED:
        driven.grant(handle, rate(flow, 0))


# What each input does to a non-adaptive flow in each state, by the contract's words.
EFFECTS: dict[tuple[Marking, str], Treatment] = {
    # By contract: "new type, new marks before the call returns"
    (Marking.BY_TYPE, "type"): AF,
    # "exact mark on a non-adaptive flow"
    (Marking.BY_TYPE, "dscp"): Treatment(10, 0),
    (Marking.BY_TYPE, "rate"): Treatment(56, 6, 1_000_000),
    # By contract: "Bandwidth 0 ends the contract: no shaping and no marking"
    (Marking.BY_TYPE, "rate 0"): UNTOUCHED,
    # "cancels an explicit DSCP"
    (Marking.BY_DSCP, "type"): AF,
    (Marking.BY_DSCP, "dscp"): Treatment(10, 0),
    (Marking.BY_DSCP, "rate"): Treatment(46, 6, 1_000_000),
    (Marking.BY_DSCP, "rate 0"): UNTOUCHED,
    # "until a type or rate is set again"
    (Marking.ENDED, "type"): AF,
    (Marking.ENDED, "dscp"): Treatment(10, 0),
    (Marking.ENDED, "rate"): Treatment(56, 6, 1_000_000),
    (Marking.ENDED, "rate 0"): UNTOUCHED,
}


@pytest.mark.parametrize("case", EFFECTS, ids=lambda c: f"{c[0].name}-{c[1]}")
def test_transition_reaches_the_packets(case: tuple[Marking, str]) -> None:
    state, given = case
    driven = Driven()
    handle = driven.open()
    flow = driven.flow(handle)
    reach(driven, handle, flow, state)
    requests: dict[str, rq.Request] = {
        "type": rq.SetTrafficType(flow, TrafficType.AUDIO_VIDEO),
        "dscp": rq.SetDscp(flow, 10, ROOT),
        "rate": rate(flow, 1_000_000),
        "rate 0": rate(flow, 0),
    }
    driven.grant(handle, requests[given])
    assert driven.treatment() == EFFECTS[case]


# Semantics 4, QOSSetOutgoingRate: what each kind of shaping means for the packets.
SHAPINGS = {
    # "excess is delayed; packets go unmarked"
    Shaping.SHAPE_ONLY: Treatment(None, None, 1_000_000),
    # "excess is delayed, every packet gets conformant marks"
    Shaping.SHAPE_AND_MARK: Treatment(56, 6, 1_000_000),
    # "nothing is delayed; excess packets get the non-conformant marks"
    Shaping.USE_NON_CONFORMANT_MARKINGS: Treatment(56, 6, 1_000_000, excess_is_remarked=True),
}


@pytest.mark.parametrize("shaping", Shaping, ids=lambda s: s.name)
def test_shaping(shaping: Shaping) -> None:
    contract = Contract(1_000_000, shaping, RateReason.NOT_APPLICABLE)
    settings = Settings(TrafficType.VOICE, Marking.BY_TYPE).with_contract(contract)
    assert settings.treatment(POLICY) == SHAPINGS[shaping]


def test_shape_only_hides_an_exact_dscp_too() -> None:
    settings = Settings(TrafficType.VOICE, Marking.BY_TYPE).with_dscp(46)
    shaped = settings.with_contract(Contract(1_000_000, Shaping.SHAPE_ONLY))
    assert shaped.treatment(POLICY) == Treatment(rate_bps=1_000_000)
    assert shaped.with_contract(Contract(9, Shaping.SHAPE_AND_MARK)).treatment(POLICY) == Treatment(
        46, 6, 9
    )


@pytest.mark.parametrize("kind", TrafficType, ids=lambda kind: kind.name)
def test_type_marks_without_a_contract(kind: TrafficType) -> None:
    driven = Driven()
    driven.flow(driven.open(), traffic_type=kind)
    marks = POLICY.marks[kind]
    if marks is None:
        # By contract: "BestEffort 0 | none (packet untouched)"
        assert driven.treatment() == UNTOUCHED
    else:
        assert driven.treatment().dscp == marks.dscp


def test_best_effort_with_a_rate_is_shaped_and_not_marked() -> None:
    settings = Settings(TrafficType.BEST_EFFORT, Marking.BY_TYPE)
    shaped = settings.with_contract(Contract(9, Shaping.SHAPE_AND_MARK))
    assert shaped.treatment(POLICY) == Treatment(rate_bps=9)


def test_an_admitted_rate_survives_a_new_type() -> None:
    # QOSSetTrafficType: "an admitted rate stays".
    driven = Driven()
    handle = driven.open()
    flow = driven.flow(handle)
    driven.grant(handle, rate(flow, 1_000_000))
    driven.grant(handle, rq.SetTrafficType(flow, TrafficType.BACKGROUND))
    assert driven.treatment() == Treatment(8, 2, 1_000_000)


@pytest.mark.parametrize("value", [0, 1, 46, 63])
def test_an_exact_dscp_survives_a_rate(value: int) -> None:
    driven = Driven()
    handle = driven.open()
    flow = driven.flow(handle)
    driven.grant(handle, rq.SetDscp(flow, value, ROOT))
    driven.grant(handle, rate(flow, 5_000))
    assert (driven.treatment().dscp, driven.treatment().rate_bps) == (value, 5_000)


def test_an_adaptive_flow_changes_nothing_until_a_rate_is_admitted() -> None:
    # "Adaptive: nothing on the wire changes until a rate is admitted".
    driven = Driven()
    handle = driven.open()
    flow = driven.flow(handle, is_adaptive=True)
    assert driven.treatment() == UNTOUCHED
    driven.grant(handle, rq.SetTrafficType(flow, TrafficType.CONTROL))
    assert driven.treatment() == UNTOUCHED
    driven.grant(handle, rate(flow, 1_000_000))
    assert driven.treatment() == Treatment(56, 6, 1_000_000)
    driven.grant(handle, rate(flow, 0))
    assert driven.treatment() == UNTOUCHED
    driven.grant(handle, rate(flow, 2_000_000))
    assert driven.treatment() == Treatment(56, 6, 2_000_000)
