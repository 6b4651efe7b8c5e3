"""How a host is reached, as the kernel has it at this moment.

The kernel is asked for each host anew (RTM_GETROUTE), so its answer honours policy routing,
metrics, what it has learnt of the path's MTU, and all that changed a moment ago; a table held here
could not. The same message carries a second question: which entry of the table that was
(RTM_F_FIB_MATCH), because the length of its prefix tells a link's own network from a default
route, by the rules of `openqwave.drivers.adjacency`. A third one is for the neighbour. Together
they take a few dozen microseconds.

**Neighbours** that have failed to answer are believed to be absent for `FAILED_NS`, and not
longer: the kernel keeps the entry of a failure until somebody sends there again, which may be
never, and the host may have come back meanwhile. Under an application that goes on sending, an
entry is failed only for an instant in three seconds; who hears of it (`PathChanges`) hands it over
by `hear_failures`.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from openqwave.drivers.adjacency import is_of_a_link, table_of
from openqwave.drivers.interfaces import Interfaces
from openqwave.drivers.netlink import Attributes, Netlink, attribute, attributes, number
from openqwave.drivers.pathchanges import PathChanges
from openqwave.drivers.rtnetlink import (
    NDA_DST,
    NEIGHBOUR,
    NUD_FAILED,
    NUD_INCOMPLETE,
    ROUTE,
    RTA_DST,
    RTA_ENCAP_TYPE,
    RTA_OIF,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTN_LOCAL,
    RTN_UNICAST,
    gateway_of,
    read_links,
)
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal, error_of, refusal_of_os_error
from openqwave.model.estimates import Unmeasurable
from openqwave.model.path import PathFacts

if TYPE_CHECKING:
    from openqwave.drivers.rtnetlink import Network

__all__ = ["PathChanges", "Pathfinder", "read_links"]

# How long a neighbour that did not answer counts as absent. The kernel gives up after three
# seconds; an application that waits for a host tries again every few.
FAILED_NS = 10_000_000_000
# Hosts whose interface is remembered, so that a route that is missing can be told from an interface
# that took it along. The oldest go first.
_MOST_REMEMBERED = 4_096

_RTM_F_FIB_MATCH = 0x2000
_RTA_PREFSRC = 7
_RTA_METRICS = 8
_RTAX_MTU = 2
_NDA_CACHEINFO = 3
_INT = struct.Struct("=i")
# struct nda_cacheinfo up to the time since the last turn, in ticks of 10 ms.
_AGES = struct.Struct("=8xI")
_NS_PER_TICK = 10_000_000

_RTN_BROADCAST, _RTN_ANYCAST, _RTN_MULTICAST = 3, 4, 5
# Who is no single far end.
_NO_HOST: Final = {
    RTN_LOCAL: "is this host's own address",
    _RTN_BROADCAST: "is a broadcast address",
    _RTN_ANYCAST: "is this host's own address",
    _RTN_MULTICAST: "is a multicast address",
}
# 255.255.255.255 is everybody on a link even where no route says so.
_EVERYBODY: Final = b"\xff" * 4

# What the kernel says of a neighbour that it does not know, of an interface that is gone, and
# of the question before Linux 5.0.
_NO_ENTRY: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL})

_Neighbour: TypeAlias = "tuple[int, bytes]"


@dataclass(frozen=True, slots=True)
class _Way:
    """What the kernel answered about a destination; `mtu_bytes` is 0 where the route has none."""

    interface: int
    source: bytes
    gateway: bytes
    mtu_bytes: int
    is_direct: bool


class Pathfinder:
    """Answers how hosts are reached; for any thread.

    The network namespace is that of the thread that made it.
    """

    def __init__(
        self, allowed: Sequence[str | Network] = (), forbidden: Sequence[str | Network] = ()
    ) -> None:
        """Prepare to ask.

        Args:
            allowed: Networks that may be measured though a router is between.
            forbidden: Networks that the administrator closes.

        Raises:
            InvalidParameter: One of them is no network.
            QosError: The kernel cannot be asked.
        """
        self._allowed = table_of(allowed)
        self._forbidden = table_of(forbidden)
        self._lock = threading.Lock()
        self._last_interface: dict[Endpoint, int] = {}
        self._failures_ns: dict[_Neighbour, int] = {}
        try:
            self._netlink = Netlink(socket.NETLINK_ROUTE)
            try:
                self._interfaces = Interfaces(self._netlink)
            except BaseException:
                self._netlink.close()
                raise
        except OSError as error:
            raise error_of(refusal_of_os_error(error, "routes cannot be looked up")) from error

    def allow(self, allowed: Sequence[str | Network], forbidden: Sequence[str | Network]) -> None:
        """Judge by other networks from now on; arguments as at first.

        Raises:
            InvalidParameter: One of them is no network; then nothing changes.
        """
        tables = table_of(allowed), table_of(forbidden)
        with self._lock:
            self._allowed, self._forbidden = tables

    def find(self, host: Endpoint, *, interface: int = 0) -> PathFacts | Unmeasurable | Refusal:
        """How a host is reached.

        Args:
            host: Whom to reach; the port does not matter.
            interface: The one that the socket is bound to, or 0.

        Returns:
            The way there. `Unmeasurable` where no path can be measured: no single far end, or one
            behind a router and not allowed. Otherwise a refusal: ERROR_HOST_UNREACHABLE without a
            route, or where the router does not answer; ERROR_ADAP_HDW_ERR where the interface is
            down or gone; ERROR_BAD_NET_NAME where the host is on the link and does not answer;
            ERROR_ACCESS_DISABLED_BY_POLICY in a forbidden network; ERROR_INVALID_PARAMETER for a
            link-local address without an interface.

        Raises:
            QosError: The kernel could not be asked.
        """
        host = host.unmapped().host()
        if self._forbidden.best(host.packed) is not None:
            return Refusal(
                ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY,
                f"the administrator forbids paths to {host.address}",
            )
        if host.is_multicast or host.is_unspecified or host.packed == _EVERYBODY:
            return Unmeasurable(f"{host.address} is no single host")
        interface = host.scope_id or interface
        if host.is_link_local and not interface:
            return Refusal(
                ErrorCode.ERROR_INVALID_PARAMETER,
                f"{host.address} is a link-local address: it needs the scope id of an interface",
            )
        with self._lock:
            try:
                return self._find(host, interface)
            except OSError as error:
                raise error_of(refusal_of_os_error(error, "the route cannot be read")) from error

    def _find(self, host: Endpoint, interface: int) -> PathFacts | Unmeasurable | Refusal:
        self._interfaces.hear()
        if interface and not self._interfaces.is_usable(interface):
            return self._adapter_failed(host, interface)
        way = self._ask_way(host, interface)
        if isinstance(way, Refusal):
            # An interface that goes down takes its routes along.
            last = self._last_interface.get(host, 0)
            if last and not self._interfaces.is_usable(last):
                return self._adapter_failed(host, last)
        if not isinstance(way, _Way):
            return way
        self._remember(host, way.interface)
        known = self._interfaces.find(way.interface)
        if known is None or not known.is_up:
            return self._adapter_failed(host, way.interface)
        if not way.is_direct and self._allowed.best(host.packed) is None:
            return Unmeasurable(
                f"{host.address} is behind a router; it is measured if its network is allowed"
            )
        if self._has_failed(way.interface, way.gateway or host.packed):
            if not way.gateway:
                return Refusal(
                    ErrorCode.ERROR_BAD_NET_NAME, f"nobody on the link answers to {host.address}"
                )
            return Refusal(
                ErrorCode.ERROR_HOST_UNREACHABLE, f"the router to {host.address} does not answer"
            )
        return PathFacts(
            host,
            way.interface,
            known.name,
            way.source,
            way.gateway,
            way.mtu_bytes or known.mtu_bytes,
            known.link_type,
            known.speed_bps,
        )

    def neighbour_failed(self, host: Endpoint) -> bool:
        """Is the first hop towards a host, itself or a router, known not to answer?

        Raises:
            QosError: The kernel could not be asked.
        """
        host = host.unmapped().host()
        with self._lock:
            try:
                way = self._ask_way(host, host.scope_id)
                return isinstance(way, _Way) and self._has_failed(
                    way.interface, way.gateway or host.packed
                )
            except OSError as error:
                raise error_of(refusal_of_os_error(error, "neighbours cannot be read")) from error

    def hear_failures(self, neighbours: Iterable[_Neighbour]) -> None:
        """Learn of neighbours that have just been announced to have failed."""
        now_ns = time.monotonic_ns()
        with self._lock:
            for neighbour in [
                one for one, at_ns in self._failures_ns.items() if now_ns - at_ns > FAILED_NS
            ]:
                del self._failures_ns[neighbour]
            self._failures_ns.update(dict.fromkeys(neighbours, now_ns))

    # -- routes -----------------------------------------------------------------------

    def _ask_way(self, host: Endpoint, interface: int) -> _Way | Unmeasurable | Refusal:
        questions = [_route_question(host, interface, flags) for flags in (0, _RTM_F_FIB_MATCH)]
        answer, entry = self._netlink.ask_each(RTM_GETROUTE, questions)
        if isinstance(answer, OSError):
            return self._no_route(host, interface, answer)
        kind, found = _route(answer)
        if kind in _NO_HOST:
            return Unmeasurable(f"{host.address} {_NO_HOST[kind]}")
        if kind != RTN_UNICAST:
            return self._unreachable(host, "the route leads nowhere")
        gateway = gateway_of(found)
        # Before Linux 4.13 the entry is not told, and every prefix looks like one host's.
        bits = ROUTE.unpack_from(entry)[1] if isinstance(entry, bytes) else 0
        return _Way(
            number(found, RTA_OIF),
            found.get(_RTA_PREFSRC, b""),
            gateway,
            number(attributes(found.get(_RTA_METRICS, b"")), _RTAX_MTU),
            not gateway
            and RTA_ENCAP_TYPE not in found
            and (host.is_link_local or is_of_a_link(host.version, bits)),
        )

    def _no_route(self, host: Endpoint, interface: int, error: OSError) -> Refusal:
        if interface and error.errno == errno.ENODEV:
            return self._adapter_failed(host, interface)
        if error.errno in (errno.ENOMEM, errno.ENOBUFS):
            raise error
        return self._unreachable(host, error.strerror or str(error))

    def _unreachable(self, host: Endpoint, why: str) -> Refusal:
        return Refusal(ErrorCode.ERROR_HOST_UNREACHABLE, f"no route to {host.address}: {why}")

    def _remember(self, host: Endpoint, interface: int) -> None:
        self._last_interface[host] = interface
        if len(self._last_interface) > _MOST_REMEMBERED:
            del self._last_interface[next(iter(self._last_interface))]

    def _adapter_failed(self, host: Endpoint, index: int) -> Refusal:
        known = self._interfaces.find(index)
        what = f"number {index} is gone" if known is None else f"{known.name} is down"
        return Refusal(ErrorCode.ERROR_ADAP_HDW_ERR, f"interface {what}; it led to {host.address}")

    # -- neighbours -------------------------------------------------------------------

    def _has_failed(self, interface: int, packed: bytes) -> bool:
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        question = NEIGHBOUR.pack(family, interface, 0, 0, 0) + attribute(NDA_DST, packed)
        (answer,) = self._netlink.ask_each(RTM_GETNEIGH, [question])
        if isinstance(answer, OSError):
            if answer.errno not in _NO_ENTRY:
                raise answer
            return False
        state = NEIGHBOUR.unpack_from(answer)[2]
        if state & NUD_FAILED:
            ages = attributes(answer[NEIGHBOUR.size :]).get(_NDA_CACHEINFO, b"")
            if len(ages) < _AGES.size:
                return True
            ticks: int = _AGES.unpack_from(ages)[0]
            return ticks * _NS_PER_TICK <= FAILED_NS
        if state & NUD_INCOMPLETE:
            failed_ns = self._failures_ns.get((interface, packed))
            return failed_ns is not None and time.monotonic_ns() - failed_ns <= FAILED_NS
        return False

    def close(self) -> None:
        """Ask no more; harmless when done before."""
        self._interfaces.close()
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _route_question(host: Endpoint, interface: int, flags: int) -> bytes:
    packed = host.packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    question = ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, flags)
    question += attribute(RTA_DST, packed)
    return question + attribute(RTA_OIF, _INT.pack(interface)) if interface else question


def _route(body: bytes) -> tuple[int, Attributes]:
    """Type and attributes of a route."""
    return ROUTE.unpack_from(body)[7], attributes(body[ROUTE.size :])
