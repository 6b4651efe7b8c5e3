"""Word of changes of the ways to hosts: links, addresses, routes and neighbours.

The kernel announces to whoever is a member of a netlink group. Of neighbours it announces each
turn of their states, several a minute for each one that is talked to, and nearly all of it is of
no interest: so a filter in the kernel lets only failures through, and whoever waits for this
descriptor sleeps on. While neighbours are known to have failed, their return matters too; then
the filter is opened for those turns that can be one, and the rest is sorted out here.

Links are announced for reasons that change nothing here (a radio has looked around): a link counts
as changed when its description here does.
"""

from __future__ import annotations

import ctypes
import enum
import socket
import struct
from collections.abc import Iterable
from typing import Final, Self, TypeAlias

from openqwave.drivers.netlink import HEADER_BYTES, attributes, drain, split
from openqwave.drivers.rtnetlink import (
    NDA_DST,
    NEIGHBOUR,
    NUD_FAILED,
    RTM_DELLINK,
    RTM_NEWNEIGH,
    LinkState,
    announced_link,
    read_links,
    settled,
)
from openqwave.model.errors import error_of, refusal_of_os_error

# A neighbour: the interface it is on, its packed address.
Neighbour: TypeAlias = tuple[int, bytes]

# linux/rtnetlink.h: RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE.
_GROUPS: Final = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTM_DELNEIGH = 29
# linux/neighbour.h: NUD_REACHABLE, _STALE, _NOARP, _PERMANENT: the states in which one that had
# failed has been found.
_FOUND: Final = 0x02 | 0x04 | 0x40 | 0x80
# Neighbours that failed, and are remembered for their return. A scan of the network makes many;
# the oldest go first.
_MOST_FAILED = 1_024

# Classic BPF (linux/filter.h): code, jump if true, jump if false, operand.
_INSTRUCTION = struct.Struct("@HBBI")
_PROGRAM = struct.Struct("@HP")
_LOAD_U16, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x28, 0x15, 0x45, 0x06
_SO_ATTACH_FILTER = 26
_ALL, _NOTHING = 0xFFFF_FFFF, 0
# Where in a message its type and, in one about a neighbour, the state stand.
_TYPE_AT = 4
_STATE_AT = HEADER_BYTES + 8


class Change(enum.Enum):
    """What has changed; the value is a word for people."""

    LINKS = "links"
    ADDRESSES = "addresses"
    ROUTES = "routes"
    NEIGHBOURS = "neighbours"


EVERYTHING: Final = frozenset(Change)
_KINDS: Final = {
    _RTM_NEWADDR: Change.ADDRESSES,
    _RTM_DELADDR: Change.ADDRESSES,
    _RTM_NEWROUTE: Change.ROUTES,
    _RTM_DELROUTE: Change.ROUTES,
}


def neighbour_filter(*, awaits_return: bool) -> bytes:
    """The instructions of the kernel's filter; see the module's text.

    Args:
        awaits_return: Whether turns that can be the return of a neighbour pass.
    """
    states = NUD_FAILED | _FOUND if awaits_return else NUD_FAILED
    # BPF reads numbers in network order, netlink has them in the host's.
    new, gone, wanted = map(socket.htons, (RTM_NEWNEIGH, _RTM_DELNEIGH, states))
    return b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD_U16, 0, 0, _TYPE_AT),
            (_IF_EQUAL, 1, 0, new),
            (_IF_EQUAL, 0, 2, gone),
            (_LOAD_U16, 0, 0, _STATE_AT),
            (_IF_ANY_BIT, 0, 1, wanted),
            (_RETURN, 0, 0, _ALL),
            (_RETURN, 0, 0, _NOTHING),
        )
    )


class PathChanges:
    """Hears of changes in the calling thread's network namespace; for one thread."""

    def __init__(self) -> None:
        """Begin to hear.

        Raises:
            QosError: The kernel could not be asked.
        """
        self._failed: dict[Neighbour, None] = {}
        self._links: dict[int, LinkState] = {}
        self._heard_failures: list[Neighbour] = []
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            try:
                self._set_filter()
                self._socket.bind((0, _GROUPS))
                # After the first announcement that could come: none is missed between.
                self._links = {one.index: settled(one) for one in read_links().values()}
            except BaseException:
                self._socket.close()
                raise
        except OSError as error:
            raise error_of(refusal_of_os_error(error, "paths cannot be watched")) from error

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something to `read`."""
        return self._socket.fileno()

    def read(self) -> frozenset[Change]:
        """What has changed since the last call; empty where nothing of interest has.

        A neighbour that fails again, because somebody keeps sending to it, has changed again.

        Raises:
            QosError: The kernel could not be asked.
        """
        found: set[Change] = set()
        awaited = bool(self._failed)
        try:
            for data in drain(self._socket):
                if data is None:
                    # More was announced than the socket holds: it may have been anything.
                    self._failed.clear()
                    self._links.clear()
                    found |= EVERYTHING
                else:
                    found.update(self._kinds(data))
            if bool(self._failed) != awaited:
                self._set_filter()
        except OSError as error:
            raise error_of(refusal_of_os_error(error, "paths cannot be watched")) from error
        return frozenset(found)

    def take_failures(self) -> list[Neighbour]:
        """Neighbours that have failed since the last call, for `Pathfinder.hear_failures`."""
        taken, self._heard_failures = self._heard_failures, []
        return taken

    def _kinds(self, data: bytes) -> Iterable[Change]:
        for kind, _, _, body in split(data):
            if kind in _KINDS:
                yield _KINDS[kind]
            elif kind in (RTM_NEWNEIGH, _RTM_DELNEIGH):
                if self._is_turn(body, is_gone=kind == _RTM_DELNEIGH):
                    yield Change.NEIGHBOURS
            else:
                link = announced_link(kind, body)
                if link is not None and self._is_news(link, is_gone=kind == RTM_DELLINK):
                    yield Change.LINKS

    def _is_news(self, link: LinkState, *, is_gone: bool) -> bool:
        if is_gone:
            for neighbour in [one for one in self._failed if one[0] == link.index]:
                del self._failed[neighbour]
            return self._links.pop(link.index, None) is not None
        link = settled(link)
        is_news = self._links.get(link.index) != link
        self._links[link.index] = link
        return is_news

    def _is_turn(self, body: bytes, *, is_gone: bool) -> bool:
        """Has a neighbour failed, or come back that had?

        An entry that is taken out is announced as failed first, and was asked nothing.
        """
        family, interface, state, _, _ = NEIGHBOUR.unpack_from(body)
        if family not in (socket.AF_INET, socket.AF_INET6):
            return False
        neighbour = interface, attributes(body[NEIGHBOUR.size :]).get(NDA_DST, b"")
        was_failed = self._failed.pop(neighbour, False) is None
        if is_gone and neighbour in self._heard_failures:
            self._heard_failures.remove(neighbour)
        if is_gone or not state & NUD_FAILED:
            return was_failed
        self._heard_failures.append(neighbour)
        del self._heard_failures[:-_MOST_FAILED]
        self._failed[neighbour] = None
        if len(self._failed) > _MOST_FAILED:
            del self._failed[next(iter(self._failed))]
        return True

    def _set_filter(self) -> None:
        instructions = neighbour_filter(awaits_return=bool(self._failed))
        held = ctypes.create_string_buffer(instructions, len(instructions))
        count = len(instructions) // _INSTRUCTION.size
        program = _PROGRAM.pack(count, ctypes.addressof(held))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def close(self) -> None:
        """Hear no more; harmless when done before."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
