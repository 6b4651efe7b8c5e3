"""What queue priorities become on a VLAN device: the priority of its tag, by its egress map."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from tests.other_kernel import devices
from tests.other_kernel.frames import Frames

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

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
