"""Runs: cgroups whose traffic is treated in one way, held until nobody is in them.

A run belongs to nobody's connection. It ends when its cgroup is empty, which the kernel tells by
``cgroup.events``, or by request. What its sockets still send of their own, the end of TCP's
connections, is treated as before for a little while after that.

A cgroup that never had a process in it is given up after a while: whoever made it ended first.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from openqwave.drivers.handedgroup import HandedGroup, NoGroup
from openqwave.drivers.heldsockets import Reached
from openqwave.enforcement.claims import Claim, RunClaim
from openqwave.model.flow import TrafficType, Treatment
from openqwave.service.programs.runfile import SavedRun
from openqwave.service.programs.treatments import Wish, is_withheld, treatment_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.admission.policy import Policy
    from openqwave.model.cgroups import GroupMount
    from openqwave.service.programs.runfile import RunFile

_log = logging.getLogger("openqwave.service")

# A FIN that is lost is sent again after 0.2, 0.6, 1.4, 3 and 6.2 seconds; who has not answered by
# then is gone, nearly always.
LINGER_S: Final = 10.0
# Who makes a cgroup enters it at once.
_EMPTY_S: Final = 10.0
# Of runs that have ended; beyond, the oldest are let go of at once. They take room in the kernel.
_MOST_LINGERING: Final = 256


@dataclass(slots=True)
class Run:
    """One run.

    Attributes:
        saved: As it was asked for.
        claim_id: Its number for the kernel.
        group: Its cgroup; closed once it has ended.
        reached: What came of its processes' sockets that were there before.
        was_populated: Somebody was in it.
        since_s: It began, or has ended, then.
    """

    saved: SavedRun
    claim_id: int
    group: HandedGroup
    reached: Reached = field(default_factory=Reached)
    was_populated: bool = False
    since_s: float = 0.0

    @property
    def wish(self) -> Wish:
        """What its traffic is to get."""
        kind = self.saved.traffic_type
        return Wish(
            None if kind is None else TrafficType(kind),
            self.saved.dscp,
            self.saved.rate_bps,
            self.saved.hold_back,
        )

    def treatment(self, policy: Policy) -> Treatment:
        """What the kernel is to do."""
        wish = self.wish
        return Treatment() if is_withheld(wish, policy) else treatment_of(wish, policy)


class Runs:
    """All runs; see the module's text. By the server's loop only."""

    def __init__(
        self,
        file: RunFile,
        new_id: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without any; `take_up` brings those of before.

        Args:
            file: Keeps them.
            new_id: Gives numbers of claims.
            clock: Monotonic seconds.
        """
        self._file = file
        self._new_id = new_id
        self._clock = clock
        self._runs: dict[int, Run] = {}
        self._lingering: list[Run] = []
        self._last_number = 0
        self._epoll = select.epoll()

    def fileno(self) -> int:
        """Readable while a cgroup may have become empty."""
        return self._epoll.fileno()

    def all(self) -> list[Run]:
        """Those that have not ended, in the order of their numbers."""
        return list(self._runs.values())

    @property
    def count(self) -> int:
        """How many they are; for any thread."""
        return len(self._runs)

    def find(self, number: int) -> Run | None:
        """The run of a number."""
        return self._runs.get(number)

    def count_of(self, uid: int) -> int:
        """How many a user has."""
        return sum(each.saved.uid == uid for each in self._runs.values())

    def rates(self) -> dict[int, tuple[int, int]]:
        """User and rate of those that have one, by their numbers; root's are nobody's business."""
        return {
            number: (run.saved.uid, run.saved.rate_bps)
            for number, run in self._runs.items()
            if run.saved.rate_bps and run.saved.uid
        }

    def claims(self, policy: Policy) -> list[RunClaim]:
        """What the kernel is to do for them, and for those that have ended just now.

        Of several of one group the last holds: the newest.
        """
        return [
            RunClaim(
                Claim(each.claim_id, each.treatment(policy), may_delay=each.wish.hold_back),
                frozenset({each.group.number}),
            )
            for each in (*self._lingering, *self._runs.values())
        ]

    def next_number(self) -> int:
        """A number for a run."""
        return self._last_number + 1

    def add(self, saved: SavedRun, group: HandedGroup) -> Run:
        """Hold another one.

        Args:
            saved: As it was asked for.
            group: Its cgroup, which is closed at its end.
        """
        run = Run(saved, self._new_id(), group, since_s=self._clock())
        self._epoll.register(group.fileno(), select.EPOLLPRI)
        self._runs[saved.number] = run
        self._last_number = max(self._last_number, saved.number)
        run.was_populated = group.is_populated()
        return run

    def save(self) -> None:
        """Have the next start know of them."""
        try:
            self._file.write(each.saved for each in self._runs.values())
        except OSError as error:
            _log.warning("runs of programs will not outlive the service: %s", error)

    def take_up(self, mount: GroupMount) -> int:
        """Hold those again that a former service held; how many have ended meanwhile."""
        ended = 0
        for saved in self._file.read():
            self._last_number = max(self._last_number, saved.number)
            try:
                group = HandedGroup.at(saved.cgroup, mount)
            except (OSError, NoGroup):
                ended += 1
                continue
            if group.number == saved.group and group.is_populated():
                self.add(saved, group)
                continue
            if group.number == saved.group:
                group.remove()
            group.close()
            ended += 1
        return ended

    def end(self, run: Run, *, at_once: bool = False) -> None:
        """End one.

        Args:
            run: It.
            at_once: Its sockets are not its any more; else for a little while.
        """
        del self._runs[run.saved.number]
        with contextlib.suppress(OSError):
            self._epoll.unregister(run.group.fileno())
        run.group.remove()
        run.group.close()
        run.since_s = self._clock()
        if not at_once:
            self._lingering.append(run)
            del self._lingering[:-_MOST_LINGERING]

    def look(self) -> bool:
        """End those whose cgroups are empty, and forget those that ended a while ago.

        Returns:
            Whether there were any.
        """
        now_s = self._clock()
        ended = [run for run in self._runs.values() if self._is_over(run, now_s)]
        for run in ended:
            self.end(run)
        if ended:
            self.save()
        kept = [run for run in self._lingering if now_s - run.since_s < LINGER_S]
        is_changed = bool(ended) or len(kept) != len(self._lingering)
        self._lingering = kept
        return is_changed

    def _is_over(self, run: Run, now_s: float) -> bool:
        try:
            is_populated = run.group.is_populated()
        except OSError as error:
            _log.warning("whether a run goes on cannot be told: %s", error)
            return True
        if is_populated:
            run.was_populated = True
            return False
        # Of one that was removed the kernel tells over and over.
        is_left = run.was_populated or run.group.is_gone
        return is_left or now_s - run.since_s > _EMPTY_S

    def close(self) -> None:
        """Let go of all; they go on in the file. Harmless when done before."""
        for run in self._runs.values():
            run.group.close()
        self._runs.clear()
        self._lingering.clear()
        self._epoll.close()
