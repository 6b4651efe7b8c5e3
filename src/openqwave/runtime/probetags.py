"""802.1p tags for the probes that are to find out whether a path carries tags.

MS-QLPB section 3.1.1 has the priority probes of a route check tagged, "if supported". What tags the
packets of flows tags them, too: their socket gets a plan like that of a flow, under an id that no
flow has. Where that is not possible, the route check is made nevertheless; it says nothing of tags
then.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from openqwave.admission.policy import queue_priority
from openqwave.model.flow import Transport, Treatment
from openqwave.subsystem.effects import Applied, Share, SocketPlan

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.runtime.runtime import Runtime

# MS-QLPB 3.1.1: DSCP 40 (CS5) and 802.1p 5.
_DSCP: Final = 40
_PROBES: Final = Treatment(_DSCP, queue_priority(_DSCP), pcp=5)
# No flow has it; all probes share it.
_NO_FLOW: Final = 0


class ProbeTags:
    """Tags the priority probes of one session; for any thread.

    Attributes:
        were_tagged: All that were sent had tags, and some were.
    """

    def __init__(self, subsystem: Runtime, interface: int) -> None:
        """Tag nothing yet.

        Args:
            subsystem: Whose mechanism it is.
            interface: Where the probes leave.
        """
        self._subsystem = subsystem
        self._interface = interface
        self.were_tagged = False

    def tag(self, cookie: int, namespace: int, peer: Endpoint) -> None:
        """Have all tagged that a socket sends to a peer from now on."""
        plan = SocketPlan(cookie, (Share(_NO_FLOW, _PROBES, 1, (peer,)),), Transport.UDP, namespace)
        outcome = self._subsystem.apply_beside(plan, self._interface)
        self.were_tagged = outcome == Applied()

    def untag(self, cookie: int) -> None:
        """The socket is about to be closed."""
        # A program in the kernel forgets sockets that are closed, too.
        with contextlib.suppress(OSError):
            self._subsystem.apply_beside(SocketPlan(cookie, ()), self._interface)
