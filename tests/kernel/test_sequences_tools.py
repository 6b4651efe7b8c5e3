"""Libraries and tools: Vanara's test, openppp2, CableLabs' lld, Microsoft's qossample.

And the end of a process whose program never removed anything.
"""

from __future__ import annotations

import subprocess
import sys
import time
from ctypes import byref, sizeof
from pathlib import Path
from socket import (
    AF_INET,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    SocketKind,
    socket,
)

import pytest

import openqwave
from openqwave.drivers.links import Links
from openqwave.qos2 import (
    DWORD,
    ERROR_NO_DATA,
    ERROR_NOT_SUPPORTED,
    HANDLE,
    QOS_ADD_OVERHEAD,
    QOS_FLOW_FUNDAMENTALS,
    QOS_FLOWID,
    QOS_FLOWRATE_OUTGOING,
    QOS_NON_ADAPTIVE_FLOW,
    QOS_PACKET_PRIORITY,
    QOS_TRAFFIC_TYPE,
    UINT64,
    ULONG,
    GetLastError,
    QOSFlowRateNotApplicable,
    QOSNotifyCongested,
    QOSQueryFlowFundamentals,
    QOSQueryOutgoingRate,
    QOSQueryPacketPriority,
    QOSSetOutgoingDSCPValue,
    QOSSetOutgoingRate,
    QOSShapeAndMark,
    QOSTrafficTypeBestEffort,
    QOSTrafficTypeControl,
    QOSTrafficTypeExcellentEffort,
    QOSTrafficTypeVoice,
    WinDLL,
    WinError,
)
from tests.kernel.programs import (
    BOTH,
    ECT_0,
    EVERY,
    TIMEOUT_S,
    VERSION,
    Address,
    Family,
    Stage,
    flows,
    ordinary_user,
    sockaddr,
)

pytestmark = pytest.mark.kernel


# asm-generic/socket.h; the socket module has no name for it. All ones: no limit.
SO_MAX_PACING_RATE = 47
NO_LIMIT = 0xFFFF_FFFF


# ---- Vanara


@BOTH
def test_vanara(stage: Stage, family: Family) -> None:
    """QOS2Test of QoSTests.cs; it is for IPv4, and an administrator runs it."""
    qwave = stage.qwave
    sock, peer = stage.open(family), stage.peer(family)
    handle, flow_id = HANDLE(), QOS_FLOWID(0)
    assert qwave.QOSCreateHandle(byref(VERSION), byref(handle))
    assert qwave.QOSAddSocketToFlow(
        handle,
        sock.fileno(),
        byref(sockaddr(peer)),
        QOSTrafficTypeBestEffort,
        QOS_NON_ADAPTIVE_FLOW,
        byref(flow_id),
    )
    sock.sendto(b"best effort", peer)
    dscp = DWORD(40)
    assert qwave.QOSSetFlow(handle, flow_id, QOSSetOutgoingDSCPValue, 4, byref(dscp), 0, None)
    sock.sendto(b"40", peer)

    size = ULONG(0)
    assert not qwave.QOSEnumerateFlows(handle, byref(size), None)
    ids = (QOS_FLOWID * (size.value // sizeof(QOS_FLOWID)))()
    assert qwave.QOSEnumerateFlows(handle, byref(size), ids)
    assert [*ids] == [flow_id.value]

    # No rate was set, so there is none to tell.
    rate, size = UINT64(0), ULONG(sizeof(UINT64))
    assert not qwave.QOSQueryFlow(
        handle, ids[0], QOSQueryOutgoingRate, byref(size), byref(rate), 0, None
    )
    assert GetLastError() == ERROR_NO_DATA

    assert qwave.QOSRemoveSocketFromFlow(handle, sock.fileno(), flow_id, 0)
    sock.sendto(b"removed", peer)
    assert qwave.QOSCloseHandle(handle)
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow",
        "SetFlow",
        "EnumerateFlows: ERROR_INSUFFICIENT_BUFFER",
        "EnumerateFlows",
        "QueryFlow: ERROR_NO_DATA",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert stage.seen(3) == [("best effort", 0), ("40", 40), ("removed", 0)]


# ---- openppp2


class QoSS:
    """windows/ppp/net/QoSS.cpp: no object where the DSCP is refused."""

    def __init__(self, qwave: WinDLL, sock: socket) -> None:
        self.qwave, self.sock = qwave, sock
        self.handle, self.flow_id = HANDLE(), QOS_FLOWID(0)

    @classmethod
    def new(cls, qwave: WinDLL, sock: socket, peer: Address | None) -> QoSS | None:
        qos = cls(qwave, sock)
        dscp = DWORD(26)
        if (
            qwave.QOSCreateHandle(byref(VERSION), byref(qos.handle))
            and qwave.QOSAddSocketToFlow(
                qos.handle,
                sock.fileno(),
                None if peer is None else byref(sockaddr(peer)),
                QOSTrafficTypeControl,
                QOS_NON_ADAPTIVE_FLOW,
                byref(qos.flow_id),
            )
            and qwave.QOSSetFlow(
                qos.handle,
                qos.flow_id,
                QOSSetOutgoingDSCPValue,
                sizeof(dscp),
                byref(dscp),
                0,
                None,
            )
        ):
            return qos
        qos.destroy()
        return None

    def destroy(self) -> None:
        if self.handle:
            if self.flow_id.value:
                self.qwave.QOSRemoveSocketFromFlow(self.handle, self.sock.fileno(), self.flow_id, 0)
            self.qwave.QOSCloseHandle(self.handle)


@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_DGRAM], ids=["TCP", "UDP"])
@EVERY
def test_openppp2_connected(stage: Stage, family: Family, kind: SocketKind) -> None:
    sock = stage.connected(family, kind)
    sock.send(b"before")
    qos = QoSS.new(stage.qwave, sock, None)
    assert qos is not None
    sock.send(b"tunnel")
    qos.destroy()
    sock.send(b"after")
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow",
        "SetFlow",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert stage.seen(3, ECT_0) == [("before", 0), ("tunnel", 26), ("after", 0)]


@BOTH
def test_openppp2_with_the_peer(stage: Stage, family: Family) -> None:
    sock, peer = stage.open(family), stage.peer(family)
    qos = QoSS.new(stage.qwave, sock, peer)
    assert qos is not None
    sock.sendto(b"tunnel", peer)
    qos.destroy()
    sock.sendto(b"after", peer)
    assert stage.seen(2) == [("tunnel", 26), ("after", 0)]


@pytest.mark.root
@BOTH
def test_openppp2_without_rights(stage: Stage, family: Family) -> None:
    sock = stage.connected(family)
    with ordinary_user():
        assert QoSS.new(stage.qwave, sock, None) is None
    sock.send(b"tunnel")
    assert stage.calls == [
        "CreateHandle",
        "AddSocketToFlow",
        "SetFlow: ERROR_ACCESS_DENIED",
        "RemoveSocketFromFlow",
        "CloseHandle",
    ]
    assert stage.seen(1) == [("tunnel", 0)]


# ---- CableLabs lld


def lld_set_qos(qwave: WinDLL, sock: socket, peer: Address | None, kind: QOS_TRAFFIC_TYPE) -> int:
    """windows_fragment.c; neither handle nor flow is kept."""
    handle, flow_id = HANDLE(), QOS_FLOWID(0)
    if not qwave.QOSCreateHandle(byref(VERSION), byref(handle)):
        return GetLastError()
    if not qwave.QOSAddSocketToFlow(
        handle,
        sock.fileno(),
        None if peer is None else byref(sockaddr(peer)),
        kind,
        QOS_NON_ADAPTIVE_FLOW,
        byref(flow_id),
    ):
        return GetLastError()
    return 0


@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "unconnected"])
@BOTH
def test_lld(stage: Stage, family: Family, is_connected: bool) -> None:
    marks = dict(zip(QOS_TRAFFIC_TYPE, (0, 8, 40, 40, 56, 56), strict=True))
    peer = stage.peer(family)
    for kind in marks:
        # A socket for each: several marks on one are not to be had by socket options.
        sock = stage.open(family)
        if is_connected:
            sock.connect(peer)
        assert lld_set_qos(stage.qwave, sock, None if is_connected else peer, kind) == 0
        sock.sendto(kind.name.encode(), peer)
    assert len(flows()) == len(marks)
    assert stage.seen(len(marks)) == [(kind.name, mark) for kind, mark in marks.items()]
    stage.end_process()


@BOTH
def test_lld_changes_its_mind_about_a_socket(stage: Stage, family: Family) -> None:
    # The old flow is forgotten, not removed. The newer one takes its place.
    sock = stage.connected(family)
    for kind in (QOSTrafficTypeVoice, QOSTrafficTypeExcellentEffort):
        assert lld_set_qos(stage.qwave, sock, None, kind) == 0
        sock.send(kind.name.encode())
        assert len(flows()) == 1
    assert stage.seen(2) == [
        ("QOSTrafficTypeVoice", 56),
        ("QOSTrafficTypeExcellentEffort", 40),
    ]
    stage.end_process()


@BOTH
def test_lld_wants_two_marks_of_one_socket(stage: Stage, family: Family) -> None:
    sock, one, two = stage.open(family), stage.peer(family), stage.peer(family)
    assert lld_set_qos(stage.qwave, sock, one, QOSTrafficTypeVoice) == 0
    # A limit of socket options, said at the call; nothing changes.
    refused = lld_set_qos(stage.qwave, sock, two, QOSTrafficTypeExcellentEffort)
    assert refused == ERROR_NOT_SUPPORTED
    sock.sendto(b"one", one)
    assert stage.seen(1) == [("one", 56)]
    stage.end_process()


# ---- qossample


# How often the sample looks again, where it waits a second.
PAUSE_S = 0.01


class QosSample:
    """The client of qossample.c, up to where it would need estimates.

    TransmitPackets, by which it sends, is not here; its calls of QOS2 are in order.
    """

    DATA_BYTES = 1400

    def __init__(self, qwave: WinDLL, sock: socket, bits_per_s: int) -> None:
        self.qwave, self.sock = qwave, sock
        self.rate = bits_per_s
        self.handle, self.flow_id = HANDLE(), QOS_FLOWID(0)
        self.has_estimates = False

    def run(self) -> None:
        """Until the first burst could be sent.

        Raises:
            WindowsError: The sample exits.
        """
        qwave = self.qwave
        if not qwave.QOSCreateHandle(byref(VERSION), byref(self.handle)):
            raise WinError()
        if not qwave.QOSAddSocketToFlow(
            self.handle,
            self.sock.fileno(),
            None,
            QOSTrafficTypeExcellentEffort,
            0,
            byref(self.flow_id),
        ):
            raise WinError()
        self.query_estimates()
        outgoing = QOS_FLOWRATE_OUTGOING(
            Bandwidth=self.bandwidth(),
            ShapingBehavior=QOSShapeAndMark,
            Reason=QOSFlowRateNotApplicable,
        )
        if not qwave.QOSSetFlow(
            self.handle,
            self.flow_id,
            QOSSetOutgoingRate,
            sizeof(outgoing),
            byref(outgoing),
            0,
            None,
        ):
            raise WinError()

    def query_estimates(self) -> None:
        fundamentals = QOS_FLOW_FUNDAMENTALS()
        size = ULONG(sizeof(fundamentals))
        while True:
            self.has_estimates = bool(
                self.qwave.QOSQueryFlow(
                    self.handle,
                    self.flow_id,
                    QOSQueryFlowFundamentals,
                    byref(size),
                    byref(fundamentals),
                    0,
                    None,
                )
            )
            # It waits for ERROR_NO_DATA to pass, a second at a time, and exits for anything else.
            if self.has_estimates or GetLastError() != ERROR_NO_DATA:
                break
            time.sleep(PAUSE_S)
        if not self.has_estimates and GetLastError() != ERROR_NOT_SUPPORTED:
            raise WinError()

    def bandwidth(self) -> int:
        version = AF_INET if self.sock.family == AF_INET else 23
        protocol = IPPROTO_UDP if self.sock.type == SOCK_DGRAM else IPPROTO_TCP
        return QOS_ADD_OVERHEAD(version, protocol, self.DATA_BYTES, self.rate)

    def priority(self) -> tuple[int, int, int, int]:
        found = QOS_PACKET_PRIORITY()
        size = ULONG(sizeof(found))
        if not self.qwave.QOSQueryFlow(
            self.handle, self.flow_id, QOSQueryPacketPriority, byref(size), byref(found), 0, None
        ):
            raise WinError()
        return (
            found.ConformantDSCPValue,
            found.NonConformantDSCPValue,
            found.ConformantL2Value,
            found.NonConformantL2Value,
        )

    def rate_in_force(self) -> int:
        found, size = UINT64(), ULONG(8)
        if not self.qwave.QOSQueryFlow(
            self.handle, self.flow_id, QOSQueryOutgoingRate, byref(size), byref(found), 0, None
        ):
            raise WinError()
        rate: int = found.value
        return rate


def pacing_of(sock: socket) -> int:
    return sock.getsockopt(SOL_SOCKET, SO_MAX_PACING_RATE) & NO_LIMIT


@BOTH
def test_qossample_without_fq(stage: Stage, family: Family) -> None:
    # Without a queue that paces, and without rights, nothing can hold UDP to a rate. That
    # is said at the call, and the sample exits; a flow that was not admitted is unmarked.
    sample = QosSample(stage.qwave, stage.connected(family), 2_000_000)
    with pytest.raises(OSError, match="ERROR_NOT_SUPPORTED"):
        sample.run()
    assert [call for call in stage.calls if call != "QueryFlow: ERROR_NO_DATA"] == [
        "CreateHandle",
        "AddSocketToFlow",
        "QueryFlow: ERROR_NOT_SUPPORTED",
        "SetFlow: ERROR_NOT_SUPPORTED",
    ]
    sample.sock.send(b"burst")
    assert sample.priority() == (0, 0, 0, 0)
    with pytest.raises(OSError, match="ERROR_NO_DATA"):
        sample.rate_in_force()
    assert pacing_of(sample.sock) == NO_LIMIT
    assert stage.seen(1) == [("burst", 0)]
    stage.end_process()


def run_to_the_end(stage: Stage, sock: socket) -> None:
    sample = QosSample(stage.qwave, sock, 20_000_000)
    sample.sock.send(b"before")
    sample.run()
    assert not sample.has_estimates
    assert [call for call in stage.calls if call != "QueryFlow: ERROR_NO_DATA"] == [
        "CreateHandle",
        "AddSocketToFlow",
        "QueryFlow: ERROR_NOT_SUPPORTED",
        "SetFlow",
    ]
    sample.sock.send(b"burst")
    assert sample.priority() == (40, 0, 0, 0)
    assert sample.rate_in_force() == sample.bandwidth() > 20_000_000
    # The kernel counts payload for TCP and frames for UDP, a few percent either way.
    assert pacing_of(sock) == pytest.approx(sample.bandwidth() / 8, rel=0.05)
    # Which it asks for only where there are estimates.
    assert not stage.qwave.QOSNotifyFlow(
        sample.handle, sample.flow_id, QOSNotifyCongested, None, None, 0, None
    )
    assert GetLastError() == ERROR_NOT_SUPPORTED
    # It is stopped by hand.
    stage.end_process()
    sample.sock.send(b"after")
    assert pacing_of(sock) == NO_LIMIT
    assert stage.seen(3, ECT_0) == [("before", 0), ("burst", 40), ("after", 0)]


@BOTH
def test_qossample_with_fq(stage: Stage, family: Family) -> None:
    if not stage.left.interface.try_qdisc("fq"):
        pytest.skip("this kernel has no fq")
    if Links().linux_version() < (6, 7):
        pytest.skip("the rate is refused before Linux 6.7")
    run_to_the_end(stage, stage.connected(family))


@BOTH
def test_qossample_over_tcp(stage: Stage, family: Family) -> None:
    # The sample sends UDP only. TCP can be paced everywhere, so this is the same order of
    # calls, to the end.
    run_to_the_end(stage, stage.connected(family, SOCK_STREAM))


# ---- The end of a process

# What JackTrip and lld do, in a process of its own. The socket came from its parent, who
# has it still when the process is gone.
ABANDONED = """
import socket, sys
from ctypes import byref
from openqwave.qos2 import *

sock = socket.socket(fileno=int(sys.argv[1]))
handle, flow_id = HANDLE(), QOS_FLOWID(0)
assert QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle))
kind, flags = QOSTrafficTypeVoice, QOS_NON_ADAPTIVE_FLOW
assert QOSAddSocketToFlow(handle, sock.fileno(), None, kind, flags, byref(flow_id))
sock.send(b"marked")
print("sent", flush=True)
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        pytest.param("", 0, id="returns"),
        pytest.param("sys.exit(3)", 3, id="exits"),
        pytest.param("raise LookupError", 1, id="fails"),
    ],
)
@BOTH
def test_the_end_of_the_process(stage: Stage, family: Family, ending: str, status: int) -> None:
    sock = stage.connected(family)
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED.format(ending=ending), str(sock.fileno())],
        env={"PYTHONPATH": str(Path(openqwave.__file__).parents[1])},
        pass_fds=[sock.fileno()],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (status, "sent\n"), done.stderr
    sock.send(b"after")
    assert stage.seen(2) == [("marked", 56), ("after", 0)]
