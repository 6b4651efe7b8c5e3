"""The ledger never promises more than a link has, whatever is asked, lowered, ended and undone.

The machine knows what the ledger does not: what each link can carry, what others send there, and
what each holder really sent when the link was measured. Against that the ledger is held: if every
holder now sends all that it holds, and each that gave something up goes on as it was measured, the
link carries no more than it can, or than it had to carry already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openqwave.admission.ledger import QUOTE_NS, Ledger, Link, Quote
from openqwave.model.path import FirstHop

PATHS: tuple[tuple[Link, ...], ...] = (
    ("near", FirstHop(2)),
    ("far", FirstHop(2)),
    ("away", FirstHop(3)),
    ("bare",),
)
LINKS = sorted({link for links in PATHS for link in links}, key=str)
HOLDERS = range(1, 6)
# Who only asks.
NOBODY = 99
MOST = 2**64
RATES = st.integers(0, 120) | st.integers(0, MOST - 1)
PARTS = st.lists(st.integers(0, 100), min_size=len(HOLDERS), max_size=len(HOLDERS))


@dataclass
class Truth:
    """One link, as it is.

    Attributes:
        capacity_bps: What it carries.
        others_bps: What others were sending when it was measured.
        sent_bps: What each holder was sending then.
        worst_bps: The most that the link was already bound to carry then.
        held_bps: The sum of contracts on it then.
        is_exact: No contract has shrunk since, so that nothing is uncertain.
    """

    capacity_bps: int
    others_bps: int
    sent_bps: dict[int, int]
    worst_bps: int = 0
    held_bps: int = 0
    is_exact: bool = True


@dataclass
class Books:
    """The contracts, kept a second time in the plainest way."""

    rates: dict[int, int] = field(default_factory=dict)
    links: dict[int, tuple[Link, ...]] = field(default_factory=dict)

    def rate(self, holder: int, link: Link) -> int:
        return self.rates.get(holder, 0) if link in self.links.get(holder, ()) else 0

    def total(self, link: Link) -> int:
        return sum(self.rate(holder, link) for holder in HOLDERS)

    def set(self, holder: int, links: tuple[Link, ...], rate_bps: int) -> None:
        self.rates[holder], self.links[holder] = rate_bps, links


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.books = Books()
        self.truths: dict[Link, Truth] = {}
        self.quotes: dict[tuple[Link, ...], Quote] = {}
        self.undos: list[Callable[[], None]] = []

    def worst_bps(self, link: Link) -> int:
        truth = self.truths[link]
        return truth.others_bps + sum(
            max(self.books.rate(holder, link), truth.sent_bps.get(holder, 0)) for holder in HOLDERS
        )

    def observe(self, quotes: dict[tuple[Link, ...], Quote]) -> tuple[object, ...]:
        """Everything that can be seen of the ledger, and what quotes are worth."""
        ledger = self.ledger
        return (
            ledger.entry_count,
            [
                ledger.refuse(NOBODY, links, MOST * 9, quote=quotes.get(links), now_ns=0)
                for links in PATHS
            ],
            [ledger.held_bps(holder) for holder in HOLDERS],
            [(ledger.spare_bps(link), ledger.total_held_bps(link)) for link in LINKS],
        )

    # -- what happens -----------------------------------------------------------------

    @rule(
        link=st.sampled_from(LINKS),
        capacity=st.integers(0, 200) | st.integers(0, MOST),
        others=st.integers(0, 300),
        parts=PARTS,
    )
    def measure(self, link: Link, capacity: int, others: int, parts: list[int]) -> None:
        self.undos.clear()
        sent = {
            holder: self.books.rate(holder, link) * part // 100
            for holder, part in zip(HOLDERS, parts, strict=True)
        }
        own = sum(sent.values())
        truth = Truth(max(capacity, others + own), others, sent)
        self.truths[link] = truth
        truth.worst_bps = self.worst_bps(link)
        truth.held_bps = self.books.total(link)
        self.ledger.see(link, truth.capacity_bps - others - own, own)

    @rule(link=st.sampled_from(LINKS), is_forgotten=st.booleans())
    def lose(self, link: Link, is_forgotten: bool) -> None:
        self.undos.clear()
        self.truths.pop(link, None)
        if is_forgotten:
            self.ledger.forget(link)
        else:
            self.ledger.see(link, None, 0)

    @rule(links=st.sampled_from(PATHS))
    def quote(self, links: tuple[Link, ...]) -> None:
        self.quotes[links] = self.ledger.quote(links, now_ns=0)

    @rule(holder=st.sampled_from(HOLDERS), links=st.sampled_from(PATHS), rate_bps=RATES)
    def ask(self, holder: int, links: tuple[Link, ...], rate_bps: int) -> None:
        held = self.books.rates.get(holder, 0)
        if held:
            links = self.books.links[holder]
        most = self.ledger.refuse(holder, links, rate_bps, now_ns=0)
        if rate_bps <= held:
            assert most is None
        elif most is not None:
            assert held <= most < rate_bps
            # What is said to be the most is granted, and not a bit more.
            assert self.ledger.refuse(holder, links, most, now_ns=0) is None
            assert self.ledger.refuse(holder, links, most + 1, now_ns=0) == most
            rate_bps = most
        self.change(holder, links, rate_bps)

    @rule(holder=st.sampled_from(HOLDERS))
    def release(self, holder: int) -> None:
        self.change(holder, None, 0)

    def change(self, holder: int, links: tuple[Link, ...] | None, rate_bps: int) -> None:
        books, quotes = self.books, self.quotes.copy()
        before = self.observe(quotes)
        held, held_links = books.rates.get(holder, 0), books.links.get(holder, ())
        exact = {link: truth.is_exact for link, truth in self.truths.items()}
        if links is None:
            undo = self.ledger.release(holder)
        else:
            undo = self.ledger.hold(holder, links, rate_bps)
        books.set(holder, links or (), rate_bps)
        if rate_bps < held:
            for link in held_links:
                if link in self.truths:
                    self.truths[link].is_exact = False

        def undo_all() -> None:
            undo()
            books.set(holder, held_links, held)
            for link, is_exact in exact.items():
                self.truths[link].is_exact = is_exact
            assert self.observe(quotes) == before

        self.undos.append(undo_all)

    @precondition(lambda self: self.undos)
    @rule(count=st.integers(1, 4))
    def undo(self, count: int) -> None:
        for _ in range(min(count, len(self.undos))):
            self.undos.pop()()

    # -- what always holds ------------------------------------------------------------

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        for link, truth in self.truths.items():
            assert self.worst_bps(link) <= max(truth.capacity_bps, truth.worst_bps)

    @invariant()
    def what_was_granted_since_an_estimate_is_what_it_left(self) -> None:
        for link, truth in self.truths.items():
            free = truth.capacity_bps - truth.others_bps - sum(truth.sent_bps.values())
            left = free - (truth.held_bps - sum(truth.sent_bps.values()))
            granted = self.books.total(link) - truth.held_bps
            assert granted <= max(0, left)
            if truth.is_exact:
                # And nothing of it is kept back.
                assert self.ledger.spare_bps(link) == left - granted

    @invariant()
    def the_sums_are_right(self) -> None:
        for holder in HOLDERS:
            assert self.ledger.held_bps(holder) == self.books.rates.get(holder, 0)
        for link in LINKS:
            assert self.ledger.total_held_bps(link) == self.books.total(link)
            assert self.ledger.is_known(link) == (link in self.truths)

    @invariant()
    def a_path_has_what_its_least_link_has(self) -> None:
        for links in PATHS:
            spares = [self.ledger.spare_bps(link) for link in links]
            known = [spare for spare in spares if spare is not None]
            assert self.ledger.spare_of(links) == (None if spares[0] is None else min(known))

    def teardown(self) -> None:
        for holder in HOLDERS:
            self.ledger.release(holder)
        for link in LINKS:
            self.ledger.forget(link)
        assert self.ledger.entry_count == 0


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=300, stateful_step_count=30)


# -- promises -------------------------------------------------------------------------


@given(
    free=st.integers(0, MOST),
    fallen=st.integers(0, MOST),
    asked=st.lists(st.tuples(st.sampled_from(HOLDERS), st.integers(0, MOST)), max_size=8),
)
def test_all_quotes_together_promise_what_was_free_once(
    free: int, fallen: int, asked: list[tuple[int, int]]
) -> None:
    # All were told the same before any of them asked; then the estimate falls, or rises.
    ledger, links = Ledger(), PATHS[0]
    ledger.see(links[0], free, 0)
    quote = ledger.quote(links, now_ns=0)
    ledger.see(links[0], fallen, 0)
    for holder, rate_bps in asked:
        if ledger.refuse(holder, links, rate_bps, quote=quote, now_ns=QUOTE_NS) is None:
            ledger.hold(holder, links, rate_bps)
        assert ledger.total_held_bps(links[0]) <= max(free, fallen)


@given(
    free=st.integers(0, MOST),
    held=st.integers(0, MOST),
    fallen=st.integers(0, MOST),
    taken=st.integers(0, MOST),
)
def test_what_was_quoted_is_granted_unless_another_took_it(
    free: int, held: int, fallen: int, taken: int
) -> None:
    ledger, links, (one, another) = Ledger(), PATHS[0], HOLDERS[:2]
    ledger.hold(one, links, held)
    ledger.see(links[0], free, held)
    quote = ledger.quote(links, now_ns=0)
    if ledger.refuse(another, links, taken, now_ns=0) is not None:
        taken = 0
    ledger.hold(another, links, taken)
    ledger.see(links[0], fallen, held)
    rate_bps = held + free - taken
    assert ledger.refuse(one, links, rate_bps, quote=quote, now_ns=QUOTE_NS) is None


@given(free=st.integers(1, MOST), askers=st.permutations(HOLDERS))
def test_the_last_megabit_has_one_winner_whoever_comes_first(free: int, askers: list[int]) -> None:
    ledger, links = Ledger(), PATHS[0]
    ledger.see(links[0], free, 0)
    granted = []
    for holder in askers:
        if ledger.refuse(holder, links, free, now_ns=0) is None:
            ledger.hold(holder, links, free)
            granted.append(holder)
    assert granted == askers[:1]
