"""Every metric: its name, its kind, its labels, and what it says.

Names follow Prometheus' convention: a prefix, base units (seconds, bytes), the unit at the end,
`_total` for what only grows. Rates are bytes a second, since bytes are the base unit, though
everything else here speaks of bits; a dashboard multiplies by eight.

The number of series is bounded whatever clients do: labels are of fixed sets, but for incidents and
interfaces, which are few, and paths, of which `[metrics] paths` are shown at most.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.Enum):
    """What a number may do; the value is the format's word."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As it is asked for, without what a kind puts at its end (`_total`, `_info`).
        kind: What it may do.
        text: What it says, in one sentence.
        labels: The names of its labels.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()

    @property
    def sample(self) -> str:
        """The name of its samples; a histogram's have more at the end."""
        ends = {Kind.COUNTER: "_total", Kind.INFO: "_info"}
        return self.name + ends.get(self.kind, "")


SERVICE: Final = Metric(
    "qwave_build",
    Kind.INFO,
    "The version of the service.",
    ("version",),
)
ENFORCEMENT: Final = Metric(
    "qwave_enforcement",
    Kind.INFO,
    "What marks packets and holds flows to their rates.",
    ("mechanism",),
)
CONNECTIONS: Final = Metric(
    "qwave_connections", Kind.GAUGE, "Connections of programs to the service."
)
HANDLES: Final = Metric("qwave_handles", Kind.GAUGE, "Connections that have said hello.")
FLOWS: Final = Metric(
    "qwave_flows",
    Kind.GAUGE,
    "Flows of all programs.",
    ("traffic_type", "path_state"),
)
REQUESTS: Final = Metric(
    "qwave_requests",
    Kind.COUNTER,
    "Requests that were answered: done, or refused with an error.",
    ("request", "result"),
)
DURATION: Final = Metric(
    "qwave_request_duration_seconds",
    Kind.HISTOGRAM,
    "Time from having read a request to having its answer, or to having it wait for an event.",
    ("request",),
)
INCIDENTS: Final = Metric(
    "qwave_incidents",
    Kind.COUNTER,
    "What went wrong with connections.",
    ("incident",),
)
CHANGES: Final = Metric(
    "qwave_enforcement_changes",
    Kind.COUNTER,
    "Changes that were made to what becomes of packets.",
)
ENFORCEMENT_ERRORS: Final = Metric(
    "qwave_enforcement_errors",
    Kind.COUNTER,
    "Changes that could not be made, by the error that programs were told.",
    ("error",),
)
RECONCILE_ERRORS: Final = Metric(
    "qwave_enforcement_reconcile_errors",
    Kind.COUNTER,
    "Failures to bring back what others had taken out of the kernel.",
)
UNSERVED: Final = Metric(
    "qwave_unserved_interfaces",
    Kind.GAUGE,
    "Interfaces at which the kernel's program is wanted and cannot be.",
)
RUNS: Final = Metric(
    "qwave_runs", Kind.GAUGE, "Programs that are not changed and that users have treated."
)
RULES: Final = Metric(
    "qwave_rules",
    Kind.GAUGE,
    "Rules of the policy for such programs: those in force, and those that are for no traffic now "
    "or cannot be carried out.",
    ("state",),
)
PACKETS: Final = Metric(
    "qwave_sent_packets",
    Kind.COUNTER,
    "Packets of flows that left, within their contract or in excess of it.",
    ("conformance",),
)
BYTES: Final = Metric(
    "qwave_sent_bytes",
    Kind.COUNTER,
    "Bytes of these packets, IP headers included.",
    ("conformance",),
)
DROPPED: Final = Metric(
    "qwave_dropped_packets",
    Kind.COUNTER,
    "Packets of flows that were dropped because too much waited for its turn.",
)
PATHS: Final = Metric("qwave_paths", Kind.GAUGE, "Paths that are known of.")
PATHS_LEFT_OUT: Final = Metric(
    "qwave_paths_left_out",
    Kind.GAUGE,
    "Paths beyond the number of which single numbers are given.",
)
CONGESTED: Final = Metric(
    "qwave_congested_paths", Kind.GAUGE, "Paths on which queues stand or packets are lost."
)
CONGESTION: Final = Metric(
    "qwave_path_congestion_seconds",
    Kind.COUNTER,
    "Time for which paths were congested, of all paths together.",
)
PROBE_BYTES: Final = Metric(
    "qwave_probe_bytes",
    Kind.COUNTER,
    "What experiments have sent, IP headers included, on all paths together.",
)
_PATH: Final = ("host", "interface")
PATH_CAPACITY: Final = Metric(
    "qwave_path_capacity_bytes_per_second",
    Kind.GAUGE,
    "The estimate of what a path carries.",
    _PATH,
)
PATH_AVAILABLE: Final = Metric(
    "qwave_path_available_bytes_per_second",
    Kind.GAUGE,
    "The estimate of what of it is free.",
    _PATH,
)
PATH_HELD: Final = Metric(
    "qwave_path_held_bytes_per_second",
    Kind.GAUGE,
    "What contracts hold of a path.",
    _PATH,
)
PATH_RTT: Final = Metric(
    "qwave_path_rtt_seconds",
    Kind.GAUGE,
    "The estimate of the round-trip time.",
    _PATH,
)
PATH_AGE: Final = Metric(
    "qwave_path_estimate_age_seconds",
    Kind.GAUGE,
    "How old the estimates of a path are.",
    _PATH,
)
PATH_CONGESTED: Final = Metric(
    "qwave_path_congested",
    Kind.GAUGE,
    "Whether a path is congested: 1, or 0; nothing while that is unknown.",
    _PATH,
)
COLLECTING: Final = Metric(
    "qwave_metrics_collection_seconds",
    Kind.GAUGE,
    "How long it took to collect these numbers.",
)
CPU: Final = Metric(
    "process_cpu_seconds", Kind.COUNTER, "Time of processors that the service has used."
)
STARTED: Final = Metric(
    "process_start_time_seconds", Kind.GAUGE, "When the service was started, since 1970."
)
RESIDENT: Final = Metric(
    "process_resident_memory_bytes", Kind.GAUGE, "Memory that the service has in use."
)
VIRTUAL: Final = Metric(
    "process_virtual_memory_bytes", Kind.GAUGE, "Memory that the service has mapped."
)
DESCRIPTORS: Final = Metric(
    "process_open_fds", Kind.GAUGE, "Descriptors that the service has open."
)
MOST_DESCRIPTORS: Final = Metric(
    "process_max_fds", Kind.GAUGE, "Descriptors that it may have open."
)

# In the order in which they are shown.
METRICS: Final = (
    SERVICE,
    ENFORCEMENT,
    CONNECTIONS,
    HANDLES,
    FLOWS,
    REQUESTS,
    DURATION,
    INCIDENTS,
    CHANGES,
    ENFORCEMENT_ERRORS,
    RECONCILE_ERRORS,
    UNSERVED,
    RUNS,
    RULES,
    PACKETS,
    BYTES,
    DROPPED,
    PATHS,
    PATHS_LEFT_OUT,
    CONGESTED,
    CONGESTION,
    PROBE_BYTES,
    PATH_CAPACITY,
    PATH_AVAILABLE,
    PATH_HELD,
    PATH_RTT,
    PATH_AGE,
    PATH_CONGESTED,
    COLLECTING,
    CPU,
    STARTED,
    RESIDENT,
    VIRTUAL,
    DESCRIPTORS,
    MOST_DESCRIPTORS,
)
