"""Plans become elements of a table of nftables; for hosts that refuse BPF.

Each flow of a socket may have other marks, for each destination, also where the socket is not
connected. Bytes and packets of each flow are counted by the kernel.

**What it cannot do** is refused, with what to do instead: telling packets above a rate from those
below (nft's own `limit` has a bucket of a whole second), and holding UDP to a rate. TCP is held to
its rate by the option of its socket, which whoever puts mechanisms together sees to. 802.1p tags
are left out and said to be (`Applied.untagged`).

**What it goes by** is addresses, not sockets. The local ones are asked of the socket when a plan
comes, so a UDP socket must have a port. An application that sends with another source address than
it is bound to (IP_PKTINFO) is not seen. Elements of a closed socket go when the kernel tells that
it was closed (`take_gone`), or when a plan finds it gone.

A mark without a priority, which policy never asks for, gets the priority that the socket has when
the plan comes.

It belongs to the network namespace of the thread that makes it, and may be used from any.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.enforcement.missing import MechanismMissing
from openqwave.enforcement.nft.claims import Change, Claims, Clash, Wanted, place_of
from openqwave.enforcement.nft.closed import ClosedSockets
from openqwave.enforcement.nft.elements import (
    NOTHING,
    Count,
    Element,
    Message,
    Place,
    putting,
    read_count,
    taking,
)
from openqwave.enforcement.nft.library import Nft
from openqwave.enforcement.nft.names import LocalName, name_of, place_to
from openqwave.enforcement.nft.netlink import Netfilter
from openqwave.enforcement.nft.table import CHANGED, ForeignTable, OwnTable
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal, refusal_of_os_error
from openqwave.model.flow import Transport, Treatment
from openqwave.model.sockets import Elsewhere, OutOfReach
from openqwave.model.traffic import FlowTraffic
from openqwave.subsystem.effects import Applied, SocketPlan

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from openqwave.enforcement.socket_options import Sockets

_NO_METER: Final = (
    "nftables cannot tell packets above a rate from those below; choose shaping, or let the "
    "service use BPF (CAP_BPF)"
)
_NO_UDP_SHAPING: Final = (
    "nftables cannot hold UDP to a rate; let the service use BPF (CAP_BPF), or pace in the program"
)
_NO_PORT: Final = (
    "the socket has no local port yet, and nftables knows sockets by their addresses: "
    "bind or connect it first"
)
_ELSEWHERE: Final = (
    "the socket is in another network namespace than the table; only its own options reach it"
)
_CLASH: Final = (
    "another socket sends from the same port to the same destination in a flow of another type, "
    "and nftables cannot tell their packets apart: use another port"
)
_NO_RIGHT: Final = (
    "nftables needs CAP_NET_ADMIN in the network namespace; run the service as root, or give it "
    "that right (AmbientCapabilities= in its unit)"
)
_NO_NFTABLES: Final = (
    "the kernel has no nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET); load the module "
    "nf_tables, or let the service use BPF"
)
_ABSENT: Final = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
_DOING: Final = "changing the nftables table failed"
# Asking for one element costs what listing four costs.
_LIST_ABOVE: Final = 4
# Flows without sockets for the time being whose counts are kept: a hundred bytes each.
_REMEMBERED_FLOWS: Final = 65_536
_Listed: TypeAlias = "Mapping[Place, tuple[Element | None, Count]]"


class NftMarks:
    """The backend of a host without BPF."""

    name = "nftables"

    def __init__(self, sockets: Sockets, namespace: int = 0) -> None:
        """Open what is needed; the kernel's tables are as before.

        Args:
            sockets: Finds applications' sockets.
            namespace: The name of the network namespace, as in `SocketPlan`; 0 not to ask.

        Raises:
            MechanismMissing: There is no library, no nftables in the kernel, or no right to it.
        """
        self._sockets = sockets
        self._namespace = namespace
        try:
            nft = Nft()
        except OSError as error:
            raise MechanismMissing(error.strerror) from None
        try:
            kernel = Netfilter()
        except OSError as error:
            nft.close()
            raise _missing(error) from None
        self._table = OwnTable(kernel, nft)
        try:
            kernel.generation()
            self._closed = ClosedSockets()
        except OSError as error:
            self._table.close()
            raise _missing(error) from None
        self._claims = Claims()
        self._names: dict[int, LocalName] = {}
        # Closed sockets whose elements the kernel would not take away yet.
        self._closing: set[int] = set()
        # What elements had counted that are no more, by flow.
        self._ended: dict[int, Count] = {}

    def apply(self, plans: tuple[SocketPlan, ...]) -> Applied | Refusal:
        """See `openqwave.enforcement.backend.Backend.apply`."""
        gone: set[int] = set()
        untagged: set[int] = set()
        names: dict[int, LocalName] = {}
        wanted: dict[int, Wanted] = {}
        for plan in plans:
            refusal = self._refusal_of(plan)
            if refusal is not None:
                return refusal
            wants: Wanted = {}
            if plan.shares:
                name = self._name(plan.cookie)
                if isinstance(name, Refusal):
                    return name
                if name is None:
                    gone.add(plan.cookie)
                else:
                    names[plan.cookie] = name
                    express = self._express(plan, name)
                    if isinstance(express, Refusal):
                        return express
                    wants = express
                untagged.update(
                    share.flow_id for share in plan.shares if share.treatment.pcp is not None
                )
            wanted[plan.cookie] = wants
        refusal = self._want(wanted)
        if refusal is not None:
            return refusal
        self._names.update(names)
        return Applied(frozenset(gone), frozenset(untagged))

    def observe(self) -> Mapping[int, Treatment]:
        """See `openqwave.enforcement.backend.Backend.observe`.

        Of a socket with flows of several marks, those of its first destination.

        Raises:
            OSError: The kernel would not say.
        """
        found = self._table.counts()
        in_force: dict[int, Treatment] = {}
        for cookie, wants in self._claims.sockets():
            for place, element in wants.items():
                stands, _ = found.get(place_of(place, element), (None, NOTHING))
                if stands is not None and stands.choice:
                    in_force.setdefault(cookie, Treatment(*self._table.marks_of(stands.choice)))
        return in_force

    def clean_up(self) -> None:
        """See `openqwave.enforcement.backend.Backend.clean_up`; needs no memory of what was done.

        Raises:
            OSError: The kernel would not.
        """
        self._table.remove()
        self._claims = Claims()
        self._names.clear()
        self._ended.clear()

    def tags_at(self, interface: int) -> bool:
        """No rule makes tags."""
        del interface
        return False

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        """See `openqwave.enforcement.backend.Backend.traffic`.

        Packets are counted before a device cuts them, a train as one. What passes while an element
        changes its marks, some microseconds, may be left out.

        Raises:
            OSError: The kernel would not say.
        """
        asked = sum(len(self._claims.of_flow(flow_id)) for flow_id in flow_ids)
        listed = self._listed(asked)
        found = {}
        for flow_id in flow_ids:
            places = self._claims.of_flow(flow_id)
            if not places and flow_id not in self._ended:
                continue
            packets, octets = self._ended.get(flow_id, NOTHING)
            for place in places:
                count = self._count(place, listed)
                packets += count[0]
                octets += count[1]
            found[flow_id] = FlowTraffic(packets, octets, 0, 0, 0)
        return found

    def explain(self, cookie: int) -> tuple[str, str]:
        """See `openqwave.enforcement.backend.Backend.explain`."""
        if cookie not in self._claims:
            return self.name, "the socket is in no flow"
        name = self._names[cookie]
        if name.address is None:
            return self.name, "the table knows its packets by port and destination"
        return self.name, "the table knows its packets by both addresses and ports"

    def take_gone(self) -> Collection[int]:
        """See `openqwave.enforcement.backend.Backend.take_gone`; their elements are gone, too.

        Where the kernel will not take them away now, they go at the next time.
        """
        gone = {cookie for cookie in self._closed.take() if cookie in self._claims}
        self._closing |= gone
        if self._closing and self._want({cookie: {} for cookie in self._closing}) is None:
            self._closing.clear()
        return gone

    def outlives(self, cookie: int) -> bool:  # noqa: ARG002 - none does
        """What is closed is not treated any more."""
        return False

    def reconcile(self) -> None:
        """See `openqwave.enforcement.backend.Backend.reconcile`.

        Raises:
            ForeignTable: Somebody made a table of our name.
            OSError: The kernel would not.
        """
        if not self._table.is_whole(self._claims.elements()):
            self._put_back()

    def close(self) -> None:
        """Give back what is open; the table stays until `clean_up`."""
        self._closed.close()
        self._table.close()

    def _refusal_of(self, plan: SocketPlan) -> Refusal | None:
        """What of a plan is beyond this mechanism, whatever the socket is like."""
        if not plan.shares:
            return None
        if self._namespace and plan.namespace and plan.namespace != self._namespace:
            return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, _ELSEWHERE)
        if any(share.treatment.excess_is_remarked for share in plan.shares):
            return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, _NO_METER)
        return None

    def _name(self, cookie: int) -> LocalName | Refusal | None:
        """The socket's addresses; None when it is gone."""
        known = self._names.get(cookie) if cookie in self._claims else None
        sock = None
        try:
            sock = self._sockets.borrow(cookie)
            if sock is None:
                return None
            name = name_of(sock)
        except Elsewhere:
            return None
        except OutOfReach as error:
            return known or refusal_of_os_error(error, "asking for the socket's address failed")
        except OSError as error:
            if error.errno == errno.EBADF:
                return None
            return refusal_of_os_error(error, "asking for the socket's address failed")
        finally:
            self._sockets.give_back(sock)
        return known if known is not None and known.address is None else name

    def _express(self, plan: SocketPlan, name: LocalName) -> Wanted | Refusal:
        """The elements of a plan."""
        if not name.port:
            return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, _NO_PORT)
        wants: dict[Place, Element] = {}
        for share in plan.shares:
            treatment = share.treatment
            if treatment.rate_bps is not None and name.transport is Transport.UDP:
                return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, _NO_UDP_SHAPING)
            choice = 0
            if treatment.dscp is not None or treatment.queue_priority is not None:
                priority = treatment.queue_priority
                choice = self._table.choice_of(
                    treatment.dscp, name.priority if priority is None else priority
                )
            element = Element(choice, plan.cookie, share.flow_id)
            for destination in share.destinations:
                place = place_to(name, destination)
                if place is not None and wants.setdefault(place, element).choice != choice:
                    return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, _CLASH)
        return wants

    def _want(self, wanted: Mapping[int, Wanted]) -> Refusal | None:
        """Bring some sockets' elements to what they are to be, all or none."""
        try:
            changes = self._claims.consider(wanted)
            if changes:
                self._carry_out(changes)
        except Clash:
            return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, _CLASH)
        except ForeignTable as error:
            return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, str(error))
        except OSError as error:
            return refusal_of_os_error(error, _DOING)
        self._claims.keep(wanted, changes)
        for cookie in wanted:
            if cookie not in self._claims:
                self._names.pop(cookie, None)
        return None

    def _carry_out(self, changes: list[Change]) -> None:
        """Change elements; where others were at the table, put it back first."""
        try:
            self._try(changes)
        except OSError as error:
            if error.errno not in CHANGED:
                raise
            self._put_back()
            self._try(changes)

    def _try(self, changes: list[Change]) -> None:
        containers = [
            place_of(change.place, change.after)[0]
            for change in changes
            if change.after is not None
        ]
        self._table.prepare(containers, self._claims.elements())
        listed = self._listed(len(changes))
        messages: list[Message] = []
        ended: list[tuple[int, Count]] = []
        for change in changes:
            before, after = change.before, change.after
            count = NOTHING
            if before is not None:
                place = place_of(change.place, before)
                count = self._count(place, listed)
                messages.append(taking(place))
                if after is None or after.flow_id != before.flow_id:
                    ended.append((before.flow_id, count))
                    count = NOTHING
            if after is not None:
                messages.append(putting(place_of(change.place, after), after, count))
        self._table.change(messages)
        for flow_id, count in ended:
            self._remember(flow_id, count)

    def _count(self, place: Place, listed: _Listed | None) -> Count:
        """What an element has counted."""
        if listed is None:
            return read_count(self._table.kernel, place) or NOTHING
        return listed.get(place, (None, NOTHING))[1]

    def _listed(self, asked: int) -> _Listed | None:
        """All counts, where many are asked for; None where one by one is faster."""
        return self._table.counts() if asked * _LIST_ABOVE > len(self._claims) else None

    def _put_back(self) -> None:
        counted = self._table.counts()
        self._table.put_back(self._claims.elements())
        for element, count in counted.values():
            if element is not None:
                self._remember(element.flow_id, count)

    def _remember(self, flow_id: int, count: Count) -> None:
        """Add what an element had counted to what its flow keeps."""
        packets, octets = self._ended.pop(flow_id, NOTHING)
        self._ended[flow_id] = packets + count[0], octets + count[1]
        if len(self._ended) > _REMEMBERED_FLOWS:
            del self._ended[next(iter(self._ended))]


def _missing(error: OSError) -> MechanismMissing:
    if error.errno == errno.EPERM:
        return MechanismMissing(_NO_RIGHT)
    if error.errno in _ABSENT:
        return MechanismMissing(_NO_NFTABLES)
    return MechanismMissing(
        f"asking for the kernel's tables failed ({error.strerror}); see whether nft list tables "
        "works, and restart the service"
    )
