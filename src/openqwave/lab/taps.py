"""Taps: interfaces whose other side is a descriptor that frames are read from and written to.

A tap lives as long as its descriptor is open, in the namespace of the thread that made it. What
its host sends waits in a queue of the driver until it is read; what is written arrives as from a
wire, and the kernel stamps it then. The driver offers no offloads, so the kernel cuts every train
and fills every checksum before a frame can be read.

Source: Documentation/networking/tuntap.rst of the kernel.
"""

from __future__ import annotations

import os
import struct
from fcntl import ioctl

DEVICE = "/dev/net/tun"

# <linux/if_tun.h>
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000


def open_tap(name: str) -> int:
    """Make a tap in the calling thread's namespace; return its descriptor, non-blocking.

    Raises:
        OSError: There is no such device, or no right to it; the message says which.
    """
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        remedy = "module tun; open to all on most systems (mode 0666)"
        raise OSError(
            error.errno, f"no emulated link without {DEVICE} ({remedy}): {error.strerror}"
        ) from error
    try:
        ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode("ascii"), IFF_TAP | IFF_NO_PI))
    except BaseException:
        os.close(fd)
        raise
    return fd
