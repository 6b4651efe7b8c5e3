"""Whatever is said is understood as it was meant: requests, values, and lists in pages."""

from __future__ import annotations

import typing
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw, structs

from openqwave.ipc import messages as ms
from openqwave.ipc import pages, values
from openqwave.model.endpoint import Endpoint
from openqwave.model.estimates import Congestion, CongestionReason, Fundamentals
from openqwave.model.flow import PacketPriority
from openqwave.model.path import LinkType, PathFacts, PathStatus
from openqwave.model.traffic import FlowTraffic

# What a C program can say; and a few that it cannot.
INTS = st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(-(1 << 80), 1 << 80)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
COUNTS = st.integers(0, (1 << 64) - 1)
MAYBE = st.none() | COUNTS
PACKED = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
HOSTS = st.builds(Endpoint, PACKED, st.just(0), st.integers(0, (1 << 32) - 1))


def by_type(annotation: object) -> st.SearchStrategy[object]:
    """What a field of that type can hold."""
    named: dict[object, st.SearchStrategy[object]] = {
        "int": INTS,
        "bool": st.booleans(),
        "str": TEXTS,
        "str | None": st.none() | TEXTS,
        "int | None": st.none() | INTS,
    }
    return named[annotation]


def built(kind: type) -> st.SearchStrategy[typing.Any]:
    """Any request of that kind."""
    fields: dict[str, st.SearchStrategy[object]] = {}
    for field in structs.fields(kind):
        match field.name:
            case "id":
                fields[field.name] = st.integers(1, ms.MAX_ID)
            case "number":
                fields[field.name] = st.integers(-1, (1 << 31) - 1)
            case "program":
                fields[field.name] = st.text(max_size=ms.MAX_PROGRAM_CHARS)
            case _:
                fields[field.name] = by_type(kind.__annotations__[field.name])
    return st.builds(kind, **fields)


@pytest.mark.parametrize("kind", typing.get_args(ms.Request))
@settings(max_examples=40)
@given(data=st.data())
def test_requests(kind: type, data: st.DataObject) -> None:
    message = data.draw(built(kind))
    assert ms.decode_request(ms.encode_packet(message)) == message


@given(st.integers(1, ms.MAX_ID), TEXTS, TEXTS, st.lists(TEXTS).map(tuple), st.booleans())
def test_replies(number: int, one: str, other: str, features: tuple[str, ...], lends: bool) -> None:
    for reply in (
        ms.Welcome(number, features, one, lends),
        ms.Refused(number, number, one, other),
        ms.Lost(number, one, other),
        ms.Farewell(number, one, other),
        ms.Pending(number),
    ):
        assert ms.decode_reply(ms.encode_packet(reply)) == reply


FUNDAMENTALS = st.builds(Fundamentals, MAYBE, MAYBE, MAYBE)
CONGESTIONS = st.builds(
    Congestion,
    st.none() | st.booleans(),
    st.none() | st.sampled_from(CongestionReason),
    TEXTS,
)


@st.composite
def statuses(draw: st.DrawFn) -> PathStatus:
    host = draw(HOSTS)
    facts = st.builds(
        PathFacts,
        st.just(host),
        COUNTS,
        TEXTS,
        st.just(b"") | PACKED,
        st.just(b"") | PACKED,
        COUNTS,
        st.sampled_from(LinkType),
        COUNTS,
    )
    return PathStatus(
        host,
        draw(st.none() | facts),
        draw(FUNDAMENTALS),
        draw(MAYBE),
        draw(st.floats(0, 1)),
        draw(MAYBE),
        draw(CONGESTIONS),
        draw(COUNTS),
        draw(MAYBE),
        draw(COUNTS),
        draw(TEXTS),
    )


@given(FUNDAMENTALS)
def test_fundamentals(value: Fundamentals) -> None:
    assert values.fundamentals_of(values.value_to_json(value)) == value


@given(st.builds(FlowTraffic, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS))
def test_traffic(value: FlowTraffic) -> None:
    assert values.traffic_of(values.value_to_json(value)) == value


@given(st.builds(PacketPriority, COUNTS, COUNTS, COUNTS, COUNTS))
def test_packet_priority(value: PacketPriority) -> None:
    assert values.packet_priority_of(values.value_to_json(value)) == value


@given(statuses())
def test_path_status(value: PathStatus) -> None:
    data = values.value_to_json(value)
    assert values.path_status_of(data) == value
    # Flat: C needs no tree for it.
    assert data.count(b"{") == 1 + sum(
        text.count("{")
        for text in (
            value.obstacle,
            value.congestion.detail,
            "" if value.facts is None else value.facts.interface_name,
        )
    )
    assert str(ip_address(value.host.packed)).encode() in data


@given(st.lists(st.integers(1, (1 << 64) - 1), unique=True).map(sorted), INTS)
def test_ids_after_one(ids: list[int], after: int) -> None:
    page, more = pages.page_of(pages.flow_id_page(ids, after), int)
    assert page == tuple(one for one in ids if one > after)
    assert not more


# Sizes around those at which a page is full.
SIZES = st.sampled_from([1, 30_000, 33_000, pages.PAGE_BYTES - 2, pages.PAGE_BYTES]) | (
    st.integers(1, pages.PAGE_BYTES + 2)
)


@given(st.lists(SIZES, max_size=12))
def test_pages(sizes: list[int]) -> None:
    rows = list(enumerate(sizes))
    found, after, count, more = list[int](), -1, 0, True
    while more:
        taken = list[int]()

        def encoded(row: tuple[int, int], taken: list[int] = taken) -> bytes:
            taken.append(row[0])
            return b"7" * row[1]

        data, more = pages.page([row for row in rows if row[0] > after], encoded)
        assert len(data) <= pages.PAGE_BYTES
        assert len(ms.encode_packet(ms.Answer(ms.MAX_ID, Raw(data)))) <= ms.MAX_ANSWER_BYTES
        # What was asked for and is not in it: too long for any page, or the first of the next.
        inside = [len(one) for one in data[1:-1].split(b",") if one]
        page = [number for number in taken if sizes[number] + 2 <= pages.PAGE_BYTES]
        page = page[:-1] if more else page
        assert [sizes[number] for number in page] == inside
        assert page or not more
        found += page
        after = page[-1] if page else after
        count += 1
    assert found == [number for number, size in rows if size + 2 <= pages.PAGE_BYTES]
