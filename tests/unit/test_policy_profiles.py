"""The tables of marks, value by value, and what hangs from them."""

from __future__ import annotations

import pytest

from openqwave.admission.policy import WINDOWS_MARKS, Marks, Policy
from openqwave.admission.profiles import DEFAULT_PROFILE, PROFILES
from openqwave.model.flow import TrafficType

BEST, BACKGROUND, EXCELLENT, VIDEO, VOICE, CONTROL = TrafficType

# Class selectors, assured and expedited forwarding: RFC 2474, RFC 2597, RFC 3246.
CS1, CS3, CS5, CS6, CS7 = 8, 24, 40, 48, 56
AF21, AF41, EF = 18, 34, 46

TABLE = [
    # The contract's page, "Marks by traffic type".
    ("qwave", BEST, None),
    ("qwave", BACKGROUND, Marks(CS1, 2)),
    ("qwave", EXCELLENT, Marks(CS5, 5)),
    ("qwave", VIDEO, Marks(CS5, 5)),
    ("qwave", VOICE, Marks(CS7, 7)),
    ("qwave", CONTROL, Marks(CS7, 7)),
    # RFC 4594, section 2.3, figure 3; the priority is the class selector.
    ("rfc4594", BEST, None),
    ("rfc4594", BACKGROUND, Marks(CS1, 1)),
    ("rfc4594", EXCELLENT, Marks(AF21, 2)),
    ("rfc4594", VIDEO, Marks(AF41, 4)),
    ("rfc4594", VOICE, Marks(EF, 5)),
    ("rfc4594", CONTROL, Marks(CS5, 5)),
    # RFC 8325, section 4.3, figure 1.
    ("rfc8325", BEST, None),
    ("rfc8325", BACKGROUND, Marks(CS1, 1)),
    ("rfc8325", EXCELLENT, Marks(AF21, 3)),
    ("rfc8325", VIDEO, Marks(AF41, 4)),
    ("rfc8325", VOICE, Marks(EF, 6)),
    ("rfc8325", CONTROL, Marks(CS5, 5)),
    # Microsoft's policy page, "Wireless Multimedia and DSCP values".
    ("wmm", BEST, None),
    ("wmm", BACKGROUND, Marks(CS1, 1)),
    ("wmm", EXCELLENT, Marks(CS3, 3)),
    ("wmm", VIDEO, Marks(CS5, 5)),
    ("wmm", VOICE, Marks(CS6, 6)),
    ("wmm", CONTROL, Marks(CS7, 7)),
    *(("none", each, None) for each in TrafficType),
]


@pytest.mark.parametrize(("profile", "traffic_type", "marks"), TABLE)
def test_what_a_type_is_worth(profile: str, traffic_type: TrafficType, marks: Marks | None) -> None:
    assert PROFILES[profile][traffic_type] == marks


def test_the_table_has_everything() -> None:
    assert {(profile, each) for profile, each, _ in TABLE} == {
        (profile, each) for profile, marks in PROFILES.items() for each in marks
    }
    assert all(set(marks) == set(TrafficType) for marks in PROFILES.values())


def test_windows_marks_are_the_default() -> None:
    assert PROFILES[DEFAULT_PROFILE] == WINDOWS_MARKS == Policy().marks


@pytest.mark.parametrize("profile", ["rfc4594", "wmm"])
def test_the_priority_is_the_upper_three_bits(profile: str) -> None:
    assert all(
        marks.pcp == marks.dscp >> 3 for marks in PROFILES[profile].values() if marks is not None
    )


def test_wmm_reaches_the_four_access_categories() -> None:
    def category(dscp: int) -> str:
        # The page's ranges.
        if dscp >= 48:
            return "VO"
        if dscp >= 32:
            return "VI"
        return "BK" if 8 <= dscp <= 23 else "BE"

    marks = PROFILES["wmm"]
    reached = {each: category(one.dscp if (one := marks[each]) else 0) for each in TrafficType}
    assert reached == {
        BEST: "BE",
        BACKGROUND: "BK",
        EXCELLENT: "BE",
        VIDEO: "VI",
        VOICE: "VO",
        CONTROL: "VO",
    }


def test_nobody_changes_a_profile() -> None:
    with pytest.raises(TypeError):
        PROFILES["wmm"][VOICE] = None  # type: ignore[index]  # what is tried
    with pytest.raises(TypeError):
        PROFILES["mine"] = WINDOWS_MARKS  # type: ignore[index]  # likewise
