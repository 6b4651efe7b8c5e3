"""What the configuration files may say: their tables, their keys, and which values make sense.

Each table is a Struct, each key a field, named as in the file, with the unit at the end of its
name; None stands for a key that is not there. A key that takes more than its type tells has its
range in the annotation, and where words are better than the range, those ("is"). `reading` checks
a file against this, `config` makes of it what the service works with.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

# As many as nobody needs, and as still fit in memory and in 32 bits.
_MOST: Final = 1 << 20
# 100 Gbit/s.
_MOST_KBPS: Final = 100_000_000
_DAY_S: Final = 86_400.0

# sun_path of unix(7), without the zero at its end.
LONGEST_SOCKET_PATH_BYTES: Final = 107

# Names of user groups are at most this long for the tools that make them (useradd(8)).
_LONGEST_NAME: Final = 32

_Count: TypeAlias = Annotated[int, Meta(ge=1, le=_MOST)]
# Token buckets count in nanoseconds.
_Rate: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000_000)]
_Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=_DAY_S)]
# Below a tenth of a second an estimate is old before it is used.
_Age: TypeAlias = Annotated[float, Meta(ge=0.1, le=_DAY_S)]
_Kbps: TypeAlias = Annotated[int, Meta(ge=1, le=_MOST_KBPS)]
# Files that are read later have to be able to lift a limit.
_MostKbps: TypeAlias = _Kbps | Literal["none"]
_MostPercent: TypeAlias = Annotated[float, Meta(ge=0.1, le=100)] | Literal["none"]
_Dscp: TypeAlias = Annotated[int, Meta(ge=0, le=63)]
_Path: TypeAlias = Annotated[str, Meta(pattern=r"^/[^\x00]*\Z", extra={"is": "an absolute path"})]
_SocketPath: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^/[^\x00]*[^\x00/]\Z",
        max_length=LONGEST_SOCKET_PATH_BYTES,
        extra={"is": "an absolute path of at most 107 bytes, to a file"},
    ),
]
_Group: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[^\s:,/]+\Z",
        max_length=_LONGEST_NAME,
        extra={"is": "the name of a group, of at most 32 characters"},
    ),
]
_Network: TypeAlias = Annotated[
    str, Meta(extra={"is": 'a network, as "10.0.0.0/8" or "2001:db8::/32"'})
]
_Networks: TypeAlias = tuple[_Network, ...]
# IFNAMSIZ of linux/if.h, without the zero at its end.
_Interface: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[^\s/:\x00]+\Z",
        max_length=15,
        extra={"is": "the name of an interface, of at most 15 characters"},
    ),
]


_RuleName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f]+\Z",
        max_length=64,
        extra={"is": "a name of its own, of at most 64 characters"},
    ),
]
_Program: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^(/([^/\x00]+/)*)?[^/\x00]+\Z",
        extra={"is": "the absolute path of a program, or its bare name"},
    ),
]
_User: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[^\s:,/]+\Z",
        max_length=_LONGEST_NAME,
        extra={"is": "the name or number of a user, of at most 32 characters"},
    ),
]
# Those that processes run in (systemd.unit(5)).
_Unit: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[^\s/\x00]+\.(service|scope|slice|socket|mount|swap)\Z",
        max_length=255,
        extra={"is": 'the name of a systemd unit with its kind, as "sshd.service"'},
    ),
]
_Cgroup: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^/[^\x00]*\Z",
        extra={"is": 'a cgroup as /proc/PID/cgroup has it, as "/user.slice"'},
    ),
]
_Ports: TypeAlias = (
    Annotated[int, Meta(ge=1, le=65_535)]
    | Annotated[
        str,
        Meta(pattern=r"^[0-9]{1,5}[-:][0-9]{1,5}\Z", extra={"is": 'a range, as "5004-5010"'}),
    ]
)

_Listen: TypeAlias = Annotated[
    str, Meta(extra={"is": 'an address with a port, as "127.0.0.1:9177", or "none"'})
]


class Service(Struct, frozen=True):
    """`[service]`: the program."""

    socket: _SocketPath = "/run/qwave/qwaved.sock"
    state_directory: _Path = "/var/lib/qwave"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Access(Struct, frozen=True):
    """`[access]`: who may do what."""

    operators_group: _Group | None = None
    priority_needs_contract: bool | None = None


class TypeMarks(Struct, frozen=True):
    """`[marks.TYPE]`: what the packets of a traffic type carry."""

    dscp: _Dscp
    pcp: Annotated[int, Meta(ge=0, le=7)] | None = None


_Marks: TypeAlias = Literal["none"] | TypeMarks | None


class Marks(Struct, frozen=True):
    """`[marks]`: a ready table, and what differs from it, by traffic type."""

    profile: Literal["qwave", "rfc8325", "rfc4594", "wmm", "none"] | None = None
    best_effort: _Marks = None
    background: _Marks = None
    excellent_effort: _Marks = None
    audio_video: _Marks = None
    voice: _Marks = None
    control: _Marks = None


class ClientLimits(Struct, frozen=True):
    """`[limits]`: how much one process, one user and all may hold, and contracts together."""

    handles: _Count | None = None
    flows: _Count | None = None
    destinations: _Count | None = None
    destinations_per_flow: _Count | None = None
    tracked_hosts: _Count | None = None
    pending_operations: _Count | None = None
    connections: _Count | None = None
    connections_per_user: _Count | None = None
    runs_per_user: _Count | None = None
    flows_per_user: _Count | None = None
    destinations_per_user: _Count | None = None
    contracts_per_user_kbps: _MostKbps | None = None
    contracts_per_host_kbps: _MostKbps | None = None
    contracts_per_host_percent: _MostPercent | None = None
    contracts_per_interface_percent: _MostPercent | None = None


class Experiments(Struct, frozen=True):
    """`[experiments]`: how paths may be measured."""

    # A millionth is the smallest share that is told from none.
    share_percent: Annotated[float, Meta(ge=0.0001, le=100)] | None = None
    most_kbps: _Kbps | None = None
    # A train of eight full packets; fewer tell nothing of a path.
    burst_kb: Annotated[int, Meta(ge=12, le=10_000)] | None = None
    allowed: _Networks | None = None
    forbidden: _Networks | None = None
    estimate_age_s: _Age | None = None
    answer_s: _Seconds | None = None
    warm_s: _Seconds | None = None


class Rates(Struct, frozen=True):
    """`[rates]`: what flows get that name none."""

    default_minimum_kbps: _Kbps | None = None


class Enforcement(Struct, frozen=True):
    """`[enforcement]`: what marks packets and holds flows to their rates."""

    backend: Literal["auto", "bpf", "nftables", "socket-options"] | None = None
    most_flows: _Count | None = None
    queues: Literal["keep", "install"] | None = None
    interfaces: tuple[_Interface, ...] | None = None


class Rule(Struct, frozen=True):
    """`[[rule]]`: what programs get that ask for nothing."""

    name: _RuleName
    program: _Program | None = None
    user: _User | None = None
    unit: _Unit | None = None
    cgroup: _Cgroup | None = None
    protocol: Literal["tcp", "udp"] | None = None
    local: _Network | None = None
    remote: _Network | None = None
    local_ports: _Ports | None = None
    remote_ports: _Ports | None = None
    dscp: _Dscp | None = None
    traffic_type: (
        Literal["best_effort", "background", "excellent_effort", "audio_video", "voice", "control"]
        | None
    ) = None
    rate_kbps: _Kbps | None = None


class Sink(Struct, frozen=True):
    """`[sink]`: answering the experiments of others."""

    enabled: bool = True
    sessions: _Count | None = None
    sessions_per_peer: _Count | None = None
    datagrams_per_s: _Rate | None = None
    peer_datagrams_per_s: _Rate | None = None


class Metrics(Struct, frozen=True):
    """`[metrics]`: numbers for collectors, as Prometheus."""

    listen: _Listen | None = None
    beyond_this_host: bool = False
    # Six series for each; a collector's store has room for some thousands of a host.
    paths: Annotated[int, Meta(ge=0, le=1_000)] | None = None


class Settings(Struct, frozen=True):
    """The whole of `qwaved.toml`."""

    service: Service = Service()
    access: Access = Access()
    marks: Marks = Marks()
    limits: ClientLimits = ClientLimits()
    experiments: Experiments = Experiments()
    rates: Rates = Rates()
    enforcement: Enforcement = Enforcement()
    sink: Sink = Sink()
    metrics: Metrics = Metrics()


class PolicyFile(Struct, frozen=True):
    """The whole of a file in `policy.d`: what concerns flows, not the service itself."""

    access: Access = Access()
    marks: Marks = Marks()
    limits: ClientLimits = ClientLimits()
    experiments: Experiments = Experiments()
    rates: Rates = Rates()
    rule: tuple[Rule, ...] = ()
