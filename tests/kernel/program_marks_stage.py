"""Programs that ask for nothing, on a host whose packets pass the kernel's program.

The programs are Python and bash, started anew and told line by line what to do; what they send is
read off the wire at the other host.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from openqwave.drivers.filters import Filters
from openqwave.drivers.netlink import Netlink
from openqwave.drivers.outlets import Outlets
from openqwave.drivers.processes import Process
from openqwave.drivers.qdiscs import Qdiscs
from openqwave.drivers.sockdiag import SocketDiagnosis
from openqwave.enforcement.bpf.backend import DataPlane
from openqwave.enforcement.bpf.presence import Presence
from openqwave.enforcement.bpf.programs import ClaimedPrograms
from openqwave.enforcement.bpf.release import cgroup_root
from openqwave.enforcement.bpf.table import Sizes
from openqwave.enforcement.claims import Claim, RunClaim
from openqwave.enforcement.missing import MechanismMissing
from openqwave.enforcement.shaping.shapers import Shapers
from openqwave.model.flow import Treatment
from tests.kernel.egress_stage import PATIENCE_S, Arrived, Wire, may_use_bpf
from tests.kernel.nobody import interpreter

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

SIZES = Sizes(flows=256, sockets=64, destinations=64, claimants=128, fragmented=64)
SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04
TCP_BYTES = {4: 20, 6: 40}
_numbers = count(1)


def flags_of(packet: Arrived) -> int:
    """The flags of a packet of TCP without options of IP."""
    return packet.data[TCP_BYTES[packet.version] + 13]


# -- the kernel ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Marking:
    """The program at a host's exits, and who treats programs in it."""

    presence: Presence
    plane: DataPlane
    programs: ClaimedPrograms
    shapers: Shapers

    def run(self, *groups: Group, dscp: int = 46, claim_id: int = 1) -> None:
        """Have one run, of some groups, and no rules."""
        claim = Claim(claim_id, Treatment(dscp=dscp))
        wanted = RunClaim(claim, frozenset(group.number for group in groups))
        assert self.programs.carry_out([], [wanted]) is None


@contextlib.contextmanager
def marking(host: Host, may_install: frozenset[str] | None = frozenset()) -> Iterator[Marking]:
    """Have the program at all exits of a host; skips the test where that is forbidden."""
    with contextlib.ExitStack() as stack:
        with host.enter():
            netlink = stack.enter_context(Netlink(socket.NETLINK_ROUTE))
            outlets = stack.enter_context(contextlib.closing(Outlets(netlink)))
            diagnosis = stack.enter_context(SocketDiagnosis())
            shapers = Shapers(Qdiscs(netlink), outlets, may_install)
            try:
                presence = Presence.begin(Filters(netlink), diagnosis, SIZES)
            except MechanismMissing as error:
                if may_use_bpf():
                    raise
                pytest.skip(str(error))
        programs = ClaimedPrograms(presence, shapers)
        plane = DataPlane(presence.table, presence, shapers, programs)
        stack.callback(host.run, plane.clean_up)
        yield Marking(presence, plane, programs, shapers)


# -- groups --------------------------------------------------------------------------------


class Group:
    """A control group of this test's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.number = path.stat().st_ino

    def below(self) -> Group:
        """One in it, which goes with it."""
        return Group(self.path / f"in-{next(_numbers)}")

    def put(self, pid: int) -> None:
        """Put a process there."""
        (self.path / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def close(self) -> None:
        """End what is left there, and it."""
        for folder, _, _ in sorted(os.walk(self.path), reverse=True):
            end = time.monotonic() + PATIENCE_S
            Path(folder, "cgroup.kill").write_text("1", encoding="ascii")
            while Path(folder, "cgroup.procs").read_text(encoding="ascii"):
                assert time.monotonic() < end, f"processes stay in {folder}"
                time.sleep(0.01)
            os.rmdir(folder)


@contextlib.contextmanager
def group() -> Iterator[Group]:
    """A group of its own, gone at the end."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    root = cgroup_root(mounts)
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("no control groups can be made here")
    made = Group(Path(root, f"openqwave-test-{os.getpid()}-{next(_numbers)}"))
    try:
        yield made
    finally:
        made.close()


# -- programs -----------------------------------------------------------------------------

# Does what each line says, and answers with a line.
AGENT = """
import os, socket, subprocess, sys
for line in sys.stdin:
    out = ""
    exec(line)
    print("done", out, flush=True)
"""


class Agent:
    """A program on a host that does what it is told, in Python."""

    def __init__(self, host: Host, where: Group | None = None, uid: int = 0) -> None:
        before = ["setpriv", f"--reuid={uid}", "--clear-groups"] if uid else []
        python = interpreter("socket") if uid else sys.executable
        self.process = host.popen(
            [*before, python, "-c", AGENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # It is itself, and not what starts it, once it answers.
        self.tell("pass")
        if where is not None:
            where.put(self.process.pid)

    def tell(self, *lines: str) -> str:
        """Have it do something, and wait until that is done; what the last line put out."""
        out = ""
        for line in lines:
            self.order(line)
            out = self.answer()
        return out

    def order(self, line: str) -> None:
        """Have it do something, and go on meanwhile."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def has_answered(self) -> bool:
        """Has it done what it was told?"""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def answer(self) -> str:
        """Wait until it has, and take what that put out."""
        assert self.process.stdout is not None
        done, _, out = self.process.stdout.readline().strip().partition(" ")
        assert done == "done", "it could not do what it was told"
        return out

    def make_udp(self, family: str = "AF_INET", name: str = "u") -> None:
        """Have it make a socket."""
        self.tell(f"{name} = socket.socket(socket.{family}, socket.SOCK_DGRAM)")

    def send(self, address: str, port: int = 20_000, name: str = "u", times: int = 1) -> None:
        """Have it send datagrams."""
        self.tell(f"for _ in range({times}): {name}.sendto(b'x', ({address!r}, {port}))")

    def borrow(self, name: str = "u") -> socket.socket:
        """A descriptor of its socket."""
        number = int(self.tell(f"out = {name}.fileno()"))
        process = Process.of_pid(self.process.pid)
        assert process is not None
        with process:
            fd = process.fetch(number)
        assert fd is not None
        return socket.socket(fileno=fd)

    def end(self) -> None:
        """End it by force."""
        self.process.kill()
        self.process.wait(PATIENCE_S)


def say(
    host: Host, bash: str, address: str, port: int = 20_000, *, where: Group | None = None
) -> None:
    """Have a bash, of whatever name, send a datagram."""
    script = f"read; exec 3<>/dev/udp/{address}/{port}; echo said >&3"
    process = host.popen([bash, "-c", script], stdin=subprocess.PIPE)
    if where is not None:
        where.put(process.pid)
    process.communicate("\n", timeout=PATIENCE_S)
    assert process.returncode == 0


# -- the wire -----------------------------------------------------------------------------


def marks_of(wire: Wire, number: int, port: int = 20_000) -> list[int]:
    """The DSCPs of so many packets that come to a port."""
    return [packet.dscp for packet in wire.take(number, lambda packet: packet.port == port)]


def until(
    wire: Wire, done: Callable[[Sequence[Arrived]], bool], where: Callable[[Arrived], bool]
) -> list[Arrived]:
    """Packets, until they are all that is waited for."""
    found: list[Arrived] = []
    while not done(found):
        some = wire.take(1, where)
        assert some, f"nothing more came after {len(found)} packets"
        found += some
    return found
