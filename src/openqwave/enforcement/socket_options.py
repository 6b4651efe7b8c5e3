"""Marks and pacing by options on the application's own sockets; needs no rights.

How a socket is marked is told in `openqwave.enforcement.marks`, how it is paced in
`openqwave.enforcement.pacing`; here plans meet sockets.

**Limits.** An option holds for all packets of a socket. So two flows that want different
things of one socket are refused, as is anything that tells conformant packets from
others, and a rate that several sockets or flows would share.

**All or nothing.** When one socket of a plan refuses, those before it are brought back to
what they were. What a socket was is kept with it, so bringing it back needs no question
that could be answered differently now.

**Sockets of other processes** may be out of reach when their flow ends. With a journal
(`openqwave.enforcement.journal`), what they are owed is left there and given back later, by
`openqwave.service.recovery`, or here when they come into a flow again.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from openqwave.enforcement.holds import Hold, bring, give_back
from openqwave.enforcement.marks import NotKept, SocketMarks
from openqwave.enforcement.pacing import OutgoingQueues, PacingRefused, tcp_pacing, udp_pacing
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal, refusal_of_os_error
from openqwave.model.flow import UNTOUCHED, Transport, Treatment
from openqwave.model.sockets import Elsewhere, OutOfReach
from openqwave.subsystem.effects import Applied, Share, SocketPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from openqwave.enforcement.journal import Journal
    from openqwave.model.traffic import FlowTraffic

# The outcome of nearly every plan.
_ALL_APPLIED = Applied()

_AS_IT_WAS: Final = "the sockets are as the program made them"
_MARKS: Final = "marks by IP_TOS, IPV6_TCLASS and SO_PRIORITY of the sockets"
_BY_TCP: Final = "the kernel's TCP paces by SO_MAX_PACING_RATE"
_BY_FQ: Final = "the fq queue paces by SO_MAX_PACING_RATE"

# Sockets whose lowest rate is remembered after their flow: a hundred bytes each.
_REMEMBERED_UDP_SOCKETS = 65_536


class Sockets(Protocol):
    """Finds sockets by their cookies; see `openqwave.drivers.sockets`."""

    def borrow(self, cookie: int) -> socket.socket | None:
        """The socket, or None when it is gone.

        Raises:
            Elsewhere: Its process has it no more; it is not known yet whether another has.
            OutOfReach: It cannot be had now.
            OSError: It could not be looked for.
        """

    def give_back(self, sock: socket.socket | None) -> None:
        """End the use."""


def _express(shares: tuple[Share, ...]) -> Treatment | Refusal:
    """The one treatment that the whole socket can get."""
    if not shares:
        return UNTOUCHED
    treatment = shares[0].treatment
    if treatment.pcp is not None:
        # No option makes a tag; who asks is told so otherwise (`Applied.untagged`).
        treatment = replace(treatment, pcp=None)
    if len(shares) > 1 and any(
        replace(share.treatment, pcp=None) != treatment for share in shares[1:]
    ):
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
            "socket options hold one socket to a rate, not several flows or sockets together: use "
            "one socket for each flow, or let the service use BPF",
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

    def __init__(
        self, sockets: Sockets, queues: OutgoingQueues, journal: Journal | None = None
    ) -> None:
        """Start with no socket touched.

        Args:
            sockets: Finds them.
            queues: Tells which queue lies on the way; decides whether UDP can be paced.
            journal: Where what is owed is written down; nowhere when None.
        """
        self._sockets = sockets
        self._queues = queues
        self._journal = journal
        self._holds: dict[int, Hold] = {}
        # Outlives the flow, because what the kernel did to the socket does.
        self._lowest_udp_pacing: dict[int, int] = {}

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:
        """See `openqwave.enforcement.backend.Backend.apply`.

        Plans that only give options back are carried out as far as possible and never
        undone: a socket without marks is what was wanted.
        """
        gone: list[int] = []
        # No option of a socket makes an 802.1p tag.
        untagged: set[int] = set()
        # A plan for one socket has nothing before it to bring back.
        undo: list[Callable[[], None]] | None = [] if len(plans) > 1 else None
        refused: Refusal | None = None
        for plan in plans:
            refusal = self._apply_one(plan, gone, undo)
            if refusal is not None:
                refused = refused or refusal
                if plan.shares:
                    break
            for share in plan.shares:
                if share.treatment.pcp is not None:
                    untagged.add(share.flow_id)
        if refused is None:
            if gone or untagged:
                return Applied(frozenset(gone), frozenset(untagged))
            return _ALL_APPLIED
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

    def tags_at(self, interface: int) -> bool:
        """No option makes tags."""
        del interface
        return False

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """Options count nothing."""
        del flow_ids
        return {}

    def explain(self, cookie: int) -> tuple[str, str]:
        """See `openqwave.enforcement.backend.Backend.explain`."""
        hold = self._holds.get(cookie)
        if hold is None:
            return self.name, _AS_IT_WAS
        parts = [_MARKS] if hold.treatment.dscp is not None else []
        if hold.pacing_bytes_per_s is not None:
            parts.append(_BY_TCP if hold.is_stream else _BY_FQ)
        return self.name, "; ".join(parts)

    def take_gone(self) -> Collection[int]:
        """Nobody tells; who closed a socket is found by looking."""
        return ()

    def outlives(self, cookie: int) -> bool:  # noqa: ARG002 - none does
        """What is closed is not treated any more."""
        return False

    def reconcile(self) -> None:
        """What an application writes itself is its last word."""

    def _apply_one(
        self, plan: SocketPlan, gone: list[int], undo: list[Callable[[], None]] | None
    ) -> Refusal | None:
        """Bring one socket to its treatment; on failure it is as before."""
        treatment = _express(plan.shares)
        if isinstance(treatment, Refusal):
            return treatment
        cookie = plan.cookie
        hold = self._holds.get(cookie)
        if hold is None and treatment is UNTOUCHED and not self._owes(cookie):
            return None
        sock = None
        try:
            sock = self._sockets.borrow(cookie)
            if sock is None:
                self._lose(cookie, gone)
                return None
            if hold is None:
                hold = self._begin(plan, sock)
            before = hold.treatment, hold.pacing_bytes_per_s
            try:
                rate_bps = treatment.rate_bps
                pacing = None if rate_bps is None else self._pacing(sock, plan, rate_bps)
                bring(sock, hold, treatment, pacing)
            except (OSError, NotKept, PacingRefused) as error:
                refusal = _refusal_of(error)
                bring(sock, hold, *before)
                self._keep(cookie, hold, *before)
                return refusal
        except OutOfReach as error:
            if isinstance(error, Elsewhere):
                gone.append(cookie)
            elif plan.shares:
                return _refusal_of(error)
            self._leave(cookie)
            return None
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

    def _begin(self, plan: SocketPlan, sock: socket.socket) -> Hold:
        """Take a socket that is to be touched; known before it is, so that nothing is lost."""
        cookie = plan.cookie
        is_v6 = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET6
        hold = Hold(SocketMarks(is_v6=is_v6), is_stream=plan.transport is Transport.TCP)
        if self._journal is not None:
            owed = self._journal.left.get(cookie)
            if owed is not None:
                # It would take old marks for the application's own.
                give_back(sock, owed)
                self._journal.settle(cookie)
            self._enter(cookie, sock, hold)
        self._holds[cookie] = hold
        return hold

    def _enter(self, cookie: int, sock: socket.socket, hold: Hold) -> None:
        if self._journal is not None and hold.entry is None:
            hold.entry = self._journal.enter(cookie, os.fstat(sock.fileno()).st_ino)

    def _owes(self, cookie: int) -> bool:
        return self._journal is not None and cookie in self._journal.left

    def _lose(self, cookie: int, gone: list[int]) -> None:
        """The socket is gone."""
        hold = self._holds.pop(cookie, None)
        if hold is not None and hold.entry is not None:
            hold.entry.free()
        gone.append(cookie)

    def _leave(self, cookie: int) -> None:
        """The socket is in no flow any more, but marked and out of reach."""
        hold = self._holds.get(cookie)
        if hold is not None and hold.entry is not None:
            del self._holds[cookie]
            hold.entry.leave()

    def _keep(
        self, cookie: int, hold: Hold, treatment: Treatment, pacing_bytes_per_s: int | None
    ) -> None:
        hold.treatment, hold.pacing_bytes_per_s = treatment, pacing_bytes_per_s
        if treatment is UNTOUCHED:
            self._holds.pop(cookie, None)
            if hold.entry is not None:
                hold.entry.free()
                hold.entry = None
        else:
            self._holds[cookie] = hold

    def _bring_back(
        self, cookie: int, hold: Hold, treatment: Treatment, pacing_bytes_per_s: int | None
    ) -> None:
        """Undo one socket of a plan that another socket refused."""
        sock = self._sockets.borrow(cookie)
        if sock is None:
            return
        try:
            self._enter(cookie, sock, hold)
            bring(sock, hold, treatment, pacing_bytes_per_s)
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
