"""How much clients may cost the service."""

from __future__ import annotations

from dataclasses import dataclass, field

from openqwave.ipc.serving import PeerLimits


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much clients may cost.

    Attributes:
        connections: Of all clients together; each costs a descriptor and some kilobytes.
        connections_per_user: Of one user who is not root, so that there is room for others.
        peer: Of one connection.
    """

    connections: int = 8_192
    connections_per_user: int = 4_096
    peer: PeerLimits = field(default_factory=PeerLimits)
