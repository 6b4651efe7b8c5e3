"""The structures that the kernel's program and the service share.

They are written down twice: in ``egress.bpf.c``, or ``created.bpf.c``, and here. The compiler's
sizes and offsets are in the objects; `LAYOUT` is the same list made of what is here, and the loader
compares the two.

Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. Ports are as on the wire. Everything else is in the
machine's order, which has to be the little-endian one that the object is made for.
"""

from __future__ import annotations

import struct
from typing import Final

from openqwave.model.endpoint import MAPPED_PREFIX, Endpoint

# Flags of an entry of `sockets`, and of `treatments`.
HAS_DESTINATIONS: Final = 1
MARK: Final = 1
PRIORITY: Final = 2
TAG: Final = 4
METER: Final = 8
DELAY: Final = 16
NOT_ON_LOOPBACK: Final = 32
# Bits of what a bank asks for.
USERS: Final = 1
PROGRAMS: Final = 2
GROUPS: Final = 4

SOCKET: Final = struct.Struct("<II")
_SOCKET_FIELDS: Final = (0, 4)
_DESTINATION: Final = struct.Struct("<Q16sI2s2x")
_DESTINATION_FIELDS: Final = (0, 8, 24, 28)
TREATMENT: Final = struct.Struct("<IBBBBIIQQQ")
_TREATMENT_FIELDS: Final = (0, 4, 5, 6, 7, 8, 12, 16, 24, 32)
METER_STATE: Final = struct.Struct("<QQQQQQQ")
_METER_FIELDS: Final = (0, 8, 16, 24, 32, 40, 48)
_FRAGMENT: Final = struct.Struct("<16s16sQIB3x")
SETTINGS: Final = struct.Struct("<QI4x")
_SETTINGS_FIELDS: Final = (0, 8)

# What is known of who makes sockets, and what that leads to.
BANK: Final = struct.Struct("<QQQQ")
USER: Final = struct.Struct("<II")
EXECUTABLE: Final = struct.Struct("<QQ64s")
GROUP: Final = struct.Struct("<QQ")
PLACE: Final = struct.Struct("<QQ")
# Generation, rules, slot, user, what was asked, run, inode, name.
OWNER: Final = struct.Struct("<QQIII4xQQ64s")
# Offsets in the kernel's own structures.
PLACES: Final = struct.Struct("<IIIIII")
RULE: Final = struct.Struct("<16s16s16s16sHHHHIBBBx")
CONNECTION_BYTES: Final = 40
CLOSING_BYTES: Final = 16

SLOT: Final = struct.Struct("<I")
COOKIE: Final = struct.Struct("<Q")

_OWNER_LAYOUT: Final = (OWNER.size, 0, 32, 40, 48)
# What the objects' own lists have to be.
CREATED_LAYOUT: Final = (*_OWNER_LAYOUT, PLACES.size, 0, 4, 8, 12, 16, 20)
LAYOUT: Final = (
    *(SOCKET.size, *_SOCKET_FIELDS),
    *(_DESTINATION.size, *_DESTINATION_FIELDS),
    *(TREATMENT.size, *_TREATMENT_FIELDS),
    *(METER_STATE.size, *_METER_FIELDS),
    _FRAGMENT.size,
    *(SETTINGS.size, *_SETTINGS_FIELDS),
    *(BANK.size, 0, 8, 16, 24),
    *(USER.size, 0, 4),
    *(EXECUTABLE.size, 0, 8, 16),
    *(GROUP.size, 0, 8),
    *(PLACE.size, 0, 8),
    *_OWNER_LAYOUT,
    *(RULE.size, 0, 16, 32, 48, 64, 66, 68, 70, 72, 76, 77, 78),
    CONNECTION_BYTES,
    CLOSING_BYTES,
)

# Of keys.
DESTINATION_BYTES: Final = _DESTINATION.size


def packed_address(packed: bytes) -> bytes:
    """An address as keys have it."""
    return MAPPED_PREFIX + packed if len(packed) == 4 else packed


def _is_scoped(address: bytes) -> bool:
    """Does the same address mean other hosts on other links (RFC 4007)? Groups count as such."""
    return address[0] == 0xFF or (address[0] == 0xFE and address[1] & 0xC0 == 0x80)


def destination_key(cookie: int, where: Endpoint) -> bytes:
    """The key of one destination of a socket."""
    address = packed_address(where.packed)
    scope = where.scope_id if _is_scoped(address) else 0
    return _DESTINATION.pack(cookie, address, scope, where.port.to_bytes(2, "big"))


def destination_of(key: bytes) -> tuple[int, Endpoint]:
    """The cookie and the destination of a key."""
    cookie, address, scope, port = _DESTINATION.unpack(key)
    packed = address[12:] if address.startswith(MAPPED_PREFIX) else address
    return cookie, Endpoint(packed, int.from_bytes(port, "big"), scope)
