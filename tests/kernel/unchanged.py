"""Programs that know nothing of marks, on two hosts, and what of theirs arrives.

Each consists of a server, and of a client that has it send something and ends. `Wire` tells their
packets by the server's port.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from openqwave.lab.capture import Capture, CapturedPacket, Direction
from tests.patience import until

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

# A bound for what takes a second or two.
PATIENCE_S = 60.0
# 64 MB of ring.
FRAMES = 65_536
TCP, UDP = 6, 17

# In /proc/net/tcp: listening, and over but for stray packets.
_LISTENING, _OVER = 0x0A, 0x06

HTTP = """
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "300000")
        self.end_headers()
        self.wfile.write(bytes(300_000))
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server(("::", int(sys.argv[1])), Handler).serve_forever()
"""

ASYNCIO_SERVER = """
import asyncio, sys
async def serve(reader, writer):
    await reader.readexactly(100_000)
    writer.write(bytes(300_000))
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, None, int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""

ASYNCIO_CLIENT = """
import asyncio, sys
async def ask():
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    writer.write(bytes(100_000))
    assert len(await reader.read(-1)) == 300_000
    writer.close()
    await writer.wait_closed()
async def main():
    await asyncio.gather(*[ask() for _ in range(4)])
asyncio.run(main())
"""

QUIC_SERVER = """
import asyncio, sys
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration
def answer(reader, writer):
    async def work():
        await reader.read()
        writer.write(bytes(300_000))
        writer.write_eof()
    tasks.append(asyncio.ensure_future(work()))
tasks = []
async def main():
    configuration = QuicConfiguration(is_client=False)
    configuration.load_cert_chain(sys.argv[2], sys.argv[3])
    await serve("::", int(sys.argv[1]), configuration=configuration, stream_handler=answer)
    await asyncio.Event().wait()
asyncio.run(main())
"""

QUIC_CLIENT = """
import asyncio, ssl, sys
from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration
async def main():
    configuration = QuicConfiguration(verify_mode=ssl.CERT_NONE)
    async with connect(sys.argv[1], int(sys.argv[2]), configuration=configuration) as client:
        reader, writer = await client.create_stream()
        writer.write(bytes(100_000))
        writer.write_eof()
        assert len(await reader.read()) == 300_000
asyncio.run(main())
"""


@dataclass(frozen=True)
class Program:
    """A server and a client.

    Attributes:
        name: What it is called.
        server: Its command, of a folder and a port.
        client: Its command, of a folder, the server's address and its port.
        protocols: What it sends by, by number.
        prepare: Makes what both need in a folder.
        own_marks: What it marks packets with by itself, beside 0.
    """

    name: str
    server: Callable[[Path, int], list[str]]
    client: Callable[[Path, str, int], list[str]]
    protocols: frozenset[int] = frozenset({TCP})
    prepare: Callable[[Path], None] = lambda _: None
    own_marks: frozenset[int] = frozenset()

    def __str__(self) -> str:
        return self.name


def _iperf(name: str, *options: str, protocols: frozenset[int] = frozenset({TCP})) -> Program:
    return Program(
        name,
        lambda _, port: ["iperf3", "-s", "-p", str(port)],
        lambda _, address, port: ["iperf3", "-c", address, "-p", str(port), *options],
        protocols,
    )


def _python(text: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", text, *map(str, arguments)]


# The folder that it insists on, empty and root's, is there for it alone.
_SSHD = 'mount -t tmpfs -o mode=755 none /run && mkdir /run/sshd && exec "$0" "$@"'


def _sshd() -> str:
    """Where the server is, which ordinary users do not look for; empty for nowhere."""
    return shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin") or ""


def _prepare_ssh(folder: Path) -> None:
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name],  # noqa: S607
            check=True,
            stdin=subprocess.DEVNULL,
        )
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\n"
        "PermitRootLogin yes\nUsePAM no\nPidFile none\nPasswordAuthentication no\n"
    )


def _prepare_quic(folder: Path) -> None:
    out = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", *out],  # noqa: S607
        check=True,
        capture_output=True,
    )


PROGRAMS = (
    _iperf("iperf3", "-n", "300K", "-P", "2"),
    _iperf("iperf3 --udp", "-u", "-b", "2M", "-n", "100K", protocols=frozenset({TCP, UDP})),
    Program(
        "curl",
        lambda _, port: _python(HTTP, port),
        lambda folder, address, port: [
            *("curl", "--silent", "--fail", "--globoff", "--output", f"{folder}/fetched-{port}"),
            f"http://{_in_url(address)}:{port}/",
        ],
    ),
    Program(
        "ssh",
        lambda folder, port: [
            *("unshare", "--mount", "sh", "-c", _SSHD, _sshd(), "-D", "-e"),
            *("-p", str(port), "-f", f"{folder}/sshd_config"),
        ],
        lambda folder, address, port: [
            *("ssh", "-p", str(port), "-i", f"{folder}/user", "-F", "none", "-o", "BatchMode=yes"),
            *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known"),
            *("-o", "LogLevel=ERROR", f"root@{address}", "head -c 300000 /dev/zero"),
        ],
        prepare=_prepare_ssh,
        # AF21 where somebody types and CS1 elsewhere (ssh_config(5), IPQoS), EF in later versions;
        # Debian's has the older lowdelay and throughput.
        own_marks=frozenset({18, 8, 46, 4, 2}),
    ),
    Program(
        "asyncio",
        lambda _, port: _python(ASYNCIO_SERVER, port),
        lambda _, address, port: _python(ASYNCIO_CLIENT, address, port),
    ),
    Program(
        "quic",
        lambda folder, port: _python(QUIC_SERVER, port, f"{folder}/cert.pem", f"{folder}/key.pem"),
        lambda _, address, port: _python(QUIC_CLIENT, address, port),
        protocols=frozenset({UDP}),
        prepare=_prepare_quic,
    ),
)


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def skip_without(program: Program) -> None:
    """Skip a test whose programs this machine has not."""
    needed = {"iperf3": ["iperf3"], "curl": ["curl"], "ssh": ["ssh", "ssh-keygen"]}
    for tool in needed.get(program.name.split()[0], []):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    if program.name == "ssh" and not _sshd():
        pytest.skip("needs sshd")
    if program.name == "quic":
        pytest.importorskip("aioquic")


def sockets_of(host: Host, *kinds: str) -> list[tuple[int, int]]:
    """Ports of a host's sockets, and the state that each is in."""

    def read() -> list[tuple[int, int]]:
        found = []
        for kind in kinds:
            for line in Path(f"/proc/thread-self/net/{kind}").read_text().splitlines()[1:]:
                local, remote, state = line.split()[1:4]
                ports = {int(end.rpartition(":")[2], 16) for end in (local, remote)}
                found += [(port, int(state, 16)) for port in ports]
        return found

    return host.run(read)


def wait_for_server(host: Host, port: int, protocols: frozenset[int]) -> None:
    """Wait until somebody listens."""
    if TCP in protocols:
        until(lambda: (port, _LISTENING) in sockets_of(host, "tcp", "tcp6"), f"no server at {port}")
    else:
        until(lambda: port in dict(sockets_of(host, "udp", "udp6")), f"no server at {port}")


def wait_for_end(hosts: Sequence[Host], port: int) -> None:
    """Wait until TCP connections of a port have exchanged all that they have to say."""

    def is_over() -> bool:
        return not any(
            each == port and state not in (_LISTENING, _OVER)
            for host in hosts
            for each, state in sockets_of(host, "tcp", "tcp6")
        )

    until(is_over, f"connections of {port} do not end")


@dataclass
class Wire:
    """What the left host has sent since this was made."""

    capture: Capture
    seen: list[CapturedPacket] = field(default_factory=list)

    def look(self) -> None:
        """Take what has arrived."""
        self.seen += [each for each in self.capture.packets() if each.protocol in (TCP, UDP)]

    def count(self) -> int:
        """How many packets have come so far."""
        self.look()
        return len(self.seen)

    def of(self, port: int) -> list[CapturedPacket]:
        """Packets from or to a port."""
        self.look()
        return [each for each in self.seen if port in (each.source_port, each.destination_port)]

    def marks(self, port: int) -> Counter[int]:
        """The code points of a port's packets, and how many there are of each."""
        return Counter(each.dscp for each in self.of(port))


@contextlib.contextmanager
def wire_from(left: Host, right: Host) -> Iterator[Wire]:
    """What arrives at the right host."""
    del left
    with right.enter():
        capture = Capture(right.interface.name, Direction.INCOMING, FRAMES)
    with capture:
        yield Wire(capture)
        assert not capture.dropped


@dataclass
class Conversation:
    """A server and a client of some program, somewhere.

    Attributes:
        program: It.
        folder: Where it keeps things.
        port: The server's.
        server: Which host that is on.
        client: The other one.
    """

    program: Program
    folder: Path
    port: int
    server: Host
    client: Host
    is_v6: bool = False

    @property
    def log(self) -> Path:
        """What both have to say."""
        return self.folder / f"log-{self.port}"

    def serve(self, *wrapper: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the server."""
        process = self._start(
            self.server, [*wrapper, *self.program.server(self.folder, self.port)], env
        )
        wait_for_server(self.server, self.port, self.program.protocols)
        return process

    def ask(self, *wrapper: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the client."""
        address = self.server.ipv6 if self.is_v6 else self.server.ipv4
        return self._start(
            self.client, [*wrapper, *self.program.client(self.folder, address, self.port)], env
        )

    def _start(
        self, host: Host, argv: list[str], env: dict[str, str] | None
    ) -> subprocess.Popen[str]:
        with self.log.open("a") as log:
            return host.popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=None if env is None else os.environ | env,
            )

    def finish(self, client: subprocess.Popen[str]) -> None:
        """Wait until the client has ended well, and nothing of it is on its way."""
        status = client.wait(PATIENCE_S)
        assert status == 0, self.log.read_text()
        wait_for_end([self.server, self.client], self.port)
