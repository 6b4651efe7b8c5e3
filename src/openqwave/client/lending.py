"""Descriptors for a service that cannot fetch them itself.

The service closes every descriptor that it is passed at the end of the request, and fetches the
socket again when a mark has to change. Where the kernel does not let it (another user's process,
no CAP_SYS_PTRACE), it says so in its welcome, and each request that changes what a flow's packets
get brings the flow's sockets along.

So the client has to know which sockets those are. It keeps names of them, and no descriptors: a
socket that the program closes is closed (`openqwave.drivers.sockets`).
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from openqwave.drivers.sockets import SocketDirectory
from openqwave.ipc.messages import MAX_DESCRIPTORS
from openqwave.model.errors import Refusal

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from openqwave.drivers.sockets import SocketLike


class Lender:
    """The sockets of one handle's flows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._directory = SocketDirectory()
        # By flow, the cookies of its sockets; the order is that in which they came.
        self._cookies: dict[int, list[int]] = {}

    def flow_ids(self) -> tuple[int, ...]:
        """The flows that have sockets."""
        with self._lock:
            return tuple(self._cookies)

    def add(self, flow_id: int, sock: SocketLike) -> None:
        """A socket has joined a flow."""
        with self._lock:
            cookie = self._directory.cookie_of(sock)
            if isinstance(cookie, Refusal):
                # Closed since.
                return
            cookies = self._cookies.setdefault(flow_id, [])
            if cookie not in cookies:
                cookies.append(cookie)
            self._directory.remember(cookie, sock)

    def remove(self, flow_id: int, sock: SocketLike | None) -> None:
        """A socket, or all of them, have left a flow."""
        with self._lock:
            left = self._cookies.get(flow_id, [])
            if sock is not None:
                cookie = self._directory.cookie_of(sock)
                left = [one for one in left if one == cookie]
            self._forget(flow_id, left)

    @contextlib.contextmanager
    def lend(self, flow_id: int) -> Iterator[list[int]]:
        """File numbers of a flow's sockets, good inside the ``with`` statement."""
        borrowed: list[socket.socket] = []
        try:
            with self._lock:
                self._borrow(flow_id, borrowed)
            yield [sock.fileno() for sock in borrowed]
        finally:
            for sock in borrowed:
                self._directory.give_back(sock)

    def _borrow(self, flow_id: int, borrowed: list[socket.socket]) -> None:
        gone = []
        # Without descriptors to look with, those that were found go.
        with contextlib.suppress(OSError):
            for cookie in self._cookies.get(flow_id, ())[:MAX_DESCRIPTORS]:
                sock = self._directory.borrow(cookie)
                if sock is None:
                    gone.append(cookie)
                else:
                    borrowed.append(sock)
        self._forget(flow_id, gone)

    def _forget(self, flow_id: int, cookies: list[int]) -> None:
        left = [one for one in self._cookies.get(flow_id, []) if one not in cookies]
        if left:
            self._cookies[flow_id] = left
        else:
            self._cookies.pop(flow_id, None)
        for cookie in cookies:
            if not any(cookie in others for others in self._cookies.values()):
                self._directory.forget(cookie)
