"""The subsystem inside the process: as an ordinary user, by options on its own sockets.

One subsystem serves all handles of a process, so that two libraries in one program see each
other's flows. At the process's end, the sockets that others may hold as well get their own
options back.

After a fork the child has a copy of everything, and none of it is its own: the sockets'
options are shared with the parent, who looks after them. So handles belong to the
process that opened them, and in any other they are invalid.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING

from openqwave.admission.policy import Policy
from openqwave.drivers.links import Links
from openqwave.drivers.sockets import SocketDirectory
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.runtime.forks import reset_in_children
from openqwave.runtime.runtime import Runtime

if TYPE_CHECKING:
    from openqwave.drivers.clock import Clock
    from openqwave.enforcement.backend import Backend
    from openqwave.model.errors import Refusal

# The low bits that flow ids of one process count in; above them stands its pid, so that
# the ids of two embedded subsystems are not by chance the same.
_FLOW_ID_BITS = 10


class Embedded(Runtime):
    """The engine with the drivers and the mechanism of an ordinary user."""

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        clock: Clock | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Start without handles.

        Args:
            policy: The administrator's decisions; the default policy when None.
            clock: Tells the time and sleep; the kernel's clocks when None.
            backend: Carries out plans; socket options when None.
        """
        self._pid = os.getpid()
        directory = SocketDirectory()
        super().__init__(
            policy or Policy(),
            directory,
            backend or SocketOptions(directory, Links()),
            clock=clock,
            first_flow_id=self._pid << _FLOW_ID_BITS | 1,
        )

    def open_handle(self) -> int | Refusal:
        """A new handle of this process, or ERROR_NO_SYSTEM_RESOURCES."""
        return self.open_handle_for(self._pid)

    def _come_alive(self) -> None:
        atexit.register(self.close)

    def _fall_silent(self) -> None:
        atexit.unregister(self.close)


_instance: Embedded | None = None
_instance_lock = threading.Lock()


def _leave_to_parent() -> None:
    """In a forked child: the subsystem is the parent's, and its handles are invalid here."""
    global _instance, _instance_lock  # noqa: PLW0603 - facts about the process
    _instance = None
    _instance_lock = threading.Lock()


def process_subsystem() -> Embedded:
    """The one embedded subsystem of this process, made at first use."""
    global _instance  # noqa: PLW0603 - one engine per process is the point
    # Before the lock, so that no child finds it held by a thread that is not there.
    reset_in_children(_leave_to_parent)
    with _instance_lock:
        if _instance is None:
            _instance = Embedded()
        return _instance
