"""Incidents: every one is counted, one of a kind is logged."""

from __future__ import annotations

import pytest

from openqwave.service.incidents import Incidents

HOUR_NS = 3_600_000_000_000


def test_a_thousand_are_counted_and_one_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    incidents = Incidents()
    for now_ns in range(1_000):
        incidents.note("garbage", 7, "bad", now_ns=now_ns)
    assert incidents.counts == {"garbage": 1_000}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "uid 7" in caplog.text


def test_each_user_and_kind_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    incidents = Incidents()
    for uid in (1, 2):
        for kind in ("a", "b"):
            incidents.note(kind, uid, "", now_ns=0)
            incidents.note(kind, uid, "", now_ns=1)
    assert len(caplog.records) == 4


def test_what_goes_on_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    incidents = Incidents()
    incidents.note("a", 1, "", now_ns=0)
    incidents.note("a", 1, "", now_ns=HOUR_NS - 1)
    assert len(caplog.records) == 1
    incidents.note("a", 1, "", now_ns=HOUR_NS)
    assert len(caplog.records) == 2
    assert "3 so far" in caplog.text


def test_what_a_client_says_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    Incidents().note("a", 1, "x\n<0>forged\x1b[31m" + "y" * 10_000, now_ns=0)
    message = caplog.records[0].getMessage()
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 400


def test_the_memory_is_bounded() -> None:
    incidents = Incidents()
    for uid in range(5_000):
        incidents.note("a", uid, "", now_ns=uid)
    assert len(incidents._logged_ns) <= 1_024  # noqa: SLF001 - what is bounded
    assert incidents.counts["a"] == 5_000
