"""Windows' sockaddr, read.

The family comes first and says how long the rest is; no byte beyond is touched. Windows
numbers IPv6 23 and Linux 10; both are understood, for programs build the structure with
either. Flow labels are ignored; a scope counts for link-local addresses alone, where it
names the interface, so that a stray one does not make two destinations of one.
"""

from __future__ import annotations

import ctypes
import struct

from openqwave.model.endpoint import Endpoint
from openqwave.qos2.arguments import BadArgument, locate
from openqwave.qos2.constants import AF_INET, AF_INET6

_LINUX_AF_INET6 = 10

_FAMILY = struct.Struct("=H")
_FAMILY_BYTES = _FAMILY.size

# SOCKADDR_IN and SOCKADDR_IN6: family and scope in host order, ports in network order.
_SCOPE = struct.Struct("=I")
_LENGTHS = {AF_INET: 16, AF_INET6: 28, _LINUX_AF_INET6: 28}
_SCOPE_AT = 24

# ff02::/16 and the like: groups of one link need an interface as link-local addresses do.
_MULTICAST = 0xFF


def endpoint_at(argument: object) -> Endpoint | None:
    """The address and port that a sockaddr argument names; None for null.

    Raises:
        BadArgument: No sockaddr of IPv4 or IPv6.
    """
    if argument is None:
        return None
    data = _sockaddr_bytes(argument)
    if data is None:
        return None
    port = data[2] << 8 | data[3]
    if len(data) == _LENGTHS[AF_INET]:
        return Endpoint(data[4:8], port)
    endpoint = Endpoint(data[8:24], port)
    if endpoint.is_link_local or endpoint.packed[0] == _MULTICAST:
        return Endpoint(endpoint.packed, port, _SCOPE.unpack_from(data, _SCOPE_AT)[0])
    return endpoint


def _sockaddr_bytes(argument: object) -> bytes | None:
    if isinstance(argument, bytes):
        if len(argument) < _FAMILY_BYTES:
            raise BadArgument
        length = _LENGTHS.get(_FAMILY.unpack_from(argument)[0], 0)
        if not length or len(argument) < length:
            raise BadArgument
        return argument[:length]
    address, room = locate(argument)
    if not address:
        return None
    if room < _FAMILY_BYTES:
        raise BadArgument
    length = _LENGTHS.get(ctypes.c_uint16.from_address(address).value, 0)
    if not length or room < length:
        raise BadArgument
    return ctypes.string_at(address, length)
