"""What a link may be, and its way through JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from openqwave.lab.links import (
    Contention,
    Cross,
    CrossKind,
    DuplexSpec,
    Marks,
    PathSpec,
    Stage,
    TokenBucket,
    from_json,
    to_json,
)

MBIT = 1_000_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stage(rate_bps=-1), "rate_bps is not negative, as -1 is"),
        (lambda: Stage(delay_ns=-1), "delay_ns is not negative"),
        (lambda: Stage(jitter_ns=-1), "jitter_ns is not negative"),
        (lambda: Stage(coalesce_ns=-1), "coalesce_ns is not negative"),
        (lambda: Stage(loss=1.1), r"loss is a share from 0 to 1, not 1\.1"),
        (lambda: Stage(duplicate=-0.1), "duplicate is a share"),
        (lambda: Stage(reorder=2), "reorder is a share"),
        (lambda: Stage(reorder=0.1, reorder_ns=0), "held back"),
        (lambda: Stage(queue_bytes=1499), "1499 bytes does not hold one full packet"),
        (
            lambda: Stage(
                rate_bps=MBIT, bucket=TokenBucket(MBIT // 2, 9000), contention=Contention()
            ),
            "not both",
        ),
        (lambda: Stage(rate_bps=MBIT, bucket=TokenBucket(MBIT, 9000)), "peak rate lies above"),
        (lambda: Stage(contention=Contention()), "shared medium needs a rate"),
        (lambda: Stage(cross=(Cross(CrossKind.POISSON, MBIT),)), "a rate to compete for"),
        (lambda: Stage(rewrite_dscp=64), "from 0 to 63, not 64"),
        (lambda: TokenBucket(0, 9000), "bucket needs a rate"),
        (lambda: TokenBucket(MBIT, 1000), "bucket of 1000 bytes"),
        (lambda: Contention(access_ns=-1), "less than no time"),
        (lambda: Contention(aggregate_frames=0), "one packet at least"),
        (lambda: Cross(CrossKind.POISSON, 0), "needs a rate"),
        (lambda: Cross(CrossKind.POISSON, MBIT, packet_bytes=0), "1 to 65535"),
        (lambda: Cross(CrossKind.ONOFF, MBIT), "the peak lies above"),
        (lambda: Cross(CrossKind.POISSON, MBIT, peak_bps=2 * MBIT), "no peak rate"),
        (lambda: Cross(CrossKind.POISSON, MBIT, start_ns=5, stop_ns=5), "stops after"),
        (lambda: Cross(CrossKind.POISSON, MBIT, start_ns=-1), "before the model"),
        (lambda: PathSpec(()), "one stage at least"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


FULL = PathSpec(
    (
        Stage(
            rate_bps=20 * MBIT,
            queue_bytes=30_000,
            delay_ns=1,
            jitter_ns=2,
            loss=0.1,
            duplicate=0.2,
            reorder=0.3,
            reorder_ns=4,
            bucket=TokenBucket(10 * MBIT, 65_536),
            coalesce_ns=5,
            cross=(
                Cross(CrossKind.POISSON, MBIT, 40),
                Cross(CrossKind.ONOFF, MBIT, peak_bps=2 * MBIT, on_ns=6, start_ns=7, stop_ns=8),
            ),
            rewrite_dscp=0,
            drop_tagged=True,
            strip_tags=True,
        ),
        Stage(rate_bps=50 * MBIT, contention=Contention(1, 2, 3)),
    )
)


def test_a_link_goes_through_json_unchanged() -> None:
    spec = DuplexSpec(FULL, PathSpec((Stage(delay_ns=9),)))
    text = to_json(spec)
    assert "\n" not in text
    assert from_json(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "Expecting value"),
        ("[]", "not a link"),
        ("{}", "not a link: 'forward'"),
        ('{"forward": {"stages": []}, "backward": {"stages": [{}]}}', "one stage at least"),
        ('{"forward": {"stages": [{"speed": 1}]}, "backward": {"stages": [{}]}}', "'speed'"),
        ('{"forward": {"stages": [{"rate_bps": "1"}]}, "backward": {}}', "not a link"),
        ('{"forward": {"stages": [{"cross": [{"kind": "odd", "rate_bps": 1}]}]}}', "'odd'"),
    ],
)
def test_what_is_no_link_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_the_way_back_is_plain_unless_given() -> None:
    assert DuplexSpec(FULL).backward == PathSpec(
        (
            Stage(rate_bps=50 * MBIT, contention=Contention(1, 2, 3)),
            Stage(
                rate_bps=20 * MBIT,
                queue_bytes=30_000,
                delay_ns=1,
                bucket=TokenBucket(10 * MBIT, 65_536),
            ),
        )
    )
    given = PathSpec((Stage(),))
    assert DuplexSpec(FULL, given).backward == given
    assert from_json(json.dumps(json.loads(to_json(DuplexSpec(FULL, given))))).backward == given


@pytest.mark.parametrize(
    ("stages", "before", "after"),
    [
        ((Stage(),), Marks(46, is_tagged=True), Marks(46, is_tagged=True)),
        ((Stage(rewrite_dscp=0),), Marks(46), Marks(0)),
        ((Stage(rewrite_dscp=8), Stage()), Marks(0, is_tagged=True), Marks(8, is_tagged=True)),
        ((Stage(drop_tagged=True),), Marks(46, is_tagged=True), None),
        ((Stage(drop_tagged=True),), Marks(46), Marks(46)),
        ((Stage(strip_tags=True), Stage(drop_tagged=True)), Marks(0, is_tagged=True), Marks(0)),
        ((Stage(drop_tagged=True), Stage(strip_tags=True)), Marks(0, is_tagged=True), None),
    ],
)
def test_marks_are_changed_stage_by_stage(
    stages: tuple[Stage, ...], before: Marks, after: Marks | None
) -> None:
    assert PathSpec(stages).marks_after(before) == after


def test_pauses_make_the_average() -> None:
    assert Cross(CrossKind.ONOFF, MBIT, peak_bps=4 * MBIT, on_ns=100).off_ns == 300
    assert Cross(CrossKind.CONSTANT, MBIT).off_ns == 0
