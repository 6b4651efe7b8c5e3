"""What the engine wants done: kernel state applied, requests answered, paths measured.

`Apply` carries desired state, not commands: for each socket it touches, *all* flows that
the socket is in and how each is to be treated. Applying the same plan twice changes
nothing; an empty list of shares asks for the socket's own options back. Whether a
mechanism can express the plan is the mechanism's to say.

Each request is answered exactly once: with `Answer` among the effects of the request
itself, or with one that a later input brings, or, when it was cancelled or its flow or
handle ended, with the refusal ERROR_OPERATION_ABORTED.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from openqwave.model.value import value

if TYPE_CHECKING:
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.errors import Refusal
    from openqwave.model.estimates import Fundamentals
    from openqwave.model.flow import PacketPriority, Transport, Treatment
    from openqwave.model.path import PathFacts, PathStatus
    from openqwave.model.traffic import FlowTraffic


@value
class Share:
    """One flow's part in one socket.

    Attributes:
        flow_id: The flow.
        treatment: What its packets get.
        sockets_in_flow: How many sockets share the flow's rate.
        destinations: Where this socket's part of the flow goes.
    """

    flow_id: int
    treatment: Treatment
    sockets_in_flow: int
    destinations: tuple[Endpoint, ...]


@value
class SocketPlan:
    """Everything wanted of one socket; no shares means: as the application had it.

    Attributes:
        cookie: The kernel's name for it.
        shares: The flows that it is in, oldest first.
        transport: Its protocol; None where nothing is wanted of it any more.
        namespace: The kernel's name for its network namespace; 0 where that is not known.
        interface: Index of the interface that it is bound to; 0 for none.
    """

    cookie: int
    shares: tuple[Share, ...]
    transport: Transport | None = None
    namespace: int = 0
    interface: int = 0


@value
class Apply:
    """Make the kernel so; report with `Engine.receive_applied` before anything else."""

    plans: tuple[SocketPlan, ...]


Value: TypeAlias = (
    "int | tuple[int, ...] | Fundamentals | PacketPriority | PathStatus | FlowTraffic | None"
)


@value
class Answer:
    """The end of a request: its value, or why not."""

    request_id: int
    result: Value | Refusal


@value
class ReadTraffic:
    """Answer a request with what the kernel counted of a flow, or that nothing counts there."""

    request_id: int
    flow_id: int


@value
class Applied:
    """The kernel took the plan.

    Attributes:
        gone: The sockets that no longer exist, by cookie.
        untagged: The flows whose 802.1p priority this mechanism does not put on packets.
    """

    gone: frozenset[int] = frozenset()
    untagged: frozenset[int] = frozenset()


@value
class StartExperiments:
    """Begin to measure a path; tell by `Engine.receive_path_view`, `receive_experiments_ended`."""

    facts: PathFacts


@value
class StopExperiments:
    """End it; nothing is to be told of that any more."""

    host: Endpoint


@value
class SetEffort:
    """How much is wanted of a path's experiments: quick news, or little traffic."""

    host: Endpoint
    is_alert: bool


@value
class MeasureAfresh:
    """Somebody waits for numbers that are measured from now on."""

    host: Endpoint


Experiment: TypeAlias = StartExperiments | StopExperiments | SetEffort | MeasureAfresh
Effect: TypeAlias = Apply | Answer | ReadTraffic | Experiment
