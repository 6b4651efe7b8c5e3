"""The whole of `qwave probe`, in order: whom, may we, measure, say, watch, draw; and exit statuses.

What is to be written is looked at before anything is sent. A picture is drawn at the end, also of a
watch that a signal or the sink has ended: what was seen is worth having.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Protocol

from openqwave.cli.interruption import Interrupted, Interruption
from openqwave.cli.plot import target
from openqwave.cli.plot.history import History
from openqwave.cli.probe import recording
from openqwave.cli.probe.failures import (
    CANNOT_RUN,
    INCONCLUSIVE,
    MEASURED,
    Leaving,
    of_error,
    of_event,
)
from openqwave.cli.probe.outcome import Outcome
from openqwave.cli.probe.progress import view
from openqwave.cli.probe.quick import duration_ns
from openqwave.cli.probe.rendering import line, table
from openqwave.cli.probe.target import BadHostError, resolve
from openqwave.drivers.experiments import ExperimentHost
from openqwave.model.errors import QosError, TimedOut
from openqwave.probing.measurement import (
    QUICK,
    Measured,
    Measurement,
    Progressed,
    Sampled,
    Wish,
)
from openqwave.probing.outcomes import Ended, Failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openqwave.cli.probe.outcome import Destination
    from openqwave.cli.probe.recording import Recorder
    from openqwave.drivers.experiments import Running
    from openqwave.estimate.samples import Sample
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.estimates import PathReport
    from openqwave.probing.session import Event

NS_PER_S = 1_000_000_000

# 128 and SIGINT's number, as a shell tells it.
INTERRUPTED = 130

# Events are fetched in bunches: each time this thread wakes, the one that sends and stamps may
# have to wait for it. Where the whole command has a second, the end is not waited for that long.
FETCH_S, FETCH_QUICK_S = 0.05, 0.01


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.

    Attributes:
        host: A name or an address.
        version: The IP version that is wanted; None for either.
        seconds: How long to measure; None for the usual time.
        is_quick: A first idea, with the whole command under a second.
        is_off_link: Whether the host may be beyond a router.
        checks_priority: Whether 802.1p is to be tried.
        watches: Whether to go on after the first result.
        watch_s: For how long, from the start; None for until Ctrl-C.
        as_json: One JSON object on standard output, and nothing else there.
        samples: Where to record; None for nowhere.
        plot: Where to draw; None for nowhere.
    """

    host: str
    version: int | None = None
    seconds: float | None = None
    is_quick: bool = False
    is_off_link: bool = False
    checks_priority: bool = True
    watches: bool = False
    watch_s: float | None = None
    as_json: bool = False
    samples: Path | None = None
    plot: Path | None = None


def run_probe(options: Options) -> int:
    """Run it; return the exit status. Everything else is on standard output and error."""
    try:
        with Interruption() as interruption:
            return _run(options, interruption)
    except Interrupted as interrupted:
        _tell("Interrupted.")
        return interrupted.status
    except KeyboardInterrupt:
        _tell("Interrupted.")
        return INTERRUPTED
    except Leaving as leaving:
        _tell(str(leaving))
        return leaving.status
    except recording.UnwritableError as error:
        _tell(str(error))
        return CANNOT_RUN


def run_replay(path: Path, *, as_json: bool, plot: Path | None = None) -> int:
    """Compute the result of a recorded measurement again; return the exit status.

    Args:
        path: The recording.
        as_json: As for a measurement.
        plot: Where to draw; None for nowhere.
    """
    try:
        _check_plot(plot)
        found = _read(path)
        history = None if plot is None else found.history()
        outcome = found.outcome(history)
        status = _say(outcome, as_json=as_json)
        _draw(history, outcome, plot)
    except Leaving as leaving:
        _tell(str(leaving))
        return leaving.status
    except KeyboardInterrupt:
        _tell("Interrupted.")
        return INTERRUPTED
    return status


def _read(path: Path) -> recording.Recording:
    try:
        return recording.read(path)
    except OSError as error:
        raise Leaving(CANNOT_RUN, f"{path}: cannot be read: {error.strerror}") from error
    except recording.BadRecordingError as error:
        raise Leaving(CANNOT_RUN, str(error)) from error


def _check_plot(plot: Path | None) -> None:
    """Leave if nothing could be drawn where it is wanted."""
    if plot is not None and (why := target.obstacle(plot)):
        raise Leaving(CANNOT_RUN, why)


def _draw(history: History | None, outcome: Outcome, plot: Path | None) -> None:
    """Draw, if that is wanted; leave if the file cannot be written."""
    if history is None or plot is None:
        return
    # Here, because it takes longer to load than some measurements take.
    from openqwave.cli.plot.measured_chart import draw

    try:
        draw(history, outcome, plot)
    except OSError as error:
        raise Leaving(
            CANNOT_RUN, f"{plot}: the picture could not be written: {error.strerror}"
        ) from error
    _tell(f"Picture: {plot}")


def _tell(message: str) -> None:
    sys.stderr.write(message + "\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(outcome: Outcome, *, as_json: bool) -> int:
    """Print the result; return its exit status."""
    _write(json.dumps(outcome.to_json(), indent=2) + "\n" if as_json else table(outcome))
    _hint(outcome)
    return _status(outcome)


def _hint(outcome: Outcome) -> None:
    if outcome.is_silent:
        _tell("No probe was answered: does a firewall drop UDP port 2177?")


def _status(outcome: Outcome) -> int:
    return MEASURED if outcome.is_conclusive else INCONCLUSIVE


def _run(options: Options, interruption: Interruption) -> int:
    _check_plot(options.plot)
    try:
        peer, destination = resolve(options.host, options.version, interruption)
    except BadHostError as error:
        raise Leaving(CANNOT_RUN, str(error)) from error
    wish = wish_of(options, peer.version)
    history = None if options.plot is None else History()
    trouble: Leaving | None = None
    with contextlib.ExitStack() as resources:
        recorder = _recorder(options, wish, resources)
        followers = [one for one in (recorder, history) if one is not None]
        try:
            host = resources.enter_context(ExperimentHost(_allowed(options, peer)))
            prober = _Prober(host, peer, destination, wish, options, interruption, followers)
            samples: list[Sample] | None = [] if options.watches else None
            outcome = prober.measure(samples)
        except QosError as error:
            raise of_error(error, destination) from error
        if samples is not None:
            outcome, trouble = _watch(prober, outcome, samples, options)
        if recorder is not None:
            recorder.end(outcome)
    status = _status(outcome) if options.watches else _say(outcome, as_json=options.as_json)
    _draw(history, outcome, options.plot)
    if trouble is not None:
        raise trouble
    return status


def _watch(
    prober: _Prober, outcome: Outcome, samples: Sequence[Sample], options: Options
) -> tuple[Outcome, Leaving | None]:
    """Print the first result, then one each second until the time is over.

    Returns:
        The last result, and what ended the watch if that was not in order.
    """
    _write(_json_line(outcome) if options.as_json else table(outcome))
    _hint(outcome)
    end_ns = math.inf if options.watch_s is None else options.watch_s * NS_PER_S
    try:
        for found in prober.watch(outcome, samples):
            if found.elapsed_ns > end_ns:
                break
            outcome = found
            prober.conclude(outcome)
            _write(_json_line(outcome) if options.as_json else f"{line(outcome)}\n")
    except Interrupted:
        # A signal is what ends a watch in order.
        return outcome, None
    except QosError as error:
        return outcome, of_error(error, prober.destination)
    except Leaving as leaving:
        return outcome, leaving
    return outcome, None


def wish_of(options: Options, ip_version: int) -> Wish:
    """What is to be measured, by what was asked for."""
    wish = replace(QUICK if options.is_quick else Wish(), version=ip_version)
    if options.is_off_link or not options.checks_priority:
        # Beyond the first router an 802.1p tag has no meaning.
        wish = replace(wish, checks_priority=False)
    if options.seconds is not None:
        seconds_ns = round(options.seconds * NS_PER_S)
        wish = replace(wish, duration_ns=seconds_ns, fast_duration_ns=seconds_ns)
    if options.is_quick:
        left_ns = duration_ns(wish.duration_ns)
        wish = replace(wish, duration_ns=left_ns, fast_duration_ns=left_ns)
    return wish


def _allowed(options: Options, peer: Endpoint) -> list[str]:
    return [str(peer.address)] if options.is_off_link else []


def _recorder(options: Options, wish: Wish, resources: contextlib.ExitStack) -> Recorder | None:
    if options.samples is None:
        return None
    # Here, because finding out takes longer than some measurements.
    from importlib.metadata import version

    recorder = recording.Recorder(options.samples, wish, version("openqwave"))
    return resources.enter_context(recorder)


class Follower(Protocol):
    """Takes what a measurement tells: a recording, or what a picture is made of."""

    def add(self, sample: Sample) -> None:
        """Take a sample."""

    def conclude(self, found: PathReport) -> None:
        """Take note of a result, which rests on all samples so far."""


@dataclass(frozen=True, slots=True)
class _Prober:
    """Follows the experiments towards one sink.

    Everything raises `Leaving` if there is no result, and what driver, followers and interruption
    raise.
    """

    host: ExperimentHost
    peer: Endpoint
    destination: Destination
    wish: Wish
    options: Options
    interruption: Interruption
    followers: Sequence[Follower]

    def conclude(self, outcome: Outcome) -> None:
        """Tell everybody who follows of a result."""
        for follower in self.followers:
            follower.conclude(outcome.report)

    def measure(self, kept: list[Sample] | None) -> Outcome:
        """Follow a measurement to its end.

        Args:
            kept: Where its samples are to go; None for nowhere.
        """
        measurement = Measurement(self.wish, random=SystemRandom().random)
        running = self.host.run(measurement, self.peer)
        is_quick = self.options.is_quick
        with view(self.wish.duration_ns, is_quick=is_quick) as shown:
            for event in self._events(running, FETCH_QUICK_S if is_quick else FETCH_S, kept):
                match event:
                    case Progressed():
                        shown.show(event)
                    case Measured(report=report, elapsed_ns=elapsed_ns, sent_bytes=sent_bytes):
                        outcome = Outcome(
                            report,
                            elapsed_ns,
                            sent_bytes,
                            self.destination,
                            self.wish.checks_priority,
                        )
                        self.conclude(outcome)
                        return outcome
                    case _:
                        pass
        raise Leaving(CANNOT_RUN, "The measurement ended without a result.")

    def watch(self, first: Outcome, samples: Sequence[Sample]) -> Iterator[Outcome]:
        """Go on after a measurement, with a result a second.

        Args:
            first: What it found.
            samples: And what that was found from.
        """
        # Here, because who does not watch has no time to load it.
        from openqwave.probing.watching import Watch, Watched

        watch = Watch(
            samples, self.wish, first.report.supports_priority, random=SystemRandom().random
        )
        running = self.host.run(watch, self.peer)
        for event in self._events(running, FETCH_S):
            if isinstance(event, Watched):
                yield replace(
                    first,
                    report=event.report,
                    elapsed_ns=first.elapsed_ns + event.elapsed_ns,
                    sent_bytes=first.sent_bytes + event.sent_bytes,
                )

    def _events(
        self, running: Running, fetch_s: float, kept: list[Sample] | None = None
    ) -> Iterator[Event]:
        """Every event but samples, which followers and `kept` get; fetched in bunches."""
        while True:
            self.interruption.pause(fetch_s)
            try:
                while (event := running.next_event(0)) is not None:
                    match event:
                        case Sampled(sample=sample):
                            for follower in self.followers:
                                follower.add(sample)
                            if kept is not None:
                                kept.append(sample)
                        case Failed() | Ended():
                            raise of_event(event, self.destination)
                        case _:
                            yield event
            except TimedOut:
                continue
            return


def _json_line(outcome: Outcome) -> str:
    return json.dumps(outcome.to_json()) + "\n"
