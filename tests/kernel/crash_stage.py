"""A life of enforcement whose steps in the kernel are counted, and that ends before any of them.

What is counted is what changes the kernel, at the lowest calls: bpf(2), messages of netlink,
commands of nftables, options of sockets, and closed descriptors of what hangs from them. The life
is that of the service without its clients: the journal, recovery, the choice of a mechanism, plans,
the end. It is lived in a fork of the test, by the real parts, on sockets that the test holds; a
crash is SIGKILL by itself.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import mmap
import os
import pickle
import pprint
import re
import shutil
import signal
import socket
import struct
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from openqwave.drivers import netlink as route
from openqwave.drivers.links import Links
from openqwave.drivers.passing import LentSocket
from openqwave.drivers.processes import Process
from openqwave.drivers.reaching import ReachableSockets
from openqwave.drivers.sockets import own_namespace, read_cookie
from openqwave.enforcement.bpf import attachment, program, syscalls
from openqwave.enforcement.bpf.backend import DataPlane
from openqwave.enforcement.journal import Journal
from openqwave.enforcement.nft import library
from openqwave.enforcement.nft import netlink as netfilter
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.enforcement.wishes import Wishes
from openqwave.model.flow import Transport, Treatment
from openqwave.service.kernel import Kernel
from openqwave.service.recovery import recover
from openqwave.subsystem.effects import Applied, Share, SocketPlan
from tests.kernel.shaping_stage import endpoint
from tests.unit.loopback import options_of

if TYPE_CHECKING:
    from openqwave.enforcement.bpf.table import FlowTable
    from openqwave.lab.topology import Host

FLOWS: Final = 8


@dataclass(frozen=True)
class Variant:
    """One way of enforcement.

    Attributes:
        wishes: What the configuration says.
        with_tcx: How the program is attached.
    """

    wishes: Wishes
    with_tcx: bool | None = None


VARIANTS: Final = {
    "BPF by TCX": Variant(Wishes("bpf", FLOWS), with_tcx=True),
    "BPF by clsact": Variant(Wishes("bpf", FLOWS), with_tcx=False),
    # On the one interface that nobody has set up.
    "BPF and a pool": Variant(
        Wishes("bpf", FLOWS, may_install_queues=True, interfaces=("eth2",)), with_tcx=False
    ),
    "nftables": Variant(Wishes("nftables")),
    "socket options": Variant(Wishes("socket-options")),
}
BPF: Final = ("BPF by TCX", "BPF by clsact", "BPF and a pool")

LATE: Final = "late0"

# bpf(2): making a map, writing, deleting, loading, both in batches, attaching.
_CHANGING: Final = frozenset({0, 2, 3, 5, 26, 27, 28})
_MAKING: Final = frozenset({0, 5, 28})
_NLM_F_ACK: Final = 4
# Handles and numbers that the kernel gives out as it goes, times, counters.
_GIVEN: Final = re.compile(
    r"\b[89a-f][0-9a-f]{3}:|\bid \d+|\bload_time \d+|\bdirect_packets_stat \d+"
)
_NFT: Final = shutil.which("nft") or "/usr/sbin/nft"
# For 256 numbers and a thousand steps.
_ROOM: Final = 1 << 16
_NUMBERS_AT: Final = 8
_STEPS_AT: Final = 4_096
_STEP_BYTES: Final = 56
_NUMBERS: Final = struct.Struct("=IQ")


def nft(commands: str) -> None:
    """Have nft carry something out."""
    _output([_NFT, "-f", "-"], commands)


class Steps:
    """Counts steps, where others can see it, and ends the process before one of them."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _ROOM)
        self._fatal = 0
        self._fds: set[int] = set()

    @property
    def count(self) -> int:
        """How many there were."""
        return int.from_bytes(self._shared[:4], "little")

    @property
    def taken(self) -> list[str]:
        """What each was, the last one perhaps in vain."""
        places = (_STEPS_AT + _STEP_BYTES * number for number in range(self.count))
        return [self._shared[at : at + _STEP_BYTES].rstrip(b"\0").decode() for at in places]

    @property
    def last(self) -> str:
        """What the last one was; empty for none."""
        return (self.taken or [""])[-1]

    @property
    def made(self) -> list[tuple[int, int]]:
        """What was made by bpf(2): by which command, and the kernel's number of it."""
        count = int.from_bytes(self._shared[4:8], "little")
        return [
            _NUMBERS.unpack_from(self._shared, _NUMBERS_AT + 12 * place) for place in range(count)
        ]

    def clear(self) -> None:
        """Begin anew."""
        self._shared[:] = bytes(_ROOM)

    def take(self, what: str) -> None:
        """A step is about to be taken."""
        count = self.count + 1
        self._shared[:4] = count.to_bytes(4, "little")
        at = _STEPS_AT + _STEP_BYTES * (count - 1)
        self._shared[at : at + _STEP_BYTES] = what.encode()[:_STEP_BYTES].ljust(_STEP_BYTES, b"\0")
        if count == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, command: int, fd: int) -> None:
        self._fds.add(fd)
        _, number = struct.unpack("=II", syscalls.info(fd, 8))
        count = len(self.made)
        _NUMBERS.pack_into(self._shared, _NUMBERS_AT + 12 * count, command, number)
        self._shared[4:8] = (count + 1).to_bytes(4, "little")

    def watch(self, fatal: int) -> None:
        """Count from now on, in this process, to its end."""
        self._fatal = fatal
        patch = pytest.MonkeyPatch()
        bpf, close = vars(syscalls)["_syscall"], os.close
        converse, change = vars(route.Netlink)["_converse"], netfilter.Netfilter.change
        run, setsockopt = library.Nft.run, socket.socket.setsockopt

        def counted_bpf(number: int, command: int, *rest: Any) -> int:  # noqa: ANN401
            if command in _CHANGING:
                self.take(f"bpf(2) {command}")
            result = int(bpf(number, command, *rest))
            if command in _MAKING and result >= 0:
                self._note(command, result)
            return result

        def counted_close(fd: int) -> None:
            if fd in self._fds:
                self.take("close")
                self._fds.remove(fd)
            close(fd)

        def counted_converse(asked: route.Netlink, questions: Any) -> Any:  # noqa: ANN401
            if any(flags & _NLM_F_ACK for _, _, flags in questions):
                self.take(f"netlink {[kind for kind, _, _ in questions]}")
            return converse(asked, questions)

        def counted_change(asked: netfilter.Netfilter, messages: Any) -> None:  # noqa: ANN401
            self.take("elements")
            change(asked, messages)

        def counted_run(nft: library.Nft, commands: str) -> str:
            if not commands.startswith("list"):
                self.take(f"nft {commands[:40]}")
            return run(nft, commands)

        def counted_setsockopt(sock: socket.socket, *arguments: Any) -> None:  # noqa: ANN401
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                self.take(f"setsockopt {arguments[:2]}")
            setsockopt(sock, *arguments)

        patch.setattr(syscalls, "_syscall", counted_bpf)
        for where in (os, attachment, program):
            patch.setattr(where, "close", counted_close)
        patch.setattr(route.Netlink, "_converse", counted_converse)
        patch.setattr(netfilter.Netfilter, "change", counted_change)
        patch.setattr(library.Nft, "run", counted_run)
        patch.setattr(socket.socket, "setsockopt", counted_setsockopt)


def _output(words: list[str], text: str = "") -> str:
    done = subprocess.run(words, input=text, check=True, capture_output=True, text=True)
    return done.stdout


def shown(but: str = "") -> tuple[str, Any]:
    """All that hangs from interfaces, and all tables of nftables, of this thread's namespace.

    Args:
        but: An interface that is left out.
    """
    names = [name for _, name in sorted(socket.if_nameindex()) if name != but]
    lines = []
    for name in names:
        lines += [f"{what} show dev {name}" for what in ("qdisc", "class")]
        lines.append(f"chain show dev {name} egress")
        lines += [f"filter show dev {name} {place}" for place in ("egress", "ingress")]
    # One program, whatever there is to ask.
    text = _output(["/sbin/tc", "-d", "-batch", "-"], "\n".join(lines) + "\n")
    for name in names:
        links = syscalls.query(socket.if_nametoindex(name), syscalls.TCX_EGRESS)
        text += f"{name}: {links}\n"
    return text, json.loads(_output([_NFT, "-s", "-j", "list", "ruleset"]))


def without_numbers(ruleset: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """What nft lists, without handles, and in an order of its own."""
    if isinstance(ruleset, dict):
        return {key: without_numbers(part) for key, part in ruleset.items() if key != "handle"}
    if isinstance(ruleset, list):
        return sorted((without_numbers(part) for part in ruleset), key=json.dumps)
    return ruleset


class Scene:
    """A host, its sockets, and lives on it.

    Attributes:
        host: Where it all is.
        sockets: By name; the test's own.
        steps: Of the life that is lived.
    """

    def __init__(self, host: Host, far: Host, folder: Path, variant: str) -> None:
        self.host = host
        self.steps = Steps()
        self.variant = variant
        self._far = [link.seen_from(host)[1].ipv4 for link in host.links]
        self._far_v6 = host.links[0].seen_from(host)[1].ipv6
        self._folder = folder
        with far.enter():
            listener = socket.create_server((self._far[2], 0))
        far.at_close(listener.close)
        with host.enter():
            self.sockets = {
                "many": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                "one": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                "v6": socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
                "tcp": socket.create_connection(listener.getsockname()),
            }
        accepted, _ = listener.accept()
        far.at_close(accepted.close)
        for sock in self.sockets.values():
            host.at_close(sock.close)
        for name in ("many", "one", "v6"):
            self.sockets[name].bind(("", 0))
        self.sockets["one"].connect((self._far[2], 9))
        # What applications want of their own.
        self.sockets["many"].setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x21)
        self.sockets["v6"].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x42)
        self.sockets["one"].setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 3)
        self.sockets["tcp"].setsockopt(socket.SOL_SOCKET, 47, struct.pack("=Q", 1 << 40))
        self._own = self.options()

    def options(self) -> dict[str, object]:
        """Those of all sockets."""
        return {name: options_of(sock) for name, sock in self.sockets.items()}

    def kernel(self) -> tuple[object, ...]:
        """All that there is, as it is."""
        return *self.host.run(shown), self.options()

    # -- what is wanted ------------------------------------------------------------------

    def _plan(self, name: str, *flows: tuple[int, Treatment, list[tuple[str, int]]]) -> SocketPlan:
        sock = self.sockets[name]
        shares = tuple(
            Share(flow, treatment, 1, tuple(endpoint(*end[:2]) for end in ends))
            for flow, treatment, ends in flows
        )
        transport = Transport.TCP if name == "tcp" else Transport.UDP
        return SocketPlan(read_cookie(sock), shares, transport, own_namespace())

    def _plans(self) -> Iterator[SocketPlan | None]:
        """One after the other; None for an interface that comes."""
        voice, low, video = Treatment(56, 6), Treatment(8, 1), Treatment(40, 5)
        first, second, third = ((address, 5004) for address in self._far)
        peer, v6 = self.sockets["tcp"].getpeername(), (self._far_v6, 5004)
        has_own = self.variant != "socket options"

        def many(mine: Treatment, *ends: tuple[str, int]) -> SocketPlan:
            others = [(2, low, [third])] if has_own else []
            return self._plan("many", (1, mine, list(ends)), *others)

        yield many(voice, first)
        yield self._plan("one", (3, voice, [(third[0], 9)]))
        yield self._plan("v6", (4, video, [v6]))
        yield self._plan("tcp", (5, low, [peer]))
        yield many(video, first)
        yield many(video, first, second)
        for rate in (4_000_000, 8_000_000):
            yield self._plan("tcp", (5, Treatment(40, 5, rate), [peer]))
            if self.variant == "BPF and a pool":
                yield self._plan("one", (3, Treatment(56, 6, rate), [(third[0], 9)]))
            elif self.variant in BPF:
                metered = Treatment(56, 6, rate, excess_is_remarked=True)
                yield self._plan("one", (3, metered, [(third[0], 9)]))
        yield None
        yield self._plan("v6")
        yield many(voice, second, first)
        if has_own:
            yield self._plan("many", (1, voice, [second]), (2, video, [third]))

    # -- a life --------------------------------------------------------------------------

    def live(self, fatal: int = 0, variant: str = "") -> Any:  # noqa: ANN401 - what was seen
        """Live, and end before a step or in order; what was held before the end, if it came.

        Args:
            fatal: The step that is not taken any more; 0 for none.
            variant: Another way of enforcement than the scene's.
        """
        self.steps.clear()
        reading, writing = os.pipe()
        with self.host.enter():
            pid = os.fork()
            if pid == 0:
                self.variant = variant or self.variant
                self._child(writing, fatal)
        os.close(writing)
        with open(reading, "rb") as file:
            said = file.read()
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            assert self.steps.count == fatal
            return None
        held, error = pickle.loads(said)  # noqa: S301 - of our own child
        assert error is None, f"{error}; the last step was {self.steps.last}"
        return held

    def _child(self, writing: int, fatal: int) -> None:
        held: Any = None
        error: str | None = None
        try:
            self.steps.watch(fatal)
            held = self._live()
        except BaseException:  # noqa: BLE001 - the test raises it
            error = traceback.format_exc()
        with open(writing, "wb") as file:
            file.write(pickle.dumps((held, error)))
        os._exit(0)

    def _live(self) -> Any:  # noqa: ANN401
        variant = VARIANTS[self.variant]
        sockets = ReachableSockets()
        journal = Journal(self._folder / "marks")
        assert not journal.complaint
        recovered = recover(journal, sockets)
        assert (recovered.failed, recovered.gone, recovered.searched) == (0, 0, 0), recovered
        expect_same(self.options(), self._own, "what a crash has left on sockets")
        options = SocketOptions(sockets, Links(), journal)
        kernel = Kernel(variant.wishes, options, sockets, with_tcx=variant.with_tcx)
        self._introduce(sockets)
        for plan in self._plans():
            if plan is None:
                _come(LATE)
                kernel.chosen.reconcile()
            else:
                applied = kernel.chosen.apply((plan,))
                assert isinstance(applied, Applied), applied
        held = self._held(kernel)
        kernel.close()
        journal.close()
        return held

    def _introduce(self, sockets: ReachableSockets) -> None:
        """As a request does that names a socket."""
        process = Process.of_pid(os.getppid())
        for sock in self.sockets.values():
            lent = LentSocket(os.dup(sock.fileno()), process, sock.fileno())
            sockets.take_in_hand(lent.cookie, lent)
            sockets.put_down()
            os.close(lent.detach())

    def _held(self, kernel: Kernel) -> dict[str, Any]:
        """What the kernel holds, without what it is free to choose."""
        text, ruleset = shown()
        for place, (_, number) in enumerate(self.steps.made):
            text = re.sub(rf"(?<=[\[ ]){number}(?=[\],])", f"ours {place}", text)
        found = {
            "seen": dict(kernel.chosen.observe()),
            "interfaces": _GIVEN.sub("#", text).splitlines(),
            "tables": without_numbers(ruleset),
            "options": self.options(),
            "reasons": [(row.name, row.is_attached, row.queue) for row in kernel.interfaces()],
        }
        plane = kernel.chosen.plane
        if isinstance(plane, DataPlane):
            table: FlowTable = vars(plane)["_table"]
            entries = table.entries()
            found["maps"] = entries.sockets, entries.destinations
            found["treatments"] = table.read_treatments(range(FLOWS + 1))
        return found


def _come(name: str) -> None:
    """An interface comes, unless it is there."""
    if name not in [each for _, each in socket.if_nameindex()]:
        _output(["/sbin/ip", "link", "add", name, "type", "veth", "peer", "name", "late1"])


def expect_same(found: object, wanted: object, where: str = "") -> None:
    """Fail unless they are; the differences are told line by line."""
    if found != wanted:
        was, now = (pprint.pformat(each, width=120).splitlines() for each in (wanted, found))
        lines = difflib.unified_diff(was, now, "wanted", "found", n=1, lineterm="")
        pytest.fail("\n".join([where, *lines]))


def leave(host: Host, name: str) -> None:
    """It goes, if it is there."""
    with contextlib.suppress(subprocess.CalledProcessError):
        host.run(_output, ["/sbin/ip", "link", "del", name])


def is_there(command: int, number: int) -> bool:
    """Is what was made by bpf(2) still in the kernel, whoever holds it?"""
    # BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_LINK_GET_FD_BY_ID.
    asking = {5: 13, 0: 14, 28: 30}[command]
    try:
        fd, _ = vars(syscalls)["_bpf"](asking, struct.pack("=III", number, 0, 0), "looking")
    except FileNotFoundError:
        return False
    os.close(fd)
    return True
