"""One process's handles, sockets and flows, of every kind that the rows need.

| flow | handle | what |
| --- | --- | --- |
| plain | handle | non-adaptive, an unconnected IPv4 UDP socket, Voice |
| adaptive | handle | adaptive, connected UDP; nobody can measure its path |
| blank | handle | adaptive, connected UDP; its path is measured, nothing known yet |
| measured | handle | adaptive, connected TCP, 4 Mbit/s of a path that has 6 to spare |
| foreign | other | non-adaptive, another socket, made through another handle |
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ctypes import byref
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from openqwave.admission.policy import Experiments, Policy
from openqwave.client import opening
from openqwave.client.embedded import Embedded
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Congestion, Fundamentals, PathView, Unmeasurable
from openqwave.model.path import LinkType, PathFacts
from openqwave.qos2 import (
    AF_INET,
    AF_INET6,
    ERROR_IO_PENDING,
    HANDLE,
    OVERLAPPED,
    QOS_FLOWID,
    QOS_FLOWRATE_OUTGOING,
    QOS_NON_ADAPTIVE_FLOW,
    QOS_PACKET_PRIORITY,
    QOS_VERSION,
    SOCKADDR_IN,
    SOCKADDR_IN6,
    UINT64,
    ULONG,
    CloseHandle,
    CreateEventW,
    GetLastError,
    QOSAddSocketToFlow,
    QOSCloseHandle,
    QOSCreateHandle,
    QOSFlowRateNotApplicable,
    QOSNotifyFlow,
    QOSQueryFlow,
    QOSQueryPacketPriority,
    QOSSetFlow,
    QOSSetOutgoingRate,
    QOSShapeAndMark,
    QOSTrafficTypeVoice,
    SetLastError,
    handles,
)
from openqwave.runtime import surveying
from openqwave.runtime.runtime import Runtime
from openqwave.runtime.surveying import Surveyor
from tests.unit.own_service import own_service

if TYPE_CHECKING:
    from openqwave.subsystem.effects import Experiment
    from openqwave.subsystem.requests import Found

SENTINEL: Final = 0xDEADBEEF
# The clock of a world stands still, so nothing there could be waited for.
IMPATIENT: Final = Experiments(answer_ns=0)

UNMEASURED = "127.0.0.3"
MEASURED = "127.0.0.2"
BLANK = "127.0.0.4"
PORT = 40_007

HELD_BPS = 4_000_000
AVAILABLE_BPS = 6_000_000
CAPACITY_BPS = 20_000_000

# linux/sched.h, linux/sockios.h, linux/if.h.
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

_OPTIONS = (
    (socket.IPPROTO_IP, socket.IP_TOS),
    (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    (socket.SOL_SOCKET, socket.SO_PRIORITY),
    (socket.SOL_SOCKET, 47),  # SO_MAX_PACING_RATE
)


class SleepyClock:
    """A clock whose machine can be put to sleep."""

    def __init__(self) -> None:
        self.now = 1_000_000_000
        self.asleep = 0

    def read(self) -> tuple[int, int]:
        return self.now, self.asleep


class RunningClock(SleepyClock):
    """The same, of which the time runs; for what is waited for."""

    def read(self) -> tuple[int, int]:
        return time.monotonic_ns(), self.asleep


class Onlooker(Surveyor):
    """Finds ways and waits for timers as ever, and measures nothing: that the world says."""

    def __init__(self, subsystem: Runtime, policy: Experiments) -> None:
        super().__init__(subsystem, policy)
        self.ways: dict[Endpoint, Found] = {}

    def find(self, host: Endpoint, namespace: int, interface: int = 0) -> Found:
        return self.ways.get(host) or super().find(host, namespace, interface)

    def carry_out(self, effect: Experiment) -> None:
        del effect


def sockaddr(host: str, port: int = PORT, *, family: int | None = None) -> Any:  # noqa: ANN401
    """A Windows sockaddr; `family` overrides what stands in its first field."""
    if ":" in host:
        name, _, scope = host.partition("%")
        six: Any = SOCKADDR_IN6(
            sin6_family=AF_INET6 if family is None else family,
            sin6_port=socket.htons(port),
            sin6_scope_id=int(scope or 0),
        )
        six.sin6_addr.Byte[:] = socket.inet_pton(socket.AF_INET6, name)
        return six
    four: Any = SOCKADDR_IN(
        sin_family=AF_INET if family is None else family, sin_port=socket.htons(port)
    )
    ctypes.memmove(byref(four, 4), socket.inet_aton(host), 4)
    return four


def host_of(address: str) -> Endpoint:
    return Endpoint(socket.inet_aton(address), 0)


# Where handles are opened: in the process's own subsystem, or at a service.
VIA = "embedded"


def _subsystem(
    stack: ExitStack, policy: Policy, clock: SleepyClock, after_telling: Callable[[], None]
) -> Runtime:
    if VIA == "service":
        served = stack.enter_context(own_service(policy, clock)).runtime
        served.after_telling = after_telling
        return served
    host = Embedded(policy, clock=clock)
    stack.enter_context(mock.patch.object(opening, "process_subsystem", return_value=host))
    stack.callback(host.close)
    return host


class World:
    """See the module's text; `open_world` makes and ends it."""

    def __init__(self, stack: ExitStack, policy: Policy, clock: SleepyClock) -> None:
        self.clock = clock
        self._stack = stack
        self._handles: list[int] = []
        self.subsystem = _subsystem(stack, policy, clock, self._hear)
        self.onlooker = Onlooker(self.subsystem, policy.experiments)
        stack.enter_context(mock.patch.object(surveying, "Surveyor", return_value=self.onlooker))
        self._events: list[int] = []
        # What looks for ways opens its descriptors at the first question, not within a row.
        self.subsystem.find_path(host_of("192.0.2.1"), 0)
        self.handle = self.new_handle()
        self.other = self.new_handle()
        self.closed = 0
        self.sockets: list[socket.socket] = []
        self.unconnected = self.udp()
        self.unconnected6 = self.udp(socket.AF_INET6)
        self.foreign_socket = self.udp()
        self.peer = f"127.0.0.1:{PORT}"
        self.connected = self.udp()
        self.connected.connect(("127.0.0.1", PORT))
        self.lonely = self.udp()
        self.lonely.connect((UNMEASURED, PORT))
        self.blank_socket = self.udp()
        self.blank_socket.connect((BLANK, PORT))
        listener = self.keep(socket.create_server((MEASURED, 0)))
        self.tcp = self.keep(socket.create_connection(listener.getsockname()))
        self.keep(listener.accept()[0])
        # No kinds of socket that a flow can hold, and things that are no sockets.
        self.local = self.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.netlink = self.keep(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
        self.gone = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.gone.close()
        self.file = stack.enter_context(os.fdopen(os.open(os.devnull, os.O_RDONLY), "rb"))
        self.plain = self.flow(
            self.handle, self.unconnected, sockaddr("127.0.0.1"), QOS_NON_ADAPTIVE_FLOW
        )
        self.adaptive = self.flow(self.handle, self.lonely, None, 0)
        self.blank = self.flow(self.handle, self.blank_socket, None, 0)
        self.measured = self.flow(self.handle, self.tcp, None, 0)
        self.foreign = self.flow(
            self.other, self.foreign_socket, sockaddr("127.0.0.1"), QOS_NON_ADAPTIVE_FLOW
        )
        self.see(MEASURED, AVAILABLE_BPS, is_congested=False)
        self.subsystem.receive_path_view(host_of(BLANK), PathView(Fundamentals()))
        rate = QOS_FLOWRATE_OUTGOING(HELD_BPS, QOSShapeAndMark, QOSFlowRateNotApplicable)
        assert QOSSetFlow(
            self.handle, self.measured, QOSSetOutgoingRate, 16, byref(rate), 0, None
        ), GetLastError()
        # Measured anew: what the flow holds is in these figures, and 6 Mbit/s are to spare.
        self.see(MEASURED, AVAILABLE_BPS, is_congested=False)
        self.closed = self.new_handle()
        assert QOSCloseHandle(self.closed)

    def new_handle(self) -> int:
        handle: Any = HANDLE()
        assert QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle)), GetLastError()
        # One that the test has closed is closed twice, which is refused.
        self._stack.callback(QOSCloseHandle, handle.value)
        self._handles.append(handle.value)
        if VIA == "service":
            # It may have been the first to see that the machine slept.
            self._hear()
        return int(handle.value)

    def _hear(self) -> None:
        """Read what a service says by itself: it comes before the second answer, or the first."""
        for handle in self._handles * 2:
            opened = handles.opened_by(handle)
            if opened is not None:
                opened.session.refuse()

    def at_end(self, work: Callable[[int], object], argument: int) -> None:
        """Have something done when the world ends."""
        self._stack.callback(work, argument)

    def keep(self, sock: socket.socket) -> socket.socket:
        self._stack.callback(sock.close)
        self.sockets.append(sock)
        return sock

    def udp(self, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        return self.keep(socket.socket(family, socket.SOCK_DGRAM))

    def event(self, *, manual: bool = True, is_set: bool = False) -> int:
        handle = CreateEventW(None, manual, is_set, None)
        assert handle, GetLastError()
        self._stack.callback(CloseHandle, handle)
        self._events.append(handle)
        return handle

    def overlapped(self, *, manual: bool = True) -> OVERLAPPED:
        return OVERLAPPED(hEvent=self.event(manual=manual))

    def flow(
        self,
        handle: int,
        sock: object,
        address: Any,  # noqa: ANN401 - any sockaddr
        flags: int,
        kind: int = QOSTrafficTypeVoice,
    ) -> int:
        flow_id: Any = QOS_FLOWID(0)
        target = None if address is None else byref(address)
        assert QOSAddSocketToFlow(handle, sock, target, kind, flags, byref(flow_id)), GetLastError()
        return int(flow_id.value)

    def see(
        self,
        host: str,
        available_bps: int | None,
        *,
        is_congested: bool | None,
        since_ns: int | None = None,
    ) -> None:
        """Let the measurements say something of a path."""
        fundamentals = Fundamentals(CAPACITY_BPS, available_bps, 1_500_000)
        self.subsystem.receive_path_view(
            host_of(host), PathView(fundamentals, Congestion(is_congested), since_ns=since_ns)
        )

    def lead(self, host: str, found: Found | None = None) -> None:
        """Let a way there be found, or what is wrong with it; with a way experiments begin."""
        end = host_of(host)
        way = found or PathFacts(end, 1, "lo", end.packed, b"", 65_536, LinkType.LOOPBACK)
        self.onlooker.ways[end] = way
        self.subsystem.tell(lambda engine, now_ns: engine.receive_path(end, way, now_ns=now_ns))

    def stop(self, host: str, why: Unmeasurable | Refusal) -> None:
        """Let experiments end by themselves."""
        end = host_of(host)
        self.subsystem.tell(
            lambda engine, now_ns: engine.receive_experiments_ended(end, why, now_ns=now_ns)
        )

    def turn(self, host: str, *, is_congested: bool | None) -> None:
        """Let the experiments say something of a path's queues."""
        end, now = host_of(host), Congestion(is_congested)
        self.subsystem.tell(
            lambda engine, now_ns: engine.receive_congestion(end, now, now_ns=now_ns)
        )

    def pending(self, handle: int, flow_id: int, kind: int) -> OVERLAPPED:
        """A pending notification."""
        overlapped = self.overlapped()
        assert not QOSNotifyFlow(handle, flow_id, kind, None, None, 0, byref(overlapped))
        assert GetLastError() == ERROR_IO_PENDING
        return overlapped

    def sleep(self) -> None:
        """Suspend the machine for a minute."""
        self.clock.asleep += 60_000_000_000

    def state(self) -> object:
        """All that a failed call may not change: options, flows, marks, rates, the last error."""
        last_error = GetLastError()
        options = []
        for sock in self.sockets:
            if sock.fileno() < 0 or sock.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            options += [
                sock.getsockopt(level, name, 8)
                for level, name in _OPTIONS
                if level != socket.IPPROTO_IPV6 or sock.family == socket.AF_INET6
            ]
        opened = handles.opened_by(self.handle)
        assert opened is not None
        flows: list[object] = []
        listed = opened.session.enumerate_flows()
        # Without rights the ones that this world made are asked one by one.
        known = (self.plain, self.adaptive, self.blank, self.measured, self.foreign)
        for flow_id in known if isinstance(listed, Refusal) else listed:
            priority, rate = QOS_PACKET_PRIORITY(), UINT64()
            for operation, buffer in ((QOSQueryPacketPriority, priority), (2, rate)):
                size = ULONG(ctypes.sizeof(buffer))
                QOSQueryFlow(self.handle, flow_id, operation, byref(size), byref(buffer), 0, None)
            flows.append((flow_id, bytes(priority), bytes(rate)))
        SetLastError(last_error)
        return options, listed, flows


@contextmanager
def open_world(policy: Policy | None = None, clock: SleepyClock | None = None) -> Iterator[World]:
    """A world, and its end."""
    with ExitStack() as stack:
        yield World(stack, policy or Policy(experiments=IMPATIENT), clock or SleepyClock())


def enter_empty_network() -> None:
    """Leave for a network namespace with loopback and no route anywhere else."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("h", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def in_child(work: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Do work in a forked child and return its JSON result; its failure is ours."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            try:
                report = {"result": work()}
                status = 0
            except BaseException:  # noqa: BLE001 - the parent fails with it
                report = {"failure": traceback.format_exc()}
            os.write(writing, json.dumps(report).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        report = json.loads(stream.read() or b"{}")
    _, status = os.waitpid(pid, 0)
    assert "failure" not in report, report["failure"]
    assert os.waitstatus_to_exitcode(status) == 0
    return report["result"]
