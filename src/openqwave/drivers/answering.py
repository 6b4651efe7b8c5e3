"""One sink and its sockets: connections and datagrams come in, answers go out.

Who may take part at all is decided here, before the sink hears of anything: peers on the link,
and those in allowed networks. Everything runs in the thread of the `ExperimentHost`.
"""

from __future__ import annotations

import errno
import itertools
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from openqwave.drivers.datagrams import ON_LINK_HOPS, ORDINARY_HOPS
from openqwave.drivers.ports import has_ipv6, open_listener
from openqwave.drivers.readiness import READABLE, WRITABLE
from openqwave.drivers.streams import Stream, endpoint_of, set_hops
from openqwave.probing.session import CloseReason, CloseStream, SendStream
from openqwave.probing.sink import Reply
from openqwave.probing.sink_reports import Refused
from openqwave.wire.qlpb import PORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.drivers.adjacency import Adjacency
    from openqwave.drivers.datagrams import ProbeSocket
    from openqwave.drivers.mailbox import Mailbox
    from openqwave.drivers.readiness import Readiness
    from openqwave.model.endpoint import Endpoint
    from openqwave.probing.session import Arrival
    from openqwave.probing.sink import Sink, SinkEffect

# Connections that are accepted in one go; others wait their turn.
_ACCEPTED_AT_ONCE = 16
# When descriptors or memory ran out, accepting rests: the listener would be ready all the time.
_REST_NS = 500_000_000
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Answering:
    """Runs one sink.

    Attributes:
        versions: The IP versions that it answers.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        mailbox: Mailbox,
        readiness: Readiness,
        adjacency: Adjacency,
        share: Callable[[object, int], ProbeSocket],
        address: Endpoint | None = None,
    ) -> None:
        """Open the ports.

        Args:
            sink: What answers.
            mailbox: Where its events go.
            readiness: Waits for descriptors.
            adjacency: Says who is on the link or allowed.
            share: Gives its caller a share in UDP port 2177 of an IP version.
            address: The one address of this host to answer at; None for all.

        Raises:
            QosError: A port is not to be had.
        """
        self._sink = sink
        self._mailbox = mailbox
        self._readiness = readiness
        self._adjacency = adjacency
        self._share = share
        self._keys = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._listeners: list[socket.socket] = []
        self._rests_until_ns: int | None = None
        self._timer_ns: int | None = None
        self._has_news = False
        self.versions = (4, 6) if has_ipv6() else (4,)
        if address is not None:
            self.versions = (address.version,)
        try:
            for version in self.versions:
                share(self, version)
                # With ordinary hops, so that a far peer learns that it is refused, and is counted.
                self._listeners.append(open_listener(version, PORT, ORDINARY_HOPS, address))
        except BaseException:
            self.close()
            raise
        self._listen()

    # -- what the host calls ----------------------------------------------------------

    def receive_datagram(self, data: bytes, peer: Endpoint, arrival: Arrival, now_ns: int) -> None:
        """A datagram came to port 2177."""
        if self._adjacency.is_allowed(peer):
            self._sink.receive_datagram(data, peer, arrival, now_ns=now_ns)
            # At once, because the answer to a small probe carries the time.
            self._answer(now_ns)
        else:
            self._sink.refuse(Refused.OFF_LINK, peer, now_ns=now_ns)
        self._has_news = True

    def next_ns(self) -> int | None:
        """When `handle_timer` is due; None for never."""
        if self._has_news:
            return 0
        return min(
            (due for due in (self._timer_ns, self._rests_until_ns) if due is not None),
            default=None,
        )

    def handle_timer(self, now_ns: int) -> None:
        """The time has come."""
        if self._rests_until_ns is not None and self._rests_until_ns <= now_ns:
            self._rests_until_ns = None
            self._listen()
        if self._timer_ns is not None and self._timer_ns <= now_ns:
            self._sink.handle_timer(now_ns=now_ns)
        self.pump(now_ns)

    def pump(self, now_ns: int) -> None:
        """Do what the sink wants, and pass its events on."""
        self._has_news = False
        self._answer(now_ns)
        while (event := self._sink.next_event()) is not None:
            self._mailbox.put(event)
        self._timer_ns = self._sink.next_timer_ns()

    def close(self) -> None:
        """Close the listeners and all connections. Harmless when done before."""
        for listener in self._listeners:
            self._readiness.remove(listener.fileno())
            listener.close()
        self._listeners = []
        for key in list(self._streams):
            self._drop(key)

    # -- connections ------------------------------------------------------------------

    def _listen(self) -> None:
        for listener in self._listeners:
            self._readiness.add(listener.fileno(), self, partial(self._accept, listener))

    def _accept(self, listener: socket.socket, _events: int) -> None:
        now_ns = time.monotonic_ns()
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, name = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(now_ns)
                    break
                # This connection is gone already; the next one need not be.
                continue
            self._admit(sock, endpoint_of(name), now_ns)
        self._has_news = True

    def _rest(self, now_ns: int) -> None:
        self._rests_until_ns = now_ns + _REST_NS
        for listener in self._listeners:
            self._readiness.remove(listener.fileno())

    def _admit(self, sock: socket.socket, peer: Endpoint, now_ns: int) -> None:
        if not self._adjacency.is_allowed(peer):
            sock.close()
            self._sink.refuse(Refused.OFF_LINK, peer, now_ns=now_ns)
            return
        sock.setblocking(False)
        try:
            set_hops(sock, self._hops_to(peer))
            stream = Stream(sock)
        except OSError:
            # The peer has reset it meanwhile.
            sock.close()
            return
        key = next(self._keys)
        self._streams[key] = stream
        self._readiness.add(stream.fileno(), self, partial(self._ready, key, stream))
        speed_bps = self._adjacency.interface_speed_bps(peer)
        self._sink.receive_connection(key, peer, speed_bps, now_ns=now_ns)
        # Whom the sink does not want, it refuses at once.
        self._answer(now_ns)

    def _hops_to(self, peer: Endpoint) -> int:
        return ON_LINK_HOPS if self._adjacency.is_on_link(peer) else ORDINARY_HOPS

    def _ready(self, key: int, stream: Stream, _events: int) -> None:
        now_ns = time.monotonic_ns()
        self._has_news = True
        if stream.is_waiting:
            self._write(key, b"", now_ns)
            if key not in self._streams:
                return
        data = stream.read()
        if isinstance(data, CloseReason):
            self._lose(key, now_ns)
        elif data:
            self._sink.receive_stream(key, data, now_ns=now_ns)
            self._answer(now_ns)

    def _lose(self, key: int, now_ns: int) -> None:
        self._drop(key)
        self._sink.receive_closed(key, now_ns=now_ns)

    def _drop(self, key: int) -> None:
        stream = self._streams.pop(key, None)
        if stream is not None:
            self._readiness.remove(stream.fileno())
            stream.close()

    # -- answers ----------------------------------------------------------------------

    def _answer(self, now_ns: int) -> None:
        while effects := self._sink.effects_to_send(now_ns=now_ns):
            for effect in effects:
                self._carry_out(effect, now_ns)

    def _carry_out(self, effect: SinkEffect, now_ns: int) -> None:
        match effect:
            case Reply(peer=peer, local=local):
                sock = self._share(self, peer.version)
                hops = self._hops_to(peer)
                # What cannot be sent back is lost, like anything else on the way.
                sock.send(effect.encode(time.time_ns()), peer, hops, local)
            case SendStream(stream=key, data=data):
                self._write(key, data, now_ns)
            case CloseStream(stream=key):
                self._drop(key)

    def _write(self, key: int, data: bytes, now_ns: int) -> None:
        stream = self._streams.get(key)
        if stream is None:
            return
        if stream.write(data) is not None:
            self._lose(key, now_ns)
        else:
            self._readiness.change(
                stream.fileno(), READABLE | WRITABLE if stream.is_waiting else READABLE
            )
