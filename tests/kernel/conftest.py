"""What tests of several files share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from openqwave.lab.topology import Host
    from tests.kernel.exits import Foreign
    from tests.kernel.programs import Stage
    from tests.kernel.run_stage import Ground
    from tests.kernel.service_stage import Qwaved
    from tests.kernel.unchanged import Wire


@pytest.fixture(params=["embedded", "service"])
def stage(pair: tuple[Host, Host], request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage whose programs run on the pair's left host, without a service and with one."""
    # Here, because the other tests of this folder have no use for the Windows face.
    from tests.kernel.programs import Stage

    with Stage(*pair, via=request.param) as fresh:
        yield fresh


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    """Somebody else's program for exits of interfaces, where this kernel takes any."""
    from tests.kernel.exits import Foreign, loaded

    loaded().close()
    program = Foreign()
    yield program
    program.close()


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts on one link, for all tests of a file."""
    from openqwave.lab.topology import Lab

    with Lab() as lab:
        left, right = lab.host("left"), lab.host("right")
        lab.link(left, right)
        yield left, right


@pytest.fixture(scope="module")
def service(hosts: tuple[Host, Host]) -> Iterator[Qwaved]:
    """A service on the first of the hosts that can speak for programs, for all tests of a file."""
    from tests.kernel.data_plane_stage import serving
    from tests.kernel.run_stage import CONFIG

    with serving(hosts[0], CONFIG) as found:
        yield found


@pytest.fixture
def place() -> Iterator[Ground]:
    """A cgroup for commands, which has to be empty again."""
    from tests.kernel.run_stage import ground

    with ground() as found:
        yield found


@pytest.fixture
def wire(hosts: tuple[Host, Host]) -> Iterator[Wire]:
    """What arrives at the second of the hosts."""
    from tests.kernel.unchanged import wire_from

    with wire_from(*hosts) as found:
        yield found
