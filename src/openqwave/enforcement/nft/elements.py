"""Elements of our table: put, taken, read, listed.

The key of an element is its fields one after the other, each padded to four bytes; addresses and
ports in network order, an interface's index in the host's. Its data is the choice, a 32-bit number
in the host's order. Each has a counter of its own, and a comment that says whose it is, so that
what the kernel holds can be read without knowing what was put there.

An element cannot be changed, only taken and put anew; a new one may start with what the old one
had counted, so that numbers never go back.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import sys
from collections.abc import Iterator
from functools import cache
from typing import Final, TypeAlias

from openqwave.enforcement.nft.netlink import (
    DELETE_ELEMENT,
    DELETE_TABLE,
    GET_ELEMENT,
    GET_RULE,
    GET_TABLE,
    NEW_ELEMENT,
    Netfilter,
    attribute,
    attributes,
    nest,
    text,
)
from openqwave.enforcement.nft.ruleset import TABLE
from openqwave.model.value import value

# linux/netfilter/nf_tables.h. Of a table, of a list of elements, of an element, of data, of an
# expression, of a counter.
_TABLE_NAME, _TABLE_HANDLE, _TABLE_USERDATA = 1, 4, 6
_RULE_TABLE = 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEM = 1, 2, 3, 1
_KEY, _DATA, _USERDATA, _EXPRESSION = 1, 2, 6, 7
_VALUE = 1
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
# The name of the expression and two heads come before what a counter holds.
_COUNTER_AT = 12 + 4
_DATA_BYTES = 8
_COMMENT_WORDS = 4
# What nft itself keeps a comment under (libnftnl/udata.h): kind, length, text with its zero.
_COMMENT = 0
_CHOICE = struct.Struct("=I")
_COUNT = struct.Struct(">Q")

# Which container, and the key in it.
Place: TypeAlias = "tuple[str, bytes]"
# Packets and bytes.
Count: TypeAlias = "tuple[int, int]"
Message: TypeAlias = "tuple[int, bytes]"
NOTHING: Final[Count] = (0, 0)


@value
class Element:
    """What stands at a place.

    Attributes:
        choice: The number of its treatment; 0 for what is counted only.
        cookie: The socket.
        flow_id: The flow.
    """

    choice: int
    cookie: int
    flow_id: int


@value
class TableFacts:
    """A table of our name: which one it is, and its comment."""

    handle: int
    comment: str


def key_of(source: bytes | None, source_port: int, destination: bytes, port: int) -> bytes:
    """The key for packets of a connection or of one peer of a socket.

    Args:
        source: The local address, or None where any will do.
        source_port: The local port.
        destination: The peer's address.
        port: Its port.
    """
    return b"%s%s%s%s" % (
        source or b"",
        source_port.to_bytes(2, "big") + bytes(2),
        destination,
        port.to_bytes(2, "big") + bytes(2),
    )


def link_key(interface: int, key: bytes) -> bytes:
    """The key with the interface that the packets leave by."""
    return interface.to_bytes(4, sys.byteorder) + key


def choice_key(choice: int) -> bytes:
    """The key of a choice in the map of treatments."""
    return _CHOICE.pack(choice)


def putting(place: Place, element: Element, count: Count = NOTHING) -> Message:
    """The message that puts an element, which begins with what was counted."""
    name, key = place
    comment = text(f"flow {element.flow_id} socket {element.cookie:x}")
    userdata = attribute(_USERDATA, bytes((_COMMENT, len(comment))) + comment)
    data = _data(element.choice) if element.choice else b""
    counter = _NO_COUNT if count == NOTHING else _counter(count)
    return NEW_ELEMENT, _at(name, _key(key), data, userdata, counter)


def taking(place: Place) -> Message:
    """The message that takes an element away."""
    name, key = place
    return DELETE_ELEMENT, _at(name, _key(key))


def read_count(kernel: Netfilter, place: Place) -> Count | None:
    """What an element has counted; None where there is none.

    Raises:
        OSError: The kernel would not say.
    """
    name, key = place
    try:
        answers = kernel.ask(GET_ELEMENT, _at(name, _key(key)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return next((count for answer in answers for _, _, count in _elements(answer)), None)


def list_elements(kernel: Netfilter, name: str) -> Iterator[tuple[Place, Element | None, Count]]:
    """All elements of a container; None for one that is not of our making.

    Raises:
        OSError: ENOENT where there is no such container.
    """
    for answer in kernel.list_all(GET_ELEMENT, _container(name)):
        for key, element, count in _elements(answer):
            yield (name, key), element, count


def table_facts(kernel: Netfilter) -> TableFacts | None:
    """The table of our name, whosever it is; None where there is none.

    Raises:
        OSError: The kernel would not say.
    """
    try:
        answers = kernel.ask(GET_TABLE, attribute(_TABLE_NAME, text(TABLE)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    for answer in answers:
        found = dict(attributes(answer))
        handle = int.from_bytes(found.get(_TABLE_HANDLE, b""), "big")
        return TableFacts(handle, _comment(found.get(_TABLE_USERDATA, b"")))
    return None


def list_rules(kernel: Netfilter) -> list[bytes]:
    """All rules of our table, as the kernel tells them; for comparing.

    The library would read all elements of all maps for that.

    Raises:
        OSError: The kernel would not say.
    """
    return kernel.list_all(GET_RULE, attribute(_RULE_TABLE, text(TABLE)))


def removing(table: TableFacts) -> Message:
    """The message that removes a table with all in it: this one, not another of its name."""
    return DELETE_TABLE, attribute(_TABLE_HANDLE, _COUNT.pack(table.handle))


def _counter(count: Count) -> bytes:
    return nest(
        _EXPRESSION,
        attribute(_EXPRESSION_NAME, text("counter")),
        nest(
            _EXPRESSION_DATA,
            attribute(_COUNTER_BYTES, _COUNT.pack(count[1])),
            attribute(_COUNTER_PACKETS, _COUNT.pack(count[0])),
        ),
    )


_NO_COUNT: Final = _counter(NOTHING)


@cache
def _data(choice: int) -> bytes:
    return nest(_DATA, attribute(_VALUE, _CHOICE.pack(choice)))


@cache
def _container(name: str) -> bytes:
    return attribute(_LIST_TABLE, text(TABLE)) + attribute(_LIST_SET, text(name))


def _at(name: str, *parts: bytes) -> bytes:
    return _container(name) + nest(_LIST_ELEMENTS, nest(_LIST_ELEM, *parts))


def _key(key: bytes) -> bytes:
    return nest(_KEY, attribute(_VALUE, key))


def _elements(answer: bytes) -> Iterator[tuple[bytes, Element | None, Count]]:
    for kind, listed in attributes(answer):
        if kind == _LIST_ELEMENTS:
            for _, body in attributes(listed):
                yield _read(body)


def _read(body: bytes) -> tuple[bytes, Element | None, Count]:
    """One element; written for speed, as a list may have a hundred thousand."""
    key = comment = b""
    choice = packets = octets = 0
    for kind, found in attributes(body):
        if kind == _KEY:
            # One value, whose own head is four bytes.
            key = found[4:]
        elif kind == _DATA:
            # A verdict is longer, and none of ours.
            choice = _CHOICE.unpack_from(found, 4)[0] if len(found) == _DATA_BYTES else 0
        elif kind == _USERDATA:
            comment = found
        elif kind == _EXPRESSION:
            for number, counted in attributes(found[_COUNTER_AT:]):
                if number == _COUNTER_PACKETS:
                    packets = _COUNT.unpack(counted)[0]
                elif number == _COUNTER_BYTES:
                    octets = _COUNT.unpack(counted)[0]
    words = _comment(comment).split()
    element = None
    if len(words) == _COMMENT_WORDS:
        with contextlib.suppress(ValueError):
            element = Element(choice, int(words[3], 16), int(words[1]))
    return key, element, (packets, octets)


def _comment(userdata: bytes) -> str:
    """The comment among what nft keeps with an object; empty for none."""
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == _COMMENT:
            return userdata[at + 2 : at + 2 + length].rstrip(b"\0").decode("utf-8", "replace")
        at += 2 + length
    return ""
