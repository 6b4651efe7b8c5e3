"""The Python of the README and of the docs' pages for programs runs as it stands."""

from __future__ import annotations

import asyncio
import re
import socket
import textwrap
from collections.abc import Iterator
from ctypes import byref
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
    ):
        far, _ = server.accept()
        with far:
            yield near


def tos(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)


def test_five_lines_in_a_program(tcp: socket.socket) -> None:
    seen: list[int] = []
    exec(blocks("README.md")[0], {"sock": tcp, "stream": lambda sock: seen.append(tos(sock))})  # noqa: S102 - our own page
    assert seen == [40 << 2]
    assert tos(tcp) == 0


def test_an_adaptive_flow(tcp: socket.socket) -> None:
    import openqwave as qw

    exec(blocks("README.md")[1], {"sock": tcp, "qw": qw})  # noqa: S102 - our own page
    assert tos(tcp) == 0


def test_a_program_for_windows(tcp: socket.socket) -> None:
    names: dict[str, Any] = {"sock": tcp, "byref": byref}
    exec(blocks("README.md")[2], names)  # noqa: S102 - our own page
    assert tos(tcp) == 56 << 2
    assert names["flow_id"].value
    assert names["QOSCloseHandle"](names["handle"])
    assert tos(tcp) == 0


def test_the_first_stream() -> None:
    first, second = blocks("docs/first-stream.md")
    assert "192.0.2.7" in first
    names: dict[str, Any] = {"stream": lambda: [b"packet"], "marks": []}
    # The page's peer is an address for documentation; here it is this machine.
    here = first.replace("192.0.2.7", "127.0.0.1")
    seen = here.replace("sock.send(packet)", "marks.append(sock.getsockopt(0, 1))")
    exec(seen, names)  # noqa: S102 - our own page
    assert names["marks"] == [40 << 2]
    assert tos(names["sock"]) == 0
    names["sock"].close()

    class Transport:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def get_extra_info(self, name: str) -> socket.socket:
            assert name == "socket"
            return self.sock

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        body = textwrap.indent(second + "\n    assert sock.getsockopt(0, 1) == 56 << 2\n", "    ")
        scope: dict[str, Any] = {"transport": Transport(sock)}
        exec(f"async def page():\n{body}", scope)  # noqa: S102 - our own page
        asyncio.run(scope["page"]())
        assert tos(sock) == 0


def test_a_stream_that_adapts(tcp: socket.socket) -> None:
    asked, followed = blocks("docs/adaptive.md")
    names: dict[str, Any] = {"sock": tcp, "marks": []}
    exec(asked + "    marks.append(sock.getsockopt(0, 1))\n", names)  # noqa: S102 - our own page
    assert names["marks"] == [40 << 2]
    assert tos(tcp) == 0
    body = textwrap.indent(followed, "    ")
    exec(f"async def page():\n{body}", names)  # noqa: S102 - our own page
    # To this host itself there is nothing to be told of.
    with pytest.raises(names["qw"].NotSupported):
        asyncio.run(names["page"]())
    assert tos(tcp) == 0
