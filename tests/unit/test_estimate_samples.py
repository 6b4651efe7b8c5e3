"""Lines of samples: what is written is read again, and what is no sample is refused."""

from __future__ import annotations

import json

import pytest

from openqwave.estimate.samples import Gap, Sample, Train, from_json, to_json

TRAIN = Train(1496, 0, (10, 20, 30), (600_000, 599_900))
GAP = Gap(7, 60, 1_700_000_000_000_000_001, 5, 6, 1_700_000_000_000_000_009)
LOST_TRAIN = Train(1496, 598_400, (10, 20, 30))
LOST_GAP = Gap(8, 60, 1_700_000_000_000_000_002)


@pytest.mark.parametrize("sample", [TRAIN, GAP, LOST_TRAIN, LOST_GAP], ids=repr)
def test_a_sample_survives_its_line(sample: Sample) -> None:
    line = to_json(sample)
    assert "\n" not in line
    assert line.startswith('{"kind":')
    again = from_json(line)
    assert again == sample
    assert type(again) is type(sample)
    assert to_json(again) == line


def test_lost_is_what_nothing_was_heard_of() -> None:
    assert not TRAIN.is_lost
    assert not GAP.is_lost
    assert LOST_TRAIN.is_lost
    assert LOST_GAP.is_lost


def test_what_is_left_out_is_as_if_it_were_lost() -> None:
    assert from_json('{"kind":"gap","sequence":1,"packet_bytes":60,"sent_ns":5}').is_lost
    assert from_json('{"kind":"train","packet_bytes":9,"gap_ns":0,"sent_ns":[1,2]}').is_lost


GOOD_GAP = json.loads(to_json(GAP))
GOOD_TRAIN = json.loads(to_json(TRAIN))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "{",
        "7",
        "null",
        '"gap"',
        "[]",
        "{}",
        json.dumps(GOOD_GAP | {"kind": "noise"}),
        json.dumps(GOOD_GAP | {"kind": None}),
        json.dumps({key: value for key, value in GOOD_GAP.items() if key != "kind"}),
        json.dumps({key: value for key, value in GOOD_GAP.items() if key != "sent_ns"}),
        json.dumps({key: value for key, value in GOOD_TRAIN.items() if key != "sent_ns"}),
        json.dumps(GOOD_GAP | {"colour": 3}),
        json.dumps(GOOD_GAP | {"deltas_ns": [1]}),
        json.dumps(GOOD_GAP | {"sent_ns": "yesterday"}),
        json.dumps(GOOD_GAP | {"sent_ns": None}),
        json.dumps(GOOD_GAP | {"sent_ns": 1.5}),
        json.dumps(GOOD_GAP | {"sent_ns": {}}),
        json.dumps(GOOD_TRAIN | {"deltas_ns": ["x"]}),
        json.dumps(GOOD_TRAIN | {"deltas_ns": [None]}),
        json.dumps(GOOD_TRAIN | {"deltas_ns": "12"}),
    ],
)
def test_what_is_no_sample_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(line)


def test_fields_of_the_wrong_shape_are_refused() -> None:
    taken = []
    for fields in (
        GOOD_GAP | {"kind": ["gap"]},
        GOOD_GAP | {"sent_ns": [1, 2]},
        GOOD_GAP | {"sequence": True},
        GOOD_TRAIN | {"sent_ns": 7},
        GOOD_TRAIN | {"sent_ns": []},
        GOOD_TRAIN | {"packet_bytes": [1500]},
        GOOD_TRAIN | {"deltas_ns": [1.7, 2.9]},
        GOOD_TRAIN | {"deltas_ns": ["1", "2"]},
        # One less than the packets, or none.
        GOOD_TRAIN | {"deltas_ns": [1]},
    ):
        try:
            taken.append(from_json(json.dumps(fields)))
        except ValueError:
            continue
    assert taken == []
