"""The traces of MS-QLPB 3.2.5.4, sent in their order to `qwave sink` from plain sockets."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.kernel.plain_initiator import route_check
from tests.kernel.qwave import BOTH, Sink, address_of, seen_to_end

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = pytest.mark.kernel

NO_ISSUE, INVERSION, LOSS = "14000001", "14400001", "14800001"
# The same, to somebody who writes flags from the other end of the byte.
INVERSION_LSB, LOSS_LSB = "14010001", "14020001"

# Groups of five, numbered 1 to 5 in the second as in the first, and the summaries that they cause.
TRACES: list[tuple[str, list[list[int]], list[str]]] = [
    ("in order", [[1, 2, 3, 4, 5]], [NO_ISSUE]),
    ("priority overtakes all", [[1, 5, 2, 3, 4]], [INVERSION]),
    ("priority overtakes one", [[1, 2, 3, 5, 4]], [INVERSION]),
    ("the oversized one is lost", [[2, 3, 4, 5]], [LOSS]),
    ("the last one is alone", [[5]], [LOSS]),
    ("the last one leads, the first is lost", [[5, 2, 3, 4]], [LOSS]),
    ("the last one leads", [[5, 1, 2, 3, 4]], [LOSS]),
    ("a normal one is lost", [[1, 2, 4, 5]], []),
    ("a normal one is lost, then all is well", [[1, 2, 4, 5], [1, 2, 3, 4, 5]], [NO_ISSUE]),
    ("the last one is lost, then all is well", [[1, 2, 3, 4], [1, 2, 3, 4, 5]], [NO_ISSUE]),
    ("a normal one, then the oversized one", [[1, 2, 4, 5], [2, 3, 4, 5]], [LOSS]),
    ("the oversized one, twice", [[2, 3, 4, 5], [2, 3, 4, 5]], [LOSS, LOSS]),
]

# A summary that is expected is waited for; one that is not would have come by then.
COME_S, NOT_COME_S = 20.0, 0.4


@BOTH
def test_the_traces(pair: tuple[Host, Host], version: int) -> None:
    left, right = pair
    with Sink(right) as sink:
        for name, orders, summaries in TRACES:
            # Where nothing is to come, something is waited for all the same, but not for long.
            done = left.run(
                route_check,
                address_of(right, version),
                orders,
                enough=4 * len(summaries) or 1,
                seconds=COME_S if summaries else NOT_COME_S,
            )
            assert done.handshake.hex() == "1e000001", name
            assert done.received.hex() == "".join(summaries), name
            closed = sink.wait_for("session closed")
            # None came later, either.
            assert (closed["experiment"], closed["results"]) == ("route_check", len(summaries))
        final, refused = seen_to_end(sink, signal.SIGINT)
    assert refused == {}
    assert final["datagrams"] == sum(len(order) for _, orders, _ in TRACES for order in orders)


def test_flags_are_answered_as_they_were_sent(pair: tuple[Host, Host]) -> None:
    left, right = pair
    orders = [[1, 5, 2, 3, 4], [2, 3, 4, 5]]
    with Sink(right) as sink:
        done = left.run(route_check, right.ipv4, orders, flag=0x01, enough=8, seconds=COME_S)
        assert done.received.hex() == INVERSION_LSB + LOSS_LSB
        observations = [sink.wait_for("route check")["observation"] for _ in range(2)]
    assert observations == ["inversion", "loss"]
