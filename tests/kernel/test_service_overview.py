"""The whole host as the real service shows it: to root, and to somebody else."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import openqwave as qw
from openqwave.cli.overview.command import Options, run_flows, run_status
from tests.kernel.service_stage import NOBODY, Actor, Qwaved, running

pytestmark = pytest.mark.root

NO_SINK = "[sink]\nenabled = false\n"


@pytest.fixture(scope="module")
def service() -> Iterator[Qwaved]:
    with running(config=NO_SINK) as found:
        yield found


def join(state: dict[str, Any]) -> int:
    """Open a handle and make a flow; in an actor."""
    state["qos"] = qw.open(service=True)
    state["sock"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    state["flow"] = state["qos"].add_socket(
        state["sock"], ("127.0.0.1", 5004), traffic_type=qw.TrafficType.VOICE, adaptive=False
    )
    return int(state["flow"].id)


def look(_: dict[str, Any], what: str) -> dict[str, Any]:
    """Run a command; in an actor."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert {"flows": run_flows, "status": run_status}[what](Options(as_json=True)) == 0
    found = json.loads(out.getvalue())
    assert isinstance(found, dict)
    return found


def test_everybody_sees_their_own_and_root_sees_all(service: Qwaved) -> None:
    with (
        Actor(NOBODY, service=service.socket) as nobody,
        Actor(service=service.socket) as root,
        Actor(NOBODY, service=service.socket) as twin,
    ):
        theirs, ours, twins = (actor.call(join) for actor in (nobody, root, twin))
        seen = root.call(look, "flows")
        assert seen["scope"] == "all"
        assert [(row["flow"], row["pid"], row["uid"]) for row in seen["flows"]] == [
            (theirs, nobody.pid, NOBODY),
            (ours, root.pid, 0),
            (twins, twin.pid, NOBODY),
        ]
        assert seen["flows"][1]["user"] == "root"
        own = nobody.call(look, "flows")
        assert own["scope"] == "own"
        assert [row["flow"] for row in own["flows"]] == [theirs, twins]
        assert own["flows"][0] == seen["flows"][0]
        status = root.call(look, "status")
        assert (status["running"], status["flows"]) == (True, 3)
        assert nobody.call(look, "status")["counters"] == {}


def test_what_a_stream_sends_is_seen(service: Qwaved) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as stream,
        listener.accept()[0] as accepted,
        service.open() as qos,
    ):
        stop = threading.Event()

        def send() -> None:
            while not stop.wait(0.01):
                stream.sendall(bytes(5_000))
                accepted.recv(65_536)

        flow = qos.add_socket(stream, traffic_type=qw.TrafficType.AUDIO_VIDEO, adaptive=False)
        flow.set_rate(20_000_000)
        sender = threading.Thread(target=send)
        sender.start()
        try:
            (row,) = service.show("flows")["flows"]
        finally:
            stop.set()
            sender.join()
        # At most five hundred kilobytes a second, and as many as a busy machine lets pass.
        assert 100_000 < row["sending_bps"] <= 5_000_000
        assert (row["contract_bps"], row["dscp"], row["priority"]) == (20_000_000, 40, 6)
        (shown,) = row["sockets"]
        here, there = stream.getsockname(), stream.getpeername()
        assert shown["local"] == f"127.0.0.1:{here[1]}"
        assert shown["destinations"] == [f"127.0.0.1:{there[1]}"]
        assert row["backend"] == service.show("status")["backend"]["name"]
        assert "the kernel's TCP paces" in row["backend_reason"]


def test_a_thousand_flows_are_listed(service: Qwaved) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        service.open() as qos,
    ):
        for port in range(1, 1_001):
            qos.add_socket(
                sock, ("127.0.0.1", port), traffic_type=qw.TrafficType.VOICE, adaptive=False
            )
        rows = service.show("flows")["flows"]
        assert len(rows) == 1_000
        assert [row["flow"] for row in rows] == sorted(row["flow"] for row in rows)
        assert [row["sockets"][0]["destinations"] for row in rows[:2]] == [
            ["127.0.0.1:1"],
            ["127.0.0.1:2"],
        ]
