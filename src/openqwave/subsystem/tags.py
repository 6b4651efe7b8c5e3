"""To which hosts 802.1p tags may go, and to which they may not any more.

A tag is for an adaptive flow whose path was shown to carry tags to its end (`Path.carries_tags`).
What shows it is a route check by probes that had tags. It holds as long as experiments on the path
go on: where nobody measures, nobody would see that another switch has come in between, which drops
what it does not know.

Whenever a verdict changes, the flows that go there are due for another treatment.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from openqwave.model.endpoint import Endpoint
    from openqwave.subsystem.path import Path


class Tags:
    """Follows the verdicts; see the module's text.

    Attributes:
        tagged: The hosts to which tags may go; read only.
        changed: Those of whose paths the verdict has changed since the last `take`; likewise.
    """

    def __init__(self) -> None:
        self.tagged: set[Endpoint] = set()
        self.changed: set[Endpoint] = set()

    @property
    def entry_count(self) -> int:
        """How many verdicts are kept, and changes of such."""
        return len(self.tagged) + len(self.changed)

    def judge(self, path: Path) -> None:
        """Something was learnt of a path."""
        host, tagged = path.host, self.tagged
        carries_tags = path.carries_tags
        if carries_tags is (host in tagged):
            return
        if carries_tags:
            tagged.add(host)
        else:
            tagged.discard(host)
        self.changed.add(host)

    def doubt(self, path: Path) -> None:
        """Experiments on a path are over: what the next ones find counts."""
        if path.view is not None and path.view.carries_tags is not None:
            path.view = replace(path.view, carries_tags=None)
            self.judge(path)

    def forget(self, path: Path) -> None:
        """Nobody knows of the path any more, and no flow goes there."""
        self.tagged.discard(path.host)
        self.changed.discard(path.host)

    def take(self) -> Collection[Endpoint]:
        """The hosts of whose paths the verdict has changed since the last call."""
        changed, self.changed = self.changed, set()
        return changed
