"""What befalls a path while a runtime is alive: its interface, its link, its address; a restart.

A link of 20 Mbit/s between two hosts, on the far one `qwave sink`; the near one's runtime lives in
this process, in threads that are on that host. What has to become of handles and flows in each case
is told in `tests/scenario/test_stories_life.py`; here it is that the kernel's word is heard and
understood. Nothing waits for a time: a machine may stand still now and then.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2 import IPRoute

import openqwave as qw
from openqwave.admission.policy import Experiments, Policy
from openqwave.cli.probe.failures import INCONCLUSIVE, MEASURED, NO_SINK
from openqwave.client.opening import Backend
from openqwave.client.sync import Flow, Qos
from openqwave.drivers.links import Links
from openqwave.drivers.sockets import SocketDirectory
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.lab import wiring
from openqwave.lab.shape import Bottleneck
from openqwave.probing.sink_limits import SinkLimits
from openqwave.runtime.runtime import Runtime
from openqwave.runtime.session import Session
from openqwave.service.estimates import EstimateStore
from tests.kernel.qwave import TIMEOUT_S, Sink, run
from tests.patience import until

if TYPE_CHECKING:
    from openqwave.lab.hosts import Interface, Link
    from openqwave.lab.topology import Host, Lab
    from openqwave.runtime.pathmemory import PathMemory

pytestmark = pytest.mark.kernel

MBPS = 1_000_000
RATE_BPS = 20 * MBPS
HELD_BPS = 2 * MBPS
# DSCP of voice, as the socket has it.
MARKED = 56 << 2


BOTTLENECK = Bottleneck(RATE_BPS, RATE_BPS // 8 // 10)


@pytest.fixture
def link(lab: Lab) -> Link:
    return lab.link(lab.host("near"), lab.host("far"), a_to_b=BOTTLENECK, b_to_a=BOTTLENECK)


@contextmanager
def living(where: Host, memory: PathMemory | None = None) -> Iterator[Runtime]:
    """A runtime on a host, on which the calling thread is meanwhile."""
    with where.enter():
        directory = SocketDirectory()
        backend = SocketOptions(directory, Links())
        with closing(Runtime(Policy(), directory, backend, memory=memory)) as runtime:
            yield runtime


def opened(runtime: Runtime) -> tuple[Qos, int]:
    """A handle, and its id."""
    handle_id = runtime.open_handle_for(1)
    assert isinstance(handle_id, int)
    return Qos(Session(runtime, handle_id), Backend("embedded", "a test's own")), handle_id


def change(where: Host, what: str, verb: str, **how: Any) -> None:  # noqa: ANN401 - pyroute2's
    """Have something changed by the netlink library: link, addr, route."""

    def do() -> None:
        with IPRoute() as netlink:
            getattr(netlink, what)(verb, **how)

    where.run(do)


@contextmanager
def streaming(runtime: Runtime, far: Interface) -> Iterator[tuple[Qos, Flow, socket.socket]]:
    """A flow that holds a rate on a measured path."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((far.ipv4, 5001))
        qos, _ = opened(runtime)
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE)
        admit(flow)
        assert tos(sock) == MARKED
        yield qos, flow, sock


def admit(flow: Flow) -> None:
    """Have a flow admitted to a rate; a machine that stands still makes a path look busy."""
    flow.wait_available(HELD_BPS, TIMEOUT_S)
    flow.set_rate(HELD_BPS, self_paced=True)


def tos(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)


def make_anew(link: Link) -> Link:
    """Take both ends of a link out, and put others of the same names and addresses in."""
    near, far = link.a, link.b
    change(near.host, "link", "del", index=near.index)
    indices = near.host.run(
        wiring.make_veth, [near.name, far.name], [near.mac, far.mac], 1500, far.host.namespace
    )
    # The kernel counts on; where it does not, the old number must not be met again.
    assert indices[0] != near.index
    ends = [replace(end, index=index) for end, index in zip((near, far), indices, strict=True)]
    for end, other in (ends, reversed(ends)):
        end.host.run(wiring.bring_up, end, other)
    for end in ends:
        end.host.run(wiring.await_carrier, end)
        end.shape(BOTTLENECK)
    return replace(link, a=ends[0], b=ends[1])


def test_an_interface_that_is_made_anew(link: Link) -> None:
    # By contract: "the interface was re-created, the first call on an old handle answers
    # ERROR_DEVICE_REINITIALIZATION_NEEDED, and so does every later one but QOSCloseHandle".
    near, far = link.a.host, link.b
    with Sink(far.host), living(near) as runtime, streaming(runtime, far) as (qos, flow, sock):
        bystander, _ = opened(runtime)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.connect((far.ipv4, 5002))
            marked = bystander.add_socket(other, traffic_type=qw.TrafficType.VOICE, adaptive=False)
            made = make_anew(link)
            # Nobody calls, and the socket has its own options back.
            until(lambda: tos(sock) == 0)
            lost = runtime.take_lost()
            assert len(lost) == 1
            for _ in ("the first", "a later"):
                with pytest.raises(qw.ReinitializationNeeded):
                    flow.set_rate(HELD_BPS, self_paced=True)
            qos.close()
            # "an old handle" is one that used it: marks alone are on the socket.
            marked.set_traffic_type(qw.TrafficType.BACKGROUND)
            assert tos(other) == 8 << 2
        again, handle_id = opened(runtime)
        assert handle_id not in lost
        fresh = again.add_socket(sock, traffic_type=qw.TrafficType.VOICE)
        facts = fresh.path().facts
        assert facts is not None
        assert (facts.interface, facts.interface_name) == (made.a.index, made.a.name)
        admit(fresh)
        assert tos(sock) == MARKED


def test_an_interface_that_is_taken_out_for_a_while(link: Link) -> None:
    # By contract: "Adapter failing or removed: ERROR_ADAP_HDW_ERR"
    near, far = link.a.host, link.b
    with Sink(far.host), living(near) as runtime, streaming(runtime, far) as (_, flow, sock):
        change(near, "link", "del", index=link.a.index)
        until(lambda: f"number {link.a.index} is gone" in flow.path().obstacle)
        with pytest.raises(qw.AdapterFailed):
            flow.set_rate(2 * HELD_BPS, self_paced=True)
        # What it holds it holds, and nobody is lost while there is hope.
        assert (flow.rate_bps(), tos(sock)) == (HELD_BPS, MARKED)
        assert runtime.take_lost() == []
        # One of another name is another one.
        change(near, "link", "add", kind="veth", ifname="other0", peer="other1")
        change(near, "link", "add", kind="veth", ifname=link.a.name, peer="other2")
        until(lambda: tos(sock) == 0)
        assert len(runtime.take_lost()) == 1


@pytest.mark.parametrize("which", ["near", "far"])
def test_a_link_that_goes_down_and_up(link: Link, which: str) -> None:
    # It is switched off here, or has no carrier because it is switched off there.
    near, far = link.a.host, link.b
    end = link.a if which == "near" else link.b
    with Sink(far.host), living(near) as runtime, streaming(runtime, far) as (_, flow, sock):
        change(end.host, "link", "set", index=end.index, state="down")
        until(lambda: f"{link.a.name} is down" in flow.path().obstacle)
        with pytest.raises(qw.AdapterFailed):
            flow.set_rate(2 * HELD_BPS, self_paced=True)
        assert (flow.rate_bps(), tos(sock)) == (HELD_BPS, MARKED)
        change(end.host, "link", "set", index=end.index, state="up")
        until(lambda: flow.path().obstacle == "")
        # The same handle, and the path is measured again.
        flow.set_rate(0)
        admit(flow)
        assert runtime.take_lost() == []


def test_another_address(link: Link) -> None:
    # By contract: "path: (outgoing interface, local address, destination address, family)"
    near, far = link.a.host, link.b
    with Sink(far.host), living(near) as runtime, streaming(runtime, far) as (_, flow, sock):
        first = flow.path().facts
        assert first is not None
        assert first.source == socket.inet_aton(link.a.ipv4)
        how = {"index": link.a.index, "prefixlen": wiring.IPV4_PREFIX_BITS}
        other = link.a.ipv4.rpartition(".")[0] + ".77"
        change(near, "addr", "del", address=link.a.ipv4, **how)
        change(near, "addr", "add", address=other, **how)

        def source() -> bytes:
            facts = flow.path().facts
            return b"" if facts is None else facts.source

        until(lambda: source() == socket.inet_aton(other))
        # The contract stays, and what is known is measured from the new one.
        assert (flow.rate_bps(), tos(sock)) == (HELD_BPS, MARKED)
        until(lambda: flow.path().obstacle == "" and flow.path().age_ns is not None)
        flow.set_rate(0)
        admit(flow)
        assert runtime.take_lost() == []


def test_what_was_measured_is_known_after_a_restart(link: Link, tmp_path: Path) -> None:
    near, far = link.a.host, link.b
    file = tmp_path / "paths.sqlite3"
    with Sink(far.host):
        store = EstimateStore(file)
        with living(near, store) as runtime, streaming(runtime, far) as (_, flow, _sock):
            known = flow.path().fundamentals
        store.close()
        assert known.bottleneck_bps is not None
    # The sink is gone, so nothing can be measured now.
    store = EstimateStore(file)
    (shown,) = store.remembered()
    assert (shown.host.packed, shown.interface_name) == (
        socket.inet_aton(far.ipv4),
        link.a.name,
    )
    assert shown.source == socket.inet_aton(link.a.ipv4)
    assert 0 < shown.age_ns < TIMEOUT_S * 10**9
    with living(near, store) as runtime, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((far.ipv4, 5001))
        qos, _ = opened(runtime)
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE)
        until(lambda: flow.path().age_ns is not None or flow.path().obstacle)
        status = flow.path()
        assert status.age_ns is not None
        assert status.age_ns >= shown.age_ns
        assert status.fundamentals.bottleneck_bps == shown.fundamentals.bottleneck_bps
    store.close()


def probes(where: Host, *arguments: str) -> int:
    """Measure once; the exit status."""
    status = run(where, "probe", "--json", "--seconds", "0.3", *arguments).status
    return MEASURED if status == INCONCLUSIVE else status


def test_a_service_is_both_ends(lab: Lab, link: Link) -> None:
    # One process measures and answers, at one port.
    near, far = link.a.host, link.b
    other = lab.host("other")
    here = lab.link(other, near).b.ipv4
    with Sink(far.host), living(near) as runtime, streaming(runtime, far) as (_, flow, _sock):
        assert probes(other, here) == NO_SINK
        runtime.serve_sink(SinkLimits())
        until(lambda: runtime.sink_state() == (True, ""))
        assert probes(other, here) == MEASURED
        assert flow.path().obstacle == ""
        runtime.stop_sink()
        until(lambda: probes(other, here) == NO_SINK)
        assert flow.path().obstacle == ""


def test_off_the_link_nobody_is_answered_but_who_is_allowed(lab: Lab) -> None:
    near, router, far = lab.host("near"), lab.router("router"), lab.host("far")
    here, second = lab.link(near, router).a.ipv4, lab.link(router, far)
    with living(near) as runtime:
        runtime.serve_sink(SinkLimits())
        until(lambda: runtime.sink_state() == (True, ""))
        assert probes(router, here) == MEASURED
        assert probes(far, "--off-link", here) == NO_SINK
        allowed = Experiments(allowed=(second.ipv4_network,))
        runtime.set_policy(Policy(experiments=allowed))
        until(lambda: probes(far, "--off-link", here) == MEASURED)
        runtime.set_policy(Policy())
        until(lambda: probes(far, "--off-link", here) == NO_SINK)
