"""One session and its sockets: what it asks for is done, what happens is told to it.

A session has TCP connections to the sink's port, a UDP socket for each channel that it uses, and
a share in port 2177. Everything here runs in the thread of the `ExperimentHost`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from openqwave.admission.policy import queue_priority
from openqwave.drivers.datagrams import Marking, ProbeSocket
from openqwave.drivers.readiness import READABLE, WRITABLE
from openqwave.drivers.streams import Stream, close_reason
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import error_of, refusal_of_os_error
from openqwave.probing.session import (
    Channel,
    CloseReason,
    CloseStream,
    Effect,
    OpenStream,
    SendStream,
    SendTrain,
)
from openqwave.wire.qlpb import PORT

if TYPE_CHECKING:
    from openqwave.drivers.departures import Departures
    from openqwave.drivers.mailbox import Mailbox
    from openqwave.drivers.readiness import Readiness
    from openqwave.drivers.trains import Departure
    from openqwave.probing.session import Arrival, Session

# MS-QLPB 3.1.1: DSCP 40 (CS5), which goes with 802.1p priority 5.
_PRIORITY_DSCP = 40
_MARKINGS = {
    Channel.BEST_EFFORT: None,
    Channel.PRIORITY: Marking(_PRIORITY_DSCP << 2, queue_priority(_PRIORITY_DSCP)),
}

# A session has its own limit, below this one; this is for those that have none. The kernel's own
# is two minutes.
_CONNECT_NS = 5_000_000_000

# Effects lead to inputs, which lead to effects. So many rounds are made at once; then others have
# their turn.
_ROUNDS = 8


class Tags(Protocol):
    """Puts 802.1p tags on the packets of a socket."""

    def tag(self, cookie: int, namespace: int, peer: Endpoint) -> None:
        """Have all tagged, if that is possible, that a socket sends to a peer from now on."""

    def untag(self, cookie: int) -> None:
        """The socket is about to be closed."""


class Initiating:
    """Runs one session.

    Attributes:
        peer: The sink's address, with its port.
    """

    def __init__(
        self,
        session: Session,
        peer: Endpoint,
        hops: int,
        *,
        mailbox: Mailbox,
        readiness: Readiness,
        departures: Departures,
        share: Callable[[object, int], ProbeSocket],
        tags: Tags | None = None,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            session: What is to be run.
            peer: Where the sink is; its port is not looked at.
            hops: TTL or hop limit of everything that is sent.
            mailbox: Where the session's events go.
            readiness: Waits for descriptors.
            departures: Sends trains.
            share: Gives its caller a share in UDP port 2177 of an IP version.
            tags: Tags the priority probes; None for nobody.
        """
        self.peer = Endpoint(peer.packed, PORT, peer.scope_id)
        self._session = session
        self._hops = hops
        self._mailbox = mailbox
        self._readiness = readiness
        self._departures = departures
        self._share = share
        self._tags = tags
        self._tagged: list[int] = []
        self._streams: dict[int, Stream] = {}
        self._deadlines_ns: dict[int, int] = {}
        self._channels: dict[Channel, ProbeSocket] = {}
        # What happened while effects were carried out; told afterwards, in order.
        self._inputs: deque[Callable[[int], None]] = deque()
        self._timer_ns: int | None = None
        self._has_more = False

    # -- what the host calls ----------------------------------------------------------

    def start(self, now_ns: int) -> None:
        """Begin."""
        self._session.start(now_ns=now_ns)
        self.pump(now_ns)

    def receive_datagram(self, data: bytes, arrival: Arrival, now_ns: int) -> None:
        """A datagram came from the peer's port 2177."""
        self._session.receive_datagram(data, arrival, now_ns=now_ns)
        self._has_more = True

    def next_ns(self) -> int | None:
        """When `handle_timer` is due; None for never."""
        if self._has_more or self._inputs:
            return 0
        return min(
            (due for due in (self._timer_ns, *self._deadlines_ns.values()) if due is not None),
            default=None,
        )

    def handle_timer(self, now_ns: int) -> None:
        """The time has come."""
        for key, deadline_ns in list(self._deadlines_ns.items()):
            if deadline_ns <= now_ns:
                self._lose(key, CloseReason.TIMED_OUT)
        if self._timer_ns is not None and self._timer_ns <= now_ns:
            self._session.handle_timer(now_ns=now_ns)
        self.pump(now_ns)

    def pump(self, now_ns: int) -> None:
        """Tell the session what happened, do what it asks for, and pass its events on."""
        session = self._session
        for _ in range(_ROUNDS):
            while self._inputs:
                self._inputs.popleft()(now_ns)
            effects = session.effects_to_send(now_ns=now_ns)
            for effect in effects:
                self._carry_out(effect, now_ns)
            while (event := session.next_event()) is not None:
                self._mailbox.put(event)
            self._has_more = bool(effects or self._inputs)
            if not self._has_more:
                break
        self._timer_ns = session.next_timer_ns()

    @property
    def is_over(self) -> bool:
        """Does the session wait for nothing any more: no time, no connection, no train?"""
        return not (
            self._has_more
            or self._inputs
            or self._timer_ns is not None
            or self._streams
            or self._departures.has_of(self)
        )

    def close(self) -> None:
        """Close its sockets; the session is not told. Harmless when done before."""
        self._departures.forget(self)
        for key in list(self._streams):
            self._drop(key)
        if self._tags is not None:
            while self._tagged:
                self._tags.untag(self._tagged.pop())
        for sock in self._channels.values():
            sock.close()
        self._channels = {}

    # -- effects ----------------------------------------------------------------------

    def _carry_out(self, effect: Effect, now_ns: int) -> None:
        match effect:
            case OpenStream(stream=key):
                self._open(key, now_ns)
            case SendStream(stream=key, data=data):
                self._write(key, data)
            case CloseStream(stream=key):
                self._drop(key)
            case SendTrain():
                self._send(effect)

    def _open(self, key: int, now_ns: int) -> None:
        self._drop(key)
        try:
            stream = Stream.connect(self.peer, self._hops)
        except OSError as error:
            self._tell_closed(key, close_reason(error.errno or 0))
            return
        self._streams[key] = stream
        self._deadlines_ns[key] = now_ns + _CONNECT_NS
        self._readiness.add(stream.fileno(), self, partial(self._ready, key, stream), WRITABLE)

    def _write(self, key: int, data: bytes = b"") -> None:
        stream = self._streams.get(key)
        if stream is None:
            # It ended before the session heard of it.
            return
        reason = stream.write(data)
        if reason is not None:
            self._lose(key, reason)
        else:
            self._readiness.change(
                stream.fileno(), READABLE | WRITABLE if stream.is_waiting else READABLE
            )

    def _send(self, effect: SendTrain) -> None:
        sock = self._socket_of(effect.channel)
        train = sock.prepare(
            effect.payloads,
            self.peer,
            effect.gap_ns,
            # Port 2177 is used towards all kinds of peers.
            hops=self._hops if effect.channel is Channel.GAP else None,
            wants_stamps=effect.wants_stamps,
        )
        if effect.channel is Channel.GAP:
            # A small probe does not wait for the end of a slow train.
            self._tell_departed(effect, train.run())
        else:
            self._departures.add(self, train, partial(self._tell_departed, effect))

    def _socket_of(self, channel: Channel) -> ProbeSocket:
        if channel is Channel.GAP:
            return self._share(self, self.peer.version)
        sock = self._channels.get(channel)
        if sock is None:
            sock = self._channels[channel] = self._open_channel(channel)
            if channel is Channel.PRIORITY and self._tags is not None:
                self._tagged.append(sock.cookie)
                self._tags.tag(sock.cookie, sock.namespace, self.peer)
        return sock

    def _open_channel(self, channel: Channel) -> ProbeSocket:
        version, marking = self.peer.version, _MARKINGS[channel]
        try:
            sock = ProbeSocket(version, hops=self._hops, marking=marking, receives=False)
            if sock.local_port != PORT:
                return sock
            # The kernel's range of ports may hold it, and these sockets must not have it.
            with sock:
                return ProbeSocket(version, hops=self._hops, marking=marking, receives=False)
        except OSError as error:
            raise error_of(refusal_of_os_error(error, "no socket for probes")) from error

    # -- inputs -----------------------------------------------------------------------

    def _ready(self, key: int, stream: Stream, _events: int) -> None:
        """A connection is there, or has something to read, or room to write."""
        if stream.is_connecting:
            reason = stream.finish_connecting()
            if reason is not None:
                self._lose(key, reason)
                return
            self._deadlines_ns.pop(key, None)
            self._readiness.change(stream.fileno(), READABLE)
            self._inputs.append(partial(self._tell_connected, key, stream.local_port))
            return
        if stream.is_waiting:
            self._write(key)
            if key not in self._streams:
                return
        data = stream.read()
        if isinstance(data, CloseReason):
            self._lose(key, data)
        elif data:
            self._inputs.append(partial(self._tell_stream, key, data))

    def _lose(self, key: int, reason: CloseReason) -> None:
        self._drop(key)
        self._tell_closed(key, reason)

    def _drop(self, key: int) -> None:
        stream = self._streams.pop(key, None)
        if stream is not None:
            self._deadlines_ns.pop(key, None)
            self._readiness.remove(stream.fileno())
            stream.close()

    def _tell_connected(self, key: int, port: int, now_ns: int) -> None:
        self._session.receive_connected(key, port, now_ns=now_ns)

    def _tell_stream(self, key: int, data: bytes, now_ns: int) -> None:
        self._session.receive_stream(key, data, now_ns=now_ns)

    def _tell_closed(self, key: int, reason: CloseReason) -> None:
        def tell(now_ns: int) -> None:
            self._session.receive_closed(key, reason, now_ns=now_ns)

        self._inputs.append(tell)

    def _tell_departed(self, effect: SendTrain, departure: Departure) -> None:
        def tell(now_ns: int) -> None:
            unsent = departure.unsent
            if unsent is not None:
                self._session.receive_unsent(
                    effect, unsent.index, unsent.fault.value, now_ns=now_ns
                )
            elif effect.wants_stamps:
                self._session.receive_sent(effect, departure.stamps_ns, now_ns=now_ns)

        self._inputs.append(tell)
