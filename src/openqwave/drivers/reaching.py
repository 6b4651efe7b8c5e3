"""Sockets of other processes: described when they are passed, reached again later, never kept open.

A client passes a descriptor along with the request that names a socket. It is closed when the
request is done, because a copy that is kept would hold the application's connection open after the
application closed it. To change the marks later, or to give the socket's own options back, another
copy is fetched for the moment (`openqwave.drivers.processes`):

1. the descriptor that came with the request at hand;
2. one that the client lent for this request or for one that is pending: the way where nothing can
   be fetched, for want of rights;
3. from the process that brought it, under the number that it named;
4. from that process under any other number;
5. from any process that holds it (`openqwave.drivers.holders`): after a fork, or passed on.

Whatever comes is asked for its cookie before anything else, with the one question that nobody can
make wait. What has another one is a stranger's, and goes where closing it delays nobody.

**Cost.** The first three ways take microseconds. The fourth takes two for each descriptor of the
process; the fifth is one look for all sockets that are missing. Both are bounded: a process of
many descriptors is not searched again at once, and other processes are looked through a piece at
a time. `Elsewhere` says that the socket's process does not have it any more, and that it is not
known yet whether another has.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from openqwave.drivers.closing import close_safely, close_socket, is_jammed
from openqwave.drivers.holders import Rounds, Sought, is_held, search_process
from openqwave.drivers.passing import CookieReader, LentSocket
from openqwave.drivers.processes import Process, refuse_tracing
from openqwave.drivers.sockets import (
    SocketLike,
    ask_socket,
    describe_socket,
    interface_of,
    namespace_of,
    read_cookie,
)
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.sockets import Elsewhere, OutOfReach, SocketFacts

# A search of a process that took longer than this is not repeated at once, but after nine times
# as long; what took less costs hardly more than a request.
_CHEAP_NS = 1_000_000
_REST_FACTOR = 9

_UNKNOWN = (-1, -1, -1)

_NO_PROCESS = "the client's process cannot be seen from here (another pid namespace?)"
_JAMMED = "descriptors that cannot be closed pile up; somebody passes files that block"
_BUSY = "the socket is looked for among many descriptors; try again"
_ELSEWHERE = "its process does not hold the socket any more"
_BLIND = "some processes may not be looked into; the socket may be held by one of them"


class _Fetched(socket.socket):
    """A copy of ours, to be closed after use."""


@dataclass(slots=True)
class _Place:
    """Where a socket was last, and what it is looked for by.

    Attributes:
        process: Who brought it; None if it is another's by now, or never was known.
        pid: The process that held it last; 0 if none is known.
        number: Under this file number there; -1 if that is not known.
        inode: By which /proc names it.
        kind: Family, type and protocol, which need not be asked again; all -1 if not known.
        round: The newest search that had begun when it was last known to be there.
    """

    process: Process | None
    pid: int
    number: int
    inode: int
    kind: tuple[int, int, int]
    round: int


def _describe(sock: socket.socket) -> SocketFacts | Refusal:
    facts = describe_socket(sock)
    if isinstance(facts, Refusal) or facts.peer is None:
        return facts
    # The application may be in another network namespace than this process. And rates are held
    # where packets leave, which the destination alone does not say of a socket that is bound.
    namespace, interface = namespace_of(sock), interface_of(sock)
    return replace(facts, namespace=namespace, interface=interface)


class ReachableSockets:
    """The sockets of other processes that are in flows, by cookie.

    To be used by one thread at a time, but for `lend` and `take_back`.

    Attributes:
        rounds: The searches through all processes.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Start without sockets.

        Args:
            clock: Monotonic nanoseconds; says how long searching may take.
        """
        self._clock = clock
        self._places: dict[int, _Place] = {}
        # What is looked for though it is in no flow, because options are owed to it.
        self._owed: dict[int, _Place] = {}
        self._sought = Sought()
        self.rounds = Rounds(clock)
        self._reader = CookieReader()
        self._lent: dict[int, list[LentSocket]] = {}
        self._in_hand: tuple[int, LentSocket] | None = None

    # -- what a call brings -------------------------------------------------------------

    def describe(self, sock: SocketLike) -> SocketFacts | Refusal:
        """What the kernel says of a socket; always with its network namespace.

        Args:
            sock: A `LentSocket`; anything else stands for one that did not come.

        Returns:
            The facts; ERROR_INVALID_PARAMETER for what is no open socket;
            ERROR_NOT_SUPPORTED for protocols that cannot be in flows.
        """
        return ask_socket(sock, _describe) if isinstance(sock, LentSocket) else _no_socket()

    def cookie_of(self, sock: SocketLike) -> int | Refusal:
        """The kernel's name for a socket; ERROR_INVALID_PARAMETER for what is none."""
        return ask_socket(sock, read_cookie) if isinstance(sock, LentSocket) else _no_socket()

    def take_in_hand(self, cookie: int, sock: SocketLike) -> None:
        """Remember the socket that a call names, and use what came with it until `put_down`.

        Raises:
            OSError: It is not open.
        """
        if not isinstance(sock, LentSocket):
            raise TypeError(f"{sock!r} did not come from a client")
        place, process = self._places.get(cookie), sock.process
        pid = 0 if process is None else process.pid
        if place is None:
            inode = os.fstat(sock.fileno()).st_ino
            kind = int(sock.family), int(sock.type), sock.proto
            self._places[cookie] = _Place(process, pid, sock.number, inode, kind, self.rounds.begun)
            self._sought.add(inode)
        else:
            place.round = self.rounds.begun
            if sock.number >= 0:
                place.process, place.pid, place.number = process, pid, sock.number
        self._in_hand = cookie, sock

    def put_down(self) -> None:
        """The call that named a socket is over."""
        self._in_hand = None

    def lend(self, sockets: Iterable[LentSocket]) -> None:
        """Find these sockets by these descriptors, until they are taken back."""
        for sock in sockets:
            self._lent.setdefault(sock.cookie, []).append(sock)

    def take_back(self, sockets: Iterable[LentSocket]) -> None:
        """Use these descriptors no more; those that were not lent do no harm."""
        for sock in sockets:
            left = [one for one in self._lent.pop(sock.cookie, ()) if one is not sock]
            if left:
                self._lent[sock.cookie] = left

    def forget(self, cookie: int) -> None:
        """Drop the names; the socket is in no flow any more."""
        place = self._places.pop(cookie, None)
        if place is not None:
            self._sought.drop(place.inode)

    # -- what is to be given back without a flow ----------------------------------------

    def seek(self, owed: Mapping[int, int]) -> None:
        """Let `borrow` find these sockets, too, whoever has them; and none named so before.

        Args:
            owed: Inodes by cookie.
        """
        for cookie in self._owed.keys() - owed.keys():
            self._sought.drop(self._owed.pop(cookie).inode)
        for cookie in owed.keys() - self._owed.keys():
            inode = owed[cookie]
            self._owed[cookie] = _Place(None, 0, -1, inode, _UNKNOWN, self.rounds.begun)
            self._sought.add(inode)

    def search_everywhere(self) -> None:
        """Look through all processes now, however long that takes."""
        begun = self.rounds.begun
        while self.rounds.done <= begun:
            self.rounds.go_on(self._sought, is_patient=True)

    # -- reaching -----------------------------------------------------------------------

    def cannot_reach(self, process: Process | None) -> str:
        """Why no descriptor can be fetched from a process; empty if it can."""
        return _NO_PROCESS if process is None else process.refuse_fetching()

    def cannot_reach_all(self) -> str:
        """Why processes of other users cannot be reached; empty if they can."""
        return refuse_tracing()

    def is_gone(self, cookie: int) -> bool:
        """Does the process that brought the socket have it no more?

        Raises:
            OSError: It could not be looked for.
        """
        try:
            sock = self.borrow(cookie)
        except Elsewhere:
            return True
        self.give_back(sock)
        return sock is None

    def find_gone(self, cookies: Collection[int]) -> set[int]:
        """Those of some sockets that are gone, with one look at all processes at most.

        One that cannot be looked for now counts as being there.
        """
        gone = set()
        for cookie in cookies:
            try:
                is_gone = self.is_gone(cookie)
            except OSError:
                continue
            if is_gone:
                gone.add(cookie)
        return gone

    def borrow(self, cookie: int) -> socket.socket | None:
        """The socket, to be used at once and given back; None when it is gone.

        Raises:
            Elsewhere: Its process has it no more, and others are still looked through.
            OutOfReach: It may not be fetched, or there is too much to look through at once.
            OSError: There is no descriptor left for it.
        """
        if self._in_hand is not None and self._in_hand[0] == cookie:
            return self._in_hand[1]
        for lent in self._lent.get(cookie, ()):
            if lent.fileno() >= 0:
                return lent
        place = self._places.get(cookie) or self._owed.get(cookie)
        if place is None:
            return None
        if is_jammed():
            raise OutOfReach(errno.ENOBUFS, _JAMMED)
        sock = self._fetch_there(place, cookie) or self._search(place, cookie)
        if sock is not None:
            place.round = self.rounds.begun
        return sock

    def give_back(self, sock: socket.socket | None) -> None:
        """End the use; closes a copy, leaves what a client passed alone."""
        if not isinstance(sock, _Fetched):
            return
        if sock.proto == socket.IPPROTO_UDP:
            # The most frequent kind; its close never waits.
            os.close(sock.detach())
        else:
            close_socket(sock)

    def _fetch(self, process: Process, number: int, place: _Place, cookie: int) -> _Fetched | None:
        """A copy of a descriptor of another process if it is that socket.

        Raises:
            OutOfReach: Nothing can be fetched from it.
            OSError: There is no descriptor left for it.
        """
        descriptor = process.fetch(number)
        if descriptor is None:
            return None
        try:
            if self._reader.read(descriptor) == cookie:
                return _Fetched(*place.kind, descriptor)
        except OSError:
            # No socket at all.
            pass
        close_safely(descriptor)
        return None

    def _fetch_from(self, pid: int, number: int, place: _Place, cookie: int) -> _Fetched | None:
        """As `_fetch`, from the process that has the pid now."""
        process = Process.of_pid(pid)
        if process is None:
            return None
        with process:
            return self._fetch(process, number, place, cookie)

    def _fetch_there(self, place: _Place, cookie: int) -> _Fetched | None:
        """Look where it was last."""
        if place.number < 0:
            return None
        process = place.process
        if process is not None and process.fileno() >= 0:
            return self._fetch(process, place.number, place, cookie)
        return self._fetch_from(place.pid, place.number, place, cookie) if place.pid else None

    def _search(self, place: _Place, cookie: int) -> _Fetched | None:
        """Look under other numbers, then in other processes."""
        process = place.process
        has_looked = True
        if not place.pid and cookie not in self._owed:
            raise OutOfReach(errno.EPERM, _NO_PROCESS)
        if process is not None and process.is_alive():
            refused = process.refuse_fetching()
            if refused:
                raise OutOfReach(errno.EPERM, refused)
            found, has_looked = self._search_process(process, place, cookie)
            if found is not None:
                return found
        try:
            return self._search_others(place, cookie)
        except Elsewhere:
            if has_looked:
                raise
            raise OutOfReach(errno.ENOBUFS, _BUSY) from None

    def _search_process(
        self, process: Process, place: _Place, cookie: int
    ) -> tuple[_Fetched | None, bool]:
        """Look through one process; tell whether it could be looked through at all."""
        started_ns = self._clock()
        if started_ns < process.rest_until_ns:
            return None, False
        numbers, has_looked = search_process(process.pid, place.inode, self._clock)
        ended_ns = self._clock()
        if ended_ns - started_ns > _CHEAP_NS:
            process.rest_until_ns = ended_ns + _REST_FACTOR * (ended_ns - started_ns)
        for number in numbers:
            sock = self._fetch(process, number, place, cookie)
            if sock is not None:
                place.number = number
                return sock, True
        return None, has_looked

    def _search_others(self, place: _Place, cookie: int) -> _Fetched | None:
        """Look through all processes; see `openqwave.drivers.holders`."""
        rounds = self.rounds
        while True:
            if rounds.done > place.round:
                sock, has_moved = self._take_from(rounds.places_of(place.inode), place, cookie)
                if sock is not None:
                    return sock
                if not has_moved:
                    if rounds.is_blind and not place.pid:
                        # Nobody is known who has ever had it here, so its absence proves nothing.
                        raise OutOfReach(errno.EPERM, _BLIND)
                    return None
                place.round = rounds.begun
            if not rounds.go_on(self._sought):
                raise Elsewhere(errno.ENOBUFS, _ELSEWHERE)

    def _take_from(
        self, found: Iterable[tuple[int, int]], place: _Place, cookie: int
    ) -> tuple[_Fetched | None, bool]:
        """Fetch it from where a search met its inode; tell whether it has moved since."""
        refused: OutOfReach | None = None
        has_moved = False
        for pid, number in found:
            try:
                sock = self._fetch_from(pid, number, place, cookie)
            except OutOfReach as error:
                refused = error
                continue
            if sock is not None:
                if place.process is None or place.process.pid != pid:
                    place.process = None
                place.pid, place.number = pid, number
                return sock, False
            # One that is still there is another socket, which was given the inode's number.
            has_moved = has_moved or not is_held(pid, number, place.inode)
        if refused is not None:
            raise refused
        return None, has_moved


def _no_socket() -> Refusal:
    return Refusal(
        ErrorCode.ERROR_INVALID_PARAMETER, "no open socket came with the request, or none at all"
    )
