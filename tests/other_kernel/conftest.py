"""What the tests of this tier share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.other_kernel.program import Program


@pytest.fixture
def program() -> Iterator[Program]:
    """The egress program, not yet attached."""
    # Here, because the other tests have no use for it.
    from tests.other_kernel.program import Program

    with Program() as loaded:
        yield loaded
