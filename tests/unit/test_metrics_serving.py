"""Collectors are served as the configuration wants it, whatever happens."""

from __future__ import annotations

import logging
import time

import pytest

from openqwave.service.metrics import serving
from openqwave.service.metrics.places import Place, Wanted
from openqwave.service.metrics.serving import Metrics

WANTED = Wanted(Place(address="127.0.0.1", port=9_177))
OTHER = Wanted(Place(address="::1", port=9_177))


class Exporter:
    """Stands for a thread that serves."""

    made: list[Exporter]
    trouble: OSError | None

    def __init__(self, wanted: Wanted, sources: object) -> None:
        del sources
        if Exporter.trouble is not None:
            raise Exporter.trouble
        self.wanted = wanted
        self.is_running = True
        Exporter.made.append(self)

    def close(self) -> None:
        self.is_running = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    Exporter.made, Exporter.trouble = [], None
    monkeypatch.setattr(serving, "Exporter", Exporter)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def metrics() -> Metrics:
    return Metrics(None)  # type: ignore[arg-type]  # nobody reads them here


def test_nobody_is_served_unless_it_is_wanted(clock: list[float]) -> None:
    served = metrics()
    served.obey(None)
    clock[0] += 100
    served.tick()
    assert Exporter.made == []


def test_another_place_ends_the_first_and_the_same_does_not(clock: list[float]) -> None:
    del clock
    served = metrics()
    served.obey(WANTED)
    served.obey(WANTED)
    served.obey(OTHER)
    assert [(each.wanted, each.is_running) for each in Exporter.made] == [
        (WANTED, False),
        (OTHER, True),
    ]
    served.obey(None)
    assert not Exporter.made[1].is_running


def test_what_cannot_be_is_said_once_and_tried_again(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    served = metrics()
    Exporter.trouble = OSError("in use")
    with caplog.at_level(logging.ERROR):
        served.obey(WANTED)
        for _ in range(3):
            clock[0] += serving.AGAIN_S
            served.tick()
    assert [record.getMessage() for record in caplog.records] == [
        "metrics cannot be served at 127.0.0.1:9177, which is tried again: in use"
    ]
    Exporter.trouble = None
    served.tick()
    assert Exporter.made == []
    clock[0] += serving.AGAIN_S
    served.tick()
    assert len(Exporter.made) == 1


def test_a_thread_that_has_ended_is_made_anew(clock: list[float]) -> None:
    served = metrics()
    served.obey(WANTED)
    Exporter.made[0].is_running = False
    served.tick()
    assert len(Exporter.made) == 1
    clock[0] += serving.AGAIN_S
    served.tick()
    assert [each.is_running for each in Exporter.made] == [False, True]
