"""Interfaces that carry traffic: of what kind, with IPv6 or not, and what they do to packets."""

from __future__ import annotations

from typing import Final

from openqwave.cli.doctor.findings import Finding, limited, missing, ok
from openqwave.drivers.offloads import Offloads
from openqwave.model.value import value

# Gathering for longer shows as clumps at 100 Mbit/s: a full packet takes 120 us there.
_MOST_GATHERED_US: Final = 120
# ARPHRD_ETHER, _LOOPBACK; and what begins with IP: PPP, RAWIP, TUNNEL, TUNNEL6, SIT, NONE.
_KNOWN_HARDWARE: Final = frozenset({1, 772, 512, 519, 768, 769, 776, 65_534})
# Kinds that put another header in front of IP.
_TUNNELS: Final = frozenset(
    {"tun", "wireguard", "gre", "gretap", "ip6gre", "ipip", "sit", "vti", "xfrm", "vxlan", "ppp"}
)


@value
class Seen:
    """What was seen of an interface.

    Attributes:
        name: Its name.
        kind: What the kernel calls a device that is none of hardware, such as "vlan"; else empty.
        hardware: What it is, by ARPHRD_ number.
        is_up: Whether packets can leave.
        is_wireless: Whether it is a radio.
        has_ipv4: Whether it has an IPv4 address; None if that was not asked.
        has_ipv6: Whether it has an IPv6 address.
        offloads: What it does to packets.
    """

    name: str
    kind: str = ""
    hardware: int = 1
    is_up: bool = True
    is_wireless: bool = False
    has_ipv4: bool | None = None
    has_ipv6: bool = True
    offloads: Offloads = Offloads()


def none_there() -> Finding:
    """Nothing leads out of this host."""
    return missing(
        "interface", "no interface is up that leads out of this host", "ip link set DEV up"
    )


def kind(seen: Seen) -> Finding:
    """Judge what an interface is."""
    topic, name = "interface", seen.name
    if not seen.is_up:
        return missing(topic, "it is down, or has no carrier", f"ip link set {name} up", name)
    if seen.hardware not in _KNOWN_HARDWARE:
        return limited(
            topic,
            f"its packets have a link header that the program does not know (hardware type "
            f"{seen.hardware}): flows are marked by nftables or options of sockets there",
            'backend = "nftables" under [enforcement], if flows have to be marked there',
            name,
        )
    if seen.is_wireless:
        return ok(
            topic,
            "Wi-Fi: the access category follows the DSCP, no 802.1p tags are sent, and the rate "
            "changes with the air, so estimates have wide bounds",
            name,
        )
    if seen.kind == "vlan":
        return ok(
            topic,
            "a VLAN: packets are marked here, and its tag gets no priority of ours "
            f"(ip link set {name} type vlan egress-qos-map 0:0 ... maps queue priorities to it)",
            name,
        )
    if seen.kind in _TUNNELS:
        return ok(
            topic,
            f"a tunnel ({seen.kind}): what it puts in front carries our marks only where it copies "
            "them (tos inherit)",
            name,
        )
    return ok(topic, f"{seen.kind or 'wired or virtual Ethernet'}, up", name)


def ipv6(seen: Seen) -> Finding:
    """Judge IPv6 of an interface."""
    if seen.has_ipv6:
        return ok("IPv6", "it has an address", seen.name)
    return limited(
        "IPv6",
        "it has no address, so paths are IPv4 only",
        f"sysctl net.ipv6.conf.{seen.name}.disable_ipv6=0, if IPv6 is wanted",
        seen.name,
    )


def offloads(seen: Seen) -> Finding:
    """Judge what an interface does to packets, as far as it spoils measurements."""
    topic, name, found = "offloads", seen.name, seen.offloads
    on = [
        word
        for word, is_on in (
            ("GRO", found.gro),
            ("LRO", found.lro),
            ("TSO", found.tso),
            ("GSO", found.gso),
        )
        if is_on
    ]
    if found.lro:
        return limited(
            topic,
            "LRO joins packets of TCP before the kernel sees them: what arrives between may be "
            "stamped late, and forwarding breaks",
            f"ethtool -K {name} lro off",
            name,
        )
    if found.gather_us and found.gather_us > _MOST_GATHERED_US and not found.is_adaptive:
        return limited(
            topic,
            f"arrivals are gathered for {found.gather_us} us, so probes are stamped in clumps: "
            "measuring takes longer, and what is free of fast links stays unknown more often",
            f"ethtool -C {name} rx-usecs 20 on hosts that are measured towards",
            name,
        )
    if not on:
        return ok(topic, "none that matters", name)
    words = f"{', '.join(on)} on"
    if found.tso or found.gso:
        words += "; trains of TCP are metered and counted with the headers of their segments"
    if found.gro:
        words += "; GRO joins TCP, not probes (unless rx-udp-gro-forwarding is on)"
    return ok(topic, words, name)
