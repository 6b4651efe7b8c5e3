"""One connection: what its packets ask is done, and what becomes of it is sent.

A connection is a handle. `ServiceEnd` understands the packets, the handle's `Session` does what
they ask, and here descriptors, credentials and answers that come later are seen to. Nothing that
a peer does raises: what breaks the protocol ends the connection with a farewell, and the end of
a connection, whatever it was, ends the handle and all its flows.

Descriptors are closed before the answer is sent, but those of a request that is still pending:
they go when it is answered.
"""

from __future__ import annotations

import array
import errno
import logging
import socket
import time
from typing import TYPE_CHECKING, Final

from openqwave.admission.rights import limited_user
from openqwave.drivers.passing import descriptors_in
from openqwave.drivers.processes import peer_ids
from openqwave.drivers.sockets import own_namespace
from openqwave.ipc import messages as ms
from openqwave.ipc.pages import flow_id_page
from openqwave.ipc.serving import Asked, Opened, ServiceEnd, Violated
from openqwave.ipc.values import value_to_json
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.runtime.pending import Pending
from openqwave.runtime.session import Session
from openqwave.service.access import credentials_of, identify
from openqwave.service.brought import NOTHING, Brought, close_all, hang_up, let_go
from openqwave.service.dispatch import NO_SOCKET, call, is_call, name_of
from openqwave.service.refusals import UNHEARD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.admission.rights import Credentials
    from openqwave.drivers.passing import LentSocket
    from openqwave.drivers.processes import Process
    from openqwave.runtime.pending import Result
    from openqwave.service.access import Identity
    from openqwave.service.surroundings import Surroundings

_log = logging.getLogger("openqwave.service")

# One byte more than a request may have: what fills it was cut.
_READ_BYTES: Final = ms.MAX_REQUEST_BYTES + 1
_DESCRIPTOR_SPACE: Final = socket.CMSG_SPACE(ms.MAX_DESCRIPTORS * array.array("i").itemsize)
_READ_FLAGS: Final = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
# A number: what is combined with a flag of Python's becomes one, which takes long.
_CUT: Final = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)

_clock_ns: Final = time.perf_counter_ns

_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

_BROKEN: Final = Refusal(
    ErrorCode.ERROR_GEN_FAILURE, "the service failed at this request; its log says why"
)
_LOST: Final = Refusal(
    ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED,
    "the handle was lost to a suspend or an interface that was made anew: "
    "close it and open a new one",
)


class Peer:
    """One connection.

    Attributes:
        sock: The connection.
        pid: The process at the other end; 0 if it is not in this pid namespace.
        uid: Its effective user.
        process: It, if it could be taken hold of.
        program: What it calls itself.
        handle_id: Its handle; 0 before it has one.
        is_over: Nothing more comes of it, but what is queued to be sent.
        opened_ns: When it connected.
    """

    def __init__(
        self,
        sock: socket.socket,
        process: Process | None,
        around: Surroundings,
        *,
        now_ns: int,
    ) -> None:
        """Take a connection in.

        Raises:
            OSError: The kernel does not say who is there.
        """
        self.sock = sock
        self.pid, self.uid, _ = peer_ids(sock)
        self.process = process
        self.program = ""
        self.handle_id = 0
        self.is_over = False
        self.opened_ns = now_ns
        self._around = around
        self._end = ServiceEnd(around.peer_limits)
        self._session: Session | None = None
        self._identity: Identity | None = None
        self._credentials: Credentials | None = None
        self._pending: dict[int, Pending] = {}
        # Requests that are pending.
        self._asked: dict[int, ms.Request] = {}
        self._kept: dict[int, list[LentSocket]] = {}

    # -- as the caller of its session -------------------------------------------------

    @property
    def identity(self) -> Identity:
        """Who is at the other end; once there is a handle.

        More than pid and uid takes a look through /proc, which is spared for who never says hello.
        """
        if self._identity is None:
            raise RuntimeError("nobody has said hello yet")
        return self._identity

    def credentials(self) -> Credentials:
        """What rights are judged by: as they were when it connected."""
        if self._credentials is None:
            self._credentials = credentials_of(self.identity)
        return self._credentials

    def namespace(self) -> int:
        """The network namespace of the process."""
        return self.identity.namespace or own_namespace()

    @property
    def owner(self) -> int:
        """What the engine calls the process that owns the handle."""
        return self.pid or -self.sock.fileno()

    # -- packets in ---------------------------------------------------------------------

    @property
    def wants_to_read(self) -> bool:
        """Is there room for what another packet would be answered?"""
        return not (self.is_over or self._end.is_backed_up)

    @property
    def queued_bytes(self) -> int:
        """What could not be sent yet."""
        return self._end.queued_bytes

    def read(self) -> None:
        """Take one packet in, and do what it asks."""
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                _READ_BYTES, _DESCRIPTOR_SPACE, _READ_FLAGS
            )
        except BlockingIOError:
            return
        except OSError as error:
            # Without descriptors the packet's own are lost; the peer is told that it was cut.
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._around.note("out of descriptors", self, str(error))
            self.is_over = True
            return
        descriptors = descriptors_in(ancillary) if ancillary else ()
        if not data:
            close_all(descriptors)
            if descriptors:
                self._around.note("descriptors without a message", self, f"{len(descriptors)}")
            self.is_over = True
            return
        try:
            self._end.receive_packet(data, len(descriptors), is_cut=bool(flags & _CUT))
            self._take_events(descriptors)
        finally:
            self.write()

    def _take_events(self, descriptors: Sequence[int]) -> None:
        brought = Brought(descriptors, self.process) if descriptors else NOTHING
        try:
            while (event := self._end.next_event()) is not None:
                match event:
                    case Asked(request):
                        self._ask(request, brought)
                    case Opened(hello):
                        self._open(hello)
                    case Violated(reason):
                        self._around.note("protocol violation", self, reason)
                        self.is_over = True
        finally:
            if brought is not NOTHING:
                brought.let_go()

    def _open(self, hello: ms.Hello) -> None:
        try:
            self._identity = identity = identify(self.sock, self.process)
        except OSError as error:
            self._around.note("connections that failed", self, str(error))
            self.is_over = True
            return
        self.program = hello.program
        user = limited_user(identity.uid, has_net_admin=identity.has_net_admin)
        handle_id = self._around.runtime.open_handle_for(self.owner, user)
        if isinstance(handle_id, Refusal):
            self._around.note("too many handles", self, handle_id.detail)
            self.refuse(handle_id, hello)
            return
        self.handle_id = handle_id
        self._session = Session(self._around.runtime, handle_id, self)
        self._around.add_handle(handle_id, self)
        self._end.welcome(
            service=self._around.version, lends=bool(self._around.cannot_reach(self.process))
        )

    def _ask(self, request: ms.Request, brought: Brought) -> None:
        """Do what is asked."""
        session = self._session
        if session is None:
            raise RuntimeError("a request came before the handle")
        kind, began_ns = name_of(request), _clock_ns()
        try:
            if is_call(request):
                sockets = brought.sockets()
                if self._call(session, kind, request, sockets):
                    brought.give_away()
                return
            match request:
                case ms.Cancel(request=which):
                    pending = self._pending.get(which)
                    refusal = session.cancel(0 if pending is None else pending.request_id)
                    self._around.tell_completed()
                    self._answer(request, kind, refusal)
                case ms.EnumerateFlows(after=after):
                    found = session.enumerate_flows()
                    self._answer_with(
                        request,
                        kind,
                        found if isinstance(found, Refusal) else flow_id_page(found, after),
                    )
                case ms.Close():
                    self._answer(request, kind, session.close())
                    self._forget()
                    self.is_over = True
                case _:
                    self._answer_with(
                        request, kind, self._around.show(self, request, brought.take())
                    )
        except Exception:  # noqa: BLE001 - logged with its traceback
            # One request that the service fails at must not end it for everybody.
            _log.exception("a request failed: %s", type(request).__name__)
            self._around.note("failed requests", self, type(request).__name__)
            self._answer_with(request, kind, _BROKEN)
        finally:
            self._around.requests.took(kind, _clock_ns() - began_ns)

    def _call(
        self, session: Session, kind: str, request: ms.Request, sockets: list[LentSocket]
    ) -> bool:
        """Make a call; tell whether the sockets are wanted for longer."""
        sock: LentSocket | int = NO_SOCKET
        directory = self._around.directory
        names_socket = isinstance(request, ms.AddSocket) or (
            isinstance(request, ms.RemoveSocket) and not request.whole
        )
        if sockets and names_socket:
            sock = sockets[0]
            if isinstance(request, ms.AddSocket):
                sock.number = request.number
        elif sockets:
            directory.lend(sockets)
        try:
            result = call(session, request, sock)
        finally:
            if sockets and not names_socket:
                directory.take_back(sockets)
        # What a call has ended is told before the call is answered.
        self._around.tell_completed()
        if not isinstance(result, Pending):
            self._answer(request, kind, result)
            return False
        self._asked[request.id] = request
        self._postpone(request.id, result)
        if not sockets:
            return False
        # A rate that is granted later is applied later.
        self._kept[request.id] = sockets
        directory.lend(sockets)
        return True

    def _postpone(self, request_id: int, pending: Pending) -> None:
        self._pending[request_id] = pending
        self._end.postpone(request_id)
        pending.future.add_done_callback(
            lambda future: self._around.complete(self, request_id, future.result())
        )

    def _answer(self, request: ms.Request, kind: str, result: Result) -> None:
        self._answer_with(
            request, kind, result if isinstance(result, Refusal) else value_to_json(result)
        )

    def _answer_with(self, request: ms.Request, kind: str, answer: bytes | Refusal) -> None:
        if isinstance(answer, Refusal):
            self._around.requests.ended(kind, answer.code)
            self._around.refusals.remember(self, request, answer)
            self._end.refuse(request.id, answer)
        else:
            self._around.requests.ended(kind, None)
            self._end.answer(request.id, answer)

    # -- what comes by itself -----------------------------------------------------------

    def complete(self, request_id: int, result: Result) -> None:
        """A pending request has its result."""
        self._pending.pop(request_id, None)
        request = self._asked.pop(request_id, None)
        kept = self._kept.pop(request_id, None)
        if kept is not None:
            self._around.directory.take_back(kept)
            let_go(kept)
        if request is not None and not self.is_over:
            self._answer(request, name_of(request), result)
            # It may be one more than the peer has room for.
            self._take_events(())
            self.write()

    def lose(self) -> None:
        """The handle is lost."""
        if not self.is_over:
            self._end.lose(_LOST)
            self.write()

    def refuse(self, refusal: Refusal, hello: ms.Hello = UNHEARD) -> None:
        """Say farewell to who is not taken in."""
        self._around.refusals.remember(self, hello, refusal)
        self._end.say_farewell(refusal)
        self.is_over = True
        self.write()

    # -- packets out --------------------------------------------------------------------

    def write(self) -> None:
        """Send what is queued, as far as the peer takes it."""
        send, end = self.sock.send, self._end
        while (packet := end.next_packet()) is not None:
            try:
                send(packet, _SEND_FLAGS)
            except BlockingIOError:
                if end.is_over:
                    # The farewell of one that reads nothing is not waited for.
                    self.is_over = True
                return
            except OSError:
                self.is_over = True
                return
            end.packet_sent()

    # -- the end ------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection and the handle with it."""
        self.is_over = True
        session = self._session
        if session is not None:
            self._session = None
            try:
                session.close()
            except Exception:  # noqa: BLE001 - logged with its traceback
                _log.exception("the end of a handle failed")
                self._around.note("failed requests", self, "the end of a handle")
        self._forget()
        hang_up(self.sock)

    def _forget(self) -> None:
        """The handle is no more."""
        if self.handle_id:
            self._around.remove_handle(self.handle_id)
            self.handle_id = 0
        for kept in self._kept.values():
            self._around.directory.take_back(kept)
            let_go(kept)
        self._kept.clear()
        self._pending.clear()
        self._asked.clear()
