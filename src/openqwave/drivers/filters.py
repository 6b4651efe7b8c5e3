"""Filters at the exits of interfaces, by netlink: clsact qdiscs, and cls_bpf filters on them.

A clsact qdisc is put only where nothing is: the kernel has one place for it, which an ingress
qdisc takes as well, and there filters "of the exit" would see what arrives.

**Steps that belong together leave together.** A clsact qdisc carries no name, so one that was made
for our filter is told by the filter's name alone. Both are therefore sent in one message, and so
are their removals: the kernel has done both before a signal can end this process.

**Only what is ours.** A filter is removed by its priority and its handle, which leaves others of
the same priority. Between the look whether anything else hangs from a clsact qdisc and its removal
somebody could put a filter there; it would go too. The look is the step before, some 50 us.

Layouts: linux/rtnetlink.h, linux/pkt_cls.h, linux/pkt_sched.h, net/sched/{cls_api,sch_ingress}.c.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Final

from openqwave.drivers.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    attribute,
    attributes,
)
from openqwave.drivers.rtnetlink import LINK, RTM_GETLINK, link_question, to_link
from openqwave.model.filters import Exit, Filter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 44, 45, 46

# linux/if_link.h
_IFLA_LINKINFO, _IFLA_INFO_KIND = 18, 1

# struct tcmsg: family, interface, handle, parent, info.
_TC = struct.Struct("=B3xiIII")
_TCA_KIND, _TCA_OPTIONS, _TCA_CHAIN = 1, 2, 11
_U32 = struct.Struct("=I")

# TC_H_CLSACT: the parent of clsact, and its handle; then what filters of the entrance and of the
# exit hang from.
_CLSACT_PARENT, _CLSACT_HANDLE = 0xFFFF_FFF1, 0xFFFF_0000
_ENTRANCE, _EXIT = 0xFFFF_FFF2, 0xFFFF_FFF3
_CLSACT: Final = "clsact"

# TCA_BPF_*: the numbers of cls_bpf's options.
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_FLAGS_GEN, _BPF_ID = 6, 7, 8, 9, 11
# TCA_BPF_FLAG_ACT_DIRECT: what the program returns is what is done.
_ACT_DIRECT = 1
# TCA_CLS_FLAGS_SKIP_HW: not to be handed to the network card, which knows none of our maps.
_SKIP_HARDWARE = 1
# ETH_P_ALL, in network order, in the lower half of a filter's info.
_ALL_PROTOCOLS = socket.htons(3)
# The only one of ours at its priority.
_HANDLE = 1


def _tc(interface: int, handle: int, parent: int, priority: int = 0) -> bytes:
    info = priority << 16 | _ALL_PROTOCOLS if priority else 0
    return _TC.pack(0, interface, handle, parent, info)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _kind(name: str) -> bytes:
    return attribute(_TCA_KIND, name.encode() + b"\0")


def _u32(data: bytes | None) -> int:
    return int(_U32.unpack_from(data)[0]) if data and len(data) >= _U32.size else 0


def _to_filter(body: bytes) -> Filter | None:
    """Read a filter; None for a line that only says that there are some of a priority."""
    _, _, handle, _, info = _TC.unpack_from(body)
    found = attributes(body[_TC.size :])
    kind, chain = _text(found.get(_TCA_KIND, b"")), _u32(found.get(_TCA_CHAIN))
    if handle == 0 and _TCA_OPTIONS not in found:
        return None
    options = attributes(found.get(_TCA_OPTIONS, b"")) if kind == "bpf" else {}
    name, program_id = _text(options.get(_BPF_NAME, b"")), _u32(options.get(_BPF_ID))
    return Filter(kind, info >> 16, handle, chain, name, program_id)


def _to_exit(body: bytes) -> Exit:
    link = to_link(body)
    details = attributes(attributes(body[LINK.size :]).get(_IFLA_LINKINFO, b""))
    kind = _text(details.get(_IFLA_INFO_KIND, b""))
    return Exit(link.index, link.name, link.hardware, kind, link.is_up)


def _clsact(interface: int) -> bytes:
    return _tc(interface, _CLSACT_HANDLE, _CLSACT_PARENT) + _kind(_CLSACT)


def _bpf(interface: int, program: int, name: str, priority: int) -> bytes:
    options = (
        attribute(_BPF_FD, _U32.pack(program))
        + attribute(_BPF_NAME, name.encode() + b"\0")
        + attribute(_BPF_FLAGS, _U32.pack(_ACT_DIRECT))
        + attribute(_BPF_FLAGS_GEN, _U32.pack(_SKIP_HARDWARE))
    )
    return (
        _tc(interface, _HANDLE, _EXIT, priority) + _kind("bpf") + attribute(_TCA_OPTIONS, options)
    )


def _named(interface: int, priority: int, handle: int) -> bytes:
    return _tc(interface, handle, _EXIT, priority) + _kind("bpf")


class Filters:
    """The filters of one network namespace: that of the socket it is given."""

    def __init__(self, netlink: Netlink) -> None:
        """Change nothing yet.

        Args:
            netlink: Who is asked, of NETLINK_ROUTE; stays open as long as this is used.
        """
        self._netlink = netlink

    def exits(self) -> list[Exit]:
        """All interfaces.

        Raises:
            OSError: The kernel could not be asked.
        """
        return [_to_exit(body) for body in self._netlink.dump(RTM_GETLINK, link_question())]

    def holder(self, interface: int) -> str:
        """The kind of qdisc that filters of an interface hang from; empty where there is none.

        Raises:
            OSError: The kernel could not be asked.
        """
        # The kernel lists those of all interfaces whatever is asked.
        for body in self._netlink.dump(_RTM_GETQDISC, _tc(0, 0, 0)):
            _, index, _, parent, _ = _TC.unpack_from(body)
            if index == interface and parent == _CLSACT_PARENT:
                return _text(attributes(body[_TC.size :]).get(_TCA_KIND, b""))
        return ""

    def of_exit(self, interface: int) -> list[Filter]:
        """The filters of an interface's exit, in the order in which they are asked.

        Where the holder is an ingress qdisc, those of its entrance.

        Raises:
            OSError: The kernel could not be asked, or there is no such interface.
        """
        return list(self._listed(interface, _EXIT))

    def _listed(self, interface: int, parent: int) -> Iterator[Filter]:
        for body in self._netlink.dump(_RTM_GETTFILTER, _tc(interface, 0, parent)):
            found = _to_filter(body)
            if found is not None:
                yield found

    def put(
        self,
        interface: int,
        program: int,
        name: str,
        priority: int,
        instead: Sequence[Filter] = (),
    ) -> None:
        """Put a program at an exit that has its clsact qdisc, in one step.

        Args:
            interface: The interface's index.
            program: The program's descriptor.
            name: What the filter is called.
            priority: Its place, 1 to 65,535; none of another kind may have it.
            instead: bpf filters that are removed, whether the new one is refused or not.

        Raises:
            FileExistsError: Another one is at that priority with that handle.
            OSError: Any other refusal of the kernel's.
        """
        new = _bpf(interface, program, name, priority)
        removals = [
            (_RTM_DELTFILTER, _named(interface, one.priority, one.handle), 0) for one in instead
        ]
        *_, refusal = self._netlink.change_together(
            [*removals, (_RTM_NEWTFILTER, new, NLM_F_CREATE | NLM_F_EXCL)]
        )
        if refusal is not None:
            raise refusal

    def add_with_clsact(self, interface: int, program: int, name: str, priority: int) -> None:
        """Put a program at an exit that has no clsact qdisc, and give it one, in one step.

        Args:
            interface: The interface's index.
            program: The program's descriptor.
            name: What the filter is called.
            priority: Its place, 1 to 65,535.

        Raises:
            FileExistsError: A clsact or ingress qdisc has come meanwhile; all is as before.
            OSError: Any other refusal of the kernel's; all is as before.
        """
        new = NLM_F_CREATE | NLM_F_EXCL
        no_clsact, no_filter = self._netlink.change_together(
            [
                (_RTM_NEWQDISC, _clsact(interface), new),
                (_RTM_NEWTFILTER, _bpf(interface, program, name, priority), new),
            ]
        )
        if no_clsact is not None:
            if no_filter is None:
                self.remove(interface, priority, _HANDLE)
            raise no_clsact
        if no_filter is not None:
            self._netlink.change(_RTM_DELQDISC, _clsact(interface))
            raise no_filter

    def remove(self, interface: int, priority: int, handle: int) -> None:
        """Take a bpf filter away from an exit; others of its priority stay.

        Raises:
            FileNotFoundError: There is none.
            OSError: Any other refusal of the kernel's.
        """
        self._netlink.change(_RTM_DELTFILTER, _named(interface, priority, handle))

    def remove_with_clsact(self, interface: int, priority: int, handle: int) -> None:
        """Take a bpf filter away from an exit, and its clsact qdisc if nothing else hangs from it.

        Raises:
            FileNotFoundError: There is no such filter.
            OSError: Any other refusal of the kernel's.
        """
        others = [
            one
            for one in self.of_exit(interface)
            if (one.priority, one.handle) != (priority, handle)
        ]
        others += self._listed(interface, _ENTRANCE)
        if others:
            self.remove(interface, priority, handle)
            return
        body = _named(interface, priority, handle)
        no_filter, no_clsact = self._netlink.change_together(
            [(_RTM_DELTFILTER, body, 0), (_RTM_DELQDISC, _clsact(interface), 0)]
        )
        if no_filter is not None:
            raise no_filter
        if no_clsact is not None and no_clsact.errno not in (errno.ENOENT, errno.EINVAL):
            raise no_clsact
