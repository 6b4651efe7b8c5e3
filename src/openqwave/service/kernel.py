"""What the service has in the kernel: put together, shown, and taken away again.

Start: what a crash has left is taken away first, whatever mechanism is wanted now. Filters, queues
and tables of ours are told by their names, so nothing has to be remembered. Then the configuration
says what is tried. All of it is of the network namespace in which the service was started.

**Changes.** Interfaces come and go, and others put filters and queues where ours were. The kernel
announces that, and everything is looked at again: at once, or, where much is announced, as often as
`REST_S` allows. What it announces to nobody here, a program that is detached or a table that is
flushed, is found by looking every `LOOK_S`.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from openqwave.drivers.filters import Filters
from openqwave.drivers.netlink import Netlink
from openqwave.drivers.outlets import Outlets
from openqwave.drivers.qdiscs import Qdiscs
from openqwave.drivers.rtnetlink import OutgoingChanges
from openqwave.drivers.sockdiag import SocketDiagnosis
from openqwave.drivers.sockets import own_namespace
from openqwave.enforcement.bpf.attachment import clean_up_leftovers
from openqwave.enforcement.bpf.backend import DataPlane
from openqwave.enforcement.bpf.presence import Presence
from openqwave.enforcement.bpf.program import EgressProgram
from openqwave.enforcement.bpf.programs import ClaimedPrograms
from openqwave.enforcement.bpf.table import Sizes
from openqwave.enforcement.choice import Candidate, choose
from openqwave.enforcement.missing import MechanismMissing
from openqwave.enforcement.nft.backend import NftMarks
from openqwave.enforcement.nft.table import ForeignTable
from openqwave.enforcement.shaping.shapers import Shapers
from openqwave.ipc.messages import InterfaceRow
from openqwave.model.flow import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openqwave.enforcement.bpf.totals import Totals
    from openqwave.enforcement.choice import Chosen
    from openqwave.enforcement.claims import ProgramMarks
    from openqwave.enforcement.socket_options import SocketOptions, Sockets
    from openqwave.enforcement.wishes import Wishes
    from openqwave.service.server import Server

_log = logging.getLogger("openqwave.service")

# Between two looks at everything: a look costs a millisecond or two, and a router's routes change
# all the time.
REST_S: Final = 0.2
# Where looks take long, the rest is that many times as long: nine tenths of the time are clients'.
_REST_PER_LOOK: Final = 9
# A look costs some milliseconds at most, so a thousandth of the time; but it lists the whole table
# of nftables where others have changed theirs, half a second for 100,000 elements.
LOOK_S: Final = 10.0
# Room for destinations by that for flows: a socket that serves many has one flow for several.
_DESTINATIONS_PER_FLOW: Final = 2
_TCP: Final = frozenset({Transport.TCP})


class Kernel:
    """The service's part of the kernel.

    Attributes:
        chosen: What carries out plans.
        failures: How often what others changed could not be brought back.
    """

    def __init__(
        self,
        wishes: Wishes,
        options: SocketOptions,
        sockets: Sockets,
        *,
        with_tcx: bool | None = None,
    ) -> None:
        """Take away what a crash has left, and choose.

        Args:
            wishes: What the configuration says.
            options: Options of sockets.
            sockets: Finds applications' sockets.
            with_tcx: Which way the program is attached; None for the best there is.

        Raises:
            MechanismMissing: The mechanism that the configuration names cannot be had.
            OSError: A descriptor is not to be had.
        """
        self._wishes = wishes
        self._sockets = sockets
        self._with_tcx = with_tcx
        self._presence: Presence | None = None
        self._data_plane: DataPlane | None = None
        self._nft: NftMarks | None = None
        self._due_s = self._rested_s = 0.0
        self._trouble = ""
        self.failures = 0
        self._told: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            self._netlink = stack.enter_context(Netlink(socket.NETLINK_ROUTE))
            self._changes = stack.enter_context(contextlib.closing(OutgoingChanges()))
            outlets = stack.enter_context(contextlib.closing(Outlets(self._netlink)))
            self._diagnosis = stack.enter_context(SocketDiagnosis())
            self._filters = Filters(self._netlink)
            self._qdiscs = Qdiscs(self._netlink)
            self._shapers = Shapers(self._qdiscs, outlets, _may_install(wishes))
            self._clean_up()
            self.chosen: Chosen = choose(
                wishes, options, list(self._candidates()), namespace=own_namespace()
            )
            self._stack = stack.pop_all()
        self._tell()

    def _clean_up(self) -> None:
        """Take away what a crash has left; without rights nothing of ours can be there."""
        steps: tuple[tuple[str, Callable[[], None]], ...] = (
            ("filters", partial(clean_up_leftovers, self._filters)),
            ("queues", self._shapers.clean_up),
            ("the table of nftables", partial(_clean_up_nftables, self._sockets)),
        )
        for what, clean_up in steps:
            try:
                clean_up()
            except OSError as error:
                _log.warning("%s of an earlier run may be left: %s", what, error)

    def _candidates(self) -> Iterator[Candidate]:
        yield Candidate("bpf", self._plane, _TCP)
        yield Candidate("nftables", self._table, frozenset(Transport), knows_sockets=False)

    def _plane(self) -> DataPlane:
        self._presence = Presence.begin(
            self._filters, self._diagnosis, _sizes(self._wishes), with_tcx=self._with_tcx
        )
        programs = ClaimedPrograms(self._presence, self._shapers)
        self._data_plane = DataPlane(self._presence.table, self._presence, self._shapers, programs)
        return self._data_plane

    def _table(self) -> NftMarks:
        self._nft = NftMarks(self._sockets, own_namespace())
        return self._nft

    def can_be_had(self, wishes: Wishes) -> None:
        """See whether other wishes could be fulfilled after a restart; changes nothing.

        Raises:
            MechanismMissing: Not the mechanism that they name.
        """
        if wishes.backend in (self._wishes.backend, "auto", "socket-options"):
            return
        if wishes.backend == "nftables":
            NftMarks(self._sockets).close()
        elif self._presence is None:
            # Attaching it, too, would take it through the packets of all interfaces for a moment.
            EgressProgram.load(_sizes(wishes)).close()

    def tell_what_waits(self, wishes: Wishes) -> None:
        """Log that other wishes are in force only after a restart."""
        if wishes != self._wishes:
            _log.warning("what has changed under [enforcement] will wait for the next start")

    # -- in the server's loop ---------------------------------------------------------

    def watch(self, server: Server) -> None:
        """Have the loop hear of closed sockets and of changes.

        Args:
            server: Its runtime works with `chosen`.
        """

        def look() -> None:
            self._changes.have_happened()
            self._due_s = self._rested_s
            self.look_again(server)

        if self.chosen.plane is not None:
            server.watch(self._changes.fileno(), look)
        if self._presence is not None:
            number = self._presence.fileno()
            if number is not None:
                server.watch(number, server.runtime.drop_closed)

    def look_again(self, server: Server) -> None:
        """Bring back what others changed, if it is due; to be called once in a while, too."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        trouble = ""
        try:
            # Under the lock, as all that changes the kernel.
            server.runtime.look(lambda _: self.chosen.reconcile())
        except (OSError, ForeignTable) as error:
            trouble = str(error)
            self.failures += 1
        if trouble and trouble != self._trouble:
            _log.warning("what is in the kernel could not be brought back: %s", trouble)
        self._trouble = trouble
        end_s = time.monotonic()
        self._rested_s = end_s + max(REST_S, _REST_PER_LOOK * (end_s - now_s))
        # What was announced meanwhile is our own work, or is looked at next time.
        self._due_s = self._rested_s if self._changes.have_happened() else end_s + LOOK_S
        self._tell()

    def _tell(self) -> None:
        """Log what has changed of interfaces that cannot be served."""
        places = [] if self._presence is None else self._presence.places()
        told = {place.name: place.words for place in places if not place.is_attached}
        for name, words in told.items():
            if self._told.get(name) != words:
                _log.warning("%s", words)
        self._told = told

    # -- programs that ask for nothing --------------------------------------------------

    @property
    def program_marks(self) -> ProgramMarks | None:
        """Tells programs' traffic by who made the socket; None where nothing here can."""
        plane = self._data_plane
        return None if plane is None or self.chosen.plane is not plane else plane.programs

    @property
    def why_no_programs(self) -> str:
        """Why nothing here tells programs' traffic; empty where something does."""
        if self.program_marks is not None:
            return ""
        return (
            f"packets are marked by {self.chosen.name} here ({self.chosen.reason}), which cannot "
            "tell whose they are; the kernel program can"
        )

    # -- for numbers, by any thread ---------------------------------------------------

    @property
    def totals(self) -> Totals | None:
        """What the program has counted, to be read under the runtime's lock; None without one."""
        return None if self._presence is None else self._presence.table.totals

    @property
    def unserved_count(self) -> int:
        """At how many interfaces the program could not be when that was last looked at."""
        return len(self._told)

    # -- for people -------------------------------------------------------------------

    def interfaces(self) -> tuple[InterfaceRow, ...]:
        """Each interface: how the program stands there, and which queue it has."""
        if self._presence is None:
            return ()
        try:
            roots = {each.interface: each for each in self._qdiscs.queues() if each.is_root}
        except OSError as error:
            _log.warning("interfaces cannot be listed: %s", error)
            return ()
        rows = []
        for place in self._presence.places():
            root = roots.get(place.index)
            queue = "none" if root is None else root.kind
            rows.append(
                InterfaceRow(
                    name=place.name, is_attached=place.is_attached, words=place.words, queue=queue
                )
            )
        return tuple(rows)

    @property
    def reason(self) -> str:
        """Why it is that mechanism, and what is missing of it."""
        deaf = "" if self._presence is None else self._presence.deaf
        return f"{self.chosen.reason}; {deaf}" if deaf else self.chosen.reason

    def close(self) -> None:
        """Leave nothing in the kernel; harmless when done before."""
        try:
            self.chosen.clean_up()
        except OSError as error:
            _log.error("not all could be taken out of the kernel: %s", error)
        if self._nft is not None:
            self._nft.close()
        self._stack.close()


def _sizes(wishes: Wishes) -> Sizes:
    flows = wishes.most_flows
    return Sizes(flows=flows, sockets=flows, destinations=flows * _DESTINATIONS_PER_FLOW)


def _may_install(wishes: Wishes) -> frozenset[str] | None:
    """On which interfaces a queue may be put; None for all."""
    if not wishes.may_install_queues:
        return frozenset()
    return frozenset(wishes.interfaces) or None


def _clean_up_nftables(sockets: Sockets) -> None:
    try:
        left = NftMarks(sockets)
    except MechanismMissing:
        # Who cannot make a table has none.
        return
    try:
        left.clean_up()
    finally:
        left.close()
