"""Mumble: its client over TCP and UDP, and its server, which has a flow for each datagram."""

from __future__ import annotations

from ctypes import byref, cast, pointer
from socket import IPPROTO_TCP, SOCK_STREAM, socket

import pytest

from openqwave.lab.capture import CapturedPacket
from openqwave.qos2 import (
    AF_INET,
    DWORD,
    ERROR_INVALID_PARAMETER,
    ERROR_NOT_FOUND,
    HANDLE,
    PQOS_FLOWID,
    PSOCKADDR,
    QOS_NON_ADAPTIVE_FLOW,
    SOCKADDR_IN,
    SOCKET,
    QOSTrafficTypeAudioVideo,
    QOSTrafficTypeVoice,
    WinDLL,
    WSAGetLastError,
)
from tests.kernel.programs import (
    BOTH,
    ECT_0,
    EVERY,
    VERSION,
    Address,
    Family,
    Stage,
    sockaddr,
)

pytestmark = pytest.mark.kernel


# ---- Mumble, the client


class MumbleClient:
    """ServerHandler.cpp and Connection.cpp: one handle, a flow for TCP and one for UDP."""

    def __init__(self, qwave: WinDLL) -> None:
        self.qwave = qwave
        self.handle = HANDLE()
        self.tcp_flow, self.udp_flow = DWORD(0), DWORD(0)
        self.warnings: list[tuple[str, int]] = []
        if not qwave.QOSCreateHandle(byref(VERSION), byref(self.handle)):
            self.handle = HANDLE()

    def set_tos(self, tcp: socket) -> None:
        """Connection::setToS."""
        if self.tcp_flow.value or not self.handle:
            return
        if not self.qwave.QOSAddSocketToFlow(
            self.handle,
            SOCKET(tcp.fileno()),
            None,
            QOSTrafficTypeAudioVideo,
            QOS_NON_ADAPTIVE_FLOW,
            byref(self.tcp_flow),
        ):
            self.warnings.append(("Failed to add flow to QOS", WSAGetLastError()))

    def end_connection(self) -> None:
        """Connection::~Connection."""
        if (
            self.tcp_flow.value
            and self.handle
            and not self.qwave.QOSRemoveSocketFromFlow(self.handle, 0, self.tcp_flow, 0)
        ):
            self.warnings.append(("Failed to remove flow from QoS", WSAGetLastError()))

    def udp_ready(self, udp: socket, server: Address) -> None:
        """The sockaddr is made by hand, and for IPv4 alone."""
        address = SOCKADDR_IN()
        if ":" not in server[0]:
            address = sockaddr(server)
        address.sin_family = AF_INET
        self.udp_flow.value = 0
        if not self.qwave.QOSAddSocketToFlow(
            self.handle,
            SOCKET(udp.fileno()),
            cast(pointer(address), PSOCKADDR),
            QOSTrafficTypeVoice,
            QOS_NON_ADAPTIVE_FLOW,
            byref(self.udp_flow),
        ):
            self.warnings.append(("Failed to add UDP to QOS", WSAGetLastError()))

    def udp_gone(self) -> None:
        """Also where there is no flow."""
        if not self.qwave.QOSRemoveSocketFromFlow(self.handle, 0, self.udp_flow, 0):
            self.warnings.append(("Failed to remove UDP from QoS", WSAGetLastError()))
        self.udp_flow.value = 0

    def destroy(self) -> None:
        self.qwave.QOSCloseHandle(self.handle)


@EVERY
def test_mumble_client_tcp(stage: Stage, family: Family) -> None:
    tcp = stage.connected(family, SOCK_STREAM)
    tcp.send(b"version")
    client = MumbleClient(stage.qwave)
    client.set_tos(tcp)
    client.set_tos(tcp)
    tcp.send(b"authenticate")
    tcp.send(b"ping")
    client.end_connection()
    tcp.send(b"bye")
    client.destroy()
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert client.warnings == []
    # ECT(0) here is the kernel's own: the connection has negotiated ECN.
    assert stage.seen(4, ECT_0) == [
        ("version", 0),
        ("authenticate", 40),
        ("ping", 40),
        ("bye", 0),
    ]


@BOTH
def test_every_segment_of_a_marked_connection(stage: Stage, family: Family) -> None:
    tcp = stage.connected(family, SOCK_STREAM)
    client = MumbleClient(stage.qwave)

    def is_tcp(packet: CapturedPacket) -> bool:
        return packet.protocol == IPPROTO_TCP

    # The handshake went before.
    assert {packet.dscp for packet in stage.packets(2, is_tcp)} == {0}
    client.set_tos(tcp)
    tcp.sendall(bytes(200_000))
    stage.take(200_000)
    assert {packet.dscp for packet in stage.packets(100, is_tcp)} == {40}
    client.destroy()


def test_mumble_client_udp_to_an_ipv4_server(stage: Stage) -> None:
    udp, server = stage.open(Family.V4), stage.peer(Family.V4)
    client = MumbleClient(stage.qwave)
    client.udp_ready(udp, server)
    udp.sendto(b"voice", server)
    udp.sendto(b"more voice", server)
    client.udp_gone()
    udp.sendto(b"silence", server)
    client.destroy()
    assert client.warnings == []
    assert stage.seen(3) == [("voice", 56), ("more voice", 56), ("silence", 0)]


def test_mumble_client_udp_to_an_ipv6_server(stage: Stage) -> None:
    # The address that it makes for an IPv6 server is 0.0.0.0, so there is no flow; it is
    # removed nevertheless, with the id 0. The other flow must not suffer.
    tcp = stage.connected(Family.V6, SOCK_STREAM)
    udp, server = stage.open(Family.V6), stage.peer(Family.V6)
    client = MumbleClient(stage.qwave)
    client.set_tos(tcp)
    client.udp_ready(udp, server)
    udp.sendto(b"voice", server)
    assert stage.seen(1) == [("voice", 0)]
    client.udp_gone()
    tcp.send(b"ping")
    assert stage.seen(1) == [("ping", 40)]
    client.end_connection()
    client.destroy()
    assert client.warnings == [
        ("Failed to add UDP to QOS", ERROR_INVALID_PARAMETER),
        ("Failed to remove UDP from QoS", ERROR_NOT_FOUND),
    ]


# ---- Mumble, the server


class MumbleServer:
    """Server.cpp and Meta.cpp: one handle; a flow for the length of one datagram."""

    def __init__(self, qwave: WinDLL) -> None:
        self.qwave = qwave
        self.handle = HANDLE()
        qwave.QOSCreateHandle(byref(VERSION), byref(self.handle))

    def send_voice(self, udp: socket, user: Address, words: str) -> None:
        flow = DWORD(0)
        address = sockaddr(user)
        self.qwave.QOSAddSocketToFlow(
            self.handle,
            udp.fileno(),
            cast(pointer(address), PSOCKADDR),
            QOSTrafficTypeVoice,
            QOS_NON_ADAPTIVE_FLOW,
            cast(pointer(flow), PQOS_FLOWID),
        )
        udp.sendto(words.encode(), user)
        if flow.value:
            self.qwave.QOSRemoveSocketFromFlow(self.handle, 0, flow, 0)


@EVERY
def test_mumble_server(stage: Stage, family: Family) -> None:
    udp = stage.open(family)
    users = [stage.peer(family) for _ in range(5)]
    server = MumbleServer(stage.qwave)
    expected = []
    # A mapped user's address is refused, as by Windows, and then the datagram goes out
    # all the same.
    mark = 0 if family is Family.MAPPED else 56
    for number in range(40):
        for user in users:
            server.send_voice(udp, user, f"voice {number}")
            expected.append((f"voice {number}", mark))
        udp.sendto(b"ping", users[number % len(users)])
        expected.append(("ping", 0))
    assert stage.seen(len(expected)) == expected
    calls = ["AddSocketToFlow", "RemoveSocketFromFlow"]
    if family is Family.MAPPED:
        calls = ["AddSocketToFlow: ERROR_INVALID_PARAMETER"]
    assert stage.calls == ["CreateHandle", *calls * 200]
    stage.end_process()
