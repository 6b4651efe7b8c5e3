"""Why nothing was measured, in a sentence that says what to do, and the exit status for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.model.errors import DisabledByPolicy, HostUnreachable
from openqwave.probing.outcomes import Ended, Failed, Failure

if TYPE_CHECKING:
    from openqwave.cli.probe.outcome import Destination
    from openqwave.model.errors import QosError

MEASURED, CANNOT_RUN, INCONCLUSIVE, NO_SINK = 0, 2, 3, 4

# What was seen, and what may help.
_SENTENCES = {
    Failure.NO_SINK: (
        "{to} refuses connections to TCP port 2177: no sink runs there. "
        "Run `qwave sink` on that host."
    ),
    Failure.UNREACHABLE: (
        "{to} cannot be reached: no route leads there, or nobody answers to the address. "
        "Is it the right one, and is the host up?"
    ),
    Failure.CONNECT_TIMED_OUT: (
        "{to} is silent: nothing answers on TCP port 2177, not even a refusal. "
        "Is the host up? Run `qwave sink` there, and let a firewall pass port 2177, TCP and UDP."
    ),
    Failure.DECLINED: (
        "{to} closed the connection instead of agreeing: its sink does not take this host. "
        "`qwave sink` there says why; a host beyond a router needs its `--allow`."
    ),
    Failure.NO_AGREEMENT: (
        "{to} took the connection and did not answer: what listens on its TCP port 2177 is no "
        "sink, or a stuck one. Run `qwave sink` there."
    ),
    Failure.CLOSED: (
        "{to} closed the connection before anything was measured. `qwave sink` there says why."
    ),
    Failure.MALFORMED: (
        "{to} answers what the protocol does not allow: what listens on its TCP port 2177 is no "
        "sink. Run `qwave sink` there."
    ),
    Failure.UNEXPECTED: (
        "{to} answers what nobody asked for: what listens on its TCP port 2177 is no sink. "
        "Run `qwave sink` there."
    ),
    Failure.UNSENT: "this host could not send a probe to {to}.",
    Failure.NO_SUMMARY: (
        "{to} agreed and then never said how probes arrived. Does a firewall drop UDP port 2177?"
    ),
}

# Where what was seen says more than the sentence.
_DETAILED = frozenset({Failure.MALFORMED, Failure.UNEXPECTED, Failure.UNSENT, Failure.NO_SUMMARY})


class Leaving(Exception):
    """Nothing more can be done.

    Attributes:
        status: The exit status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def of_event(event: Failed | Ended, destination: Destination) -> Leaving:
    """What a session's last event means, if it is not a result."""
    failure = Failure.CLOSED if isinstance(event, Ended) else event.reason
    sentence = _SENTENCES[failure].format(to=destination)
    if isinstance(event, Failed) and failure in _DETAILED and event.detail:
        sentence += f" ({event.detail})"
    return Leaving(CANNOT_RUN if failure is Failure.UNSENT else NO_SINK, sentence)


def of_error(error: QosError, destination: Destination) -> Leaving:
    """What an error of the driver means."""
    if isinstance(error, DisabledByPolicy):
        return Leaving(
            CANNOT_RUN,
            f"{error.detail}. Measuring stays on the link unless you say --off-link; the sink has "
            "to allow this host, too (`qwave sink --allow`).",
        )
    status = NO_SINK if isinstance(error, HostUnreachable) else CANNOT_RUN
    return Leaving(status, f"{destination}: {error.detail or error}")
