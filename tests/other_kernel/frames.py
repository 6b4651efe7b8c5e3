"""Frames with what `openqwave.lab.capture` leaves out: tags, and user priorities in the air.

The kernel takes a tag off a frame before anybody sees it and tells it beside the frame, and only
to packet sockets that want every protocol (packet(7), PACKET_AUXDATA). Of Wi-Fi, the monitor
interface of mac80211_hwsim shows the frames as they are in the air, behind a radiotap header.

Sources: packet(7); IEEE 802.1Q clause 9.6 (TCI); IEEE 802.11 clauses 9.2.4.1 and 9.2.4.5.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

# <linux/if_packet.h>, <linux/if_ether.h>
SOL_PACKET, PACKET_AUXDATA = 263, 8
TP_STATUS_VLAN_VALID = 0x10
ETH_P_ALL = 0x0003

# struct tpacket_auxdata: status, length, captured length, offsets, tag control, tag protocol.
_AUXDATA = struct.Struct("=IIIHHHH")

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        data: From the first header on, without the tag.
        tci: The tag's 16 bits; None without a tag.
        is_outgoing: Whether it left here.
    """

    data: bytes
    tci: int | None
    is_outgoing: bool

    @property
    def tag(self) -> tuple[int, int] | None:
        """Priority and VLAN id of the tag."""
        return None if self.tci is None else (self.tci >> 13, self.tci & 0xFFF)

    @property
    def dscp(self) -> int:
        """The code point of an Ethernet frame with IPv4 or IPv6 right behind the header."""
        first, second = self.data[14:16]
        return (second if first >> 4 == 4 else (first << 4 | second >> 4) & 0xFF) >> 2

    @property
    def ethertype(self) -> int:
        """What an Ethernet frame carries: 0x8100 if there is another tag in it."""
        return int.from_bytes(self.data[12:14], "big")


class Frames:
    """The frames of one interface of the calling thread's network; a context manager."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._socket.bind((interface, ETH_P_ALL))

    def wait_for(self, payload: bytes, *, is_outgoing: bool = False) -> Frame:
        """The first frame with some bytes in it that passed in this direction."""
        return self.first(lambda frame: payload in frame.data and frame.is_outgoing is is_outgoing)

    def first(self, where: Callable[[Frame], bool]) -> Frame:
        """The first frame of a kind; AssertionError if none comes in time."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left_s)[0]:
                break
            data, beside, _, address = self._socket.recvmsg(65_536, 256)
            tci = None
            for _, _, auxiliary in beside:
                status, *_, tag, _ = _AUXDATA.unpack_from(auxiliary)
                if status & TP_STATUS_VLAN_VALID:
                    tci = tag
            frame = Frame(data, tci, address[2] == socket.PACKET_OUTGOING)
            if where(frame):
                return frame
        raise AssertionError(f"no such frame in {TIMEOUT_S:.0f} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def user_priority(in_the_air: bytes) -> int | None:
    """The user priority of a Wi-Fi data frame behind a radiotap header; None if it has none."""
    frame = in_the_air[struct.unpack_from("<H", in_the_air, 2)[0] :]
    # Type 2 is data; its subtype's highest bit says that a QoS field follows, whose lowest three
    # bits are the priority.
    kind, subtype = frame[0] >> 2 & 3, frame[0] >> 4
    return frame[24] & 7 if kind == 2 and subtype & 8 else None
