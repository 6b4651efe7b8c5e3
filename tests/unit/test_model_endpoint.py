"""Endpoints: what an address is, and how it reads."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from openqwave.model.endpoint import Endpoint


def endpoint(host: str, port: int = 5004, scope_id: int = 0) -> Endpoint:
    return Endpoint(ip_address(host).packed, port, scope_id)


# host: version, mapped, unspecified, multicast, link-local
KINDS: dict[str, tuple[int, bool, bool, bool, bool]] = {
    "192.0.2.1": (4, False, False, False, False),
    "0.0.0.0": (4, False, True, False, False),  # noqa: S104 - nothing binds to it
    "223.255.255.255": (4, False, False, False, False),
    "224.0.0.1": (4, False, False, True, False),
    "239.255.255.255": (4, False, False, True, False),
    "240.0.0.1": (4, False, False, False, False),
    "169.254.0.1": (4, False, False, False, False),
    "2001:db8::1": (6, False, False, False, False),
    "::": (6, False, True, False, False),
    "::1": (6, False, False, False, False),
    "::ffff:192.0.2.1": (6, True, False, False, False),
    "::192.0.2.1": (6, False, False, False, False),
    "::fffe:192.0.2.1": (6, False, False, False, False),
    "ff02::1": (6, False, False, True, False),
    "fe80::1": (6, False, False, False, True),
    "febf::1": (6, False, False, False, True),
    "fec0::1": (6, False, False, False, False),
}


@pytest.mark.parametrize("host", KINDS)
def test_kind(host: str) -> None:
    it = endpoint(host)
    assert (
        it.version,
        it.is_mapped,
        it.is_unspecified,
        it.is_multicast,
        it.is_link_local,
    ) == KINDS[host]


@pytest.mark.parametrize("host", KINDS)
def test_address_is_the_standard_librarys(host: str) -> None:
    assert endpoint(host).address == ip_address(host)


@pytest.mark.parametrize(
    ("it", "text"),
    [
        (endpoint("192.0.2.1"), "192.0.2.1:5004"),
        (endpoint("2001:db8::1"), "[2001:db8::1]:5004"),
        (endpoint("fe80::1", 9, 3), "[fe80::1%3]:9"),
    ],
    ids=str,
)
def test_text(it: Endpoint, text: str) -> None:
    assert str(it) == text


def test_unmapped_is_what_the_wire_carries() -> None:
    assert endpoint("::ffff:192.0.2.1", 7).unmapped() == endpoint("192.0.2.1", 7)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "::192.0.2.1"])
def test_unmapped_leaves_others_alone(host: str) -> None:
    assert endpoint(host).unmapped() == endpoint(host)


def test_host_drops_the_port_and_keeps_the_scope() -> None:
    assert endpoint("fe80::1", 9, 3).host() == endpoint("fe80::1", 0, 3)


def test_equal_endpoints_hash_alike() -> None:
    assert len({endpoint("192.0.2.1"), endpoint("192.0.2.1"), endpoint("192.0.2.1", 1)}) == 2
