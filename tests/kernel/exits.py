"""Programs at the exits of lab hosts, ours and other people's, and what tc shows of it all."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from openqwave.drivers.filters import Filters
from openqwave.drivers.netlink import Netlink
from openqwave.enforcement.bpf import syscalls
from openqwave.enforcement.bpf.attachment import NAME, Attachments, clean_up_leftovers, has_tcx
from openqwave.enforcement.bpf.program import EgressProgram
from openqwave.enforcement.bpf.table import Sizes
from openqwave.enforcement.missing import MechanismMissing
from openqwave.lab.hosts import Host

WAYS = (True, False)
SMALL = Sizes(flows=64, sockets=64, destinations=64, claimants=64, fragmented=64)
ARRAY = 2
# Every network has it, with this index.
LOOPBACK = 1


def loaded() -> EgressProgram:
    try:
        return EgressProgram.load(SMALL)
    except MechanismMissing as missing:
        pytest.skip(str(missing))


def _output(words: list[str]) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def tc(host: Host, words: str) -> str:
    """What tc says."""
    return host.run(_output, ["/sbin/tc", *words.split()])


def ip(host: Host, words: str) -> str:
    """What ip says."""
    return host.run(_output, ["/sbin/ip", *words.split()])


def tcx(host: Host, index: int) -> list[int]:
    """The numbers of the TCX programs of an exit, in their order; none where there is no TCX."""
    if not host.run(has_tcx, index):
        return []
    return host.run(syscalls.query, index, syscalls.TCX_EGRESS)


def needs_tcx(host: Host) -> None:
    """Skip the test where the kernel is older than that."""
    if not host.run(has_tcx, LOOPBACK):
        pytest.skip("this kernel has no TCX (Linux 6.6)")


def shown(host: Host) -> list[str]:
    """All that there is at the interfaces of a host."""
    lines = tc(host, "-d qdisc show").splitlines()
    for index, name in host.run(socket.if_nameindex):
        for place in ("egress", "ingress"):
            lines += [
                f"{name} {place}: {line}"
                for line in tc(host, f"-d filter show dev {name} {place}").splitlines()
            ]
        lines += tc(host, f"chain show dev {name} egress").splitlines()
        lines.append(f"{name} TCX: {tcx(host, index)}")
    return lines


def is_in(lines: list[str], others: list[str]) -> bool:
    """Are they all there, in the same order?"""
    rest = iter(others)
    return all(line in rest for line in lines)


class Foreign:
    """Somebody else's program, which counts packets and returns a verdict."""

    def __init__(self, verdict: int = -1) -> None:
        self.counts = syscalls.map_create(ARRAY, 4, 8, 1, "foreign")
        code = b"".join(
            struct.pack("<BBhi", *each)
            for each in (
                (0x62, 10, -4, 0),  # the key: 0
                (0xBF, 2 | 10 << 4, 0, 0),
                (0x07, 2, 0, -4),
                (0x18, 1 | 1 << 4, 0, self.counts),
                (0, 0, 0, 0),
                (0x85, 0, 0, 1),  # look it up
                (0x15, 0, 2, 0),
                (0xB7, 1, 0, 1),
                (0xDB, 0 | 1 << 4, 0, 0),  # and add 1
                (0xB7, 0, 0, verdict),
                (0x95, 0, 0, 0),
            )
        )
        self.program = syscalls.prog_load(syscalls.SCHED_CLS, code, "GPL", "foreign")
        _, self.id = struct.unpack("=II", syscalls.info(self.program, 8))

    @property
    def count(self) -> int:
        raw = syscalls.lookup(self.counts, bytes(4), 8)
        assert raw is not None
        return int.from_bytes(raw, "little")

    def close(self) -> None:
        os.close(self.program)
        os.close(self.counts)


class Exits:
    """The program at a host's exits."""

    def __init__(self, host: Host, program: EgressProgram, *, with_tcx: bool | None) -> None:
        if with_tcx:
            needs_tcx(host)
        self.host = host
        self.program = program
        self.netlink = host.run(Netlink, socket.NETLINK_ROUTE)
        host.at_close(self.netlink.close)
        self.filters = Filters(self.netlink)
        self.attachments = Attachments(program.programs, self.filters, with_tcx=with_tcx)
        self.ids = [
            struct.unpack("=II", syscalls.info(fd, 8))[1]
            for fd in (
                program.programs.egress,
                program.programs.egress_untagged,
                program.programs.egress_raw,
            )
        ]

    def reconcile(self) -> None:
        self.host.run(self.attachments.reconcile)

    def close(self) -> None:
        self.host.run(self.attachments.close)

    def clean_up(self) -> None:
        clean_up_leftovers(self.filters)

    def places(self) -> dict[str, int]:
        """By interface's name how often the program is there."""
        found = {}
        for index, name in self.host.run(socket.if_nameindex):
            ours = [one for one in self.filters.of_exit(index) if one.name.startswith(NAME)]
            links = [number for number in tcx(self.host, index) if number in self.ids]
            found[name] = len(ours) + len(links)
        return found

    @property
    def is_everywhere(self) -> bool:
        return set(self.places().values()) == {1}


@contextmanager
def on(host: Host, *, with_tcx: bool | None) -> Iterator[Exits]:
    """The program, loaded, not attached yet."""
    with loaded() as program:
        exits = Exits(host, program, with_tcx=with_tcx)
        try:
            yield exits
        finally:
            exits.close()
