"""`[[rule]]`: what types cannot tell of it, and what it means."""

from __future__ import annotations

import json
from ipaddress import IPv6Network, ip_network
from typing import TYPE_CHECKING, Any, Final

from openqwave.admission.rules import Conditions, Grant, Ports, Rule
from openqwave.model.flow import TrafficType, Transport
from openqwave.service.reading import Problem, name_of, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from openqwave.admission.rules import Network
    from openqwave.service import settings
    from openqwave.service.toml_lines import Place

_BPS_PER_KBPS: Final = 1_000
_LAST_PORT: Final = 65_535
# RFC 4291 section 2.5.5.2.
_MAPPED: Final = IPv6Network("::ffff:0:0/96")

_GRANTS: Final = ("dscp", "traffic_type", "rate_kbps")


def check_network(text: str, place: Place) -> Iterator[Problem]:
    """What is wrong with the text of a network."""
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        yield Problem(
            place,
            f"{name_of(place)} is {shown(text)} and has to be a network, "
            'as "10.0.0.0/8" or "2001:db8::/32"',
        )
        return
    try:
        ip_network(text)
    except ValueError:
        # It may be the address that is wrong, or the length.
        yield Problem(
            place,
            f"{name_of(place)} is {shown(text)}, an address within a network; "
            f'"{meant}" is the network, "{text.partition("/")[0]}" the address alone',
        )


def check_rules(rows: object) -> Iterator[Problem]:
    """What is wrong with the rules of one file beyond their types."""
    if not isinstance(rows, list):
        return
    names: set[str] = set()
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            continue
        place: Place = ("rule", index)
        name = row.get("name")
        if isinstance(name, str):
            if name in names:
                yield Problem(
                    (*place, "name"),
                    f"{name_of((*place, 'name'))} is {shown(name)}, as of another rule above; "
                    "each needs a name of its own",
                )
            names.add(name)
        yield from _check_rule(row, place)


def _check_rule(row: Mapping[str, object], place: Place) -> Iterator[Problem]:
    if not any(key in row for key in _GRANTS):
        yield Problem(
            place, f"{name_of(place)} gives nothing; it needs dscp, traffic_type or rate_kbps"
        )
    for key in ("local_ports", "remote_ports"):
        yield from _check_ports(row.get(key), (*place, key))
    networks = {key: text for key in ("local", "remote") if isinstance(text := row.get(key), str)}
    wrong = [
        problem
        for key, text in networks.items()
        for problem in (*check_network(text, (*place, key)), *_check_mapped(text, (*place, key)))
    ]
    yield from wrong
    if not wrong and len({ip_network(text).version for text in networks.values()}) > 1:
        yield Problem(
            (*place, "remote"),
            f"{name_of(place)} has addresses of two families, and no packet has; "
            "use a rule for each",
        )


def _check_mapped(text: str, place: Place) -> Iterator[Problem]:
    try:
        network = ip_network(text)
    except ValueError:
        return
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        yield Problem(
            place, f"{name_of(place)} is {shown(text)}, whose packets are IPv4; use that address"
        )


def _check_ports(ports: object, place: Place) -> Iterator[Problem]:
    # What is no range at all, types have told.
    if not isinstance(ports, str):
        return
    ends = ports.replace(":", "-").split("-")
    if len(ends) != 2 or not all(end.isascii() and end.isdecimal() for end in ends):
        return
    if any(len(end) > len(str(_LAST_PORT)) for end in ends):
        return
    low, high = map(int, ends)
    if not 1 <= low <= high <= _LAST_PORT:
        yield Problem(
            place,
            f"{name_of(place)} is {shown(ports)} and has to be a range within 1 to {_LAST_PORT}, "
            "the lower port first",
        )


def rule_of(row: settings.Rule, origin: str) -> Rule:
    """What a rule without a mistake means.

    Args:
        row: The rule.
        origin: Where it is written.
    """
    conditions = Conditions(
        program=row.program,
        user=row.user,
        unit=row.unit,
        cgroup=row.cgroup,
        protocol=None if row.protocol is None else Transport[row.protocol.upper()],
        local=_network(row.local),
        remote=_network(row.remote),
        local_ports=_ports(row.local_ports),
        remote_ports=_ports(row.remote_ports),
    )
    grant = Grant(
        dscp=row.dscp,
        traffic_type=(None if row.traffic_type is None else TrafficType[row.traffic_type.upper()]),
        rate_bps=None if row.rate_kbps is None else row.rate_kbps * _BPS_PER_KBPS,
    )
    return Rule(row.name, conditions, grant, origin)


def row_of(rule: Rule) -> dict[str, Any]:
    """A rule as its file has it, without what it does not say and without its name."""
    conditions, grant = rule.conditions, rule.grant
    row = {
        "program": conditions.program,
        "user": conditions.user,
        "unit": conditions.unit,
        "cgroup": conditions.cgroup,
        "protocol": None if conditions.protocol is None else conditions.protocol.name.lower(),
        "local": _text(conditions.local),
        "remote": _text(conditions.remote),
        "local_ports": _text(conditions.local_ports),
        "remote_ports": _text(conditions.remote_ports),
        "dscp": grant.dscp,
        "traffic_type": None if grant.traffic_type is None else grant.traffic_type.name.lower(),
        "rate_kbps": None if grant.rate_bps is None else grant.rate_bps // _BPS_PER_KBPS,
    }
    return {key: value for key, value in row.items() if value is not None}


def asks_of(rule: Rule) -> str:
    """A rule's conditions in one line, as its file has them; those without are for all traffic."""
    asks = [f"{key} = {json.dumps(each)}" for key, each in row_of(rule).items()]
    kept = [text for text in asks if text.partition(" ")[0] not in _GRANTS]
    return ", ".join(kept) or "all traffic"


def _text(found: object) -> str | None:
    return None if found is None else str(found)


def _network(text: str | None) -> Network | None:
    return None if text is None else ip_network(text)


def _ports(said: int | str | None) -> Ports | None:
    match said:
        case None:
            return None
        case int():
            return Ports(said, said)
        case str():
            low, high = map(int, said.replace(":", "-").split("-"))
            return Ports(low, high)
