"""What clients are shown of the whole host: lists of flows and paths, and the status.

Whoever is no administrator sees the flows of processes of the same user and what that was refused,
and no counters of incidents, which are about others. Paths are everybody's: they are facts about
the network. Those that are only remembered are not: they tell with whom this host has talked.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from itertools import chain
from typing import TYPE_CHECKING

from openqwave.ipc import messages as ms
from openqwave.ipc.pages import flow_page, path_page, refusal_page
from openqwave.ipc.values import status_to_json
from openqwave.service.access import user_name
from openqwave.service.flowcounts import FlowCounts
from openqwave.service.remembered import remembered_rows
from openqwave.service.sending import SendingRates
from openqwave.service.shownflows import Rates
from openqwave.service.views import OwnerView, flow_rows, path_rows, status_row

if TYPE_CHECKING:
    from openqwave.model.errors import Refusal
    from openqwave.runtime.runtime import Runtime
    from openqwave.service.config import Config
    from openqwave.service.estimates import EstimateStore
    from openqwave.service.kernel import Kernel
    from openqwave.service.peers import Peer
    from openqwave.service.programs.spoken import SpokenFor
    from openqwave.service.server import Server


class Showing:
    """Answers requests for lists and the status.

    Attributes:
        config: What is in force.
    """

    def __init__(
        self,
        runtime: Runtime,
        store: EstimateStore,
        kernel: Kernel,
        config: Config,
        socket_path: str,
        started_ns: int,
        spoken: SpokenFor,
    ) -> None:
        self.config = config
        self._spoken = spoken
        self._runtime = runtime
        self._store = store
        self._kernel = kernel
        self._socket_path = socket_path
        self._started_ns = started_ns
        self._sending = SendingRates()
        self._flow_rates = SendingRates(FlowCounts(runtime))
        self._rates = Rates(self._sending, self._flow_rates)

    def show(
        self, server: Server, peer: Peer, request: ms.Request, descriptor: int
    ) -> bytes | Refusal:
        """The value of the answer to a request for a list or the status, or about programs."""
        now_ns = time.monotonic_ns()
        match request:
            case ms.ListFlows(after=after):
                return self._flows(server, peer, after, now_ns)
            case ms.ListPaths(after=after):
                rows = path_rows(self._runtime, after, now_ns=now_ns)
                if peer.credentials().is_administrator:
                    rows = chain(rows, remembered_rows(self._runtime, self._store, after))
                return path_page(rows)
            case ms.ListRefusals(after=after):
                uid = None if peer.credentials().is_administrator else peer.uid
                return refusal_page(server.refusals.rows(after, uid))
            case ms.AskStatus():
                return self._status(server, peer, now_ns)
            case _:
                return self._spoken.answer(peer, request, descriptor)

    def close(self) -> None:
        """Count no more."""
        self._sending.close()
        self._flow_rates.close()

    def _flows(self, server: Server, peer: Peer, after: int, now_ns: int) -> bytes:
        known: dict[int, Peer] = {}
        for each in server.peers():
            # A process may look at itself by another name; what it was called first has the flows.
            if each.handle_id:
                known.setdefault(each.owner, each)

        def describe(owner: int) -> OwnerView:
            owning = known.get(owner)
            if owning is None:
                return OwnerView(owner, -1, "?", "?")
            identity = owning.identity
            # What it calls itself says more than the name of an interpreter.
            program = owning.program or identity.program
            return OwnerView(identity.pid, identity.uid, user_name(identity.uid), program)

        visible = (
            None
            if peer.credentials().is_administrator
            else {owner for owner, each in known.items() if each.uid == peer.uid}
        )
        return flow_page(
            flow_rows(
                self._runtime,
                describe,
                after,
                now_ns=now_ns,
                owners=visible,
                rates=self._rates,
            )
        )

    def _counters(self, server: Server) -> dict[str, int]:
        """What went wrong with clients, and which limits of the policy were in their way."""
        reached = self._runtime.look(lambda engine: engine.limits_reached)
        by_limit = {f"refused by limits.{name}": count for name, count in reached.items()}
        return {**server.incidents.counts, **by_limit}

    def _status(self, server: Server, peer: Peer, now_ns: int) -> bytes:
        peers = list(server.peers())
        config_file = "" if self.config.path is None else str(self.config.path)
        return status_to_json(
            status_row(
                self._runtime,
                service=server.version,
                version=version("openqwave"),
                started_ns=self._started_ns,
                now_ns=now_ns,
                socket=self._socket_path,
                config_file=config_file,
                handles=sum(each.handle_id != 0 for each in peers),
                peers=len(peers),
                lends=bool(server.cannot_reach(peer.process)),
                backend=(self._kernel.chosen.name, self._kernel.reason),
                interfaces=self._runtime.look(lambda _: self._kernel.interfaces()),
                sink=self._runtime.sink_state(),
                programs=self._spoken.row(),
                memory=(str(self._store.path), self._store.state),
                counters=self._counters(server) if peer.credentials().is_administrator else None,
            )
        )
