"""The structures that the kernel's program and the service share.

They are written down twice, in ``egress.bpf.c`` and here. The compiler's sizes and offsets are in
the object; `LAYOUT` is the same list made of what is here, and the loader compares the two.

Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. Ports are as on the wire. Everything else is in the
machine's order, which has to be the little-endian one that the object is made for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from openqwave.model.endpoint import MAPPED_PREFIX, Endpoint

# Flags of an entry of `sockets`, and of `treatments`.
HAS_DESTINATIONS: Final = 1
MARK: Final = 1
PRIORITY: Final = 2
TAG: Final = 4
METER: Final = 8
DELAY: Final = 16

SOCKET: Final = struct.Struct("<II")
_SOCKET_FIELDS: Final = (0, 4)
_DESTINATION: Final = struct.Struct("<Q16sI2s2x")
_DESTINATION_FIELDS: Final = (0, 8, 24, 28)
_TUPLE: Final = struct.Struct("<16s16s2s2sB3x")
_TUPLE_FIELDS: Final = (0, 16, 32, 34, 36)
TREATMENT: Final = struct.Struct("<IBBBBIIQQQ")
_TREATMENT_FIELDS: Final = (0, 4, 5, 6, 7, 8, 12, 16, 24, 32)
METER_STATE: Final = struct.Struct("<QQQQQQ")
_METER_FIELDS: Final = (0, 8, 16, 24, 32, 40)
_FRAGMENT: Final = struct.Struct("<16s16sQIB3x")
SETTINGS: Final = struct.Struct("<II")
_SETTINGS_FIELDS: Final = (0, 4)

SLOT: Final = struct.Struct("<I")
COOKIE: Final = struct.Struct("<Q")

# What the object's own list has to be.
LAYOUT: Final = (
    *(SOCKET.size, *_SOCKET_FIELDS),
    *(_DESTINATION.size, *_DESTINATION_FIELDS),
    *(_TUPLE.size, *_TUPLE_FIELDS),
    *(TREATMENT.size, *_TREATMENT_FIELDS),
    *(METER_STATE.size, *_METER_FIELDS),
    _FRAGMENT.size,
    *(SETTINGS.size, *_SETTINGS_FIELDS),
)

# Of keys.
DESTINATION_BYTES: Final = _DESTINATION.size
TUPLE_BYTES: Final = _TUPLE.size

_ANY: Final = bytes(16)


@dataclass(frozen=True, slots=True)
class Tuple:
    """Traffic that is told by its addresses, and not by its socket.

    Attributes:
        protocol: 6 for TCP, 17 for UDP.
        destination: Where it goes.
        source: Where it comes from; None for anywhere. Its address may be unspecified for any,
            and its port 0 if the address is unspecified.
    """

    protocol: int
    destination: Endpoint
    source: Endpoint | None = None


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


def tuple_key(traffic: Tuple) -> bytes:
    """The key of some traffic."""
    source, destination = traffic.source, traffic.destination
    address, port = _ANY, 0
    if source is not None:
        address = _ANY if source.is_unspecified else packed_address(source.packed)
        port = source.port
    return _TUPLE.pack(
        address,
        packed_address(destination.packed),
        port.to_bytes(2, "big"),
        destination.port.to_bytes(2, "big"),
        traffic.protocol,
    )
