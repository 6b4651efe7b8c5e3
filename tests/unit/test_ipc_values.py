"""What answers hold: JSON that C can read, values that come back as they were, pages that end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from msgspec import Raw

from openqwave.ipc import messages as ms
from openqwave.ipc import pages, values
from openqwave.ipc.errors import ProtocolError
from openqwave.model.endpoint import Endpoint
from openqwave.model.estimates import Congestion, CongestionReason, Fundamentals
from openqwave.model.flow import PacketPriority
from openqwave.model.path import LinkType, PathFacts, PathStatus

HOST = Endpoint(bytes((192, 0, 2, 7)), 0)
FACTS = PathFacts(
    host=HOST,
    interface=3,
    interface_name="eth0",
    source=bytes((192, 0, 2, 1)),
    gateway=bytes((192, 0, 2, 254)),
    mtu_bytes=1_500,
    link_type=LinkType.WIRELESS,
    speed_bps=10**9,
)
STATUS = PathStatus(
    host=HOST,
    facts=FACTS,
    fundamentals=Fundamentals(20_000_000, 15_000_000, 1_234_567),
    available_low_bps=14_000_000,
    confidence=0.9,
    age_ns=5,
    congestion=Congestion(True, CongestionReason.PROBE_LOSS, "3 of 100 were lost"),
    held_bps=12_000_000,
    own_bps=11_000_000,
    sent_bytes=1 << 40,
    obstacle="resting",
)
UNKNOWN = PathStatus(
    host=Endpoint(bytes(range(16)), 0, 4),
    facts=None,
    fundamentals=Fundamentals(),
    available_low_bps=None,
    confidence=0.0,
    age_ns=None,
    congestion=Congestion(),
    held_bps=0,
    own_bps=None,
    sent_bytes=0,
    obstacle="",
)


def test_simple_values() -> None:
    assert values.value_to_json(None) == b"null"
    assert values.value_to_json((1 << 64) - 1) == b"18446744073709551615"
    assert values.rate_of(b"18446744073709551615") == (1 << 64) - 1
    assert values.rate_of(b"0") == 0
    assert values.flow_id_of(values.value_to_json(7)) == 7
    values.nothing_of(b"null")


def test_fundamentals() -> None:
    data = values.value_to_json(Fundamentals(20, None, 7))
    assert data == b'{"bottleneck_bps":20,"available_bps":null,"rtt_ns":7}'
    assert values.fundamentals_of(data) == Fundamentals(20, None, 7)
    assert values.fundamentals_of(b"{}") == Fundamentals()


def test_packet_priority() -> None:
    data = values.value_to_json(PacketPriority(46, 8, 5, 1))
    assert json.loads(data) == {
        "conformant_dscp": 46,
        "non_conformant_dscp": 8,
        "conformant_pcp": 5,
        "non_conformant_pcp": 1,
    }
    assert values.packet_priority_of(data) == PacketPriority(46, 8, 5, 1)


def test_path_status_is_flat() -> None:
    data = values.value_to_json(STATUS)
    assert json.loads(data) == {
        "host": "192.0.2.7",
        "interface": 3,
        "interface_name": "eth0",
        "source": "192.0.2.1",
        "gateway": "192.0.2.254",
        "mtu_bytes": 1_500,
        "link_type": "wireless",
        "speed_bps": 10**9,
        "bottleneck_bps": 20_000_000,
        "available_bps": 15_000_000,
        "rtt_ns": 1_234_567,
        "available_low_bps": 14_000_000,
        "confidence": 0.9,
        "age_ns": 5,
        "congested": True,
        "congestion_reason": "probe_loss",
        "congestion_detail": "3 of 100 were lost",
        "held_bps": 12_000_000,
        "own_bps": 11_000_000,
        "sent_bytes": 1 << 40,
        "obstacle": "resting",
    }
    assert values.path_status_of(data) == STATUS


def test_what_is_not_known_of_a_path_is_left_out() -> None:
    data = values.value_to_json(UNKNOWN)
    assert json.loads(data) == {
        "host": "1:203:405:607:809:a0b:c0d:e0f",
        "scope_id": 4,
        "confidence": 0.0,
    }
    assert values.path_status_of(data) == UNKNOWN


@pytest.mark.parametrize("link", LinkType)
def test_every_kind_of_link_has_a_word(link: LinkType) -> None:
    status = replace(STATUS, facts=replace(FACTS, link_type=link, gateway=b"", source=b""))
    assert values.path_status_of(values.value_to_json(status)) == status


@pytest.mark.parametrize("reason", CongestionReason)
def test_every_reason_of_congestion_has_a_word(reason: CongestionReason) -> None:
    status = replace(STATUS, congestion=Congestion(False, reason))
    assert values.path_status_of(values.value_to_json(status)) == status


Reader = Callable[[bytes], object]
MALFORMED: list[tuple[Reader, bytes]] = [
    (values.rate_of, b"-1"),
    (values.rate_of, b"null"),
    (values.rate_of, b"1.0"),
    (values.rate_of, b'"1"'),
    (values.rate_of, b"true"),
    (values.flow_id_of, b"0"),
    (values.flow_id_of, b"-1"),
    (values.flow_id_of, b"{}"),
    (values.nothing_of, b"0"),
    (values.nothing_of, b"{}"),
    (values.nothing_of, b""),
    (values.fundamentals_of, b"null"),
    (values.fundamentals_of, b'{"rtt_ns":1.5}'),
    (values.fundamentals_of, b"[" * 60_000),
    (values.fundamentals_of, b'{"rtt_ns":\xff}'),
    (values.packet_priority_of, b"{}"),
    (values.path_status_of, b"{}"),
    (values.path_status_of, b'{"host":"nowhere"}'),
    (values.path_status_of, b'{"host":"\\ud800"}'),
    (values.path_status_of, b'{"host":"192.0.2.7","interface":1,"link_type":"pigeon"}'),
    (values.path_status_of, b'{"host":"192.0.2.7","interface":1}'),
    (
        values.path_status_of,
        b'{"host":"192.0.2.7","interface":1,"link_type":"wired","source":"x"}',
    ),
    (
        values.path_status_of,
        b'{"host":"192.0.2.7","interface":1,"link_type":"wired","gateway":"300.1.1.1"}',
    ),
    (values.path_status_of, b'{"host":"192.0.2.7","congestion_reason":"\\u001b[2J"}'),
    (values.status_of, b"{}"),
    (lambda raw: pages.page_of(raw, int), b"[]"),
    (lambda raw: pages.page_of(raw, int), b'{"flows":["1"],"more":false}'),
    (lambda raw: pages.page_of(raw, int), b'{"flows":[],"more":true}'),
    (lambda raw: pages.page_of(raw, int), b'{"paths":[],"more":false}'),
    (lambda raw: pages.page_of(raw, ms.FlowRow), b'{"flows":[1],"more":false}'),
    (lambda raw: pages.page_of(raw, ms.PathRow), b'{"flows":[],"more":false}'),
    (lambda raw: pages.page_of(raw, ms.PathRow), b'{"paths":[],"more":true}'),
]


@pytest.mark.parametrize(("read", "raw"), MALFORMED)
def test_malformed_values(read: Reader, raw: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        read(raw)
    assert caught.value.reason.isprintable()


# -- pages ----------------------------------------------------------------------------


def flow_row(flow: int, program: str = "player") -> ms.FlowRow:
    return ms.FlowRow(
        flow=flow,
        pid=100,
        program=program,
        user="somebody",
        uid=1000,
        adaptive=True,
        traffic_type="voice",
        marking="by type",
        dscp=46,
        sockets=(ms.SocketRow(cookie=5, protocol="udp", destinations=("192.0.2.7:5004",)),),
        socket_count=1,
        destination_count=1,
    )


def packet_bytes(value: bytes) -> int:
    """The size of the longest packet that a value makes."""
    return len(ms.encode_packet(ms.Answer(ms.MAX_ID, Raw(value))))


def test_ids_come_in_pages_that_fit() -> None:
    ids = tuple(range(1, 40_000, 3))
    found, after, count = list[int](), 0, 0
    while True:
        value = pages.flow_id_page(ids, after)
        assert packet_bytes(value) <= ms.MAX_ANSWER_BYTES
        rows, more = pages.page_of(value, int)
        found += rows
        count += 1
        if not more:
            break
        # Full: not another id would have gone into it.
        assert packet_bytes(value) > ms.MAX_ANSWER_BYTES - 300
        after = rows[-1]
    assert tuple(found) == ids
    assert count == 2


def test_an_engines_ids_are_the_first_page() -> None:
    assert values.value_to_json((3, 5)) == b'{"flows":[3,5],"more":false}'
    assert values.value_to_json(()) == b'{"flows":[],"more":false}'
    assert pages.flow_id_page((3, 5), 3) == b'{"flows":[5],"more":false}'
    assert pages.flow_id_page((3, 5), 4) == b'{"flows":[5],"more":false}'
    assert pages.flow_id_page((3, 5), 5) == b'{"flows":[],"more":false}'
    assert pages.flow_id_page((3, 5), -1) == b'{"flows":[3,5],"more":false}'


def test_rows_of_flows_come_in_pages() -> None:
    rows = [flow_row(number) for number in range(1, 1_000)]
    found, after = list[ms.FlowRow](), 0
    while True:
        value = pages.flow_page(row for row in rows if row.flow > after)
        assert packet_bytes(value) <= ms.MAX_ANSWER_BYTES
        page, more = pages.page_of(value, ms.FlowRow)
        found += page
        if not more:
            break
        after = page[-1].flow
    assert found == rows


def test_rows_of_paths() -> None:
    rows = [ms.PathRow(host="192.0.2.7", congested=False, rtt_ns=5), ms.PathRow(host="192.0.2.8")]
    value = pages.path_page(rows)
    assert value.startswith(b'{"paths":[{"host":"192.0.2.7","rtt_ns":5,"congested":false}')
    assert pages.page_of(value, ms.PathRow) == (tuple(rows), False)
    assert pages.page_of(pages.path_page([]), ms.PathRow) == ((), False)


def test_rows_of_later_pages_are_not_made() -> None:
    made = list[int]()

    def rows() -> Iterator[ms.FlowRow]:
        for number in range(1, 1_000):
            made.append(number)
            yield flow_row(number)

    page, more = pages.page_of(pages.flow_page(rows()), ms.FlowRow)
    assert more
    assert len(made) == len(page) + 1


def test_a_row_that_fits_no_page_does_not_stop_the_list() -> None:
    rows = [flow_row(1), flow_row(2, "x" * ms.MAX_ANSWER_BYTES), flow_row(3)]
    page, more = pages.page_of(pages.flow_page(rows), ms.FlowRow)
    assert ([row.flow for row in page], more) == ([1, 3], False)
    assert pages.page(["x" * ms.MAX_ANSWER_BYTES], str.encode) == (b"[]", False)


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_the_last_row_fits_to_the_byte(spare: int) -> None:
    # Two rows, a comma, two brackets.
    rows = [b"1" * 100, b"2" * (pages.PAGE_BYTES - 103 + spare)]
    data, more = pages.page(rows, bytes)
    assert more is (spare > 0)
    assert len(data) == (pages.PAGE_BYTES + spare if spare <= 0 else 102)


def test_a_single_row_fits_to_the_byte() -> None:
    assert pages.page([b"1" * (pages.PAGE_BYTES - 2)], bytes)[0].count(b"1") > 0
    assert pages.page([b"1" * (pages.PAGE_BYTES - 1)], bytes) == (b"[]", False)


def test_the_status() -> None:
    row = ms.StatusRow(
        service="qwaved",
        version="0.1",
        protocol=1,
        pid=7,
        uptime_ns=5,
        socket="/run/qwave/qwaved.sock",
        config_file="",
        handles=1,
        flows=2,
        paths=3,
        peers=4,
        lends=False,
        backend=ms.BackendRow(name="socket options", reason="nothing else is there"),
        sink=ms.SinkRow(on=False, reason="not asked for"),
        memory=ms.MemoryRow(path="/var/lib/qwave/paths.db", state="open"),
        counters={"protocol violation": 2},
    )
    data = values.status_to_json(row)
    assert values.status_of(data) == row
    assert json.loads(data)["sink"] == {"on": False, "reason": "not asked for"}


def test_names_in_rows_may_be_no_text() -> None:
    page, _ = pages.page_of(pages.flow_page([flow_row(1, "x\udcff")]), ms.FlowRow)
    assert page[0].program == "x?"
