"""The blocking face: with real sockets and the process's own subsystem."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import ip_address

import pytest

import openqwave as qw
from openqwave.drivers.sockets import SocketLike
from openqwave.model.estimates import Fundamentals, PathView
from openqwave.model.flow import PacketPriority
from tests.unit.driven import endpoint, view
from tests.unit.loopback import (
    KINDS,
    PORT,
    UNPACED,
    Bench,
    destination_of,
    options_of,
    pacing_of,
)
from tests.unit.places import as_administrator, place, subsystem

HERE = endpoint("127.0.0.1", 0)
TYPES = {
    qw.TrafficType.BEST_EFFORT: 0,
    qw.TrafficType.BACKGROUND: 8,
    qw.TrafficType.EXCELLENT_EFFORT: 40,
    qw.TrafficType.AUDIO_VIDEO: 40,
    qw.TrafficType.VOICE: 56,
    qw.TrafficType.CONTROL: 56,
}
# Long enough for a machine that is busy; nothing waits for it unless something is broken.
PATIENCE_S = 20.0

__all__ = ["place"]
pytestmark = pytest.mark.usefixtures("place")


def see(seen: PathView | None) -> None:
    subsystem().receive_path_view(HERE, seen)


@pytest.fixture
def measured() -> Iterator[Callable[[PathView | None], None]]:
    """The path to 127.0.0.1 as if somebody measured it."""
    see(view(is_congested=False))
    yield see
    see(None)


@pytest.fixture
def qos() -> Iterator[qw.Qos]:
    with qw.open() as opened:
        yield opened


# -- flows on real sockets ------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("traffic_type", TYPES, ids=lambda t: t.name)
def test_marks_last_as_long_as_the_flow(
    qos: qw.Qos, sockets: Bench, kind: str, traffic_type: qw.TrafficType
) -> None:
    # By contract: "Non-adaptive: marks apply from the call's return".
    sock = sockets.make(kind)
    before = options_of(sock)
    with qos.add_socket(
        sock, destination_of(kind), traffic_type=traffic_type, adaptive=False
    ) as flow:
        assert options_of(sock).tos >> 2 == TYPES[traffic_type]
        assert flow.packet_priority() == PacketPriority(TYPES[traffic_type], 0, 0, 0)
    assert options_of(sock) == before


def test_closing_the_handle_unmarks(sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    qos = qw.open()
    qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    assert options_of(sock).tos == 56 << 2
    qos.close()
    assert options_of(sock).tos == 0
    qos.close()


def test_an_exception_unmarks_too(sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")

    def stream() -> None:
        with qw.open() as qos:
            qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stream()
    assert options_of(sock).tos == 0


def test_types_change_in_place(qos: qw.Qos, sockets: Bench) -> None:
    sock = sockets.make("udp6 connected")
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    for traffic_type, dscp in TYPES.items():
        flow.set_traffic_type(traffic_type)
        assert (options_of(sock).tclass or 0) >> 2 == dscp


@pytest.mark.parametrize("dscp", [0, 1, 8, 46, 63])
def test_an_exact_dscp(
    qos: qw.Qos, sockets: Bench, dscp: int, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    as_administrator(place, monkeypatch)
    sock = sockets.make("udp4 connected")
    flow = qos.add_socket(sock, adaptive=False)
    flow.set_dscp(dscp)
    assert options_of(sock).tos == dscp << 2
    assert flow.packet_priority().conformant_dscp == dscp
    flow.set_traffic_type(qw.TrafficType.BEST_EFFORT)
    assert options_of(sock).tos == 0


def test_sockets_join_and_leave(qos: qw.Qos, sockets: Bench) -> None:
    first, second = sockets.make("udp4 connected"), sockets.make("udp4")
    flow = qos.add_socket(first, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    flow.add_socket(second, ("127.0.0.1", PORT))
    flow.add_socket(second, ("127.0.0.2", PORT))
    assert options_of(second).tos == 56 << 2
    flow.remove_socket(first)
    assert (options_of(first).tos, options_of(second).tos) == (0, 56 << 2)
    flow.remove_socket(second)
    with pytest.raises(qw.FlowNotFound):
        flow.packet_priority()
    flow.close()


@pytest.mark.parametrize("form", ["object", "number", "wrapped"])
def test_anything_that_stands_for_a_socket(qos: qw.Qos, sockets: Bench, form: str) -> None:
    class Wrapped:
        def fileno(self) -> int:
            return sock.fileno()

    sock = sockets.make("udp4 connected")
    forms: dict[str, SocketLike] = {
        "object": sock,
        "number": sock.fileno(),
        "wrapped": Wrapped(),
    }
    flow = qos.add_socket(forms[form], traffic_type=qw.TrafficType.VOICE, adaptive=False)
    assert options_of(sock).tos == 56 << 2
    flow.remove_socket(sock)
    assert options_of(sock).tos == 0


def test_the_flow_outlives_a_disconnect(qos: qw.Qos, sockets: Bench) -> None:
    # By contract: "The destination is captured at the call: a later disconnect does not
    # change the flow."
    sock = sockets.make("udp4 connected")
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    sock.connect(("127.0.0.2", PORT))
    flow.set_traffic_type(qw.TrafficType.BACKGROUND)
    assert options_of(sock).tos == 8 << 2
    flow.add_socket(sock)
    flow.close()
    assert options_of(sock).tos == 0


def test_a_flow_whose_socket_was_closed(qos: qw.Qos, sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    sock.close()
    with pytest.raises(qw.FlowNotFound):
        flow.set_traffic_type(qw.TrafficType.BACKGROUND)
    with pytest.raises(qw.FlowNotFound):
        flow.rate_bps()


@pytest.mark.usefixtures("fd_guard")
def test_the_peer_sees_the_end_while_the_flow_lasts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, qw.open() as qos:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with far:
            far.settimeout(PATIENCE_S)
            flow = qos.add_socket(near, traffic_type=qw.TrafficType.VOICE, adaptive=False)
            flow.set_rate(1_000_000)
            near.close()
            assert far.recv(1) == b""


@pytest.mark.usefixtures("fd_guard")
def test_nothing_stays_open_after_the_last_handle() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with qw.open() as qos, qw.open() as other:
            qos.add_socket(sock, ("127.0.0.1", PORT), adaptive=False)
            other.add_socket(sock, ("127.0.0.2", PORT), adaptive=False)
        # A handle that is closed already opens nothing either.
        with pytest.raises(qw.InvalidHandle):
            qos.add_socket(sock, ("127.0.0.1", PORT), adaptive=False)
        with pytest.raises(qw.InvalidHandle):
            qos.track("127.0.0.1")


def test_rates_of_tcp(qos: qw.Qos, sockets: Bench) -> None:
    sock = sockets.make("tcp4 connected")
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO, adaptive=False)
    flow.set_rate(8_000_000)
    assert flow.rate_bps() == 8_000_000
    assert 900_000 < pacing_of(sock) <= 1_000_000
    flow.set_rate(None)
    assert flow.rate_bps() == 64_000
    flow.set_rate(4_000_000, shaping=qw.Shaping.SHAPE_ONLY, reason=qw.RateReason.CONGESTION)
    assert options_of(sock).tos == 0
    assert 450_000 < pacing_of(sock) <= 500_000
    # "Bandwidth 0 ends the contract: no shaping and no marking".
    flow.set_rate(0)
    assert pacing_of(sock) == UNPACED
    assert options_of(sock).tos == 0
    flow.set_traffic_type(qw.TrafficType.AUDIO_VIDEO)
    assert options_of(sock).tos == 40 << 2
    with pytest.raises(qw.NoData):
        flow.rate_bps()


def test_a_rate_of_udp_is_refused_and_changes_nothing(qos: qw.Qos, sockets: Bench) -> None:
    # Loopback runs no fq.
    sock = sockets.make("udp4 connected")
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    with pytest.raises(qw.NotSupported, match="pacer"):
        flow.set_rate(8_000_000)
    assert options_of(sock).tos == 56 << 2
    with pytest.raises(qw.NoData):
        flow.rate_bps()
    assert flow.pacer(8_000_000).reserve(1_000, now_ns=10**9) == 0


def test_a_pacer_takes_the_contracts_rate(qos: qw.Qos, sockets: Bench) -> None:
    flow = qos.add_socket(sockets.make("tcp4 connected"), adaptive=False)
    with pytest.raises(qw.NoData):
        flow.pacer()
    flow.set_rate(8_000_000)
    pacer = flow.pacer()
    for _ in range(3):
        wait_ns = pacer.reserve(1_000, now_ns=10**9)
    assert wait_ns == 0
    assert pacer.reserve(1_000, now_ns=10**9) == 1_000_000


def test_one_socket_cannot_be_marked_two_ways(qos: qw.Qos, sockets: Bench) -> None:
    sock = sockets.make("udp4")
    qos.add_socket(sock, ("127.0.0.1", PORT), traffic_type=qw.TrafficType.VOICE, adaptive=False)
    with qw.open() as other, pytest.raises(qw.NotSupported, match="one socket for each"):
        other.add_socket(
            sock, ("127.0.0.2", PORT), traffic_type=qw.TrafficType.BACKGROUND, adaptive=False
        )
    assert options_of(sock).tos == 56 << 2


# -- numbers that are not whole -------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda flow: flow.set_rate(8e6),
        lambda flow: flow.set_rate("8000000"),
        lambda flow: flow.set_dscp(46.0),
        lambda flow: flow.set_dscp("46"),
        lambda flow: flow.set_dscp(None),
        lambda flow: flow.wait_available(8e6, timeout_s=0),
    ],
    ids=["rate 8e6", "rate text", "dscp 46.0", "dscp text", "dscp None", "available 8e6"],
)
def test_a_wrong_type_does_not_break_the_subsystem(
    sockets: Bench, call: Callable[[qw.Flow], None]
) -> None:
    # "A failed call changes nothing." Rates are often computed, and then they are floats.
    sock = sockets.make("tcp4 connected")
    qos = qw.open()
    flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    try:
        with pytest.raises((qw.QosError, TypeError, ValueError)):
            call(flow)
        assert flow.packet_priority().conformant_dscp == 56
        flow.set_rate(8_000_000)
        qos.close()
        assert options_of(sock).tos == 0
    finally:
        renew_subsystem()


def renew_subsystem() -> None:
    """Give later tests a fresh subsystem where a test may have broken it."""
    from openqwave.client import embedded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_instance", None)
        fresh = embedded.process_subsystem()
    embedded._instance = fresh  # noqa: SLF001 - the one place that a broken one is kept


# -- exceptions by class --------------------------------------------------------------


BAD_ADDS: dict[str, tuple[str, object, type[qw.QosError]]] = {
    "no destination": ("udp4", None, qw.InvalidParameter),
    "port 0": ("udp4", ("127.0.0.1", 0), qw.InvalidParameter),
    "unspecified": ("udp4", ("0.0.0.0", 9), qw.InvalidParameter),  # noqa: S104
    "v4 on v6": ("udp6", ("127.0.0.1", 9), qw.InvalidParameter),
    "v6 on v4": ("udp4", ("::1", 9), qw.InvalidParameter),
    "mapped": ("udp6", ("::ffff:127.0.0.1", 9), qw.InvalidParameter),
    "not the peer": ("udp4 connected", ("127.0.0.2", 9), qw.InvalidParameter),
    "a name": ("udp4", ("localhost", 9), qw.InvalidParameter),
    "no tuple": ("udp4", "127.0.0.1", qw.InvalidParameter),
    "too short": ("udp4", ("127.0.0.1",), qw.InvalidParameter),
    "too long": ("udp6", ("::1", 9, 0), qw.InvalidParameter),
    "port too large": ("udp4", ("127.0.0.1", 65_536), qw.InvalidParameter),
    "negative port": ("udp4", ("127.0.0.1", -1), qw.InvalidParameter),
    "port as text": ("udp4", ("127.0.0.1", "9"), qw.InvalidParameter),
    "negative scope": ("udp6", ("fe80::1", 9, 0, -1), qw.InvalidParameter),
    "link-local without scope": ("udp6", ("fe80::1", 9), qw.InvalidParameter),
}


@pytest.mark.parametrize("case", BAD_ADDS)
@pytest.mark.parametrize("adaptive", [False, True], ids=["non-adaptive", "adaptive"])
def test_bad_destination(qos: qw.Qos, sockets: Bench, case: str, adaptive: bool) -> None:
    kind, destination, error = BAD_ADDS[case]
    sock = sockets.make(kind)
    with pytest.raises(error):
        qos.add_socket(sock, destination, adaptive=adaptive)  # type: ignore[arg-type]  # wrong on purpose
    assert options_of(sock).tos == 0


@pytest.mark.parametrize(
    "destination",
    [
        ("127.0.0.1", PORT),
        (ip_address("127.0.0.1"), PORT),
        ("::1", PORT),
        ("::1", PORT, 0, 0),
        (ip_address("::1"), PORT, 5, 0),
    ],
    ids=str,
)
def test_forms_of_a_destination(qos: qw.Qos, sockets: Bench, destination: tuple[str, int]) -> None:
    kind = "udp4" if ":" not in str(destination[0]) else "udp6"
    sock = sockets.make(kind)
    qos.add_socket(sock, destination, traffic_type=qw.TrafficType.VOICE, adaptive=False)
    assert options_of(sock).tos == 56 << 2


def test_a_scope_in_the_text_is_not_lost() -> None:
    # ipaddress keeps the scope of "fe80::1%1" apart from the packed bytes.
    from openqwave.client.addresses import endpoint_of

    found = endpoint_of(("fe80::1%1", PORT))
    assert getattr(found, "scope_id", 1) == 1, "either refused, or the scope that was named"


def test_not_a_socket(qos: qw.Qos) -> None:
    with pytest.raises(qw.InvalidParameter):
        qos.add_socket(-1)
    with pytest.raises(qw.InvalidParameter):
        qos.add_socket("socket")  # type: ignore[arg-type]  # wrong on purpose


def test_other_protocols(qos: qw.Qos) -> None:
    left, right = socket.socketpair()
    with left, right, pytest.raises(qw.NotSupported):
        qos.add_socket(left)


def test_unknown_flows(qos: qw.Qos, sockets: Bench) -> None:
    flow = qos.add_socket(sockets.make("udp4 connected"), adaptive=False)
    flow.close()
    calls: list[Callable[[], object]] = [
        lambda: flow.set_traffic_type(qw.TrafficType.VOICE),
        lambda: flow.set_rate(1),
        lambda: flow.set_dscp(1),
        flow.rate_bps,
        flow.packet_priority,
        flow.fundamentals,
        lambda: flow.remove_socket(sockets.make("udp4")),
        lambda: flow.wait_congested(0),
        lambda: flow.wait_available(1, 0),
    ]
    for call in calls:
        with pytest.raises(KeyError) as caught:
            call()
        assert type(caught.value) is qw.FlowNotFound
    flow.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda qos, _, sock: qos.add_socket(sock),
        lambda qos, _, __: qos.add_socket(-1),
        lambda qos, _, sock: qos.add_socket(sock, ("bad", 1)),
        lambda qos, _, sock: qos.add_socket(sock, traffic_type=17),
        lambda qos, _, __: qos.track("127.0.0.1"),
        lambda qos, _, __: qos.track("bad"),
        lambda qos, _, __: qos.untrack("bad"),
        lambda qos, _, __: qos.flow_ids(),
        lambda _, flow, __: flow.set_traffic_type(17),
        lambda _, flow, __: flow.set_rate(-1),
        lambda _, flow, __: flow.set_rate(1, shaping=17),
        lambda _, flow, __: flow.set_dscp(99),
        lambda _, flow, __: flow.remove_socket(-1),
        lambda _, flow, __: flow.rate_bps(),
        lambda _, flow, __: flow.wait_congested(0),
    ],
)
def test_a_closed_handle_comes_first(
    sockets: Bench, call: Callable[[qw.Qos, qw.Flow, socket.socket], object]
) -> None:
    # "Arguments are checked in this order [decision]: handle, pointers and sizes, flags,
    # enumerations, flow id, rights, state."
    sock = sockets.make("udp4 connected")
    with qw.open() as qos:
        flow = qos.add_socket(sock)
    with pytest.raises(qw.InvalidHandle):
        call(qos, flow, sock)


def test_enumerations(qos: qw.Qos, sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    with pytest.raises(qw.InvalidParameter):
        qos.add_socket(sock, traffic_type=6)  # type: ignore[arg-type]  # wrong on purpose
    flow = qos.add_socket(sock, traffic_type=4, adaptive=False)  # type: ignore[arg-type]  # its number
    assert options_of(sock).tos == 56 << 2
    with pytest.raises(qw.InvalidParameter):
        flow.set_traffic_type(-1)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(qw.InvalidParameter):
        flow.set_rate(1, shaping=3)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(qw.InvalidParameter):
        flow.set_rate(1, reason=5)  # type: ignore[arg-type]  # wrong on purpose
    assert options_of(sock).tos == 56 << 2


# What a service goes by is the kernel's word on its clients.
@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_rights_as_an_ordinary_user(
    qos: qw.Qos, sockets: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openqwave.admission.rights import Credentials

    flow = qos.add_socket(sockets.make("udp4 connected"), adaptive=False)
    user = Credentials(1000, has_net_admin=False, groups=frozenset())
    monkeypatch.setattr("openqwave.runtime.session.own_credentials", lambda: user)
    with pytest.raises(PermissionError) as caught:
        flow.set_dscp(46)
    assert type(caught.value) is qw.AccessDenied
    with pytest.raises(qw.AccessDenied):
        qos.flow_ids()
    operator = Credentials(1000, has_net_admin=False, groups=frozenset({"netdev"}))
    monkeypatch.setattr("openqwave.runtime.session.own_credentials", lambda: operator)
    flow.set_dscp(46)
    assert flow.packet_priority().conformant_dscp == 46


def test_flow_ids_ascend_over_all_handles(
    qos: qw.Qos, sockets: Bench, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    as_administrator(place, monkeypatch)
    with qw.open() as other:
        flows = [
            one.add_socket(sockets.make("udp4 connected"), adaptive=False)
            for one in (other, qos, other)
        ]
        assert qos.flow_ids() == other.flow_ids() == tuple(sorted(flow.id for flow in flows))
    assert qos.flow_ids() == (flows[1].id,)


def test_tracking(qos: qw.Qos, measured: Callable[[PathView | None], None]) -> None:
    for host in ("0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1", "nonsense"):  # noqa: S104
        with pytest.raises(qw.InvalidParameter):
            qos.track(host)
    with pytest.raises(qw.NotSupported):
        qos.track("127.0.0.2")
    qos.track("127.0.0.1")
    qos.track(ip_address("127.0.0.1"))
    qos.untrack("127.0.0.1")
    with pytest.raises(qw.InvalidParameter):
        qos.untrack("127.0.0.1")
    measured(None)


# -- waiting --------------------------------------------------------------------------


def adaptive(qos: qw.Qos, sockets: Bench) -> qw.Flow:
    return qos.add_socket(sockets.make("tcp4 connected"), traffic_type=qw.TrafficType.VOICE)


def waits(call: Callable[[], None]) -> Callable[[], None]:
    """Start something that blocks in a thread; returns what waits for its end."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)

    def join() -> None:
        try:
            future.result(PATIENCE_S)
        finally:
            pool.shutdown()

    return join


def until_pending(flow: qw.Flow, kind: qw.NoticeKind) -> None:
    """Block until a request of a kind is pending on the flow: a second one is refused then."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        rate_bps = 1 << 60 if kind is qw.NoticeKind.AVAILABLE else None
        try:
            flow._wait(kind, rate_bps, 0)  # noqa: SLF001 - all kinds by one call
        except qw.AlreadyExists:
            return
        except qw.TimedOut:
            # Ours was the first: the thread has not asked yet.
            assert time.monotonic() < deadline


def test_waiting_until_it_is_so(
    qos: qw.Qos, sockets: Bench, measured: Callable[[PathView | None], None]
) -> None:
    flow = adaptive(qos, sockets)
    flow.wait_uncongested()
    measured(view(is_congested=True, available_bps=5))
    flow.wait_congested()
    # Of a congested path nothing is available, whatever the last numbers say.
    with pytest.raises(qw.TimedOut):
        flow.wait_available(5, timeout_s=0)
    measured(view(is_congested=False, available_bps=5))
    flow.wait_available(5)


@pytest.mark.parametrize("timeout_s", [0, 0.01])
def test_a_timeout_cancels(
    qos: qw.Qos,
    sockets: Bench,
    measured: Callable[[PathView | None], None],
    timeout_s: float,
) -> None:
    flow = adaptive(qos, sockets)
    for _ in range(2):
        # The second would be ERROR_ALREADY_EXISTS if the first were not cancelled.
        with pytest.raises(TimeoutError) as caught:
            flow.wait_congested(timeout_s)
        assert type(caught.value) is qw.TimedOut
    measured(view(is_congested=True))
    flow.wait_congested(timeout_s)


@pytest.mark.parametrize("kind", qw.NoticeKind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("how", ["true", "flow closed", "handle closed", "unmeasurable", "taken"])
def test_a_blocked_wait_ends(
    sockets: Bench,
    measured: Callable[[PathView | None], None],
    kind: qw.NoticeKind,
    how: str,
) -> None:
    measured(view())
    with qw.open() as qos:
        sock = sockets.make("tcp4 connected")
        flow = qos.add_socket(sock)
        calls: dict[qw.NoticeKind, Callable[[], None]] = {
            qw.NoticeKind.CONGESTED: flow.wait_congested,
            qw.NoticeKind.UNCONGESTED: flow.wait_uncongested,
            qw.NoticeKind.AVAILABLE: lambda: flow.wait_available(1_000),
        }
        join = waits(calls[kind])
        until_pending(flow, kind)
        match how:
            case "true":
                measured(
                    view(
                        is_congested=kind is qw.NoticeKind.CONGESTED,
                        available_bps=1_000 if kind is qw.NoticeKind.AVAILABLE else None,
                    )
                )
                join()
                return
            case "flow closed":
                flow.close()
            case "handle closed":
                qos.close()
            case "unmeasurable":
                measured(None)
            case "taken":
                with qw.open() as other:
                    other.add_socket(sock)
        with pytest.raises(qw.NotSupported if how == "unmeasurable" else qw.OperationAborted):
            join()


def test_one_wait_of_a_kind(
    qos: qw.Qos, sockets: Bench, measured: Callable[[PathView | None], None]
) -> None:
    flow = adaptive(qos, sockets)
    join = waits(flow.wait_congested)
    until_pending(flow, qw.NoticeKind.CONGESTED)
    with pytest.raises(FileExistsError) as caught:
        flow.wait_congested()
    assert type(caught.value) is qw.AlreadyExists
    measured(view(is_congested=True))
    join()


def test_what_cannot_be_waited_for(
    qos: qw.Qos, sockets: Bench, measured: Callable[[PathView | None], None]
) -> None:
    plain = qos.add_socket(sockets.make("tcp4 connected"), adaptive=False)
    with pytest.raises(NotImplementedError) as caught:
        plain.wait_congested()
    assert type(caught.value) is qw.NotSupported
    flow = adaptive(qos, sockets)
    measured(view(available_bps=1_000))
    flow.set_rate(1_000)
    with pytest.raises(qw.InvalidParameter):
        flow.wait_available(1_000)
    measured(None)
    with pytest.raises(qw.NotSupported):
        flow.wait_available(2_000)


def test_busy_and_the_way_out(
    qos: qw.Qos, sockets: Bench, measured: Callable[[PathView | None], None]
) -> None:
    # "The recovery that must work, end to end, after ERROR_NETWORK_BUSY".
    flow = adaptive(qos, sockets)
    with pytest.raises(qw.NoData):
        flow.fundamentals()
    measured(view(bottleneck_bps=10_000_000, available_bps=4_000_000, rtt_ns=1))
    with pytest.raises(qw.NetworkBusy):
        flow.set_rate(8_000_000)
    seen = flow.fundamentals()
    assert seen == Fundamentals(10_000_000, 4_000_000, 1)
    flow.set_rate(3_600_000)
    join = waits(lambda: flow.wait_available(8_000_000))
    until_pending(flow, qw.NoticeKind.AVAILABLE)
    measured(view(bottleneck_bps=10_000_000, available_bps=6_000_000))
    join()
    flow.set_rate(8_000_000)
    assert flow.rate_bps() == 8_000_000


def test_interrupting_a_wait_cancels_it(
    qos: qw.Qos,
    sockets: Bench,
    measured: Callable[[PathView | None], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow = adaptive(qos, sockets)
    result = Future.result

    def interrupted(future: Future[object], timeout: float | None = None) -> object:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return result(future, timeout)

    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            flow.wait_congested()
    with pytest.raises(qw.TimedOut):
        flow.wait_congested(0)
    measured(None)


# -- threads --------------------------------------------------------------------------


def test_two_threads_with_a_flow_each(sockets: Bench) -> None:
    rounds, start = 200, threading.Barrier(2, timeout=PATIENCE_S)

    def body(sock: socket.socket) -> set[int]:
        seen = set()
        start.wait()
        for _ in range(rounds):
            with (
                qw.open() as qos,
                qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False) as flow,
            ):
                seen.add(flow.id)
                assert options_of(sock).tos == 56 << 2
                flow.set_traffic_type(qw.TrafficType.BACKGROUND)
                assert options_of(sock).tos == 8 << 2
            assert options_of(sock).tos == 0
        return seen

    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(body, sockets.make("udp4 connected")) for _ in range(2)]
        first, second = (one.result(PATIENCE_S) for one in made)
    assert len(first) == len(second) == rounds
    assert not first & second, "two flows had one id"


def test_two_threads_on_one_socket(sockets: Bench) -> None:
    # Each add takes the pair over from the other thread's flow.
    sock = sockets.make("udp4 connected")
    rounds, start = 200, threading.Barrier(2, timeout=PATIENCE_S)

    def body() -> int:
        ended = 0
        start.wait()
        with qw.open() as qos:
            for _ in range(rounds):
                flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
                try:
                    flow.set_traffic_type(qw.TrafficType.CONTROL)
                except qw.FlowNotFound:
                    ended += 1
                flow.close()
        return ended

    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(body) for _ in range(2)]
        assert all(0 <= one.result(PATIENCE_S) <= rounds for one in made)
    assert options_of(sock).tos == 0
