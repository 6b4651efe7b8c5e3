"""One connection at the sink, and what its messages make of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from openqwave.probing.sink_experiments import GroupWatch, TrainTimer
from openqwave.probing.sink_reports import Experiment
from openqwave.wire import qlpb

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.probing.sink_limits import SinkLimits

# Figure 4 of MS-QLPB, and 3.2.5.4 and 3.2.5.5 for probes: what a connection becomes by a message
# that is in order. By any other message it ends; any other probe is ignored.
TRANSITIONS: Mapping[tuple[Experiment, type], Experiment] = MappingProxyType(
    {
        (Experiment.UNKNOWN, qlpb.Discard): Experiment.DISCARD,
        (Experiment.UNKNOWN, qlpb.PacketPairHandshake): Experiment.PACKET_PAIR,
        (Experiment.UNKNOWN, qlpb.RouteCheckHandshake): Experiment.ROUTE_CHECK,
        (Experiment.PACKET_PAIR, qlpb.PacketPairProbe): Experiment.PACKET_PAIR,
        (Experiment.ROUTE_CHECK, qlpb.RouteCheckProbe): Experiment.ROUTE_CHECK,
    }
)

# What probes are matched by: address, scope and TCP port of the far end.
PeerKey: TypeAlias = tuple[bytes, int, int]


class SinkSession:
    """One connection, as the sink knows it.

    Args:
        connection: The driver's key.
        peer: The other end.
        speed_bps: Of the interface that it came in by.
        limits: What is granted.
        now_ns: The time.
    """

    __slots__ = (
        "connection",
        "deadline_ns",
        "decoder",
        "discarded_bytes",
        "experiment",
        "group",
        "interface_speed_bps",
        "key",
        "order",
        "peer",
        "received_bytes",
        "results",
        "train",
    )

    def __init__(
        self, connection: int, peer: Endpoint, speed_bps: int, limits: SinkLimits, now_ns: int
    ) -> None:
        self.connection = connection
        self.peer = peer
        self.key: PeerKey = (peer.packed, peer.scope_id, peer.port)
        self.interface_speed_bps = speed_bps
        self.experiment = Experiment.UNKNOWN
        self.deadline_ns = now_ns + limits.handshake_ns
        self.decoder = qlpb.StreamDecoder(qlpb.Direction.TO_SINK)
        self.train = TrainTimer(limits.train_packets)
        self.group = GroupWatch()
        # How the peer was seen to write flags.
        self.order: qlpb.FlagOrder | None = None
        self.received_bytes = 0
        self.discarded_bytes = 0
        self.results = 0
