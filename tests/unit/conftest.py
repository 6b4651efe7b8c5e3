"""Fixtures of the tests that need no network but loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.loopback import Bench, bench


@pytest.fixture
def sockets() -> Iterator[Bench]:
    """Makes sockets that are closed after the test."""
    with bench() as made:
        yield made
