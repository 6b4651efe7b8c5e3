"""Departure times: where fq is found or put, what of it stays, and that it holds whole buffers.

Runs where the kernel has fq, as ordinary distributions do.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from openqwave.enforcement.shaping.queues import (
    FLOW_LIMIT_PACKETS,
    HORIZON_NS,
    OUR_ROOT,
    DepartureTimes,
)
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.queues import ROOT_PARENT
from tests.kernel.shaping_stage import (
    HEADERS_BYTES,
    PATIENCE_S,
    Ground,
    ground_of,
    hop,
    numbered,
    numbers,
    of_the_flow,
    rate_bps,
)

if TYPE_CHECKING:
    from openqwave.lab.topology import Host, Lab

pytestmark = pytest.mark.kernel

RATE_BPS = 8_000_000
OURS = DepartureTimes(HORIZON_NS)
# fq's own.
DEFAULT_HORIZON_NS = 10_000_000_000
# asm-generic/socket.h; struct sock_txtime: clock, flags.
SO_TXTIME = 61
TXTIME = struct.pack("=iI", time.CLOCK_MONOTONIC, 0)


@pytest.fixture
def ground(pair: tuple[Host, Host]) -> Iterator[Ground]:
    if not pair[0].interface.try_qdisc("fq"):
        pytest.skip("this kernel has no fq queue")
    with ground_of(*pair) as made:
        root = made.root()
        made.qdiscs.remove_root(root.interface, root.handle)
        yield made


def grant(ground: Ground, flow_id: int = 1) -> object:
    return ground.shapers.grant(flow_id, RATE_BPS, [ground.peer])


def refused(outcome: object, *words: str) -> None:
    assert isinstance(outcome, Refusal), outcome
    assert outcome.code == ErrorCode.ERROR_NOT_SUPPORTED
    for word in words:
        assert word in outcome.detail


def send_at(sock: socket.socket, payload: bytes, when_ns: int) -> None:
    sock.sendmsg([payload], [(socket.SOL_SOCKET, SO_TXTIME, struct.pack("=Q", when_ns))])


def test_fq_is_installed_once_and_removed(ground: Ground) -> None:
    before = ground.queues()
    assert grant(ground) == grant(ground) == grant(ground, 2) == OURS
    root = ground.root()
    assert (root.kind, root.handle) == ("fq", OUR_ROOT)
    assert (root.flow_limit_packets, root.horizon_ns) == (FLOW_LIMIT_PACKETS, HORIZON_NS)
    assert ground.shapers.observe() == {1: RATE_BPS, 2: RATE_BPS}
    assert ground.another().grant(1, RATE_BPS, [ground.peer]) == OURS
    ground.another().clean_up()
    assert ground.queues() == before


def test_an_fq_that_somebody_set_up_is_used_and_stays(ground: Ground) -> None:
    assert ground.left.interface.try_qdisc("fq")
    before = ground.queues()
    for may_install in (None, frozenset[str]()):
        ground.shapers = ground.another(may_install=may_install)
        assert grant(ground) == DepartureTimes(DEFAULT_HORIZON_NS)
        ground.shapers.clean_up()
    assert ground.queues() == before


def test_fq_is_installed_only_where_it_may_be(ground: Ground) -> None:
    before = ground.queues()
    ground.shapers = ground.another(may_install=frozenset({"eth1"}))
    refused(grant(ground), "eth0", "[enforcement]")
    assert ground.queues() == before


def test_an_fq_that_is_replaced_is_told(ground: Ground) -> None:
    grant(ground)
    assert ground.left.interface.try_qdisc("pfifo")
    told = ground.shapers.reconcile()
    assert told.keys() == {1}
    refused(told[1], "eth0", "pfifo")
    assert ground.shapers.observe() == {}
    assert ground.root().kind == "pfifo"
    # Another's fq will do, and a removed one is put back.
    assert ground.left.interface.try_qdisc("fq")
    assert ground.shapers.reconcile() == {1: DepartureTimes(DEFAULT_HORIZON_NS)}
    ground.qdiscs.remove_root(ground.interface, ground.root().handle)
    assert ground.shapers.reconcile() == {1: OURS}
    assert ground.root().handle == OUR_ROOT


def test_one_fq_serves_a_flow_over_several_interfaces(ground: Ground, lab: Lab) -> None:
    near = ground.peer
    second = lab.link(ground.left, ground.right)
    assert ground.shapers.grant(1, RATE_BPS, [near, hop(second.b.ipv4)]) == OURS
    ours = {queue.interface for queue in ground.queues() if queue.handle == OUR_ROOT}
    assert ours == {end.index for end in ground.left.interfaces}


def test_mq_serves_if_all_below_it_is_fq(ground: Ground) -> None:
    def make() -> int:
        with IPRoute() as netlink:
            netlink.link("add", ifname="many0", kind="veth", peer="many1", num_tx_queues=2)
            for name in ("many0", "many1"):
                (index,) = netlink.link_lookup(ifname=name)
                netlink.link("set", index=index, state="up")
            netlink.addr("add", index=netlink.link_lookup(ifname="many0")[0], address="10.9.9.1/24")
        return socket.if_nametoindex("many0")

    index = ground.left.run(make)
    mq = 0x10_0000
    try:
        ground.put_queue(index, mq, ROOT_PARENT, "mq")
    except FileNotFoundError:
        pytest.skip("this kernel has no mq queue")
    below = {queue.parent for queue in ground.qdiscs.queues(index) if not queue.is_root}
    assert below == {mq | 1, mq | 2}
    there = [hop("10.9.9.2")]
    refused(ground.shapers.grant(1, RATE_BPS, there), "many0", "mq")
    ground.put_queue(index, 0x20_0000, mq | 1, "fq")
    refused(ground.shapers.grant(1, RATE_BPS, there), "many0", "mq")
    ground.put_queue(index, 0x30_0000, mq | 2, "fq")
    before = ground.queues()
    assert ground.shapers.grant(1, RATE_BPS, there) == DepartureTimes(DEFAULT_HORIZON_NS)
    ground.shapers.clean_up()
    assert ground.queues() == before


def test_a_socket_as_it_comes_loses_nothing_however_small_its_packets_are(
    ground: Ground,
) -> None:
    assert grant(ground) == OURS
    count, size = 600, 60
    interval_ns = 1_000_000
    with ground.sender() as sock, ground.right.capture() as capture:
        sock.setsockopt(socket.SOL_SOCKET, SO_TXTIME, TXTIME)
        start_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for number in range(count):
            # It blocks when 277 are waiting.
            when_ns = start_ns + number * interval_ns
            send_at(sock, numbered(number, size - HEADERS_BYTES), when_ns)
        packets = capture.wait_for(count, timeout_s=PATIENCE_S, where=of_the_flow)
    assert numbers(packets) == list(range(count))
    assert rate_bps(packets[50:]) == pytest.approx(size * 8e9 / interval_ns, rel=0.02)


def test_what_waits_for_longer_than_fq_likes_by_itself_is_not_lost(ground: Ground) -> None:
    assert grant(ground) == OURS
    with ground.sender() as sock, ground.right.capture() as capture:
        sock.setsockopt(socket.SOL_SOCKET, SO_TXTIME, TXTIME)
        now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        send_at(sock, numbered(1, 100), now_ns + DEFAULT_HORIZON_NS + 1_000_000_000)
        packets = capture.wait_for(1, timeout_s=PATIENCE_S, where=of_the_flow)
    assert numbers(packets) == [1]
