"""What a ctypes program passes, as numbers and addresses.

Where Windows' functions take a pointer, a program may write ``byref(x)``,
``pointer(x)``, a ``POINTER`` instance, an array, a ctypes object (which ctypes passes by
reference where the argument types say "pointer"), a ``c_void_p``, a plain address, or
None. Where they take a number it may write an int, a member of an enumeration, a ctypes
number, or None for 0. Whatever else it writes is refused, where Windows would crash or
ctypes raise.

How large the object behind a pointer is, ctypes knows for objects that it made itself;
one that is too small for what the call reads or writes is refused. Behind a plain
address, or a pointer cast to another type, nobody can look: an address that leads nowhere
ends the process, as in C. Only the lowest 64 KiB are known to hold nothing (the kernel
keeps them free, vm.mmap_min_addr).
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import Array, Structure, Union, _Pointer, _SimpleCData, addressof, sizeof
from typing import Any

from openqwave.model.codes import ErrorCode

# The type of what byref() returns; it has no public name.
_Reference: type[Any] = type(ctypes.byref(ctypes.c_byte()))

# The pointer types among ctypes' simple types: their value is the address.
_Address = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_wchar_p)

# From any pointer argument that ctypes accepts to its address, in a tenth of a
# microsecond; ctypes.cast takes six.
_address_in = ctypes.PyDLL(None).PyLong_FromVoidPtr
_address_in.restype = ctypes.py_object

_ULONG_BYTES = sizeof(ctypes.c_uint32)

_LOWEST_ADDRESS = 0x1_0000
_HIGHEST_ADDRESS = (1 << 8 * sizeof(ctypes.c_void_p)) - 1

# "As large as it has to be": the room behind an address of which nothing is known.
_UNKNOWN = sys.maxsize


class BadArgument(Exception):
    """An argument that cannot be used; never leaves the package.

    Attributes:
        code: The error number that the call fails with.
    """

    def __init__(self, code: ErrorCode = ErrorCode.ERROR_INVALID_PARAMETER) -> None:
        super().__init__(code.name)
        self.code = code


def integer(argument: object) -> int:
    """The number in a scalar argument.

    Raises:
        BadArgument: It is no number.
    """
    if type(argument) is int:
        return argument
    if isinstance(argument, int):
        return int(argument)
    if argument is None:
        return 0
    if isinstance(argument, _SimpleCData):
        value = argument.value
        if isinstance(value, int):
            return int(value)
        if value is None:
            return 0
    raise BadArgument


def flow_number(argument: object) -> int:
    """A flow's id, also where the program keeps it in a signed number."""
    return integer(argument) & 0xFFFF_FFFF


def locate(argument: object) -> tuple[int, int]:
    """Where a pointer argument leads: the address (0 for null) and the room behind it.

    Raises:
        BadArgument: It is nothing that ctypes passes as a pointer.
    """
    if argument is None:
        return 0, 0
    if type(argument) is _Reference:
        # ctypes' documented name for what byref() was given.
        target = argument._obj  # type: ignore[attr-defined]  # noqa: SLF001 - no other way
        address: int = _address_in(argument)
        return address, _room(target, address)
    if isinstance(argument, int):
        return _plain(int(argument)), _UNKNOWN
    if isinstance(argument, (Array, Structure, Union)):
        address = addressof(argument)
        return address, _room(argument, address)
    if isinstance(argument, _Pointer):
        if not bool(argument):
            return 0, 0
        address = addressof(argument.contents)
        # What pointer(x) was made of; a cast pointer keeps other things there.
        target = (argument._objects or {}).get("1")  # noqa: SLF001 - no other way
        is_known = isinstance(target, (_SimpleCData, Array, Structure, Union))
        return address, _room(target, address) if is_known else _UNKNOWN
    if isinstance(argument, _Address):
        return _plain(ctypes.c_void_p.from_buffer(argument).value or 0), _UNKNOWN
    if isinstance(argument, _SimpleCData):
        return addressof(argument), sizeof(argument)
    raise BadArgument


def address_of(argument: object, needed_bytes: int) -> int:
    """Where a pointer argument leads; 0 for null.

    Args:
        argument: What the program passed.
        needed_bytes: How many bytes the call reads or writes there.

    Raises:
        BadArgument: It is no pointer, or leads to a smaller object.
    """
    address, room = locate(argument)
    if address and room < needed_bytes:
        raise BadArgument
    return address


def required(argument: object, needed_bytes: int) -> int:
    """`address_of` for a pointer that must not be null."""
    address, room = locate(argument)
    if room < needed_bytes or not address:
        raise BadArgument
    return address


def ulong(argument: object) -> ctypes.c_uint32:
    """The 32-bit number that a pointer argument leads to, to be read and written.

    Raises:
        BadArgument: Null, no pointer, or fewer than 4 bytes.
    """
    if type(argument) is _Reference:
        # What programs write nearly always, byref() of a DWORD, is used as it is.
        target = argument._obj  # type: ignore[attr-defined]  # noqa: SLF001 - no other way
        if type(target) is ctypes.c_uint32 and _address_in(argument) == addressof(target):
            return target
    return ctypes.c_uint32.from_address(required(argument, _ULONG_BYTES))


def octets(argument: object, count: int) -> bytes:
    """A copy of what a pointer argument leads to; Python's bytes may stand for themselves.

    Raises:
        BadArgument: Null, no pointer, or fewer bytes than `count`.
    """
    if isinstance(argument, bytes):
        if len(argument) < count:
            raise BadArgument
        return argument[:count]
    return ctypes.string_at(required(argument, count), count)


def _plain(address: int) -> int:
    if address and not _LOWEST_ADDRESS <= address <= _HIGHEST_ADDRESS:
        raise BadArgument
    return address


def _room(target: Any, address: int) -> int:  # noqa: ANN401 - any ctypes object
    """Bytes from an address to the end of the object that it lies in; 0 outside of it."""
    # A member of a structure or array ends where the whole does.
    while target._b_base_ is not None:
        target = target._b_base_
    start = addressof(target)
    return start + sizeof(target) - address if address >= start else 0
