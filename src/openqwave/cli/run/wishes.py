"""What traffic of a program is to get, as it is written on the command line, and read from there.

Rates are written as tc writes them: `2mbit`, `500kbit`, or bit/s without a unit. `8M` is 8 Mbit/s,
as iperf3 has it. What tc calls `mbps` is bytes a second, and most who write it mean bits; so it is
refused.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from openqwave.model.flow import TrafficType
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Iterator

_RATE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([a-z]*)")
_UNITS: Final = {
    prefix + unit: factor
    for prefix, factor in (("", 1), ("k", 10**3), ("m", 10**6), ("g", 10**9), ("t", 10**12))
    for unit in ("", "bit", "bits")
}
# A packet of 1,500 bytes each twelve seconds, and more than any interface has.
LEAST_RATE_BPS, MOST_RATE_BPS = 1_000, 10**12

TYPE_WORDS: Final = tuple(each.name.lower().replace("_", "-") for each in TrafficType)
LAST_DSCP: Final = 63


class BadWish(ValueError):
    """Something is not what it has to be; the text says what that is."""


@value
class Wish:
    """What traffic is to get.

    Attributes:
        traffic_type: Marks as of this type; None for none.
        dscp: An exact code point, which comes before that of the type.
        rate_bps: Of everything together; None without a limit.
        holds_back: What is above the rate is to wait; else it is to lose its marks.
        name: What it is called in lists; empty for the program's own name.
    """

    traffic_type: TrafficType | None = None
    dscp: int | None = None
    rate_bps: int | None = None
    holds_back: bool = True
    name: str = ""

    @property
    def is_empty(self) -> bool:
        """Is nothing wished for?"""
        return self.traffic_type is None and self.dscp is None and self.rate_bps is None


def type_of(text: str) -> TrafficType:
    """Read `voice`, `audio-video` and so on; underscores, as policy files have them, will do.

    Raises:
        BadWish: It is none.
    """
    try:
        return TrafficType[text.strip().upper().replace("-", "_")]
    except KeyError:
        raise BadWish(f"{text!r} is not one of {', '.join(TYPE_WORDS)}.") from None


def rate_of(text: str) -> int:
    """Read a rate; bit/s.

    Raises:
        BadWish: It is none, or none that anything can be held to.
    """
    found = _RATE.fullmatch(text.strip().lower())
    if found is not None and found[2].endswith("bps"):
        meant = f"{found[1]}{found[2].removesuffix('bps')}bit"
        raise BadWish(f"{text!r} may mean bits or bytes; write bits, as {meant}.")
    if found is None or found[2] not in _UNITS:
        raise BadWish(f"{text!r} is not a rate such as 2mbit, 500kbit, 8M or 64000 (bit/s).")
    rate_bps = int(Decimal(found[1]) * _UNITS[found[2]])
    if not LEAST_RATE_BPS <= rate_bps <= MOST_RATE_BPS:
        raise BadWish(f"{text!r} is not from 1kbit to 1tbit.")
    return rate_bps


def spelled(wish: Wish) -> Iterator[str]:
    """The options that make a wish, for another process of this program."""
    if wish.traffic_type is not None:
        yield f"--type={TYPE_WORDS[wish.traffic_type]}"
    if wish.dscp is not None:
        yield f"--dscp={wish.dscp}"
    if wish.rate_bps is not None:
        yield f"--rate={wish.rate_bps}"
        yield "--hold-back" if wish.holds_back else "--remark"
    if wish.name:
        yield f"--name={wish.name}"
