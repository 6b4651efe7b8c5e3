"""What one connection needs of the server that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openqwave.drivers.passing import LentSocket
    from openqwave.drivers.processes import Process
    from openqwave.ipc import messages as ms
    from openqwave.ipc.serving import PeerLimits
    from openqwave.model.errors import Refusal
    from openqwave.runtime.pending import Result
    from openqwave.runtime.runtime import Runtime
    from openqwave.service.metrics.requests import Requests
    from openqwave.service.peers import Peer
    from openqwave.service.refusals import Refusals


class LendingDirectory(Protocol):
    """Finds sockets, also by descriptors that are lent for a while."""

    def lend(self, sockets: Iterable[LentSocket]) -> None:
        """Find these sockets by these descriptors, until they are taken back."""

    def take_back(self, sockets: Iterable[LentSocket]) -> None:
        """Use these descriptors no more."""


class Surroundings(Protocol):
    """What a connection needs of the server that it belongs to."""

    @property
    def runtime(self) -> Runtime:
        """The subsystem."""

    @property
    def directory(self) -> LendingDirectory:
        """Its sockets."""

    @property
    def peer_limits(self) -> PeerLimits:
        """How much a connection may cost."""

    @property
    def requests(self) -> Requests:
        """Counts them."""

    @property
    def refusals(self) -> Refusals:
        """Remembers what was refused."""

    @property
    def version(self) -> str:
        """What the service calls itself."""

    def cannot_reach(self, process: Process | None) -> str:
        """Why no descriptor can be fetched from a process; empty if it can."""

    def note(self, kind: str, peer: Peer, detail: str) -> None:
        """Count an incident."""

    def add_handle(self, handle_id: int, peer: Peer) -> None:
        """A connection has its handle."""

    def remove_handle(self, handle_id: int) -> None:
        """And has it no more."""

    def complete(self, peer: Peer, request_id: int, result: Result) -> None:
        """A pending request has its result; called in any thread."""

    def tell_completed(self) -> None:
        """Tell of what has completed, before anything else is told."""

    def show(self, peer: Peer, request: ms.Request, descriptor: int) -> bytes | Refusal:
        """What a list or the status says, or what came of a request about programs.

        Args:
            peer: Who asks.
            request: For what.
            descriptor: What came along, to be closed with this; -1 for nothing.
        """
