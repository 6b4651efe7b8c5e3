"""The service's end of one connection, as a test writes it down: good and bad manners.

`FarEnd` reads in a thread and answers by a table of replies; a reply of None is silence. Whatever
happens on it can be asked for, and packets can be sent at any time.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

from openqwave.client.dialing import Dialled
from openqwave.client.remote import RemoteSession
from openqwave.ipc import messages as ms
from openqwave.ipc.asking import ClientEnd, Welcomed
from openqwave.model.errors import Refusal
from openqwave.subsystem.notices import ABORTED

# A bound for what takes milliseconds.
PATIENCE_S = 20.0

# What is said to a request: the value of an answer, a refusal, "pending", or nothing.
Reply: TypeAlias = "bytes | Refusal | str | None"


class FarEnd:
    """See the module's text.

    Attributes:
        replies: By type of request, what is said to it, or who decides; null for the rest.
        asked: All requests so far.
        brought: By request, the inodes of the sockets that came along.
        flows: The flows that were made and not ended, as a service would have them.
        pending: The requests that are pending.
        is_ended: Set when the client's end is closed.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.replies: dict[type, Reply | Callable[[ms.Request], Reply]] = {}
        self.asked: list[ms.Request] = []
        self.brought: dict[int, list[int]] = {}
        self.flows: set[int] = set()
        self.pending: set[int] = set()
        self.is_ended = threading.Event()
        self._sock = sock
        self._last_flow = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # -- for tests ----------------------------------------------------------------------

    def await_request(self, kind: type, count: int = 1) -> ms.Request:
        """The request of a type that is the so-maniest, when it is there."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._of(kind)) >= count, PATIENCE_S)
            return self._of(kind)[count - 1]

    def await_until(self, holds: Callable[[], bool]) -> None:
        """Return when requests have made something so."""
        with self._changed:
            assert self._changed.wait_for(holds, PATIENCE_S), (self.flows, self.pending, self.asked)

    def answer(self, request_id: int, value: bytes = b"null") -> None:
        self.pending.discard(request_id)
        self.send(b'{"type":"answer","id":%d,"value":%b}' % (request_id, value))

    def refuse(self, request_id: int, refusal: Refusal) -> None:
        self.pending.discard(request_id)
        told = (int(refusal.code), refusal.code.name, refusal.detail)
        self.send(ms.encode_packet(ms.Refused(request_id, *told)))

    def lose(self, refusal: Refusal) -> None:
        told = (int(refusal.code), refusal.code.name, refusal.detail)
        self.send(ms.encode_packet(ms.Lost(*told)))

    def say_farewell(self, refusal: Refusal) -> None:
        told = (int(refusal.code), refusal.code.name, refusal.detail)
        self.send(ms.encode_packet(ms.Farewell(*told)))

    def send(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.send(packet, socket.MSG_NOSIGNAL)

    def hang_up(self) -> None:
        """End the connection without a word."""
        self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.hang_up()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._sock.close()

    # -- the thread ---------------------------------------------------------------------

    def _of(self, kind: type) -> list[ms.Request]:
        return [request for request in self.asked if type(request) is kind]

    def _run(self) -> None:
        while True:
            space = socket.CMSG_SPACE(ms.MAX_DESCRIPTORS * 4)
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(ms.MAX_REQUEST_BYTES + 1, space)
            except OSError:
                data, ancillary, flags = b"", [], 0
            assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            if not data:
                with self._changed:
                    self.flows.clear()
                    self.is_ended.set()
                    self._changed.notify_all()
                with contextlib.suppress(OSError):
                    self.hang_up()
                return
            request = ms.decode_request(data)
            assert not isinstance(request, ms.Hello)
            inodes = [inode for *_, rights in ancillary for inode in _inodes(rights)]
            with self._changed:
                self.asked.append(request)
                self.brought[request.id] = inodes
                self._reply(request)
                self._changed.notify_all()

    def _reply(self, request: ms.Request) -> None:
        reply = self.replies.get(type(request), b"null")
        if callable(reply):
            reply = reply(request)
        if isinstance(reply, Refusal):
            self.refuse(request.id, reply)
        elif isinstance(reply, str):
            self.pending.add(request.id)
            self.send(ms.encode_packet(ms.Pending(request.id)))
        elif reply is not None:
            self.answer(request.id, self._do(request, reply))
            if isinstance(request, ms.Cancel) and request.request in self.pending:
                self.refuse(request.request, ABORTED)

    def _do(self, request: ms.Request, reply: bytes) -> bytes:
        match request:
            case ms.AddSocket(flow=0) if reply == b"null":
                self._last_flow += 1
                self.flows.add(self._last_flow)
                return b"%d" % self._last_flow
            case ms.AddSocket(flow=flow) if reply == b"null":
                return b"%d" % flow
            case ms.RemoveSocket(flow=flow):
                self.flows.discard(flow)
        return reply


def _inodes(rights: bytes) -> Iterator[int]:
    numbers = array.array("i")
    numbers.frombytes(rights)
    for number in numbers:
        yield os.fstat(number).st_ino
        os.close(number)


def dialled(sock: socket.socket, *, lends: bool = False) -> Dialled:
    """A connection that was welcomed."""
    end = ClientEnd("a test")
    end.hello()
    welcome = ms.Welcome(ms.PROTOCOL_VERSION, (), "a far end", lends)
    end.receive_packet(ms.encode_packet(welcome))
    assert end.next_event() == Welcomed(welcome)
    return Dialled(sock, end, welcome, "/a/test's/socket")


@contextlib.contextmanager
def joined(
    *, lends: bool = False, patience_s: float = PATIENCE_S
) -> Iterator[tuple[RemoteSession, FarEnd]]:
    """A session and its far end."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = FarEnd(far)
    session = RemoteSession(dialled(near, lends=lends), patience_s)
    try:
        yield session, end
    finally:
        end.close()
        session.close()
