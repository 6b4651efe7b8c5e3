"""Chromium's use of QOS2: one flow for each socket, joined by each peer it sends to.

`DscpManager` and `UdpSocket` are net/socket/udp_socket_win.cc in ctypes. The tests follow
its own (net/socket/udp_socket_unittest.cc), which replace the library by a double: here
the library is real, and a capture has the last word.
"""

from __future__ import annotations

import threading
import time
from ctypes import byref, sizeof

import pytest

from openqwave.lab.topology import Host
from openqwave.qos2 import (
    DWORD,
    ERROR_DEVICE_REINITIALIZATION_NEEDED,
    ERROR_INVALID_HANDLE,
    ERROR_INVALID_PARAMETER,
    ERROR_NOT_SUPPORTED,
    HANDLE,
    QOS_FLOWID,
    QOS_NON_ADAPTIVE_FLOW,
    QOS_TRAFFIC_TYPE,
    QOS_VERSION,
    GetLastError,
    QOSCloseHandle,
    QOSCreateHandle,
    QOSSetOutgoingDSCPValue,
    QOSTrafficTypeAudioVideo,
    QOSTrafficTypeBackground,
    QOSTrafficTypeBestEffort,
    QOSTrafficTypeControl,
    QOSTrafficTypeExcellentEffort,
    QOSTrafficTypeVoice,
    WinDLL,
)
from tests.kernel.programs import (
    BOTH,
    ECT_0,
    ECT_1,
    Address,
    Family,
    Stage,
    flows,
    is_mapped,
    options_of,
    ordinary_user,
    set_ecn,
    sockaddr,
)

pytestmark = pytest.mark.kernel

OK = 0
NO_CHANGE = -1
CS2, AF41, CS7 = 16, 34, 56

# Each code point that Chromium has a name for, and the mark that its type has alone.
TYPE_MARKS = {
    0: 0,  # CS0
    8: 8,  # CS1
    10: 40,  # AF11 and on
    12: 40,
    14: 40,
    16: 40,  # CS2
    18: 40,  # AF21 and on
    20: 40,
    22: 40,
    24: 40,  # CS3
    26: 40,  # AF31 and on
    28: 40,
    30: 40,
    32: 40,  # CS4
    34: 40,  # AF41 and on
    36: 40,
    38: 40,
    40: 40,  # CS5
    46: 56,  # EF
    48: 56,  # CS6
    56: 56,  # CS7
}


def traffic_type_of(dscp: int) -> QOS_TRAFFIC_TYPE:
    """DscpToTrafficType."""
    if dscp == 0:
        return QOSTrafficTypeBestEffort
    if dscp == 8:
        return QOSTrafficTypeBackground
    if dscp in (34, 36, 38, 40):
        return QOSTrafficTypeAudioVideo
    if dscp in (46, 48):
        return QOSTrafficTypeVoice
    if dscp == 56:
        return QOSTrafficTypeControl
    return QOSTrafficTypeExcellentEffort


class QwaveApi:
    """The library, until a handle cannot be created; then it is off for good."""

    def __init__(self, qwave: WinDLL) -> None:
        self.qwave = qwave
        self.is_supported = True


class DscpManager:
    """A handle made on a worker thread, at most one flow, and the peers that were tried."""

    def __init__(self, api: QwaveApi, number: int) -> None:
        self.api, self.qwave = api, api.qwave
        self.number = number
        self.dscp = NO_CHANGE
        self.configured: set[Address] = set()
        self.handle: int | None = None
        self.flow_id = QOS_FLOWID(0)
        self._worker: threading.Thread | None = None
        self._created: list[int | None] = []
        self.request_handle()

    def request_handle(self) -> None:
        if self._worker is not None:
            return
        if self.handle is not None:
            self.qwave.QOSCloseHandle(self.handle)
            self.handle = None
        self._worker = threading.Thread(target=self._create)
        self._worker.start()

    def _create(self) -> None:
        handle = HANDLE()
        is_made = self.qwave.QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle))
        self._created.append(handle.value if is_made else None)

    def run_until_idle(self) -> None:
        """The message loop: the worker's reply is taken here and nowhere else."""
        if self._worker is not None:
            self._worker.join()
            self._worker = None
            self.handle = self._created.pop()
            if self.handle is None:
                self.api.is_supported = False

    def set(self, dscp: int) -> None:
        if dscp in (NO_CHANGE, self.dscp):
            return
        self.dscp = dscp
        if self.flow_id.value and self.handle is not None:
            self.qwave.QOSRemoveSocketFromFlow(self.handle, None, self.flow_id, 0)
            self.configured.clear()
            self.flow_id.value = 0

    def prepare_for_send(self, remote: Address) -> int:
        if self.dscp == NO_CHANGE:
            return OK
        if not self.api.is_supported:
            return ERROR_NOT_SUPPORTED
        if self.handle is None:
            return ERROR_INVALID_HANDLE
        if remote in self.configured:
            return OK
        # Not tried again, whatever comes of it.
        self.configured.add(remote)
        is_new = self.flow_id.value == 0
        if not self.qwave.QOSAddSocketToFlow(
            self.handle,
            self.number,
            byref(sockaddr(remote)),
            traffic_type_of(self.dscp),
            QOS_NON_ADAPTIVE_FLOW,
            byref(self.flow_id),
        ):
            error = GetLastError()
            if error == ERROR_DEVICE_REINITIALIZATION_NEEDED:
                self.request_handle()
                self.configured.clear()
                self.flow_id.value = 0
                return ERROR_INVALID_HANDLE
            return error
        if is_new:
            # Takes an administrator; for everybody else the type is near enough.
            value = DWORD(self.dscp)
            self.qwave.QOSSetFlow(
                self.handle,
                self.flow_id,
                QOSSetOutgoingDSCPValue,
                sizeof(value),
                byref(value),
                0,
                None,
            )
        return OK

    def destroy(self) -> None:
        self.run_until_idle()
        if self.handle is None:
            return
        if self.flow_id.value:
            self.qwave.QOSRemoveSocketFromFlow(self.handle, None, self.flow_id, 0)
        self.qwave.QOSCloseHandle(self.handle)


class UdpSocket:
    """UDPSocketWin, as far as marks go."""

    def __init__(self, stage: Stage, family: Family, remote: Address | None = None) -> None:
        self.api = QwaveApi(stage.qwave)
        self.sock = stage.open(family)
        self.remote = remote
        self.manager: DscpManager | None = None
        if remote is not None:
            self.sock.connect(remote)

    def set_tos(self, dscp: int, ecn: int | None = None) -> int:
        if ecn is not None:
            set_ecn(self.sock, ecn)
        if dscp == NO_CHANGE:
            return OK
        if self.manager is None:
            self.manager = DscpManager(self.api, self.sock.fileno())
        self.manager.set(dscp)
        return OK if self.remote is None else self.manager.prepare_for_send(self.remote)

    def run_until_idle(self) -> None:
        if self.manager is not None:
            self.manager.run_until_idle()

    def send(self, words: str, remote: Address | None = None) -> int:
        """Send to a peer, or to the connected one; returns what preparing came to."""
        prepared = OK
        if remote is None:
            self.sock.send(words.encode())
        else:
            if self.manager is not None:
                prepared = self.manager.prepare_for_send(remote)
            self.sock.sendto(words.encode(), remote)
        return prepared

    def close(self) -> None:
        """What Close does before it closes the socket."""
        if self.manager is not None:
            self.manager.destroy()
            self.manager = None


# ---- DscpManagerTest


@BOTH
def test_prepare_for_send_is_noop_if_no_set(stage: Stage, family: Family) -> None:
    browser, peer = UdpSocket(stage, family), stage.peer(family)
    browser.manager = DscpManager(browser.api, browser.sock.fileno())
    browser.run_until_idle()
    assert browser.send("as it is", peer) == OK
    browser.manager.set(NO_CHANGE)
    assert browser.send("as it was", peer) == OK
    browser.close()
    assert stage.calls == ["CreateHandle", "CloseHandle"]
    assert stage.seen(2) == [("as it is", 0), ("as it was", 0)]


@BOTH
def test_prepare_for_send_calls_apis_after_set(stage: Stage, family: Family) -> None:
    browser, peer = UdpSocket(stage, family), stage.peer(family)
    browser.send("before", peer)
    assert browser.set_tos(AF41) == OK
    browser.run_until_idle()
    assert browser.send("marked", peer) == OK
    # The same value again is nothing new.
    assert browser.set_tos(AF41) == OK
    assert browser.set_tos(NO_CHANGE) == OK
    assert browser.send("still marked", peer) == OK
    browser.close()
    browser.send("after", peer)
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow",
        "SetFlow",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert stage.seen(4) == [("before", 0), ("marked", 34), ("still marked", 34), ("after", 0)]


@BOTH
def test_prepare_for_send_calls_apis_once_per_address(stage: Stage, family: Family) -> None:
    browser = UdpSocket(stage, family)
    one, two = stage.peer(family), stage.peer(family)
    browser.set_tos(AF41)
    browser.run_until_idle()
    for words, peer in [("1", one), ("2", one), ("3", two), ("4", one), ("5", two)]:
        assert browser.send(words, peer) == OK
    # The second peer joined the first one's flow, and its DSCP with it.
    assert stage.calls == ["CreateHandle", "AddSocketToFlow", "SetFlow", "AddSocketToFlow"]
    assert browser.manager is not None
    assert flows() == [browser.manager.flow_id.value]
    assert stage.seen(5) == [(words, 34) for words in "12345"]
    browser.close()


@BOTH
def test_set_destroys_existing_flow(stage: Stage, family: Family) -> None:
    browser, peer = UdpSocket(stage, family), stage.peer(family)
    browser.set_tos(AF41)
    browser.run_until_idle()
    browser.send("old", peer)
    browser.set_tos(CS7)
    assert flows() == []
    # Not prepared, so as the application made it.
    browser.sock.sendto(b"between", peer)
    browser.send("new", peer)
    browser.close()
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow",
        "SetFlow",
        "RemoveSocketFromFlow",
        "AddSocketToFlow",
        "SetFlow",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert stage.seen(3) == [("old", 34), ("between", 0), ("new", 56)]


class SleepyClock:
    """The machine's clocks, and a lid that can be closed."""

    asleep = 0

    def read(self) -> tuple[int, int]:
        return time.monotonic_ns(), self.asleep


@BOTH
@pytest.mark.parametrize("via", ["embedded", "service"])
def test_socket_is_added_again_on_recreated_handle(
    pair: tuple[Host, Host], family: Family, via: str
) -> None:
    clock = SleepyClock()
    with Stage(*pair, via=via, clock=clock) as stage:
        browser = UdpSocket(stage, family)
        one, two, three = (stage.peer(family) for _ in range(3))
        browser.set_tos(AF41)
        browser.run_until_idle()
        assert browser.send("evening", one) == OK
        clock.asleep += 8 * 3600 * 1_000_000_000
        # A known peer needs no call, so nobody has noticed yet.
        assert browser.send("early", one) == OK
        # The first call finds the handle lost, and with it all marks.
        assert browser.send("morning", two) == ERROR_INVALID_HANDLE
        # The new handle is not there before the worker's reply is taken.
        assert browser.send("waiting", one) == ERROR_INVALID_HANDLE
        assert browser.send("waiting still", three) == ERROR_INVALID_HANDLE
        browser.run_until_idle()
        assert browser.send("day", one) == OK
        assert browser.send("noon", two) == OK
        assert stage.calls[2:] == [
            "SetFlow",
            "AddSocketToFlow: ERROR_DEVICE_REINITIALIZATION_NEEDED",
            "CloseHandle",
            "CreateHandle",
            "AddSocketToFlow",
            "SetFlow",
            "AddSocketToFlow",
        ]
        browser.close()
        browser.send("night", one)
        assert stage.seen(8) == [
            ("evening", 34),
            ("early", 34),
            ("morning", 0),
            ("waiting", 0),
            ("waiting still", 0),
            ("day", 34),
            ("noon", 34),
            ("night", 0),
        ]


# ---- UDPSocketTest


@BOTH
def test_connected_socket_delayed_init_and_update(stage: Stage, family: Family) -> None:
    browser = UdpSocket(stage, family, remote=stage.peer(family))
    assert browser.set_tos(AF41) == ERROR_INVALID_HANDLE
    browser.send("without a handle")
    browser.run_until_idle()
    assert browser.set_tos(AF41) == OK
    browser.send("AF41")
    assert browser.set_tos(CS2) == OK
    browser.send("CS2")
    browser.close()
    browser.send("after")
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow",
        "SetFlow",
        "RemoveSocketFromFlow",
        "AddSocketToFlow",
        "SetFlow",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert stage.seen(4) == [("without a handle", 0), ("AF41", 34), ("CS2", 16), ("after", 0)]


@BOTH
def test_unconnected_socket_delayed_init_and_update(stage: Stage, family: Family) -> None:
    browser, peer = UdpSocket(stage, family), stage.peer(family)
    # An unconnected socket has nobody to prepare for yet.
    assert browser.set_tos(AF41) == OK
    assert browser.send("without a handle", peer) == ERROR_INVALID_HANDLE
    browser.run_until_idle()
    assert browser.send("AF41", peer) == OK
    assert browser.set_tos(CS2) == OK
    assert browser.send("CS2", peer) == OK
    browser.close()
    assert stage.seen(3) == [("without a handle", 0), ("AF41", 34), ("CS2", 16)]


def test_a_failed_create_switches_it_off_for_good(stage: Stage) -> None:
    peer = stage.peer(Family.V4)
    # Handles are rationed; a program that leaks them runs dry.
    leaked = []
    handle = HANDLE()
    while QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle)):
        leaked.append(handle.value)
        assert len(leaked) < 100_000
    browser = UdpSocket(stage, Family.V4)
    browser.set_tos(AF41)
    browser.run_until_idle()
    assert browser.send("unmarked", peer) == ERROR_NOT_SUPPORTED
    for number in leaked:
        assert QOSCloseHandle(number)
    assert browser.send("for good", peer) == ERROR_NOT_SUPPORTED
    browser.close()
    assert stage.calls == ["CreateHandle: ERROR_NO_SYSTEM_RESOURCES"]
    assert stage.seen(2) == [("unmarked", 0), ("for good", 0)]


@pytest.mark.parametrize("first", [Family.MAPPED, Family.V6], ids=lambda family: family.value)
def test_a_dual_stack_socket_speaks_to_both_families(stage: Stage, first: Family) -> None:
    browser = UdpSocket(stage, Family.MAPPED)
    mapped, v6 = stage.peer(Family.MAPPED), stage.peer(Family.V6)
    browser.set_tos(AF41)
    browser.run_until_idle()
    prepared = {}
    for peer in (v6, mapped) if first is Family.V6 else (mapped, v6):
        prepared[peer] = browser.send("v4" if is_mapped(peer) else "v6", peer)
    assert prepared == {v6: OK, mapped: ERROR_INVALID_PARAMETER}
    assert stage.calls.count("AddSocketToFlow: ERROR_INVALID_PARAMETER") == 1
    # The refused peer is not tried again, and the flow of the other one lives on.
    assert browser.send("v4 again", mapped) == OK
    assert browser.send("v6 again", v6) == OK
    assert stage.calls.count("AddSocketToFlow: ERROR_INVALID_PARAMETER") == 1
    # The mapped peer is not in the flow. That its packets are marked while there is one
    # is the reach of socket options: they hold for all packets of a socket.
    start = [("v6", 34), ("v4", 34)] if first is Family.V6 else [("v4", 0), ("v6", 34)]
    assert stage.seen(4) == [*start, ("v4 again", 34), ("v6 again", 34)]
    browser.close()
    browser.send("v4", mapped)
    browser.send("v6", v6)
    assert stage.seen(2) == [("v4", 0), ("v6", 0)]


def test_a_peer_on_this_machine_comes_first(stage: Stage) -> None:
    browser, peer = UdpSocket(stage, Family.V4), stage.peer(Family.V4)
    browser.set_tos(AF41)
    browser.run_until_idle()
    prepared = [browser.send("here", ("127.0.0.1", 9)), browser.send("there", peer)]
    browser.close()
    assert prepared == [OK, OK]
    assert stage.seen(1) == [("there", 34)]


@BOTH
def test_every_code_point_of_an_administrator(stage: Stage, family: Family) -> None:
    browser, peer = UdpSocket(stage, family), stage.peer(family)
    browser.set_tos(CS7)
    browser.run_until_idle()
    for dscp in TYPE_MARKS:
        browser.set_tos(dscp)
        assert browser.send(str(dscp), peer) == OK
    browser.close()
    assert stage.calls.count("SetFlow") == len(TYPE_MARKS)
    assert stage.seen(len(TYPE_MARKS)) == [(str(dscp), dscp) for dscp in TYPE_MARKS]


@pytest.mark.root
@BOTH
def test_every_code_point_of_an_ordinary_user(stage: Stage, family: Family) -> None:
    browser, peer = UdpSocket(stage, family), stage.peer(family)
    with ordinary_user():
        browser.set_tos(CS7)
        browser.run_until_idle()
        for dscp in TYPE_MARKS:
            browser.set_tos(dscp)
            # What SetFlow says is not listened to.
            assert browser.send(str(dscp), peer) == OK
        browser.close()
    assert stage.calls.count("SetFlow: ERROR_ACCESS_DENIED") == len(TYPE_MARKS)
    assert stage.seen(len(TYPE_MARKS)) == [(str(dscp), mark) for dscp, mark in TYPE_MARKS.items()]


# ---- VerifyDscpAndEcnExchange

KEEP = None

# DSCP and ECN as they are set, and as they must arrive: one, the other, both or none change.
EXCHANGE = [
    (AF41, ECT_1, 34, ECT_1),
    (CS2, ECT_0, 16, ECT_0),
    (NO_CHANGE, ECT_1, 16, ECT_1),
    (AF41, KEEP, 34, ECT_1),
    (NO_CHANGE, KEEP, 34, ECT_1),
]


@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "unconnected"])
@pytest.mark.parametrize(
    ("own", "peers", "is_blocking"),
    [
        pytest.param(Family.V4, Family.V4, True, id="V4"),
        pytest.param(Family.V6, Family.V6, True, id="V6"),
        pytest.param(Family.MAPPED, Family.V6, True, id="DualStack"),
        pytest.param(Family.MAPPED, Family.MAPPED, True, id="DualStackV4Mapped"),
        pytest.param(Family.V4, Family.V4, False, id="NonBlocking"),
    ],
)
def test_verify_dscp_and_ecn_exchange(
    stage: Stage,
    own: Family,
    peers: Family,
    is_blocking: bool,
    is_connected: bool,
) -> None:
    peer = stage.peer(peers)
    browser = UdpSocket(stage, own, remote=peer if is_connected else None)
    browser.sock.setblocking(is_blocking)
    browser.set_tos(CS7)
    browser.run_until_idle()
    for dscp, ecn, dscp_arriving, ecn_arriving in EXCHANGE:
        browser.set_tos(dscp, ecn)
        browser.send("exchange", None if is_connected else peer)
        # Windows refuses a mapped DestAddr, connected or not, so Chromium's sockets that
        # speak to IPv4 through IPv6 are unmarked; their ECN is their own all the same.
        marked = 0 if peers is Family.MAPPED else dscp_arriving
        assert stage.seen(1, ecn_arriving) == [("exchange", marked)]
    refused = "AddSocketToFlow: ERROR_INVALID_PARAMETER" in stage.calls
    assert refused == (peers is Family.MAPPED)
    browser.close()
    browser.send("after", None if is_connected else peer)
    assert stage.seen(1, ECT_1) == [("after", 0)]
    # The ECN bits are others than at first, and the application's; for the queue's
    # priority see below.
    stage.accept_options(browser.sock)


def test_ecn_set_while_marked_leaves_no_queue_priority(stage: Stage) -> None:
    browser = UdpSocket(stage, Family.V4, remote=stage.peer(Family.V4))
    before = options_of(browser.sock)
    browser.set_tos(AF41)
    browser.run_until_idle()
    browser.set_tos(AF41, ECT_1)
    browser.set_tos(AF41, ECT_0)
    browser.close()
    after = options_of(browser.sock)
    stage.accept_options(browser.sock)
    assert after == before
