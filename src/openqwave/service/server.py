"""The loop that serves all clients, in one thread.

One packet at a time is read and done, in fair turns (`turns`); nothing here waits for a client.
A descriptor that has become readable is taken off the watch until its packet was read
(EPOLLONESHOT), so that however many wait, each costs one entry in the turns.

A client's end is noticed by its connection and by its process: where a forked child holds a copy
of the connection, it stays open after its owner was killed, and the pidfd tells.

Answers to pending requests come from whichever thread made them true. They are queued, and the
loop is woken.

What does not come as a packet is looked at once a second: whether the machine slept, which
handles were lost, connections that never said hello, sockets that were closed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from openqwave.drivers.readiness import Wake
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.service.incidents import Incidents
from openqwave.service.limits import ServerLimits
from openqwave.service.metrics.requests import Requests
from openqwave.service.owners import Owners
from openqwave.service.peers import Peer
from openqwave.service.refusals import Refusals
from openqwave.service.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from openqwave.drivers.processes import Process
    from openqwave.drivers.reaching import ReachableSockets
    from openqwave.ipc import messages as ms
    from openqwave.ipc.serving import PeerLimits
    from openqwave.runtime.pending import Result
    from openqwave.runtime.runtime import Runtime

_log = logging.getLogger("openqwave.service")

_ONCE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT
_WRITING: Final = select.EPOLLOUT

# Events that are fetched in one go: enough to know who waits, few enough to go on.
_EVENTS_AT_ONCE = 64
_TICK_S = 1.0
# A program says hello right after it connects; a second is a busy machine, ten are a stranger.
_HELLO_NS = 10_000_000_000
# Sockets that programs closed without taking them out of their flows; looking for them costs.
_SWEEP_TICKS = 10
# When descriptors or memory ran out, accepting rests: the listener would be ready all the time.
_REST_S = 0.5
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# Sockets that a killed program shared with others are looked for a few milliseconds at a time.
_DEBTS_S = 0.01
_NEVER_S = float("inf")


class Server:
    """Serves clients; see the module's text.

    Attributes:
        runtime: The subsystem.
        directory: Its sockets.
        version: What the service calls itself.
        incidents: What went wrong with clients.
        requests: What they asked.
        refusals: What they were refused.
    """

    def __init__(
        self,
        runtime: Runtime,
        directory: ReachableSockets,
        listeners: Iterable[socket.socket],
        *,
        version: str,
        show: Callable[[Server, Peer, ms.Request, int], bytes | Refusal],
        limits: ServerLimits | None = None,
    ) -> None:
        """Begin to listen; `run` serves.

        Args:
            runtime: The subsystem.
            directory: Its sockets.
            listeners: Listening AF_UNIX SOCK_SEQPACKET sockets; closing them is the caller's.
            version: What the service calls itself.
            show: Answers requests for lists and the status, and those about programs.
            limits: How much clients may cost; the default limits when None.
        """
        self.runtime = runtime
        self.directory = directory
        self.version = version
        self.incidents = Incidents()
        self.requests = Requests()
        self.refusals = Refusals(runtime)
        self.limits = limits or ServerLimits()
        self._show = show
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._peers: dict[int, Peer] = {}
        self._of_handle: dict[int, Peer] = {}
        self._connections_of: dict[int, int] = {}
        self._turns: Turns[Peer] = Turns()
        self._completed: deque[tuple[Peer, int, Result]] = deque()
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = Wake()
        self._thread: int | None = None
        self._is_ending = False
        self._rests_until_s = 0.0
        self._debts_due_s = _NEVER_S
        self._ticks = 0
        self._watched: dict[int, Callable[[], None]] = {}
        self._unheard: set[int] = set()
        self._epoll = select.epoll()
        self._owners = Owners(self._epoll)
        self._epoll.register(self._wake.fd, select.EPOLLIN)
        for number, listener in self._listeners.items():
            listener.setblocking(False)
            self._epoll.register(number, select.EPOLLIN)

    def watch(self, number: int, readable: Callable[[], None]) -> None:
        """Have something else watched by the loop, to its end.

        Args:
            number: A descriptor; stays open as long as the server does.
            readable: Called by the loop where it is readable; reads all that there is.
        """
        self._watched[number] = readable
        self._epoll.register(number, select.EPOLLIN)

    # -- for any thread -----------------------------------------------------------------

    def do(self, order: Callable[[], None]) -> None:
        """Have something done by the loop."""
        self._orders.append(order)
        self._wake.send()

    def stop(self) -> None:
        """Let `run` end; safe in a signal's handler."""
        self._is_ending = True
        self._wake.send()

    def complete(self, peer: Peer, request_id: int, result: Result) -> None:
        """A pending request has its result; the loop tells its client."""
        self._completed.append((peer, request_id, result))
        if threading.get_ident() != self._thread:
            self._wake.send()

    def tell_completed(self) -> None:
        """Tell clients what has completed; by the loop."""
        while self._completed:
            done, request_id, result = self._completed.popleft()
            done.complete(request_id, result)
            self._settle(done)

    # -- what connections need of it ----------------------------------------------------

    @property
    def peer_limits(self) -> PeerLimits:
        """How much a connection may cost."""
        return self.limits.peer

    def cannot_reach(self, process: Process | None) -> str:
        """Why no descriptor can be fetched from a process; empty if it can."""
        return self.directory.cannot_reach(process)

    def note(self, kind: str, peer: Peer, detail: str) -> None:
        """Count an incident, and log the first of its kind."""
        self.incidents.note(kind, peer.uid, detail, now_ns=time.monotonic_ns())

    def add_handle(self, handle_id: int, peer: Peer) -> None:
        """A connection has its handle."""
        self._of_handle[handle_id] = peer

    def remove_handle(self, handle_id: int) -> None:
        """And has it no more."""
        self._of_handle.pop(handle_id, None)

    def show(self, peer: Peer, request: ms.Request, descriptor: int) -> bytes | Refusal:
        """What a list or the status says, or what came of a request about programs."""
        return self._show(self, peer, request, descriptor)

    def peers(self) -> Iterable[Peer]:
        """All connections; by the loop."""
        return self._peers.values()

    def sizes(self) -> tuple[int, int]:
        """How many connections and handles there are; for any thread."""
        return len(self._peers), len(self._of_handle)

    # -- the loop -----------------------------------------------------------------------

    def run(
        self,
        tick: Callable[[], object] = lambda: None,
        settle_debts: Callable[[], bool] = lambda: False,
    ) -> None:
        """Serve until `stop`; every connection is closed then.

        Args:
            tick: Called once a second.
            settle_debts: Called after the end of connections, and again soon where it says that
                something is still owed to sockets that they left behind.
        """
        self._thread = threading.get_ident()
        next_tick_s = time.monotonic() + _TICK_S
        turns, poll = self._turns, self._epoll.poll
        try:
            while not self._is_ending:
                now_s = time.monotonic()
                if now_s >= next_tick_s:
                    next_tick_s = now_s + _TICK_S
                    self._tick()
                    tick()
                    self._debts_due_s = now_s
                if now_s >= self._debts_due_s:
                    self._debts_due_s = now_s + _DEBTS_S if settle_debts() else _NEVER_S
                wait_s = 0 if turns else max(0, min(next_tick_s, self._debts_due_s) - now_s)
                for number, mask in poll(wait_s, _EVENTS_AT_ONCE):
                    self._notice(number, mask)
                peer = turns.take()
                if peer is not None and not peer.is_over:
                    peer.read()
                    self._settle(peer)
                self.tell_completed()
        finally:
            self.close()

    def close(self) -> None:
        """End every connection and the handles with them; harmless if done already."""
        self._is_ending = True
        if self._epoll.closed:
            return
        for peer in list(self._peers.values()):
            self._close(peer)
        self._epoll.close()
        self._wake.close()

    def _notice(self, number: int, mask: int) -> None:
        peer = self._peers.get(number)
        if peer is not None:
            if mask & select.EPOLLOUT:
                peer.write()
            if mask & ~select.EPOLLOUT and peer.wants_to_read:
                self._turns.add(peer.uid, peer.pid, peer)
            else:
                self._settle(peer)
        elif number in self._listeners:
            self._accept(self._listeners[number])
        elif number == self._wake.fd:
            self._wake.take()
            while self._orders:
                self._orders.popleft()()
        elif number in self._watched:
            self._hear(number)
        else:
            self._bury(number)

    def _hear(self, number: int) -> None:
        """Let what else is watched be read; where that fails, again at the next tick."""
        try:
            self._watched[number]()
        except Exception as error:  # noqa: BLE001 - logged with its traceback
            _log.exception("what the kernel told could not be taken in")
            self.incidents.note("failed looks", 0, repr(error), now_ns=time.monotonic_ns())
            self._unheard.add(number)
            self._epoll.modify(number, 0)

    def _settle(self, peer: Peer) -> None:
        """After something was done with a connection: close it, or watch it again."""
        number = peer.sock.fileno()
        if number not in self._peers:
            return
        if peer.is_over:
            self._close(peer)
            return
        if not peer.queued_bytes:
            watched = _ONCE
        else:
            watched = _WRITING | (_ONCE if peer.wants_to_read else select.EPOLLONESHOT)
        self._epoll.modify(number, watched)

    # -- connections --------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        """Accept one: who is connected already has a turn between two."""
        try:
            sock, _name = listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._rest(str(error))
            return
        try:
            self._welcome(sock)
        except OSError as error:
            self.incidents.note(
                "connections that failed", 0, str(error), now_ns=time.monotonic_ns()
            )
            sock.close()

    def _rest(self, why: str) -> None:
        self.incidents.note("out of descriptors", 0, why, now_ns=time.monotonic_ns())
        self._rests_until_s = time.monotonic() + _REST_S
        for number in self._listeners:
            self._epoll.modify(number, 0)

    def _welcome(self, sock: socket.socket) -> None:
        """Take a connection in, or turn it away."""
        sock.setblocking(False)
        process = self._owners.take_hold(sock)
        try:
            peer = Peer(sock, process, self, now_ns=time.monotonic_ns())
        except OSError:
            if process is not None:
                self._owners.let_go(process)
            raise
        number, uid = sock.fileno(), peer.uid
        of_user = self._connections_of.get(uid, 0)
        if len(self._peers) >= self.limits.connections or (
            uid != 0 and of_user >= self.limits.connections_per_user
        ):
            self.note("connections turned away", peer, f"{of_user} of this user are open")
            peer.refuse(
                Refusal(
                    ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
                    f"the service has no room: {of_user} connections of your user are open",
                )
            )
            peer.close()
            if process is not None:
                self._owners.let_go(process)
            return
        self._epoll.register(number, _ONCE)
        self._peers[number] = peer
        self._connections_of[uid] = of_user + 1
        if process is not None:
            self._owners.add(process, peer)

    def _close(self, peer: Peer) -> None:
        number = peer.sock.fileno()
        if self._peers.pop(number, None) is None:
            return
        uid = peer.uid
        self._connections_of[uid] -= 1
        if not self._connections_of[uid]:
            del self._connections_of[uid]
        self._debts_due_s = 0.0
        # Closing the socket is not enough where another process holds a copy of it.
        with contextlib.suppress(OSError):
            self._epoll.unregister(number)
        peer.close()
        if peer.process is not None:
            self._owners.let_go(peer.process, peer)

    def _bury(self, number: int) -> None:
        """A process has ended: so have its handles, whoever holds copies of its connections."""
        found = self._owners.find(number)
        if found is not None:
            process, peers = found
            for peer in peers:
                self._close(peer)
            # One that never had a connection is held by nobody else.
            self._owners.let_go(process)

    # -- once a second ------------------------------------------------------------------

    def _tick(self) -> None:
        self._ticks += 1
        while self._unheard:
            self._epoll.modify(self._unheard.pop(), select.EPOLLIN)
        now_s = time.monotonic()
        if self._rests_until_s and now_s >= self._rests_until_s:
            self._rests_until_s = 0.0
            for number in self._listeners:
                self._epoll.modify(number, select.EPOLLIN)
        self.runtime.notice_time()
        for handle_id in self.runtime.take_lost():
            peer = self._of_handle.get(handle_id)
            if peer is not None:
                peer.lose()
                self._settle(peer)
        silent_since_ns = time.monotonic_ns() - _HELLO_NS
        for peer in list(self._peers.values()):
            if not peer.handle_id and peer.opened_ns < silent_since_ns:
                self.note("connections without a word", peer, "no hello came")
                self._close(peer)
        if self._ticks % _SWEEP_TICKS == 0:
            self.runtime.sweep()
