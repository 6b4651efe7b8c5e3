"""The inline helpers of qos2.h, to the bit."""

from __future__ import annotations

import pytest

from openqwave.model.flow import Transport
from openqwave.model.overhead import add_overhead, header_overhead_bytes, subtract_overhead

TCP, UDP = Transport.TCP, Transport.UDP

HEADERS = {(4, TCP): 40, (4, UDP): 28, (6, TCP): 60, (6, UDP): 48}

# version, transport, packet_bytes, rate, with headers, without headers: printed by the
# three inline functions of qos2.h, compiled for x86-64 and run.
VECTORS = [
    (4, TCP, 160, 0, 0, 0),
    (4, TCP, 160, 7, 8, 6),
    (4, TCP, 160, 123456789, 154320986, 98765432),
    (4, TCP, 1400, 64000, 65828, 62223),
    (4, TCP, 1400, 123456789, 126984125, 120027434),
    (4, TCP, 1460, 10000000000, 10273972602, 9733333334),
    (4, TCP, 9000, 10000000000, 10044444444, 9955752213),
    (4, UDP, 160, 7, 8, 6),
    (4, UDP, 160, 64000, 75200, 54469),
    (4, UDP, 1400, 20000000, 20400000, 19607844),
    (4, UDP, 1460, 123456789, 125824453, 121133678),
    (4, UDP, 9000, 64000, 64199, 63802),
    (6, TCP, 160, 7, 9, 6),
    (6, TCP, 160, 123456789, 169753084, 89786756),
    (6, TCP, 1400, 64000, 66742, 61370),
    (6, TCP, 1460, 7, 7, 7),
]
IDS = [f"v{v}-{t.name}-{size}-{rate}" for v, t, size, rate, _, _ in VECTORS]


@pytest.mark.parametrize(
    ("key", "size"), HEADERS.items(), ids=[f"v{v}-{t.name}" for v, t in HEADERS]
)
def test_header_bytes(key: tuple[int, Transport], size: int) -> None:
    assert header_overhead_bytes(*key) == size


@pytest.mark.parametrize(
    ("version", "transport", "packet_bytes", "rate", "added", "subtracted"), VECTORS, ids=IDS
)
def test_vector(
    version: int, transport: Transport, packet_bytes: int, rate: int, added: int, subtracted: int
) -> None:
    overhead = header_overhead_bytes(version, transport)
    assert add_overhead(rate, packet_bytes, overhead) == added
    assert subtract_overhead(rate, packet_bytes, overhead) == subtracted


def test_empty_packets_have_no_rate() -> None:
    with pytest.raises(ZeroDivisionError):
        add_overhead(1_000, 0, 28)
    with pytest.raises(ZeroDivisionError):
        subtract_overhead(1_000, 0, 0)
    assert subtract_overhead(1_000, 0, 28) == 0
