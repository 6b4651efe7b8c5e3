"""The clock that packets are stamped with: what drives it, who corrects it, and whether it stamps.

Nothing is changed: adjtimex(2) with no mode only tells. The trial of stamps sends a few datagrams
to this very process over loopback. Sources: adjtimex(2), linux/timex.h, timestamping.rst.
"""

from __future__ import annotations

import ctypes
import os
import socket
import statistics
import time
from pathlib import Path
from typing import Final

from openqwave.drivers.stamps import SO_TIMESTAMPING, STAMP, Stamping
from openqwave.model.value import value

_CLOCKS: Final = Path("/sys/devices/system/clocksource/clocksource0")
# STA_UNSYNC: nobody has corrected the clock lately.
_STA_UNSYNC: Final = 0x40
_NS_PER_S: Final = 1_000_000_000
# Enough for a median; a hundred microseconds in all.
_TRIALS: Final = 9
_PATIENCE_S: Final = 0.2
# The kernel begins to stamp some time after the first socket has asked for it, as it finds time.
_BEGINNING_S, _REST_S = 0.5, 0.002


@value
class ClockState:
    """The system's clock.

    Attributes:
        source: The hardware that drives it; empty if unknown.
        is_synchronised: Whether something corrects it.
        error_us: How wrong it may be at most, by the word of who corrects it.
    """

    source: str
    is_synchronised: bool
    error_us: int


class _Timex(ctypes.Structure):
    """struct timex up to what is read; the kernel writes 208 bytes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 208),
    )


def read_clock(clocks: Path = _CLOCKS) -> ClockState:
    """How the clock is.

    Args:
        clocks: Where the kernel tells what drives it.

    Raises:
        OSError: The kernel does not say.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    told = _Timex()
    if libc.adjtimex(ctypes.byref(told)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        source = (clocks / "current_clocksource").read_text(encoding="ascii").strip()
    except OSError:
        source = ""
    return ClockState(source, not told.status & _STA_UNSYNC, told.maxerror)


def try_stamps() -> int | None:
    """Have the kernel stamp datagrams that arrive over loopback.

    Returns:
        How many nanoseconds after its stamp a datagram is read, by median; None if none was
        stamped.

    Raises:
        OSError: The kernel has no such stamps, or loopback is down.
    """
    waits_ns: list[int] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_PATIENCE_S)
        sock.bind(("127.0.0.1", 0))
        Stamping(sock, arriving=True)
        end_s = time.monotonic() + _BEGINNING_S
        while len(waits_ns) < _TRIALS and time.monotonic() < end_s:
            known = len(waits_ns)
            sock.sendto(b"openqwave", sock.getsockname())
            _, control, _, _ = sock.recvmsg(64, 256)
            now_ns = time.time_ns()
            for level, kind, data in control:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPING):
                    seconds, nanoseconds = STAMP.unpack_from(data)
                    if seconds:
                        waits_ns.append(now_ns - seconds * _NS_PER_S - nanoseconds)
            if len(waits_ns) == known:
                time.sleep(_REST_S)
    return round(statistics.median(waits_ns)) if waits_ns else None
