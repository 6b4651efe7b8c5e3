"""802.1p tags from end to end: a real sink, tagged probes of the service, and what the wire shows.

"Tags only where all three hold: the flow is adaptive; the destination is on-link; the path was
shown to carry tagged frames end to end." (qos2-semantics, section 2)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.lab.links import DuplexSpec, PathSpec, Stage
from tests.kernel.data_plane_stage import PATIENCE_S, open_socket, serving
from tests.kernel.egress_stage import Wire
from tests.kernel.qwave import Sink

if TYPE_CHECKING:
    import socket

    from openqwave.lab.emulation import EmulatedLink
    from openqwave.lab.topology import Lab
    from tests.kernel.egress_stage import Arrived
    from tests.kernel.service_stage import Qwaved

pytestmark = [pytest.mark.kernel, pytest.mark.root]

PORT, PROBES_PORT = 5004, 2177
MBIT, RATE_BPS = 1_000_000, 20_000_000
# Voice, and what MS-QLPB 3.1.1 says of priority probes.
VOICE, PROBES = (56, 7), (40, 5)


class Scene:
    """A service on the left of a switched link, a sink on the right, a flow, and the wire's end."""

    def __init__(self, link: EmulatedLink, service: Qwaved, sink: Sink, wire: Wire) -> None:
        self.link, self.service, self.sink, self.wire = link, service, sink, wire
        self.sock: socket.socket = open_socket(link.a.host)
        self.sock.connect((str(link.b.ipv4), PORT))
        # Nobody reads there, and nothing is refused.
        self.ear = open_socket(link.b.host)
        self.ear.bind(("", PORT))
        self.qos = service.open()
        self.flow = self.qos.add_socket(self.sock, traffic_type=qw.TrafficType.VOICE)

    def admit(self) -> None:
        """Have a small rate granted, as soon as enough is known of the path."""
        self.flow.wait_available(MBIT, PATIENCE_S)
        # Which every mechanism can: the program holds itself to the rate.
        self.flow.set_rate(MBIT, self_paced=True)

    def probes(self) -> set[int | None]:
        """The tags of a route check's priority probes, waited for."""
        found = self.wire.take(2, lambda one: (one.port, one.dscp) == (PROBES_PORT, PROBES[0]))
        return {one.pcp for one in found}

    def sent(self) -> Arrived:
        """What comes of a packet of the flow."""
        self.sock.send(b"x" * 200)
        (found,) = self.wire.take(1, lambda one: one.port == PORT)
        return found

    def until_tagged(self) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while (one := self.sent()).pcp is None:
            assert one.dscp == VOICE[0]
            assert time.monotonic() < end_s, self.flow.path()
            time.sleep(0.05)
        assert (one.dscp, one.pcp) == VOICE


@contextmanager
def scene(lab: Lab, switch: Stage) -> Iterator[Scene]:
    left, right = lab.host("left"), lab.host("right")
    link = lab.emulated_link(left, right, DuplexSpec(PathSpec((switch,)), PathSpec((Stage(),))))
    with (
        closing(Wire(right)) as wire,
        Sink(right) as sink,
        serving(left) as service,
        closing_scene(Scene(link, service, sink, wire)) as made,
    ):
        yield made


@contextmanager
def closing_scene(made: Scene) -> Iterator[Scene]:
    try:
        yield made
    finally:
        made.qos.close()
        made.sock.close()
        made.ear.close()


def test_a_path_that_carries_tags_gets_them(lab: Lab) -> None:
    with scene(lab, Stage(rate_bps=RATE_BPS)) as on:
        on.admit()
        assert on.probes() == {PROBES[1]}
        on.until_tagged()
        # "QOSQueryPacketPriority | QOS_PACKET_PRIORITY | the four marks really applied"
        assert on.flow.packet_priority() == qw.PacketPriority(56, 0, 7, 0)
        (row,) = on.service.show("flows")["flows"]
        assert (row["dscp"], row["pcp"], row["backend"]) == (56, 7, "kernel program")
        # "the flow is adaptive"
        with (
            closing(open_socket(on.link.a.host)) as sock,
            on.qos.add_socket(
                sock,
                (str(on.link.b.ipv4), PORT + 1),
                traffic_type=qw.TrafficType.VOICE,
                adaptive=False,
            ),
        ):
            sock.sendto(b"x", (str(on.link.b.ipv4), PORT + 1))
            (one,) = on.wire.take(1, lambda one: one.port == PORT + 1)
            assert (one.dscp, one.pcp) == (56, None)
        # The kernel holds it to a rate; it is tagged all the same.
        on.flow.set_rate(MBIT)
        one = on.sent()
        assert (one.dscp, one.pcp) == VOICE
        # A rate of 0 "ends the contract: no shaping and no marking".
        on.flow.set_rate(0)
        one = on.sent()
        assert (one.dscp, one.pcp) == (0, None)


def test_a_path_that_drops_tags_gets_none(lab: Lab) -> None:
    with scene(lab, Stage(rate_bps=RATE_BPS, drop_tagged=True)) as on:
        on.admit()
        while (ended := on.sink.wait_for("session closed"))["experiment"] != "route_check":
            pass
        assert ended["results"] == 0
        # The verdict, if there were one, would be told within a second of that.
        end_s = time.monotonic() + 2
        while time.monotonic() < end_s:
            one = on.sent()
            assert (one.dscp, one.pcp) == (56, None)
            time.sleep(0.05)
        assert on.flow.packet_priority() == qw.PacketPriority(56, 0, 0, 0)
        assert on.link.counters().forward.dropped_by_mark > 0


def test_without_the_program_nothing_is_proven(lab: Lab) -> None:
    left, right = lab.host("left"), lab.host("right")
    link = lab.emulated_link(
        left, right, DuplexSpec(PathSpec((Stage(rate_bps=RATE_BPS),)), PathSpec((Stage(),)))
    )
    options = '[enforcement]\nbackend = "socket-options"\n'
    with (
        closing(Wire(right)) as wire,
        Sink(right) as sink,
        serving(left, options) as service,
        closing_scene(Scene(link, service, sink, wire)) as on,
    ):
        on.admit()
        # A route check is made, and finds that packets with the mark are not lost.
        assert on.probes() == {None}
        sink.wait_for("route check")
        end_s = time.monotonic() + 2
        while time.monotonic() < end_s:
            one = on.sent()
            assert (one.dscp, one.pcp) == (56, None)
            time.sleep(0.05)
        assert on.flow.packet_priority() == qw.PacketPriority(56, 0, 0, 0)
