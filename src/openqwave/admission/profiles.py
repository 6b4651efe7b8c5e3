"""Ready tables of marks, by the name that an administrator gives.

A traffic type says what a program sends; what that is worth in a packet is the network's
convention, and there are several. A profile is one of them, for all six types:

* ``qwave``: what Windows does, so the default.
* ``rfc4594``: the service classes of RFC 4594, which most networks that look at DSCPs were
  configured by. That document says nothing of 802.1p; the priority is the class selector,
  the upper three bits of the DSCP (RFC 2474 section 4.2.2), which is what equipment
  without a table of its own makes of it.
* ``rfc8325``: the same DSCPs, with the priorities that RFC 8325 gives them in 802.11. They
  differ where the upper three bits are wrong: EF is 6 (voice) and not 5 (video).
* ``wmm``: DSCPs whose upper three bits are the wanted priority, for access points that look
  at nothing else, which are most. Microsoft's policy page has the same ranges.
* ``none``: packets stay as programs made them.

Which class a type is, nobody else has written down. Excellent effort is what is better than
best effort without being a stream: low-latency data. Audio and video are rate-adaptive, as
conferencing is. Control is what calls and games are steered by: signalling, and not network
control, which RFC 4594 section 3.1 keeps for the network's own protocols. Background is CS1
in both documents; RFC 8622 has since given it a code point of its own, 1, which common
access points still take for best effort, so it has to be asked for by name. Best effort is
the absence of a mark in all of them: a packet that nobody marks is that already, and one
that its program marked is the program's affair.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from openqwave.admission.policy import WINDOWS_MARKS, Marks
from openqwave.model.flow import TrafficType

if TYPE_CHECKING:
    from collections.abc import Mapping

# What holds where no profile is named.
DEFAULT_PROFILE: Final = "qwave"

_RFC4594: Final = {
    # Section 4.9, "standard": DF, which is no mark.
    TrafficType.BEST_EFFORT: None,
    # Section 4.10, "low-priority data": CS1.
    TrafficType.BACKGROUND: Marks(8, 1),
    # Section 4.7, "low-latency data": AF21.
    TrafficType.EXCELLENT_EFFORT: Marks(18, 2),
    # Section 4.3, "multimedia conferencing": AF41.
    TrafficType.AUDIO_VIDEO: Marks(34, 4),
    # Section 4.1, "telephony": EF.
    TrafficType.VOICE: Marks(46, 5),
    # Section 4.2, "signaling": CS5.
    TrafficType.CONTROL: Marks(40, 5),
}

_RFC8325: Final = {
    # Section 4.2.9: UP 0, best effort.
    TrafficType.BEST_EFFORT: None,
    # Section 4.2.10: UP 1, background.
    TrafficType.BACKGROUND: Marks(8, 1),
    # Section 4.2.7: UP 3, best effort.
    TrafficType.EXCELLENT_EFFORT: Marks(18, 3),
    # Section 4.2.3: UP 4, video.
    TrafficType.AUDIO_VIDEO: Marks(34, 4),
    # Section 4.2.1: UP 6, voice.
    TrafficType.VOICE: Marks(46, 6),
    # Section 4.2.2: UP 5, video.
    TrafficType.CONTROL: Marks(40, 5),
}

# The ranges of Microsoft's "Manage QoS Policy", "Wireless Multimedia and DSCP values": 8 to
# 23 background, 0 to 7 and 24 to 31 best effort, 32 to 47 video, 48 to 63 voice; the
# priorities of IEEE 802.1D, which WMM shares out among them in pairs: 1 and 2, 0 and 3, 4
# and 5, 6 and 7.
_WMM: Final = {
    TrafficType.BEST_EFFORT: None,
    TrafficType.BACKGROUND: Marks(8, 1),
    TrafficType.EXCELLENT_EFFORT: Marks(24, 3),
    TrafficType.AUDIO_VIDEO: Marks(40, 5),
    TrafficType.VOICE: Marks(48, 6),
    TrafficType.CONTROL: Marks(56, 7),
}

# By name, as a configuration has it.
PROFILES: Final[Mapping[str, Mapping[TrafficType, Marks | None]]] = MappingProxyType(
    {
        DEFAULT_PROFILE: WINDOWS_MARKS,
        "rfc8325": MappingProxyType(_RFC8325),
        "rfc4594": MappingProxyType(_RFC4594),
        "wmm": MappingProxyType(_WMM),
        "none": MappingProxyType(dict.fromkeys(TrafficType)),
    }
)
