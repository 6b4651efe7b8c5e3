"""What a sink grants at most, so that nobody can grow it or keep it from others.

MS-QLPB has no limits and no time-outs on the sink's side (3.2.2). A sink is an open port, though,
so everything that a peer can make more of has one here: sessions, datagrams, bytes, stamps, time.

Rates are limited by token buckets: a peer may use what it has not used before, up to a burst. A
bucket is kept as the one time at which it will be full again (the generic cell rate algorithm,
ITU-T I.371 annex A), so it needs no refilling.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from openqwave.probing.sink_reports import Refused

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SinkLimits:
    """The limits of one sink; each says why it is what it is.

    Attributes:
        sessions: Connections in all.
        sessions_per_peer: Connections of one address.
        handshake_ns: Time to say what experiment is wanted.
        idle_ns: Time without a byte or a probe.
        peer_datagrams_per_s: Datagrams of one address, sustained.
        peer_burst: Datagrams of one address at once.
        datagrams_per_s: Datagrams in all, sustained.
        strangers_per_s: Of these, datagrams from addresses without a connection.
        burst: Datagrams in all at once, and of strangers.
        peers: Addresses without a connection whose rates are remembered.
        train_packets: Longest train that is timed.
        discard_bytes: What one connection may send to be thrown away.
        events: Events that are kept for a reader.
    """

    # A descriptor and at most 100 kB each. A home's or an office's link has no more hosts that
    # measure in the same minute.
    sessions: int = 64

    # An initiator holds one for each experiment that it runs, so two or three; a host may run
    # a few initiators.
    sessions_per_peer: int = 8

    # The handshake follows the connecting at once (3.1.4.1). Three repetitions of a lost
    # segment take 1 + 2 + 4 s from the first, and an initiator waits 0.25 s.
    handshake_ns: int = 5 * _NS_PER_S

    # Sessions of the specification end within 1.5 s. A path that is watched rests between
    # trains; who rests longer than this can connect again.
    idle_ns: int = 60 * _NS_PER_S

    # Probegap makes 1,000 a second, trains at 100 Mbit/s 8,000 while they last.
    peer_datagrams_per_s: int = 10_000

    # Two of the longest trains back to back, however fast the link.
    peer_burst: int = 4_096

    # A probe was seen to cost 3.5 us here and 2 us in system calls, so this is a little more
    # than a quarter of a processor.
    datagrams_per_s: int = 50_000

    # Half of it, so that a flood from forged addresses leaves the rest to true ones.
    strangers_per_s: int = 25_000

    # Four peers' bursts.
    burst: int = 16_384

    # A large link's hosts, at 200 bytes each.
    peers: int = 1_024

    # 3 MB of packets: more than any measurement should cost. Windows sends 16.
    train_packets: int = 2_048

    # Eight seconds at 1 Gbit/s, which tell all that timing writes can.
    discard_bytes: int = 1 << 30

    # A reader that looks once a second misses nothing at the rates above, trains of 16 included.
    events: int = 4_096


class TokenBucket:
    """Lets so many through a second, and a burst at once.

    Args:
        per_s: Sustained rate.
        burst: How many may come at once when none came before.
    """

    __slots__ = ("_burst_ns", "_full_ns", "_interval_ns")

    def __init__(self, per_s: int, burst: int) -> None:
        self._interval_ns = _NS_PER_S // per_s
        self._burst_ns = self._interval_ns * burst
        self._full_ns = 0

    def take(self, now_ns: int) -> bool:
        """Take one, if there is one."""
        full_ns = max(self._full_ns, now_ns) + self._interval_ns
        if full_ns - now_ns > self._burst_ns:
            return False
        self._full_ns = full_ns
        return True


class Rates:
    """Judges datagrams by who sends them: one bucket for each address, and two for all.

    Addresses of UDP can be forged. Those that hold a connection cannot, so they are never
    forgotten, and part of the rate in all is theirs alone. Of the others, the one that was
    silent the longest is forgotten first.
    """

    def __init__(self, limits: SinkLimits) -> None:
        self._limits = limits
        self._all = TokenBucket(limits.datagrams_per_s, limits.burst)
        self._strangers = TokenBucket(limits.strangers_per_s, limits.burst)
        self._held: dict[bytes, TokenBucket] = {}
        self._others: OrderedDict[bytes, TokenBucket] = OrderedDict()

    @property
    def remembered(self) -> int:
        """How many addresses have a bucket."""
        return len(self._held) + len(self._others)

    def hold(self, address: bytes) -> None:
        """An address has a connection now."""
        bucket = self._others.pop(address) if address in self._others else self._new()
        self._held[address] = bucket

    def release(self, address: bytes) -> None:
        """It has none any more."""
        self._others[address] = self._held.pop(address)
        self._forget()

    def take(self, address: bytes, now_ns: int) -> Refused | None:
        """Take one datagram's worth from the buckets; why not, if one of them is empty."""
        bucket = self._held.get(address)
        is_stranger = bucket is None
        if bucket is None:
            bucket = self._others.get(address)
            if bucket is None:
                bucket = self._others[address] = self._new()
                self._forget()
            else:
                self._others.move_to_end(address)
        if not bucket.take(now_ns):
            return Refused.PEER_TOO_FAST
        if is_stranger and not self._strangers.take(now_ns):
            return Refused.ALL_TOO_FAST
        return None if self._all.take(now_ns) else Refused.ALL_TOO_FAST

    def _new(self) -> TokenBucket:
        return TokenBucket(self._limits.peer_datagrams_per_s, self._limits.peer_burst)

    def _forget(self) -> None:
        if len(self._others) > self._limits.peers:
            self._others.popitem(last=False)
