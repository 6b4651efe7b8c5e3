"""What an interface does to packets on its own: joins them, cuts them, hands them over in clumps.

Asked by the old ethtool requests, which every driver answers by the kernel's help and which need no
rights. Sources: linux/ethtool.h, linux/sockios.h; Documentation/networking/segmentation-offloads.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from typing import TYPE_CHECKING, Final

from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Callable

_SIOCETHTOOL: Final = 0x8946
# struct ifreq: a name of 16 bytes, then a pointer, in 40 bytes.
_NAME_BYTES, _REQUEST_BYTES = 16, 40
# ETHTOOL_GTSO, _GGSO, _GFLAGS, _GGRO: each answers with a number behind it.
_GET_TSO, _GET_GSO, _GET_FLAGS, _GET_GRO = 0x1E, 0x23, 0x25, 0x2B
_VALUE: Final = struct.Struct("@II")
# ETH_FLAG_LRO
_IS_LRO: Final = 1 << 15
# ETHTOOL_GCOALESCE; struct ethtool_coalesce: 23 numbers, of which the second is for how many
# microseconds arrivals are gathered, and the twelfth whether the driver changes that as it likes.
_GET_COALESCE: Final = 0x0E
_COALESCE: Final = struct.Struct("@23I")
_RX_USECS, _IS_ADAPTIVE = 1, 11


@value
class Offloads:
    """What an interface does; None for what its driver does not say.

    Attributes:
        gro: Arriving packets of one stream are joined by the kernel, before they are treated.
        lro: They are joined by the driver or the card, before they are stamped.
        tso: Leaving trains of TCP are cut into packets by the card.
        gso: They are cut by the kernel, as late as possible.
        gather_us: For so long arriving packets are gathered before they are told of.
        is_adaptive: Whether the driver changes that time as it likes.
    """

    gro: bool | None = None
    lro: bool | None = None
    tso: bool | None = None
    gso: bool | None = None
    gather_us: int | None = None
    is_adaptive: bool = False


def read_offloads(
    name: str, ask: Callable[[socket.socket, int, bytes], bytes] = fcntl.ioctl
) -> Offloads:
    """Ask what an interface of the calling thread's network namespace does.

    Args:
        name: Its name.
        ask: The system call ioctl.

    Raises:
        OSError: No socket is to be had.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

        def number(command: int) -> int | None:
            data = _put(ask, sock, name, _VALUE.pack(command, 0))
            return None if data is None else int(_VALUE.unpack(data)[1])

        flags = number(_GET_FLAGS)
        gathered = _put(
            ask, sock, name, struct.pack("@I", _GET_COALESCE).ljust(_COALESCE.size, b"\0")
        )
        times = None if gathered is None else _COALESCE.unpack(gathered)
        return Offloads(
            gro=_truth(number(_GET_GRO)),
            lro=None if flags is None else bool(flags & _IS_LRO),
            tso=_truth(number(_GET_TSO)),
            gso=_truth(number(_GET_GSO)),
            gather_us=None if times is None else times[_RX_USECS],
            is_adaptive=times is not None and bool(times[_IS_ADAPTIVE]),
        )


def _truth(found: int | None) -> bool | None:
    return None if found is None else bool(found)


def _put(
    ask: Callable[[socket.socket, int, bytes], bytes], sock: socket.socket, name: str, data: bytes
) -> bytes | None:
    """Put one question; None where the driver has no answer, which it says in many ways."""
    answer = ctypes.create_string_buffer(data, len(data))
    request = name.encode().ljust(_NAME_BYTES, b"\0") + struct.pack("@P", ctypes.addressof(answer))
    try:
        ask(sock, _SIOCETHTOOL, request.ljust(_REQUEST_BYTES, b"\0"))
    except OSError:
        return None
    return answer.raw
