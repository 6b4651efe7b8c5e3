"""What is wrong with a message that a peer sent.

A peer that breaks the protocol is an ordinary thing: another program on the port, another
version, somebody who tries. So each kind of fault has a name that can be counted, and the
exception keeps the first bytes as evidence and no more, because a peer chooses their number.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import QosError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.wire.qlpb.messages import StreamMessage

# Enough for the header of every message but the returned probe, and for one line of a log.
EVIDENCE_BYTES = 16


class Fault(enum.Enum):
    """The kinds of malformed messages; the value is a sentence for people."""

    TOO_SHORT = "shorter than its kind of message"
    UNKNOWN_ID = "no message has this number"
    OTHER_PROTOCOL = "a handshake of MS-QDP, which shares the port"
    WRONG_VERSION = "of another version of the protocol"
    WRONG_DIRECTION = "a message that only the other side sends"
    WRONG_TRANSPORT = "a message of TCP over UDP, or the reverse"
    TRAIN_SIZE_INVALID = "a train has no packets to be timed, or more than its field can count"
    TRAIN_TOO_LONG = "a summary of a longer train than any that was sent"
    OBSERVATION_INVALID = "an observation that the protocol does not define"


class MalformedMessage(QosError, ValueError):
    """A peer sent what the protocol does not allow.

    Attributes:
        fault: What is wrong.
        evidence: The first bytes of the message, as far as they had come.
        decoded: The messages of the same bytes that came before the fault and were in order.
    """

    code = ErrorCode.ERROR_UNEXP_NET_ERR

    def __init__(
        self, fault: Fault, data: bytes | bytearray, decoded: Sequence[StreamMessage] = ()
    ) -> None:
        self.fault = fault
        self.evidence = bytes(data[:EVIDENCE_BYTES])
        self.decoded = tuple(decoded)
        super().__init__(f"{fault.value}: {self.evidence.hex(' ') or 'no bytes'}")
