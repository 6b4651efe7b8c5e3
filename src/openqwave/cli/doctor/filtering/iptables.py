"""The rules of iptables, as `iptables-save` prints them (iptables-save(8)).

Only those of the older kind (legacy) have to be read so; the newer one keeps its rules in nftables.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.filtering.walk import Act, Base, Packet, Step, Truth, both, fate_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openqwave.cli.doctor.filtering.walk import Fate

# Where packets to this host pass, in this order: chain and table.
_BASES: Final = (
    ("raw", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("mangle", "INPUT"),
    ("filter", "INPUT"),
)
_ACTS: Final = {
    "ACCEPT": Act.ACCEPT,
    "DROP": Act.DROP,
    "REJECT": Act.DROP,
    "RETURN": Act.RETURN,
    "NFQUEUE": Act.ACCEPT,
}
_MARKS: Final = frozenset({"DSCP", "TOS", "CLASSIFY"})
# Targets that only look on, or change what is not of interest.
_IDLE: Final = frozenset(
    {"LOG", "NFLOG", "MARK", "CONNMARK", "CT", "NOTRACK", "ULOG", "ECN", "TTL"}
)
# What only names a module, or says nothing of a packet.
_SILENT: Final = frozenset({"-m", "--match", "--comment", "-c"})
_NUMBERS: Final = {"tcp": "6", "udp": "17"}
# Options of a target stand behind it, and are no conditions.
_TARGET: Final = frozenset({"-j", "-g"})


class SavedRules:
    """The tables of one IP version."""

    def __init__(self, text: str, version: int) -> None:
        """Read them.

        Args:
            text: What the program printed.
            version: 4 or 6.
        """
        self._version = version
        self._policies: dict[tuple[str, str], bool] = {}
        self._rules: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
        table = ""
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:].strip()
            elif line.startswith(":"):
                name, policy = line[1:].split()[:2]
                self._policies[table, name] = policy == "DROP"
            elif line.startswith("-A "):
                _, name, *words = _split(line)
                self._rules[table, name].append(words)

    def fate_of(self, packet: Packet) -> Fate:
        """What becomes of a packet that arrives."""
        chains = {
            "/".join(key): list(self._steps(key, rules, packet))
            for key, rules in self._rules.items()
        }
        bases = [
            Base("/".join(key), _place_of(key, self._version), self._policies[key])
            for key in _BASES
            if key in self._policies
        ]
        return fate_of(bases, chains)

    def marking_rules(self) -> list[str]:
        """Rules that write marks, in words."""
        return [
            f"target {target} in {_place_of(key, self._version)}"
            for key, rules in self._rules.items()
            for words in rules
            if (target := _after(words, "-j")) in _MARKS
        ]

    def _steps(
        self, key: tuple[str, str], rules: Sequence[list[str]], packet: Packet
    ) -> Iterator[Step]:
        place = _place_of(key, self._version)
        for words in rules:
            truth = _matches(words, packet)
            target, sent = _after(words, "-j"), _after(words, "-g")
            if sent:
                yield Step(truth, Act.GOTO, f"{key[0]}/{sent}")
            elif target in _ACTS:
                yield Step(truth, _ACTS[target], words=f"{target} in {place}")
            elif target and target not in _IDLE | _MARKS:
                yield Step(truth, Act.JUMP, f"{key[0]}/{target}")


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        # A comment with a quote of its own.
        return line.split()


def _place_of(key: tuple[str, str], version: int) -> str:
    return f"{'iptables' if version == 4 else 'ip6tables'} -t {key[0]}, chain {key[1]}"


def _after(words: Sequence[str], option: str) -> str:
    return words[words.index(option) + 1] if option in words[:-1] else ""


def _matches(words: Sequence[str], packet: Packet) -> Truth:
    """Whether all conditions of a rule hold, as far as they are understood."""
    truth, at, is_negated = Truth.YES, 0, False
    while at < len(words) and words[at] not in _TARGET:
        word = words[at]
        if word == "!":
            is_negated, at = True, at + 1
            continue
        argument = words[at + 1] if at + 1 < len(words) else ""
        has_argument = not argument.startswith("-") and argument != "!"
        if word not in _SILENT:
            found = _condition(word, argument, packet)
            if is_negated:
                found = {Truth.YES: Truth.NO, Truth.NO: Truth.YES}.get(found, found)
            truth = both(truth, found)
        is_negated = False
        at += 2 if has_argument else 1
    return truth


def _condition(word: str, argument: str, packet: Packet) -> Truth:
    match word:
        case "-p" | "--protocol":
            names = {packet.protocol, _NUMBERS[packet.protocol], "all", "0"}
            return _truth(argument in names)
        case "--dport" | "--dports" | "--destination-port" | "--destination-ports":
            return _truth(any(_holds(each, packet.port) for each in argument.split(",")))
        case "-i" | "--in-interface":
            name = packet.interface
            return _truth(
                name.startswith(argument[:-1]) if argument.endswith("+") else name == argument
            )
        case "--state" | "--ctstate":
            return _truth("NEW" in argument.split(","))
        case _:
            return Truth.MAYBE


def _truth(holds: bool) -> Truth:
    return Truth.YES if holds else Truth.NO


def _holds(ports: str, port: int) -> bool:
    low, _, high = ports.partition(":")
    try:
        return int(low or 0) <= port <= int(high or (low if ":" not in ports else 65_535))
    except ValueError:
        return False
