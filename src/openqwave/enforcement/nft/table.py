"""Our table in the kernel: made when needed, changed by transactions, put back when others take it.

**All or nothing.** Elements change in one transaction of the kernel's: packets see all of it or
nothing of it. Maps and chains that it needs are made before, in one of nft's; alone they do
nothing. What only goes must go, however little a message may hold, or it would mark whoever has the
port next; so many of those are taken away by several.

**Others' hands.** A reload of a firewall may flush the tables of everybody, ours too. Each
transaction of anybody moves the generation of the namespace's tables by one; so counting the own
ones tells at once whether anybody else did anything, and only then is the table looked at. What is
not as it was made is made anew. A table of our name that is not ours is left alone.

**Ours** is a table whose comment begins with `COMMENT_BEGIN`. One that is found at the start is of
a run that crashed, and goes.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable
from typing import Final

from openqwave.enforcement.nft.elements import (
    Count,
    Element,
    Message,
    Place,
    TableFacts,
    choice_key,
    list_elements,
    list_rules,
    putting,
    removing,
    table_facts,
)
from openqwave.enforcement.nft.library import Nft
from openqwave.enforcement.nft.netlink import DELETE_ELEMENT, Netfilter
from openqwave.enforcement.nft.ruleset import (
    COMMENT_BEGIN,
    TABLE,
    TREATMENTS,
    make_container,
    make_table,
    make_treatment,
)

# What the kernel says when the tables are not as was thought.
CHANGED: Final = frozenset({errno.ENOENT, errno.EEXIST, errno.EBUSY})
# Elements put back, or taken away, in one transaction: 150 bytes each at most, within the 208 KiB
# that a socket may send at once where its owner may not have more.
_AT_ONCE: Final = 1_000


class ForeignTable(Exception):
    """There is a table of our name that is not ours."""

    def __init__(self) -> None:
        super().__init__(
            f"there is another's nftables table `inet {TABLE}`, which is left as it is: rename it, "
            f"or remove it by `nft delete table inet {TABLE}`"
        )


def is_ours(table: TableFacts) -> bool:
    """Is it of this program's making, in this run or another?"""
    return table.comment.startswith(COMMENT_BEGIN)


def remove_leftovers(kernel: Netfilter) -> None:
    """Remove our table, whoever made it; another's of that name stays.

    Raises:
        OSError: The kernel would not; EPERM without CAP_NET_ADMIN.
    """
    table = table_facts(kernel)
    if table is not None and is_ours(table):
        try:
            kernel.change([removing(table)])
        except FileNotFoundError:
            # Removed by others in between.
            return


class OwnTable:
    """The table and what was made in it."""

    def __init__(self, kernel: Netfilter, nft: Nft) -> None:
        """Make nothing yet.

        Args:
            kernel: The kernel.
            nft: The library, of the same network namespace.
        """
        self.kernel = kernel
        self._nft = nft
        self._handle: int | None = None
        self._containers: dict[str, None] = {}
        self._choices: dict[int, tuple[int | None, int]] = {}
        self._made: set[int] = set()
        self._rules: list[bytes] = []
        self._generation: int | None = None

    def marks_of(self, choice: int) -> tuple[int | None, int]:
        """DSCP and priority of a choice; KeyError for none of ours."""
        return self._choices[choice]

    def choice_of(self, dscp: int | None, priority: int) -> int:
        """The number of one kind of marks, from 1; the chain is made when it is needed."""
        marks = dscp, priority
        for choice, known in self._choices.items():
            if known == marks:
                return choice
        choice = len(self._choices) + 1
        self._choices[choice] = marks
        return choice

    def prepare(self, containers: Iterable[str], elements: Iterable[tuple[Place, Element]]) -> None:
        """See that the table stands, and has what is about to be used.

        Args:
            containers: Maps and sets; chains are those of all choices.
            elements: What is to be in the table, should it have to be put back.

        Raises:
            ForeignTable: It is another's.
            OSError: The kernel would not; one of `CHANGED` when others were at the table.
        """
        fresh = [name for name in dict.fromkeys(containers) if name not in self._containers]
        is_known = self._handle is not None and self._generation == self.kernel.generation()
        if not is_known and not self._stands():
            self._containers.update(dict.fromkeys(fresh))
            self.put_back(elements)
            return
        choices = self._choices.keys() - self._made
        if fresh or choices:
            self._run("".join(map(make_container, fresh)) + self._chains(choices))
            self._containers.update(dict.fromkeys(fresh))
            self._made |= choices
            self._rules = list_rules(self.kernel)

    def change(self, messages: list[Message]) -> None:
        """Carry out one transaction of elements; several of those that only take many away.

        Raises:
            OSError: All is as before, but that some of those may be gone; one of `CHANGED` when
                others were at the table.
        """
        only_takes = all(number == DELETE_ELEMENT for number, _ in messages)
        size = _AT_ONCE if only_takes else len(messages)
        for at in range(0, len(messages), size):
            self.kernel.change(messages[at : at + size])
            self._count()

    def is_whole(self, elements: Iterable[tuple[Place, Element]]) -> bool:
        """Is everything as it was made?

        Args:
            elements: What is to be in the table.

        Raises:
            OSError: The kernel would not say.
        """
        generation = self.kernel.generation()
        if self._handle is None:
            return next(iter(elements), None) is None
        if generation == self._generation:
            return True
        if not self._stands():
            return False
        try:
            if list_rules(self.kernel) != self._rules:
                return False
            chosen = {key for (_, key), _, _ in list_elements(self.kernel, TREATMENTS)}
            found = {
                place: element
                for name in self._containers
                for place, element, _ in list_elements(self.kernel, name)
            }
        except FileNotFoundError:
            return False
        if chosen != set(map(choice_key, self._made)) or found != dict(elements):
            return False
        self._generation = generation
        return True

    def put_back(self, elements: Iterable[tuple[Place, Element]]) -> None:
        """Make the table anew, with all that belongs in it.

        Raises:
            ForeignTable: It is another's.
            OSError: The kernel would not.
        """
        self._handle = None
        remains = table_facts(self.kernel)
        if remains is not None and not is_ours(remains):
            raise ForeignTable
        remove_leftovers(self.kernel)
        # What others do from here on moves the real number further than the one that is kept.
        self._generation = self.kernel.generation()
        containers = "".join(map(make_container, self._containers))
        self._run(make_table() + containers + self._chains(self._choices))
        self._made = set(self._choices)
        made = table_facts(self.kernel)
        left = iter(elements)
        while some := list(itertools.islice(left, _AT_ONCE)):
            self.change([putting(place, element) for place, element in some])
        self._rules = list_rules(self.kernel)
        self._handle = None if made is None else made.handle

    def counts(self) -> dict[Place, tuple[Element | None, Count]]:
        """What all elements have counted; what is not there is left out."""
        found: dict[Place, tuple[Element | None, Count]] = {}
        for name in self._containers:
            try:
                for place, element, count in list_elements(self.kernel, name):
                    found[place] = element, count
            except FileNotFoundError:
                continue
        return found

    def remove(self) -> None:
        """Remove the table, and forget what was made.

        Raises:
            OSError: The kernel would not.
        """
        remove_leftovers(self.kernel)
        self._handle = None
        self._containers.clear()
        self._choices.clear()
        self._made.clear()
        self._rules = []

    def close(self) -> None:
        """Give back what is open; the table stays."""
        self._nft.close()
        self.kernel.close()

    def _stands(self) -> bool:
        found = table_facts(self.kernel)
        return found is not None and found.handle == self._handle

    def _chains(self, choices: Iterable[int]) -> str:
        return "".join(make_treatment(choice, *self._choices[choice]) for choice in choices)

    def _run(self, commands: str) -> None:
        self._nft.run(commands)
        self._count()

    def _count(self) -> None:
        if self._generation is not None:
            # 32 bits, and never zero.
            self._generation = self._generation % 0xFFFF_FFFF + 1
