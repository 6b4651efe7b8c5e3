"""What one experiment has shown: the input of every estimator, and lines of JSON.

Times are nanoseconds. `sent_ns` is on the initiator's clock, from the kernel's transmit stamps
where it gives them; the sink's times are on the sink's clock, with the protocol's resolution of
100 ns, and differ from the initiator's by an unknown offset that drifts. Sizes are bytes of the
IP packet, headers included, as everywhere where a rate is meant.

A file of samples is one JSON object a line, "kind" first: it replays in tests, so an estimator
that changes shows which measurement moved.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeGuard

# Clocks of nanoseconds have 64 bits, with a sign, and last for three centuries.
MOST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Train:
    """Packets of one size, sent together.

    Attributes:
        packet_bytes: Size of each IP packet.
        gap_ns: The spacing that was wanted; 0 for back to back.
        sent_ns: When each packet left, initiator's clock, in order.
        deltas_ns: Spacing of the arrivals, one less than the packets; empty if the sink
            reported none, because a packet was lost, reordered, or the report was.
    """

    packet_bytes: int
    gap_ns: int
    sent_ns: tuple[int, ...]
    deltas_ns: tuple[int, ...] = ()

    @property
    def is_lost(self) -> bool:
        """Did the train come to nothing?"""
        return not self.deltas_ns


@dataclass(frozen=True, slots=True)
class Gap:
    """One small probe, sent to the sink and back.

    Attributes:
        sequence: Its number, from the session's first.
        packet_bytes: Size of the IP packet, each way.
        sent_ns: When it left, initiator's clock.
        sink_received_ns: When it reached the sink, sink's clock; 0 if nothing came back.
        sink_sent_ns: When the sink sent it back, sink's clock; 0 likewise.
        received_ns: When it was back, initiator's clock; 0 likewise.
    """

    sequence: int
    packet_bytes: int
    sent_ns: int
    sink_received_ns: int = 0
    sink_sent_ns: int = 0
    received_ns: int = 0

    @property
    def is_lost(self) -> bool:
        """Did nothing come back?"""
        return not self.received_ns


Sample: TypeAlias = Train | Gap

_KINDS: dict[str, type[Sample]] = {"train": Train, "gap": Gap}


def to_json(sample: Sample) -> str:
    """Write a sample as one line of JSON, without its end of line."""
    kind = next(kind for kind, cls in _KINDS.items() if type(sample) is cls)
    fields = {name: getattr(sample, name) for name in sample.__slots__}
    return json.dumps({"kind": kind} | fields, separators=(",", ":"))


def from_json(line: str) -> Sample:
    """Read a sample.

    Raises:
        ValueError: Not JSON, an unknown kind, or fields that the kind does not have.
    """
    fields: Any = json.loads(line)
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"a sample's kind is one of {', '.join(_KINDS)}")
    cls = _KINDS[fields.pop("kind")]
    for field in dataclasses.fields(cls):
        if field.name in fields:
            fields[field.name] = _checked(field, fields[field.name])
    try:
        sample = cls(**fields)
    except TypeError as error:
        raise ValueError(f"not a sample: {error}") from error
    if isinstance(sample, Train):
        packets, deltas = len(sample.sent_ns), sample.deltas_ns
        if packets < 2 or (deltas and len(deltas) != packets - 1) or min(deltas, default=0) < 0:
            raise ValueError(f"{len(deltas)} spacings are not those of {packets} packets")
    return sample


def _checked(field: dataclasses.Field[Any], wanted: object) -> int | tuple[int, ...]:
    """A field's value: one whole number, or a list of them where the sample holds several."""
    # The annotations are text (PEP 563); those that hold several begin so.
    if str(field.type).startswith("tuple"):
        if isinstance(wanted, list) and all(map(_is_whole, wanted)):
            return tuple(wanted)
        raise ValueError(
            f"{field.name} of a sample is a list of whole numbers of 64 bits, not {wanted!r}"
        )
    if _is_whole(wanted):
        return wanted
    raise ValueError(f"{field.name} of a sample is a whole number of 64 bits, not {wanted!r}")


def _is_whole(wanted: object) -> TypeGuard[int]:
    """Is it a number that a clock or a length may have?"""
    return type(wanted) is int and -MOST <= wanted <= MOST
