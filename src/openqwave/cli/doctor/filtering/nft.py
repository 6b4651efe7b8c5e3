"""The rules of nftables, as libnftables lists them in JSON (libnftables-json(5)).

Understood is what firewalls say of ports: protocols, ports, interfaces, states of connections and
verdicts, alone, in sets and in verdict maps. Anything else may match or not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from openqwave.cli.doctor.filtering.walk import Act, Base, Packet, Step, Truth, both, fate_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openqwave.cli.doctor.filtering.walk import Fate

_Object: TypeAlias = "dict[str, Any]"

# Where packets to this host pass, in this order.
_HOOKS: Final = ("ingress", "prerouting", "input")
_FAMILIES: Final = {4: ("ip", "inet", "netdev"), 6: ("ip6", "inet", "netdev")}
_ACTS: Final = {
    "accept": Act.ACCEPT,
    "drop": Act.DROP,
    "reject": Act.DROP,
    "return": Act.RETURN,
    # What is sent elsewhere on this host is not dropped by that.
    "redirect": Act.ACCEPT,
    "dnat": Act.ACCEPT,
    "queue": Act.ACCEPT,
}
# What only looks on.
_IDLE: Final = frozenset({"counter", "log", "comment", "mangle", "notrack", "ct helper", "meter"})
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "ipv6-icmp": 58}
_OURS: Final = ("inet", "openqwave")
# Fields of a packet that others' rules write when they do QoS.
_MARKS: Final = frozenset({"dscp", "ecn", "pcp"})
# Rules of iptables that nftables only carries (iptables-nft).
_FOREIGN_MARKS: Final = ("DSCP", "TOS", "CLASSIFY")


class Ruleset:
    """All tables of a network namespace."""

    def __init__(self, text: str) -> None:
        """Read them.

        Args:
            text: What `nft -j list ruleset` prints.

        Raises:
            ValueError: It is no such list.
        """
        self._chains: list[_Object] = []
        self._rules: dict[tuple[str, str, str], list[_Object]] = defaultdict(list)
        self._sets: dict[tuple[str, str, str], Any] = {}
        for each in json.loads(text)["nftables"]:
            for kind, found in each.items():
                if kind == "chain":
                    self._chains.append(found)
                elif kind == "rule":
                    key = found["family"], found["table"], found["chain"]
                    self._rules[key].append(found)
                elif kind in ("set", "map"):
                    key = found["family"], found["table"], found["name"]
                    self._sets[key] = found.get("elem")

    def fate_of(self, packet: Packet) -> Fate:
        """What becomes of a packet that arrives."""
        chains = {
            "/".join(key): list(self._steps(rules, packet))
            for key, rules in self._rules.items()
            if key[0] in _FAMILIES[packet.version]
        }
        return fate_of(self._bases(packet), chains)

    def marking_rules(self) -> list[str]:
        """Rules of others that write marks, in words."""
        found = []
        for (family, table, chain), rules in self._rules.items():
            if (family, table) == _OURS:
                continue
            for rule in rules:
                words = _written(rule.get("expr", ()))
                if words:
                    found.append(f"{words} in table {family} {table}, chain {chain}")
        return found

    def _bases(self, packet: Packet) -> list[Base]:
        def place(chain: _Object) -> tuple[int, int]:
            return _HOOKS.index(chain["hook"]), int(chain.get("prio", 0))

        bases = [
            chain
            for chain in self._chains
            if chain.get("hook") in _HOOKS
            and chain["family"] in _FAMILIES[packet.version]
            and _is_at(chain, packet.interface)
            and (chain["family"], chain["table"]) != _OURS
        ]
        return [
            Base(
                f"{chain['family']}/{chain['table']}/{chain['name']}",
                _place_of(chain["family"], chain["table"], chain["name"]),
                chain.get("policy") == "drop",
            )
            for chain in sorted(bases, key=place)
        ]

    def _steps(self, rules: list[_Object], packet: Packet) -> Iterator[Step]:
        for rule in rules:
            prefix = f"{rule['family']}/{rule['table']}/"
            place = _place_of(rule["family"], rule["table"], rule["chain"])
            truth = Truth.YES
            for statement in rule.get("expr", ()):
                ((kind, body),) = statement.items()
                if kind == "match":
                    truth = both(truth, self._matches(body, rule, packet))
                elif kind in ("jump", "goto"):
                    yield Step(truth, Act(kind), prefix + body["target"])
                elif kind in _ACTS:
                    yield Step(truth, _ACTS[kind], words=f"{kind} in {place}")
                elif kind == "vmap":
                    yield from self._mapped(body, truth, rule, packet)
                elif kind == "xt":
                    # What only iptables understands: a condition, or a target such as REJECT.
                    name = body.get("name") if isinstance(body, dict) else None
                    if name == "REJECT":
                        yield Step(truth, Act.DROP, words=f"{name} in {place}")
                    elif name not in _FOREIGN_MARKS:
                        truth = both(truth, Truth.MAYBE)
                elif kind not in _IDLE:
                    truth = both(truth, Truth.MAYBE)

    def _mapped(self, body: _Object, truth: Truth, rule: _Object, packet: Packet) -> Iterator[Step]:
        place = _place_of(rule["family"], rule["table"], rule["chain"])
        data = body["data"]
        pairs = data.get("set", ()) if isinstance(data, dict) else self._named(data, rule)
        for pair in pairs or ():
            key, verdict = pair
            ((kind, target),) = verdict.items()
            matches = both(truth, _compare(body["key"], key, packet))
            if kind in ("jump", "goto"):
                where = f"{rule['family']}/{rule['table']}/{target['target']}"
                yield Step(matches, Act(kind), where)
            elif kind in _ACTS:
                yield Step(matches, _ACTS[kind], words=f"{kind} in {place}")

    def _named(self, name: object, rule: _Object) -> Any:  # noqa: ANN401 - whatever JSON holds
        key = rule["family"], rule["table"], str(name).removeprefix("@")
        return self._sets.get(key)

    def _matches(self, body: _Object, rule: _Object, packet: Packet) -> Truth:
        left, right, operator = body["left"], body["right"], body["op"]
        if isinstance(right, str) and right.startswith("@"):
            elements = self._named(right, rule)
            if elements is None:
                # Its elements were not asked for.
                return Truth.NO if _is_other_protocol(left, packet) else Truth.MAYBE
            right = {"set": elements}
        found = _compare(left, right, packet)
        if operator not in ("!=", "==", "in"):
            return Truth.NO if _is_other_protocol(left, packet) else Truth.MAYBE
        if operator == "!=":
            if _is_other_protocol(left, packet):
                # A port of UDP is not looked for in a packet of TCP: the rule does not match.
                return Truth.NO
            return {Truth.YES: Truth.NO, Truth.NO: Truth.YES}.get(found, Truth.MAYBE)
        return found


def _place_of(family: str, table: str, chain: str) -> str:
    return f"table {family} {table}, chain {chain}"


def _is_at(chain: _Object, interface: str) -> bool:
    device = chain.get("dev")
    return device is None or interface in ([device] if isinstance(device, str) else device)


def _is_other_protocol(left: object, packet: Packet) -> bool:
    if not isinstance(left, dict) or "payload" not in left:
        return False
    protocol = left["payload"].get("protocol")
    others = {"tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "igmp", "esp", "ah"}
    if protocol in others:
        return bool(protocol != packet.protocol)
    return protocol in ("ip", "ip6") and protocol != ("ip" if packet.version == 4 else "ip6")


def _compare(left: object, right: object, packet: Packet) -> Truth:
    """Whether a field of the packet is one of some values."""
    if not isinstance(left, dict):
        return Truth.MAYBE
    if _is_other_protocol(left, packet):
        return Truth.NO
    match left:
        case {"payload": {"protocol": "udp" | "tcp" | "th", "field": "dport"}}:
            return _among(packet.port, right)
        case {"payload": {"protocol": "ip", "field": "protocol"}}:
            return _of_protocol(right, packet)
        case {"payload": {"protocol": "ip6", "field": "nexthdr"}} | {"meta": {"key": "l4proto"}}:
            return _of_protocol(right, packet)
        case {"meta": {"key": "iifname" | "iif"}}:
            return _among_names(packet.interface, right)
        case {"meta": {"key": "nfproto"}}:
            return _truth("ipv4" if packet.version == 4 else "ipv6", right)
        case {"meta": {"key": "protocol"}}:
            return _truth("ip" if packet.version == 4 else "ip6", right)
        case {"ct": {"key": "state"}}:
            return _truth("new", right)
        case _:
            return Truth.MAYBE


def _values(right: object) -> list[Any]:
    if isinstance(right, dict) and "set" in right:
        return list(right["set"])
    return list(right) if isinstance(right, list) else [right]


def _bare(each: object) -> object:
    """An element without its counter or time."""
    return each["elem"].get("val") if isinstance(each, dict) and "elem" in each else each


def _truth(wanted: str, right: object) -> Truth:
    return Truth.YES if wanted in map(_bare, _values(right)) else Truth.NO


def _of_protocol(right: object, packet: Packet) -> Truth:
    number = _PROTOCOLS[packet.protocol]
    names = {packet.protocol, number}
    return Truth.YES if any(_bare(each) in names for each in _values(right)) else Truth.NO


def _among(port: int, right: object) -> Truth:
    for each in map(_bare, _values(right)):
        match each:
            case {"range": [int() as low, int() as high]}:
                if low <= port <= high:
                    return Truth.YES
            case int():
                if each == port:
                    return Truth.YES
            case _:
                return Truth.MAYBE
    return Truth.NO


def _among_names(name: str, right: object) -> Truth:
    for each in map(_bare, _values(right)):
        if not isinstance(each, str):
            return Truth.MAYBE
        if each == name or (each.endswith("*") and name.startswith(each[:-1])):
            return Truth.YES
    return Truth.NO


def _written(statements: Sequence[_Object]) -> str:
    """Which mark a rule writes; empty for none."""
    for statement in statements:
        ((kind, body),) = statement.items()
        if kind == "mangle":
            match body["key"]:
                case {"payload": {"protocol": protocol, "field": field}} if field in _MARKS:
                    return f"{protocol} {field} set {_shown(body['value'])}"
                case {"meta": {"key": "priority"}}:
                    return f"meta priority set {_shown(body['value'])}"
        if kind == "xt":
            text = json.dumps(body)
            for name in _FOREIGN_MARKS:
                if f'"{name}"' in text:
                    return f"target {name}"
    return ""


def _shown(found: object) -> str:
    return str(found) if isinstance(found, (str, int)) else "..."
