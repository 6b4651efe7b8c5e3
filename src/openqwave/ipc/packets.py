"""What all packets are: their base, their numbers, their sizes.

Structs without containers are left out of garbage collection (``gc=False``): they are made and
dropped by the ten thousand a second, and cannot be part of a cycle.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from openqwave.ipc.errors import ProtocolError, reason_of

_T = TypeVar("_T")

# A request is short: the longest has an address and a handful of numbers.
MAX_REQUEST_BYTES: Final = 4_096
# A page of a list is the longest answer. Linux sends packets up to net.core.wmem_default, which
# is 212,992 unless somebody changed it.
MAX_ANSWER_BYTES: Final = 65_536
# SCM_RIGHTS takes 253 at once; a flow whose sockets are more is reached by those that come.
MAX_DESCRIPTORS: Final = 16
MAX_PROGRAM_CHARS: Final = 64
# Integers up to here are the same in every JSON library, also in those that have doubles only.
MAX_ID: Final = (1 << 53) - 1

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]


def _tag(class_name: str) -> str:
    """``AddSocket`` -> ``add_socket``."""
    words = "".join(f"_{one.lower()}" if one.isupper() else one for one in class_name)
    return words.lstrip("_")


class Packet(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type", tag=_tag):
    """What all packets are."""


_ENCODER: Final = msgspec.json.Encoder()


def encode_packet(packet: object) -> bytes:
    """A packet, or a value or row of one, as bytes.

    Names of programs and files may be no UTF-8, which Python holds as lone surrogates and JSON
    cannot say; each of those becomes a question mark.
    """
    try:
        return _ENCODER.encode(packet)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(packet), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def read_value(decoder: msgspec.json.Decoder[_T], raw: bytes) -> _T:
    """Read what an answer holds.

    Raises:
        ProtocolError: It is not what the decoder reads.
    """
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(reason_of(error)) from None
