"""The reference page: what it shows is what the code says, and its program in C works."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import typing
from pathlib import Path

import pytest

from openqwave.ipc import asking, serving
from openqwave.ipc import messages as ms
from openqwave.ipc.pages import page_of
from openqwave.ipc.programs import ProgramRow, StartedRun, started_run_of
from openqwave.ipc.rows import FlowRow, PathRow
from openqwave.ipc.values import (
    fundamentals_of,
    packet_priority_of,
    path_status_of,
    rate_of,
    status_of,
    traffic_of,
)
from openqwave.model.codes import ErrorCode
from openqwave.model.estimates import CongestionReason
from openqwave.model.flow import NoticeKind, RateReason, Shaping, TrafficType
from openqwave.model.path import LinkType
from openqwave.service.refusals import OF_A_USER, OF_ALL
from tests.unit.joined_ends import client_events, service_events

PAGE = (Path(__file__).parents[2] / "docs" / "control-protocol.md").read_text(encoding="utf-8")
LINES = re.findall(r"^([CS]) (\{.*\})$", PAGE, re.MULTILINE)
BROKEN = '{"type":"set_dscp","id":1,"flow":3}'
READERS = {
    "fundamentals": fundamentals_of,
    "packet_priority": packet_priority_of,
    "outgoing_rate": rate_of,
    "path": path_status_of,
    "traffic": traffic_of,
}


def section(title: str) -> str:
    """The text under a heading."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^##)", PAGE + "\n##", re.M | re.S)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(("who", "text"), LINES)
def test_every_packet_of_the_page_is_one(who: str, text: str) -> None:
    if text == BROKEN:
        return
    data = text.encode()
    if who == "C":
        assert ms.encode_packet(ms.decode_request(data)) == data
    else:
        reply = ms.decode_reply(data)
        assert ms.encode_packet(reply) == data
        if isinstance(reply, ms.Refused | ms.Lost | ms.Farewell):
            assert ErrorCode(reply.code).name == reply.name


def test_every_packet_is_on_the_page() -> None:
    shown = {json.loads(text)["type"] for _, text in LINES}
    kinds = (ms.Hello, *typing.get_args(ms.Request), *typing.get_args(ms.Reply))
    assert shown == {kind.__struct_config__.tag for kind in kinds}
    assert len(LINES) > 60


def test_every_field_is_on_the_page() -> None:
    rows = (FlowRow, PathRow, ProgramRow, StartedRun, ms.RefusalRow)
    kinds = (ms.Hello, *typing.get_args(ms.Request), *typing.get_args(ms.Reply), *rows)
    told = set(re.findall(r"[`\"](\w+)[`\"]", PAGE))
    assert {field for kind in kinds for field in kind.__struct_fields__} <= told


def test_examples_of_answers_are_what_the_questions_ask_for() -> None:
    questions = dict[int, str]()
    seen = set[str]()
    for who, text in re.findall(r"^([CS]) (\{.*\})$", section("query"), re.M):
        if who == "C":
            query = ms.decode_request(text.encode())
            assert isinstance(query, ms.Query)
            questions[query.id] = query.question
        elif isinstance(answer := ms.decode_reply(text.encode()), ms.Answer):
            READERS[questions[answer.id]](bytes(answer.value))
            seen.add(questions[answer.id])
    assert seen == set(READERS)


def test_examples_of_lists() -> None:
    kinds = iter((int, int, FlowRow, PathRow))
    for _, text in re.findall(
        r"^(S) (\{.*\})$", section("enumerate_flows, list_flows, list_paths"), re.M
    ):
        answer = ms.decode_reply(text.encode())
        assert isinstance(answer, ms.Answer)
        assert page_of(bytes(answer.value), next(kinds))[0]
    listed = re.findall(r"^S (\{.*\})$", section("start_run, end_run, list_programs"), re.M)
    started, adopted, programs, _ = (ms.decode_reply(text.encode()) for text in listed)
    assert isinstance(started, ms.Answer)
    assert isinstance(adopted, ms.Answer)
    assert isinstance(programs, ms.Answer)
    assert started_run_of(bytes(started.value)).run == 3
    assert started_run_of(bytes(adopted.value)).adopted == 3
    assert [row.kind for row in page_of(bytes(programs.value), ms.ProgramRow)[0]] == ["run", "rule"]
    (text,) = re.findall(r"^S (\{.*\})$", section("list_refusals"), re.M)
    answer = ms.decode_reply(text.encode())
    assert isinstance(answer, ms.Answer)
    refusals, _ = page_of(bytes(answer.value), ms.RefusalRow)
    assert [(row.name, ErrorCode(row.code).name, row.times) for row in refusals] == [
        ("ERROR_NO_SYSTEM_RESOURCES", "ERROR_NO_SYSTEM_RESOURCES", 1),
        ("ERROR_NETWORK_BUSY", "ERROR_NETWORK_BUSY", 3),
    ]
    (text,) = re.findall(r"^S (\{.*\})$", section("status"), re.M)
    answer = ms.decode_reply(text.encode())
    assert isinstance(answer, ms.Answer)
    assert status_of(bytes(answer.value)).protocol == ms.PROTOCOL_VERSION


def test_limits_on_the_page() -> None:
    limits = serving.PeerLimits()
    for number in (
        f"{ms.MAX_REQUEST_BYTES:,} bytes",
        f"{ms.MAX_ANSWER_BYTES:,} bytes",
        f"with a packet | {ms.MAX_DESCRIPTORS} |",
        f"{limits.outstanding:,} on a connection",
        f"{limits.pause_bytes // 1024} KiB",
        f"{limits.queue_bytes >> 20} MiB",
        f"{ms.MAX_PROGRAM_CHARS} characters at most",
        f"This is version {ms.PROTOCOL_VERSION}",
        f"remembers {OF_A_USER:,} of a user and {OF_ALL:,} in all",
        *(f"| `{feature}` |" for feature in ms.FEATURES),
    ):
        assert number in PAGE
    assert ms.MAX_ID == 2**53 - 1


def test_numbers_on_the_page() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section("Numbers"), re.M))
    for name, kind in (
        ("traffic_type", TrafficType),
        ("shaping", Shaping),
        ("reason", RateReason),
        ("kind", NoticeKind),
    ):
        words = [word.strip() for word in rows[name].split("|")]
        assert len([word for word in words if word]) == len(kind)
        assert [number for number, word in enumerate(words) if word] == [int(one) for one in kind]


def test_words_on_the_page() -> None:
    for word in (
        *(reason.name.lower() for reason in CongestionReason),
        *(link.value for link in LinkType),
    ):
        assert f"`{word}`" in section("query")


def test_the_session_is_one() -> None:
    """Both ends hold every line of it for in order."""
    service, client = serving.ServiceEnd(serving.PeerLimits()), asking.ClientEnd("player")
    for who, text in re.findall(r"^([CS]) (\{.*\})$", section("A session"), re.M):
        data = text.encode()
        if who == "C":
            message = ms.decode_request(data)
            own = client.hello() if isinstance(message, ms.Hello) else client.request(message)
            assert own == data
            service.receive_packet(data, int(isinstance(message, ms.AddSocket)))
            (event,) = service_events(service)
            assert not isinstance(event, serving.Violated)
            if isinstance(event, serving.Opened):
                service.welcome(service="qwaved", lends=False)
        else:
            reply = ms.decode_reply(data)
            if isinstance(reply, ms.Answer | ms.Refused):
                service.answer(reply.id, b"null")
            client.receive_packet(data)
            assert len(client_events(client)) == 1
    assert client.is_over
    assert service.is_over
    assert (client.next_event(), service.outstanding) == (None, 0)


def test_what_breaks_the_protocol_is_said_so() -> None:
    end = serving.ServiceEnd(serving.PeerLimits())
    end.receive_packet(LINES[0][1].encode())
    end.welcome(service="", lends=False)
    end.packet_sent()
    end.receive_packet(BROKEN.encode())
    assert ("S", (end.next_packet() or b"").decode()) in LINES


# -- in C -----------------------------------------------------------------------------

COMPILER = shutil.which("cc")


class OneClient:
    """A service for one connection, in a thread.

    Attributes:
        asked: What it was asked.
        descriptors: How many came with each packet.
    """

    def __init__(self, path: Path) -> None:
        self.asked: list[ms.Hello | ms.Request] = []
        self.descriptors: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(20)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def wait(self) -> None:
        """Until the client is gone."""
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        end = serving.ServiceEnd(serving.PeerLimits())
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(20)
            while not end.is_over:
                data, numbers, _, _ = socket.recv_fds(connection, 4_097, 16)
                self.descriptors.append(len(numbers))
                for number in numbers:
                    socket.close(number)
                end.receive_packet(data, len(numbers))
                for event in service_events(end):
                    self._do(end, event)
                while (packet := end.next_packet()) is not None:
                    connection.send(packet)
                    end.packet_sent()

    def _do(self, end: serving.ServiceEnd, event: serving.Event) -> None:
        match event:
            case serving.Opened(hello):
                self.asked.append(hello)
                end.welcome(service="test", lends=False)
            case serving.Asked(request):
                self.asked.append(request)
                end.answer(request.id, b"17" if isinstance(request, ms.AddSocket) else b"null")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_the_program_in_c(tmp_path: Path) -> None:
    found = re.search(r"^```c\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    source, program, path = tmp_path / "a.c", tmp_path / "a", tmp_path / "s"
    source.write_text(found[1], encoding="utf-8")
    subprocess.run(
        [str(COMPILER), "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)],
        check=True,
        timeout=60,
    )
    service = OneClient(path)
    done = subprocess.run(
        [str(program)],
        env={"QWAVE_SOCKET": str(path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    service.wait()
    added = service.asked[1]
    assert isinstance(added, ms.AddSocket)
    assert service.asked == [
        ms.Hello(1, (), "example"),
        ms.AddSocket(1, 0, 4, False, None, 0, number=added.number),
        ms.Close(2),
    ]
    assert service.descriptors == [0, 1, 0]
    assert "flow 17\n" in done.stdout
