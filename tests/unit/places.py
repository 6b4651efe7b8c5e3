"""Where a test's handles are opened: in its own process, or at a service; all has to hold for both.

A module takes part by importing the fixture `place` and using it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from openqwave.client.embedded import process_subsystem
from openqwave.runtime.runtime import Runtime
from tests.unit.own_service import own_service

_services: list[Runtime] = []


def subsystem() -> Runtime:
    """The one at which handles are opened now."""
    return _services[-1] if _services else process_subsystem()


@pytest.fixture(params=["embedded", "service"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which it is, by the name of the backend."""
    if request.param == "embedded":
        yield "embedded"
        return
    with own_service() as service:
        _services.append(service.runtime)
        yield "service"
        _services.remove(service.runtime)


def as_administrator(place: str, patch: pytest.MonkeyPatch) -> None:
    """Have the rights of an administrator; at a service, who is none cannot seem to be one."""
    if place == "service" and os.geteuid() != 0:
        pytest.skip("needs root")
    patch.setattr("os.geteuid", lambda: 0)
