"""What is read of a host without changing it: offloads, parts of the kernel, the clock."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from openqwave.drivers.clockstate import read_clock, try_stamps
from openqwave.drivers.kernelparts import KernelParts, Part, read_parts
from openqwave.drivers.offloads import Offloads, read_offloads

GRO, GSO, TSO, FLAGS, COALESCE = 0x2B, 0x23, 0x1E, 0x25, 0x0E


class Card:
    """A driver that answers some requests of ethtool."""

    def __init__(self, answers: dict[int, list[int]]) -> None:
        self.answers = answers
        self.asked: set[bytes] = set()

    def __call__(self, _: socket.socket, request: int, data: bytes) -> bytes:
        assert request == 0x8946
        assert len(data) == 40
        self.asked.add(data[:16].rstrip(b"\0"))
        (address,) = struct.unpack_from("@P", data, 16)
        command = ctypes.c_uint32.from_address(address).value
        if command not in self.answers:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        for place, number in enumerate(self.answers[command], 1):
            ctypes.c_uint32.from_address(address + 4 * place).value = number
        return data


def test_what_a_driver_says_is_read() -> None:
    times = [0] * 22
    times[0] = 250
    card = Card({GRO: [1], GSO: [0], TSO: [1], FLAGS: [1 << 15 | 1], COALESCE: times})
    assert read_offloads("eth7", card) == Offloads(
        gro=True, lro=True, tso=True, gso=False, gather_us=250
    )
    assert card.asked == {b"eth7"}
    times[10] = 1
    assert read_offloads("eth7", card).is_adaptive


def test_what_a_driver_does_not_say_is_not_known() -> None:
    assert read_offloads("eth7", Card({})) == Offloads()
    assert read_offloads("eth7", Card({FLAGS: [1]})) == Offloads(lro=False)


def test_loopback_says_something() -> None:
    assert read_offloads("lo").gso is not None


PARTS = {
    "in the kernel, by its configuration": (
        KernelParts(config=frozenset({"CONFIG_NET_SCH_FQ=y"})),
        Part.THERE,
    ),
    "in the kernel, by the list": (KernelParts(built_in=frozenset({"sch_fq"})), Part.THERE),
    "loaded": (
        KernelParts(loaded=frozenset({"sch_fq"}), loadable=frozenset({"sch_fq"})),
        Part.THERE,
    ),
    "a module that is there": (
        KernelParts(
            config=frozenset({"CONFIG_NET_SCH_FQ=m"}), loadable=frozenset({"sch_fq", "sch_htb"})
        ),
        Part.LOADABLE,
    ),
    "not among the modules": (KernelParts(loadable=frozenset({"sch_htb"})), Part.ABSENT),
    "not configured": (
        KernelParts(config=frozenset({"# CONFIG_NET_SCH_FQ is not set"})),
        Part.ABSENT,
    ),
    "a module out of sight": (
        KernelParts(config=frozenset({"CONFIG_NET_SCH_FQ=m"}), loaded=frozenset()),
        Part.UNKNOWN,
    ),
    "of another name": (
        KernelParts(config=frozenset({"CONFIG_NET_SCH_FQ_CODEL=y"})),
        Part.UNKNOWN,
    ),
    "nothing is told": (KernelParts(), Part.UNKNOWN),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_the_kernel(name: str) -> None:
    parts, found = PARTS[name]
    assert parts.find("sch_fq", "NET_SCH_FQ") is found


def test_lists_of_modules_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / os.uname().release
    folder.mkdir()
    (folder / "modules.builtin").write_text("kernel/net/sched/sch_htb.ko\n")
    (folder / "modules.dep").write_text(
        "kernel/net/sched/sch_fq.ko.zst: kernel/net/a.ko\nkernel/b/some-thing.ko:\n"
    )
    monkeypatch.setattr("openqwave.drivers.kernelparts._MODULES", tmp_path)
    parts = read_parts()
    assert parts.built_in == frozenset({"sch_htb"})
    assert parts.loadable == frozenset({"sch_fq", "some_thing"})


def test_the_clock_is_told(tmp_path: Path) -> None:
    (tmp_path / "current_clocksource").write_text("hpet\n")
    state = read_clock(tmp_path)
    assert state.source == "hpet"
    assert state.error_us >= 0
    assert read_clock(tmp_path / "none").source == ""


def test_loopback_is_stamped_before_it_is_read() -> None:
    wait_ns = try_stamps()
    assert wait_ns is not None
    assert 0 < wait_ns < 1_000_000_000
