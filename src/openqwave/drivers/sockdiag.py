"""What the kernel counts for sockets, asked by their cookies: as `ss -i` does, and without rights.

A socket of any process of the network namespace is described by NETLINK_SOCK_DIAG. It is looked up
by its addresses, which are not known here; so a cookie that is new is searched for in a list of all
sockets, and what the list says of its addresses serves from then on: an exact look-up costs a few
microseconds, a list a millisecond and more with each socket there is. Who connects anew has other
addresses, and is searched for again; what was not found, no sooner than after `SEARCH_NS`.

TCP tells its struct tcp_info, of which older kernels have less: what is missing is unknown. Of UDP
nothing is counted but what waits, and that with the kernel's own bookkeeping for each packet: a few
hundred bytes more than the payload.

Layouts: sock_diag(7), linux/inet_diag.h, linux/tcp.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Collection, Iterable
from typing import Final, Self

from openqwave.drivers.netlink import Netlink, attributes
from openqwave.model.endpoint import Endpoint
from openqwave.model.estimates import FlowCounters
from openqwave.model.value import value

# Searching costs what listing all sockets costs; a socket that connects later is found this late.
SEARCH_NS = 1_000_000_000

# linux/netlink.h; the socket module has no name for it.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
# What a kernel says that has no module for the family or the protocol.
_NO_MODULE = frozenset({errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP})
_NAME_OF: Final = {int(socket.IPPROTO_TCP): "TCP", int(socket.IPPROTO_UDP): "UDP"}
# struct inet_diag_req_v2: family, protocol, extensions, states, then struct inet_diag_sockid:
# ports, addresses, interface, cookie.
_REQUEST = struct.Struct("=BBBxI")
_SOCKET_ID = struct.Struct("=2s2s16s16sI8s")
# struct inet_diag_msg: family, state, (timer, retransmits), the id, (expires, receive queue), send
# queue, (user, inode).
_ANSWER = struct.Struct("=BBxx48s8xI8x")
_INET_DIAG_INFO = 2
# An extension is asked for by the bit before its number.
_WITH_INFO = 1 << (_INET_DIAG_INFO - 1)
# All states but TIME_WAIT (6), LISTEN (10) and NEW_SYN_RECV (12): those have no counters.
_STATES = 0xFFFF_FFFF & ~(1 << 6 | 1 << 10 | 1 << 12)

# Where in struct tcp_info what stands: native alignment, nothing moved since Linux 2.6.
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_RTT_AT = 68
_TOTAL_RETRANS_AT = 100
_NOTSENT_BYTES_AT = 144
_MIN_RTT_AT = 148
_DELIVERED_AT = 192
_DELIVERED_CE_AT = 196
_BYTES_SENT_AT = 200
# What tcpi_min_rtt is before there was any.
_NO_RTT = 0xFFFF_FFFF
_NS_PER_US = 1_000

_KINDS: Final = tuple(
    (family, protocol)
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
    for family in (socket.AF_INET, socket.AF_INET6)
)


@value
class _Name:
    """How a socket is looked up.

    Attributes:
        family: AF_INET or AF_INET6.
        protocol: IPPROTO_TCP or IPPROTO_UDP.
        socket_id: Its ports, addresses, interface and cookie.
        is_exact: Whether that finds it; not so where several sockets share them.
    """

    family: int
    protocol: int
    socket_id: bytes
    is_exact: bool = True


def cookie_in(socket_id: bytes) -> int:
    """The cookie in a socket's id: two words of 32 bits, the lower one first."""
    lower, upper = struct.unpack("=II", _SOCKET_ID.unpack(socket_id)[5])
    cookie: int = upper << 32 | lower
    return cookie


def local_in(family: int, socket_id: bytes) -> Endpoint:
    """The address and port on this side in a socket's id."""
    sport, _, source, _, interface, _ = _SOCKET_ID.unpack(socket_id)
    port = int.from_bytes(sport, "big")
    if family == socket.AF_INET:
        return Endpoint(source[:4], port)
    end = Endpoint(source, port)
    return Endpoint(source, port, interface) if end.is_link_local else end.unmapped()


def question_of(family: int, protocol: int, socket_id: bytes = bytes(_SOCKET_ID.size)) -> bytes:
    """The body of a question about one socket, or, without its id, about all of a kind."""
    if protocol == socket.IPPROTO_UDP:
        # For historical reasons a look-up of UDP sockets takes the two ends in turned order.
        sport, dport, source, destination, interface, cookie = _SOCKET_ID.unpack(socket_id)
        socket_id = _SOCKET_ID.pack(dport, sport, destination, source, interface, cookie)
    extensions = _WITH_INFO if protocol == socket.IPPROTO_TCP else 0
    return _REQUEST.pack(family, protocol, extensions, _STATES) + socket_id


def counters_of_tcp(info: bytes) -> FlowCounters:
    """Read struct tcp_info, as much of it as there is."""

    def word(at: int, layout: struct.Struct = _U32) -> int | None:
        if at + layout.size > len(info):
            return None
        found: int = layout.unpack_from(info, at)[0]
        return found

    rtt_us, least_rtt_us = word(_RTT_AT), word(_MIN_RTT_AT)
    return FlowCounters(
        sent_bytes=word(_BYTES_SENT_AT, _U64),
        delivered_packets=word(_DELIVERED_AT) or 0,
        delivered_ce_packets=word(_DELIVERED_CE_AT) or 0,
        lost_packets=word(_TOTAL_RETRANS_AT) or 0,
        rtt_ns=rtt_us * _NS_PER_US if rtt_us else None,
        least_rtt_ns=None if least_rtt_us in (None, _NO_RTT) else least_rtt_us * _NS_PER_US,
        waiting_bytes=word(_NOTSENT_BYTES_AT) or 0,
    )


def read_answer(protocol: int, body: bytes) -> tuple[int, bytes, FlowCounters] | None:
    """Read the description of a socket.

    Args:
        protocol: What was asked about.
        body: The answer.

    Returns:
        Its family, its id and its counters; None for one that has none (any more).
    """
    if len(body) < _ANSWER.size:
        return None
    family, _, socket_id, waiting_bytes = _ANSWER.unpack_from(body)
    if protocol != socket.IPPROTO_TCP:
        return family, socket_id, FlowCounters(waiting_bytes=waiting_bytes)
    info = attributes(body[_ANSWER.size :]).get(_INET_DIAG_INFO)
    return None if info is None else (family, socket_id, counters_of_tcp(info))


class SocketDiagnosis:
    """Reads counters of sockets; for any thread.

    The network namespace is that of the thread that asks first.

    Attributes:
        reason: Why nothing, or not all, can be read, as a sentence; empty where it can.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._lock = threading.Lock()
        self._netlink: Netlink | None = None
        self._names: dict[int, _Name] = {}
        self._missing_ns: dict[int, int] = {}
        # What could not be listed when that was tried last.
        self._unlisted: set[tuple[int, int]] = set()

    def counters(self, cookies: Collection[int]) -> dict[int, FlowCounters]:
        """What the kernel has counted for some sockets.

        Args:
            cookies: Their names (SO_COOKIE). What earlier calls found out of others is forgotten.

        Returns:
            For each that was found its counters. One that is closed, bound nowhere, or neither TCP
            nor UDP is not found; none is where the kernel cannot be asked, see `reason`.
        """
        with self._lock:
            found: dict[int, FlowCounters] = {}
            self._find(cookies, found)
            return found

    def closed(self, cookies: Collection[int]) -> set[int]:
        """Those of some TCP sockets that the kernel does not have any more.

        Args:
            cookies: Their names; as with `counters`, which this forgets others for.

        Returns:
            None of them where the kernel cannot be asked, see `reason`.
        """
        with self._lock:
            found: dict[int, FlowCounters] = {}
            knows_all = self._find(cookies, found)
            return set(cookies).difference(found) if knows_all else set()

    def _find(self, cookies: Collection[int], found: dict[int, FlowCounters]) -> bool:
        """Add what is found of some sockets; False if TCP sockets may be there all the same."""
        self._names = {one: name for one, name in self._names.items() if one in cookies}
        self._missing_ns = {one: at for one, at in self._missing_ns.items() if one in cookies}
        if not cookies:
            return True
        try:
            if self._netlink is None:
                self._netlink = Netlink(_NETLINK_SOCK_DIAG)
            found.update(self._look_up(self._netlink))
            self._search(self._netlink, cookies, found)
        except OSError as error:
            self.reason = f"the kernel tells no counters of sockets: {error.strerror or error}"
            found.clear()
            return False
        return all(protocol != socket.IPPROTO_TCP for _, protocol in self._unlisted)

    def local_of(self, cookie: int) -> Endpoint | None:
        """The address that a socket has on this side, as its packets carry it.

        Args:
            cookie: Its name; one that was found when counters were asked for last.

        Returns:
            None for any other.
        """
        with self._lock:
            name = self._names.get(cookie)
        return None if name is None else local_in(name.family, name.socket_id)

    def _look_up(self, netlink: Netlink) -> dict[int, FlowCounters]:
        """Ask for the sockets whose addresses are known."""
        exact = [(cookie, name) for cookie, name in self._names.items() if name.is_exact]
        questions = [question_of(name.family, name.protocol, name.socket_id) for _, name in exact]
        found: dict[int, FlowCounters] = {}
        answers = netlink.ask_each(_SOCK_DIAG_BY_FAMILY, questions)
        for (cookie, name), answer in zip(exact, answers, strict=True):
            read = None if isinstance(answer, OSError) else read_answer(name.protocol, answer)
            if read is not None and cookie_in(read[1]) == cookie:
                found[cookie] = read[2]
        return found

    def _search(
        self, netlink: Netlink, cookies: Collection[int], found: dict[int, FlowCounters]
    ) -> None:
        """Look for the others in the lists of all sockets; add what is found."""
        now_ns = time.monotonic_ns()
        wanted = {
            cookie
            for cookie in cookies
            if cookie not in found and self._missing_ns.get(cookie, now_ns) <= now_ns
        }
        reasons = []
        for family, protocol in _KINDS:
            if not wanted:
                break
            try:
                answers = netlink.dump(_SOCK_DIAG_BY_FAMILY, question_of(family, protocol))
            except OSError as error:
                if error.errno not in _NO_MODULE:
                    raise
                reasons.append(f"{_NAME_OF[protocol]}: {error.strerror}")
                self._unlisted.add((family, protocol))
                continue
            self._unlisted.discard((family, protocol))
            self._take(protocol, answers, wanted, found)
        for cookie in wanted:
            self._names.pop(cookie, None)
            self._missing_ns[cookie] = now_ns + SEARCH_NS
        if wanted or reasons:
            self.reason = (
                f"the kernel tells no counters of sockets ({', '.join(reasons)})" if reasons else ""
            )

    def _take(
        self,
        protocol: int,
        answers: Iterable[bytes],
        wanted: set[int],
        found: dict[int, FlowCounters],
    ) -> None:
        for answer in answers:
            if len(answer) < _ANSWER.size:
                continue
            cookie = cookie_in(_ANSWER.unpack_from(answer)[2])
            read = read_answer(protocol, answer) if cookie in wanted else None
            if read is None:
                continue
            family, socket_id, found[cookie] = read
            wanted.discard(cookie)
            self._missing_ns.pop(cookie, None)
            known = self._names.get(cookie)
            # Looked up by these very addresses, it was not found: others share them.
            is_exact = known is None or known.socket_id != socket_id
            self._names[cookie] = _Name(family, protocol, socket_id, is_exact)

    def close(self) -> None:
        """Let go of the kernel; harmless when done before. A later question opens it again."""
        with self._lock:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
