"""The kernel's word on this process: effective uid, capabilities, groups.

capget(2) with pid 0 asks about the calling thread, which is what the kernel itself
judges a system call by.
"""

from __future__ import annotations

import ctypes
import grp
import os

from openqwave.admission.rights import Credentials

# linux/capability.h: version 3 uses two 32-bit words for each set.
_CAPABILITY_VERSION_3 = 0x20080522
CAP_NET_ADMIN = 12


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Word(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def _has_net_admin() -> bool:
    header = _Header(_CAPABILITY_VERSION_3, 0)
    words = (_Word * 2)()
    if _libc.capget(ctypes.byref(header), ctypes.byref(words)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return bool(words[0].effective & 1 << CAP_NET_ADMIN)


def group_name(gid: int) -> str:
    """A group's name; empty for one without, which cannot be the one that a policy names."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def own_credentials() -> Credentials:
    """What the kernel says of the calling thread, now."""
    names = frozenset(filter(None, map(group_name, (os.getegid(), *os.getgroups()))))
    return Credentials(os.geteuid(), _has_net_admin(), names)
