"""Everything here holds for handles of both kinds: the process's own, and the service's."""

from __future__ import annotations

import pytest

from tests.conformance import world


@pytest.fixture(autouse=True, params=["embedded", "service"])
def via(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where handles are opened."""
    monkeypatch.setattr(world, "VIA", request.param)
    return str(request.param)
