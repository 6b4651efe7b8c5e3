"""The program in the kernel as a whole: loaded, attached, listening, and taken away again.

Closed sockets are heard of where there is a cgroup v2 hierarchy. Where there is none, they are
found by looking for them, as without a program; `deaf` says why.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from openqwave.enforcement.bpf.attachment import LOOPBACK, Attachments
from openqwave.enforcement.bpf.creation import Creation
from openqwave.enforcement.bpf.program import EgressProgram
from openqwave.enforcement.bpf.release import Lingering, Released, attach
from openqwave.enforcement.missing import MechanismMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from openqwave.enforcement.bpf.attachment import Filters
    from openqwave.enforcement.bpf.claimtable import ClaimTable
    from openqwave.enforcement.bpf.release import Sockets
    from openqwave.enforcement.bpf.table import FlowTable, Sizes


@dataclass(frozen=True, slots=True)
class Place:
    """How the program stands with one interface.

    Attributes:
        index: The interface's number.
        name: Its name.
        is_attached: Whether the program is there.
        words: The way it is attached, or why it is not; for people.
    """

    index: int
    name: str
    is_attached: bool
    words: str


class Presence:
    """Keeps the program where packets leave, and hears of sockets that close.

    Attributes:
        table: The program's tables.
        claims: What leads there from those who make sockets.
        creation: Notes who makes sockets, once somebody wants it.
        deaf: Why closed sockets are not heard of; empty where they are.
    """

    def __init__(
        self,
        program: EgressProgram,
        filters: Filters,
        sockets: Sockets,
        *,
        with_tcx: bool | None = None,
    ) -> None:
        """Take over what was loaded; see `begin`."""
        self._program = program
        self._attachments = Attachments(program.programs, filters, with_tcx=with_tcx)
        self._lingering = Lingering(sockets)
        self._released: Released | None = None
        self._link: int | None = None
        self.table: FlowTable = program.table
        self.claims: ClaimTable = program.claims
        self.creation = Creation(program.owners)
        self.deaf = ""

    @classmethod
    def begin(
        cls, filters: Filters, sockets: Sockets, sizes: Sizes, *, with_tcx: bool | None = None
    ) -> Self:
        """Load the program and attach it to all interfaces of the network namespace.

        Args:
            filters: Of that namespace.
            sockets: Knows which sockets the kernel has, of all namespaces.
            sizes: Of the tables.
            with_tcx: Which way it is attached: by TCX or clsact; None for the best there is.

        Raises:
            MechanismMissing: It cannot be loaded, or attached to no interface at all.
        """
        made = cls(EgressProgram.load(sizes), filters, sockets, with_tcx=with_tcx)
        try:
            made._attach()
        except BaseException:
            made.close()
            raise
        return made

    def _attach(self) -> None:
        try:
            self._attachments.attach_all()
        except OSError as error:
            raise MechanismMissing(
                f"interfaces cannot be listed ({error.strerror}); restart the service when they can"
            ) from error
        places = self.places()
        if places and not any(place.is_attached for place in places):
            raise MechanismMissing(places[0].words)
        try:
            self._link = attach(self._program.programs.release)
            self._released = Released(self._program.ring_fd, self._program.ring_bytes)
        except MechanismMissing as error:
            self.deaf = str(error)
        except OSError as error:
            self.deaf = f"closed sockets cannot be heard of: {error.strerror}"

    def places(self) -> list[Place]:
        """How the program stood with each interface at the newest look; asks the kernel nothing."""
        attachments = self._attachments
        found = []
        for each in attachments.exits:
            reason = attachments.reasons.get(each.name)
            note = attachments.notes.get(each.name)
            how = f"by {attachments.mechanism}"
            words = reason or (f"{how}; {note}" if note else how)
            found.append(Place(each.index, each.name, reason is None, words))
        return found

    def fileno(self) -> int | None:
        """Readable where a socket was closed; None where that is not heard of."""
        return None if self._released is None else self._released.fileno()

    def take_gone(self, lingers: Callable[[int], bool]) -> Collection[int]:
        """Sockets that were closed, and have nothing left to send.

        Args:
            lingers: Says which may have.
        """
        if self._released is None:
            return ()
        now_ns = time.monotonic_ns()
        gone: list[int] = []
        lingering: list[int] = []
        for cookie in self._released.take():
            (lingering if lingers(cookie) else gone).append(cookie)
        self._lingering.add(lingering, now_ns)
        return gone + self._lingering.take(now_ns)

    def lingers(self, cookie: int) -> bool:
        """Was a socket closed that may have something left to send?"""
        return cookie in self._lingering

    def reconcile(self) -> None:
        """Attach the program wherever it is not, and can be.

        Raises:
            OSError: The kernel could not be asked.
        """
        self._attachments.reconcile()

    def outlets(self) -> tuple[int, ...]:
        """The numbers of interfaces that packets may leave this host by, at the newest look."""
        return tuple(
            each.index
            for each in self._attachments.exits
            if each.is_up and each.hardware != LOOPBACK
        )

    def tags_at(self, interface: int) -> bool:
        """Is the program at an interface's exit, and may it put tags there?"""
        return interface in self._attachments.tagging

    def close(self) -> None:
        """Take the program away, and its tables; harmless when done before.

        Raises:
            OSError: A filter could not be removed.
        """
        self.creation.close()
        if self._link is not None:
            os.close(self._link)
            self._link = None
        if self._released is not None:
            self._released.close()
            self._released = None
        try:
            self._attachments.close()
        finally:
            self._program.close()
