"""What collectors of metrics may ask, and how numbers become text."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from openqwave.service.metrics.catalogue import METRICS, Kind, Metric
from openqwave.service.metrics.exposition import OPEN, PLAIN, Reading, format_for, text_of, whole
from openqwave.service.metrics.places import Listener, Place, place_of
from openqwave.service.metrics.requests import BOUNDS_NS, Durations
from openqwave.service.metrics.web import MAX_HEAD_BYTES, Answer, Connection, answer_to

GET = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9177"


def ask(head: bytes, *, names_matter: bool = True) -> tuple[int, bytes]:
    found = answer_to(head, str.encode, names_matter=names_matter)
    return found.status, found.body


# -- requests ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (GET, 200),
        (GET.replace(b"GET", b"HEAD"), 200),
        (b"GET /metrics?name[]=x HTTP/1.0", 200),
        (b"GET / HTTP/1.1\r\nHost: localhost", 200),
        (b"GET /metrics HTTP/1.1\r\nHost: [::1]:9177", 200),
        (b"GET /metrics HTTP/1.1\r\nHost: [::1]", 200),
        (b"GET /metrics HTTP/1.1\r\nHost: LOCALHOST:80", 200),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example:9177", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost.evil.example", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1.evil.example:80", 403),
        (b"GET /other HTTP/1.1\r\nHost: localhost", 404),
        (b"GET http://elsewhere/metrics HTTP/1.1", 404),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost", 405),
        (b"CONNECT a:1 HTTP/1.1", 405),
        (b"GET /metrics", 400),
        (b"GET  /metrics HTTP/1.1", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /metrics HTTP/1.1\r\nno colon", 400),
        (b"\x0b\x1c", 400),
        (b"PRI * HTTP/2.0", 505),
    ],
)
def test_a_request_and_its_status(head: bytes, status: int) -> None:
    assert ask(head)[0] == status


def test_names_do_not_matter_where_others_may_ask() -> None:
    assert ask(b"GET /metrics HTTP/1.1\r\nHost: qos.example:9177", names_matter=False)[0] == 200


def test_the_body_is_of_the_type_that_is_taken() -> None:
    assert ask(GET)[1] == PLAIN.encode()
    accept = b"\r\naccept: text/plain;q=0.5, Application/OpenMetrics-Text; version=1.0.0"
    assert ask(GET + accept)[1] == OPEN.encode()


def test_a_head_is_answered_without_the_body() -> None:
    answer = answer_to(GET.replace(b"GET", b"HEAD"), lambda _: b"1234", names_matter=True)
    assert answer.packed().endswith(b"\r\n\r\n")
    assert b"Content-Length: 4\r\n" in answer.packed()


def test_what_is_allowed_is_said() -> None:
    packed = answer_to(b"PUT / HTTP/1.1", str.encode, names_matter=True).packed()
    assert b"\r\nAllow: GET, HEAD\r\n" in packed


# -- connections ------------------------------------------------------------------------


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def test_a_request_may_come_byte_by_byte(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    with ours, theirs:
        ours.setblocking(False)
        connection = Connection(ours, 0.0)
        assert connection.read() is None
        theirs.send(b"\r\n\r\n")
        assert connection.read() is None
        for byte in GET + b"\r\n\r":
            theirs.send(bytes([byte]))
            assert connection.read() is None
        theirs.send(b"\n")
        assert connection.read() == GET
        connection.answer(Answer(200, b"body"), 1.0)
        theirs.send(b"and more")
        assert connection.read() is None
        theirs.settimeout(5)
        assert theirs.recv(4_096).endswith(b"\r\n\r\nbody")
        assert theirs.recv(1) == b""
        assert not connection.is_over
        theirs.close()
        assert connection.read() is None
        assert connection.is_over


def test_a_head_without_an_end_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    with ours, theirs:
        ours.setblocking(False)
        connection = Connection(ours, 0.0)
        theirs.sendall(b"x" * (MAX_HEAD_BYTES + 1) + b"\r\n\r\n")
        found = None
        while found is None:
            found = connection.read()
        assert isinstance(found, Answer)
        assert found.status == 431


# -- text -------------------------------------------------------------------------------

GAUGE = Metric("a_gauge", Kind.GAUGE, "Something.", ("name",))
COUNTER = Metric("a_counter", Kind.COUNTER, "Something.")
INFO = Metric("an", Kind.INFO, "Something.", ("version",))
HISTOGRAM = Metric("a_time_seconds", Kind.HISTOGRAM, "Something.", ("kind",))
AWKWARD = 'back\\slash, "quotes"\nand a line'


def readings() -> list[Reading]:
    counts = tuple(range(len(BOUNDS_NS) + 1))
    return [
        Reading(GAUGE, ((("plain",), 1.5), ((AWKWARD,), 2))),
        Reading(COUNTER, (((), 3),)),
        Reading(INFO, ((("1",), 1),)),
        Reading(HISTOGRAM, ((("x",), Durations(counts, 2_000_000_000)),)),
    ]


def test_the_formats_are_understood_by_those_who_made_them() -> None:
    for content_type, read in ((PLAIN, read_plain), (OPEN, read_open)):
        text = whole([text_of(each, content_type) for each in readings()], content_type)
        families = {family.name: family for family in read(text.decode())}
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert samples["a_gauge", "plain"] == 1.5
        assert samples["a_gauge", AWKWARD] == 2
        assert samples["a_counter_total",] == 3
        assert samples["an_info", "1"] == 1
        assert samples["a_time_seconds_sum", "x"] == 2
        assert samples["a_time_seconds_bucket", "x", "2.5e-05"] == 0
        assert samples["a_time_seconds_bucket", "x", "0.0001"] == 0 + 1 + 2
        every = sum(range(len(BOUNDS_NS) + 1))
        assert samples["a_time_seconds_bucket", "x", "+Inf"] == every
        assert samples["a_time_seconds_count", "x"] == every
        kinds = {family.type for family in families.values()}
        assert kinds >= {"gauge", "counter", "histogram"}


def test_an_answer_of_openmetrics_that_was_cut_is_noticed() -> None:
    text = whole([text_of(each, OPEN) for each in readings()], OPEN).decode()
    with pytest.raises(ValueError, match="EOF"):
        list(read_open(text[: text.rindex("#")]))  # type: ignore[no-untyped-call]  # it says nothing


def test_a_name_that_is_no_text_is_text() -> None:
    text = whole([text_of(Reading(GAUGE, ((("eth\udcff",), 1),)), PLAIN)], PLAIN)
    assert 'name="eth?"' in text.decode()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/plain", PLAIN),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", OPEN),
    ],
)
def test_what_is_taken(accept: str, content_type: str) -> None:
    assert format_for(accept) == content_type


def test_names_are_of_one_metric_each() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert all(
        metric.name.startswith(("qwave_", "process_")) and metric.text.endswith(".")
        for metric in METRICS
    )


# -- places -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "is_of_this_host"),
    [
        ("127.0.0.1:9177", Place(address="127.0.0.1", port=9177), True),
        ("127.9.9.9:1", Place(address="127.9.9.9", port=1), True),
        ("[::1]:65535", Place(address="::1", port=65_535), True),
        ("0.0.0.0:9177", Place(address="0.0.0.0", port=9177), False),  # noqa: S104 - only read
        ("[::]:9177", Place(address="::", port=9177), False),
        ("192.0.2.1:9177", Place(address="192.0.2.1", port=9177), False),
        ("/run/x.sock", Place(path="/run/x.sock"), True),
    ],
)
def test_places(text: str, place: Place, *, is_of_this_host: bool) -> None:
    assert place_of(text) == place
    assert str(place) == text
    assert place.is_of_this_host is is_of_this_host


def test_a_socket_file_is_for_user_and_group_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    first = Listener(Place(path=str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with pytest.raises(OSError, match="in use") as caught:
        Listener(Place(path=str(path)))
    assert caught.value.errno == errno.EADDRINUSE
    # As after a kill.
    first.sock.close()
    again = Listener(Place(path=str(path)))
    again.close()
    assert not path.exists()
    again.close()


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    path.write_text("somebody's")
    with pytest.raises(FileExistsError, match="something else than a socket"):
        Listener(Place(path=str(path)))
    assert path.read_text() == "somebody's"


def test_a_socket_of_somebody_else_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    mine = Listener(Place(path=str(path)))
    os.unlink(path)
    other = Listener(Place(path=str(path)))
    mine.close()
    assert path.exists()
    other.close()
