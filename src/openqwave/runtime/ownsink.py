"""The sink of this host's own, so that one service is both ends of other hosts' experiments.

It answers in the same thread that runs this host's experiments, because port 2177 is one. What
takes the port away, or breaks, is no reason for anything else to end: it is told as a reason, and
tried again after a pause, which doubles each time and begins anew when a sink has lasted.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from openqwave.drivers.mailbox import Mailbox
from openqwave.model.errors import QosError
from openqwave.probing.sink import Sink
from openqwave.subsystem.findings import HOST_IS_OVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.drivers.experiments import ExperimentHost, Serving
    from openqwave.probing.session import Event
    from openqwave.probing.sink_limits import SinkLimits

_log = logging.getLogger("openqwave.sink")

# Who has the port may be about to end; and to ask for it twice a minute is nothing.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
# What has lasted for so long did not break of what it began with.
LASTED_S = 60.0


class _Unread(Mailbox):
    """What a sink tells of its peers, which nobody reads; and how it ended."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self._tell = tell

    def put(self, event: Event) -> None:
        """Count it."""
        del event
        self.lost_events += 1

    def close(self, error: BaseException | None = None) -> None:
        """Remember why, and wake who looks after it."""
        if not self.is_closed:
            self.error = error
        super().close(error)
        self._tell()


class OwnSink:
    """Sees to it that a sink is served while one is wanted.

    All but `want` and `state` is for one thread.
    """

    def __init__(
        self,
        host: Callable[[], ExperimentHost],
        lose_host: Callable[[ExperimentHost], None],
        wake: Callable[[], None],
    ) -> None:
        """Begin without one.

        Args:
            host: What runs it, begun if need be; raises QosError.
            lose_host: Makes `host` begin another one, because this one broke.
            wake: Has `tend` called soon; for any thread.
        """
        self._host = host
        self._lose_host = lose_host
        self._wake = wake
        self._wanted: SinkLimits | None = None
        self._limits: SinkLimits | None = None
        self._runner: ExperimentHost | None = None
        self._serving: Serving | None = None
        self._mailbox: _Unread | None = None
        self._reason = ""
        self._pause_s = FIRST_PAUSE_S
        self._due_s = self._began_s = 0.0

    # -- for any thread ---------------------------------------------------------------

    def want(self, limits: SinkLimits | None) -> None:
        """Have a sink served, with these limits, or none."""
        self._wanted = limits

    @property
    def is_wanted(self) -> bool:
        """Is one to be served?"""
        return self._wanted is not None

    def state(self) -> tuple[bool, str]:
        """Is one served, and if not, why not; empty if none is wanted."""
        if self._wanted is None:
            return False, ""
        serving = self._serving
        if serving is not None and not serving.is_over:
            return True, ""
        return False, self._reason or "it is about to begin"

    # -- for the thread ---------------------------------------------------------------

    def until_due_s(self) -> float | None:
        """How long until `tend` has something to do by itself; None for ever."""
        if self._wanted is None or self._serving is not None:
            return None
        return max(0.0, self._due_s - time.monotonic())

    def tend(self) -> None:
        """Begin, end, and begin again, as is wanted now."""
        self._look_after()
        wanted = self._wanted
        if self._serving is not None and wanted != self._limits:
            self.stop()
            self._due_s = 0.0
        if wanted is None:
            self._reason = ""
            self._pause_s, self._due_s = FIRST_PAUSE_S, 0.0
        elif self._serving is None and time.monotonic() >= self._due_s:
            self._begin(wanted)

    def _look_after(self) -> None:
        serving, mailbox = self._serving, self._mailbox
        if serving is None or mailbox is None:
            return
        if not serving.is_over:
            if time.monotonic() - self._began_s > LASTED_S:
                self._pause_s = FIRST_PAUSE_S
            return
        self._serving = self._mailbox = None
        self._fail(mailbox.error)

    def _begin(self, limits: SinkLimits) -> None:
        mailbox = _Unread(self._wake)
        self._runner = None
        try:
            self._runner = self._host()
            self._serving = self._runner.serve(Sink(limits), mailbox)
        except Exception as error:  # noqa: BLE001 - told to whoever asks for the state
            self._fail(error)
            return
        self._mailbox, self._limits = mailbox, limits
        self._began_s = time.monotonic()
        self._reason = ""
        _log.info("the sink answers at port 2177")

    def _fail(self, error: BaseException | None) -> None:
        if isinstance(error, QosError):
            reason = error.detail
            if error.code in HOST_IS_OVER and self._runner is not None:
                self._lose_host(self._runner)
        else:
            reason = "the sink ended" if error is None else f"the sink broke: {error!r}"
        if reason != self._reason:
            # Once, and not at every try.
            _log.warning("no sink answers here: %s", reason)
        self._reason = reason
        self._due_s = time.monotonic() + self._pause_s
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)

    def stop(self) -> None:
        """End the one that is served; harmless without one."""
        serving, self._serving, self._mailbox = self._serving, None, None
        if serving is not None:
            try:
                serving.cancel()
            except QosError as error:
                # Its host broke a moment ago, and with it the sink.
                _log.debug("the sink had ended: %s", error)
