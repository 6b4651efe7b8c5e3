"""What the kernel counted of a flow."""

from __future__ import annotations

from openqwave.model.value import value


@value
class FlowTraffic:
    """Packets that left, since the flow began.

    Bytes are those of IP packets, as a contract counts them. Of a train of segments that leaves as
    one (GSO), the kernel's program counts the segments; nftables counts one packet.

    Attributes:
        packets: Those within the contract, and all where none is metered.
        bytes: Their bytes.
        excess_packets: Those above it, which were re-marked.
        excess_bytes: Their bytes.
        dropped_packets: Those that would have had to wait for longer than the queue allows.
    """

    packets: int = 0
    bytes: int = 0
    excess_packets: int = 0
    excess_bytes: int = 0
    dropped_packets: int = 0

    @property
    def sent_packets(self) -> int:
        """All that left."""
        return self.packets + self.excess_packets

    @property
    def sent_bytes(self) -> int:
        """Their bytes."""
        return self.bytes + self.excess_bytes
