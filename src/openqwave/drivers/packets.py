"""What passes this host's interfaces, as a packet socket shows it: frames with the kernel's time.

The kernel takes the tag of 802.1Q off a frame before anybody sees it, and tells it beside
(PACKET_AUXDATA). It is put back where it was, so that a frame here is what was on the wire, and
a file that it is written to needs no other place for it. Frames that leave have passed the queue
and every filter: their marks are those that others will see. Loopback shows each frame twice, on
its way out and in; the second is taken.

Frames wait in the socket's buffer; what did not fit is counted by the kernel (`dropped`).

Sources: packet(7), linux/if_packet.h, libpcap's pcap-linux.c for the tag's place.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import Self

from openqwave.model.errors import AccessDenied, AdapterFailed, InvalidParameter, NotSupported
from openqwave.wire.frames import (
    LINK_ETHERNET,
    LINK_RAW,
    MAX_FRAME_BYTES,
    Direction,
    Frame,
)

# linux/if_ether.h, linux/if_packet.h
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_STATISTICS, _PACKET_AUXDATA = 6, 8
_PACKET_OUTGOING = 4
_TP_STATUS_VLAN_VALID, _TP_STATUS_VLAN_TPID_VALID = 1 << 4, 1 << 6
_ETH_P_8021Q = 0x8100
# struct tpacket_auxdata: status, length, captured, offsets of frame and packet, tag, its kind.
_AUXDATA = struct.Struct("=IIIHHHH")
# Two addresses of Ethernet stand before the tag.
_TAG_AT = 12

# asm-generic/socket.h: the option, and the type of the control message (struct timespec).
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_STAMP = struct.Struct("@qq")
_CONTROL_BYTES = socket.CMSG_SPACE(_STAMP.size) + socket.CMSG_SPACE(_AUXDATA.size)

# Two seconds of 30 Mbit/s in small packets, while a terminal is slow. More than an ordinary
# socket may have, so without CAP_NET_ADMIN it is less.
_BUFFER_BYTES = 32 * 1024 * 1024

# linux/if_arp.h: those with a header of Ethernet, and those whose frames are bare packets: none,
# tunnels of IPv4 and IPv6, sit, PPP.
_ARPHRD_LOOPBACK = 772
_LINK_TYPES = {
    1: LINK_ETHERNET,
    _ARPHRD_LOOPBACK: LINK_ETHERNET,
    0xFFFE: LINK_RAW,
    768: LINK_RAW,
    769: LINK_RAW,
    776: LINK_RAW,
    512: LINK_RAW,
}


class PacketSocket:
    """Frames of one interface or of all, from now on; a context manager.

    Attributes:
        other: Frames of links whose headers are not known here, left out.
    """

    def __init__(self, interface: str | None = None) -> None:
        """Begin.

        Args:
            interface: Its name, in this process's network namespace; None for all.

        Raises:
            AccessDenied: Without CAP_NET_RAW.
            InvalidParameter: There is no such interface.
            NotSupported: The kernel has no packet sockets.
        """
        self.other = 0
        self._dropped = 0
        self._name = interface
        self._names: dict[int, str] = {}
        try:
            # Protocol 0 receives nothing, so nothing precedes the interface. All of them is what
            # a socket has that is bound to none.
            everything = 0 if interface else socket.htons(_ETH_P_ALL)
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, everything)
        except PermissionError as error:
            raise AccessDenied(
                "seeing packets takes the capability CAP_NET_RAW: run this as root, or read a file "
                "that root has captured"
            ) from error
        except OSError as error:
            raise NotSupported(f"this kernel has no packet sockets: {error.strerror}") from error
        try:
            self._socket.setblocking(False)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            if interface:
                self._bind(interface)
        except BaseException:
            self._socket.close()
            raise

    def _bind(self, interface: str) -> None:
        try:
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError as error:
            if error.errno == errno.ENETDOWN:
                why = f"the interface {interface!r} is down"
            elif error.errno == errno.ENODEV or len(interface.encode()) > 15:
                why = f"there is no interface {interface!r}; `ip link` lists those that are there"
            else:
                why = f"the interface {interface!r} cannot be watched: {error.strerror or error}"
            raise InvalidParameter(why) from error

    def fileno(self) -> int:
        """Readable when a frame is there."""
        return self._socket.fileno()

    @property
    def dropped(self) -> int:
        """Frames lost so far because nobody took them in time."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._dropped += struct.unpack("=II", statistics)[1]  # Reading sets the kernel's to 0.
        return self._dropped

    def take(self) -> Frame | None:
        """The next frame; None if there is none now.

        Raises:
            AdapterFailed: The interface is gone.
        """
        while True:
            try:
                data, control, _, address = self._socket.recvmsg(
                    MAX_FRAME_BYTES, _CONTROL_BYTES, socket.MSG_TRUNC
                )
            except BlockingIOError:
                return None
            except OSError as error:
                # An interface that goes down says so once, and may come back.
                if error.errno == errno.ENETDOWN and self._is_there():
                    continue
                raise AdapterFailed(
                    f"the interface {self._name or ''} is gone: {error.strerror}"
                ) from error
            frame = self._frame(data, control, address)
            if frame is not None:
                return frame

    def _is_there(self) -> bool:
        if self._name is None:
            return True
        try:
            socket.if_nametoindex(self._name)
        except OSError:
            return False
        return True

    def _frame(
        self,
        data: bytes,
        control: list[tuple[int, int, bytes]],
        address: tuple[str, int, int, int, bytes],
    ) -> Frame | None:
        name, _, kind, hardware, _ = address
        if hardware == _ARPHRD_LOOPBACK and kind == _PACKET_OUTGOING:
            return None
        link_type = _LINK_TYPES.get(hardware)
        if link_type is None:
            self.other += 1
            return None
        time_ns, length, tag = None, len(data), b""
        for level, option, content in control:
            if (level, option) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, nanoseconds = _STAMP.unpack_from(content)
                time_ns = seconds * 1_000_000_000 + nanoseconds
            elif (level, option) == (_SOL_PACKET, _PACKET_AUXDATA):
                status, length, _, _, _, bits, tpid = _AUXDATA.unpack_from(content)
                if status & _TP_STATUS_VLAN_VALID:
                    if not status & _TP_STATUS_VLAN_TPID_VALID:
                        tpid = _ETH_P_8021Q
                    tag = struct.pack("!HH", tpid, bits)
        if tag and link_type == LINK_ETHERNET and len(data) >= _TAG_AT:
            data = data[:_TAG_AT] + tag + data[_TAG_AT:]
            length += len(tag)
        direction = Direction.OUTGOING if kind == _PACKET_OUTGOING else Direction.INCOMING
        return Frame(time_ns, link_type, data, max(length, len(data)), name, direction)

    def close(self) -> None:
        """Stop; harmless when done before."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
