"""Telephony and audio programs: oRTP, baresip, JackTrip, SipLib, ravennakit, PTLib."""

from __future__ import annotations

from ctypes import byref, sizeof
from socket import IP_TOS, IPPROTO_IP, SOCK_DGRAM, SOCK_STREAM, SocketKind, socket
from typing import Any

import pytest

from openqwave.qos2 import (
    AF_INET,
    AF_INET6,
    DWORD,
    ERROR_INVALID_PARAMETER,
    ERROR_NOT_FOUND,
    HANDLE,
    QOS_FLOWID,
    QOS_FLOWRATE_OUTGOING,
    QOS_NON_ADAPTIVE_FLOW,
    QOS_TRAFFIC_TYPE,
    SOCKADDR_IN6,
    GetLastError,
    QOSFlowRateNotApplicable,
    QOSSetOutgoingDSCPValue,
    QOSSetOutgoingRate,
    QOSSetTrafficType,
    QOSTrafficTypeAudioVideo,
    QOSTrafficTypeBackground,
    QOSTrafficTypeBestEffort,
    QOSTrafficTypeControl,
    QOSTrafficTypeExcellentEffort,
    QOSTrafficTypeVoice,
    QOSUseNonConformantMarkings,
    WinDLL,
    WSAGetLastError,
)
from tests.kernel.programs import (
    BOTH,
    ECT_0,
    ECT_1,
    EVERY,
    VERSION,
    Address,
    Family,
    Stage,
    flows,
    sockaddr,
)

pytestmark = pytest.mark.kernel


def set_dscp(qwave: WinDLL, handle: object, flow_id: object, dscp: int) -> int:
    """QOSSetFlow with one code point, as all of these write it."""
    value = DWORD(dscp)
    done: int = qwave.QOSSetFlow(
        handle, flow_id, QOSSetOutgoingDSCPValue, sizeof(value), byref(value), 0, None
    )
    return done


# ---- oRTP


RTP_TYPES = {
    0x00: QOSTrafficTypeBestEffort,
    0x08: QOSTrafficTypeBackground,
    0x28: QOSTrafficTypeAudioVideo,
    0x38: QOSTrafficTypeVoice,
}


class RtpSession:
    """rtp_session_set_dscp and the release of the sockets (rtpsession_inet.c)."""

    def __init__(self, qwave: WinDLL, rtp: socket) -> None:
        self.qwave, self.rtp = qwave, rtp
        self.handle = HANDLE()
        self.flow_id = QOS_FLOWID(0)
        self.is_connected = False

    def set_remote(self, remote: Address, dscp: int) -> int:
        """Connecting is followed by marking anew, with what id there is."""
        self.rtp.connect(remote)
        self.is_connected = True
        return self.set_dscp(dscp)

    def set_dscp(self, dscp: int) -> int:
        if not self.is_connected:
            return 0
        if not self.handle and not self.qwave.QOSCreateHandle(byref(VERSION), byref(self.handle)):
            return -1
        kind = RTP_TYPES.get(dscp, QOSTrafficTypeExcellentEffort)
        if not self.qwave.QOSAddSocketToFlow(
            self.handle,
            self.rtp.fileno(),
            None,
            kind,
            QOS_NON_ADAPTIVE_FLOW,
            byref(self.flow_id),
        ):
            return -1
        return 0

    def release(self) -> None:
        if self.flow_id.value:
            self.qwave.QOSRemoveSocketFromFlow(self.handle, 0, self.flow_id, 0)
            self.flow_id.value = 0
        if self.handle:
            self.qwave.QOSCloseHandle(self.handle)
            self.handle = HANDLE()


@pytest.mark.parametrize(
    ("dscp", "mark"), [(0, 0), (0x08, 8), (0x28, 40), (0x38, 56), (0x2E, 40), (0x12, 40)]
)
@EVERY
def test_ortp(stage: Stage, family: Family, dscp: int, mark: int) -> None:
    one, two = stage.peer(family), stage.peer(family)
    session = RtpSession(stage.qwave, stage.open(family))
    assert session.set_dscp(dscp) == 0
    assert session.set_remote(one, dscp) == 0
    flow_id = session.flow_id.value
    session.rtp.send(b"to one")
    # The peer has moved: the same socket, the old id, no address. The type is not looked
    # at any more.
    assert session.set_remote(two, 0x38) == 0
    assert session.flow_id.value == flow_id
    session.rtp.send(b"to two")
    # And once more, with nothing new.
    assert session.set_dscp(dscp) == 0
    session.rtp.send(b"to two again")
    assert flows() == [flow_id]
    session.release()
    session.rtp.send(b"after")
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow",
        "AddSocketToFlow",
        "AddSocketToFlow",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert stage.seen(4) == [
        ("to one", mark),
        ("to two", mark),
        ("to two again", mark),
        ("after", 0),
    ]


# ---- baresip


class BaresipSocket:
    """udp_settos and udp_destructor (re, src/udp/udp.c)."""

    def __init__(self, qwave: WinDLL, udp: socket) -> None:
        self.qwave, self.udp = qwave, udp
        self.handle = HANDLE()
        self.flow_id = QOS_FLOWID(0)

    def set_tos(self, tos: int) -> int:
        kind = QOSTrafficTypeBestEffort
        for least, above in (
            (32, QOSTrafficTypeBackground),
            (40, QOSTrafficTypeExcellentEffort),
            (136, QOSTrafficTypeAudioVideo),
            (184, QOSTrafficTypeVoice),
            (224, QOSTrafficTypeControl),
        ):
            if tos >= least:
                kind = above
        if not self.qwave.QOSCreateHandle(byref(VERSION), byref(self.handle)):
            return GetLastError()
        if not self.qwave.QOSAddSocketToFlow(
            self.handle, self.udp.fileno(), None, kind, QOS_NON_ADAPTIVE_FLOW, byref(self.flow_id)
        ):
            return WSAGetLastError()
        return 0

    def set_option(self, tos: int) -> None:
        """How udp_settos ends: Windows takes the option and sends nothing of it."""
        self.udp.setsockopt(IPPROTO_IP, IP_TOS, tos)

    def destroy(self) -> None:
        if self.handle and self.flow_id.value:
            self.qwave.QOSRemoveSocketFromFlow(self.handle, 0, self.flow_id, 0)
        if self.handle:
            self.qwave.QOSCloseHandle(self.handle)


@pytest.mark.parametrize(
    ("tos", "mark"),
    [(0, 0), (31, 0), (32, 8), (40, 40), (135, 40), (136, 40), (184, 56), (224, 56)],
)
@EVERY
def test_baresip_connected(stage: Stage, family: Family, tos: int, mark: int) -> None:
    phone = BaresipSocket(stage.qwave, stage.connected(family))
    assert phone.set_tos(tos) == 0
    phone.udp.send(b"rtp")
    phone.destroy()
    phone.udp.send(b"after")
    assert stage.calls[1:] == ["AddSocketToFlow", "RemoveSocketFromFlow", "CloseHandle"]
    assert stage.seen(2) == [("rtp", mark), ("after", 0)]


@EVERY
def test_baresip_writes_ip_tos_as_well(stage: Stage, family: Family) -> None:
    phone = BaresipSocket(stage.qwave, stage.connected(family))
    assert phone.set_tos(184) == 0
    # On Linux the option counts, and it is the application's last word: EF for what IPv4
    # carries. IPv6 packets do not follow it and keep the flow's mark.
    phone.set_option(184 | ECT_1)
    phone.udp.send(b"rtp")
    ecn, mark = (ECT_0, 56) if family is Family.V6 else (ECT_1, 46)
    assert stage.seen(1, ecn) == [("rtp", mark)]
    phone.destroy()
    phone.udp.send(b"after")
    assert stage.seen(1, ecn) == [("after", 0 if family is Family.V6 else 46)]
    stage.accept_options(phone.udp)


@EVERY
def test_baresip_unconnected(stage: Stage, family: Family) -> None:
    phone, peer = BaresipSocket(stage.qwave, stage.open(family)), stage.peer(family)
    assert phone.set_tos(184) == ERROR_INVALID_PARAMETER
    phone.udp.sendto(b"rtp", peer)
    phone.destroy()
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow: ERROR_INVALID_PARAMETER",
        "CloseHandle",
    ]
    assert stage.seen(1) == [("rtp", 0)]


# ---- JackTrip


def jacktrip_set_qos(qwave: WinDLL, udp: socket, peer: Address) -> None:
    """UdpDataProtocol.cpp: the handle and the flow are dropped, on purpose."""
    handle, flow_id = HANDLE(), QOS_FLOWID(0)
    if qwave.QOSCreateHandle(byref(VERSION), byref(handle)):
        qwave.QOSAddSocketToFlow(
            handle,
            udp.fileno(),
            byref(sockaddr(peer)),
            QOSTrafficTypeVoice,
            QOS_NON_ADAPTIVE_FLOW,
            byref(flow_id),
        )


@BOTH
def test_jacktrip(stage: Stage, family: Family) -> None:
    udp, peer = stage.open(family), stage.peer(family)
    jacktrip_set_qos(stage.qwave, udp, peer)
    # Bound after it was added.
    udp.bind((family.address_of(stage.left), 0))
    udp.sendto(b"audio", peer)
    assert stage.calls == ["CreateHandle", "AddSocketToFlow"]
    assert len(flows()) == 1
    stage.end_process()
    udp.sendto(b"after", peer)
    assert stage.seen(2) == [("audio", 56), ("after", 0)]


# ---- SipLib


class SipLibQos:
    """Channels/WindowsQos.cs: one sockaddr of 28 bytes for either family."""

    def __init__(self, qwave: WinDLL) -> None:
        self.qwave = qwave
        self.handle = HANDLE()
        qwave.QOSCreateHandle(byref(VERSION), byref(self.handle))

    def add_udp_qos(self, udp: socket, family: Family, dscp: int) -> int:
        """It thinks that a UDP socket needs neither address nor port."""
        address = SOCKADDR_IN6()
        address.sin6_family = AF_INET if family is Family.V4 else AF_INET6
        return self._add(udp, address, dscp)

    def add_tcp_qos(self, tcp: socket, remote: Address, dscp: int) -> int:
        return self._add(tcp, sockaddr(remote), dscp)

    def _add(self, sock: socket, address: Any, dscp: int) -> int:  # noqa: ANN401 - a sockaddr
        flow_id = QOS_FLOWID(0)
        if not self.qwave.QOSAddSocketToFlow(
            self.handle,
            sock.fileno(),
            byref(address),
            QOSTrafficTypeBestEffort,
            QOS_NON_ADAPTIVE_FLOW,
            byref(flow_id),
        ):
            return 0
        set_dscp(self.qwave, self.handle, flow_id, dscp)
        number: int = flow_id.value
        return number

    def remove_qos(self, sock: socket, flow_id: int) -> None:
        if flow_id:
            self.qwave.QOSRemoveSocketFromFlow(self.handle, sock.fileno(), flow_id, 0)

    def shutdown(self) -> None:
        self.qwave.QOSCloseHandle(self.handle)


@EVERY
@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "unconnected"])
def test_siplib_udp(stage: Stage, family: Family, is_connected: bool) -> None:
    peer = stage.peer(family)
    udp = stage.open(family)
    if is_connected:
        udp.connect(peer)
    qos = SipLibQos(stage.qwave)
    # A destination must name a host and a port. SipLib goes on without.
    flow_id = qos.add_udp_qos(udp, family, 46)
    assert flow_id == 0
    udp.sendto(b"rtp", peer)
    qos.remove_qos(udp, flow_id)
    qos.shutdown()
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow: ERROR_INVALID_PARAMETER",
        "CloseHandle",
    ]
    assert stage.seen(1) == [("rtp", 0)]


@BOTH
def test_siplib_tcp(stage: Stage, family: Family) -> None:
    tcp = stage.connected(family, SOCK_STREAM)
    qos = SipLibQos(stage.qwave)
    flow_id = qos.add_tcp_qos(tcp, tcp.getpeername()[:2], 24)
    tcp.send(b"INVITE")
    qos.remove_qos(tcp, flow_id)
    tcp.send(b"BYE")
    qos.shutdown()
    assert stage.calls[1:] == [
        "AddSocketToFlow",
        "SetFlow",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert stage.seen(2) == [("INVITE", 24), ("BYE", 0)]


# ---- ravennakit


class RavennaFlow:
    """qos_flow: the destination that it names is the socket's own end."""

    def __init__(self, qwave: WinDLL, udp: socket) -> None:
        self.qwave = qwave
        self.handle, self.flow_id = HANDLE(), QOS_FLOWID(0)
        qwave.QOSCreateHandle(byref(VERSION), byref(self.handle))
        self.is_added = qwave.QOSAddSocketToFlow(
            self.handle,
            udp.fileno(),
            byref(sockaddr(udp.getsockname()[:2])),
            QOSTrafficTypeBestEffort,
            QOS_NON_ADAPTIVE_FLOW,
            byref(self.flow_id),
        )

    def set_dscp(self, dscp: int) -> int:
        return set_dscp(self.qwave, self.handle, self.flow_id, dscp)

    def destroy(self) -> None:
        if self.flow_id.value:
            self.qwave.QOSRemoveSocketFromFlow(self.handle, 0, self.flow_id, 0)
        self.qwave.QOSCloseHandle(self.handle)


@BOTH
def test_ravennakit(stage: Stage, family: Family) -> None:
    udp, peer = stage.open(family), stage.peer(family)
    udp.bind((family.address_of(stage.left), 0))
    flow = RavennaFlow(stage.qwave, udp)
    # An own address is a destination like any other. What goes to the real peer is marked
    # with it, because socket options hold for all packets of a socket.
    assert flow.is_added
    assert flow.set_dscp(34)
    udp.sendto(b"audio", peer)
    flow.destroy()
    udp.sendto(b"after", peer)
    assert stage.seen(2) == [("audio", 34), ("after", 0)]


@BOTH
def test_ravennakit_on_the_wildcard_address(stage: Stage, family: Family) -> None:
    udp, peer = stage.open(family), stage.peer(family)
    udp.bind(("::" if family is Family.V6 else "0.0.0.0", 0))  # noqa: S104 - inside the lab
    flow = RavennaFlow(stage.qwave, udp)
    assert not flow.is_added
    assert GetLastError() == ERROR_INVALID_PARAMETER
    assert not flow.set_dscp(34)
    assert GetLastError() == ERROR_NOT_FOUND
    udp.sendto(b"audio", peer)
    flow.destroy()
    assert stage.seen(1) == [("audio", 0)]


# ---- PTLib


class PtlibSocket:
    """PIPSocket::InternalSetQoS: the one program here that changes a flow's type and rate."""

    def __init__(self, qwave: WinDLL, sock: socket) -> None:
        self.qwave, self.sock = qwave, sock
        self.handle, self.flow_id = HANDLE(), QOS_FLOWID(0)
        self.traces: list[int] = []
        qwave.QOSCreateHandle(byref(VERSION), byref(self.handle))

    def set_qos(self, remote: Address, kind: QOS_TRAFFIC_TYPE, bandwidth: int, dscp: int) -> bool:
        if self.flow_id.value == 0:
            if not self.qwave.QOSAddSocketToFlow(
                self.handle,
                self.sock.fileno(),
                byref(sockaddr(remote)),
                kind,
                QOS_NON_ADAPTIVE_FLOW,
                byref(self.flow_id),
            ):
                return False
        else:
            value = DWORD(kind)
            if not self.qwave.QOSSetFlow(
                self.handle, self.flow_id, QOSSetTrafficType, 4, byref(value), 0, None
            ):
                return False
        rate = QOS_FLOWRATE_OUTGOING(
            bandwidth, QOSUseNonConformantMarkings, QOSFlowRateNotApplicable
        )
        if not self.qwave.QOSSetFlow(
            self.handle, self.flow_id, QOSSetOutgoingRate, sizeof(rate), byref(rate), 0, None
        ):
            self.traces.append(GetLastError())
        return dscp < 0 or bool(set_dscp(self.qwave, self.handle, self.flow_id, dscp))

    def destroy(self) -> None:
        self.qwave.QOSRemoveSocketFromFlow(self.handle, 0, self.flow_id, 0)
        self.qwave.QOSCloseHandle(self.handle)


@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_DGRAM], ids=["TCP", "UDP"])
@BOTH
def test_ptlib(stage: Stage, family: Family, kind: SocketKind) -> None:
    call = PtlibSocket(stage.qwave, stage.connected(family, kind))
    remote = call.sock.getpeername()[:2]
    # What makes TCP's ECN bits as they are in all that follows.
    call.sock.send(b"before")
    for words, traffic_type, dscp in [
        ("voice", QOSTrafficTypeVoice, -1),
        ("EF", QOSTrafficTypeVoice, 46),
        ("video", QOSTrafficTypeAudioVideo, -1),
        ("data", QOSTrafficTypeBestEffort, -1),
    ]:
        assert call.set_qos(remote, traffic_type, 64_000, dscp)
        call.sock.send(words.encode())
    call.destroy()
    call.sock.send(b"after")
    # Socket options cannot tell excess from the rest, so that rate is refused and changes
    # nothing; PTLib goes on without.
    refused = "SetFlow: ERROR_NOT_SUPPORTED"
    assert stage.calls == [
        "CreateHandle",
        *("AddSocketToFlow", refused),
        *("SetFlow", refused, "SetFlow"),
        *("SetFlow", refused),
        *("SetFlow", refused),
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    # The new type cancelled the exact DSCP.
    assert stage.seen(6, ECT_0) == [
        ("before", 0),
        ("voice", 56),
        ("EF", 46),
        ("video", 40),
        ("data", 0),
        ("after", 0),
    ]
