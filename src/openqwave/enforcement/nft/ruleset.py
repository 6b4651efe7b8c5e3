"""Our table: what it holds, and how it chooses without touching what belongs to others.

    table inet openqwave
      map udp4      source . port . destination . port : choice     one element for each peer
      map treatments                    choice : goto chain         one for each kind of marks
      chain dscp46_priority5            ip dscp set 46, ip6 dscp set 46, meta priority set 5
      chain output                      look up, choose, go

**Why two maps.** A verdict in a peer's own element makes each update cost as much as the table is
large, because the kernel looks for loops through all verdicts. So peers have numbers, and the few
numbers have verdicts.

**Where the choice is kept.** Between the two look-ups a packet has to carry its number. Its mark
(`meta mark`) is what others route and filter by, and a map cannot be the key of a map in nft's
language. Its priority is free: that is what the chain sets next, so nothing of anybody's is lost.
When nothing is found in the first map, the rule ends there and the packet stays as it is.

**Packets that are only counted** must keep their priority. They are looked up in sets
(``udp4_counted``), where an element is a counter and nothing more.

**Which socket sends** is not known here, only addresses: a socket with a local address is looked up
with it, one without by its port and its peer (``udp4_any``). The first is more exact and asked
first. Link-local destinations are looked up with their interface (``udp6_link``).

**The hook** is output, one step after those who mangle and before destination NAT (priority -100):
addresses are those that the application used, and our marks are the last word. Packets of a
datagram that will be cut are still one packet here, and so is a train that the device cuts: it
counts as one packet, its headers once.

Maps, sets, rules and chains are made when first needed, so a packet is looked up only where
something can be. They stay until the table goes.

`ip dscp set` leaves the two ECN bits as they are (nft loads, masks and writes the word).
"""

from __future__ import annotations

from typing import Final

from openqwave.model.value import value

TABLE: Final = "openqwave"
# By its beginning the table is known as ours; `nft list` shows it to people.
COMMENT_BEGIN: Final = "openqwave: "
_COMMENT: Final = f"{COMMENT_BEGIN}marks of flows, made by the service and removed with it"
TREATMENTS: Final = "treatments"
_IN: Final = f"inet {TABLE}"

# `mangle` is -150, where people mark; NAT of destinations is -100.
_HOOK: Final = "type filter hook output priority mangle + 1; policy accept;"


@value
class Container:
    """A map or set of elements that are looked up in one way.

    Attributes:
        name: Its name in the table.
        fields: What it is looked up by, and the type of each, in order.
        is_counted: It is a set of what is counted only.
        is_exact: The source address is part of it.
    """

    name: str
    fields: tuple[tuple[str, str], ...]
    is_counted: bool
    is_exact: bool


def container_name(
    transport: str, version: int, *, is_link: bool, is_exact: bool, is_counted: bool
) -> str:
    """The name of the container for packets of a kind.

    Args:
        transport: "udp" or "tcp".
        version: 4 or 6, as the packets are.
        is_link: By interface too.
        is_exact: By source address too.
        is_counted: Counted only.
    """
    link = "_link" if is_link else ""
    exact = "" if is_exact else "_any"
    return f"{transport}{version}{link}{exact}{'_counted' if is_counted else ''}"


def _container(
    transport: str, version: int, *, is_link: bool, is_exact: bool, is_counted: bool
) -> Container:
    ip, address = ("ip", "ipv4_addr") if version == 4 else ("ip6", "ipv6_addr")
    fields = [
        (f"{ip} saddr", address),
        (f"{transport} sport", "inet_service"),
        (f"{ip} daddr", address),
        (f"{transport} dport", "inet_service"),
    ]
    if not is_exact:
        del fields[0]
    if is_link:
        fields.insert(0, ("meta oif", "iface_index"))
    name = container_name(
        transport, version, is_link=is_link, is_exact=is_exact, is_counted=is_counted
    )
    return Container(name, tuple(fields), is_counted, is_exact)


CONTAINERS: Final = {
    made.name: made
    for made in (
        _container(transport, version, is_link=is_link, is_exact=is_exact, is_counted=is_counted)
        for transport in ("udp", "tcp")
        for version, is_link in ((4, False), (6, False), (6, True))
        for is_exact in (True, False)
        for is_counted in (False, True)
    )
}


def make_table() -> str:
    """Commands for the table without elements; they fail where there is one of its name."""
    return (
        f'create table {_IN} {{ comment "{_COMMENT}"; }}\n'
        f"add map {_IN} {TREATMENTS} {{ type classid : verdict; }}\n"
        f"add chain {_IN} output {{ {_HOOK} }}\n"
    )


def make_container(name: str) -> str:
    """Commands for one of `CONTAINERS` and the rule that looks it up."""
    made = CONTAINERS[name]
    key = " . ".join(field for field, _ in made.fields)
    types = " . ".join(kind for _, kind in made.fields)
    # Before those that know less of the packet.
    place = "insert" if made.is_exact else "add"
    if made.is_counted:
        return (
            f"add set {_IN} {name} {{ type {types}; counter; }}\n"
            f"{place} rule {_IN} output {key} @{name} accept\n"
        )
    return (
        f"add map {_IN} {name} {{ type {types} : classid; counter; }}\n"
        f"{place} rule {_IN} output meta priority set {key} map @{name} "
        f"meta priority vmap @{TREATMENTS}\n"
    )


def make_treatment(choice: int, dscp: int | None, priority: int) -> str:
    """Commands for the chain of one kind of marks.

    Args:
        choice: Its number, from 1.
        dscp: 0 to 63, or None to leave it.
        priority: skb priority, 0 to 4294967295.
    """
    chain = f"dscp{'_kept' if dscp is None else dscp}_priority{priority}"
    commands = f"add chain {_IN} {chain}\n"
    if dscp is not None:
        commands += f"add rule {_IN} {chain} ip dscp set {dscp}\n"
        commands += f"add rule {_IN} {chain} ip6 dscp set {dscp}\n"
    return (
        f"{commands}add rule {_IN} {chain} meta priority set {_class(priority)}\n"
        f"add element {_IN} {TREATMENTS} {{ {_class(choice)} : goto {chain} }}\n"
    )


def _class(priority: int) -> str:
    """A priority as nft reads and prints it: as tc's class ids, in hexadecimal.

    Zero and 0xffffffff have names there, and are numbers here.
    """
    return f"0x{priority:x}"
