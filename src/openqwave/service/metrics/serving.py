"""Whether collectors are served: as the configuration wants it, as soon as it can be.

A service that cannot tell of its numbers, because another program has the port or the address is
not there yet, serves programs all the same. It says so, and tries again every `AGAIN_S`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from openqwave.service.metrics.exporter import Exporter

if TYPE_CHECKING:
    from openqwave.service.metrics.collecting import Sources
    from openqwave.service.metrics.places import Wanted

_log = logging.getLogger("openqwave.service")

AGAIN_S: Final = 10.0


class Metrics:
    """Serves collectors, or nobody."""

    def __init__(self, sources: Sources) -> None:
        """Serve nobody yet.

        Args:
            sources: Where numbers are from.
        """
        self._sources = sources
        self._wanted: Wanted | None = None
        self._exporter: Exporter | None = None
        self._again_s = 0.0
        self._trouble = ""

    def obey(self, wanted: Wanted | None) -> None:
        """Serve as it is wanted from now on.

        Args:
            wanted: Where, and how much; None for nobody.
        """
        if wanted != self._wanted:
            self.close()
            self._wanted = wanted
            self._trouble = ""
        self._again_s = 0.0
        self.tick()

    def tick(self) -> None:
        """Try again where it is due; to be called once in a while."""
        wanted, now_s = self._wanted, time.monotonic()
        if self._exporter is not None and not self._exporter.is_running:
            self._exporter.close()
            self._exporter = None
            self._again_s = now_s + AGAIN_S
        if wanted is None or self._exporter is not None or now_s < self._again_s:
            return
        try:
            self._exporter = Exporter(wanted, self._sources)
        except (OSError, RuntimeError) as error:
            self._again_s = now_s + AGAIN_S
            trouble = str(error)
            if trouble != self._trouble:
                _log.error(
                    "metrics cannot be served at %s, which is tried again: %s",
                    wanted.place,
                    trouble,
                )
            self._trouble = trouble
        else:
            self._trouble = ""
            _log.info("metrics are served at %s", wanted.place)

    def close(self) -> None:
        """Serve nobody; harmless if done already."""
        if self._exporter is not None:
            self._exporter.close()
            self._exporter = None
        self._wanted = None
