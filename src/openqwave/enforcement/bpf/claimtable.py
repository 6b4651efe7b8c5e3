"""What the kernel's program knows of those who make sockets, and where that leads.

**Banks.** Rules and control groups stand twice. `write` fills the bank that nobody reads, and
`bring_in_force` has the program read that one, by one write of a word: the generation, whose lowest
bit is the bank. The program works out once for a socket and generation where it leads, and keeps
that with the socket; so all open sockets follow with their next packet, and nobody has to look for
them. A generation is never used twice.

**Runs** that sockets are put in one by one have numbers, which are never used twice either. So a
socket of a run that is over leads nowhere.

**Sockets** are written to by a descriptor. What is known of one goes with it, and a connection that
a listener accepts begins with a copy.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final, TypeVar

from openqwave.enforcement.bpf import layout, syscalls
from openqwave.enforcement.bpf.layout import packed_address
from openqwave.enforcement.claims import MOST_RULES
from openqwave.model.endpoint import MAPPED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from openqwave.admission.rules import Network, Ports
    from openqwave.enforcement.claims import Executable, RuleClaim

BANKS: Final = 2
# The kernel's names of executables end with a zero byte.
_NAME_BYTES: Final = 63
_MOST_PORT: Final = 0xFFFF
_ANY_ADDRESS: Final = bytes(16)
_WORD: Final = layout.COOKIE
_DESCRIPTOR_BYTES: Final = 4
_EVERY_BIT: Final = 0xFF
_NO_NAME: Final = bytes(_NAME_BYTES + 1)

_Key = TypeVar("_Key")


class ClaimTable:
    """Writes what is known of those who make sockets."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        """Let nobody lead anywhere.

        Args:
            maps: Descriptors of new maps by name, which remain the caller's.
        """
        self._maps = maps
        self._newest = 0
        self._is_on = False
        self._written: list[list[tuple[str, bytes]]] = [[] for _ in range(BANKS)]
        # One packet in 65,536 of a program that uses this field itself would be taken for seen.
        self._seen = 1 + secrets.randbelow(0xFFFF)
        self._put_generation(0)

    # -- rules and groups --------------------------------------------------------------

    def write(self, rules: Sequence[tuple[RuleClaim, int]], groups: Mapping[int, int]) -> None:
        """Fill the bank that is not read; nothing is in force yet.

        Args:
            rules: At most `MOST_RULES` with their slots, the best first.
            groups: The slots of control groups that are runs, by number.

        Raises:
            OSError: A table is full (E2BIG), or memory is.
        """
        bank = (self._newest + 1) % BANKS
        self._empty(bank)
        masks = _Masks(groups)
        for index, (rule, slot) in enumerate(rules):
            masks.add(index, rule)
            key = layout.SLOT.pack(bank * MOST_RULES + index)
            syscalls.update(self._maps["rules"], key, pack_rule(rule, slot))
        head = layout.BANK.pack(masks.any_user, masks.any_program, masks.any_group, masks.asks)
        syscalls.update(self._maps["banks"], layout.SLOT.pack(bank), head)
        try:
            for name, entries in masks.entries(bank):
                for key, entry in entries:
                    syscalls.update(self._maps[name], key, entry)
                    self._written[bank].append((name, key))
        except OSError:
            self._empty(bank)
            raise

    def bring_in_force(self) -> None:
        """Have the program read what was written last."""
        if not self._is_on:
            self._forget_closed()
        self._put_generation(self._newest + 1)
        self._newest += 1
        self._is_on = True

    def switch_off(self) -> None:
        """Let nobody lead anywhere: the program looks for flows only."""
        self._put_generation(0)
        self._is_on = False
        for bank in range(BANKS):
            self._empty(bank)
        self._forget_closed()

    def _put_generation(self, generation: int) -> None:
        entry = layout.SETTINGS.pack(generation, self._seen)
        syscalls.update(self._maps["settings"], layout.SLOT.pack(0), entry)

    def _empty(self, bank: int) -> None:
        written = self._written[bank]
        while written:
            name, key = written.pop()
            syscalls.delete(self._maps[name], key)

    def _forget_closed(self) -> None:
        """Take away what connections that ended have left: nobody has seen who came after them."""
        fd = self._maps["closings"]
        size = layout.CONNECTION_BYTES
        start: bytes | None = None
        keys: list[bytes] = []
        while True:
            some, _, count, start = syscalls.lookup_batch(
                fd, start, size, layout.CLOSING_BYTES, 1 << 12
            )
            keys += [some[at * size : (at + 1) * size] for at in range(count)]
            if start is None:
                break
        for key in keys:
            syscalls.delete(fd, key)

    # -- sockets one by one --------------------------------------------------------------

    def put_run(self, number: int, slot: int) -> None:
        """Let sockets that are put in a run lead to a slot.

        Raises:
            OSError: The table is full (E2BIG).
        """
        syscalls.update(self._maps["attached"], _WORD.pack(number), layout.SLOT.pack(slot))

    def drop_run(self, number: int) -> None:
        """Let a run's sockets lead nowhere; harmless when it is not there."""
        syscalls.delete(self._maps["attached"], _WORD.pack(number))

    def set_run(self, socket: int, number: int) -> None:
        """Put a socket in a run.

        Args:
            socket: Its descriptor.
            number: The run's.

        Raises:
            OSError: It is no socket, or memory is short.
        """
        owner = self._owner(socket)
        owner[5] = number
        self._put_owner(socket, owner)

    def set_executable(self, socket: int, executable: Executable) -> None:
        """Say which program made a socket; what the kernel has noted itself stays.

        Raises:
            OSError: It is no socket, or memory is short.
        """
        owner = self._owner(socket)
        if owner[7] != _NO_NAME:
            return
        owner[6], owner[7] = executable.inode or 0, packed_name(executable.name)
        self._put_owner(socket, owner)

    def _owner(self, socket: int) -> list[int | bytes]:
        raw = syscalls.lookup(
            self._maps["owners"],
            socket.to_bytes(_DESCRIPTOR_BYTES, "little"),
            layout.OWNER.size,
        )
        return list(layout.OWNER.unpack(raw or bytes(layout.OWNER.size)))

    def _put_owner(self, socket: int, owner: list[int | bytes]) -> None:
        # Where it leads is worked out anew.
        owner[0] = 0
        key = socket.to_bytes(_DESCRIPTOR_BYTES, "little")
        syscalls.update(self._maps["owners"], key, layout.OWNER.pack(*owner))


class _Masks:
    """Which rules may hold for whom, as words of bits."""

    def __init__(self, groups: Mapping[int, int]) -> None:
        self.any_user = self.any_program = self.any_group = 0
        self.asks = layout.GROUPS if groups else 0
        self._users: dict[int, int] = {}
        self._programs: dict[Executable, int] = {}
        self._groups = dict.fromkeys(groups, 0)
        self._slots = groups

    def add(self, index: int, rule: RuleClaim) -> None:
        bit = 1 << index
        if rule.users is None:
            self.any_user |= bit
        else:
            self.asks |= layout.USERS
            _note(self._users, rule.users, bit)
        if rule.programs is None:
            self.any_program |= bit
        else:
            self.asks |= layout.PROGRAMS
            _note(self._programs, rule.programs, bit)
        if rule.groups is None:
            self.any_group |= bit
        else:
            self.asks |= layout.GROUPS
            _note(self._groups, rule.groups, bit)

    def entries(self, bank: int) -> Iterable[tuple[str, Iterable[tuple[bytes, bytes]]]]:
        """What goes into which map."""
        yield (
            "users",
            ((layout.USER.pack(uid, bank), _WORD.pack(mask)) for uid, mask in self._users.items()),
        )
        yield (
            "executables",
            (
                (executable_key(each, bank), _WORD.pack(mask))
                for each, mask in self._programs.items()
            ),
        )
        yield (
            "groups",
            (
                (layout.GROUP.pack(group, bank), layout.PLACE.pack(mask, self._slots.get(group, 0)))
                for group, mask in self._groups.items()
            ),
        )


def _note(masks: dict[_Key, int], keys: Iterable[_Key], bit: int) -> None:
    for key in keys:
        masks[key] = masks.get(key, 0) | bit


# -- how it is written down ------------------------------------------------------------


def packed_name(name: str) -> bytes:
    """The name of an executable as the kernel's program has it; longer ones are cut."""
    return os.fsencode(name)[:_NAME_BYTES]


def executable_key(executable: Executable, bank: int) -> bytes:
    """The key of an executable."""
    return layout.EXECUTABLE.pack(executable.inode or 0, bank, packed_name(executable.name))


def pack_rule(rule: RuleClaim, slot: int) -> bytes:
    """The conditions of a rule on packets, and where it leads."""
    networks = (rule.local, rule.remote)
    protocol = None if rule.protocol is None else rule.protocol.value
    return layout.RULE.pack(
        *(part for network in networks for part in _network(network)),
        *_range(rule.local_ports),
        *_range(rule.remote_ports),
        slot,
        protocol or 0,
        0 if protocol is None else _EVERY_BIT,
        any(network is not None and network.version == 6 for network in networks),
    )


def _network(network: Network | None) -> tuple[bytes, bytes]:
    """A network's address and mask."""
    if network is None:
        return _ANY_ADDRESS, _ANY_ADDRESS
    mask = network.netmask.packed
    if network.version == 4:
        mask = b"\xff" * len(MAPPED_PREFIX) + mask
    return packed_address(network.network_address.packed), mask


def _range(ports: Ports | None) -> tuple[int, int]:
    return (0, _MOST_PORT) if ports is None else (ports.low, ports.high)
