"""The tables of the kernel's program, from which it takes what becomes of a packet.

**Slots.** A flow has a slot, from 1 on; 0 is nobody's. What is wanted of the flow stands in one
array at that place, what came of it in another. A slot that is given out begins with counters of
zero; changes of the treatment leave the counters and the meter as they are.

**Ways.** What leads to a slot: a socket as a whole, a destination of a socket, or what is known of
who made the socket (`claimtable`). Put the slot's treatment first, so that no packet finds an empty
one.

**Rates** count IP bytes, headers included. The table holds how long a byte takes, in picoseconds,
so a rate is met within 1 in 16,000 at 500 Mbit/s and 1 in 80 at 100 Gbit/s.
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from openqwave.enforcement.bpf import layout, syscalls
from openqwave.enforcement.bpf.totals import Totals
from openqwave.model.endpoint import Endpoint
from openqwave.model.flow import Treatment
from openqwave.model.traffic import FlowTraffic
from openqwave.model.value import value

# How far a flow may run ahead of its rate before its packets are excess. Video comes in frames of
# 17 to 40 ms, which senders spread over a few milliseconds (Chromium's pacer: 5 ms); a timer of a
# busy machine is a few late. Of ten seconds at the rate it is a fifth of a percent.
BURST_NS: Final = 20_000_000
# Packets with a later departure time are dropped. The fq queue does so from ten seconds on; a
# socket's send buffer usually holds less than this at the rates of media.
HORIZON_NS: Final = 9_000_000_000
_PS_PER_S_AND_BYTE: Final = 8 * 10**12
_MOST_U64: Final = (1 << 64) - 1

# How many entries a call of the kernel reads or writes. A call for more than 10,000 takes
# milliseconds, in which this thread hears nothing else.
_BATCH: Final = 8_192
# Reading a range costs the kernel 0.1 us for a slot, wanted or not; reading one costs a call of 2.
_SPARSE: Final = 16


@value
class Sizes:
    """How many entries there is room for; memory is taken at once, about 200 bytes a flow.

    Attributes:
        flows: Slots.
        sockets: Sockets with at least one flow.
        destinations: Destinations of sockets.
        claimants: Users, executables and control groups that rules and runs name, each, and runs.
        fragmented: Fragmented packets under way, and connections that end.
    """

    flows: int = 131_072
    sockets: int = 131_072
    destinations: int = 262_144
    claimants: int = 8_192
    fragmented: int = 4_096


@dataclass(frozen=True, slots=True)
class Entries:
    """What the tables hold.

    Attributes:
        sockets: By cookie, the slot of all that has no entry of its own (None for none), and
            whether there are entries for destinations.
        destinations: By cookie and destination, the slot.
    """

    sockets: Mapping[int, tuple[int | None, bool]]
    destinations: Mapping[tuple[int, Endpoint], int]


class FlowTable:
    """What the program looks at for each packet; see the module.

    Attributes:
        totals: What the program has counted of all flows together.
    """

    def __init__(self, maps: Mapping[str, int], sizes: Sizes) -> None:
        """Take over new maps.

        Args:
            maps: Their descriptors by name, which remain the caller's.
            sizes: How large they are.
        """
        self._maps = maps
        self._sizes = sizes
        self._next = 1
        self._free: list[int] = []
        self._epoch = 0
        self.totals = Totals(maps["meters"])

    # -- flows ------------------------------------------------------------------------

    def new_slot(self) -> int:
        """A slot for a new flow, which leaves packets as they are and has counted none.

        Raises:
            OSError: All are taken (ENOSPC).
        """
        if self._free:
            slot = heapq.heappop(self._free)
        elif self._next <= self._sizes.flows:
            slot, self._next = self._next, self._next + 1
            self.totals.slots = slot
        else:
            detail = f"all {self._sizes.flows} flows that the kernel has room for are taken"
            raise OSError(errno.ENOSPC, detail)
        key = layout.SLOT.pack(slot)
        try:
            self.totals.retire(slot)
            syscalls.update(self._maps["treatments"], key, bytes(layout.TREATMENT.size))
            self._epoch += 1
            meter = layout.METER_STATE.pack(0, 0, 0, 0, 0, 0, self._epoch)
            syscalls.update(self._maps["meters"], key, meter)
        except OSError:
            self.free_slot(slot)
            raise
        return slot

    def free_slot(self, slot: int) -> None:
        """Give a slot back, to which nothing leads any more."""
        heapq.heappush(self._free, slot)

    def write_treatment(
        self,
        slot: int,
        treatment: Treatment,
        classid: int | None = None,
        is_delayed: bool = False,
        horizon_ns: int = HORIZON_NS,
        *,
        spares_loopback: bool = False,
    ) -> None:
        """Say what is wanted of a flow's packets; all of it, in one write.

        Args:
            slot: The flow's.
            treatment: What is wanted. A rate takes effect where the excess is marked otherwise, or
                if packets wait for their departure.
            classid: The queue's class that packets are to go to, instead of the priority.
            is_delayed: Packets above the rate get a departure time, which the fq queue keeps.
            horizon_ns: What would leave later than that is dropped.
            spares_loopback: What the host tells itself is not held to the rate.
        """
        packed = pack_treatment(treatment, classid, is_delayed, horizon_ns, spares_loopback)
        syscalls.update(self._maps["treatments"], layout.SLOT.pack(slot), packed)

    def read_treatments(self, slots: Collection[int]) -> dict[int, Treatment]:
        """What is wanted of some flows' packets, by slot; rates as exact as they are kept."""
        fd, size = self._maps["treatments"], layout.TREATMENT.size
        found = {slot: syscalls.lookup(fd, layout.SLOT.pack(slot), size) for slot in slots}
        return {slot: unpack_treatment(raw) for slot, raw in found.items() if raw is not None}

    def read_meters(self, slots: Collection[int]) -> dict[int, FlowTraffic]:
        """What the program has counted for some flows, by slot."""
        if not slots:
            return {}
        first, last = min(slots), max(slots)
        size, fd = layout.METER_STATE.size, self._maps["meters"]
        if len(slots) * _SPARSE < last - first:
            found = {
                slot: syscalls.lookup(fd, layout.SLOT.pack(slot), size) or bytes(size)
                for slot in slots
            }
            return {slot: _traffic(raw) for slot, raw in found.items()}
        raw = bytearray()
        before = layout.SLOT.pack(first - 1)
        for at in range(first, last + 1, _BATCH):
            count = min(_BATCH, last + 1 - at)
            raw += syscalls.lookup_batch(fd, before, 4, size, count)[1]
            before = layout.SLOT.pack(at + count - 1)
        view = memoryview(raw)
        return {
            slot: _traffic(view[(slot - first) * size : (slot - first + 1) * size])
            for slot in slots
        }

    # -- ways -------------------------------------------------------------------------

    def put_socket(
        self, cookie: int, default_slot: int | None, has_destinations: bool = False
    ) -> None:
        """Say what leads from a socket.

        Args:
            cookie: The socket's.
            default_slot: Where all goes that has no entry of its own; None for nowhere.
            has_destinations: Whether there are entries for its destinations.

        Raises:
            OSError: The table is full (E2BIG).
        """
        flags = layout.HAS_DESTINATIONS if has_destinations else 0
        entry = layout.SOCKET.pack(default_slot or 0, flags)
        syscalls.update(self._maps["sockets"], layout.COOKIE.pack(cookie), entry)

    def drop_socket(self, cookie: int) -> None:
        """Let nothing lead from a socket; harmless when nothing does. Destinations stay."""
        syscalls.delete(self._maps["sockets"], layout.COOKIE.pack(cookie))

    def put_destination(self, cookie: int, destination: Endpoint, slot: int) -> None:
        """Let a socket's packets to a destination lead to a slot.

        Raises:
            OSError: The table is full (E2BIG).
        """
        key = layout.destination_key(cookie, destination)
        syscalls.update(self._maps["destinations"], key, layout.SLOT.pack(slot))

    def drop_destination(self, cookie: int, destination: Endpoint) -> None:
        """Take a destination away; harmless when it is not there."""
        key = layout.destination_key(cookie, destination)
        syscalls.delete(self._maps["destinations"], key)

    def put_destinations(self, cookie: int, slots: Mapping[Endpoint, int]) -> None:
        """Put many destinations of a socket.

        Raises:
            OSError: The table is full (E2BIG); some may have been put.
        """
        if len(slots) == 1:
            for destination, slot in slots.items():
                self.put_destination(cookie, destination, slot)
            return
        keys = [layout.destination_key(cookie, destination) for destination in slots]
        entries = [layout.SLOT.pack(slot) for slot in slots.values()]
        fd, at = self._maps["destinations"], 0
        while at < len(keys):
            some = keys[at : at + _BATCH]
            values = b"".join(entries[at : at + _BATCH])
            at += syscalls.update_batch(fd, b"".join(some), values, len(some))

    def drop_destinations(self, cookie: int, destinations: Collection[Endpoint]) -> None:
        """Take many destinations of a socket away; harmless for those that are not there."""
        if len(destinations) == 1:
            for destination in destinations:
                self.drop_destination(cookie, destination)
            return
        self._delete(
            "destinations", [layout.destination_key(cookie, each) for each in destinations]
        )

    # -- as a whole -------------------------------------------------------------------

    def entries(self) -> Entries:
        """What the kernel holds."""
        sockets: dict[int, tuple[int | None, bool]] = {}
        for key, raw in self._all("sockets", 8, layout.SOCKET.size):
            slot, flags = layout.SOCKET.unpack(raw)
            cookie = layout.COOKIE.unpack(key)[0]
            sockets[cookie] = (slot or None, bool(flags & layout.HAS_DESTINATIONS))
        destinations = {
            layout.destination_of(key): layout.SLOT.unpack(raw)[0]
            for key, raw in self._all("destinations", layout.DESTINATION_BYTES, 4)
        }
        return Entries(sockets, destinations)

    def clear(self) -> None:
        """Let nothing lead anywhere, and forget all flows."""
        for name, key_bytes, value_bytes in (
            ("sockets", 8, layout.SOCKET.size),
            ("destinations", layout.DESTINATION_BYTES, 4),
        ):
            self._delete(name, [key for key, _ in self._all(name, key_bytes, value_bytes)])
        self._next, self._free = 1, []

    def missed_releases(self) -> int:
        """How many closed sockets the program could not tell of because the ring was full."""
        raw = syscalls.lookup(self._maps["meters"], layout.SLOT.pack(0), layout.METER_STATE.size)
        return layout.METER_STATE.unpack(raw)[5] if raw else 0

    def _all(self, name: str, key_bytes: int, value_bytes: int) -> Iterator[tuple[bytes, bytes]]:
        fd, start = self._maps[name], None
        while True:
            keys, values, count, start = syscalls.lookup_batch(
                fd, start, key_bytes, value_bytes, _BATCH
            )
            for at in range(count):
                yield (
                    keys[at * key_bytes : (at + 1) * key_bytes],
                    values[at * value_bytes : (at + 1) * value_bytes],
                )
            if start is None:
                return

    def _delete(self, name: str, keys: list[bytes]) -> None:
        """Delete many, of which some may be gone: the kernel stops at such a one."""
        fd, at = self._maps[name], 0
        while at < len(keys):
            some = keys[at : at + _BATCH]
            try:
                at += syscalls.delete_batch(fd, b"".join(some), len(some))
            except FileNotFoundError:
                at += 1


def pack_treatment(
    treatment: Treatment,
    classid: int | None = None,
    is_delayed: bool = False,
    horizon_ns: int = HORIZON_NS,
    spares_loopback: bool = False,
) -> bytes:
    """A treatment as the program reads it; see `FlowTable.write_treatment`."""
    flags = layout.NOT_ON_LOOPBACK if spares_loopback else 0
    priority = ps_per_byte = 0
    if treatment.dscp is not None:
        flags |= layout.MARK
    if classid is not None:
        flags, priority = flags | layout.PRIORITY, classid
    elif treatment.queue_priority is not None:
        flags, priority = flags | layout.PRIORITY, treatment.queue_priority
    if treatment.pcp is not None:
        flags |= layout.TAG
    if treatment.rate_bps is not None:
        ps_per_byte = min(_MOST_U64, round(_PS_PER_S_AND_BYTE / max(1, treatment.rate_bps)))
        if treatment.excess_is_remarked:
            flags |= layout.METER
        elif is_delayed:
            flags |= layout.DELAY
    return layout.TREATMENT.pack(
        flags,
        treatment.dscp or 0,
        0,
        treatment.pcp or 0,
        0,
        priority,
        0,
        ps_per_byte,
        BURST_NS,
        horizon_ns,
    )


def unpack_treatment(raw: bytes) -> Treatment:
    """The treatment that is written down; a rate that the program does not hold is left out."""
    flags, dscp, _, pcp, _, priority, _, ps_per_byte, _, _ = layout.TREATMENT.unpack(raw)
    is_held = flags & (layout.METER | layout.DELAY) and ps_per_byte
    return Treatment(
        dscp=dscp if flags & layout.MARK else None,
        queue_priority=priority if flags & layout.PRIORITY else None,
        rate_bps=round(_PS_PER_S_AND_BYTE / ps_per_byte) if is_held else None,
        excess_is_remarked=bool(flags & layout.METER),
        pcp=pcp if flags & layout.TAG else None,
    )


def _traffic(raw: bytes | memoryview) -> FlowTraffic:
    _, packets, bytes_, excess_packets, excess_bytes, dropped, _ = layout.METER_STATE.unpack(raw)
    return FlowTraffic(packets, bytes_, excess_packets, excess_bytes, dropped)
