"""What the tests of clients' call sequences share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from openqwave.lab.topology import Host
    from tests.kernel.programs import Stage


@pytest.fixture(params=["embedded", "service"])
def stage(pair: tuple[Host, Host], request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage whose programs run on the pair's left host, without a service and with one."""
    # Here, because the other tests of this folder have no use for the Windows face.
    from tests.kernel.programs import Stage

    with Stage(*pair, via=request.param) as fresh:
        yield fresh
