"""Which tests may run beside others, where several processes run them (pytest-xdist).

Tests of what only computes run on all processors. Those that build networks, measure, or wait for
real time come last and one after the other, in one process while no other runs: a neighbour that
computes would make their links late.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

# Folders and files, as they begin the name of a test. Port 2177 is one in each network, and the
# files of unit tests here answer at it or measure time.
ALONE = (
    "tests/kernel/",
    "tests/other_kernel/",
    "tests/unit/test_experiment_host.py",
    "tests/unit/test_own_sink.py",
    "tests/unit/test_surveying.py",
)
# Of those, what asks only what happens and never how soon, and waits for it with patience.
TOGETHER = (
    "tests/kernel/test_attach.py",
    "tests/kernel/test_attachment.py",
    "tests/kernel/test_capture.py",
    "tests/kernel/test_data_plane_crashes.py",
    "tests/kernel/test_data_plane_marks.py",
    "tests/kernel/test_data_plane_neighbours.py",
    "tests/kernel/test_data_plane_programs.py",
    "tests/kernel/test_demo.py::test_an_interruption_",
    "tests/kernel/test_demo_adaptive.py::test_an_interruption_",
    "tests/kernel/test_demo_probe.py::test_an_interruption_",
    "tests/kernel/test_doctor.py",
    "tests/kernel/test_enforcement_refusals.py",
    "tests/kernel/test_handed_cgroup.py",
    "tests/kernel/test_marks_on_the_wire.py",
    "tests/kernel/test_nftables.py",
    "tests/kernel/test_pages_typed.py",
    "tests/kernel/test_policy_rules.py",
    "tests/kernel/test_policy_rules_agree.py",
    "tests/kernel/test_program_marks.py",
    "tests/kernel/test_restore.py",
    "tests/kernel/test_run.py",
    "tests/kernel/test_sequences_",
    "tests/kernel/test_service_crashes.py",
    "tests/kernel/test_service_enforcement.py",
    "tests/kernel/test_service_install.py",
    "tests/kernel/test_service_kernel.py",
    "tests/kernel/test_service_limits.py",
    "tests/kernel/test_service_rights.py",
    "tests/kernel/test_shaping_pool.py",
    "tests/kernel/test_socket_release.py",
    "tests/kernel/test_top.py",
)
# But of those again, what measures; and what wants each socket to end with its close, which a
# neighbour's service puts off by looking at it.
BY_ITSELF = (
    "tests/kernel/test_capture.py::test_a_measurement_is_told_by_name",
    "tests/kernel/test_marks_on_the_wire.py::test_tcp_is_held_to_its_rate",
    "tests/kernel/test_policy_rules.py::test_all_traffic_of_a_rule_shares_its_rate",
    "tests/kernel/test_socket_release.py::test_more_than_the_ring_holds_at_once_comes_in_order",
)
# What a process has in hand at most: enough to do while it waits for more, and not so much that
# the last one has much to do when the others have nothing.
HAND = 64


def is_alone(name: str) -> bool:
    """May nothing run beside a test of this name?"""
    may_be_together = name.startswith(TOGETHER) and not name.startswith(BY_ITSELF)
    return name.startswith(ALONE) and not may_be_together


class AloneLast(LoadScheduling):  # type: ignore[misc]
    """Distributes tests, and those that want to be alone to the last process that is left.

    The others are told to end when nothing else is left to do; when all have, the last one gets
    what remains. Those that want to be alone are the last of the collection (see conftest).
    """

    def check_schedule(self, node: WorkerController, duration: float = 0) -> None:
        """Give a process more to do, or let it end."""
        del duration
        if node.shutting_down:
            return
        if self._together():
            if len(self.node2pending[node]) < HAND // 2:
                self._send_tests(node, HAND)
        elif not self.pending or node is not self.nodes[0]:
            node.shutdown()
        elif len(self.nodes) == 1:
            super()._send_tests(node, len(self.pending))
            node.shutdown()

    def schedule(self) -> None:
        """Begin."""
        super().schedule()
        for node in self.nodes:
            self.check_schedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """A process has ended."""
        crashed: str | None = super().remove_node(node)
        for left in self.nodes:
            self.check_schedule(left)
        return crashed

    @cached_property
    def _first_alone(self) -> int:
        return sum(not is_alone(name) for name in self.collection)

    def _together(self) -> int:
        """How many of those that are left may run beside others."""
        if self.collection is None:
            return 0
        # What a process that crashed has left undone is behind the rest.
        self.pending.sort()
        return bisect_left(self.pending, self._first_alone)

    def _send_tests(self, node: WorkerController, num: int) -> None:
        super()._send_tests(node, min(num, HAND, self._together()))
