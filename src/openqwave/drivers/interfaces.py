"""Interfaces as paths see them: whether they work, how large packets may be, what they are.

Each is described once, when it is first of interest, and again when the kernel announces that it
has changed. The rate of a radio is therefore that of the moment when it was asked for, and stays
until the radio loses its network: it changes from second to second, and a path is not another one
for it.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from openqwave.drivers.adjacency import interface_speed
from openqwave.drivers.netlink import drain, split
from openqwave.drivers.rtnetlink import (
    RTM_DELLINK,
    RTM_GETLINK,
    announced_link,
    link_question,
    settled,
    to_link,
)
from openqwave.model.path import LinkType
from openqwave.model.value import value

if TYPE_CHECKING:
    from openqwave.drivers.netlink import Netlink
    from openqwave.drivers.rtnetlink import LinkState

# linux/rtnetlink.h
_RTMGRP_LINK = 1
# linux/if_arp.h: ARPHRD_PPP, _TUNNEL, _TUNNEL6, _SIT, _IPGRE, _IP6GRE, and _NONE (tun, WireGuard).
_LOOPBACK = 772
_TUNNELS: Final = frozenset({512, 768, 769, 776, 778, 823, 0xFFFE})


@value
class Interface:
    """One interface.

    Attributes:
        link: What the kernel says of it, without counters.
        link_type: What it is.
        speed_bps: What it can carry by its driver's word; 0 if unknown.
    """

    link: LinkState
    link_type: LinkType
    speed_bps: int

    @property
    def name(self) -> str:
        """Its name."""
        return self.link.name

    @property
    def is_up(self) -> bool:
        """Can packets leave?"""
        return self.link.is_up

    @property
    def mtu_bytes(self) -> int:
        """The largest IP packet."""
        return self.link.mtu_bytes


class Interfaces:
    """The interfaces of the calling thread's network namespace; for one thread at a time."""

    def __init__(self, netlink: Netlink) -> None:
        """Begin to hear of changes.

        Args:
            netlink: Who is asked, of the same namespace; stays open as long as this is used.

        Raises:
            OSError: The kernel could not be asked.
        """
        self._netlink = netlink
        self._known: dict[int, Interface | None] = {}
        self._announced = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            self._announced.bind((0, _RTMGRP_LINK))
        except BaseException:
            self._announced.close()
            raise

    def hear(self) -> None:
        """Forget interfaces that are not any more what they were.

        Raises:
            OSError: The kernel could not be asked.
        """
        for data in drain(self._announced):
            if data is None:
                # More was announced than the socket holds.
                self._known.clear()
                continue
            for kind, _, _, body in split(data):
                link = announced_link(kind, body)
                if link is None:
                    continue
                known = self._known.get(link.index)
                if known is None or known.link != settled(link) or kind == RTM_DELLINK:
                    self._known.pop(link.index, None)

    def find(self, index: int) -> Interface | None:
        """What an interface is, as of the last time that `hear` was called; None if it is gone.

        Raises:
            OSError: The kernel could not be asked.
        """
        if index not in self._known:
            (answer,) = self._netlink.ask_each(RTM_GETLINK, [link_question(index)])
            if not isinstance(answer, OSError):
                self._known[index] = self._describe(settled(to_link(answer)))
            elif answer.errno == errno.ENODEV:
                self._known[index] = None
            else:
                raise answer
        return self._known[index]

    def is_usable(self, index: int) -> bool:
        """Is it there, and up?

        Raises:
            OSError: As `find`.
        """
        known = self.find(index)
        return known is not None and known.is_up

    def _describe(self, link: LinkState) -> Interface:
        if link.hardware == _LOOPBACK:
            return Interface(link, LinkType.LOOPBACK, 0)
        if link.hardware in _TUNNELS:
            # Their drivers name a number, for the sake of programs that want one.
            return Interface(link, LinkType.TUNNEL, 0)
        speed = interface_speed(self._netlink.socket, link.name)
        link_type = LinkType.WIRELESS if speed.is_wireless else LinkType.WIRED
        return Interface(link, link_type, speed.speed_bps)

    def close(self) -> None:
        """Hear no more; harmless when done before."""
        self._announced.close()
