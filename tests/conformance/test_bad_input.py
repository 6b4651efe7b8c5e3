"""Ten thousand calls with something wrong in each: every one is refused, and only that.

A call is built from good arguments, one or more of which are then replaced by something
bad for that place. So each must fail, with an error of the function's own list, and leave
the sockets and flows beside it, and the process's descriptors, as they were.

What is not tried is an address that leads nowhere: as in C, it ends the process.
"""

from __future__ import annotations

import gc
import os
import random
import socket
from collections.abc import Callable
from ctypes import (
    byref,
    c_byte,
    c_uint16,
    c_uint32,
    create_string_buffer,
    pointer,
    sizeof,
)
from typing import Any, TypeAlias
from unittest import mock

import pytest

from openqwave.client import opening
from openqwave.client.embedded import process_subsystem
from openqwave.qos2 import (
    DWORD,
    ERROR_INVALID_HANDLE,
    ERROR_INVALID_PARAMETER,
    ERROR_NOT_FOUND,
    FALSE,
    HANDLE,
    INVALID_HANDLE_VALUE,
    INVALID_SOCKET,
    LPOVERLAPPED,
    LPVOID,
    OVERLAPPED,
    QOS_FLOWID,
    QOS_FLOWRATE_OUTGOING,
    QOS_NON_ADAPTIVE_FLOW,
    QOS_VERSION,
    SOCKET,
    UINT64,
    ULONG,
    GetLastError,
    HasOverlappedIoCompleted,
    QOSAddSocketToFlow,
    QOSCancel,
    QOSCloseHandle,
    QOSCreateHandle,
    QOSEnumerateFlows,
    QOSNotifyAvailable,
    QOSNotifyCongested,
    QOSNotifyFlow,
    QOSNotifyUncongested,
    QOSQueryFlow,
    QOSQueryFlowFundamentals,
    QOSQueryOutgoingRate,
    QOSQueryPacketPriority,
    QOSRemoveSocketFromFlow,
    QOSSetFlow,
    QOSSetOutgoingDSCPValue,
    QOSSetOutgoingRate,
    QOSSetTrafficType,
    QOSShapeAndMark,
    QOSStartTrackingClient,
    QOSStopTrackingClient,
    QOSTrafficTypeBackground,
    QOSTrafficTypeVoice,
    SetLastError,
    event_fileno,
    handles,
)
from tests.conformance.calls import ADMINISTRATOR_ONLY
from tests.conformance.contract import FACTS, NAMES, errors_of
from tests.conformance.world import (
    HELD_BPS,
    MEASURED,
    SENTINEL,
    World,
    in_child,
    open_world,
    sockaddr,
)
from tests.conftest import open_descriptors

FUNCTIONS = sorted(FACTS["errors_by_function"])
CALLS = 10_000 // len(FUNCTIONS) + 1
# Where each call, and each look at what it has changed, is a round trip.
CALLS_OF_A_SERVICE = CALLS // 10
SEED = 2_177

# Makes an argument in a world.
Make: TypeAlias = Callable[["Scene"], object]


class Stubborn:
    """Claims to be a descriptor and is not."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def fileno(self) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Scene:
    """A world, chance, and ids that are not this process's."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.foreign_handle, self.foreign_flow = in_child(make_flow)
        self.ended = world.flow(
            world.handle, world.connected, None, QOS_NON_ADAPTIVE_FLOW, QOSTrafficTypeBackground
        )
        assert QOSRemoveSocketFromFlow(world.handle, 0, self.ended, 0)
        self.in_use = world.pending(world.handle, world.measured, QOSNotifyCongested)
        self.others = world.pending(world.other, self.other_measured(), QOSNotifyCongested)
        self.free = world.udp()
        self.event = world.event()
        self.idle = world.overlapped()
        self.pipe = os.pipe()
        world.at_end(os.close, self.pipe[0])
        world.at_end(os.close, self.pipe[1])

    def other_measured(self) -> int:
        """A flow on a measured path of the other handle."""
        sock = self.world.udp()
        sock.connect((MEASURED, 9))
        return self.world.flow(self.world.other, sock, None, 0)


def make_flow() -> tuple[int, int]:
    """In a child: a handle and a flow of the process's own engine, as numbers."""
    handle: Any = HANDLE()
    # The engine of this very process, and not the one that a world brought.
    with mock.patch.object(opening, "process_subsystem", process_subsystem):
        assert QOSCreateHandle(byref(QOS_VERSION(1, 0)), byref(handle))
    flow: Any = QOS_FLOWID(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        assert QOSAddSocketToFlow(handle, sock, None, QOSTrafficTypeVoice, 2, byref(flow))
        assert QOSCloseHandle(handle)
    return handle.value, flow.value


def exactly(value: object) -> Make:
    return lambda _: value


# Nothing of these is a number, a pointer or a socket.
JUNK: list[Make] = [
    *map(exactly, ("text", "", 1.5, float("nan"), 1j, [], {}, set(), object, object(), ...)),
    lambda s: s.chance.random(),
    lambda _: len,
]

NOT_HANDLES: list[Make] = [
    *JUNK,
    exactly(0),
    exactly(None),
    exactly(INVALID_HANDLE_VALUE),
    exactly(-1),
    lambda s: s.world.closed,
    lambda s: s.event,
    lambda s: s.foreign_handle,
    lambda s: s.chance.getrandbits(63) | 1,
    lambda s: byref(HANDLE(s.world.handle)),
    lambda _: b"\0" * 8,
]

NULLS: list[Make] = [exactly(None), exactly(0), exactly(LPVOID()), exactly(LPOVERLAPPED())]

# Not null either.
WRONG_POINTERS: list[Make] = [
    *JUNK,
    exactly(True),
    exactly(-1),
    exactly(1 << 64),
    lambda s: s.chance.randrange(1, 0x1_0000),
    lambda _: byref(c_byte()),
    lambda _: byref(c_uint16()),
    lambda _: byref(c_uint32(), 4),
    lambda _: byref(c_uint32(), -4),
    lambda _: pointer(c_byte()),
    lambda _: (c_byte * 3)(),
    lambda _: memoryview(b"\0" * 64),
    lambda _: bytearray(64),
]

NOT_POINTERS = [*WRONG_POINTERS, *NULLS]

NOT_FLAGS: list[Make] = [
    *JUNK,
    exactly(-1),
    lambda s: 1 << s.chance.randrange(2, 32),
    lambda _: DWORD(0x8000_0000),
    lambda _: byref(DWORD(0)),
]

NOT_OPERATIONS: list[Make] = [
    *JUNK,
    exactly(-1),
    lambda s: s.chance.randrange(3, 1 << 32),
    lambda _: byref(DWORD(0)),
]

NOT_OWN_FLOWS: list[Make] = [
    *JUNK,
    exactly(0),
    exactly(None),
    exactly(-1),
    lambda s: s.ended,
    lambda s: s.foreign_flow,
    lambda s: (1 << 31) + s.chance.randrange(1 << 30) * 2,
    lambda s: byref(QOS_FLOWID(s.world.plain)),
]

NOT_SOCKETS: list[Make] = [
    *JUNK,
    exactly(-1),
    exactly(INVALID_SOCKET),
    exactly(1_000_000),
    exactly(1 << 40),
    lambda s: s.world.gone,
    lambda s: s.world.file,
    lambda s: s.world.file.fileno(),
    lambda s: s.pipe[s.chance.randrange(2)],
    lambda s: event_fileno(s.event),
    lambda s: SOCKET(s.pipe[0]),
    lambda s: byref(SOCKET(s.world.connected.fileno())),
    exactly(Stubborn("three")),
    exactly(Stubborn(-1)),
    exactly(Stubborn(None)),
    exactly(Stubborn(OSError("no"))),
]

UNSUPPORTED: list[Make] = [lambda s: s.world.local, lambda s: s.world.netlink]


def random_bytes(s: Scene) -> object:
    """Bytes that are no sockaddr: a wrong family, or a good one cut short."""
    if s.chance.random() < 0.5:
        family = s.chance.choice([0, 1, 3, 9, 11, 22, 24, 30, 512, 5888, 65535])
        data = family.to_bytes(2, "little") + s.chance.randbytes(s.chance.randrange(64))
    else:
        family, size = s.chance.choice([(2, 16), (10, 28), (23, 28)])
        data = family.to_bytes(2, "little") + s.chance.randbytes(s.chance.randrange(size - 2))
    return byref(create_string_buffer(data, len(data))) if s.chance.random() < 0.5 else data


NOT_ADDRESSES: list[Make] = [
    *NOT_POINTERS,
    random_bytes,
    random_bytes,
    random_bytes,
    lambda _: byref(sockaddr("0.0.0.0")),  # noqa: S104 - not bound to
    lambda _: byref(sockaddr("::")),
    lambda _: byref(sockaddr("::ffff:127.0.0.1")),
]

NOT_HOSTS: list[Make] = [
    *NOT_ADDRESSES,
    lambda s: byref(sockaddr(f"{s.chance.randrange(224, 240)}.0.0.1")),
    lambda _: byref(sockaddr("ff02::1%1")),
    lambda _: byref(sockaddr("fe80::1")),
]

NOT_DESTINATIONS: list[Make] = [
    *NOT_ADDRESSES,
    lambda _: byref(sockaddr("127.0.0.1", 0)),
    lambda _: byref(sockaddr("::1")),
]

# Not null, which is allowed, and nothing that could hold an operation now.
NOT_OVERLAPPED: list[Make] = [
    *WRONG_POINTERS,
    lambda s: byref(s.in_use),
    lambda s: byref(s.others),
    lambda _: byref(OVERLAPPED(hEvent=0xDEAD_0000)),
    lambda _: (c_byte * (sizeof(OVERLAPPED) - 1))(),
]

BUFFERS: dict[int, tuple[int, Make, list[Make]]] = {
    QOSSetTrafficType: (
        4,
        lambda s: byref(DWORD(s.chance.randrange(6))),
        [lambda s: byref(DWORD(s.chance.randrange(6, 1 << 32)))],
    ),
    QOSSetOutgoingRate: (
        16,
        lambda _: byref(QOS_FLOWRATE_OUTGOING(HELD_BPS, QOSShapeAndMark, 0)),
        [
            lambda s: byref(QOS_FLOWRATE_OUTGOING(HELD_BPS, s.chance.randrange(3, 1 << 31), 0)),
            lambda s: byref(QOS_FLOWRATE_OUTGOING(HELD_BPS, 1, s.chance.randrange(5, 1 << 31))),
            lambda s: byref(QOS_FLOWRATE_OUTGOING(s.chance.randrange(1 << 33, 1 << 64), 1, 0)),
        ],
    ),
    QOSSetOutgoingDSCPValue: (
        4,
        lambda s: byref(DWORD(s.chance.randrange(64))),
        [lambda s: byref(DWORD(s.chance.randrange(64, 1 << 32)))],
    ),
}
ANSWERS = {QOSQueryFlowFundamentals: 40, QOSQueryPacketPriority: 16, QOSQueryOutgoingRate: 8}

# A good argument, and what is bad in its place.
Place: TypeAlias = tuple[object, list[Make]]


def places(s: Scene, function: str) -> list[Place]:
    """Good arguments for a function, each with what is bad in its place."""
    w, chance = s.world, s.chance
    handle: Place = (w.handle, NOT_HANDLES)
    flags: Place = (0, NOT_FLAGS)
    overlapped: Place = (None, NOT_OVERLAPPED)
    match function:
        case "QOSCreateHandle":
            versions: list[Make] = [
                lambda s: byref(QOS_VERSION(s.chance.randrange(2, 65536), 0)),
                lambda s: byref(QOS_VERSION(1, s.chance.randrange(1, 65536))),
            ]
            return [
                (byref(QOS_VERSION(1, 0)), [*NOT_POINTERS, *versions]),
                (byref(HANDLE()), [*NOT_POINTERS, lambda _: byref(c_uint32())]),
            ]
        case "QOSCloseHandle":
            return [handle]
        case "QOSStartTrackingClient" | "QOSStopTrackingClient":
            return [handle, (byref(sockaddr(MEASURED)), NOT_HOSTS), flags]
        case "QOSEnumerateFlows":
            return [
                handle,
                (
                    byref(ULONG(400)),
                    [*NOT_POINTERS, lambda s: byref(ULONG(s.chance.randrange(24)))],
                ),
                ((ULONG * 100)(), [*NOT_POINTERS, lambda s: (ULONG * s.chance.randrange(6))()]),
            ]
        case "QOSAddSocketToFlow":
            ids: list[Make] = [
                lambda s: byref(QOS_FLOWID(s.ended)),
                lambda s: byref(QOS_FLOWID(s.foreign_flow)),
                lambda s: byref(QOS_FLOWID(s.world.foreign)),
                lambda s: byref(QOS_FLOWID(s.world.adaptive)),
                lambda s: byref(QOS_FLOWID((1 << 31) + s.chance.randrange(1 << 31))),
            ]
            kinds: list[Make] = [
                *JUNK,
                exactly(-1),
                lambda s: s.chance.randrange(6, 1 << 32),
                lambda _: byref(DWORD(1)),
            ]
            return [
                handle,
                (s.free, [*NOT_SOCKETS, *UNSUPPORTED, exactly(None)]),
                (byref(sockaddr("127.0.0.1", 5_004)), NOT_DESTINATIONS),
                (chance.randrange(6), kinds),
                (QOS_NON_ADAPTIVE_FLOW, NOT_FLAGS),
                (byref(QOS_FLOWID(0)), [*NOT_POINTERS, *ids]),
            ]
        case "QOSRemoveSocketFromFlow":
            others: list[Make] = [lambda s: s.free, lambda s: s.world.tcp.fileno()]
            return [
                handle,
                (w.unconnected, [*NOT_SOCKETS, *UNSUPPORTED, *others]),
                (w.plain, NOT_OWN_FLOWS),
                flags,
            ]
        case "QOSSetFlow":
            operation = chance.choice(list(BUFFERS))
            size, buffer, bad = BUFFERS[operation]
            sizes: list[Make] = [
                *JUNK,
                lambda s: s.chance.choice([-size, 0, size - 1, size + 1, 1 << 31]),
                lambda _: byref(ULONG(size)),
            ]
            flow = w.measured if operation == QOSSetOutgoingRate else w.plain
            return [
                handle,
                (flow, [*NOT_OWN_FLOWS, lambda s: s.world.foreign]),
                (operation, NOT_OPERATIONS),
                (size, sizes),
                (buffer(s), [*NOT_POINTERS, *bad]),
                flags,
                overlapped,
            ]
        case "QOSQueryFlow":
            question = chance.choice(list(ANSWERS))
            needed = ANSWERS[question]
            small: list[Make] = [lambda s: byref(ULONG(s.chance.randrange(needed)))]
            return [
                handle,
                (w.measured, NOT_OWN_FLOWS),
                (question, NOT_OPERATIONS),
                (byref(ULONG(needed)), [*NOT_POINTERS, *small]),
                ((c_byte * needed)(), [*NOT_POINTERS, lambda _: (c_byte * (needed - 1))()]),
                flags,
                overlapped,
            ]
        case "QOSNotifyFlow":
            flows: Place = (
                w.measured,
                [*NOT_OWN_FLOWS, lambda s: s.world.foreign, lambda s: s.world.plain],
            )
            if chance.random() < 0.5:
                return [
                    handle,
                    flows,
                    (QOSNotifyUncongested, NOT_OPERATIONS),
                    (None, [*WRONG_POINTERS, lambda _: byref(ULONG(8))]),
                    (None, [*WRONG_POINTERS, lambda _: byref(UINT64(1))]),
                    flags,
                    overlapped,
                ]
            low: list[Make] = [lambda s: byref(UINT64(s.chance.randrange(HELD_BPS + 1)))]
            return [
                handle,
                flows,
                (QOSNotifyAvailable, NOT_OPERATIONS),
                (
                    byref(ULONG(8)),
                    [*NOT_POINTERS, lambda s: byref(ULONG(s.chance.randrange(8)))],
                ),
                (byref(UINT64(HELD_BPS + 1)), [*NOT_POINTERS, *low]),
                flags,
                overlapped,
            ]
        case "QOSCancel":
            idle: list[Make] = [lambda s: byref(s.idle), lambda s: byref(s.others)]
            return [handle, (byref(s.in_use), [*NOT_POINTERS, *idle])]
    raise AssertionError(function)


def bad_arguments(s: Scene, function: str) -> list[object]:
    """Good arguments with one or more replaced by something bad."""
    good = places(s, function)
    ruined = s.chance.sample(range(len(good)), min(s.chance.choice([1, 1, 1, 2, 3]), len(good)))
    return [
        s.chance.choice(bad)(s) if place in ruined else value
        for place, (value, bad) in enumerate(good)
    ]


def descriptors() -> set[tuple[int, str]]:
    """What is open; threads that earlier tests have left behind may close theirs at any time."""
    gc.collect()
    return set(open_descriptors().items())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_bad_call_is_refused_and_changes_nothing(function: str, via: str) -> None:
    allowed = errors_of(function) - {"ERROR_IO_PENDING"}
    call: Callable[..., int] = globals()[function]
    met: set[str] = set()
    at_first = descriptors()
    with open_world() as w:
        s = Scene(w, random.Random(f"{SEED} {function}"))
        # The sockets that ask for routes, one for each family, are kept from here on.
        for sock, host in ((s.free, "127.0.0.1"), (w.unconnected6, "::1")):
            flow_id = w.flow(w.handle, sock, sockaddr(host), QOS_NON_ADAPTIVE_FLOW)
            assert QOSRemoveSocketFromFlow(w.handle, 0, flow_id, 0)
        before = w.state()
        opened = descriptors()
        for number in range(CALLS if via == "embedded" else CALLS_OF_A_SERVICE):
            arguments = bad_arguments(s, function)
            SetLastError(SENTINEL)
            result = call(*arguments)
            error = NAMES.get(GetLastError(), hex(GetLastError()))
            assert result == FALSE, (number, arguments)
            assert error in allowed, (number, arguments)
            assert w.state() == before, (number, arguments)
            met.add(error)
        assert descriptors() <= opened
        # What waits goes on waiting.
        assert not HasOverlappedIoCompleted(byref(s.in_use))
        assert not HasOverlappedIoCompleted(byref(s.others))
        assert QOSCancel(w.handle, byref(s.in_use))
    assert descriptors() <= at_first
    # Chance found its way past the first check.
    assert len(met) > 1 or function in ("QOSCreateHandle", "QOSCloseHandle")


def test_ten_thousand() -> None:
    assert CALLS * len(FUNCTIONS) >= 10_000


@ADMINISTRATOR_ONLY
def test_flow_of_another_process_is_unknown() -> None:
    with open_world() as w:
        s = Scene(w, random.Random(SEED))
        flow = s.foreign_flow
        listed = (ULONG * 100)()
        assert QOSEnumerateFlows(w.handle, byref(ULONG(400)), listed)
        assert flow not in list(listed)
        calls: list[Callable[[], int]] = [
            lambda: QOSRemoveSocketFromFlow(w.handle, 0, flow, 0),
            lambda: QOSSetFlow(w.handle, flow, 0, 4, byref(DWORD(1)), 0, None),
            lambda: QOSQueryFlow(w.handle, flow, 2, byref(ULONG(8)), byref(UINT64()), 0, None),
            lambda: QOSNotifyFlow(w.handle, flow, 0, None, None, 0, None),
        ]
        for refused in calls:
            SetLastError(SENTINEL)
            assert (refused(), GetLastError()) == (FALSE, ERROR_NOT_FOUND)
        # "it must exist on this handle ..., else ERROR_INVALID_PARAMETER"
        assert not QOSAddSocketToFlow(w.handle, s.free, None, 0, 2, byref(QOS_FLOWID(flow)))
        assert GetLastError() == ERROR_INVALID_PARAMETER


def test_handle_is_unknown_after_a_fork() -> None:
    with open_world() as w:
        before = w.state()
        overlapped = w.pending(w.handle, w.measured, QOSNotifyCongested)

        def errors_in_the_child() -> dict[str, int]:
            flow = QOS_FLOWID(0)
            calls: dict[str, Callable[[], int]] = {
                "start": lambda: QOSStartTrackingClient(w.handle, byref(sockaddr(MEASURED)), 0),
                "stop": lambda: QOSStopTrackingClient(w.handle, byref(sockaddr(MEASURED)), 0),
                "enumerate": lambda: QOSEnumerateFlows(w.handle, byref(ULONG(0)), None),
                "add": lambda: QOSAddSocketToFlow(w.handle, w.connected, None, 4, 2, byref(flow)),
                "remove": lambda: QOSRemoveSocketFromFlow(w.handle, 0, w.plain, 0),
                "set": lambda: QOSSetFlow(w.handle, w.plain, 0, 4, byref(DWORD(1)), 0, None),
                "query": lambda: QOSQueryFlow(
                    w.handle, w.plain, 2, byref(ULONG(8)), byref(UINT64()), 0, None
                ),
                "notify": lambda: QOSNotifyFlow(w.handle, w.measured, 0, None, None, 0, None),
                "cancel": lambda: QOSCancel(w.handle, byref(overlapped)),
                "close": lambda: QOSCloseHandle(w.handle),
            }
            assert handles.opened_by(w.handle) is None
            errors = {}
            for name, call in calls.items():
                SetLastError(SENTINEL)
                assert call() == FALSE, name
                errors[name] = GetLastError()
            return errors

        errors = in_child(errors_in_the_child)
        # "Unknown handle: ERROR_INVALID_HANDLE; only QOSCloseHandle answers
        # ERROR_INVALID_PARAMETER."
        assert errors.pop("close") == ERROR_INVALID_PARAMETER
        assert set(errors.values()) == {ERROR_INVALID_HANDLE}
        assert w.state() == before
        assert not HasOverlappedIoCompleted(byref(overlapped))


def test_forked_child_opens_handles_of_its_own() -> None:
    with open_world() as w:
        before = w.state()
        overlapped = w.pending(w.handle, w.measured, QOSNotifyCongested)

        def work() -> int:
            handle, flow = make_flow()
            assert handle != w.handle
            # What is pending is the parent's affair: here the OVERLAPPED is free.
            own, flow_id = w.new_handle(), QOS_FLOWID(0)
            assert QOSAddSocketToFlow(own, w.connected, None, 4, 2, byref(flow_id))
            kind = DWORD(QOSTrafficTypeBackground)
            assert QOSSetFlow(own, flow_id, 0, 4, byref(kind), 0, byref(overlapped))
            assert QOSCloseHandle(own)
            return flow

        with mock.patch.object(opening, "process_subsystem", process_subsystem):
            made = in_child(work)
        assert made not in (0, w.plain, w.adaptive, w.blank, w.measured, w.foreign)
        assert w.state() == before
