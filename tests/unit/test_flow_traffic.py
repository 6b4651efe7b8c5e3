"""What the kernel counted of a flow, asked by its program."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator, Mapping

import pytest

import openqwave as qw
from openqwave.enforcement.memory import Memory
from openqwave.model.traffic import FlowTraffic
from tests.unit.own_subsystem import open_in, own_subsystem


class Counting(Memory):
    """Counts as many packets as the number of a flow."""

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        return {flow_id: FlowTraffic(flow_id, 100 * flow_id) for flow_id in flow_ids}


class Broken(Memory):
    """Cannot be read."""

    def traffic(self, flow_ids: Collection[int]) -> Mapping[int, FlowTraffic]:
        del flow_ids
        raise PermissionError(1, "not you")


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        yield sock


def test_what_was_counted(udp: socket.socket) -> None:
    with own_subsystem(backend=Counting()) as host, open_in(host) as qos:
        flow = qos.add_socket(udp, adaptive=False)
        assert flow.traffic() == FlowTraffic(flow.id, 100 * flow.id)
        flow.close()
        with pytest.raises(qw.FlowNotFound):
            flow.traffic()


def test_where_nothing_counts(udp: socket.socket) -> None:
    with own_subsystem(backend=Memory()) as host, open_in(host) as qos:
        flow = qos.add_socket(udp, adaptive=False)
        with pytest.raises(qw.NotSupported, match="nothing counts the packets of this flow"):
            flow.traffic()


def test_counters_that_cannot_be_read(udp: socket.socket) -> None:
    with own_subsystem(backend=Broken()) as host, open_in(host) as qos:
        flow = qos.add_socket(udp, adaptive=False)
        with pytest.raises(qw.AccessDenied, match="counters"):
            flow.traffic()
