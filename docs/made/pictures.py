"""`python -m docs.made.pictures`: draws the pictures of `--plot` in the pages, by real runs.

Two hosts with a link of 20 Mbit/s between them, in network namespaces of their own; needs root and
takes a minute::

    near ==== 20 Mbit/s, 5 ms either way, others use some of it ==== far

`probe-plot` is `qwave probe` from the near host, while others use 8 Mbit/s. For `paths-plot` the
service runs on the near host, and a program there streams: 6 Mbit/s, then 4 more. Meanwhile others
come and go, and for some seconds they want more than there is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import openqwave as qw
from openqwave.cli.demo.backstage import give_up_a_cpu
from openqwave.lab.links import Cross, CrossKind, DuplexSpec, PathSpec, Stage
from openqwave.lab.topology import Lab
from openqwave.probing.schedule import PACKET_BYTES

if TYPE_CHECKING:
    import socket

    from openqwave.lab.hosts import Host

IMAGES = Path(__file__).parents[1] / "images"
QWAVE = (sys.executable, "-m", "openqwave.cli")
MBPS, MS = 1_000_000, 1_000_000
LINK_BPS = 20 * MBPS
# A home router's queue: 60 ms.
QUEUE_BYTES = LINK_BPS * 60 // 8_000
# IP and UDP headers, which contracts count.
HEADER_BYTES = 28
# When what happens, in seconds since the picture of the path begins, and how long that is.
OTHERS_COME_S, OTHERS_WANT_ALL_S, OTHERS_GO_S, SECOND_S, WHOLE_S = 8, 16, 25, 33, 45
PORT = 5004


def link(others_bps: int) -> DuplexSpec:
    """The link, used by others."""
    others = (Cross(CrossKind.POISSON, others_bps),) if others_bps else ()
    stage = Stage(LINK_BPS, QUEUE_BYTES, delay_ns=5 * MS, cross=others)
    return DuplexSpec(PathSpec((stage,)))


def qwave(host: Host, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run `qwave` on a host to its end."""
    process = host.popen((*QWAVE, *arguments), env=os.environ | (environment or {}))
    if status := process.wait(120):
        raise RuntimeError(f"qwave {' '.join(arguments)} ended by {status}")


@contextlib.contextmanager
def service(host: Host) -> Iterator[str]:
    """The service on a host; its socket."""
    with tempfile.TemporaryDirectory(prefix="qwaved-") as folder:
        place, config = f"{folder}/qwaved.sock", Path(folder) / "qwaved.toml"
        config.write_text(f'[service]\nstate_directory = "{folder}"\n', encoding="ascii")
        argv = (sys.executable, "-m", "openqwave.service", "--config", str(config))
        process = host.popen(
            (*argv, "--socket", place, "--run-directory", folder), stderr=subprocess.DEVNULL
        )
        try:
            while not Path(place).exists():
                if process.poll() is not None:
                    raise RuntimeError("the service did not start")
                time.sleep(0.05)
            yield place
        finally:
            process.terminate()
            process.wait(30)


class Stream:
    """Sends from a thread, at what its flow may send."""

    def __init__(self, qos: qw.Qos, sock: socket.socket, rate_bps: int) -> None:
        self._sock, self._rate_bps = sock, rate_bps
        self._is_over = threading.Event()
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO)
        flow.set_rate(rate_bps, self_paced=True)
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        due_s = time.monotonic()
        while not self._is_over.is_set():
            # Nobody listens there, which does not matter.
            with contextlib.suppress(ConnectionRefusedError):
                self._sock.send(bytes(PACKET_BYTES - HEADER_BYTES))
            # A little less than it may.
            due_s += 8 * PACKET_BYTES / (0.97 * self._rate_bps)
            time.sleep(max(0.0, due_s - time.monotonic()))

    def close(self) -> None:
        """End."""
        self._is_over.set()
        self._thread.join()
        self._sock.close()


def draw_all() -> None:
    """Draw both pictures."""
    with contextlib.ExitStack() as resources:
        cpu = give_up_a_cpu(resources)
        lab = resources.enter_context(Lab())
        near, far = lab.host("near"), lab.host("far")
        wire = lab.emulated_link(near, far, link(8 * MBPS), cpu=cpu)
        sink = far.popen((*QWAVE, "sink"), stdout=subprocess.PIPE)
        # It says that it listens.
        if sink.stdout is None or not sink.stdout.readline():
            raise RuntimeError("the sink did not start")
        threading.Thread(target=sink.stdout.read, daemon=True).start()
        qwave(near, "probe", wire.b.ipv4, "--plot", str(IMAGES / "probe-plot.png"))
        wire.reshape(link(0))
        place = resources.enter_context(service(near))
        os.environ["QWAVE_SOCKET"] = place
        qos = resources.enter_context(qw.open(service=True))
        resources.callback(stream(qos, near, wire.b.ipv4, 6 * MBPS).close)
        began_s = time.monotonic()

        def play() -> None:
            for at_s, others_bps in (
                (OTHERS_COME_S, 5 * MBPS),
                (OTHERS_WANT_ALL_S, 15 * MBPS),
                (OTHERS_GO_S, 0),
            ):
                time.sleep(max(0.0, began_s + at_s - time.monotonic()))
                wire.reshape(link(others_bps))
            time.sleep(max(0.0, began_s + SECOND_S - time.monotonic()))
            resources.callback(stream(qos, near, wire.b.ipv4, 4 * MBPS).close)

        player = threading.Thread(target=play)
        player.start()
        picture = str(IMAGES / "paths-plot.png")
        qwave(near, "paths", wire.b.ipv4, "--plot", picture, "--for", str(WHOLE_S))
        player.join()


def stream(qos: qw.Qos, host: Host, address: str, rate_bps: int) -> Stream:
    """Begin to stream from a host; waits until that is granted."""
    import socket

    with host.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, PORT))
    return Stream(qos, sock, rate_bps)


if __name__ == "__main__":
    draw_all()
