"""Lists in answers: pages, because a packet has an end.

A page says whether there is more, and the next one is asked for by where this one ended.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from openqwave.ipc.errors import ProtocolError
from openqwave.ipc.packets import MAX_ANSWER_BYTES, encode_packet, read_value
from openqwave.ipc.programs import ProgramRow
from openqwave.ipc.refusals import RefusalRow
from openqwave.ipc.rows import FlowRow, PathRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_T = TypeVar("_T")

# What of a packet is not the page: ``{"type":"answer","id":9007199254740991,"value":{"flows":``
# and ``,"more":false}}``, with room to spare.
_ENVELOPE_BYTES: Final = 256
PAGE_BYTES: Final = MAX_ANSWER_BYTES - _ENVELOPE_BYTES


class _FlowIds(msgspec.Struct, frozen=True, gc=False):
    flows: tuple[int, ...]
    more: bool


class _FlowRows(msgspec.Struct, frozen=True):
    flows: tuple[FlowRow, ...]
    more: bool


class _PathRows(msgspec.Struct, frozen=True):
    paths: tuple[PathRow, ...]
    more: bool


class _ProgramRows(msgspec.Struct, frozen=True):
    programs: tuple[ProgramRow, ...]
    more: bool


class _RefusalRows(msgspec.Struct, frozen=True):
    refusals: tuple[RefusalRow, ...]
    more: bool


# By what a list is of: the name that it has in a page, and how that is read.
_PAGES: Final[dict[type, tuple[str, msgspec.json.Decoder[Any]]]] = {
    int: ("flows", msgspec.json.Decoder(_FlowIds)),
    FlowRow: ("flows", msgspec.json.Decoder(_FlowRows)),
    PathRow: ("paths", msgspec.json.Decoder(_PathRows)),
    ProgramRow: ("programs", msgspec.json.Decoder(_ProgramRows)),
    RefusalRow: ("refusals", msgspec.json.Decoder(_RefusalRows)),
}


# -- the service writes --------------------------------------------------------------------


def flow_id_page(ids: Sequence[int], after: int = 0) -> bytes:
    """The value of an answer to ``enumerate_flows``.

    Args:
        ids: All of them, ascending.
        after: The last one that the peer knows of.
    """
    rest = ids[bisect_right(ids, after) :]
    return _page("flows", rest)


def flow_page(rows: Iterable[FlowRow]) -> bytes:
    """The value of an answer to ``list_flows``: as many rows as go into it."""
    return _page("flows", rows)


def path_page(rows: Iterable[PathRow]) -> bytes:
    """The value of an answer to ``list_paths``: as many rows as go into it."""
    return _page("paths", rows)


def program_page(rows: Iterable[ProgramRow]) -> bytes:
    """The value of an answer to ``list_programs``: as many rows as go into it."""
    return _page("programs", rows)


def refusal_page(rows: Iterable[RefusalRow]) -> bytes:
    """The value of an answer to ``list_refusals``: as many rows as go into it."""
    return _page("refusals", rows)


def page(rows: Iterable[_T], encode: Callable[[_T], bytes]) -> tuple[bytes, bool]:
    """As many rows as go into one answer.

    Rows are taken one by one, so making them may be left to an iterator: those of later pages
    are not made. A row that is too long for any page is left out, because a reader who asks
    for what comes after the last row it got would come to it again and again.

    Args:
        rows: What the page begins with, in order.
        encode: A row as JSON.

    Returns:
        A JSON array of `PAGE_BYTES` at most, and whether there is more.
    """
    taken: list[bytes] = []
    # The brackets; each row costs a comma, and the last one's is not there.
    size = 1
    for row in rows:
        data = encode(row)
        if len(data) + 2 > PAGE_BYTES:
            continue
        size += len(data) + 1
        if size > PAGE_BYTES:
            return b"[%b]" % b",".join(taken), True
        taken.append(data)
    return b"[%b]" % b",".join(taken), False


def _page(name: str, rows: Iterable[object]) -> bytes:
    data, more = page(rows, encode_packet)
    return b'{"%b":%b,"more":%b}' % (name.encode(), data, b"true" if more else b"false")


# -- the program reads ---------------------------------------------------------------------


def page_of(raw: bytes, kind: type[_T]) -> tuple[tuple[_T, ...], bool]:
    """Read a page of a list.

    Args:
        raw: The answer.
        kind: What it is a list of: int (ids of flows), or a kind of row.

    Returns:
        The rows, and whether there is more.

    Raises:
        ProtocolError: It is none.
    """
    name, decoder = _PAGES[kind]
    read = read_value(decoder, raw)
    rows = getattr(read, name)
    if read.more and not rows:
        # Whoever follows it would ask for ever.
        raise ProtocolError("a page without rows says that there is more")
    return cast("tuple[_T, ...]", rows), read.more
