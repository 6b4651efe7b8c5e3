"""The program at the exit of every interface, and nobody else's disturbed.

**Two ways.** Where the kernel has TCX (6.6 and later) the program hangs from a link, which ends
with its descriptor: however this process ends, nothing is left. Else it is a filter on a clsact
qdisc, which stays; the next start finds it by its name (`clean_up_leftovers`).

**Who is first.** The program marks and counts, and leaves the verdict to whoever comes next; others
may end the matter. So it is put before all that is there. By TCX, who goes ahead of it later did
so on purpose and stays there. Among filters it takes the priority before the first one's, at most
`PRIORITY`, so that no usual number is taken away from others; who comes later with a lower number
did not think of us, and the program is moved once more. Nothing of others is touched. Before a
filter of priority 1 there is no place: the program is then behind it, and `notes` says so.

**The name says who made clsact.** A qdisc has no name; ours is told by `NAME_WITH_CLSACT`, and it
goes with our filter, unless something else hangs from it by then.

**When things change.** `reconcile` compares and mends: interfaces that came, a link that somebody
detached, a filter that somebody removed or replaced. Without changes it asks once for the
interfaces and once for each. An interface whose program cannot be attached has its reason, and is
tried again the next time.

**Which program.** Interfaces with an Ethernet header, those where no tag may go (loopback, VLAN
devices), and those whose packets begin with IP. What has another header is left alone, with the
reason.

All calls are made in the network namespace of the service.

Sources: linux/bpf.h (bpf_mprog), tc-bpf(8), linux/if_arp.h.
"""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from os import close
from typing import TYPE_CHECKING, Final, Protocol

from openqwave.enforcement.bpf import syscalls
from openqwave.model.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from openqwave.enforcement.bpf.program import Programs
    from openqwave.model.filters import Exit, Filter

NAME: Final = "openqwave"
NAME_WITH_CLSACT: Final = "openqwave+clsact"
# An odd number: who writes priorities by hand takes 1, 2, 10, 100. Below 32,768: the kernel gives
# those who name none the numbers above, counting down from the lowest that is there.
PRIORITY: Final = 177

# ARPHRD_ numbers (linux/if_arp.h). With an Ethernet header.
_ETHERNET: Final = 1
LOOPBACK: Final = 772
# Devices that put a tag in front themselves.
_TAGGED: Final = frozenset({"vlan"})
# ARPHRD_PPP, RAWIP, TUNNEL, TUNNEL6, SIT, NONE: the packet begins with the IP header.
_RAW: Final = frozenset({512, 519, 768, 769, 776, 65_534})

# struct bpf_link_info up to TCX's own: kind, number, program, interface. struct bpf_prog_info: kind
# and number.
_LINK_INFO: Final = struct.Struct("=III4xI4x")
_PROGRAM_INFO: Final = struct.Struct("=II")
# Somebody else comes between the look and the change; twice is much.
_TRIES: Final = 3


class Filters(Protocol):
    """What is asked of netlink; see `openqwave.drivers.filters`."""

    def exits(self) -> Sequence[Exit]:
        """All interfaces."""

    def holder(self, interface: int) -> str:
        """The kind of qdisc that filters hang from: "clsact", "ingress", or empty."""

    def of_exit(self, interface: int) -> Sequence[Filter]:
        """The filters of an exit, in their order."""

    def put(
        self,
        interface: int,
        program: int,
        name: str,
        priority: int,
        instead: Sequence[Filter] = (),
    ) -> None:
        """Put a program on the clsact qdisc that is there, and remove others, in one step."""

    def add_with_clsact(self, interface: int, program: int, name: str, priority: int) -> None:
        """Put a program and the qdisc; FileExistsError if there is one."""

    def remove(self, interface: int, priority: int, handle: int) -> None:
        """Take one bpf filter away."""

    def remove_with_clsact(self, interface: int, priority: int, handle: int) -> None:
        """The same, and the clsact qdisc if nothing else hangs from it."""


class _CannotAttach(Exception):
    """Why not, as a sentence that says what to do."""


@value
class _Held:
    """A program that hangs from a link.

    Attributes:
        link: The link's descriptor.
        program_id: The kernel's number of the program.
    """

    link: int
    program_id: int


def _is_ours(one: Filter) -> bool:
    return one.kind == "bpf" and one.name.startswith(NAME)


def clean_up_leftovers(filters: Filters) -> None:
    """Remove the filters of ours that a crash has left, and clsact qdiscs that were made for them.

    Nothing needs to be remembered: the filters are told by their names. Harmless when there are
    none.

    Args:
        filters: Of the network namespace that is meant.

    Raises:
        OSError: The kernel refused for one of them; the others are gone nevertheless.
    """
    failed: OSError | None = None
    for each in filters.exits():
        try:
            _remove_ours(filters, each.index)
        except OSError as error:
            failed = error
    if failed is not None:
        raise failed


def _remove_ours(filters: Filters, interface: int) -> None:
    # An ingress qdisc answers for the exit as well: with what stands at the entrance.
    for one in filters.of_exit(interface):
        if _is_ours(one):
            _remove(filters, interface, one)


def _remove(filters: Filters, interface: int, one: Filter) -> None:
    remove = filters.remove_with_clsact if one.name == NAME_WITH_CLSACT else filters.remove
    # It, or the interface, is gone already.
    with suppress(FileNotFoundError):
        try:
            remove(interface, one.priority, one.handle)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EINVAL):
                raise


def has_tcx(interface: int) -> bool:
    """Does the kernel have TCX? Asked at an interface; changes nothing.

    Raises:
        OSError: No right, or no such interface.
    """
    try:
        syscalls.query(interface, syscalls.TCX_EGRESS)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise
    return True


class Attachments:
    """Keeps the program at the exit of every interface of a network namespace.

    Attributes:
        reasons: By interface's name, why the program is not there and what to do, as sentences.
        notes: By interface's name, what is to be known though it is there.
        tagging: The numbers of interfaces where it is, and may put tags.
        exits: All interfaces, as they were at the newest look.
    """

    def __init__(
        self, programs: Programs, filters: Filters, *, with_tcx: bool | None = None
    ) -> None:
        """Attach nothing yet.

        Args:
            programs: What is attached; stays open as long as this is used.
            filters: Of the network namespace in which all calls are made.
            with_tcx: The way: TCX or clsact; None for TCX where the kernel has it.
        """
        self.reasons: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.tagging: frozenset[int] = frozenset()
        self.exits: tuple[Exit, ...] = ()
        self._programs = programs
        self._filters = filters
        self._with_tcx = with_tcx
        self._held: dict[int, _Held] = {}
        self._ids: dict[int, int] = {}

    @property
    def mechanism(self) -> str:
        """The way that was chosen, for people; empty while that is open."""
        if self._with_tcx is None:
            return ""
        return "TCX" if self._with_tcx else "clsact"

    def attach_all(self) -> None:
        """Put the program at the exit of every interface; see `reconcile`."""
        self.reconcile()

    def reconcile(self) -> None:
        """Make it so that the program is where it belongs; cheap when it is.

        Where it cannot be attached `reasons` says why.

        Raises:
            OSError: The kernel could not be asked which interfaces there are.
        """
        exits = self._filters.exits()
        reasons: dict[str, str] = {}
        notes: dict[str, str] = {}
        tagging: set[int] = set()
        for each in exits:
            try:
                note = self._bring(each)
            except _CannotAttach as why:
                reasons[each.name] = str(why)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    reasons[each.name] = _sentence(each.name, error)
            else:
                if note:
                    notes[each.name] = note
                if self._program_for(each) == self._programs.egress:
                    tagging.add(each.index)
        for index in self._held.keys() - {each.index for each in exits}:
            close(self._held.pop(index).link)
        self.reasons, self.notes, self.tagging = reasons, notes, frozenset(tagging)
        self.exits = tuple(exits)

    def close(self) -> None:
        """Take the program away from every interface; harmless when done before.

        Raises:
            OSError: The kernel refused to remove a filter; links are gone all the same.
        """
        while self._held:
            close(self._held.popitem()[1].link)
        if self._with_tcx is False:
            clean_up_leftovers(self._filters)

    def _bring(self, interface: Exit) -> str:
        """Put the program at one exit if it is not there; a note about it, or nothing."""
        program = self._program_for(interface)
        if self._with_tcx is None:
            self._with_tcx = has_tcx(interface.index)
        program_id = self._id_of(program)
        way: Callable[[Exit, int, int], str] = self._link if self._with_tcx else self._hang
        return way(interface, program, program_id)

    def _program_for(self, interface: Exit) -> int:
        if interface.hardware == LOOPBACK or interface.kind in _TAGGED:
            return self._programs.egress_untagged
        if interface.hardware == _ETHERNET:
            return self._programs.egress
        if interface.hardware in _RAW:
            return self._programs.egress_raw
        raise _CannotAttach(
            f"packets of {interface.name} have a link header that the program does not know "
            f"(hardware type {interface.hardware}), so flows are not marked there; where they have "
            'to be, choose backend = "socket-options" under [enforcement]'
        )

    def _id_of(self, program: int) -> int:
        found = self._ids.get(program)
        if found is None:
            _, found = _PROGRAM_INFO.unpack(syscalls.info(program, _PROGRAM_INFO.size))
            self._ids[program] = found
        return found

    # -- TCX ---------------------------------------------------------------------------

    def _link(self, interface: Exit, program: int, program_id: int) -> str:
        held = self._held.get(interface.index)
        if held is None or not _is_in_force(held, interface.index):
            if held is not None:
                close(self._held.pop(interface.index).link)
            link = syscalls.link_create(
                program, interface.index, syscalls.TCX_EGRESS, syscalls.FIRST
            )
            self._held[interface.index] = _Held(link, program_id)
        order = syscalls.query(interface.index, syscalls.TCX_EGRESS)
        if order and order[0] != program_id:
            return (
                f"another TCX program goes ahead of ours on {interface.name}, and may let packets "
                "leave that ours has not seen (bpftool net show); restart the service to be first"
            )
        return ""

    # -- clsact ------------------------------------------------------------------------

    def _hang(self, interface: Exit, program: int, program_id: int) -> str:
        for _ in range(_TRIES):
            present = self._filters.of_exit(interface.index)
            ours = [one for one in present if _is_ours(one)]
            others = [one.priority for one in present if not _is_ours(one) and one.chain == 0]
            first = min(others, default=PRIORITY + 1)
            if len(ours) == 1 and ours[0].program_id == program_id:
                here = ours[0].priority
                if here < first or first == 1:
                    return "" if here < first else _behind(interface.name)
            with suppress(FileExistsError):
                self._move(interface, program, ours, _place(others, first))
        raise _CannotAttach(
            f"the filters of {interface.name} are being changed by somebody else all the time; "
            "find out who does (tc monitor)"
        )

    def _move(self, interface: Exit, program: int, ours: Sequence[Filter], priority: int) -> None:
        """Hang the program there, and nowhere else; FileExistsError if others came between."""
        index = interface.index
        holder = self._filters.holder(index)
        if holder == "ingress":
            raise _CannotAttach(
                f"{interface.name} has an ingress qdisc, which leaves no room for filters of what "
                "leaves; whoever set it up can use clsact instead, which takes the same filters "
                f"(tc qdisc del dev {interface.name} ingress; tc qdisc add dev {interface.name} "
                "clsact)"
            )
        if not holder:
            self._filters.add_with_clsact(index, program, NAME_WITH_CLSACT, priority)
            return
        is_of_us = any(one.name == NAME_WITH_CLSACT for one in ours)
        name = NAME_WITH_CLSACT if is_of_us else NAME
        self._filters.put(index, program, name, priority, ours)


def _place(others: Sequence[int], first: int) -> int:
    """The priority before the first of the others; if there is none, the next that is free."""
    if first > 1:
        return min(first - 1, PRIORITY)
    taken = frozenset(others)
    return next(number for number in range(2, 0xFFFF) if number not in taken)


def _behind(name: str) -> str:
    return (
        f"a filter of priority 1 is asked before our program on {name}, and may let packets leave "
        f"that ours has not seen; give it a higher number (tc filter show dev {name} egress)"
    )


def _is_in_force(held: _Held, interface: int) -> bool:
    """Is the link where it was made, with the program that it was made for?"""
    _, _, program_id, where = _LINK_INFO.unpack(syscalls.info(held.link, _LINK_INFO.size))
    # 0: somebody detached it, or the interface is gone.
    return bool(where == interface and program_id == held.program_id)


# What the kernel's refusals mean here, and what would help.
_HELP: Final[Mapping[int, str]] = {
    errno.EPERM: "CAP_NET_ADMIN and CAP_BPF are needed in this network namespace's first user "
    "namespace; run the service as root, or give it both (AmbientCapabilities= in its unit)",
    errno.EACCES: "CAP_NET_ADMIN is needed; run the service as root, or give it that right "
    "(AmbientCapabilities= in its unit)",
    errno.ENOENT: "the kernel has no clsact qdisc or no cls_bpf filter; load the modules "
    "sch_ingress and cls_bpf, or take Linux 6.6 or later",
    errno.EINVAL: "this kernel does not take it; Linux 6.6 or later does, or 6.1 with the modules "
    "sch_ingress and cls_bpf",
    errno.ERANGE: "as many programs as the kernel allows are there already; remove one "
    "(bpftool net show)",
    errno.ENOMEM: "memory is short; free some, and the service will try again",
}


def _sentence(name: str, error: OSError) -> str:
    text = error.strerror or str(error)
    remedy = _HELP.get(error.errno or 0, "the service will try again when interfaces change")
    return f"the program cannot be attached to {name} ({text}): {remedy}"
