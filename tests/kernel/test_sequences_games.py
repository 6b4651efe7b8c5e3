"""Game streaming and network play: Sunshine, Moonlight's enet, Dolphin, CoD4X."""

from __future__ import annotations

from ctypes import byref, sizeof
from socket import socket

import pytest

from openqwave.qos2 import (
    DWORD,
    ERROR_ACCESS_DENIED,
    ERROR_INVALID_PARAMETER,
    HANDLE,
    INVALID_HANDLE_VALUE,
    QOS_FLOWID,
    QOS_NON_ADAPTIVE_FLOW,
    QOS_TRAFFIC_TYPE,
    GetLastError,
    QOSSetOutgoingDSCPValue,
    QOSTrafficTypeAudioVideo,
    QOSTrafficTypeControl,
    QOSTrafficTypeVoice,
    WinDLL,
    WSAGetLastError,
)
from tests.kernel.programs import (
    BOTH,
    EVERY,
    VERSION,
    Address,
    Family,
    Stage,
    disconnect,
    flows,
    is_mapped,
    ordinary_user,
    sockaddr,
)

pytestmark = pytest.mark.kernel


def add_with_peer(
    qwave: WinDLL,
    handle: object,
    sock: socket,
    peer: Address,
    kind: QOS_TRAFFIC_TYPE,
) -> int:
    """What Sunshine and Moonlight share: a mapped peer is connected to for the call.

    Returns:
        The flow's id, or 0.
    """
    flow_id = QOS_FLOWID(0)
    destination = None
    if is_mapped(peer):
        sock.connect(peer)
    else:
        destination = byref(sockaddr(peer))
    qwave.QOSAddSocketToFlow(
        handle, sock.fileno(), destination, kind, QOS_NON_ADAPTIVE_FLOW, byref(flow_id)
    )
    if is_mapped(peer):
        disconnect(sock)
    number: int = flow_id.value
    return number


# ---- Sunshine


class Sunshine:
    """platform/windows/misc.cpp: one handle for the process, one flow for each stream."""

    def __init__(self, qwave: WinDLL) -> None:
        self.qwave = qwave
        self.handle = HANDLE()
        self.warnings: list[int] = []

    def enable_socket_qos(self, sock: socket, peer: Address, kind: QOS_TRAFFIC_TYPE) -> int:
        if not self.handle and not self.qwave.QOSCreateHandle(byref(VERSION), byref(self.handle)):
            return 0
        flow_id = add_with_peer(self.qwave, self.handle, sock, peer, kind)
        if not flow_id:
            self.warnings.append(GetLastError())
        return flow_id

    def end(self, flow_id: int) -> None:
        """~qos_t."""
        self.qwave.QOSRemoveSocketFromFlow(self.handle, None, flow_id, 0)


@EVERY
def test_sunshine_serves_two_sessions(stage: Stage, family: Family) -> None:
    # All sessions share the two sockets, each of which is bound and never connected.
    video, audio = stage.open(family), stage.open(family)
    wildcard = "0.0.0.0" if family is Family.V4 else "::"  # noqa: S104 - inside the lab
    for sock, port in ((video, 47_998), (audio, 48_000)):
        sock.bind((wildcard, port))
    sunshine = Sunshine(stage.qwave)
    sessions = []
    for _ in range(2):
        peers = stage.peer(family), stage.peer(family)
        kinds = QOSTrafficTypeAudioVideo, QOSTrafficTypeVoice
        pairs = zip((video, audio), peers, kinds, strict=True)
        sessions.append((peers, [sunshine.enable_socket_qos(*each) for each in pairs]))

    def stream(words: str) -> None:
        for peers, _ in sessions:
            video.sendto(f"{words} video".encode(), peers[0])
            audio.sendto(f"{words} audio".encode(), peers[1])

    stream("both")
    assert stage.seen(4) == [("both video", 40), ("both audio", 56)] * 2
    assert flows() == sorted(flow for _, ids in sessions for flow in ids)
    for flow in sessions[0][1]:
        sunshine.end(flow)
    # The session that is left keeps its marks. That the one that has ended has them too
    # is the reach of socket options: they hold for all packets of a socket.
    stream("one")
    assert stage.seen(4) == [("one video", 40), ("one audio", 56)] * 2
    for flow in sessions[1][1]:
        sunshine.end(flow)
    stream("none")
    assert stage.seen(4) == [("none video", 0), ("none audio", 0)] * 2
    assert stage.calls == [
        "CreateHandle",
        *["AddSocketToFlow"] * 4,
        *["RemoveSocketFromFlow"] * 4,
    ]
    assert sunshine.warnings == []
    # The handle is never closed; the process is.
    stage.end_process()


@EVERY
def test_sunshine_ends_with_its_sessions_running(stage: Stage, family: Family) -> None:
    video, peer = stage.open(family), stage.peer(family)
    sunshine = Sunshine(stage.qwave)
    assert sunshine.enable_socket_qos(video, peer, QOSTrafficTypeAudioVideo)
    video.sendto(b"frame", peer)
    stage.end_process()
    video.sendto(b"after", peer)
    assert stage.seen(2) == [("frame", 40), ("after", 0)]


def test_a_mapped_peer_by_its_address_is_refused(stage: Stage) -> None:
    video, peer = stage.open(Family.MAPPED), stage.peer(Family.MAPPED)
    sunshine = Sunshine(stage.qwave)
    stage.qwave.QOSCreateHandle(byref(VERSION), byref(sunshine.handle))
    flow_id = QOS_FLOWID(0)
    ipv4 = (stage.right.ipv4, peer[1])
    for destination in (peer, ipv4):
        assert not stage.qwave.QOSAddSocketToFlow(
            sunshine.handle,
            video.fileno(),
            byref(sockaddr(destination)),
            QOSTrafficTypeAudioVideo,
            QOS_NON_ADAPTIVE_FLOW,
            byref(flow_id),
        )
        assert WSAGetLastError() == ERROR_INVALID_PARAMETER
    assert flow_id.value == 0
    video.sendto(b"frame", peer)
    assert stage.seen(1) == [("frame", 0)]
    stage.end_process()


# ---- Moonlight


class EnetSocket:
    """cgutman/enet, win32.c: added at the first send, never removed."""

    def __init__(self, qwave: WinDLL, sock: socket) -> None:
        self.qwave, self.sock = qwave, sock
        self.handle = HANDLE(INVALID_HANDLE_VALUE)
        self.is_added = False

    def set_qos(self, is_wanted: bool) -> None:
        """ENET_SOCKOPT_QOS."""
        if is_wanted:
            if not self.qwave.QOSCreateHandle(byref(VERSION), byref(self.handle)):
                self.handle.value = INVALID_HANDLE_VALUE
        elif self.handle.value != INVALID_HANDLE_VALUE:
            self.qwave.QOSCloseHandle(self.handle)
            self.handle.value = INVALID_HANDLE_VALUE
        self.is_added = False

    def send(self, peer: Address, words: str) -> None:
        if not self.is_added and self.handle.value != INVALID_HANDLE_VALUE:
            add_with_peer(self.qwave, self.handle, self.sock, peer, QOSTrafficTypeControl)
            # Also when it failed.
            self.is_added = True
        self.sock.sendto(words.encode(), peer)


@EVERY
def test_moonlight(stage: Stage, family: Family) -> None:
    enet, peer = EnetSocket(stage.qwave, stage.open(family)), stage.peer(family)
    enet.send(peer, "before")
    enet.set_qos(True)
    for number in range(3):
        enet.send(peer, f"connect {number}")
    # Three connects without an answer: perhaps the mark is the reason.
    enet.set_qos(False)
    enet.send(peer, "connect 3")
    assert stage.calls == ["CreateHandle", "AddSocketToFlow", "CloseHandle"]
    assert stage.seen(5) == [
        ("before", 0),
        *((f"connect {number}", 56) for number in range(3)),
        ("connect 3", 0),
    ]


@BOTH
def test_moonlight_does_not_try_again(stage: Stage, family: Family) -> None:
    enet, peer = EnetSocket(stage.qwave, stage.open(family)), stage.peer(family)
    enet.set_qos(True)
    # Windows has no such destination, and Linux sends it to this machine.
    enet.send(("::" if family is Family.V6 else "0.0.0.0", 9), "nowhere")  # noqa: S104 - a destination
    enet.send(peer, "somewhere")
    enet.set_qos(False)
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow: ERROR_INVALID_PARAMETER",
        "CloseHandle",
    ]
    assert stage.seen(1) == [("somewhere", 0)]


# ---- Dolphin


class QosSession:
    """Common/QoSSession.cpp: the destination that it names is its own host's address."""

    def __init__(self, qwave: WinDLL, sock: socket, host: Address, tos: int) -> None:
        self.qwave, self.sock = qwave, sock
        self.handle, self.flow_id = HANDLE(), QOS_FLOWID(0)
        self.is_successful = False
        self.set_flow_error = 0
        if not qwave.QOSCreateHandle(byref(VERSION), byref(self.handle)):
            return
        if qwave.QOSAddSocketToFlow(
            self.handle,
            sock.fileno(),
            byref(sockaddr(host)),
            QOSTrafficTypeControl,
            QOS_NON_ADAPTIVE_FLOW,
            byref(self.flow_id),
        ):
            # By three bits, where two are ECN's: 0xb8 becomes 23.
            dscp = DWORD(tos >> 3)
            if not qwave.QOSSetFlow(
                self.handle,
                self.flow_id,
                QOSSetOutgoingDSCPValue,
                sizeof(dscp),
                byref(dscp),
                0,
                None,
            ):
                self.set_flow_error = GetLastError()
            self.is_successful = True

    def destroy(self) -> None:
        if self.flow_id.value:
            self.qwave.QOSRemoveSocketFromFlow(self.handle, self.sock.fileno(), self.flow_id, 0)
        self.qwave.QOSCloseHandle(self.handle)


def dolphin(stage: Stage, family: Family, *, is_wildcard: bool) -> tuple[socket, Address]:
    """An ENet host: a socket that is bound, and the address it says it has."""
    sock = stage.open(family)
    wildcard = "::" if family is Family.V6 else "0.0.0.0"  # noqa: S104 - inside the lab
    sock.bind((wildcard if is_wildcard else family.address_of(stage.left), 0))
    return sock, sock.getsockname()[:2]


@BOTH
def test_dolphin_on_the_wildcard_address(stage: Stage, family: Family) -> None:
    sock, host = dolphin(stage, family, is_wildcard=True)
    peer = stage.peer(family)
    session = QosSession(stage.qwave, sock, host, 0xB8)
    assert not session.is_successful
    sock.sendto(b"pad", peer)
    session.destroy()
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow: ERROR_INVALID_PARAMETER",
        "CloseHandle",
    ]
    assert stage.seen(1) == [("pad", 0)]


@BOTH
def test_dolphin_on_an_address_of_its_own(stage: Stage, family: Family) -> None:
    sock, host = dolphin(stage, family, is_wildcard=False)
    peer = stage.peer(family)
    session = QosSession(stage.qwave, sock, host, 0xB8)
    assert session.is_successful
    # The peer is no destination of the flow; its packets are marked because socket
    # options hold for all packets of a socket.
    sock.sendto(b"pad", peer)
    session.destroy()
    sock.sendto(b"after", peer)
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow",
        "SetFlow",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert stage.seen(2) == [("pad", 23), ("after", 0)]


@pytest.mark.root
@BOTH
def test_dolphin_without_rights(stage: Stage, family: Family) -> None:
    sock, host = dolphin(stage, family, is_wildcard=False)
    peer = stage.peer(family)
    with ordinary_user():
        session = QosSession(stage.qwave, sock, host, 0xB8)
        assert session.is_successful
        assert session.set_flow_error == ERROR_ACCESS_DENIED
        # The mark of the type stays.
        sock.sendto(b"pad", peer)
        session.destroy()
    sock.sendto(b"after", peer)
    assert stage.seen(2) == [("pad", 56), ("after", 0)]


# ---- CoD4X


class Cod4xModule:
    """The QoS2 module: the library is looked up function by function; only Close ends it."""

    def __init__(self, qwave: WinDLL) -> None:
        self.create = qwave["QOSCreateHandle"]
        self.add = qwave["QOSAddSocketToFlow"]
        self.close = qwave["QOSCloseHandle"]
        self.handle = HANDLE()
        self.create(byref(VERSION), byref(self.handle))

    def add_client(self, sock: socket, client: Address) -> int:
        flow_id = QOS_FLOWID(0)
        self.add(
            self.handle,
            sock.fileno(),
            byref(sockaddr(client)),
            QOSTrafficTypeControl,
            QOS_NON_ADAPTIVE_FLOW,
            byref(flow_id),
        )
        number: int = flow_id.value
        return number


@BOTH
def test_cod4x(stage: Stage, family: Family) -> None:
    sock = stage.open(family)
    clients = [stage.peer(family) for _ in range(8)]
    module = Cod4xModule(stage.qwave)
    ids = [module.add_client(sock, client) for client in clients]
    assert flows() == sorted(set(ids))
    for client in clients:
        sock.sendto(b"snapshot", client)
    module.close(module.handle)
    sock.sendto(b"after", clients[0])
    assert stage.calls == ["CreateHandle", *["AddSocketToFlow"] * 8, "CloseHandle"]
    assert stage.seen(9) == [("snapshot", 56)] * 8 + [("after", 0)]
