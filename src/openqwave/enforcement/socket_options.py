"""Marks and pacing by options on the application's own sockets; needs no rights.

**Marking** takes three options, and their order matters (measured on Linux 6.18, the same
in net/ipv4/ip_sockglue.c and net/ipv6/ipv6_sockglue.c):

* IP_TOS marks IPv4 packets, including those that an IPv6 socket sends to IPv4-mapped
  peers; IPV6_TCLASS marks IPv6 packets. A dual-stack socket needs both.
* Writing IP_TOS resets the socket's priority to a value derived from the TOS bits, so
  SO_PRIORITY is written last.
* The two low bits of both belong to ECN and to the application. They are read and kept.
  TCP keeps its own and ignores what is written there.

**Restoring** gives back exactly what the application had. What it had is read before the
first write. What it writes itself while the flow lasts is its last word: if an option no
longer holds what was written here, the new value becomes what is restored; if only its
ECN bits differ, those are kept.

**Limits.** An option holds for all packets of a socket. So two flows that want different
things of one socket are refused, as is anything that tells conformant packets from
others. A socket whose priority was raised above 6 by somebody with rights could not be
given that back by an ordinary user, so it is refused before anything is touched.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from openqwave.enforcement.pacing import OutgoingQueues, PacingRefused, tcp_pacing, udp_pacing
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import UNTOUCHED, Treatment
from openqwave.subsystem.effects import Applied, Share, SocketPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# asm-generic/socket.h; the socket module has no name for it. Eight bytes, bytes a second.
SO_MAX_PACING_RATE = 47

# RFC 3168 section 5: the two low bits of the former TOS octet are ECN's.
_ECN = 0b11
_DSCP = 0xFC

# socket(7): a higher priority needs CAP_NET_ADMIN.
_HIGHEST_FREE_PRIORITY = 6

# Sockets whose lowest rate is remembered after their flow: a hundred bytes each.
_REMEMBERED_UDP_SOCKETS = 65_536


class Sockets(Protocol):
    """Finds sockets by their cookies; see `openqwave.drivers.sockets`."""

    def borrow(self, cookie: int) -> socket.socket | None:
        """The socket, or None when it is gone."""

    def give_back(self, sock: socket.socket | None) -> None:
        """End the use."""


@dataclass(frozen=True, slots=True)
class _Options:
    """The options that carry marks; `tclass` is None on an IPv4 socket."""

    tos: int
    tclass: int | None
    priority: int


@dataclass(frozen=True, slots=True)
class _Target:
    """What one socket's options are to become; None gives the application's own back."""

    dscp: int | None = None
    priority: int | None = None
    pacing_bytes_per_s: int | None = None


_OWN = _Target()


@dataclass(slots=True)
class _Hold:
    """What is known of one socket that is not as the application made it."""

    treatment: Treatment = UNTOUCHED
    target: _Target = _OWN
    original: _Options | None = None
    written: _Options | None = None
    original_pacing: int | None = None


class _Kept(Exception):
    """The kernel took a value and reads back another."""


def _read(sock: socket.socket, *, is_v6: bool) -> _Options:
    ask = sock.getsockopt
    return _Options(
        ask(socket.IPPROTO_IP, socket.IP_TOS),
        ask(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if is_v6 else None,
        ask(socket.SOL_SOCKET, socket.SO_PRIORITY),
    )


def _write(sock: socket.socket, options: _Options) -> None:
    """Write all, priority last, and see that the kernel holds them."""
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, options.tos)
    if options.tclass is not None:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, options.tclass)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, options.priority)
    held = _read(sock, is_v6=options.tclass is not None)
    if held != options:
        raise _Kept(f"wrote {options}, the kernel holds {held}")


def _marked(now: _Options, dscp: int, priority: int) -> _Options:
    """The options with other marks and the same ECN bits."""
    code = dscp << 2
    tclass = now.tclass
    return _Options(
        code | now.tos & _ECN, None if tclass is None else code | tclass & _ECN, priority
    )


def _adopt(original: _Options, written: _Options, now: _Options) -> _Options:
    """What to give back, after what the application itself has written meanwhile."""

    def octet(original: int, written: int, now: int) -> int:
        if now & _DSCP != written & _DSCP:
            return now
        return original & _DSCP | now & _ECN

    tclass = original.tclass
    if tclass is not None and written.tclass is not None and now.tclass is not None:
        tclass = octet(tclass, written.tclass, now.tclass)
    return _Options(
        octet(original.tos, written.tos, now.tos),
        tclass,
        original.priority if now.priority == written.priority else now.priority,
    )


def _read_pacing(sock: socket.socket) -> int:
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8), "little")


def _write_pacing(sock: socket.socket, bytes_per_s: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, bytes_per_s.to_bytes(8, "little"))
    held = _read_pacing(sock)
    if held != bytes_per_s:
        raise _Kept(f"asked for {bytes_per_s} bytes/s of pacing, the kernel holds {held}")


def _given(target: _Target, _sock: socket.socket) -> _Target:
    """A target that is known already."""
    return target


def _express(shares: tuple[Share, ...]) -> Treatment | Refusal:
    """The one treatment that the whole socket can get."""
    if not shares:
        return UNTOUCHED
    treatment = shares[0].treatment
    if any(share.treatment != treatment for share in shares):
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


def _refusal_of(error: OSError | _Kept | PacingRefused) -> Refusal:
    if isinstance(error, PacingRefused):
        return error.refusal
    if isinstance(error, _Kept):
        return Refusal(ErrorCode.ERROR_IO_DEVICE, str(error))
    if error.errno in (errno.EPERM, errno.EACCES):
        return Refusal(
            ErrorCode.ERROR_ACCESS_DENIED, f"the kernel wants more rights: {error.strerror}"
        )
    if error.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
        return Refusal(
            ErrorCode.ERROR_NOT_SUPPORTED, f"the kernel lacks the option: {error.strerror}"
        )
    return Refusal(ErrorCode.ERROR_IO_DEVICE, f"setting the socket's options failed: {error}")


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
        changed: list[tuple[int, Treatment, _Target]] = []
        refused: Refusal | None = None
        for plan in plans:
            hold = self._holds.get(plan.cookie)
            before = (UNTOUCHED, _OWN) if hold is None else (hold.treatment, hold.target)
            refusal = self._apply_one(plan, gone)
            if refusal is None:
                if plan.shares:
                    changed.append((plan.cookie, *before))
                continue
            refused = refused or refusal
            if plan.shares:
                break
        if refused is None:
            return Applied(frozenset(gone))
        for cookie, treatment, target in reversed(changed):
            self._reach(cookie, treatment, partial(_given, target), gone)
        return refused

    def observe(self) -> Mapping[int, Treatment]:
        """See `openqwave.enforcement.backend.Backend.observe`."""
        return {cookie: hold.treatment for cookie, hold in self._holds.items()}

    def clean_up(self) -> None:
        """See `openqwave.enforcement.backend.Backend.clean_up`."""
        self.apply(tuple(SocketPlan(cookie, ()) for cookie in self._holds))

    def _apply_one(self, plan: SocketPlan, gone: set[int]) -> Refusal | None:
        treatment = _express(plan.shares)
        if isinstance(treatment, Refusal):
            return treatment

        def target(sock: socket.socket) -> _Target:
            pacing = self._pacing(sock, plan) if treatment.rate_bps is not None else None
            return _Target(treatment.dscp, treatment.queue_priority, pacing)

        return self._reach(plan.cookie, treatment, target, gone)

    def _reach(
        self,
        cookie: int,
        treatment: Treatment,
        target_of: Callable[[socket.socket], _Target],
        gone: set[int],
    ) -> Refusal | None:
        """Bring one socket to its treatment; on failure it is as before."""
        hold = self._holds.get(cookie)
        if hold is None:
            if treatment == UNTOUCHED:
                return None
            hold = _Hold()
        sock = self._sockets.borrow(cookie)
        try:
            if sock is None:
                self._holds.pop(cookie, None)
                gone.add(cookie)
                return None
            try:
                target = target_of(sock)
                self._write_target(sock, hold, target)
            except (OSError, _Kept, PacingRefused) as error:
                refusal = _refusal_of(error)
                try:
                    self._write_target(sock, hold, hold.target)
                except (OSError, _Kept) as second:
                    detail = f"{refusal.detail}; and undoing it failed: {second}"
                    return Refusal(refusal.code, detail)
                return refusal
        finally:
            self._sockets.give_back(sock)
        hold.treatment, hold.target = treatment, target
        if target == _OWN:
            self._holds.pop(cookie, None)
        else:
            self._holds[cookie] = hold
        return None

    def _write_target(self, sock: socket.socket, hold: _Hold, target: _Target) -> None:
        self._write_marks(sock, hold, target)
        if target.pacing_bytes_per_s is not None:
            if hold.original_pacing is None:
                hold.original_pacing = _read_pacing(sock)
            # An application that paces itself more slowly than its contract keeps its rate.
            _write_pacing(sock, min(target.pacing_bytes_per_s, hold.original_pacing))
        elif hold.original_pacing is not None:
            _write_pacing(sock, hold.original_pacing)
            hold.original_pacing = None

    @staticmethod
    def _write_marks(sock: socket.socket, hold: _Hold, target: _Target) -> None:
        dscp, priority = target.dscp, target.priority
        is_marking = dscp is not None and priority is not None
        if hold.written is None and not is_marking:
            return
        is_v6 = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET6
        now = _read(sock, is_v6=is_v6)
        if hold.written is None or hold.original is None:
            hold.original = now
            if now.priority > _HIGHEST_FREE_PRIORITY:
                # Writing it unchanged shows whether it could be given back later.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, now.priority)
        else:
            hold.original = _adopt(hold.original, hold.written, now)
        wanted = hold.original if dscp is None or priority is None else _marked(now, dscp, priority)
        hold.written = wanted if is_marking else None
        if wanted != now:
            _write(sock, wanted)

    def _pacing(self, sock: socket.socket, plan: SocketPlan) -> int:
        """SO_MAX_PACING_RATE for a plan that holds a rate."""
        share = plan.shares[0]
        rate_bps, destinations = share.treatment.rate_bps, share.destinations
        if rate_bps is None:
            raise ValueError("the plan holds no rate")
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
