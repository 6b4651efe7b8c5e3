"""Which tests may run beside others, where several processes run them (pytest-xdist).

Tests of what only computes run on all processors. Those that build networks, measure, or wait for
real time come last and one after the other, in one process while no other runs: a neighbour that
computes would make their links late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

# Folders and files, as they begin the name of a test. Port 2177 is one in each network, and the
# files of unit tests here answer at it or measure time.
ALONE = (
    "tests/kernel/",
    "tests/unit/test_experiment_host.py",
    "tests/unit/test_own_sink.py",
    "tests/unit/test_surveying.py",
)


def is_alone(name: str) -> bool:
    """May nothing run beside a test of this name?"""
    return name.startswith(ALONE)


class AloneLast(LoadScheduling):  # type: ignore[misc]
    """Distributes tests, and those that want to be alone to the last process that is left.

    The others are told to end when nothing else is left to do; when all have, the last one gets
    what remains.
    """

    def check_schedule(self, node: WorkerController, duration: float = 0) -> None:
        """Give a process more to do, or let it end."""
        if node.shutting_down:
            return
        if self._together():
            super().check_schedule(node, duration)
        elif not self.pending or node is not self.nodes[0]:
            node.shutdown()
        elif len(self.nodes) == 1:
            self._send(node, len(self.pending))
            node.shutdown()

    def schedule(self) -> None:
        """Begin."""
        super().schedule()
        for node in self.nodes:
            if not self._together():
                self.check_schedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """A process has ended."""
        crashed: str | None = super().remove_node(node)
        for left in self.nodes:
            self.check_schedule(left)
        return crashed

    def _together(self) -> int:
        """How many of those that are left may run beside others; they come first."""
        if self.collection is None:
            return 0
        names = self.collection
        return sum(not is_alone(names[index]) for index in self.pending)

    def _send_tests(self, node: WorkerController, num: int) -> None:
        self._send(node, min(num, self._together()))

    def _send(self, node: WorkerController, count: int) -> None:
        super()._send_tests(node, count)
