"""Windows' qWAVE QoS subsystem and its QOS2 API, open, for Linux.

Put a socket in a flow; its packets are marked, held to a rate, and the program is told
when the network cannot carry it::

    import openqwave as qw

    with qw.open() as qos:
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)

`openqwave.aio` has the same names as coroutines, `openqwave.qos2` the Windows ones.
"""

from openqwave.client.opening import Backend
from openqwave.client.pacer import Pacer
from openqwave.client.sync import Flow, Qos, open  # noqa: A004 - the face's name
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import (
    AccessDenied,
    AdapterFailed,
    AlreadyExists,
    BadNetworkName,
    Busy,
    ConnectionWasRefused,
    DeviceError,
    DisabledByPolicy,
    FlowNotFound,
    GeneralFailure,
    HostUnreachable,
    InsufficientBuffer,
    InvalidHandle,
    InvalidParameter,
    NetworkBusy,
    NoData,
    NoSystemResources,
    NotEnoughMemory,
    NotSupported,
    OperationAborted,
    OperationPending,
    QosError,
    ReinitializationNeeded,
    ResourceDisabled,
    RetryLater,
    ServiceUnavailable,
    TimedOut,
    UnexpectedNetworkError,
)
from openqwave.model.estimates import Congestion, CongestionReason, Fundamentals
from openqwave.model.flow import NoticeKind, PacketPriority, RateReason, Shaping, TrafficType
from openqwave.model.path import LinkType, PathFacts, PathStatus
from openqwave.model.traffic import FlowTraffic

__all__ = [
    "AccessDenied",
    "AdapterFailed",
    "AlreadyExists",
    "Backend",
    "BadNetworkName",
    "Busy",
    "Congestion",
    "CongestionReason",
    "ConnectionWasRefused",
    "DeviceError",
    "DisabledByPolicy",
    "ErrorCode",
    "Flow",
    "FlowNotFound",
    "FlowTraffic",
    "Fundamentals",
    "GeneralFailure",
    "HostUnreachable",
    "InsufficientBuffer",
    "InvalidHandle",
    "InvalidParameter",
    "LinkType",
    "NetworkBusy",
    "NoData",
    "NoSystemResources",
    "NotEnoughMemory",
    "NotSupported",
    "NoticeKind",
    "OperationAborted",
    "OperationPending",
    "Pacer",
    "PacketPriority",
    "PathFacts",
    "PathStatus",
    "Qos",
    "QosError",
    "RateReason",
    "ReinitializationNeeded",
    "ResourceDisabled",
    "RetryLater",
    "ServiceUnavailable",
    "Shaping",
    "TimedOut",
    "TrafficType",
    "UnexpectedNetworkError",
    "open",
]
