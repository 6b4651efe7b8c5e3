"""Every refusal of enforcement: it is made to happen, by the lowest calls, and is in the manual.

What the kernel would have to lack, or to forbid, is said by stand-ins of those calls. The manual is
docs/refusals.md; its `…` is any text.
"""

from __future__ import annotations

import ast
import ctypes
import errno
import io
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from openqwave.drivers.sockets import SocketDirectory
from openqwave.enforcement import holds, marks
from openqwave.enforcement import missing as missing_module
from openqwave.enforcement.bpf import btf, creation, elf, layout, program, release, syscalls
from openqwave.enforcement.bpf import rights as rights_module
from openqwave.enforcement.bpf.attachment import Attachments, clean_up_leftovers
from openqwave.enforcement.bpf.backend import DataPlane
from openqwave.enforcement.bpf.creation import Creation, kernel_types
from openqwave.enforcement.bpf.presence import Presence
from openqwave.enforcement.bpf.programs import ClaimedPrograms
from openqwave.enforcement.bpf.table import Sizes
from openqwave.enforcement.choice import Candidate, choose
from openqwave.enforcement.claims import MOST_RULES, Claim, Executable, RuleClaim
from openqwave.enforcement.memory import Memory
from openqwave.enforcement.missing import MechanismMissing
from openqwave.enforcement.nft import backend as nft
from openqwave.enforcement.nft import table
from openqwave.enforcement.nft.netlink import Netfilter
from openqwave.enforcement.shaping.leaves import MOST_LEAVES
from openqwave.enforcement.shaping.shapers import Shapers
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.enforcement.wishes import Wishes
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal, error_of
from openqwave.model.filters import Exit, Filter
from openqwave.model.flow import Transport, Treatment
from openqwave.model.queues import ROOT_PARENT, Hop, Outlet, Queue, hop_to
from openqwave.subsystem.effects import Share, SocketPlan
from tests.unit.loopback import Bench

ENFORCEMENT = Path(missing_module.__file__).parent
MANUAL = Path(__file__).parents[2] / "docs" / "refusals.md"
ANY = "…"

FAR = Endpoint(bytes([192, 0, 2, 1]), 9)
OTHER = Endpoint(bytes([198, 51, 100, 1]), 9)
VOICE, LOW = Treatment(56, 6), Treatment(8, 1)
RATE = Treatment(56, 6, 8_000_000)
METER = Treatment(56, 6, 8_000_000, excess_is_remarked=True)
HERE = 7

Patch = pytest.MonkeyPatch
# Makes one happen; what was said.
Case = Callable[[Patch], object]


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:  # noqa: ANN401
        raise error

    return fail


# -- the manual --------------------------------------------------------------------------


def rows() -> dict[str, set[str]]:
    """What the manual lists of enforcement, and with which exceptions; none for a mechanism."""
    section = MANUAL.read_text(encoding="utf-8").partition("## What enforcement says")[2]
    found = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and not cells[0].startswith(("it says", "---")):
            exceptions = cells[1] if len(cells) == 3 else ""
            found[cells[0]] = set(re.findall(r"`(\w+)`", exceptions))
            assert cells[-1].strip(), f"what to do about {cells[0]!r}?"
    return found


ROWS = rows()


def is_of(row: str, said: str) -> bool:
    return re.fullmatch(re.escape(row).replace(re.escape(ANY), ".+"), said, re.DOTALL) is not None


def row_of(said: str) -> str:
    """The row that says it; of several, the one that says most."""
    found = [row for row in ROWS if is_of(row, said)]
    assert found, f"not in docs/refusals.md: {said}"
    return max(found, key=len)


# -- mechanisms --------------------------------------------------------------------------


def with_rights(patch: Patch, rights: int) -> None:
    status = f"CapInh:\t0\nCapEff:\t{rights:016x}\n"
    patch.setattr(rights_module, "open", lambda *_, **__: io.StringIO(status), raising=False)


def bpf_says(number: int, *, maps: bool = False, log: bytes = b"", rights: int = -1) -> Case:
    """What is said where bpf(2) fails, for maps or for programs."""

    def happen(patch: Patch) -> object:
        with_rights(patch, rights & (1 << 41) - 1)

        def call(_: int, command: int, attributes: Any, *__: object) -> int:  # noqa: ANN401
            # Maps, and what describes their types.
            if command in (0, 18) and maps:
                return os.open("/dev/null", os.O_RDONLY)
            if log and int.from_bytes(attributes[24:28], "little"):
                at = int.from_bytes(attributes[32:40], "little")
                ctypes.memmove(at, log, len(log))
            ctypes.set_errno(number)
            return -1

        patch.setattr(syscalls, "_syscall", call)
        return loading()(patch)

    return happen


def loading(*changes: tuple[Any, str, Any]) -> Case:
    def happen(patch: Patch) -> object:
        for where, name, what in changes:
            patch.setattr(where, name, what)
        with pytest.raises(MechanismMissing) as caught:
            program.EgressProgram.load(Sizes(8, 8, 8, 8, 8))
        return caught.value

    return happen


class NoFilters:
    """Interfaces, and what their exits have."""

    def __init__(self, *exits: Exit, holder: str = "", filters: Sequence[Filter] = ()) -> None:
        self._exits, self._holder, self._filters = exits, holder, filters
        self.refusal: OSError | None = None

    def exits(self) -> Sequence[Exit]:
        return self._exits

    def holder(self, interface: int) -> str:
        del interface
        return self._holder

    def of_exit(self, interface: int) -> Sequence[Filter]:
        del interface
        return self._filters

    def put(self, *_: object) -> None:
        if self.refusal is not None:
            raise self.refusal

    add_with_clsact = put

    def remove(self, *_: object) -> None:
        pass

    remove_with_clsact = remove


class NoProgram:
    """What is attached, without being there."""

    programs, table, claims, owners = program.Programs(-1, -1, -1, -1), None, None, -1

    def close(self) -> None:
        pass


ETHERNET = Exit(2, "eth0", 1)


def attaching(
    filters: NoFilters | None = None, *, number: int = 0, with_tcx: bool = True, order: int = 1
) -> Case:
    """What is said of an interface where attaching fails."""

    def happen(patch: Patch) -> object:
        link = failing(os_error(number)) if number else lambda *_: os.open("/", os.O_RDONLY)
        patch.setattr(syscalls, "link_create", link)
        patch.setattr(syscalls, "info", lambda *_: bytes(4) + (1).to_bytes(4, "little"))
        patch.setattr(syscalls, "query", lambda *_: [order])
        found = filters or NoFilters(ETHERNET)
        ours = Attachments(NoProgram.programs, found, with_tcx=with_tcx)
        ours.reconcile()
        (said,) = (ours.reasons | ours.notes).values()
        if with_tcx:
            ours.close()
        return said

    return happen


def presence(filters: NoFilters) -> Case:
    def happen(patch: Patch) -> object:
        patch.setattr(program.EgressProgram, "load", lambda _: NoProgram())
        with pytest.raises(MechanismMissing) as caught:
            Presence.begin(filters, Memory(), Sizes())  # type: ignore[arg-type]
        return caught.value

    return happen


def unlisted(_: Patch) -> object:
    filters = NoFilters()
    filters.exits = failing(os_error(errno.ENOBUFS))  # type: ignore[method-assign]
    return presence(filters)(_)


def crowded() -> NoFilters:
    filters = NoFilters(ETHERNET, holder="clsact")
    filters.refusal = os_error(errno.EEXIST)
    return filters


def listening(mounts: str, number: int = 0, rights: int = -1) -> Case:
    def happen(patch: Patch) -> object:
        with_rights(patch, rights & (1 << 41) - 1)
        if number:
            patch.setattr(syscalls, "link_create", failing(os_error(number)))
        with pytest.raises(MechanismMissing) as caught:
            release.attach(-1, mounts)
        return caught.value

    return happen


def mounted(where: str) -> str:
    return f"30 1 0:26 / {where} rw - cgroup2 cgroup2 rw"


def without_namespaces(_: Patch) -> object:
    candidate = Candidate("bpf", Memory, frozenset())
    with pytest.raises(MechanismMissing) as caught:
        choose(Wishes("bpf"), Memory(), [candidate], namespace=0)
    return caught.value


class NoNft:
    """The library, which does nothing."""

    def close(self) -> None:
        pass


def tables(number: int) -> Case:
    """What is said where the kernel's tables cannot be had."""

    def happen(patch: Patch) -> object:
        patch.setattr(nft, "Nft", NoNft)
        patch.setattr(nft, "Netfilter", failing(os_error(number)))
        with pytest.raises(MechanismMissing) as caught:
            nft.NftMarks(SocketDirectory())
        return caught.value

    return happen


def without_library(patch: Patch) -> object:
    patch.setattr(ctypes, "CDLL", failing(OSError("no such file")))
    with pytest.raises(MechanismMissing) as caught:
        nft.NftMarks(SocketDirectory())
    return caught.value


# -- flows -------------------------------------------------------------------------------


class NoTable:
    """The program's tables, which refuse."""

    def __init__(self, number: int) -> None:
        self.new_slot = failing(os_error(number))


class NoLife:
    """What keeps the program where it is."""

    def close(self) -> None:
        pass

    clean_up = close


def a_plan(*shares: Share, cookie: int = 1, namespace: int = HERE) -> tuple[SocketPlan, ...]:
    return (SocketPlan(cookie, shares, Transport.UDP, namespace),)


def a_share(treatment: Treatment, flow: int = 1, *, to: Endpoint = FAR, sockets: int = 1) -> Share:
    return Share(flow, treatment, sockets, (to,))


def plane(number: int) -> Case:
    def happen(_: Patch) -> object:
        ours = DataPlane(NoTable(number), NoLife(), NoLife())  # type: ignore[arg-type]
        if not number:
            ours.clean_up()
        return ours.apply(a_plan(a_share(VOICE)))

    return happen


class NoClaims:
    """What leads from those who make sockets, and where packets leave: nothing does."""

    table = claims = NoLife()

    def __init__(self, types: Callable[[], bytes] = bytes) -> None:
        self.creation = Creation(-1, types)

    def outlets(self) -> tuple[int, ...]:
        return ()


NAMING = RuleClaim(Claim(1, VOICE), programs=frozenset({Executable("curl")}))


def claiming(count: int = 1, error: int = 0) -> Case:
    """What is said to rules."""

    def happen(_: Patch) -> object:
        parts = NoClaims()
        if error:
            parts.table = NoTable(error)  # type: ignore[assignment]
        ours = ClaimedPrograms(parts, NoLife())  # type: ignore[arg-type]
        return ours.carry_out([RuleClaim(Claim(1, VOICE))] * count, [])

    return happen


def naming(
    types: Callable[[], bytes] | None = None,
    *changes: tuple[Any, str, Any],
    rights: int = -1,
) -> Case:
    """What is said to a rule that names a program."""

    def happen(patch: Patch) -> object:
        with_rights(patch, rights & (1 << 41) - 1)
        found = dict.fromkeys([field for way in creation.PLACES for field in way], 8)
        patch.setattr(btf, "offsets", btf.offsets if types else always(found))
        for where, name, what in changes:
            patch.setattr(where, name, what)
        ours = ClaimedPrograms(NoClaims(types or bytes), NoLife())  # type: ignore[arg-type]
        return ours.carry_out([NAMING], [])

    return happen


class Ways:
    """Routes and interfaces."""

    def __init__(self, *towards: int | OSError, is_gone: bool = False) -> None:
        self._towards, self._is_gone = towards or (2,), is_gone
        self.error: OSError | None = None

    def towards(self, hops: Sequence[Hop]) -> Sequence[int | OSError]:
        if self.error is not None:
            raise self.error
        return self._towards[: len(hops)]

    def outlet(self, interface: int) -> Outlet | None:
        return None if self._is_gone else Outlet(interface, f"eth{interface}", 1_500, 14)

    def have_changed(self) -> bool:
        return False


class Queues:
    """Queues of a kind on all interfaces; installing and classes may be refused."""

    def __init__(
        self, kind: str, handle: int = 0, *, fq: int = 0, htb: int = 0, leaf: int = 0
    ) -> None:
        self._queues = [Queue(number, kind, handle, ROOT_PARENT) for number in (2, 3)]
        self.install_fq = failing(os_error(fq)) if fq else self._install
        self.install_htb = failing(os_error(htb)) if htb else self._install
        self.put_class = failing(os_error(leaf)) if leaf else self.put_segmenter

    def _install(self, interface: int, handle: int, *_: int, **__: int) -> None:
        self._queues[interface - 2] = Queue(interface, "htb", handle, ROOT_PARENT)

    def queues(self, interface: int = 0) -> Sequence[Queue]:
        return [queue for queue in self._queues if interface in (0, queue.interface)]

    def put_segmenter(self, *_: int) -> None:
        pass

    def leaves(self, *_: int) -> Sequence[Any]:
        return ()


def shaping(
    queues: Queues,
    ways: Ways | None = None,
    *,
    rate_bps: int = 8_000_000,
    to: Sequence[Endpoint] = (FAR,),
    flows: int = 1,
    may: frozenset[str] | None = None,
) -> Case:
    def happen(_: Patch) -> object:
        ours = Shapers(queues, ways or Ways(), may)  # type: ignore[arg-type]
        outcome: object = None
        for flow in range(flows):
            outcome = ours.grant(flow, rate_bps, [hop_to(end) for end in to])
        return outcome

    return happen


def lost_ways(number: int) -> Ways:
    ways = Ways()
    ways.error = os_error(number)
    return ways


POOL = {"fq": errno.ENOENT}


class NoOwnTable:
    """A table of nftables, which may refuse."""

    error: Exception | None = None

    def __init__(self, kernel: object, _: object) -> None:
        self.kernel = kernel

    def choice_of(self, dscp: int | None, _: int) -> int:
        return 1 + (dscp or 0)

    def prepare(self, *_: object) -> None:
        if self.error is not None:
            raise self.error

    def change(self, _: object) -> None:
        pass

    def counts(self) -> dict[object, object]:
        return {}

    def close(self) -> None:
        pass


class NoKernel:
    """A kernel with nftables."""

    def generation(self) -> int:
        return 1


def marking(
    *plans: SocketPlan, error: Exception | None = None, port: bool = True, lost: int = 0
) -> Case:
    """What nftables marks say to plans, of sockets with cookies 1 and 2."""

    def happen(patch: Patch) -> object:
        patch.setattr(nft, "Nft", NoNft)
        patch.setattr(nft, "Netfilter", NoKernel)
        patch.setattr(nft, "ClosedSockets", NoNft)
        patch.setattr(nft, "OwnTable", NoOwnTable)
        patch.setattr(NoOwnTable, "error", error)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            if port:
                sock.bind(("", 0))
            known = SocketDirectory()
            patch.setattr(known, "borrow", failing(os_error(lost)) if lost else lambda _: sock)
            ours = nft.NftMarks(known, HERE)
            outcome: object = None
            for one in plans or a_plan(a_share(VOICE)):
                outcome = ours.apply((one,))
        return outcome

    return happen


def too_much(patch: Patch) -> object:
    """More than a netlink socket takes at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        kernel = Netfilter.__new__(Netfilter)
        patch.setattr(kernel, "_socket", Sending(sock), raising=False)
        with pytest.raises(OSError, match="wmem_max") as caught:
            vars(Netfilter)["_send"](kernel, b"")
    return marking(error=caught.value)(patch)


class Sending:
    """A socket to which nothing can be sent."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def recv(self, size: int, flags: int) -> bytes:
        return self._socket.recv(size, flags)

    def sendto(self, *_: object) -> None:
        raise os_error(errno.EMSGSIZE)


class Paths:
    """What lies on the way out."""

    def __init__(self, *, is_fq: bool = True, version: tuple[int, int] = (6, 7)) -> None:
        self._is_fq, self._version = is_fq, version

    def is_paced(self, *_: object) -> bool:
        return self._is_fq

    def linux_version(self) -> tuple[int, int]:
        return self._version


def options(
    *plans: tuple[Share, ...],
    kind: str = "udp4 connected",
    paths: Paths | None = None,
    change: tuple[Any, str, Any] | None = None,
    lost: int = 0,
) -> Case:
    def happen(patch: Patch) -> object:
        bench = Bench()
        try:
            sock, known = bench.make(kind), SocketDirectory()
            if change is not None:
                patch.setattr(*change)
            patch.setattr(known, "borrow", failing(os_error(lost)) if lost else lambda _: sock)
            ours = SocketOptions(known, paths or Paths())
            outcome: object = None
            for shares in plans:
                outcome = ours.apply(a_plan(*shares))
        finally:
            bench.close()
        return outcome

    return happen


def always(value: Any) -> Callable[..., Any]:  # noqa: ANN401
    """Reads what nobody wrote."""
    return lambda *_, **__: value


CASES: dict[str, Case] = {
    # Mechanisms.
    "no right": bpf_says(errno.EPERM, rights=0),
    "forbidden with all rights": bpf_says(errno.EPERM),
    "no BPF": bpf_says(errno.ENOSYS),
    "no memory": bpf_says(errno.ENOMEM),
    "an old kernel's maps": bpf_says(errno.EINVAL),
    "an old kernel's verifier": bpf_says(errno.EACCES, maps=True, log=b"line 1\nunknown func 11\n"),
    "big endian": loading((sys, "byteorder", "big")),
    "a broken object": loading((elf, "read", failing(elf.BrokenObject("no ELF file")))),
    "another version": loading((layout, "LAYOUT", ())),
    "no names of namespaces": without_namespaces,
    "interfaces not listed": unlisted,
    "no library": without_library,
    "no right to tables": tables(errno.EPERM),
    "no nftables": tables(errno.EPROTONOSUPPORT),
    "tables fail": tables(errno.EIO),
    # Closed sockets.
    "no cgroup": listening(""),
    "cgroup closed": listening(mounted("/nowhere")),
    "cgroup taken": listening(mounted("/"), errno.EPERM),
    "no cgroup programs": listening(mounted("/"), errno.EINVAL),
    "cgroup fails": listening(mounted("/"), errno.ENOMEM),
    # Interfaces.
    **{
        f"attaching: {errno.errorcode[number]}": attaching(number=number)
        for number in (
            errno.EPERM,
            errno.EACCES,
            errno.ENOENT,
            errno.EINVAL,
            errno.ERANGE,
            errno.ENOMEM,
            errno.EIO,
        )
    },
    "attached nowhere": presence(NoFilters(Exit(3, "can0", 280))),
    "an unknown header": attaching(NoFilters(Exit(3, "can0", 280))),
    "filters in motion": attaching(crowded(), with_tcx=False),
    "an ingress qdisc": attaching(NoFilters(ETHERNET, holder="ingress"), with_tcx=False),
    "behind a filter": attaching(
        NoFilters(
            ETHERNET,
            holder="clsact",
            filters=[Filter("u32", 1, 1), Filter("bpf", 2, 1, 0, "openqwave", 1)],
        ),
        with_tcx=False,
    ),
    "behind a program": attaching(order=9),
    # Flows: the program.
    "tables full": plane(errno.ENOSPC),
    "a map full": plane(errno.E2BIG),
    "writing fails": plane(errno.EIO),
    "writing forbidden": plane(errno.EPERM),
    "taken away": plane(0),
    # Programs that ask for nothing.
    "too many rules": claiming(MOST_RULES + 1),
    "tables of users full": claiming(error=errno.E2BIG),
    "no right to look": naming(rights=~(1 << 38 | 1 << 21)),
    "no types": naming(kernel_types, (creation, "_TYPES", "/nowhere")),
    "other types": naming(lambda: bytes(64)),
    "broken, too": naming(None, (elf, "read", failing(elf.BrokenObject("no ELF file")))),
    "another version, too": naming(None, (layout, "CREATED_LAYOUT", ())),
    "not verified": naming(None, (syscalls, "map_create", failing(os_error(errno.EINVAL)))),
    # Rates.
    "a foreign root": shaping(Queues("pfifo", 0x70_0000)),
    "not allowed": shaping(Queues("noqueue"), may=frozenset()),
    "no queue that shapes": shaping(Queues("noqueue", fq=errno.ENOENT, htb=errno.ENOENT)),
    "no leaf's queue": shaping(Queues("noqueue", **POOL, leaf=errno.ENOENT)),
    "no right to queues": shaping(Queues("noqueue", fq=errno.EPERM)),
    "installing fails": shaping(Queues("noqueue", fq=errno.EIO)),
    "no memory for a queue": shaping(Queues("noqueue", fq=errno.ENOMEM)),
    "no destination": shaping(Queues("noqueue"), to=()),
    "routes fail": shaping(Queues("noqueue"), lost_ways(errno.EIO)),
    "no memory for routes": shaping(Queues("noqueue"), lost_ways(errno.ENOBUFS)),
    "no route": shaping(Queues("noqueue"), Ways(os_error(errno.ENETUNREACH))),
    "a class fails": shaping(Queues("noqueue", **POOL, leaf=errno.EIO)),
    "a class forbidden": shaping(Queues("noqueue", **POOL, leaf=errno.EPERM)),
    "interface gone": shaping(Queues("noqueue"), Ways(is_gone=True)),
    "two ways": shaping(Queues("noqueue", **POOL), Ways(2, 3), to=(FAR, OTHER)),
    "too slow": shaping(Queues("noqueue", **POOL), rate_bps=1),
    "pool full": shaping(Queues("noqueue", **POOL), flows=MOST_LEAVES + 1),
    # nftables.
    "a foreign table": marking(error=table.ForeignTable()),
    "no meter": marking(*a_plan(a_share(METER))),
    "no shaping of UDP": marking(*a_plan(a_share(RATE))),
    "no port": marking(port=False),
    "two of a port": marking(*a_plan(a_share(VOICE)), *a_plan(a_share(LOW, 2), cookie=2)),
    "two flows of a destination": marking(*a_plan(a_share(VOICE), a_share(LOW, 2))),
    "another namespace": marking(*a_plan(a_share(VOICE), namespace=HERE + 1)),
    "changing fails": marking(error=os_error(errno.EIO)),
    "changing forbidden": marking(error=os_error(errno.EPERM)),
    "too much at once": too_much,
    "a socket's name fails": marking(lost=errno.EIO),
    "a socket's name forbidden": marking(lost=errno.EPERM),
    "no descriptor for a name": marking(lost=errno.EMFILE),
    # Options.
    "two marks": options((a_share(VOICE), a_share(LOW, 2))),
    "re-marking": options((a_share(METER),)),
    "a shared rate": options((a_share(RATE, sockets=2),)),
    "options fail": options((a_share(VOICE),), lost=errno.EIO),
    "options forbidden": options((a_share(VOICE),), lost=errno.EPERM),
    "no descriptor for options": options((a_share(VOICE),), lost=errno.EMFILE),
    "no fq": options((a_share(RATE),), paths=Paths(is_fq=False)),
    "before Linux 6.7": options((a_share(RATE),), paths=Paths(version=(6, 6))),
    "not connected": options((a_share(RATE),), kind="udp4"),
    "several destinations": options((Share(1, RATE, 1, (FAR, OTHER)),)),
    "a higher rate": options((a_share(Treatment(56, 6, 1_000_000)),), (a_share(RATE),)),
    "marks not kept": options(
        (a_share(VOICE),), change=(marks, "read_options", always((4, None, 0)))
    ),
    "pacing not kept": options((a_share(RATE),), change=(holds, "read_pacing", always(1 << 40))),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_said_as_the_manual_has_it(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    with monkeypatch.context() as patch:
        outcome = CASES[case](patch)
    if isinstance(outcome, Refusal):
        row = row_of(outcome.detail)
        assert type(error_of(outcome)).__name__ in ROWS[row]
    else:
        assert not ROWS[row_of(str(outcome))]


def test_all_that_the_manual_lists_happens() -> None:
    happened: dict[str, set[str]] = {row: set() for row in ROWS}
    for case in CASES.values():
        with pytest.MonkeyPatch.context() as patch:
            outcome = case(patch)
        if isinstance(outcome, Refusal):
            happened[row_of(outcome.detail)].add(type(error_of(outcome)).__name__)
        else:
            happened[row_of(str(outcome))].add("")
    assert {row: names - {""} for row, names in happened.items()} == ROWS
    assert all(happened.values())


# -- the end ------------------------------------------------------------------------------


class Kept(NoFilters):
    """Filters of ours at all exits, one of which stays."""

    def __init__(self) -> None:
        ours = Filter("bpf", 177, 1, 0, "openqwave", 1)
        super().__init__(Exit(1, "lo", 772), ETHERNET, filters=[ours])
        self.gone: list[object] = []

    def remove(self, *which: object) -> None:
        if which[0] == 1:
            raise os_error(errno.ENOMEM)
        self.gone += [which[0]]


def test_what_can_be_taken_away_is() -> None:
    filters = Kept()
    with pytest.raises(OSError, match="memory"):
        clean_up_leftovers(filters)
    assert filters.gone == [2]


def test_queues_are_taken_away_though_a_filter_stays() -> None:
    life, rates, gone = NoLife(), NoLife(), []
    life.close = failing(os_error(errno.ENOMEM))  # type: ignore[method-assign]
    rates.clean_up = lambda: gone.append("queues")  # type: ignore[method-assign]
    with pytest.raises(OSError, match="memory"):
        DataPlane(NoTable(0), life, rates).clean_up()  # type: ignore[arg-type]
    assert gone == ["queues"]


# -- what the sources say ----------------------------------------------------------------

# Calls whose last argument is said, and functions whose result is, or part of it.
SAYING = {"Refusal", "MechanismMissing", "PacingRefused", "NotKept", "_CannotAttach"}
WORDING = {"_why", "_words", "missing_right", "_refusal", "_behind", "_sentence", "_refusal_of"}


def text_of(node: ast.AST, constants: dict[str, ast.expr]) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=values):
            return "".join(text_of(part, constants) for part in values)
        case ast.Name(id=name) if name in constants:
            return text_of(constants[name], constants)
    return ANY


def said_in(path: Path) -> Iterator[str]:
    """The sentences that a module can say, with `…` for what they are told."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        node.target.id: node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
    }
    if "_HELP" in constants:
        help_table = constants["_HELP"]
        assert isinstance(help_table, ast.Dict)
        yield from (text_of(value, constants) for value in help_table.values)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[*_, last]) if name in SAYING:
                yield text_of(last, constants)
            case ast.Call(func=ast.Name(id="refusal_of_os_error"), args=[_, doing]):
                yield text_of(doing, constants)
            case ast.FunctionDef(name=name) if name in WORDING:
                for part in ast.walk(node):
                    if isinstance(part, ast.Return) and part.value is not None:
                        yield text_of(part.value, constants)


def squeezed(text: str) -> str:
    """With one `…` for several in a row, and without those at the ends."""
    return re.sub(f"{ANY}(?:[\\s;:,]*{ANY})*", ANY, text).strip(f"{ANY}:;, ")


def test_the_manual_has_all_that_the_sources_say() -> None:
    said = {
        squeezed(text) for path in sorted(ENFORCEMENT.rglob("*.py")) for text in said_in(path)
    } - {""}
    assert len(said) > 50
    parts = [f"{ANY}{row}{ANY}" for row in ROWS] + [f"{ANY}and undoing it failed: {ANY}"]
    unknown = {text for text in said if not any(is_of(f"{ANY}{text}{ANY}", part) for part in parts)}
    assert not unknown
