"""What traffic is to get, as it is written."""

from __future__ import annotations

import pytest

from openqwave.cli.run import options
from openqwave.cli.run.wishes import (
    LEAST_RATE_BPS,
    MOST_RATE_BPS,
    TYPE_WORDS,
    BadWish,
    Wish,
    rate_of,
    spelled,
    type_of,
)
from openqwave.model.flow import TrafficType


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [
        ("2mbit", 2_000_000),
        ("2Mbit", 2_000_000),
        ("2 mbit", 2_000_000),
        ("8M", 8_000_000),
        ("500kbit", 500_000),
        ("500k", 500_000),
        ("1.5gbit", 1_500_000_000),
        ("0.064m", 64_000),
        ("64000", 64_000),
        ("64000bit", 64_000),
        ("1kbit", LEAST_RATE_BPS),
        ("1tbit", MOST_RATE_BPS),
        ("2.3mbit", 2_300_000),
    ],
)
def test_rates(text: str, rate_bps: int) -> None:
    assert rate_of(text) == rate_bps


@pytest.mark.parametrize(
    "text",
    ["", "mbit", "-2mbit", "2mbyte", "2 m b", "1e6", "nan", "2,5mbit", "0x10", "٢mbit", "2mbit 3"],
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(BadWish, match="is not a rate such as 2mbit"):
        rate_of(text)


@pytest.mark.parametrize("text", ["0", "999", "0.9kbit", "2tbit", "999999999999gbit"])
def test_rates_that_nothing_can_be_held_to(text: str) -> None:
    with pytest.raises(BadWish, match="is not from 1kbit to 1tbit"):
        rate_of(text)


@pytest.mark.parametrize(("text", "meant"), [("2mbps", "2mbit"), ("8bps", "8bit")])
def test_bytes_that_may_be_bits_are_asked_about(text: str, meant: str) -> None:
    with pytest.raises(BadWish, match=f"write bits, as {meant}"):
        rate_of(text)


def test_types() -> None:
    for kind in TrafficType:
        assert type_of(TYPE_WORDS[kind]) is kind
        # As policy files have them.
        assert type_of(kind.name.lower()) is kind
    assert type_of("Voice") is TrafficType.VOICE
    for text in ("", "video", "4"):
        with pytest.raises(BadWish, match="is not one of best-effort, background"):
            type_of(text)


def test_help_names_all_types() -> None:
    assert sorted(options._TYPES) == sorted(TYPE_WORDS)  # noqa: SLF001


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(TrafficType.VOICE), ["--type=voice"]),
        (Wish(dscp=0), ["--dscp=0"]),
        (
            Wish(TrafficType.AUDIO_VIDEO, 46, 2_000_000, False, "-a b"),
            ["--type=audio-video", "--dscp=46", "--rate=2000000", "--remark", "--name=-a b"],
        ),
        (Wish(rate_bps=64_000), ["--rate=64000", "--hold-back"]),
        # Without a rate there is nothing to hold back.
        (Wish(dscp=8, holds_back=False), ["--dscp=8"]),
    ],
)
def test_a_wish_as_options(wish: Wish, words: list[str]) -> None:
    assert list(spelled(wish)) == words
