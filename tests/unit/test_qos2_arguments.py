"""Arguments in every form that ctypes programs use, and sockaddrs."""

from __future__ import annotations

import ctypes
import socket
from ctypes import POINTER, addressof, byref, c_char, c_uint32, c_uint64, c_void_p, cast, pointer
from typing import Any

import pytest

from openqwave.model.endpoint import Endpoint
from openqwave.qos2 import (
    AF_INET6,
    DWORD,
    QOS_FLOW_FUNDAMENTALS,
    SOCKADDR_IN,
    SOCKADDR_IN6,
    SOCKADDR_STORAGE,
    QOSTrafficTypeVoice,
)
from openqwave.qos2.arguments import (
    BadArgument,
    address_of,
    flow_number,
    integer,
    locate,
    octets,
    required,
)
from openqwave.qos2.sockaddrs import endpoint_at


@pytest.mark.parametrize(
    ("argument", "number"),
    [
        (7, 7),
        (True, 1),
        (None, 0),
        (QOSTrafficTypeVoice, 4),
        (DWORD(9), 9),
        (ctypes.c_int(-1), -1),
        (ctypes.c_size_t(1 << 40), 1 << 40),
        (c_void_p(), 0),
        (c_void_p(64), 64),
    ],
)
def test_numbers(argument: object, number: int) -> None:
    assert integer(argument) == number


@pytest.mark.parametrize(
    "argument", [1.0, "1", b"1", ctypes.c_double(1), c_char(b"1"), byref(DWORD(1)), [], object()]
)
def test_what_is_no_number(argument: object) -> None:
    with pytest.raises(BadArgument):
        integer(argument)


def test_flow_ids_are_unsigned_where_programs_keep_them_signed() -> None:
    assert flow_number(ctypes.c_int32(-2)) == 0xFFFF_FFFE


def test_every_form_of_pointer_leads_to_the_same_place() -> None:
    number = c_uint32(5)
    array = (c_uint32 * 1).from_buffer(number)
    where = addressof(number)
    forms: list[object] = [
        byref(number),
        pointer(number),
        cast(byref(number), POINTER(ctypes.c_ubyte)),
        cast(byref(number), c_void_p),
        array,
        number,
        where,
    ]
    assert [address_of(form, 4) for form in forms] == [where] * len(forms)


def test_room_is_what_is_left_of_the_whole_object() -> None:
    fundamentals: Any = QOS_FLOW_FUNDAMENTALS()
    start = addressof(fundamentals)
    assert locate(byref(fundamentals)) == (start, 40)
    assert locate(byref(fundamentals, 8)) == (start + 8, 32)
    assert locate(pointer(fundamentals)) == (start, 40)
    # An element of an array reaches to the array's end.
    pairs = (SOCKADDR_IN * 3)()
    assert locate(byref(pairs[1])) == (addressof(pairs) + 16, 32)


@pytest.mark.parametrize(
    "argument",
    [
        byref(ctypes.c_uint16()),
        byref(c_uint32(), 1),
        byref(c_uint32(), -1),
        pointer(ctypes.c_uint16()),
        (ctypes.c_ubyte * 3)(),
        "text",
        1.5,
        1,
        0xFFFF,
        -1,
        1 << 64,
        c_void_p(8),
        bytearray(4),
        len,
    ],
)
def test_what_leads_nowhere_or_to_too_little(argument: object) -> None:
    with pytest.raises(BadArgument):
        address_of(argument, 4)


@pytest.mark.parametrize("argument", [None, 0, c_void_p(), POINTER(c_uint32)()])
def test_null_is_allowed_where_it_may_be(argument: object) -> None:
    assert address_of(argument, 4) == 0
    with pytest.raises(BadArgument):
        required(argument, 4)


def test_octets_are_copied() -> None:
    number = c_uint32(0x0403_0201)
    assert octets(byref(number), 4) == bytes(number)
    assert octets(b"\1\2\3\4\5", 4) == b"\1\2\3\4"
    with pytest.raises(BadArgument):
        octets(b"\1\2\3", 4)


V4 = b"\2\0\x13\x8c\xc0\0\2\7" + bytes(8)
V6 = b"\x17\0\x13\x8c" + b"\xff" * 4 + socket.inet_pton(socket.AF_INET6, "2001:db8::7")
LINK_LOCAL = V6[:8] + socket.inet_pton(socket.AF_INET6, "fe80::7")
SCOPE_3 = b"\3\0\0\0"


@pytest.mark.parametrize(
    ("data", "endpoint"),
    [
        (V4, Endpoint(b"\xc0\0\2\7", 5_004)),
        (V6 + SCOPE_3, Endpoint(V6[8:24], 5_004)),
        (b"\x0a" + V6[1:] + SCOPE_3, Endpoint(V6[8:24], 5_004)),
        (LINK_LOCAL + SCOPE_3, Endpoint(LINK_LOCAL[8:24], 5_004, 3)),
    ],
    ids=["IPv4", "IPv6", "family-of-Linux", "link-local"],
)
def test_sockaddr(data: bytes, endpoint: Endpoint) -> None:
    assert endpoint_at(data) == endpoint
    assert endpoint_at(ctypes.create_string_buffer(data, len(data))) == endpoint
    storage = SOCKADDR_STORAGE.from_buffer_copy(data.ljust(128, b"\xff"))
    assert endpoint_at(byref(storage)) == endpoint


def test_no_byte_beyond_the_family_s_length_is_needed() -> None:
    # The object ends where the structure does.
    for structure, family in ((SOCKADDR_IN, socket.AF_INET), (SOCKADDR_IN6, AF_INET6)):
        data = int(family).to_bytes(2, "little").ljust(ctypes.sizeof(structure), b"\1")
        exact = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
        assert endpoint_at(exact) is not None
        with pytest.raises(BadArgument):
            endpoint_at((ctypes.c_ubyte * (len(data) - 1)).from_buffer_copy(data[:-1]))


def test_null_sockaddr_is_none() -> None:
    assert endpoint_at(None) is None
    assert endpoint_at(0) is None
    assert endpoint_at(POINTER(SOCKADDR_IN)()) is None


@pytest.mark.parametrize("family", [0, 1, 9, 11, 22, 24, 512, 0xFFFF])
def test_other_families_are_refused(family: int) -> None:
    with pytest.raises(BadArgument):
        endpoint_at(family.to_bytes(2, "little") + bytes(126))


def test_rest_of_a_large_number_is_not_read() -> None:
    assert octets(byref(c_uint64(1 << 40)), 4) == bytes(4)
