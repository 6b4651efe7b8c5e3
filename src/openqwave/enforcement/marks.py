"""The three options that mark one socket's packets, and how they are given back.

The order matters (measured on Linux 6.18; net/ipv4/ip_sockglue.c, ipv6_sockglue.c):

* IP_TOS marks IPv4 packets, including those that an IPv6 socket sends to IPv4-mapped
  peers; IPV6_TCLASS marks IPv6 packets. A dual-stack socket needs both.
* Writing IP_TOS resets the socket's priority to a value derived from the TOS bits, so
  SO_PRIORITY is written last.
* The two low bits of both belong to ECN and to the application. They are read and kept.
  TCP keeps its own and ignores what is written there.

What the application had is read before the first write. What it writes itself while it
is marked is its last word: an option that no longer holds what was written here is what
will be given back; where only the ECN bits differ, those are kept. A priority that came
of the application's own IP_TOS is derived anew from the octet that it gets back.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeAlias

# RFC 3168 section 5: the two low bits of the former TOS octet are ECN's.
_ECN = 0b11
_DSCP = 0xFC

# socket(7): a higher priority needs CAP_NET_ADMIN.
_HIGHEST_FREE_PRIORITY = 6

# The priority that the kernel derives when IP_TOS is written, by bits 1 to 4 of the octet
# (ip_tos2prio, net/ipv4/route.c): best effort, bulk, interactive, interactive bulk.
_DERIVED_PRIORITIES = (0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4)

# IP_TOS, IPV6_TCLASS (None on an IPv4 socket), SO_PRIORITY.
Options: TypeAlias = "tuple[int, int | None, int]"

# Told what to give back, what the options are and what they are about to become.
Note: TypeAlias = "Callable[[Options, Options, Options], None]"

# Names of the socket module cost a look-up each, and these are used for every call.
_IP, _IPV6, _SOCKET = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
_TOS, _TCLASS, _PRIORITY = socket.IP_TOS, socket.IPV6_TCLASS, socket.SO_PRIORITY


class NotKept(Exception):
    """The kernel took a value and reads back another."""


def read_options(sock: socket.socket, *, is_v6: bool) -> Options:
    """The three options of a socket as they are.

    Raises:
        OSError: It is closed.
    """
    ask = sock.getsockopt
    tclass = ask(_IPV6, _TCLASS) if is_v6 else None
    return ask(_IP, _TOS), tclass, ask(_SOCKET, _PRIORITY)


class SocketMarks:
    """The marks of one socket, from the first that is set to the last that is given back."""

    __slots__ = ("_is_v6", "_original", "_written")

    def __init__(
        self, *, is_v6: bool, original: Options | None = None, written: Options | None = None
    ) -> None:
        """Start with a socket as the application made it, or as somebody left it.

        Args:
            is_v6: It is an IPv6 socket.
            original: What to give back, where another has marked it.
            written: What that one wrote.
        """
        self._is_v6 = is_v6
        self._original = original
        self._written = written

    @property
    def original(self) -> Options | None:
        """What is to be given back; None when nothing was written."""
        return self._original

    @property
    def written(self) -> Options | None:
        """What was written last; None when nothing was, or all was given back."""
        return self._written

    def write(
        self, sock: socket.socket, dscp: int, priority: int, note: Note | None = None
    ) -> None:
        """Mark all packets of the socket.

        Args:
            sock: The socket, the same one each time.
            dscp: 0 to 63.
            priority: skb priority, 0 to 6.
            note: Told before anything is written, or when something else is to be given back.

        Raises:
            OSError: The kernel refused; some options may be written.
            NotKept: It reads back otherwise; likewise.
        """
        now = read_options(sock, is_v6=self._is_v6)
        if now != self._written:
            self._adopt(sock, now)
        code = dscp << 2
        tos, tclass, _ = now
        wanted = (
            code | tos & _ECN,
            None if tclass is None else code | tclass & _ECN,
            priority,
        )
        if note is not None and self._original is not None and not now == wanted == self._written:
            note(self._original, now, wanted)
        self._written = wanted
        if wanted != now:
            try:
                self._bring(sock, wanted)
            except (OSError, NotKept):
                # What is still there of earlier marks is not the application's word.
                reached = read_options(sock, is_v6=self._is_v6)
                self._written = as_far_as_written(now, wanted, reached)
                raise

    def give_back(self, sock: socket.socket) -> None:
        """Let the socket have what the application gave it.

        Raises:
            OSError: The kernel refused.
            NotKept: It reads back otherwise.
        """
        if self._written is None or self._original is None:
            return
        now = read_options(sock, is_v6=self._is_v6)
        if now != self._written:
            self._adopt(sock, now)
        if self._original != now:
            self._bring(sock, self._original)
        self._original = self._written = None

    def _bring(self, sock: socket.socket, options: Options) -> None:
        """Write all, priority last, and see that the kernel holds them."""
        tos, tclass, priority = options
        sock.setsockopt(_IP, _TOS, tos)
        if tclass is not None:
            sock.setsockopt(_IPV6, _TCLASS, tclass)
        sock.setsockopt(_SOCKET, _PRIORITY, priority)
        held = read_options(sock, is_v6=self._is_v6)
        if held != options:
            raise NotKept(f"wrote TOS, class, priority {options}, the kernel holds {held}")

    def _adopt(self, sock: socket.socket, now: Options) -> None:
        """Learn what to give back: the options are not as they were written here."""
        if self._written is None or self._original is None:
            if now[2] > _HIGHEST_FREE_PRIORITY:
                # Somebody with rights raised it. Writing it unchanged shows, before
                # anything is touched, whether it could be given back later.
                sock.setsockopt(_SOCKET, _PRIORITY, now[2])
            self._original = now
        else:
            self._original = _last_words(self._original, self._written, now)


def as_far_as_written(before: Options, written: Options, now: Options) -> Options:
    """What of a change that was cut off has been written, so that only the rest is another's word.

    Args:
        before: The options when the change began.
        written: What they were to become.
        now: What they are.

    Returns:
        For each option the value that was written last, were the change cut off as `now` shows.
    """
    tos = _either(before[0], written[0], now[0])
    tclass = None if now[1] is None else _either(before[1] or 0, written[1] or 0, now[1])
    # IP_TOS derives a priority, and SO_PRIORITY is written last.
    derived = _derived_priority(written[0])
    is_between = not (now[0] ^ written[0]) & _DSCP and now[2] == derived
    return tos, tclass, now[2] if is_between or now[2] == before[2] else written[2]


def _either(before: int, written: int, now: int) -> int:
    """Which of two octets is there, whatever became of the ECN bits?"""
    return before if not (now ^ before) & _DSCP and (now ^ written) & _DSCP else written


def _last_words(original: Options, written: Options, now: Options) -> Options:
    """What to give back, after the application wrote options itself."""
    tos, tclass, priority = original
    if tclass is not None:
        tclass = _last_word(tclass, written[1] or 0, now[1] or 0)
    if now[0] != written[0]:
        octet = _last_word(tos, written[0], now[0])
        if now[2] != _derived_priority(now[0]):
            # TCP writes the ECN that it negotiates without touching the priority.
            return octet, tclass, priority if now[2] == written[2] else now[2]
        # The kernel derives a priority only when the octet changes.
        return octet, tclass, priority if octet == tos else _derived_priority(octet)
    return tos, tclass, priority if now[2] == written[2] else now[2]


def _derived_priority(tos: int) -> int:
    return _DERIVED_PRIORITIES[tos >> 1 & 0xF]


def _last_word(original: int, written: int, now: int) -> int:
    """The octet to give back: the application's newest, or its old DSCP with its new ECN."""
    return now if (now ^ written) & _DSCP else original & _DSCP | now & _ECN
