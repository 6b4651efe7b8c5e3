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
_Options: TypeAlias = "tuple[int, int | None, int]"

# Names of the socket module cost a look-up each, and these are used for every call.
_IP, _IPV6, _SOCKET = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
_TOS, _TCLASS, _PRIORITY = socket.IP_TOS, socket.IPV6_TCLASS, socket.SO_PRIORITY


class NotKept(Exception):
    """The kernel took a value and reads back another."""


class SocketMarks:
    """The marks of one socket, from the first that is set to the last that is given back."""

    __slots__ = ("_is_v6", "_original", "_written")

    def __init__(self, *, is_v6: bool) -> None:
        self._is_v6 = is_v6
        self._original: _Options | None = None
        self._written: _Options | None = None

    def write(self, sock: socket.socket, dscp: int, priority: int) -> None:
        """Mark all packets of the socket.

        Args:
            sock: The socket, the same one each time.
            dscp: 0 to 63.
            priority: skb priority, 0 to 6.

        Raises:
            OSError: The kernel refused; some options may be written.
            NotKept: It reads back otherwise; likewise.
        """
        now = self._read(sock)
        if now != self._written:
            self._adopt(sock, now)
        code = dscp << 2
        tos, tclass, _ = now
        wanted = (
            code | tos & _ECN,
            None if tclass is None else code | tclass & _ECN,
            priority,
        )
        self._written = wanted
        if wanted != now:
            self._bring(sock, wanted)

    def give_back(self, sock: socket.socket) -> None:
        """Let the socket have what the application gave it.

        Raises:
            OSError: The kernel refused.
            NotKept: It reads back otherwise.
        """
        if self._written is None or self._original is None:
            return
        now = self._read(sock)
        if now != self._written:
            self._adopt(sock, now)
        if self._original != now:
            self._bring(sock, self._original)
        self._original = self._written = None

    def _read(self, sock: socket.socket) -> _Options:
        ask = sock.getsockopt
        tclass = ask(_IPV6, _TCLASS) if self._is_v6 else None
        return ask(_IP, _TOS), tclass, ask(_SOCKET, _PRIORITY)

    def _bring(self, sock: socket.socket, options: _Options) -> None:
        """Write all, priority last, and see that the kernel holds them."""
        tos, tclass, priority = options
        sock.setsockopt(_IP, _TOS, tos)
        if tclass is not None:
            sock.setsockopt(_IPV6, _TCLASS, tclass)
        sock.setsockopt(_SOCKET, _PRIORITY, priority)
        held = self._read(sock)
        if held != options:
            raise NotKept(f"wrote TOS, class, priority {options}, the kernel holds {held}")

    def _adopt(self, sock: socket.socket, now: _Options) -> None:
        """Learn what to give back: the options are not as they were written here."""
        if self._written is None or self._original is None:
            if now[2] > _HIGHEST_FREE_PRIORITY:
                # Somebody with rights raised it. Writing it unchanged shows, before
                # anything is touched, whether it could be given back later.
                sock.setsockopt(_SOCKET, _PRIORITY, now[2])
            self._original = now
        else:
            self._original = _last_words(self._original, self._written, now)


def _last_words(original: _Options, written: _Options, now: _Options) -> _Options:
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
