"""The Python of pages runs as it stands; this is what is no whole program by itself."""

from __future__ import annotations

import asyncio
import socket
import textwrap
from collections.abc import Iterator
from ctypes import byref
from typing import Any

import pytest

from tests import pages


def blocks(page: str) -> list[str]:
    return [block.text for block in pages.blocks(page, "python")]


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
