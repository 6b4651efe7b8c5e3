"""The UDP socket of the experiments.

What distinguishes it from an ordinary one (MS-QLPB 3.1.1; ip(7), ipv6(7), udp(7), socket(7)):

* One family each, an IPv6 socket for IPv6 alone: options of both families on one socket interfere.
* **Never fragmented.** IP_PMTUDISC_PROBE sets don't-fragment and ignores what routers, or
  whoever forges them, said of the path: a datagram larger than the interface's MTU fails with
  EMSGSIZE, everything else is sent. IPv6 needs IPV6_DONTFRAG as well.
* **TTL or hop limit 1** towards peers on the link, so that nothing leaves it.
* **No UDP checksum** over IPv4, where zero means none; computing it disturbs the spacing. Over
  IPv6 a zero checksum would be dropped (RFC 8200 section 8.1), so there it stays.
* **Marks** in the order that Linux needs: writing IP_TOS resets the priority of the socket, so
  SO_PRIORITY comes last.
* Stamps of the kernel, see `openqwave.drivers.stamps`; traffic class, hop limit and the address
  that it was sent to of what comes. A host has several addresses (with IPv6 always), and an
  answer that leaves from another one than was asked belongs to no question.

It is not connected and asks for no ICMP errors: a forged complaint cannot stop an experiment.
That the far port is closed shows as silence, and in the refused TCP connection.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from openqwave.drivers.ancillary import FAMILIES, IP_PKTINFO, Layout, source_control
from openqwave.drivers.batches import (
    CONTROL_BYTES,
    NAME_BYTES,
    ReceiveBatch,
    SendBatch,
    address_parts,
    integer_control,
    socket_address,
)
from openqwave.drivers.sockets import SO_COOKIE, namespace_of
from openqwave.drivers.stamps import STAMP, Stamping
from openqwave.drivers.streams import address_of, family_of, local_name, set_hops
from openqwave.drivers.trains import Departure, SendFault, Train, fault_of
from openqwave.model.endpoint import Endpoint
from openqwave.probing.session import Arrival

# Keeps a probe on the link.
ON_LINK_HOPS = 1
# What Linux sends by default, for peers behind routers (RFC 1700's recommended value).
ORDINARY_HOPS = 64

# asm-generic/socket.h, linux/in.h, linux/in6.h, linux/sock_diag.h: no names in the module.
_SO_NO_CHECK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_PROBE = 3
_IPV6_MTU_DISCOVER = 23
_IPV6_PMTUDISC_PROBE = 3
_IPV6_DONTFRAG = 62
_IP_RECVTTL = 12
_IP_RECVTOS = 13
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8
_COOKIE_BYTES = 8

# Datagrams wait here while a train is sent. The kernel charges 2,304 bytes for a full-sized one,
# so this is 3,600 of them, 43 ms at 1 Gbit/s; it is a limit, not memory that is taken.
_BUFFER_BYTES = 8 << 20

# One system call's worth. More saves nothing (the call is 0.3 us of 3 us for each datagram).
BATCH = 64
# Longer than any message of the protocol (1,472 bytes); what is longer still is no message.
_PAYLOAD_BYTES = 2048
# Addresses whose parsed form is kept, so that a stream of datagrams pays for it once. Forged
# senders could fill it; then it starts anew.
_KNOWN_PEERS = 1024

# Errors that may be pending at once: each family of complaints sets the same field, so one; a new
# one can come in between.
_PENDING_ERRORS = 3

_INT = struct.Struct("=i")
# A number: the module's flags are objects that take their time.
_TRUNCATED = int(socket.MSG_TRUNC)
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Marking:
    """How datagrams are marked.

    Attributes:
        traffic_class: The octet of IP_TOS and IPV6_TCLASS: DSCP and ECN.
        priority: Queue priority of the socket, 0 to 6.
    """

    traffic_class: int
    priority: int


class ProbeSocket:
    """A UDP socket bound to a port; see the module's text.

    Attributes:
        version: 4 or 6.
        local_port: Its port.
        truncated: Datagrams that were left out because they are longer than any message.
    """

    def __init__(
        self,
        version: int,
        *,
        port: int = 0,
        address: Endpoint | None = None,
        hops: int = ON_LINK_HOPS,
        marking: Marking | None = None,
        receives: bool = True,
    ) -> None:
        """Open and bind it.

        Args:
            version: 4 or 6.
            port: 0 for one of the kernel's choice.
            address: The one address of this host that it is bound to; None for all.
            hops: TTL or hop limit, where a send names no other.
            marking: Of everything that it sends; None for none.
            receives: Whether anything is to be received; without, only sending costs.

        Raises:
            OSError: The port is taken, the address is not this host's, or the kernel has not
                what is needed.
        """
        self.version = version
        self.truncated = 0
        self._family = FAMILIES[version]
        self._hops = hops
        self._batch: ReceiveBatch | None = None
        self._peers: dict[bytes, Endpoint] = {}
        self._layouts: dict[int, Layout] = {}
        self._socket = socket.socket(family_of(version), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._set_up(marking, receives=receives)
            self._stamping = Stamping(self._socket, arriving=receives)
            self._socket.bind(local_name(port, address))
            self.local_port: int = self._socket.getsockname()[1]
        except BaseException:
            self._socket.close()
            raise

    def _set_up(self, marking: Marking | None, *, receives: bool) -> None:
        option, level = self._socket.setsockopt, self._family.level
        set_hops(self._socket, self._hops)
        if self.version == 4:
            option(level, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
            option(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
        else:
            option(level, socket.IPV6_V6ONLY, 1)
            option(level, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE)
            option(level, _IPV6_DONTFRAG, 1)
        if marking is not None:
            option(level, self._family.traffic_class, marking.traffic_class)
            option(socket.SOL_SOCKET, socket.SO_PRIORITY, marking.priority)
        self._enlarge(socket.SO_SNDBUF, _SO_SNDBUFFORCE)
        # Stamps of what is sent are charged to the receive buffer.
        self._enlarge(socket.SO_RCVBUF, _SO_RCVBUFFORCE)
        if receives and self.version == 4:
            option(level, _IP_RECVTTL, 1)
            option(level, _IP_RECVTOS, 1)
            option(level, IP_PKTINFO, 1)
        elif receives:
            option(level, socket.IPV6_RECVHOPLIMIT, 1)
            option(level, socket.IPV6_RECVTCLASS, 1)
            option(level, socket.IPV6_RECVPKTINFO, 1)

    def _enlarge(self, ordinary: int, forced: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
        except PermissionError:
            # Without CAP_NET_ADMIN the system's limit holds; the kernel cuts it to that.
            self._socket.setsockopt(socket.SOL_SOCKET, ordinary, _BUFFER_BYTES)

    def fileno(self) -> int:
        """The file number; -1 once closed."""
        return self._socket.fileno()

    @property
    def cookie(self) -> int:
        """The kernel's name for it."""
        return int.from_bytes(
            self._socket.getsockopt(socket.SOL_SOCKET, SO_COOKIE, _COOKIE_BYTES), sys.byteorder
        )

    @property
    def namespace(self) -> int:
        """The kernel's name for its network namespace; 0 where it has none."""
        return namespace_of(self._socket)

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel dropped because the receive buffer was full."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        drops: int = _MEMINFO.unpack(raw)[_MEMINFO_DROPS]
        return drops

    def receive_batch(self, limit: int = BATCH) -> list[tuple[bytes, Endpoint, Arrival]]:
        """Take the datagrams that wait, oldest first, without waiting for any.

        Args:
            limit: How many at most; `BATCH` is the most that one call takes.

        Returns:
            Payload, sender, and what the kernel says of it. Empty when nothing waits.
        """
        if self._batch is None:
            self._batch = ReceiveBatch(BATCH, _PAYLOAD_BYTES)
        batch = self._batch
        count = self._receive(batch, limit)
        if not count:
            # Whoever was woken by the error queue would otherwise be woken for ever.
            self._stamping.drain()
            return []
        data, names, control = memoryview(batch.data), batch.names, batch.control
        known, layouts = self._peers, self._layouts
        family = self._family
        local_bytes = family.local_bytes
        found = []
        data_at = name_at = control_at = 0
        for slot, (_, name_bytes, _, _, _, used, flags, length) in enumerate(batch.headers(count)):
            name = bytes(names[name_at : name_at + name_bytes])
            layout = layouts.get(used)
            if layout is None:
                layout = layouts[used] = family.layout_of(batch, slot, used)
            if flags & _TRUNCATED:
                self.truncated += 1
            else:
                stamp_at, class_at, hops_at, _ = layout
                local_at = control_at + layout.local_at
                stamp_ns = 0
                if stamp_at:
                    seconds, nanoseconds = STAMP.unpack_from(control, control_at + stamp_at)
                    stamp_ns = seconds * _NS_PER_S + nanoseconds
                found.append(
                    (
                        bytes(data[data_at : data_at + length]),
                        known.get(name) or self._learn_peer(name),
                        Arrival(
                            # The first packets after stamps were asked for the first time on
                            # this machine can be without.
                            stamp_ns or time.time_ns(),
                            control[control_at + class_at] if class_at else 0,
                            control[control_at + hops_at] if hops_at else 0,
                            bytes(control[local_at : local_at + local_bytes])
                            if layout.local_at
                            else b"",
                        ),
                    )
                )
            data_at += _PAYLOAD_BYTES
            name_at += NAME_BYTES
            control_at += CONTROL_BYTES
        return found

    def _receive(self, batch: ReceiveBatch, limit: int) -> int:
        """Fill a batch; errors that earlier sends left behind are taken off and passed over."""
        for _ in range(_PENDING_ERRORS):
            try:
                return batch.receive(self._socket.fileno(), limit)
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise
                self._stamping.drain()
        return 0

    def _learn_peer(self, name: bytes) -> Endpoint:
        if len(self._peers) >= _KNOWN_PEERS:
            self._peers.clear()
        peer = self._peers[name] = Endpoint(*address_parts(name))
        return peer

    def prepare(
        self,
        payloads: Sequence[bytes],
        peer: Endpoint,
        gap_ns: int = 0,
        *,
        hops: int | None = None,
        traffic_class: int | None = None,
        wants_stamps: bool = True,
    ) -> Train:
        """Lay out a train, to be sent by whoever gets it; arguments as `send_train`."""
        destination = peer.unmapped()
        if destination.version != self.version:
            raise ValueError(f"an IPv{self.version} socket cannot send to {peer}")
        name = socket_address(destination.packed, destination.port, destination.scope_id)
        control = b""
        if hops is not None:
            control += integer_control(self._family.level, self._family.hops_control, hops)
        if traffic_class is not None:
            control += integer_control(
                self._family.level, self._family.traffic_class, traffic_class
            )
        batch = SendBatch(payloads, name, control)
        return Train(
            self._socket.fileno(), self._stamping, batch, gap_ns, wants_stamps=wants_stamps
        )

    def send_train(
        self,
        payloads: Sequence[bytes],
        peer: Endpoint,
        gap_ns: int = 0,
        *,
        hops: int | None = None,
        traffic_class: int | None = None,
        wants_stamps: bool = True,
    ) -> Departure:
        """Send datagrams in order; blocks until the last has left, and not much longer.

        Args:
            payloads: What UDP carries.
            peer: Where they go.
            gap_ns: Time from one to the next; 0 for back to back.
            hops: Their TTL or hop limit; None for the socket's.
            traffic_class: Their DSCP and ECN octet; None for the socket's.
            wants_stamps: Whether the kernel is to be asked when they left.

        Returns:
            When each of them left, and what could not be sent.

        Raises:
            ValueError: The peer is not of the socket's IP version.
        """
        return self.prepare(
            payloads,
            peer,
            gap_ns,
            hops=hops,
            traffic_class=traffic_class,
            wants_stamps=wants_stamps,
        ).run()

    def send(
        self, payload: bytes, peer: Endpoint, hops: int, local: bytes = b""
    ) -> SendFault | None:
        """Send one datagram with the least delay, without a stamp.

        Args:
            payload: What UDP carries.
            peer: Where it goes, of the socket's IP version.
            hops: Its TTL or hop limit.
            local: The address of this host that it is to come from, packed; empty for the
                kernel's choice.

        Returns:
            Why it did not leave; None if it did.
        """
        self._stamping.begin(wanted=False)
        family = self._family
        control = []
        if hops != self._hops:
            control.append((family.level, family.hops_control, _INT.pack(hops)))
        if local:
            control.append((family.level, family.local_control, source_control(local, peer)))
        try:
            self._socket.sendmsg([payload], control, 0, address_of(peer))
        except OSError as error:
            return fault_of(error)
        return None

    def close(self) -> None:
        """Close it; harmless when done before."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
