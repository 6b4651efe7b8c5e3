"""The loop of an experiment host: its sessions, its sink, and what they share.

Everybody of one process shares UDP port 2177, which is open as long as somebody needs it. A probe
that returns there belongs to the sessions towards its sender, everything else to the sink; what
the one has no use for, the other gets, so that it is counted.

An exception of a session or a sink, or of what is done for it, ends that one alone, and its
mailbox closes with it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from openqwave.drivers.adjacency import Adjacency
from openqwave.drivers.answering import Answering
from openqwave.drivers.datagrams import BATCH, ON_LINK_HOPS, ORDINARY_HOPS, ProbeSocket
from openqwave.drivers.departures import Departures
from openqwave.drivers.initiating import Initiating
from openqwave.drivers.ports import open_datagrams
from openqwave.drivers.readiness import Readiness
from openqwave.drivers.routes import refuse_route
from openqwave.drivers.trains import waking_promptly
from openqwave.model.errors import (
    DisabledByPolicy,
    InvalidParameter,
    OperationAborted,
    error_of,
    refusal_of_os_error,
)
from openqwave.wire.qlpb import PORT, MessageId

if TYPE_CHECKING:
    from openqwave.drivers.initiating import Tags
    from openqwave.drivers.mailbox import Mailbox
    from openqwave.drivers.rtnetlink import Network
    from openqwave.model.endpoint import Endpoint
    from openqwave.probing.session import Arrival, Session
    from openqwave.probing.sink import Sink

_T = TypeVar("_T")

Driver: TypeAlias = "Initiating | Answering"

# Batches of datagrams that are taken in one go, so that a flood leaves time for the rest.
_BATCHES = 4

# An experiment is under way when something is due so soon: a path that is watched sends 60 small
# probes a second. A host that only waits for peers leaves the program's other threads alone.
_SOON_NS = 20_000_000

# The first byte of a small probe on its way back.
_RETURNED = bytes([MessageId.PROBEGAP_RETURNED])


class ExperimentLoop:
    """Everything of one host; used by one thread.

    Attributes:
        readiness: Waits for descriptors; the host's own may be added.
    """

    def __init__(self, allowed: Sequence[str | Network], address: Endpoint | None = None) -> None:
        """Begin with nothing to do.

        Args:
            allowed: Networks that may take part beyond the link.
            address: The one address of this host at which port 2177 is opened; None for all.

        Raises:
            InvalidParameter: One of them is none.
            QosError: The kernel refused what is needed.
        """
        self._address = address
        self._adjacency = Adjacency(allowed)
        try:
            self.readiness = Readiness()
        except OSError as error:
            self._adjacency.close()
            raise error_of(refusal_of_os_error(error, "no experiments")) from error
        self._departures = Departures()
        self._mailboxes: dict[Driver, Mailbox] = {}
        self._towards: dict[tuple[bytes, int], list[Initiating]] = {}
        self._answering: Answering | None = None
        self._shared: dict[int, ProbeSocket] = {}
        self._dropped = 0
        self._sharers: dict[int, set[object]] = {4: set(), 6: set()}

    # -- what the host wants ----------------------------------------------------------

    def begin_session(
        self, session: Session, peer: Endpoint, mailbox: Mailbox, tags: Tags | None = None
    ) -> Initiating:
        """Run a session; errors as with `ExperimentHost.run`."""
        refusal = refuse_route(peer)
        if refusal is not None:
            raise error_of(refusal)
        if not self._adjacency.is_allowed(peer):
            # The routes may have changed a moment ago.
            self._adjacency.refresh()
        if not self._adjacency.is_allowed(peer):
            raise DisabledByPolicy(
                f"{peer.address} is not on this host's links but behind a router "
                f"({self._adjacency.gateway_of(peer)}); experiments go there if its network is "
                "allowed"
            )
        driver = Initiating(
            session,
            peer,
            ON_LINK_HOPS if self._adjacency.is_on_link(peer) else ORDINARY_HOPS,
            mailbox=mailbox,
            readiness=self.readiness,
            departures=self._departures,
            share=self._share,
            tags=tags,
        )
        self._mailboxes[driver] = mailbox
        self._towards.setdefault((peer.packed, peer.scope_id), []).append(driver)
        try:
            driver.start(time.monotonic_ns())
        except BaseException as error:
            self.end(driver, error)
            raise
        self._end_if_over(driver)
        return driver

    def begin_sink(self, sink: Sink, mailbox: Mailbox) -> Answering:
        """Serve a sink; errors as with `ExperimentHost.serve`."""
        if self._answering is not None:
            raise InvalidParameter("a host serves one sink")
        driver = Answering(
            sink,
            mailbox=mailbox,
            readiness=self.readiness,
            adjacency=self._adjacency,
            share=self._share,
            address=self._address,
        )
        self._mailboxes[driver] = mailbox
        self._answering = driver
        return driver

    def allow(self, networks: Sequence[str | Network]) -> None:
        """Let other networks take part from now on; errors as with `Adjacency.allow`."""
        self._adjacency.allow(networks)

    def act(self, driver: Driver, action: Callable[[int], _T]) -> _T:
        """Let the owner of a session or sink do something with it, then do what follows."""
        if driver not in self._mailboxes:
            raise OperationAborted("the experiment is over")
        now_ns = time.monotonic_ns()
        result = action(now_ns)
        self._try(driver, driver.pump, now_ns)
        self._end_if_over(driver)
        return result

    def end(self, driver: Driver, error: BaseException | None = None) -> None:
        """Close what belongs to a session or sink; its reader gets the error after the events."""
        mailbox = self._mailboxes.pop(driver, None)
        if mailbox is None:
            return
        driver.close()
        if driver is self._answering:
            self._answering = None
        elif isinstance(driver, Initiating):
            key = driver.peer.packed, driver.peer.scope_id
            self._towards[key].remove(driver)
            if not self._towards[key]:
                del self._towards[key]
        self._release(driver)
        mailbox.close(error)

    # -- the loop ---------------------------------------------------------------------

    def turn(self) -> None:
        """Do what is due, then wait until something else is."""
        self._departures.run()
        timeout_ns = self._timeout_ns()
        is_soon = timeout_ns is not None and timeout_ns < _SOON_NS
        with waking_promptly() if is_soon else contextlib.nullcontext():
            self._handle_timers()
            self.readiness.wait(self._timeout_ns())
            for owner, handler, events in self.readiness.ready():
                if isinstance(owner, Initiating | Answering):
                    self._try(owner, handler, events)
                else:
                    handler(events)

    def _handle_timers(self) -> None:
        now_ns = time.monotonic_ns()
        for driver in list(self._mailboxes):
            due_ns = driver.next_ns()
            if due_ns is not None and due_ns <= now_ns:
                self._try(driver, driver.handle_timer, now_ns)
                self._end_if_over(driver)

    def _timeout_ns(self) -> int | None:
        dues_ns = [driver.next_ns() for driver in self._mailboxes]
        dues_ns.append(self._departures.next_ns())
        due_ns = min((due for due in dues_ns if due is not None), default=None)
        return None if due_ns is None else max(0, due_ns - time.monotonic_ns())

    def _try(self, driver: Driver, function: Callable[[int], object], argument: int) -> None:
        """Do something for a session or sink; what goes wrong is its own."""
        try:
            function(argument)
        except Exception as error:  # noqa: BLE001 - raised in the thread that reads its events
            self.end(driver, error)

    def _end_if_over(self, driver: Driver) -> None:
        if isinstance(driver, Initiating) and driver.is_over:
            self.end(driver)

    def close(self, error: BaseException | None = None) -> None:
        """End everything and close everything; readers get the error."""
        for driver in list(self._mailboxes):
            self.end(driver, error)
        self.readiness.close()
        self._adjacency.close()

    def close_copies(self) -> None:
        """Close the descriptors in a forked child, and leave the parent's waiting alone."""
        self.readiness.close()
        self.close()

    # -- port 2177 --------------------------------------------------------------------

    def _share(self, sharer: object, version: int) -> ProbeSocket:
        sock = self._shared.get(version)
        if sock is None:
            address = self._address
            if address is not None and address.version != version:
                # A session towards a peer of the other version; nobody is served there.
                address = None
            sock = self._shared[version] = open_datagrams(version, PORT, address)
            self.readiness.add(sock.fileno(), None, partial(self._receive, sock))
        self._sharers[version].add(sharer)
        return sock

    def _release(self, sharer: object) -> None:
        for version, sharers in self._sharers.items():
            sharers.discard(sharer)
            if not sharers and version in self._shared:
                sock = self._shared.pop(version)
                self.readiness.remove(sock.fileno())
                self._dropped += sock.dropped
                sock.close()

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel dropped at port 2177, as long as it was open."""
        return self._dropped + sum(sock.dropped for sock in self._shared.values())

    def _receive(self, sock: ProbeSocket, _events: int) -> None:
        for _ in range(_BATCHES):
            batch = sock.receive_batch()
            now_ns = time.monotonic_ns()
            for data, peer, arrival in batch:
                self._deliver(data, peer, arrival, now_ns)
            if len(batch) < BATCH:
                break

    def _deliver(self, data: bytes, peer: Endpoint, arrival: Arrival, now_ns: int) -> None:
        """Give a datagram to whom it belongs."""
        answering = self._answering
        sessions: Sequence[Initiating] = ()
        if peer.port == PORT and (answering is None or data.startswith(_RETURNED)):
            sessions = tuple(self._towards.get((peer.packed, peer.scope_id), ()))
        for driver in sessions:
            self._try(driver, partial(driver.receive_datagram, data, arrival), now_ns)
        if answering is not None and not sessions:
            self._try(answering, partial(answering.receive_datagram, data, peer, arrival), now_ns)
