"""What lists and the status consist of: flows, paths and the service, for people.

Rows are flat and say everything by words and numbers, so that a program in another language can
print them without knowing the model. What is not known, or not there, is left out.
"""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """What all rows are."""


class SocketRow(Row, frozen=True, kw_only=True, gc=False):
    """One socket of a flow.

    Attributes:
        cookie: The kernel's name for it.
        protocol: ``tcp`` or ``udp``.
        local: Its own address and port, if they are known.
        destinations: Where its part of the flow goes, the first few.
    """

    cookie: int
    protocol: str
    local: str | None = None
    destinations: tuple[str, ...] = ()


class FlowRow(Row, frozen=True, kw_only=True, gc=False):
    """One flow.

    Attributes:
        flow: Its id.
        pid: The process that made it.
        program: What that calls itself.
        user: Whose it is, by name.
        uid: By number.
        adaptive: Whether it is admitted against its path.
        traffic_type: In words.
        marking: What its marks follow, in words.
        dscp: The code point that its packets really have; None where they are left as they were.
        pcp: The 802.1p priority, likewise.
        priority: For this host's own queues, likewise.
        contract_bps: What it may send; None without a contract.
        shaping: What becomes of the excess, in words; None without a contract.
        sending_bps: What it sends now; None where nobody counts.
        sent_packets: What it has sent, without what was above its contract; None where nobody
            counts. So for the next four.
        sent_bytes: Bytes of these IP packets.
        excess_packets: What was above its contract and was sent with the marks for such.
        excess_bytes: Bytes of these.
        dropped_packets: Not sent, because too much waited for its turn.
        sockets: Its sockets, the first few.
        socket_count: How many they are.
        destination_count: And how many destinations they have.
        host: The far end of its path; None where it has none.
        path_state: What is known of the path, in words.
        backend: What marks its packets.
        backend_reason: Why it is that one.
    """

    flow: int
    pid: int
    program: str
    user: str
    uid: int
    adaptive: bool
    traffic_type: str
    marking: str
    dscp: int | None = None
    pcp: int | None = None
    priority: int | None = None
    contract_bps: int | None = None
    shaping: str | None = None
    sending_bps: int | None = None
    sent_packets: int | None = None
    sent_bytes: int | None = None
    excess_packets: int | None = None
    excess_bytes: int | None = None
    dropped_packets: int | None = None
    sockets: tuple[SocketRow, ...] = ()
    socket_count: int = 0
    destination_count: int = 0
    host: str | None = None
    path_state: str = ""
    backend: str = ""
    backend_reason: str = ""


class PathRow(Row, frozen=True, kw_only=True, gc=False):
    """One path.

    Attributes:
        host: The far end.
        interface: The outgoing interface's name.
        source: The local address.
        gateway: The next router; None where the host is on the link.
        link_type: What the interface is, in a word.
        on_link: No router is in between.
        capacity_bps: Of the narrowest link.
        available_bps: What of it is free.
        available_low_bps: It is claimed to be at least this.
        rtt_ns: Round-trip time.
        confidence: How often such claims are right, 0 to 1.
        age_ns: How old the estimates are.
        congested: None while nobody knows.
        congestion_reason: What the verdict rests on, in words.
        held_bps: What contracts hold of it.
        own_bps: What flows under contract send; None while nobody counts.
        sent_bytes: What experiments have sent.
        flow_count: Flows that go there.
        tracker_count: Handles that track it.
        obstacle: Why nothing is measured now; empty where it is.
        is_remembered: The estimates are from an earlier run of the service.
    """

    host: str
    interface: str = ""
    source: str = ""
    gateway: str | None = None
    link_type: str = ""
    on_link: bool = False
    capacity_bps: int | None = None
    available_bps: int | None = None
    available_low_bps: int | None = None
    rtt_ns: int | None = None
    confidence: float = 0.0
    age_ns: int | None = None
    congested: bool | None = None
    congestion_reason: str = ""
    held_bps: int = 0
    own_bps: int | None = None
    sent_bytes: int = 0
    flow_count: int = 0
    tracker_count: int = 0
    obstacle: str = ""
    is_remembered: bool = False


class BackendRow(Row, frozen=True, kw_only=True, gc=False):
    """What marks packets, and why it is that one."""

    name: str
    reason: str = ""


class InterfaceRow(Row, frozen=True, kw_only=True, gc=False):
    """One interface, where packets leave.

    Attributes:
        name: What it is called.
        is_attached: Whether the mechanism works there.
        words: How, or why not.
        queue: The kind of its root queue.
    """

    name: str
    is_attached: bool
    words: str
    queue: str = ""


class SinkRow(Row, frozen=True, kw_only=True, gc=False):
    """Whether the service answers other hosts' experiments, and why or why not."""

    on: bool
    reason: str = ""


class MemoryRow(Row, frozen=True, kw_only=True, gc=False):
    """Where estimates are kept, and how that goes."""

    path: str
    state: str


class SpokenForRow(Row, frozen=True, kw_only=True, gc=False):
    """How many programs are spoken for, and why none can be.

    Attributes:
        runs: Programs that users had treated.
        rules: Rules of the policy.
        rules_in_force: Of these, those that are carried out now.
        reason: Why none can be; empty where they can.
    """

    runs: int
    rules: int
    rules_in_force: int
    reason: str = ""


class StatusRow(Row, frozen=True, kw_only=True):
    """The service.

    Attributes:
        service: What it calls itself.
        version: Of the software.
        protocol: The highest version of the control protocol that it speaks.
        pid: Its process.
        uptime_ns: Since it started.
        socket: Where it listens.
        config_file: The configuration that is in force; empty for none.
        handles: Open handles.
        flows: Flows.
        paths: Paths.
        peers: Connections.
        lends: Whether descriptors are asked for with each request.
        backend: What marks packets.
        interfaces: Where they leave; only of mechanisms that are attached there.
        sink: Whether it answers other hosts' experiments.
        memory: Where estimates are kept.
        programs: Of those that ask for nothing.
        counters: Incidents and the like, by name; for administrators.
        sees_all: Whether who asks is one, and is shown what is other users'.
    """

    service: str
    version: str
    protocol: int
    pid: int
    uptime_ns: int
    socket: str
    config_file: str
    handles: int
    flows: int
    paths: int
    peers: int
    lends: bool
    backend: BackendRow
    sink: SinkRow
    memory: MemoryRow
    interfaces: tuple[InterfaceRow, ...] = ()
    programs: SpokenForRow | None = None
    counters: dict[str, int] = {}
    sees_all: bool = False
