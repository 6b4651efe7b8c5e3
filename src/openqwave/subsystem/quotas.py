"""What policy lets processes and users hold, and what contracts may hold together.

Counts (handles, flows, destinations) are of processes and users, and whoever reaches one is refused
with ERROR_NO_SYSTEM_RESOURCES. Rates are of users, far hosts and interfaces; see
`admission.ceilings`.

**Whose contracts count where.** Of a user all do, and what runs hold programs to that ask for
nothing. A host and an interface belong to a path, so there those of adaptive flows do, which have
one. What is limited as a share is limited where the whole is known: of a host, what its path was
measured to carry; of an interface, its speed by its driver's word. A program that is told what is
available may have just that for a moment (`notices`), so for that long the capacity counts that it
was told by.

**A limit that changes** takes nothing from anybody. Contracts are entered anew where sums are kept
now that were not, or are not any more.

How often each limit was in somebody's way is counted, by the key that it has in the policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.admission.ceilings import Ceiling, InterfaceLink, UserLink
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.subsystem.users import Users

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from openqwave.admission.ledger import Ledger, Link
    from openqwave.admission.policy import Limits
    from openqwave.subsystem.flows import Flow
    from openqwave.subsystem.path import Path
    from openqwave.subsystem.paths import Paths
    from openqwave.subsystem.registry import Registry

_PPM = 1_000_000


class Quotas:
    """Judges by the limits of the policy; see the module's text."""

    def __init__(self, registry: Registry, ledger: Ledger, limits: Limits) -> None:
        self._registry = registry
        self._ledger = ledger
        self._limits = limits
        self._are_for_paths = limits.are_for_paths
        self._users = Users(registry)
        # Rates of runs with their users, by number; in the ledger below the ids of flows.
        self._runs: dict[int, tuple[int, int]] = {}
        self._reached: dict[str, int] = {}

    @property
    def reached(self) -> Mapping[str, int]:
        """How often each limit was in the way."""
        return self._reached

    @property
    def entry_count(self) -> int:
        """How many entries are kept of who is there."""
        return self._users.entry_count + len(self._runs)

    def obey(self, limits: Limits, paths: Paths) -> None:
        """Go by other limits from now on."""
        self._limits = limits
        self._are_for_paths = limits.are_for_paths
        self._users.count_anew()
        for flow in self._registry.flows.values():
            if flow.held_bps:
                self.hold(flow, paths.of_flow(flow) if flow.is_adaptive else None, flow.held_bps)
        self.hold_runs(self._runs)

    def refuse(self, name: str, detail: str) -> Refusal:
        """Somebody has as much as a limit allows.

        Args:
            name: The limit's key in the policy.
            detail: How much that is, and what to do.
        """
        self._count(name)
        return Refusal(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, f"{detail} (limits.{name})")

    # -- who is there -----------------------------------------------------------------

    def refuse_handle(self, owner: int) -> Refusal | None:
        """May a process open one more handle? None means yes."""
        most = self._limits.handles
        if self._registry.holdings_of(owner).handles < most:
            return None
        return self.refuse("handles", f"this process holds {most} handles already; close some")

    def join(self, owner: int, uid: int | None) -> None:
        """A process has opened a handle; `uid` is None for an administrator's."""
        self._users.join(owner, uid)

    def leave(self, owner: int) -> None:
        """A process has closed a handle."""
        undo = self._users.leave(owner)
        if undo is not None:
            self._registry.journal.append(undo)

    # -- counts -----------------------------------------------------------------------

    def refuse_destination(self, owner: int, flow: Flow | None, cookie: int) -> Refusal | None:
        """May a destination be added? None means yes.

        Args:
            owner: The process that asks.
            flow: The flow that it is for; None for a new one.
            cookie: The socket.
        """
        limits, holdings = self._limits, self._registry.holdings_of(owner)
        if holdings.destinations >= limits.destinations:
            return self.refuse(
                "destinations",
                f"the flows of this process hold {limits.destinations} destinations already; "
                "remove some",
            )
        if flow is None:
            if holdings.flows >= limits.flows:
                return self.refuse(
                    "flows", f"this process holds {limits.flows} flows already; remove some"
                )
        elif len(flow.sockets.get(cookie, ())) >= limits.destinations_per_flow:
            return self.refuse(
                "destinations_per_flow",
                f"the flow holds {limits.destinations_per_flow} destinations of this socket",
            )
        name = self._users.find_full(owner, limits, is_flow=flow is None)
        if name:
            what = name.removesuffix("_per_user")
            most = getattr(limits, name)
            return self.refuse(
                name, f"the processes of this user hold {most} {what} already; remove some"
            )
        return None

    # -- rates ------------------------------------------------------------------------

    def hold(self, flow: Flow, path: Path | None, rate_bps: int) -> Callable[[], None] | None:
        """Record a contract without asking whether it may be.

        Args:
            flow: Whose it is; what it had is replaced.
            path: An adaptive flow's path; None for others.
            rate_bps: The whole of it; 0 ends it.

        Returns:
            What undoes it, as of `Ledger.hold`; None where nothing is recorded.
        """
        limits = self._limits
        links: tuple[Link, ...] = () if path is None else path.links
        facts = None if path is None else path.facts
        if facts is not None and limits.contracts_per_interface_ppm is not None:
            links = (*links, InterfaceLink(facts.interface))
        if limits.contracts_per_user_bps is not None:
            uid = self._users.uid_of(flow.owner)
            if uid is not None:
                links = (*links, UserLink(uid))
        if links:
            return self._ledger.hold(flow.flow_id, links, rate_bps)
        # It may have been recorded under other limits.
        return self._ledger.release(flow.flow_id) if self._ledger.held_bps(flow.flow_id) else None

    def hold_runs(self, rates: Mapping[int, tuple[int, int]]) -> None:
        """Record what runs of programs hold; see `Engine.receive_runs`."""
        for number in self._runs:
            self._ledger.release(-number)
        self._runs = dict(rates)
        if self._limits.contracts_per_user_bps is not None:
            for number, (uid, rate_bps) in rates.items():
                self._ledger.hold(-number, (UserLink(uid),), rate_bps)

    def refuse_run(self, uid: int, rate_bps: int) -> Refusal | None:
        """May the contracts of a user grow by that of a run? None means yes."""
        return self._refuse(self._of_uid(uid), 0, rate_bps)

    def refuse_user(self, flow: Flow, rate_bps: int) -> Refusal | None:
        """May the contracts of a flow's user grow by this one? None means yes."""
        if self._limits.contracts_per_user_bps is None:
            return None
        return self._refuse(self._of_user(flow), flow.held_bps, rate_bps)

    def refuse_path(self, flow: Flow, path: Path, rate_bps: int, now_ns: int) -> Refusal | None:
        """May the contracts on a flow's path grow by this one? None means yes."""
        if not self._are_for_paths:
            return None
        return self._refuse(self._of_path(flow, path, now_ns), flow.held_bps, rate_bps)

    def room_bps(self, flow: Flow, path: Path, now_ns: int) -> int | None:
        """By how much policy lets an adaptive flow's contract grow; None where it says nothing."""
        if self._limits.contracts_per_user_bps is None and not self._are_for_paths:
            return None
        ceilings = (*self._of_user(flow), *self._of_path(flow, path, now_ns))
        return min([each.room_bps(self._ledger) for each in ceilings], default=None)

    def _refuse(self, ceilings: Iterator[Ceiling], held_bps: int, rate_bps: int) -> Refusal | None:
        for each in ceilings:
            refusal = each.refuse(self._ledger, held_bps, rate_bps)
            if refusal is not None:
                self._count(each.name)
                return refusal
        return None

    def _of_user(self, flow: Flow) -> Iterator[Ceiling]:
        uid = self._users.uid_of(flow.owner)
        return iter(()) if uid is None else self._of_uid(uid)

    def _of_uid(self, uid: int) -> Iterator[Ceiling]:
        limit_bps = self._limits.contracts_per_user_bps
        if limit_bps is not None:
            yield Ceiling("contracts_per_user_kbps", UserLink(uid), limit_bps, "of this user")

    def _of_path(self, flow: Flow, path: Path, now_ns: int) -> Iterator[Ceiling]:
        limits, host, facts = self._limits, path.host, path.facts
        whose = f"towards {host.address}"
        if limits.contracts_per_host_bps is not None:
            yield Ceiling("contracts_per_host_kbps", host, limits.contracts_per_host_bps, whose)
        if limits.contracts_per_host_ppm is not None:
            capacity_bps = _capacity(flow, path, now_ns)
            if capacity_bps is not None:
                share_bps = capacity_bps * limits.contracts_per_host_ppm // _PPM
                yield Ceiling("contracts_per_host_percent", host, share_bps, whose)
        interface_ppm = limits.contracts_per_interface_ppm
        # Where the driver does not say, nothing is known of which this would be a share.
        if interface_ppm is not None and facts is not None and facts.speed_bps:
            share_bps = facts.speed_bps * interface_ppm // _PPM
            link, whose = InterfaceLink(facts.interface), f"through {facts.interface_name}"
            yield Ceiling("contracts_per_interface_percent", link, share_bps, whose)

    def _count(self, name: str) -> None:
        self._reached[name] = self._reached.get(name, 0) + 1


def _capacity(flow: Flow, path: Path, now_ns: int) -> int | None:
    """What a path was measured to carry, or was said to a moment ago; None while it is unknown."""
    capacity_bps, quote = path.capacity_bps, flow.quote
    if capacity_bps is None or quote is None or now_ns > quote.until_ns:
        return capacity_bps
    return max(capacity_bps, quote.capacity_bps or 0)
