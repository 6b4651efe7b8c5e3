"""Which flows, paths, programs and refusals are shown, and in which order.

What is not known stands last, however it is sorted. A filter is words; a row is shown where each
of them is part of something that it says, as a person reads it: a program, a user, an address, a
number, a state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from openqwave.cli.overview.filters import place_of
from openqwave.cli.overview.paths import state_of
from openqwave.cli.overview.refusals import request_words
from openqwave.ipc.messages import FlowRow, PathRow, ProgramRow, RefusalRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

R = TypeVar("R", FlowRow, PathRow, ProgramRow, RefusalRow)
# What rows are sorted by; None where it is not known.
Place: TypeAlias = "float | str | tuple[int, int] | None"


@dataclass(frozen=True, slots=True)
class Order(Generic[R]):
    """One way to sort.

    Attributes:
        name: What it is by, for people.
        place: Where a row stands.
        largest_first: Whether that is what one looks for.
    """

    name: str
    place: Callable[[R], Place]
    largest_first: bool = False


def flow_trouble(row: FlowRow) -> int:
    """How much somebody should look at a flow: 0 for not at all."""
    if row.marking == "not admitted":
        return 3
    if row.path_state in ("congested", "in trouble"):
        return 2
    return int(bool(row.excess_packets or row.dropped_packets))


def path_trouble(row: PathRow) -> int:
    """Likewise for a path."""
    return 2 if row.congested else int(bool(row.obstacle))


FLOW_ORDERS: Final[Sequence[Order[FlowRow]]] = (
    Order("flow", lambda row: row.flow),
    Order("sends", lambda row: row.sending_bps, largest_first=True),
    Order("contract", lambda row: row.contract_bps, largest_first=True),
    Order("trouble", flow_trouble, largest_first=True),
    Order("program", lambda row: row.program.casefold()),
    Order("user", lambda row: row.user.casefold()),
)
PATH_ORDERS: Final[Sequence[Order[PathRow]]] = (
    Order("host", lambda row: place_of(row.host)),
    Order("free", lambda row: row.available_bps),
    Order("held", lambda row: row.held_bps, largest_first=True),
    Order("trouble", path_trouble, largest_first=True),
    Order("RTT", lambda row: row.rtt_ns, largest_first=True),
)

PROGRAM_ORDERS: Final[Sequence[Order[ProgramRow]]] = (
    # As the service lists them: runs, then rules, the best first.
    Order("number", lambda row: (int(row.kind == "rule"), row.number)),
    Order("program", lambda row: row.name.casefold()),
    Order("user", lambda row: row.user.casefold()),
    Order("rate", lambda row: row.rate_bps, largest_first=True),
    Order("sent", lambda row: row.sent_packets, largest_first=True),
)
REFUSAL_ORDERS: Final[Sequence[Order[RefusalRow]]] = (
    Order("time", lambda row: row.number, largest_first=True),
    Order("program", lambda row: row.program.casefold()),
    Order("user", lambda row: row.user.casefold()),
    Order("reason", lambda row: row.name),
    Order("times", lambda row: row.times, largest_first=True),
)


@dataclass(frozen=True, slots=True)
class Arrangement(Generic[R]):
    """An order that may be turned round.

    Attributes:
        orders: Those that there are.
        number: Which of them.
        is_reversed: Turned round.
    """

    orders: Sequence[Order[R]]
    number: int = 0
    is_reversed: bool = False

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"by {self.orders[self.number].name}" + (", reversed" if self.is_reversed else "")

    def next(self) -> Arrangement[R]:
        """The next order, not turned round."""
        return Arrangement(self.orders, (self.number + 1) % len(self.orders))

    def reversed(self) -> Arrangement[R]:
        """The same, turned round."""
        return Arrangement(self.orders, self.number, not self.is_reversed)

    def of(self, rows: Iterable[R]) -> list[R]:
        """Rows in this order; those that are equal stay as they stood."""
        order = self.orders[self.number]
        placed = [(order.place(row), row) for row in rows]
        known = [one for one in placed if one[0] is not None]
        turned = order.largest_first != self.is_reversed
        # Places of one order are of one kind.
        known.sort(key=lambda one: one[0], reverse=turned)  # type: ignore[arg-type, return-value]
        return [row for _, row in known] + [row for place, row in placed if place is None]


def flows_with(rows: Iterable[FlowRow], wanted: str) -> list[FlowRow]:
    """Flows that say all the words."""
    return _saying(rows, wanted, _of_flow)


def paths_with(rows: Iterable[PathRow], wanted: str) -> list[PathRow]:
    """Paths that say all the words."""
    return _saying(rows, wanted, _of_path)


def programs_with(rows: Iterable[ProgramRow], wanted: str) -> list[ProgramRow]:
    """Runs and rules that say all the words."""
    return _saying(rows, wanted, _of_program)


def refusals_with(rows: Iterable[RefusalRow], wanted: str) -> list[RefusalRow]:
    """Refusals that say all the words."""
    return _saying(rows, wanted, _of_refusal)


def _saying(rows: Iterable[R], wanted: str, text_of: Callable[[R], str]) -> list[R]:
    words = wanted.casefold().split()
    if not words:
        return list(rows)
    said = ((row, text_of(row)) for row in rows)
    return [row for row, text in said if all(word in text for word in words)]


def _of_flow(row: FlowRow) -> str:
    parts = [str(row.flow), row.user, row.program, str(row.pid), row.traffic_type]
    parts += [row.marking, row.path_state, row.host or "", row.backend]
    parts += ["" if row.dscp is None else f"dscp {row.dscp}"]
    for one in row.sockets:
        parts += [one.protocol, one.local or "", *one.destinations]
    return "\n".join(parts).casefold()


def _of_path(row: PathRow) -> str:
    parts = [row.host, row.interface, row.source, row.gateway or "", row.link_type]
    return "\n".join([*parts, state_of(row)[0], row.obstacle, row.congestion_reason]).casefold()


def _of_program(row: ProgramRow) -> str:
    parts = [f"{row.kind} {row.number}", row.name, row.user]
    parts += ["" if row.pid is None else str(row.pid), row.traffic_type or "", row.asks]
    parts += ["" if row.dscp is None else f"dscp {row.dscp}"]
    return "\n".join([*parts, row.cgroup, row.origin, row.backend, row.reason]).casefold()


def _of_refusal(row: RefusalRow) -> str:
    parts = [row.user, row.program, str(row.pid), request_words(row), row.host or ""]
    parts += ["" if row.flow is None else f"flow {row.flow}", f"{row.name} {row.code}"]
    return "\n".join([*parts, row.detail]).casefold()
