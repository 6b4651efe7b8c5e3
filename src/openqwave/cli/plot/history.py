"""What a measurement has told so far: its samples, and how much of them each result rested on.

The program that measures fills it as it goes, and a recording, which holds both, fills it again.
What is made of it is the same. A day of watching is kept in some 200 MB: small probes as their four
times, not as objects.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from openqwave.estimate.path import report
from openqwave.estimate.samples import Gap, Sample, Train
from openqwave.model.estimates import PathReport

# More results of a watch would lie over each other in a picture.
MOST_RESULTS: Final = 400

_T = TypeVar("_T")


class History:
    """Takes what a measurement, and the watch after it, tell.

    Attributes:
        measured: The samples of the measurement, in order.
        first: Its result; None before it.
        first_known_ns: When that was known.
    """

    def __init__(self) -> None:
        self.measured: list[Sample] = []
        self.first: PathReport | None = None
        # Of a watch: sequence and size of a small probe tell nothing here, its four times do.
        self._times_ns = array("q")
        self._trains: list[Train] = []
        self._known_ns = 0
        # When each result of the watch was known, and it.
        self._later: list[tuple[int, PathReport]] = []
        self.first_known_ns = 0
        # What came after the last result: the picture ends with that.
        self._pending: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Take a sample, when it is complete."""
        self._pending.append(sample)

    def conclude(self, found: PathReport) -> None:
        """Note a result, which rests on all samples so far."""
        for sample in self._pending:
            self._known_ns = max(self._known_ns, known_ns(sample))
            if self.first is None:
                self.measured.append(sample)
            elif isinstance(sample, Train):
                self._trains.append(sample)
            else:
                self._times_ns.extend(
                    (
                        sample.sent_ns,
                        sample.sink_received_ns,
                        sample.sink_sent_ns,
                        sample.received_ns,
                    )
                )
        self._pending.clear()
        if self.first is None:
            self.first, self.first_known_ns = found, self._known_ns
        else:
            self._later.append((self._known_ns, found))

    def last_report(self) -> PathReport:
        """The last result.

        Raises:
            ValueError: There is none.
        """
        if self._later:
            return self._later[-1][1]
        if self.first is None:
            raise ValueError("nothing was concluded")
        return self.first

    def gaps(self) -> Iterator[Gap]:
        """All small probes, in order."""
        yield from (sample for sample in self.measured if isinstance(sample, Gap))
        times = self._times_ns
        for place in range(0, len(times), 4):
            yield Gap(0, 0, *times[place : place + 4])

    def trains(self) -> list[Train]:
        """All trains, in order."""
        return [*(one for one in self.measured if isinstance(one, Train)), *self._trains]

    @property
    def later(self) -> list[tuple[int, PathReport]]:
        """When each result of a watch was known, and it; of very many some, and the last."""
        return thinned(self._later)


def history_of(samples: Sequence[Sample], counts: Sequence[int], supports: bool | None) -> History:
    """What a measurement has told, from its recording: each result anew, from its samples.

    Args:
        samples: In the order of the recording.
        counts: How many of them each result rested on: that of the measurement first, and then
            those of a watch, of which some are left out where there are very many.
        supports: What the route check found.
    """
    history = History()
    whole = counts[0]
    for sample in samples[:whole]:
        history.add(sample)
    history.conclude(report(samples[:whole], supports))
    if len(counts) > 1:
        # Here, because most programs that have use for a history watch nothing.
        from openqwave.estimate.watch import PathWatch

        path = PathWatch(samples[:whole], supports)
        for count in thinned(counts[1:]):
            for sample in samples[whole:count]:
                path.observe(sample)
                history.add(sample)
            history.conclude(path.report())
            whole = count
    return history


def thinned(results: Sequence[_T]) -> list[_T]:
    """Of very many results `MOST_RESULTS`, evenly; the last is among them."""
    step = -(-len(results) // MOST_RESULTS) or 1
    return list(results[::-1][::step][::-1])


def known_ns(sample: Sample) -> int:
    """When a sample was complete, as far as its own times say."""
    if isinstance(sample, Train):
        return sample.sent_ns[-1] + sum(sample.deltas_ns)
    return max(sample.sent_ns, sample.received_ns)
