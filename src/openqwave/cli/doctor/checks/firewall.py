"""Whether other hosts reach the sink of this host: port 2177, UDP and TCP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.filtering.walk import Fate, Packet, Truth
from openqwave.cli.doctor.findings import Finding, missing, ok, unknown
from openqwave.wire.qlpb import PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_TOPIC: Final = "firewall"
_PROTOCOLS: Final = ("udp", "tcp")
_AS_ROOT: Final = "look as root: sudo qwave doctor"


def packets(interfaces: Sequence[str], versions: Sequence[int]) -> list[Packet]:
    """What a host that measures towards this one sends first."""
    return [
        Packet(protocol, PORT, interface, version)
        for interface in interfaces
        for version in versions
        for protocol in _PROTOCOLS
    ]


def port(
    tried: Sequence[Packet],
    firewalls: Sequence[Callable[[Packet], Fate]],
    trouble: str,
    *,
    lacks_rights: bool = False,
    is_wanted: bool = True,
) -> Finding:
    """Judge what firewalls do to those packets.

    Args:
        tried: The packets.
        firewalls: Say what becomes of a packet; all have to let it pass.
        trouble: Why not all rules can be seen; empty if they can.
        lacks_rights: Whether that is for want of rights.
        is_wanted: Whether this host answers experiments at all.
    """
    closed: dict[str, list[Packet]] = {}
    perhaps: dict[str, list[Packet]] = {}
    for packet in tried:
        for fate in [firewall(packet) for firewall in firewalls]:
            if fate.passes is not Truth.YES:
                found = closed if fate.passes is Truth.NO else perhaps
                found.setdefault(fate.why[-1], []).append(packet)
    if closed and not is_wanted:
        return ok(_TOPIC, f"port {PORT} is closed, and the sink is off")
    if closed:
        return missing(
            _TOPIC, f"port {PORT} is closed to {_told(closed)}", _opening(next(iter(closed)))
        )
    if perhaps:
        return unknown(
            _TOPIC,
            f"port {PORT} may be closed to {_told(perhaps)}, by conditions that are not known here",
            f"qwave sink here, and qwave probe from another host; {_opening(next(iter(perhaps)))}",
        )
    if trouble:
        fix = _AS_ROOT if lacks_rights else "as it says"
        return unknown(_TOPIC, f"whether port {PORT} is open cannot be seen: {trouble}", fix)
    return ok(_TOPIC, f"no rule of this host closes port {PORT}, UDP and TCP")


def _told(found: Mapping[str, Sequence[Packet]]) -> str:
    return "; ".join(f"{_shown(whose)} ({why})" for why, whose in found.items())


def _shown(whose: Sequence[Packet]) -> str:
    """Packets in few words: of each interface the protocols and versions."""
    phrases: dict[str, list[str]] = {}
    for interface in dict.fromkeys(packet.interface for packet in whose):
        at = [packet for packet in whose if packet.interface == interface]
        by_protocol = {
            protocol: tuple(f"IPv{each.version}" for each in at if each.protocol == protocol)
            for protocol in _PROTOCOLS
        }
        by_versions: dict[tuple[str, ...], list[str]] = {}
        for protocol, versions in by_protocol.items():
            if versions:
                by_versions.setdefault(versions, []).append(protocol.upper())
        words = " and ".join(
            f"{' and '.join(protocols)} over {' and '.join(versions)}"
            for versions, protocols in by_versions.items()
        )
        phrases.setdefault(words, []).append(interface)
    return ", ".join(f"{words} at {', '.join(names)}" for words, names in phrases.items())


def _opening(why: str) -> str:
    """How the port is opened where a rule is that closes it."""
    if "table inet firewalld" in why:
        return f"firewall-cmd --permanent --add-port={PORT}/udp --add-port={PORT}/tcp, and --reload"
    if "ufw" in why:
        return f"ufw allow {PORT}"
    if "tables -t " in why:
        tool = "ip6tables" if "ip6tables" in why else "iptables"
        return " and ".join(
            f"{tool} -I INPUT -p {each} --dport {PORT} -j ACCEPT" for each in _PROTOCOLS
        )
    family, table, chain = _named(why)
    place = f"{family} {table} {chain}"
    return f"nft insert rule {place} meta l4proto {{ tcp, udp }} th dport {PORT} accept"


def _named(why: str) -> tuple[str, str, str]:
    """Family, table and chain of a rule, by its words."""
    _, _, place = why.partition("table ")
    table, _, chain = place.partition(", chain ")
    family, _, name = table.partition(" ")
    return family, name, chain
