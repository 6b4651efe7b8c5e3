"""Programs that call the Windows face, with the service and the kernel's program behind it."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import byref, sizeof
from typing import TYPE_CHECKING, Any

import pytest

from openqwave.qos2 import (
    DWORD,
    HANDLE,
    QOS_FLOWID,
    QOS_FLOWRATE_OUTGOING,
    QOS_NON_ADAPTIVE_FLOW,
    QOS_PACKET_PRIORITY,
    QOS_TRAFFIC_TYPE,
    ULONG,
    GetLastError,
    QOSCloseHandle,
    QOSFlowRateNotApplicable,
    QOSQueryPacketPriority,
    QOSSetOutgoingDSCPValue,
    QOSSetOutgoingRate,
    QOSSetTrafficType,
    QOSShapeAndMark,
    QOSShapeOnly,
    QOSTrafficTypeAudioVideo,
    QOSTrafficTypeBackground,
    QOSTrafficTypeBestEffort,
    QOSTrafficTypeControl,
    QOSTrafficTypeExcellentEffort,
    QOSTrafficTypeVoice,
    QOSUseNonConformantMarkings,
)
from tests.kernel.data_plane_stage import serving
from tests.kernel.programs import BOTH, VERSION, Address, Family, Stage, flows, is_mapped, sockaddr
from tests.kernel.service_stage import Qwaved, reaching
from tests.kernel.test_sequences_chromium import OK, UdpSocket
from tests.kernel.test_sequences_mumble import MumbleServer

if TYPE_CHECKING:
    import socket

    from openqwave.lab.topology import Host

pytestmark = [pytest.mark.kernel, pytest.mark.root]

AF41, EF = 34, 46


class Served(Stage):
    """A stage whose programs find the service, which is a process of its own."""

    def _open_subsystem(self) -> Qwaved:  # type: ignore[override]
        service = self._resources.enter_context(serving(self.left))
        self._resources.enter_context(reaching(service.socket))
        return service


@pytest.fixture
def stage(pair: tuple[Host, Host]) -> Iterator[Stage]:
    with Served(*pair, via="service") as fresh:
        yield fresh


def test_chromium_with_peers_that_come_while_it_sends(stage: Stage) -> None:
    # A socket of both families, and one of IPv4; each has one flow, which its peers join.
    both, v4 = UdpSocket(stage, Family.MAPPED), UdpSocket(stage, Family.V4)
    expected = []
    for browser in (both, v4):
        assert browser.set_tos(AF41) == OK
        browser.run_until_idle()
    peers: list[tuple[UdpSocket, Address]] = []
    for number in range(6):
        # A mapped peer's address is refused, as by Windows: what goes there is not marked.
        peers.append((both, stage.peer(Family.V6)))
        peers.append((both, stage.peer(Family.MAPPED)))
        peers.append((v4, stage.peer(Family.V4)))
        # Before the program names them, they are nobody's.
        for browser, peer in peers[-3:]:
            browser.sock.sendto(b"by hand", peer)
            expected.append(("by hand", 0))
        for browser, peer in peers:
            browser.send(f"frame {number}", peer)
            expected.append((f"frame {number}", 0 if is_mapped(peer) else AF41))
    assert len(flows()) == 2
    assert stage.seen(len(expected)) == expected
    # Another code point: the flow is removed with all its peers, who join another one.
    both.set_tos(EF)
    for browser, peer in peers:
        browser.send("again", peer)
    marks = [0 if is_mapped(peer) else EF if browser is both else AF41 for browser, peer in peers]
    assert stage.seen(len(peers)) == [("again", mark) for mark in marks]
    for browser in (both, v4):
        browser.close()
    for browser, peer in peers:
        browser.sock.sendto(b"over", peer)
    assert stage.seen(len(peers)) == [("over", 0)] * len(peers)


@BOTH
def test_mumbles_server_has_a_flow_for_each_datagram(stage: Stage, family: Family) -> None:
    udp = stage.open(family)
    users = [stage.peer(family) for _ in range(5)]
    server = MumbleServer(stage.qwave)
    expected = []
    for number in range(30):
        for user in users:
            udp.sendto(b"ping", user)
            server.send_voice(udp, user, f"voice {number}")
            udp.sendto(b"ping", user)
            expected += [("ping", 0), (f"voice {number}", 56), ("ping", 0)]
    assert stage.seen(len(expected)) == expected
    QOSCloseHandle(server.handle)


class Caller:
    """One flow of one socket."""

    def __init__(self, stage: Stage, sock: socket.socket, peer: Address) -> None:
        self.stage, self.sock, self.peer = stage, sock, peer
        self.handle, self.flow = HANDLE(), QOS_FLOWID(0)
        assert stage.qwave.QOSCreateHandle(byref(VERSION), byref(self.handle))
        assert stage.qwave.QOSAddSocketToFlow(
            self.handle,
            sock.fileno(),
            byref(sockaddr(peer)),
            QOSTrafficTypeBestEffort,
            QOS_NON_ADAPTIVE_FLOW,
            byref(self.flow),
        )

    def set(self, operation: int, value: Any) -> None:  # noqa: ANN401 - ctypes
        done = self.stage.qwave.QOSSetFlow(
            self.handle, self.flow, operation, sizeof(value), byref(value), 0, None
        )
        assert done, GetLastError()

    def told(self) -> tuple[int, int, int, int]:
        """What QOSQueryFlow says of its marks."""
        marks, size = QOS_PACKET_PRIORITY(), ULONG(sizeof(QOS_PACKET_PRIORITY))
        assert self.stage.qwave.QOSQueryFlow(
            self.handle, self.flow, QOSQueryPacketPriority, byref(size), byref(marks), 0, None
        ), GetLastError()
        return (
            marks.ConformantDSCPValue,
            marks.NonConformantDSCPValue,
            marks.ConformantL2Value,
            marks.NonConformantL2Value,
        )

    def seen(self, count: int = 1) -> list[int]:
        """The code points of some packets that leave at once."""
        for _ in range(count):
            self.sock.sendto(bytes(1_200), self.peer)
        return [each.dscp for each in self.stage.packets(count, lambda each: bool(each.payload))]


def rate(bandwidth: int, shaping: int) -> QOS_FLOWRATE_OUTGOING:
    return QOS_FLOWRATE_OUTGOING(bandwidth, shaping, QOSFlowRateNotApplicable)


@BOTH
def test_what_is_told_of_marks_is_what_is_on_the_wire(stage: Stage, family: Family) -> None:
    caller = Caller(stage, stage.open(family), stage.peer(family))

    def is_marked(dscp: int) -> bool:
        return (caller.told(), caller.seen()) == ((dscp, 0, 0, 0), [dscp])

    assert is_marked(0)
    types: tuple[tuple[QOS_TRAFFIC_TYPE, int], ...] = (
        (QOSTrafficTypeBackground, 8),
        (QOSTrafficTypeExcellentEffort, 40),
        (QOSTrafficTypeAudioVideo, 40),
        (QOSTrafficTypeControl, 56),
        (QOSTrafficTypeBestEffort, 0),
        (QOSTrafficTypeVoice, 56),
    )
    for kind, dscp in types:
        caller.set(QOSSetTrafficType, DWORD(kind))
        assert is_marked(dscp)
    caller.set(QOSSetOutgoingDSCPValue, DWORD(EF))
    assert is_marked(EF)
    caller.set(QOSSetOutgoingRate, rate(64_000_000, QOSShapeOnly))
    assert is_marked(0)
    caller.set(QOSSetOutgoingRate, rate(64_000_000, QOSShapeAndMark))
    assert is_marked(EF)
    # Both kinds of marks are applied, and both are told.
    caller.set(QOSSetOutgoingRate, rate(1_000_000, QOSUseNonConformantMarkings))
    assert caller.told() == (EF, 0, 0, 0)
    assert set(caller.seen(60)) == {EF, 0}
    # The end of the contract is the end of marks, until a type is set again.
    caller.set(QOSSetOutgoingRate, rate(0, QOSShapeAndMark))
    assert is_marked(0)
    caller.set(QOSSetTrafficType, DWORD(QOSTrafficTypeVoice))
    assert is_marked(56)
    assert stage.qwave.QOSCloseHandle(caller.handle)
    assert caller.seen() == [0]
