"""802.1p: what priorities become on a VLAN device, and the program's own tags where there is none.

A VLAN device makes its tag's priority from the packet's, by its egress map. So there the program
says nothing but the packet's priority, and tags on plain interfaces only: those with VLAN 0,
which says priority and nothing else.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.model.flow import Treatment
from tests.other_kernel import devices
from tests.other_kernel.frames import Frames
from tests.other_kernel.program import BOTH_WAYS, endpoint

if TYPE_CHECKING:
    from openqwave.lab.topology import Host
    from tests.other_kernel.program import Program

pytestmark = pytest.mark.kernel

VLAN = 5
# Of the lab's first link with another third number.
LEFT, RIGHT = "10.5.0.1", "10.5.0.2"
PORT = 5004
# What an administrator would write: of the three queue priorities that flows have (see
# `openqwave.admission.policy`), which priority of the tag.
EGRESS_MAP = ["0:0", "2:1", "6:5"]


@pytest.fixture
def vlans(pair: tuple[Host, Host]) -> tuple[Host, Host]:
    """Two hosts on one link, with a VLAN on it."""
    for host, address in zip(pair, (LEFT, RIGHT), strict=True):
        link = ("link", host.interface.name)
        kind = ("type", "vlan", "id", str(VLAN), "egress-qos-map", *EGRESS_MAP)
        devices.or_skip(host, "ip", "link", "add", *link, "name", "vlan", *kind)
        devices.run(host, "ip", "addr", "add", f"{address}/24", "dev", "vlan")
        devices.run(host, "ip", "link", "set", "vlan", "up")
    return pair


@pytest.mark.parametrize(
    ("traffic_type", "priority"),
    [
        (qw.TrafficType.BEST_EFFORT, 0),
        (qw.TrafficType.BACKGROUND, 1),
        (qw.TrafficType.EXCELLENT_EFFORT, 5),
        (qw.TrafficType.AUDIO_VIDEO, 5),
        (qw.TrafficType.VOICE, 5),
    ],
    ids=lambda value: value.name if isinstance(value, qw.TrafficType) else "",
)
def test_a_flow_has_its_priority_in_the_tag(
    vlans: tuple[Host, Host], traffic_type: qw.TrafficType, priority: int
) -> None:
    left, right = vlans
    with right.enter():
        frames = Frames(right.interface.name)
        # Or the far end would answer that the port is closed.
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with (
        frames,
        receiver,
        left.enter(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        qw.open(embedded=True) as qos,
    ):
        receiver.bind((RIGHT, PORT))
        sock.connect((RIGHT, PORT))
        sock.send(b"before the flow")
        flow = qos.add_socket(sock, traffic_type=traffic_type, adaptive=False)
        sock.send(b"in the flow")
        flow.close()
        sock.send(b"after the flow")
        assert frames.wait_for(b"before the flow").tag == (0, VLAN)
        assert frames.wait_for(b"in the flow").tag == (priority, VLAN)
        assert frames.wait_for(b"after the flow").tag == (0, VLAN)


@pytest.fixture
def wire(pair: tuple[Host, Host]) -> Iterator[Frames]:
    """What arrives at the right host, as frames."""
    right = pair[1]
    with right.enter():
        frames = Frames(right.interface.name)
    with frames:
        yield frames


@pytest.fixture
def sock(pair: tuple[Host, Host]) -> Iterator[socket.socket]:
    """A socket of the left host's; not connected, so that nobody need listen."""
    with pair[0].enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        yield made


PRIORITY = Treatment(dscp=40, queue_priority=6)
TAGGED = Treatment(dscp=40, queue_priority=6, pcp=5)


@BOTH_WAYS
def test_the_programs_priority_is_in_the_tag(
    vlans: tuple[Host, Host], wire: Frames, sock: socket.socket, program: Program, way: str
) -> None:
    program.attach(vlans[0], "vlan", way, may_tag=False)
    sock.sendto(b"before", (RIGHT, PORT))
    slot = program.flow(sock, PRIORITY, endpoint(RIGHT, PORT))
    sock.sendto(b"in the flow", (RIGHT, PORT))
    sock.sendto(b"elsewhere", (RIGHT, PORT + 1))
    assert wire.wait_for(b"before").tag == (0, VLAN)
    marked = wire.wait_for(b"in the flow")
    assert (marked.tag, marked.dscp) == ((5, VLAN), 40)
    other = wire.wait_for(b"elsewhere")
    assert (other.tag, other.dscp) == ((0, VLAN), 0)
    assert program.counted(slot).packets == 1


@BOTH_WAYS
def test_nothing_is_tagged_or_counted_twice(
    vlans: tuple[Host, Host], wire: Frames, sock: socket.socket, program: Program, way: str
) -> None:
    # As the service does: every interface has the program, the VLAN's link below it as well.
    left = vlans[0]
    program.attach(left, "vlan", way, may_tag=False)
    program.attach(left, left.interface.name, way)
    slot = program.flow(sock, TAGGED)
    sock.sendto(b"in the flow", (RIGHT, PORT))
    frame = wire.wait_for(b"in the flow")
    assert (frame.tag, frame.ethertype, frame.dscp) == ((5, VLAN), 0x0800, 40)
    assert program.counted(slot).packets == 1


@BOTH_WAYS
@pytest.mark.parametrize("version", [4, 6])
def test_a_plain_interface_gets_a_tag_of_priority_alone(
    pair: tuple[Host, Host], wire: Frames, program: Program, way: str, version: int
) -> None:
    left, right = pair
    program.attach(left, left.interface.name, way)
    address = right.ipv4 if version == 4 else right.ipv6
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with right.enter():
        receiver = socket.socket(family, socket.SOCK_DGRAM)
    with left.enter():
        made = socket.socket(family, socket.SOCK_DGRAM)
    with made as sock, receiver:
        receiver.bind((address, PORT))
        receiver.settimeout(10)
        sock.sendto(b"before", (address, PORT))
        program.flow(sock, TAGGED, endpoint(address, PORT))
        sock.sendto(b"in the flow", (address, PORT))
        assert wire.wait_for(b"before").tag is None
        frame = wire.wait_for(b"in the flow")
        assert (frame.tag, frame.dscp) == ((5, 0), 40)
        # Who receives it takes it as it would without a tag.
        assert [receiver.recv(100), receiver.recv(100)] == [b"before", b"in the flow"]


def test_excess_has_a_tag_without_priority(
    pair: tuple[Host, Host], wire: Frames, sock: socket.socket, program: Program
) -> None:
    left, right = pair
    program.attach(left, left.interface.name, "clsact")
    # At a kilobit a second one packet takes longer than the burst that a flow may begin with.
    metered = Treatment(dscp=40, queue_priority=6, rate_bps=1_000, excess_is_remarked=True, pcp=5)
    program.flow(sock, metered)
    sock.sendto(b"conforms", (right.ipv4, PORT))
    sock.sendto(b"exceeds", (right.ipv4, PORT))
    conforms, exceeds = wire.wait_for(b"conforms"), wire.wait_for(b"exceeds")
    assert (conforms.tag, conforms.dscp) == ((5, 0), 40)
    assert (exceeds.tag, exceeds.dscp) == ((0, 0), 0)
