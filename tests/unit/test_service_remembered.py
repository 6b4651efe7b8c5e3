"""Remembered paths in the list of all paths."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import pytest

from openqwave.ipc.rows import PathRow
from openqwave.model.endpoint import Endpoint
from openqwave.model.estimates import Fundamentals, PathView
from openqwave.model.path import LinkType, PathFacts
from openqwave.service import remembered
from openqwave.service.estimates import EstimateStore
from openqwave.service.remembered import remembered_rows
from tests.unit.driven import Driven, add, endpoint, facts

if TYPE_CHECKING:
    from openqwave.runtime.runtime import Runtime
    from openqwave.subsystem.engine import Engine

_T = TypeVar("_T")


def way(to: str, name: str = "lo", gateway: str = "") -> PathFacts:
    source = endpoint("192.0.2.100").packed
    router = endpoint(gateway).packed if gateway else b""
    return PathFacts(endpoint(to, 0), 1, name, source, router, 1500, LinkType.WIRED)


class Shown(Driven):
    """An engine beside a memory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.store = EstimateStore(path)

    def look(self, ask: Callable[[Engine], _T]) -> _T:
        return ask(self.engine)

    def keep(self, *hosts: str) -> None:
        for host in hosts:
            self.store.keep(way(host), PathView(Fundamentals(20, 10, 5), confidence=0.5))

    def hosts(self, after: int = 0) -> list[str]:
        return [row.host for row in remembered_rows(cast("Runtime", self), self.store, after)]


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    made = Shown(tmp_path / "paths")
    yield made
    made.store.close()


def test_a_remembered_path_in_words(shown: Shown) -> None:
    view = PathView(Fundamentals(20, None, 5), confidence=0.5, available_low_bps=4)
    shown.store.keep(way("192.0.2.1", "eth7", "192.0.2.254"), view)
    (row,) = remembered_rows(cast("Runtime", shown), shown.store, 0)
    assert row.age_ns is not None
    assert row == PathRow(
        host="192.0.2.1",
        interface="eth7",
        source="192.0.2.100",
        gateway="192.0.2.254",
        link_type="wired",
        on_link=False,
        capacity_bps=20,
        available_bps=None,
        available_low_bps=4,
        rtt_ns=5,
        confidence=0.5,
        age_ns=row.age_ns,
        is_remembered=True,
    )


def test_known_paths_are_not_shown_twice_and_come_first(shown: Shown) -> None:
    shown.keep("192.0.2.3", "192.0.2.2", "192.0.2.1")
    assert shown.hosts() == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    handle = shown.open()
    for cookie, host in enumerate(("192.0.2.2", "198.51.100.1")):
        shown.flow(handle, cookie + 1, endpoint(host), is_adaptive=True)
    # Two that are known are rows before these.
    assert shown.hosts() == shown.hosts(2) == ["192.0.2.1", "192.0.2.3"]
    assert shown.hosts(3) == ["192.0.2.3"]
    assert shown.hosts(4) == shown.hosts(99) == []


def test_a_link_local_host_is_known_by_its_interface(shown: Shown) -> None:
    shown.keep("fe80::1")
    assert shown.hosts() == ["fe80::1%lo"]
    scoped = Endpoint(endpoint("fe80::1").packed, 5004, socket.if_nametoindex("lo"))
    shown.grant(shown.open(), add(0, facts(version=6), scoped, is_adaptive=True))
    assert shown.hosts() == []
    # That of an interface which is gone is another one.
    shown.store.keep(way("fe80::1", "gone0"), PathView(Fundamentals(1)))
    assert shown.hosts(1) == ["fe80::1%gone0"]


def test_the_newest_are_enough(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_SHOWN", 2)
    shown.keep("192.0.2.1", "192.0.2.2", "192.0.2.3")
    assert shown.hosts() == ["192.0.2.3", "192.0.2.2"]
