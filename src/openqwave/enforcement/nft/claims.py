"""Which sockets want which element, and what has to change when they want otherwise.

Two sockets can send from the same port to the same peer (SO_REUSEPORT). Their packets look alike
to nftables, so they share an element when they want the same, and the second is refused when it
wants anything else. The element bears the name of the one that came first.

Pure bookkeeping: what is considered changes nothing until it is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

from openqwave.enforcement.nft.elements import Element, Place
from openqwave.model.value import value

# What one socket wants, by place; the container is named as if all were marked.
Wanted: TypeAlias = "Mapping[Place, Element]"


class Clash(Exception):
    """Two sockets want different things of packets that look alike."""


@value
class Change:
    """One element that is to be otherwise; None for not there."""

    place: Place
    before: Element | None
    after: Element | None


def place_of(place: Place, element: Element) -> Place:
    """Where an element really stands: counted ones are elsewhere."""
    return place if element.choice else (f"{place[0]}_counted", place[1])


class Claims:
    """What all sockets want."""

    def __init__(self) -> None:
        """Nobody wants anything."""
        self._of_socket: dict[int, dict[Place, Element]] = {}
        self._at: dict[Place, dict[int, Element]] = {}
        self._of_flow: dict[int, dict[Place, None]] = {}

    def __contains__(self, cookie: int) -> bool:
        """Does the socket want anything?"""
        return cookie in self._of_socket

    def __len__(self) -> int:
        """How many elements there are to be."""
        return len(self._at)

    def sockets(self) -> Iterable[tuple[int, Wanted]]:
        """What each socket wants, by cookie."""
        return self._of_socket.items()

    def elements(self) -> Iterator[tuple[Place, Element]]:
        """All elements that are to be, where they are to stand."""
        for place, claims in self._at.items():
            element = _first(claims)
            if element is not None:
                yield place_of(place, element), element

    def of_flow(self, flow_id: int) -> Collection[Place]:
        """Where the elements of a flow stand."""
        return self._of_flow.get(flow_id, {})

    def consider(self, wanted: Mapping[int, Wanted]) -> list[Change]:
        """What would have to change.

        Args:
            wanted: All that each of some sockets is to want from now on.

        Raises:
            Clash: It cannot be.
        """
        touched: dict[Place, dict[int, Element]] = {}

        def claims_at(place: Place) -> dict[int, Element]:
            found = touched.get(place)
            if found is None:
                found = touched[place] = dict(self._at.get(place, ()))
            return found

        for cookie, elements in wanted.items():
            before = self._of_socket.get(cookie, {})
            for place in before.keys() - elements.keys():
                del claims_at(place)[cookie]
            for place, element in elements.items():
                if before.get(place) != element:
                    claims_at(place)[cookie] = element
        changes = []
        for place, claims in touched.items():
            if len(claims) > 1 and len({element.choice for element in claims.values()}) > 1:
                raise Clash
            old, new = _first(self._at.get(place)), _first(claims)
            if old != new:
                changes.append(Change(place, old, new))
        return changes

    def keep(self, wanted: Mapping[int, Wanted], changes: Iterable[Change]) -> None:
        """Remember what was considered: the kernel has it."""
        for cookie, elements in wanted.items():
            for place in self._of_socket.pop(cookie, {}).keys() - elements.keys():
                del self._at[place][cookie]
                if not self._at[place]:
                    del self._at[place]
            for place, element in elements.items():
                self._at.setdefault(place, {})[cookie] = element
            if elements:
                self._of_socket[cookie] = dict(elements)
        for change in changes:
            if change.before is not None:
                flow = self._of_flow[change.before.flow_id]
                del flow[place_of(change.place, change.before)]
                if not flow:
                    del self._of_flow[change.before.flow_id]
            if change.after is not None:
                flow = self._of_flow.setdefault(change.after.flow_id, {})
                flow[place_of(change.place, change.after)] = None


def _first(claims: Mapping[int, Element] | None) -> Element | None:
    return next(iter(claims.values())) if claims else None
