"""`qwave flows`, `paths` and `status` against a fake service: questions, pages, documents, ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openqwave.cli.interruption import Interruption
from openqwave.cli.overview import asking, command
from openqwave.cli.overview.asking import NoService, Service, ServiceFailed
from openqwave.cli.overview.command import Options, run_flows, run_paths, run_status
from openqwave.ipc import messages as ms
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from tests.unit.fake_service import LOST, FakeService, Script, fake_service
from tests.unit.terminals import INTERRUPTIBLE, Terminal, environment

BUSY = Refusal(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, "256 handles are open")

TCP = ms.SocketRow(
    cookie=17, protocol="tcp", local="10.0.0.1:40000", destinations=("10.0.1.2:5004",)
)
UDP = ms.SocketRow(
    cookie=18,
    protocol="udp",
    local="[::]:5000",
    destinations=("[2001:db8::2]:5004", "10.0.1.3:9"),
)


def flow(number: int = 1, **fields: Any) -> ms.FlowRow:  # noqa: ANN401 - any field of a row
    usual: dict[str, Any] = {
        "flow": number,
        "pid": 4711,
        "program": "ffmpeg",
        "user": "alice",
        "uid": 1000,
        "adaptive": False,
        "traffic_type": "audio video",
        "marking": "by type",
        "dscp": 40,
        "priority": 6,
        "sockets": (UDP,),
        "socket_count": 1,
        "destination_count": 2,
        "path_state": "none",
        "backend": "socket options",
        "backend_reason": "marks by IP_TOS",
    }
    return ms.FlowRow(**(usual | fields))


PATH = ms.PathRow(
    host="10.0.1.2",
    interface="eth0",
    source="10.0.0.1",
    gateway="10.0.0.254",
    link_type="wired",
    capacity_bps=20_000_000,
    available_bps=12_340_000,
    available_low_bps=11_000_000,
    rtt_ns=2_340_000,
    confidence=0.95,
    age_ns=1_200_000_000,
    congested=False,
    held_bps=4_000_000,
    own_bps=3_900_000,
    sent_bytes=1_230_000,
    flow_count=2,
    tracker_count=1,
)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """A service whose script the test changes."""
    with fake_service(tmp_path, Script()) as service:
        monkeypatch.setenv("QWAVE_SOCKET", str(service.path))
        yield service


def printed(capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401 - JSON is anything
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


# -- questions ------------------------------------------------------------------------


def test_all_pages_are_asked_for(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [flow(number) for number in (3, 5, 8, 13, 21)]
    served.script = Script(flows=lambda _: rows, page_rows=2)
    assert run_flows(Options(as_json=True)) == 0
    assert [row["flow"] for row in printed(capsys)["flows"]] == [3, 5, 8, 13, 21]
    lists = [request for request in served.asked if isinstance(request, ms.ListFlows)]
    assert [request.after for request in lists] == [0, 5, 13]
    assert served.connections == 1


def test_all_pages_of_paths_are_asked_for(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [msgspec.structs.replace(PATH, host=f"10.0.1.{n}") for n in range(5)]
    served.script = Script(paths=rows, page_rows=2)
    assert run_paths(Options(as_json=True)) == 0
    assert [row["host"] for row in printed(capsys)["paths"]] == [row.host for row in rows]
    assert [request.after for request in served.asked if isinstance(request, ms.ListPaths)] == [
        0,
        2,
        4,
    ]


def test_a_service_that_lists_the_same_again_is_left(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    page = msgspec.json.encode({"flows": [flow(1)], "more": True})
    served.script = Script(answers={ms.ListFlows: page})
    assert run_flows(Options()) == 2
    assert "lists the same flows again" in capsys.readouterr().err


@pytest.mark.parametrize("value", [b"17", b'{"flows":[{}],"more":false}', b'{"more":true}'])
def test_what_cannot_be_understood_is_told(
    served: FakeService, capsys: pytest.CaptureFixture[str], value: bytes
) -> None:
    served.script = Script(answers={ms.ListFlows: value, ms.ListPaths: value, ms.AskStatus: value})
    for run in (run_flows, run_paths, run_status):
        assert run(Options()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "cannot be understood" in err


def test_a_refusal_is_told(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    served.script = Script(answers={ms.AskStatus: BUSY})
    assert run_flows(Options()) == 2
    assert capsys.readouterr() == ("", "The service refuses: 256 handles are open.\n")


def test_a_silent_service_is_not_waited_for(served: FakeService) -> None:
    served.script = Script(answers={ms.AskStatus: None})
    with Interruption() as interruption:
        with (
            Service(str(served.path), interruption, 0.05) as service,
            pytest.raises(ServiceFailed, match=r"does not answer within 0\.05 s"),
        ):
            service.status()
        served.script = Script(greeting=None)
        with pytest.raises(NoService, match=r"does not answer within 0\.05 s"):
            Service(str(served.path), interruption, 0.05)


def test_a_signal_ends_the_wait_for_an_answer(
    served: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.script = Script(answers={ms.ListPaths: None})
    waited = Interruption.wait_readable
    waits: list[int] = []

    def wait(self: Interruption, fd: int, timeout_s: float | None = None) -> bool:
        # The first wait is for the welcome.
        waits.append(fd)
        if len(waits) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return waited(self, fd, timeout_s)

    monkeypatch.setattr(Interruption, "wait_readable", wait)
    began_s = time.monotonic()
    assert run_paths(Options()) == 130
    assert time.monotonic() - began_s < asking.PATIENCE_S
    assert capsys.readouterr() == ("", "Interrupted.\n")


def test_a_service_without_room_is_told(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script = Script(greeting=BUSY)
    assert run_flows(Options()) == 2
    assert "said: 256 handles are open. `qwave service install`" in capsys.readouterr().err


def test_a_connection_that_breaks_is_told(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script = Script(drops_after=1)
    assert run_paths(Options()) == 2
    assert "the service is gone" in capsys.readouterr().err


# -- no service -----------------------------------------------------------------------


def test_without_a_service_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nothing.sock"
    monkeypatch.setenv("QWAVE_SOCKET", str(nowhere))
    for run in (run_flows, run_paths):
        assert run(Options()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"No QoS service: there is no {nowhere}. `qwave service install`")
    assert run_status(Options()) == 3
    out, err = capsys.readouterr()
    assert err == ""
    assert "embedded" in out
    assert f"there is no {nowhere}" in out
    assert "qwave service install" in out


def test_the_status_without_a_service_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QWAVE_SOCKET", "")
    assert run_status(Options(as_json=True)) == 3
    found = printed(capsys)
    assert (found["running"], found["programs_run"]) == (False, "embedded")
    assert found["reason"] == "QWAVE_SOCKET is empty, which means that no service is wanted"


def test_why_there_is_no_service(tmp_path: Path) -> None:
    import socket

    def why(path: str) -> str:
        with pytest.raises(NoService) as caught, Interruption() as interruption:
            Service(path, interruption)
        return str(caught.value)

    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(left))
    assert why(str(left)) == f"nobody listens at {left}"
    other = tmp_path / "other"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(other))
        sock.listen()
        assert why(str(other)) == f"what listens at {other} is something else"
    assert "too long" in why("/" + 200 * "x")


def test_a_full_queue_of_connections_is_waited_for(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "full"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
            first.connect(str(tmp_path / "full"))
            with Interruption() as interruption, pytest.raises(NoService, match="takes nobody in"):
                Service(str(tmp_path / "full"), interruption, 0.1)


# -- flows ----------------------------------------------------------------------------


def test_flows_as_a_document(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    served.script = Script(flows=lambda _: [flow(7, contract_bps=5_000_000)])
    assert run_flows(Options(as_json=True)) == 0
    found = printed(capsys)
    assert (found["format"], found["scope"]) == (1, "all")
    assert abs(found["time_ns"] - time.time_ns()) < 10**10
    (row,) = found["flows"]
    # Each field is there, also what is not known.
    assert set(row) == set(ms.FlowRow.__struct_fields__)
    assert (row["flow"], row["contract_bps"], row["sending_bps"]) == (7, 5_000_000, None)
    assert row["sockets"] == [
        {
            "cookie": 18,
            "protocol": "udp",
            "local": "[::]:5000",
            "destinations": ["[2001:db8::2]:5004", "10.0.1.3:9"],
        }
    ]


def test_flows_as_a_table(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        flow(7, contract_bps=5_000_000, shaping="shape and mark"),
        flow(
            8,
            sockets=(TCP,),
            destination_count=1,
            sending_bps=8_130_000,
            adaptive=True,
            host="10.0.1.2",
            path_state="congested",
            marking="exact DSCP",
            backend_reason="marks by IP_TOS; the kernel's TCP paces",
            pcp=5,
        ),
        flow(9, dscp=None, priority=None, backend="none", backend_reason="a rate of 0 ended it"),
    ]
    served.script = Script(flows=lambda _: rows)
    assert run_flows(Options()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "flow  user   program   pid  type         DSCP  contract  sends  path",
        "   7  alice  ffmpeg   4711  audio video    40      5.00      ?  -",
        "    udp [::]:5000 > [2001:db8::2]:5004, 10.0.1.3:9; queue 6; socket options (a)",
        "   8  alice  ffmpeg   4711  audio video    40         -   8.13  congested",
        "    tcp 10.0.0.1:40000 > 10.0.1.2:5004; path to 10.0.1.2; exact DSCP; 802.1p 5; "
        "queue 6; socket options (b)",
        "   9  alice  ffmpeg   4711  audio video     -         -      ?  -",
        "    udp [::]:5000 > [2001:db8::2]:5004, 10.0.1.3:9; no backend (c)",
        "(a) socket options: marks by IP_TOS.",
        "(b) socket options: marks by IP_TOS; the kernel's TCP paces.",
        "(c) none: a rate of 0 ended it.",
        "Rates are in Mbit/s.",
    ]


def test_of_many_sockets_a_few_are_shown(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    many = replace_socket(UDP, destinations=tuple(f"10.0.1.{n}:9" for n in range(5)))
    row = flow(1, sockets=(many,) * 16, socket_count=31, destination_count=155)
    served.script = Script(flows=lambda _: [row])
    assert run_flows(Options()) == 0
    below = capsys.readouterr().out.splitlines()[2]
    assert below.startswith("    udp [::]:5000 > 10.0.1.0:9, 10.0.1.1:9 and 3 more; udp")
    assert "; and 28 more sockets; 155 destinations in all; " in below


def replace_socket(row: ms.SocketRow, **fields: Any) -> ms.SocketRow:  # noqa: ANN401 - any field
    return msgspec.structs.replace(row, **fields)


def test_who_is_no_administrator_is_told(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script = Script(flows=lambda _: [flow()], is_administrator=False)
    assert run_flows(Options()) == 0
    assert capsys.readouterr().out.endswith("Showing only your flows; root sees all.\n")
    assert run_flows(Options(as_json=True)) == 0
    assert printed(capsys)["scope"] == "own"
    served.script = Script(is_administrator=False)
    assert run_flows(Options()) == 0
    assert capsys.readouterr().out == "No flows.\nShowing only your flows; root sees all.\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), [1, 2, 3, 4]),
        (Options(user="alice"), [1, 3, 4]),
        (Options(user="1000"), [1, 3, 4]),
        (Options(user="bob"), [2]),
        (Options(user="nobody"), []),
        (Options(pid=12), [3]),
        (Options(user="bob", pid=12), []),
        (Options(host="10.0.1.2"), [2, 4]),
        (Options(host="2001:db8:0::2"), [1, 3]),
        (Options(host="10.0.1.77"), []),
        (Options(host="10.0.1.2", user="bob"), [2]),
        # A name in the host's own table.
        (Options(host="localhost"), []),
    ],
)
def test_filters(
    served: FakeService,
    capsys: pytest.CaptureFixture[str],
    options: Options,
    expected: list[int],
) -> None:
    rows = [
        flow(1),
        flow(2, user="bob", uid=1001, sockets=(replace_socket(TCP, protocol="udp"),)),
        flow(3, pid=12),
        flow(4, host="10.0.1.2", sockets=(), socket_count=1),
    ]
    served.script = Script(flows=lambda _: rows)
    assert run_flows(replace(options, as_json=True)) == 0
    assert [row["flow"] for row in printed(capsys)["flows"]] == expected
    assert run_flows(options) == 0
    assert ("No such flows." in capsys.readouterr().out) == (not expected)


def test_a_host_that_does_not_exist_is_told(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in (run_flows, run_paths):
        assert run(Options(host="no\x1b such")) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "no\\x1b such" in err
    assert served.asked == []


@pytest.mark.usefixtures("passing")
def test_rates_of_streams_are_waited_for(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown, known = flow(1, sockets=(TCP,)), flow(1, sockets=(TCP,), sending_bps=5)
    served.script = Script(flows=lambda look: [unknown if look == 0 else known])
    assert run_flows(Options(as_json=True)) == 0
    assert printed(capsys)["flows"][0]["sending_bps"] == 5
    assert served.looks == 2
    # What is not known then stays so.
    served.looks, served.script = 0, Script(flows=lambda _: [unknown])
    assert run_flows(Options(as_json=True)) == 0
    assert printed(capsys)["flows"][0]["sending_bps"] is None
    assert served.looks == 3


@pytest.mark.usefixtures("passing")
def test_rates_of_datagrams_that_are_counted_are_waited_for(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    row = flow(1, sent_packets=0, sent_bytes=0)
    known = flow(1, sent_packets=4, sent_bytes=400, sending_bps=5)
    served.script = Script(flows=lambda look: [row if look == 0 else known])
    assert run_flows(Options(as_json=True)) == 0
    assert printed(capsys)["flows"][0]["sending_bps"] == 5
    assert served.looks == 2


def test_what_a_flow_has_sent(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        flow(1, sent_packets=1, sent_bytes=1_200, sending_bps=0),
        flow(
            2,
            sent_packets=12_345,
            sent_bytes=16_200_000,
            excess_packets=40,
            excess_bytes=52_000,
            dropped_packets=3,
            sending_bps=0,
        ),
    ]
    served.script = Script(flows=lambda _: rows)
    assert run_flows(Options()) == 0
    lines = " ".join(capsys.readouterr().out.split())
    assert "sent 1 packet (1 kB); queue 6" in lines
    assert (
        "sent 12,345 packets (16.20 MB); above the contract 40 packets (52 kB); dropped 3 packets"
        in lines
    )


@pytest.mark.usefixtures("passing")
def test_addresses_of_sockets_are_waited_for_once(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = flow(1, sockets=(replace_socket(UDP, local=None),))
    served.script = Script(flows=lambda look: [unknown if look == 0 else flow(1)])
    assert run_flows(Options(as_json=True)) == 0
    assert printed(capsys)["flows"][0]["sockets"][0]["local"] == "[::]:5000"
    assert served.looks == 2
    served.looks, served.script = 0, Script(flows=lambda _: [unknown])
    assert run_flows(Options(as_json=True)) == 0
    assert printed(capsys)["flows"][0]["sockets"][0]["local"] is None
    assert served.looks == 2


@pytest.mark.parametrize(
    "row",
    [
        flow(1, sockets=(TCP,), sending_bps=0),
        flow(1, sockets=(UDP,)),
        flow(1, sockets=(TCP, UDP), socket_count=2),
        flow(1, sockets=(TCP,), socket_count=2),
    ],
)
def test_what_will_not_be_known_is_not_waited_for(
    served: FakeService, capsys: pytest.CaptureFixture[str], row: ms.FlowRow
) -> None:
    served.script = Script(flows=lambda _: [row])
    assert run_flows(Options()) == 0
    assert served.looks == 1
    capsys.readouterr()


# -- hostile text ---------------------------------------------------------------------

EVIL = "\x1b[2Jx\x07\n\r\u202e[bold]\u2028\x9b"


def test_names_do_nothing_to_a_terminal(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    socket_row = ms.SocketRow(cookie=1, protocol=EVIL, local=EVIL, destinations=(EVIL,))
    row = flow(
        1,
        program=EVIL,
        user=EVIL,
        traffic_type=EVIL,
        marking=EVIL,
        shaping=EVIL,
        host=EVIL,
        path_state=EVIL,
        backend=EVIL,
        backend_reason=EVIL,
        sockets=(socket_row,),
    )
    path = msgspec.structs.replace(
        PATH,
        host=EVIL,
        interface=EVIL,
        source=EVIL,
        gateway=EVIL,
        link_type=EVIL,
        congestion_reason=EVIL,
        obstacle=EVIL,
    )
    status = msgspec.structs.replace(
        served.script.status,
        service=EVIL,
        version=EVIL,
        socket=EVIL,
        config_file=EVIL,
        backend=ms.BackendRow(name=EVIL, reason=EVIL),
        sink=ms.SinkRow(on=True, reason=EVIL),
        memory=ms.MemoryRow(path=EVIL, state=EVIL),
        counters={EVIL: 1},
    )
    served.script = Script(flows=lambda _: [row], paths=[path], status=status)
    for run in (run_flows, run_paths, run_status):
        for as_json in (False, True):
            assert run(Options(as_json=as_json)) == 0
            out, _ = capsys.readouterr()
            assert all(character.isprintable() or character == "\n" for character in out), run
            assert ("[bold]" in out, "\\u202e" in out) == (True, True)


def test_what_a_service_says_does_nothing_to_a_terminal(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script = Script(greeting=Refusal(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, EVIL))
    assert run_flows(Options()) == 2
    assert capsys.readouterr().err.rstrip("\n").isprintable()
    assert run_status(Options()) == 3
    assert "\x1b" not in capsys.readouterr().out
    served.script = Script(
        answers={ms.ListPaths: Refusal(ErrorCode.ERROR_NO_SYSTEM_RESOURCES, EVIL)}
    )
    assert run_paths(Options()) == 2
    assert capsys.readouterr().err.rstrip("\n").isprintable()


# -- paths ----------------------------------------------------------------------------


def test_paths_as_a_table(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ms.PathRow(host="2001:db8::9", obstacle="no sink answers there"),
        msgspec.structs.replace(
            PATH,
            host="10.0.1.3",
            gateway=None,
            on_link=True,
            congested=True,
            congestion_reason="a queue stands on the way",
            available_bps=0,
            available_low_bps=None,
            own_bps=None,
            tracker_count=0,
            sent_bytes=0,
            is_remembered=True,
        ),
        PATH,
    ]
    served.script = Script(paths=rows)
    assert run_paths(Options()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "host         capacity  free  held      RTT  flows    age  state",
        "10.0.1.2         20.0  12.3  4.00  2.34 ms      2  1.2 s  measured",
        "    wired eth0, by 10.0.0.254, from 10.0.0.1; at least 11.0 free, 95 % sure; "
        "flows under contract send 3.90; tracked by 1 handle; experiments sent 1.23 MB",
        "10.0.1.3         20.0     0  4.00  2.34 ms      2  1.2 s  congested",
        "    a queue stands on the way; wired eth0, on the link, from 10.0.0.1; "
        "the numbers are of earlier experiments",
        "2001:db8::9         ?     ?     0        ?      0      ?  unmeasured",
        "    no sink answers there",
        "Rates are in Mbit/s; free is what nobody used when it was measured.",
    ]


def test_one_path(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    other = msgspec.structs.replace(PATH, host="fe80::1%eth0")
    served.script = Script(paths=[PATH, other])
    for host, count in (("10.0.1.2", 1), ("fe80::1", 1), ("10.0.1.9", 0)):
        assert run_paths(Options(host=host, as_json=True)) == 0
        assert len(printed(capsys)["paths"]) == count
    assert run_paths(Options(host="10.0.1.9")) == 0
    assert capsys.readouterr().out == "No such paths.\n"
    served.script = Script()
    assert run_paths(Options()) == 0
    assert capsys.readouterr().out == "No paths.\n"


# -- status ---------------------------------------------------------------------------


def test_the_status(served: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_status(Options()) == 0
    assert capsys.readouterr().out.splitlines() == [
        "service        qwaved 0.1, process 4711, for 62 min",
        "version        0.1, control protocol 1",
        "socket         /run/qwave/qwaved.sock",
        "configuration  /etc/qwave/qwaved.toml",
        "marks by       socket options: no kernel data plane",
        "clients        2 connections, 2 handles",
        "flows          3",
        "paths          1",
        "sockets        descriptors are fetched from the programs when they are needed",
        "sink           on",
        "memory         /var/lib/qwave/paths.sqlite3: good",
        "counted        3 protocol violations",
    ]
    assert run_status(Options(as_json=True)) == 0
    found = printed(capsys)
    assert found["running"] is True
    assert found["backend"] == {"name": "socket options", "reason": "no kernel data plane"}
    assert found["counters"] == {"protocol violations": 3}
    assert served.asked == [ms.AskStatus(1), ms.AskStatus(1)]


# -- watching -------------------------------------------------------------------------


class Time:
    """Time that passes when it is waited for, and a little with each look."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.look_s = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def pause(self, interruption: Interruption, timeout_s: float) -> None:
        interruption.check()
        self.pauses.append(round(timeout_s, 6))
        self.now_s += timeout_s

    def look(self, service: Service) -> ms.StatusRow:
        self.now_s += self.look_s
        return _status_of(service)


_status_of = Service.status


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Time:
    passing = Time()

    def pause(self: Interruption, timeout_s: float) -> None:
        passing.pause(self, timeout_s)

    def status(self: Service) -> ms.StatusRow:
        return passing.look(self)

    monkeypatch.setattr(command, "time", passing)
    monkeypatch.setattr(Interruption, "pause", pause)
    monkeypatch.setattr(Service, "status", status)
    return passing


@pytest.mark.usefixtures("passing")
def test_watching_prints_a_document_a_line(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script = Script(flows=lambda look: [flow(1, sending_bps=look)])
    assert run_flows(Options(as_json=True, watches=True, watch_s=4.5)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["flows"][0]["sending_bps"] for line in lines] == [0, 1, 2, 3, 4]
    assert served.connections == 1


@pytest.mark.usefixtures("passing")
def test_watching_into_a_file_prints_pages(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script = Script(paths=[PATH])
    assert run_paths(Options(watches=True, watch_s=1.5)) == 0
    pages = capsys.readouterr().out.split("\n\n")
    assert len(pages) == 3
    assert all(re.match(r"\d\d:\d\d:\d\d\nhost ", page) for page in pages[:2])
    assert pages[2] == ""


def test_looks_come_as_often_as_asked_for_but_leave_the_service_time(
    served: FakeService, capsys: pytest.CaptureFixture[str], passing: Time
) -> None:
    passing.look_s = 0.25
    assert run_status(Options(watches=True, interval_s=2.0, watch_s=6.0)) == 0
    assert passing.pauses == [1.75, 1.75]
    passing.look_s, passing.pauses = 3.0, []
    assert run_status(Options(watches=True, interval_s=2.0, watch_s=20.0)) == 0
    assert passing.pauses == [3.0, 3.0, 3.0]
    assert len(served.asked) == 3 + 4
    capsys.readouterr()


@pytest.mark.usefixtures("passing")
def test_a_lost_handle_is_another_connection(
    served: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    served.script = Script(loses_after=2)
    assert run_status(Options(as_json=True, watches=True, watch_s=2.5)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert served.connections == 2
    # One that is lost at once is no reason to go on for ever.
    served.script = Script(answers={ms.AskStatus: LOST})
    assert run_status(Options(watches=True, watch_s=2.5)) == 2


@pytest.mark.usefixtures("passing")
def test_a_status_is_watched_before_the_service_starts_and_after_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWAVE_SOCKET", str(tmp_path / "qwaved.sock"))
    assert run_status(Options(as_json=True, watches=True, watch_s=1.5)) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["running"] for each in found] == [False, False]


# -- as a program ---------------------------------------------------------------------


def lines_of(text: str) -> list[str]:
    """What stands on the lines that were drawn, without what moved the cursor."""
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return re.split(r"[\r\n]+", bare)


def test_watching_on_a_terminal_is_ended_by_ctrl_c(served: FakeService) -> None:
    rows = [flow(number, program=EVIL + "漢字" * 20, user="u" * 40) for number in range(1, 40)]
    served.script = Script(flows=lambda look: [*rows, flow(1_000 + look)])
    terminal = Terminal(["flows", "--watch", "--interval", "0.1"], environment(served))
    terminal.read_until(3, "do not fit here")
    terminal.type(b"\x03")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    # The cursor is given back.
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
    drawn = lines_of(terminal.text)
    from openqwave.cli.overview.words import cells

    assert max(map(cells, drawn)) <= 80
    assert "... and 31 more flows, which do not fit here" in drawn
    assert any("\\x1b" in line for line in drawn)
    assert "\x1b[2J" not in terminal.text
    assert "\x07" not in terminal.text


@pytest.mark.parametrize(
    ("arguments", "more", "has_colour", "has_controls"),
    [
        (["paths"], {}, True, True),
        (["paths"], {"NO_COLOR": "1"}, False, True),
        (["paths"], {"TERM": "dumb"}, False, False),
        (["paths", "--json"], {}, False, False),
    ],
)
def test_colours_on_a_terminal(
    served: FakeService,
    arguments: list[str],
    more: dict[str, str],
    has_colour: bool,
    has_controls: bool,
) -> None:
    served.script = Script(paths=[PATH])
    terminal = Terminal(arguments, environment(served, **more))
    assert terminal.end() == 0
    assert bool(re.search(r"\x1b\[(\d+;)*3\dm", terminal.text)) == has_colour
    assert ("\x1b" in terminal.text) == has_controls
    assert "10.0.1.2" in terminal.text
    assert max(map(len, lines_of(terminal.text))) <= 80


def test_an_interrupted_watch_into_a_pipe_ends_with_0(served: FakeService) -> None:
    served.script = Script(flows=lambda _: [flow(1, program="naïve…")])
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "flows", "--watch", "--interval", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(served, PYTHONIOENCODING="ascii"),
    )
    assert process.stdout is not None
    first = process.stdout.read(200)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    text = (first + rest).decode("ascii")
    assert "na\\xefve~" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["flows", "--interval", "1"], "--interval goes with --watch"),
        (["paths", "--for", "1"], "--for goes with --watch"),
        (["status", "--watch", "--interval", "nan"], "is not from 0.1 to 86400"),
        (["flows", "--pid", "x"], "--pid"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openqwave.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
