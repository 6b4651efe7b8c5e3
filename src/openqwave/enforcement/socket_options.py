"""Marks and pacing by options on the application's own sockets; needs no rights.

How a socket is marked is told in `openqwave.enforcement.marks`, how it is paced in
`openqwave.enforcement.pacing`; here plans meet sockets.

**Limits.** An option holds for all packets of a socket. So two flows that want different
things of one socket are refused, as is anything that tells conformant packets from
others, and a rate that several sockets or flows would share.

**All or nothing.** When one socket of a plan refuses, those before it are brought back to
what they were. What a socket was is kept with it, so bringing it back needs no question
that could be answered differently now.
"""

from __future__ import annotations

import errno
import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from openqwave.enforcement.marks import NotKept, SocketMarks
from openqwave.enforcement.pacing import OutgoingQueues, PacingRefused, tcp_pacing, udp_pacing
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal, refusal_of_os_error
from openqwave.model.flow import UNTOUCHED, Treatment
from openqwave.subsystem.effects import Applied, Share, SocketPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# asm-generic/socket.h; the socket module has no name for it. Eight bytes, bytes a second.
SO_MAX_PACING_RATE = 47

_PACING_BYTES = 8

# The outcome of nearly every plan.
_ALL_APPLIED = Applied()

# Sockets whose lowest rate is remembered after their flow: a hundred bytes each.
_REMEMBERED_UDP_SOCKETS = 65_536


class Sockets(Protocol):
    """Finds sockets by their cookies; see `openqwave.drivers.sockets`."""

    def borrow(self, cookie: int) -> socket.socket | None:
        """The socket, or None when it is gone.

        Raises:
            OSError: It could not be looked for.
        """

    def give_back(self, sock: socket.socket | None) -> None:
        """End the use."""


@dataclass(slots=True)
class _Hold:
    """What is known of one socket that is not as the application made it."""

    marks: SocketMarks
    treatment: Treatment = UNTOUCHED
    pacing_bytes_per_s: int | None = None
    original_pacing: int | None = None
    written_pacing: int | None = None


def _read_pacing(sock: socket.socket) -> int:
    value = sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, _PACING_BYTES)
    return int.from_bytes(value, sys.byteorder)


def _write_pacing(sock: socket.socket, bytes_per_s: int) -> None:
    value = bytes_per_s.to_bytes(_PACING_BYTES, sys.byteorder)
    sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, value)
    held = _read_pacing(sock)
    if held != bytes_per_s:
        raise NotKept(f"asked for {bytes_per_s} bytes/s of pacing, the kernel holds {held}")


def _bring(
    sock: socket.socket, hold: _Hold, treatment: Treatment, pacing_bytes_per_s: int | None
) -> None:
    """Write what a treatment asks for, or give back what it does not."""
    dscp, priority = treatment.dscp, treatment.queue_priority
    if dscp is None or priority is None:
        hold.marks.give_back(sock)
    else:
        hold.marks.write(sock, dscp, priority)
    if pacing_bytes_per_s is None and hold.original_pacing is None:
        return
    now = _read_pacing(sock)
    if hold.original_pacing is None or now != hold.written_pacing:
        # What the application wrote itself is its last word here, too.
        hold.original_pacing = now
    if pacing_bytes_per_s is None:
        if now != hold.original_pacing:
            _write_pacing(sock, hold.original_pacing)
        hold.original_pacing = hold.written_pacing = None
    else:
        # An application that paces itself more slowly than its contract keeps its rate.
        hold.written_pacing = min(pacing_bytes_per_s, hold.original_pacing)
        _write_pacing(sock, hold.written_pacing)


def _express(shares: tuple[Share, ...]) -> Treatment | Refusal:
    """The one treatment that the whole socket can get."""
    if not shares:
        return UNTOUCHED
    treatment = shares[0].treatment
    if len(shares) > 1 and any(share.treatment != treatment for share in shares):
        return Refusal(
            ErrorCode.ERROR_NOT_SUPPORTED,
            "socket options treat all packets of a socket alike, and this one would be in flows "
            "of different marks or rates: use one socket for each, or one traffic type",
        )
    if treatment.excess_is_remarked:
        return Refusal(
            ErrorCode.ERROR_NOT_SUPPORTED,
            "re-marking the packets above a rate needs the kernel data plane of the service; "
            "choose shaping instead",
        )
    if treatment.rate_bps is not None and (len(shares) > 1 or shares[0].sockets_in_flow > 1):
        return Refusal(
            ErrorCode.ERROR_NOT_SUPPORTED,
            "socket options hold one socket to a rate, not several flows or sockets together",
        )
    return treatment


def _refusal_of(error: OSError | NotKept | PacingRefused) -> Refusal:
    if isinstance(error, PacingRefused):
        return error.refusal
    if isinstance(error, NotKept):
        return Refusal(ErrorCode.ERROR_IO_DEVICE, str(error))
    return refusal_of_os_error(error, "setting the socket's options failed")


class SocketOptions:
    """The backend of an ordinary user."""

    name = "socket options"

    def __init__(self, sockets: Sockets, queues: OutgoingQueues) -> None:
        """Start with no socket touched.

        Args:
            sockets: Finds them.
            queues: Tells which queue lies on the way; decides whether UDP can be paced.
        """
        self._sockets = sockets
        self._queues = queues
        self._holds: dict[int, _Hold] = {}
        # Outlives the flow, because what the kernel did to the socket does.
        self._lowest_udp_pacing: dict[int, int] = {}

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:
        """See `openqwave.enforcement.backend.Backend.apply`.

        Plans that only give options back are carried out as far as possible and never
        undone: a socket without marks is what was wanted.
        """
        gone: set[int] = set()
        # A plan for one socket has nothing before it to bring back.
        undo: list[Callable[[], None]] | None = [] if len(plans) > 1 else None
        refused: Refusal | None = None
        for plan in plans:
            refusal = self._apply_one(plan, gone, undo)
            if refusal is not None:
                refused = refused or refusal
                if plan.shares:
                    break
        if refused is None:
            return Applied(frozenset(gone)) if gone else _ALL_APPLIED
        while undo:
            try:
                undo.pop()()
            except (OSError, NotKept) as error:
                detail = f"{refused.detail}; and undoing another socket failed: {error}"
                refused = Refusal(refused.code, detail)
        return refused

    def observe(self) -> Mapping[int, Treatment]:
        """See `openqwave.enforcement.backend.Backend.observe`."""
        return {cookie: hold.treatment for cookie, hold in self._holds.items()}

    def clean_up(self) -> None:
        """See `openqwave.enforcement.backend.Backend.clean_up`."""
        self.apply(tuple(SocketPlan(cookie, ()) for cookie in self._holds))

    def _apply_one(
        self, plan: SocketPlan, gone: set[int], undo: list[Callable[[], None]] | None
    ) -> Refusal | None:
        """Bring one socket to its treatment; on failure it is as before."""
        treatment = _express(plan.shares)
        if isinstance(treatment, Refusal):
            return treatment
        cookie = plan.cookie
        hold = self._holds.get(cookie)
        if hold is None and treatment is UNTOUCHED:
            return None
        sock = None
        try:
            sock = self._sockets.borrow(cookie)
            if sock is None:
                self._lose(cookie, gone)
                return None
            if hold is None:
                is_v6 = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET6
                # Known before it is touched, so that an interruption loses nothing.
                hold = self._holds[cookie] = _Hold(SocketMarks(is_v6=is_v6))
            before = hold.treatment, hold.pacing_bytes_per_s
            try:
                rate_bps = treatment.rate_bps
                pacing = None if rate_bps is None else self._pacing(sock, plan, rate_bps)
                _bring(sock, hold, treatment, pacing)
            except (OSError, NotKept, PacingRefused) as error:
                refusal = _refusal_of(error)
                _bring(sock, hold, *before)
                self._keep(cookie, hold, *before)
                return refusal
        except (OSError, NotKept) as error:
            if isinstance(error, OSError) and error.errno == errno.EBADF:
                # Closed by another thread since it was found.
                self._lose(cookie, gone)
                return None
            return _refusal_of(error)
        finally:
            self._sockets.give_back(sock)
        self._keep(cookie, hold, treatment, pacing)
        if undo is not None and plan.shares:
            undo.append(partial(self._bring_back, cookie, hold, *before))
        return None

    def _lose(self, cookie: int, gone: set[int]) -> None:
        self._holds.pop(cookie, None)
        gone.add(cookie)

    def _keep(
        self, cookie: int, hold: _Hold, treatment: Treatment, pacing_bytes_per_s: int | None
    ) -> None:
        hold.treatment, hold.pacing_bytes_per_s = treatment, pacing_bytes_per_s
        if treatment is UNTOUCHED:
            self._holds.pop(cookie, None)
        else:
            self._holds[cookie] = hold

    def _bring_back(
        self, cookie: int, hold: _Hold, treatment: Treatment, pacing_bytes_per_s: int | None
    ) -> None:
        """Undo one socket of a plan that another socket refused."""
        sock = self._sockets.borrow(cookie)
        if sock is None:
            return
        try:
            _bring(sock, hold, treatment, pacing_bytes_per_s)
        finally:
            self._sockets.give_back(sock)
        self._keep(cookie, hold, treatment, pacing_bytes_per_s)

    def _pacing(self, sock: socket.socket, plan: SocketPlan, rate_bps: int) -> int:
        """SO_MAX_PACING_RATE for a plan that holds a rate, which is one flow's alone."""
        destinations = plan.shares[0].destinations
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP:
            return tcp_pacing(sock, rate_bps, destinations[0].version)
        if len(destinations) > 1:
            raise PacingRefused("the fq queue gives each destination of a socket its own rate")
        bytes_per_s = udp_pacing(sock, rate_bps, destinations[0], self._queues)
        lowest = self._lowest_udp_pacing.get(plan.cookie, bytes_per_s)
        if bytes_per_s > lowest:
            raise PacingRefused(
                "the kernel lowers the rate of a UDP socket but never raises it again: "
                "use a new socket for the higher rate"
            )
        self._lowest_udp_pacing[plan.cookie] = bytes_per_s
        if len(self._lowest_udp_pacing) > _REMEMBERED_UDP_SOCKETS:
            del self._lowest_udp_pacing[next(iter(self._lowest_udp_pacing))]
        return bytes_per_s
