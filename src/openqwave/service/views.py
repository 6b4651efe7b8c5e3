"""The whole host for people: what the engine keeps, as rows for lists and the status.

Views of flows and paths become rows with names and words in them. The engine is locked for a page
of flows at a time and never while words are made; rows are made one by one, so that a reader who
has room for a hundred does not wait for a hundred thousand.

**Rate now.** The engine knows what is sent on measured paths. For other TCP sockets, and for flows
that a program in the kernel counts, `sending.SendingRates` counts as soon as somebody looks. Of UDP
nothing is known without such a program.

**What marks a flow.** What the mechanism says that it does for the flow's first socket; or, by
treatment and settings, why nothing is done.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from openqwave.ipc.messages import (
    PROTOCOL_VERSION,
    BackendRow,
    FlowRow,
    InterfaceRow,
    MemoryRow,
    PathRow,
    SinkRow,
    SocketRow,
    SpokenForRow,
    StatusRow,
)
from openqwave.model.endpoint import address_text
from openqwave.model.flow import Transport
from openqwave.service.shownflows import NO_RATES, page_of_flows
from openqwave.subsystem.flows import Marking

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from openqwave.model.endpoint import Endpoint
    from openqwave.model.path import PathFacts
    from openqwave.model.traffic import FlowTraffic
    from openqwave.runtime.runtime import Runtime
    from openqwave.service.sending import SendingRates
    from openqwave.service.shownflows import Rates, ShownFlow
    from openqwave.subsystem.views import FlowView, PathOverview

# So many flows or paths are looked at while the engine is locked: a tenth of a millisecond.
AT_ONCE: Final = 50

# Texts of addresses that are remembered: a list that is watched shows the same ones each second.
_REMEMBERED_TEXTS = 16_384

_MARKING_WORDS: Final = {
    Marking.UNADMITTED: "not admitted",
    Marking.BY_TYPE: "by type",
    Marking.BY_DSCP: "exact DSCP",
    Marking.ENDED: "ended",
}
_WITHHELD_WORD: Final = "needs a rate"
_PROTOCOL_WORDS: Final = {Transport.TCP: "tcp", Transport.UDP: "udp"}

NO_BACKEND: Final = "none"
_UNADMITTED: Final = "no rate is admitted yet, so nothing is changed"
_ENDED: Final = "a rate of 0 ended marking and shaping"
_WITHHELD: Final = "policy wants a rate to be set before priority, so nothing is changed"
_UNMARKED: Final = "this traffic type leaves packets as the program makes them"
_UNHELD: Final = "the program paces itself, and these packets get no marks"

_BY_PROGRAM: Final = "the program paces itself"


@dataclass(frozen=True, slots=True)
class OwnerView:
    """Who owns a flow.

    Attributes:
        pid: The process.
        uid: Its user.
        user: By name.
        program: What the program calls itself.
    """

    pid: int
    uid: int
    user: str
    program: str


# -- flows ----------------------------------------------------------------------------


def flow_rows(
    runtime: Runtime,
    describe_owner: Callable[[int], OwnerView],
    after: int,
    *,
    now_ns: int,
    owners: Collection[int] | None = None,
    rates: Rates = NO_RATES,
) -> Iterator[FlowRow]:
    """Flows by ascending ids, as rows that are made as they are taken.

    Args:
        runtime: The subsystem.
        describe_owner: Says who an owner is.
        after: Begin with the first flow whose id is above this.
        now_ns: Monotonic time.
        owners: Only the flows of these processes; all when None.
        rates: Who counts what is sent.
    """
    known: dict[int, OwnerView] = {}
    more = True
    while more:
        page, more = page_of_flows(runtime, after, AT_ONCE, now_ns, owners)
        if rates.sockets is not None:
            rates.sockets.look(one.cookie for each in page for one in each.view.sockets)
        if rates.flows is not None:
            counted = [each.view.flow_id for each in page if each.traffic is not None]
            rates.flows.look(counted)
        for each in page:
            view = each.view
            after = view.flow_id
            owner = known.get(view.owner)
            if owner is None:
                owner = known[view.owner] = describe_owner(view.owner)
            yield flow_row(each, owner, rates)


def counters_of(traffic: FlowTraffic | None) -> dict[str, Any]:
    """What was counted, as rows have it; nothing where nobody counts."""
    if traffic is None:
        return {}
    return {
        "sent_packets": traffic.packets,
        "sent_bytes": traffic.bytes,
        "excess_packets": traffic.excess_packets,
        "excess_bytes": traffic.excess_bytes,
        "dropped_packets": traffic.dropped_packets,
    }


def flow_row(shown: ShownFlow, owner: OwnerView, rates: Rates) -> FlowRow:
    """One flow as a row."""
    view = shown.view
    settings, treatment, marks = view.settings, view.treatment, view.marks
    contract = settings.contract
    name, reason = backend_of(view, *shown.explained)
    return FlowRow(
        flow=view.flow_id,
        pid=owner.pid,
        program=owner.program,
        user=owner.user,
        uid=owner.uid,
        adaptive=view.is_adaptive,
        traffic_type=words_of(settings.traffic_type.name),
        marking=_WITHHELD_WORD if view.is_withheld else _MARKING_WORDS[settings.marking],
        dscp=None if treatment.dscp is None else marks.conformant_dscp,
        pcp=marks.conformant_pcp or None,
        priority=treatment.queue_priority,
        contract_bps=None if contract is None else contract.rate_bps,
        shaping=None if contract is None else words_of(contract.shaping.name),
        sending_bps=rates.of(shown),
        **counters_of(shown.traffic),
        sockets=tuple(
            [
                SocketRow(
                    cookie=one.cookie,
                    protocol=_PROTOCOL_WORDS[one.transport],
                    local=_local(one.cookie, rates.sockets),
                    destinations=tuple([text_of(each) for each in one.destinations]),
                )
                for one in view.sockets
            ]
        ),
        socket_count=view.socket_count,
        destination_count=view.destination_count,
        host=None if view.host is None else host_text(view.host),
        path_state=view.path.value,
        backend=name,
        backend_reason=reason,
    )


def backend_of(view: FlowView, name: str, how: str) -> tuple[str, str]:
    """What carries out a flow's treatment, and how; or that nothing does, and why.

    Args:
        view: The flow.
        name: The mechanism for what is done.
        how: What it says of that.
    """
    treatment, contract = view.treatment, view.settings.contract
    if treatment.dscp is None and treatment.rate_bps is None:
        return NO_BACKEND, _why_nothing(view)
    if contract is not None and treatment.rate_bps is None:
        how += f"; {_BY_PROGRAM}"
    return name, how


def _why_nothing(view: FlowView) -> str:
    settings = view.settings
    if view.is_withheld:
        return _WITHHELD
    if settings.marking is Marking.UNADMITTED:
        return _UNADMITTED
    if settings.marking is Marking.ENDED:
        return _ENDED
    return _UNMARKED if settings.contract is None else _UNHELD


def _local(cookie: int, sending: SendingRates | None) -> str | None:
    local = None if sending is None else sending.local_of(cookie)
    return None if local is None else text_of(local)


# -- paths ----------------------------------------------------------------------------


def path_rows(runtime: Runtime, after: int, *, now_ns: int) -> Iterator[PathRow]:
    """Paths in the order in which they came to be known, as rows that are made as they are taken.

    Args:
        runtime: The subsystem.
        after: How many are left out at the beginning.
        now_ns: Monotonic time.
    """
    more = True
    while more:
        views, more = _path_views(runtime, after, now_ns)
        after += len(views)
        yield from map(path_row, views)


def _path_views(runtime: Runtime, after: int, now_ns: int) -> tuple[tuple[PathOverview, ...], bool]:
    return runtime.look(lambda engine: engine.path_views(after, AT_ONCE, now_ns=now_ns))


def path_row(view: PathOverview) -> PathRow:
    """One path as a row."""
    status = view.status
    facts, known, congestion = status.facts, status.fundamentals, status.congestion
    return PathRow(
        host=host_text(status.host, facts),
        interface="" if facts is None else facts.interface_name,
        source="" if facts is None else address_text(facts.source),
        gateway=None if facts is None else address_text(facts.gateway) or None,
        link_type="" if facts is None else facts.link_type.value,
        on_link=facts is not None and facts.is_on_link,
        capacity_bps=known.bottleneck_bps,
        available_bps=known.available_bps,
        available_low_bps=status.available_low_bps,
        rtt_ns=known.rtt_ns,
        confidence=status.confidence,
        age_ns=status.age_ns,
        congested=congestion.is_congested,
        congestion_reason="" if congestion.reason is None else congestion.reason.value,
        held_bps=status.held_bps,
        own_bps=status.own_bps,
        sent_bytes=status.sent_bytes,
        flow_count=view.flow_count,
        tracker_count=view.tracker_count,
        obstacle=status.obstacle,
        is_remembered=view.is_remembered,
    )


# -- the service ----------------------------------------------------------------------


def status_row(
    runtime: Runtime,
    *,
    service: str,
    version: str,
    started_ns: int,
    now_ns: int,
    socket: str,
    config_file: str,
    handles: int,
    peers: int,
    lends: bool,
    backend: tuple[str, str],
    sink: tuple[bool, str],
    memory: tuple[str, str],
    interfaces: tuple[InterfaceRow, ...] = (),
    programs: SpokenForRow | None = None,
    counters: Mapping[str, int] | None = None,
) -> StatusRow:
    """How the service is.

    Args:
        runtime: The subsystem, which is asked how many flows and paths it has.
        service: What the service calls itself.
        version: Of the software.
        started_ns: When it started, monotonic time.
        now_ns: Now, likewise.
        socket: Where it listens.
        config_file: The configuration that is in force; empty for none.
        handles: Open handles.
        peers: Connections.
        lends: Whether descriptors are asked for with each request.
        backend: What marks packets, and why it is that.
        sink: Whether it answers other hosts' experiments, and why or why not.
        memory: Where estimates are kept, and how that goes.
        interfaces: Where packets leave.
        programs: Of those that ask for nothing.
        counters: Incidents and the like; None for whoever may not see them.
    """
    flows, paths = runtime.look(lambda engine: (engine.flow_count, engine.path_count))
    return StatusRow(
        service=service,
        version=version,
        protocol=PROTOCOL_VERSION,
        pid=os.getpid(),
        uptime_ns=now_ns - started_ns,
        socket=socket,
        config_file=config_file,
        handles=handles,
        flows=flows,
        paths=paths,
        peers=peers,
        lends=lends,
        backend=BackendRow(name=backend[0], reason=backend[1]),
        sink=SinkRow(on=sink[0], reason=sink[1]),
        memory=MemoryRow(path=memory[0], state=memory[1]),
        interfaces=interfaces,
        programs=programs,
        counters=dict(counters or {}),
        sees_all=counters is not None,
    )


# -- words ----------------------------------------------------------------------------


@lru_cache(maxsize=_REMEMBERED_TEXTS)
def text_of(end: Endpoint) -> str:
    """An address with its port."""
    return str(end)


def host_text(host: Endpoint, facts: PathFacts | None = None) -> str:
    """A host's address; a link-local one with its interface."""
    if not host.scope_id:
        return str(host.address)
    is_known = facts is not None and facts.interface == host.scope_id
    return f"{host.address}%{facts.interface_name if facts and is_known else host.scope_id}"


def words_of(name: str) -> str:
    """A name of an enumeration, as people read it."""
    return name.lower().replace("_", " ")
