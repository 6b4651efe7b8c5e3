"""The ledger: how much of each link is promised to whom, and what is left of it.

**Endpoint admission.** Nobody in the network reserves anything here. The host measures what is
free of a path and grants a rate when it fits (Breslau, Knightly, Shenker, Stoica and Zhang,
"Endpoint Admission Control: Architectural Issues and Performance", SIGCOMM 2000). Two evils are
known of that. *Thrashing*: many who ask at once each probe at the wanted rate, the probes fill
the link, and nobody is admitted. *Stealing*: who comes late finds room that is an earlier one's,
and takes it. Both come of asking the network alone. Here all flows of a host ask one book: a path
is measured once for all, with little traffic, and what was granted is subtracted from what was
measured before the next one is answered. Of two requests for the last megabit one wins.

**Model.** Of a link, with the last estimate (`Ledger.see`) and all contracts on it::

    spare = available - (held - own)

`available` is what the estimate found free, while holders of contracts were sending `own` of the
`held` that they may send at any time. What they send is missing from `available` already; the rest
of their contracts (held - own) is not in use yet, may be used at any time without asking, and so
counts as used. Otherwise a contract that is asked for early would be sold twice, and a stream that
pauses would lose its place. An increase is granted when it fits into what is spare; a request that
is not above what its holder has is always granted.

**A contract that is lowered or ends** does not end the traffic, which may go on unmarked. So `own`
falls by as much as the contract (and not below 0): as far as the contract may have been in use,
the room is found by the next estimate and is never assumed; only what was surely unused is free at
once. A holder that lowers its contract and wants it back finds no more room than anybody else.
With this, after any sequence of grants and releases: if each holder sends all that it holds, and
each that gave something up goes on as it was measured, the link carries no more than it can.

**Links.** A contract burdens the narrow link of its path, known by the host at the far end, and
the first hop, which paths share and which can be full though each path has room. A first hop of
which nothing is known limits nothing; a path of which nothing is known has no room to give.

**An estimate that falls** below what was granted throws nobody out: what is spare is negative, and
nothing grows until it is not.

**Quotes.** What is said to be free is promised for a moment (`QUOTE_NS`): a request within a quote
is granted though the estimate has fallen since, less what was granted on the link after the quote.
So it never sells anything twice, but for its length it may sell what others' traffic has taken.

**How it fails.** Traffic that is no flow's may come at any time, here or from other hosts, and
takes what was granted; that is found by the next estimates, and told as congestion. `own` is a
judgement. Above the truth (others' packets counted as a flow's, or counters that look back less
far than the estimate) a contract that is not in use is sold twice until it is used; below the
truth what flows send counts twice, and what could be granted is refused. Two paths with a
narrow link in common beyond the first hop are taken for two links.

Hosts that share a link would hold leases of it: the same calls, on a book kept by all, where a
contract ends with its host unless it is renewed.

Rates are bits a second, IP headers included; exact, to 2^64 - 1 and beyond. A decision looks at
the links of its flow, never at other flows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, TypeAlias

from openqwave.model.value import value

# A path's narrow link, which is the host at its far end, or the first hop that paths share.
Link: TypeAlias = Hashable

# How long a quote is honoured. A program that is told that a rate is free asks for it within
# milliseconds; a second covers one that was waiting for the processor, and is not longer than a
# path goes unmeasured while somebody waits.
QUOTE_NS = 1_000_000_000

_Contract: TypeAlias = tuple[tuple[Link, ...], int]
_NO_CONTRACT: Final[_Contract] = ((), 0)


@dataclass(slots=True, eq=False)
class _Page:
    """What stands in the book of one link.

    Attributes:
        held_bps: The sum of the contracts on it.
        own_bps: What of them is in the last estimate, as traffic; 0 to `held_bps`.
        available_bps: What the estimate found free; None while it is unknown.
        granted_bps: All increases so far, undone ones apart; only differences mean anything.
        life: Number of the first estimate since the link was forgotten; 0 while there is none.
        estimate: Number of the last estimate.
    """

    held_bps: int = 0
    own_bps: int = 0
    available_bps: int | None = None
    granted_bps: int = 0
    life: int = 0
    estimate: int = 0

    @property
    def spare_bps(self) -> int | None:
        """See the module's text."""
        if self.available_bps is None:
            return None
        return self.available_bps - self.held_bps + self.own_bps


@value
class Promise:
    """What was said to be free of one link.

    Attributes:
        link: Which.
        spare_bps: What was spare; None where nothing was known, and nothing limits.
        granted_bps: What had been granted on it ever.
        life: Which knowledge of the link it was.
    """

    link: Link
    spare_bps: int | None
    granted_bps: int
    life: int


@value
class Quote:
    """What was said to be free, honoured for a short time.

    Attributes:
        promises: One for each link; none if nothing was known of the path.
        until_ns: The last moment at which it is honoured.
        capacity_bps: What the path was measured to carry then; None if unknown.
    """

    promises: tuple[Promise, ...]
    until_ns: int
    capacity_bps: int | None = None


class Ledger:
    """All contracts of a host and all links that they burden; see the module's text.

    Holders are known by a number. Their links come as a tuple, that of the path itself first.
    """

    def __init__(self) -> None:
        self._pages: dict[Link, _Page] = {}
        self._contracts: dict[int, _Contract] = {}
        self._estimates = 0

    @property
    def entry_count(self) -> int:
        """How many links and contracts are kept."""
        return len(self._pages) + len(self._contracts)

    # -- estimates --------------------------------------------------------------------

    def see(self, link: Link, available_bps: int | None, own_bps: int) -> None:
        """Take a new estimate of a link.

        Args:
            link: Which.
            available_bps: What is free of it; None if that is not known, or not any more.
            own_bps: What holders of contracts on it were sending in all while that was measured,
                none more than it holds. More than all contracts together counts as all of them.
        """
        page = self._pages.get(link)
        if page is None or not page.life:
            if available_bps is None:
                return
            if page is None:
                page = self._pages[link] = _Page()
            page.life = self._estimates + 1
        self._estimates += 1
        page.estimate = self._estimates
        page.available_bps = available_bps
        page.own_bps = max(0, min(own_bps, page.held_bps))

    def revise(self, link: Link, available_bps: int | None) -> None:
        """Believe something else of a link without a new estimate of it.

        What contracts were sending stays as it was, less what was given up since. Of a link that
        was never estimated nothing is believed.
        """
        page = self._pages.get(link)
        if page is not None and page.life:
            page.available_bps = available_bps

    def forget(self, link: Link) -> None:
        """Know nothing of a link any more; contracts on it remain, quotes do not."""
        page = self._pages.get(link)
        if page is None:
            return
        page.life, page.available_bps = 0, None
        self._drop_empty(link, page)

    # -- what is there ----------------------------------------------------------------

    def is_known(self, link: Link) -> bool:
        """Is there an estimate of a link?"""
        return self.spare_bps(link) is not None

    def spare_bps(self, link: Link) -> int | None:
        """What could be granted on a link; negative where too much is, None if unknown."""
        page = self._pages.get(link)
        return None if page is None else page.spare_bps

    def spare_of(self, links: tuple[Link, ...]) -> int | None:
        """The least that is spare of known links; None while the path itself is not known."""
        spare_bps: int | None = None
        for link in links:
            one_bps = self.spare_bps(link)
            if spare_bps is None:
                if one_bps is None:
                    return None
                spare_bps = one_bps
            elif one_bps is not None and one_bps < spare_bps:
                spare_bps = one_bps
        return spare_bps

    def held_bps(self, holder: int) -> int:
        """The rate of a holder's contract; 0 without one."""
        return self._contracts.get(holder, _NO_CONTRACT)[1]

    def total_held_bps(self, link: Link) -> int:
        """The sum of the contracts on a link."""
        page = self._pages.get(link)
        return 0 if page is None else page.held_bps

    # -- decisions --------------------------------------------------------------------

    def refuse(
        self,
        holder: int,
        links: tuple[Link, ...],
        rate_bps: int,
        *,
        quote: Quote | None = None,
        now_ns: int,
    ) -> int | None:
        """Can a rate be granted? None means yes.

        What the holder has counts on links that its contract burdens already, so not on the
        first hop of a new way.

        Args:
            holder: Whose contract it would be.
            links: What the contract would burden.
            rate_bps: The whole of it, not the increase.
            quote: What the holder was told to be free.
            now_ns: The time, for the quote.

        Returns:
            None, or the highest rate that can be granted; not below what the holder has.
        """
        held_links, held_bps = self._contracts.get(holder, _NO_CONTRACT)
        if rate_bps <= held_bps:
            return None
        if quote is not None and now_ns > quote.until_ns:
            quote = None
        most_bps: int | None = None
        for link in links:
            room_bps = self.spare_bps(link) if quote is None else self._quoted_bps(link, quote)
            if room_bps is None:
                if most_bps is None:
                    break
                continue
            if link in held_links:
                room_bps += held_bps
            if most_bps is None or room_bps < most_bps:
                most_bps = room_bps
        if most_bps is None:
            return held_bps
        return None if rate_bps <= most_bps else max(most_bps, held_bps)

    def quote(
        self, links: tuple[Link, ...], *, now_ns: int, capacity_bps: int | None = None
    ) -> Quote:
        """What is free now, promised for `QUOTE_NS`; nothing while the path is not known.

        Args:
            links: Of what.
            now_ns: The time.
            capacity_bps: What the path was measured to carry; only kept.
        """
        promises: list[Promise] = []
        for link in links:
            page = self._pages.get(link)
            spare_bps = None if page is None else page.spare_bps
            if page is not None and spare_bps is not None:
                promises.append(Promise(link, spare_bps, page.granted_bps, page.life))
            elif promises:
                promises.append(Promise(link, None, 0, 0))
            else:
                break
        return Quote(tuple(promises), now_ns + QUOTE_NS, capacity_bps)

    def _quoted_bps(self, link: Link, quote: Quote) -> int | None:
        """What is spare of a link, or was promised of it and not granted since."""
        page = self._pages.get(link)
        spare_bps = None if page is None else page.spare_bps
        if page is None or spare_bps is None:
            return None
        for promise in quote.promises:
            if promise.link == link:
                if promise.spare_bps is None:
                    return None
                if promise.life == page.life:
                    # An increase of the holder's own is subtracted too: it is in what it holds.
                    granted_bps = page.granted_bps - promise.granted_bps
                    return max(spare_bps, promise.spare_bps - granted_bps)
        return spare_bps

    # -- contracts --------------------------------------------------------------------

    def hold(self, holder: int, links: tuple[Link, ...], rate_bps: int) -> Callable[[], None]:
        """Record a contract without asking whether it fits.

        Args:
            holder: Whose it is; what it had is replaced.
            links: What it burdens.
            rate_bps: The whole of it; 0 ends it.

        Returns:
            What undoes it, to be called before older changes are undone. It leaves everything as
            it was; where an estimate came in between, this one stays, and of the contract that is
            put back or taken away nothing counts as being in it.
        """
        before = self._contracts.get(holder, _NO_CONTRACT)
        held_links, held_bps = before
        changes = dict.fromkeys(held_links, -held_bps)
        for link in links:
            changes[link] = rate_bps - held_bps if link in held_links else rate_bps
        self._record(holder, (links, rate_bps))
        done = [
            (link, change_bps, *self._burden(link, change_bps))
            for link, change_bps in changes.items()
            if change_bps
        ]

        def undo() -> None:
            self._record(holder, before)
            for link, change_bps, fell_bps, estimate in done:
                self._relieve(link, change_bps, fell_bps, estimate)

        return undo

    def release(self, holder: int) -> Callable[[], None]:
        """End a holder's contract, if it has one; returns what undoes it, as `hold` does."""
        return self.hold(holder, (), 0)

    def _record(self, holder: int, contract: _Contract) -> None:
        if contract[1]:
            self._contracts[holder] = contract
        else:
            self._contracts.pop(holder, None)

    def _burden(self, link: Link, change_bps: int) -> tuple[int, int]:
        """Change the sum on a link; returns by how much `own` fell, and under which estimate."""
        page = self._page(link)
        page.held_bps += change_bps
        fell_bps = 0
        if change_bps > 0:
            page.granted_bps += change_bps
        else:
            fell_bps = min(page.own_bps, -change_bps)
            page.own_bps -= fell_bps
        self._drop_empty(link, page)
        return fell_bps, page.estimate

    def _relieve(self, link: Link, change_bps: int, fell_bps: int, estimate: int) -> None:
        """Take such a change back."""
        page = self._page(link)
        page.held_bps -= change_bps
        if change_bps > 0:
            page.granted_bps -= change_bps
            if page.estimate != estimate:
                page.own_bps = max(0, page.own_bps - change_bps)
        elif page.estimate == estimate:
            page.own_bps += fell_bps
        self._drop_empty(link, page)

    def _page(self, link: Link) -> _Page:
        page = self._pages.get(link)
        if page is None:
            page = self._pages[link] = _Page()
        return page

    def _drop_empty(self, link: Link, page: _Page) -> None:
        if not page.held_bps and not page.life:
            del self._pages[link]
