"""An embedded subsystem of a test's own, with a clock that is set."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Iterator

from openqwave.admission.policy import Policy
from openqwave.client.embedded import Embedded
from openqwave.client.opening import Backend
from openqwave.client.sync import Qos
from openqwave.enforcement.memory import Memory
from openqwave.model.errors import Refusal, error_of
from openqwave.runtime.session import Session


class FakeClock:
    """A clock that stands still until it is moved, and a machine that sleeps when told."""

    def __init__(self) -> None:
        self.now = 10**12
        self.asleep = 5 * 10**9

    def read(self) -> tuple[int, int]:
        return self.now, self.asleep

    def sleep(self, duration_ns: int = 10**10) -> None:
        self.asleep += duration_ns


def open_in(host: Embedded) -> Qos:
    """A handle of one subsystem, as `openqwave.open` makes them of the process's."""
    handle_id = host.open_handle()
    if isinstance(handle_id, Refusal):
        raise error_of(handle_id)
    return Qos(Session(host, handle_id), Backend("embedded", "a test's own"))


@contextlib.contextmanager
def own_subsystem(
    policy: Policy | None = None, *, clock: FakeClock | None = None, backend: Memory | None = None
) -> Iterator[Embedded]:
    host = Embedded(policy, clock=clock or FakeClock(), backend=backend)
    try:
        yield host
        host.close()
    finally:
        atexit.unregister(host.close)
