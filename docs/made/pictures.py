"""`python -m docs.made.pictures`: draws the pictures of `--plot` in the pages, by real runs.

Two hosts with a link of 20 Mbit/s between them, in network namespaces of their own; needs root, a
machine with little else to do, and a minute::

    near ==== 20 Mbit/s, a queue of 60 ms ==== far

`probe-plot` is `qwave probe` from the near host, while others use 8 Mbit/s. For `paths-plot` the
service runs on the near host, and a program there streams: 6 Mbit/s, and 4 more at the end. In
between others come, and for some seconds they want more than there is.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openqwave as qw
from openqwave.lab.shape import Bottleneck
from openqwave.lab.topology import Lab

if TYPE_CHECKING:
    from openqwave.lab.hosts import Host

IMAGES = Path(__file__).parents[1] / "images"
QWAVE = (sys.executable, "-m", "openqwave.cli")
MBPS = 1_000_000
LINK_BPS = 20 * MBPS
QUEUE_BYTES = LINK_BPS * 60 // 8_000
# With IP and UDP headers, which rates count.
PACKET_BYTES, HEADER_BYTES = 1_228, 28
# When others come, when they want all, when they go, when the second stream begins, and the end:
# seconds since the picture of the path begins.
OTHERS_COME_S, OTHERS_WANT_ALL_S, OTHERS_GO_S, SECOND_S, WHOLE_S = 8.0, 16.0, 25.0, 33.0, 45
PORT = 5004
# A machine that was busy elsewhere spoils a measurement, but not so many.
MOST_TRIES = 10


class Sender:
    """Sends from a thread, at random moments and a mean rate.

    Args:
        host: From where.
        address: To whom; nobody listens there, which does not matter.
    """

    def __init__(self, host: Host, address: str, rate_bps: int = 0) -> None:
        with host.enter():
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((address, PORT))
        self.rate_bps = rate_bps
        self._random = random.Random(1)  # noqa: S311 - traffic
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        due_s = time.monotonic()
        while not self._is_over.is_set():
            # It may change at any time.
            rate_bps = self.rate_bps
            if not rate_bps:
                time.sleep(0.01)
                due_s = time.monotonic()
                continue
            with contextlib.suppress(OSError):
                self.socket.send(bytes(PACKET_BYTES - HEADER_BYTES))
            due_s += self._random.expovariate(rate_bps / 8 / PACKET_BYTES)
            time.sleep(max(0.0, due_s - time.monotonic()))

    def close(self) -> None:
        """End."""
        self._is_over.set()
        self._thread.join()
        self.socket.close()


def qwave(host: Host, *arguments: str) -> tuple[int, Any]:
    """Run `qwave` on a host to its end; its exit status and what it said."""
    process = host.popen((*QWAVE, *arguments, "--json"), stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=120)
    return process.returncode, json.loads(output)


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


def draw_probe(near: Host, address: str, others: Sender) -> None:
    """Measure the path while others use it, until that comes to a result."""
    others.rate_bps = 8 * MBPS
    for _ in range(MOST_TRIES):
        status, _ = qwave(near, "probe", address, "--plot", str(IMAGES / "probe-plot.png"))
        if not status:
            break
    else:
        raise RuntimeError("no measurement came to a result")
    others.rate_bps = 0


def draw_path(near: Host, address: str, others: Sender, qos: qw.Qos) -> None:
    """Stream, and look at the path meanwhile."""
    with contextlib.ExitStack() as resources:
        stream(qos, near, address, 6 * MBPS, resources)

        def play() -> None:
            began_s = time.monotonic()
            for at_s, others_bps in (
                (OTHERS_COME_S, 5 * MBPS),
                (OTHERS_WANT_ALL_S, 15 * MBPS),
                (OTHERS_GO_S, 0),
            ):
                time.sleep(max(0.0, began_s + at_s - time.monotonic()))
                others.rate_bps = others_bps
            time.sleep(max(0.0, began_s + SECOND_S - time.monotonic()))
            stream(qos, near, address, 4 * MBPS, resources)

        player = threading.Thread(target=play)
        player.start()
        picture = str(IMAGES / "paths-plot.png")
        qwave(near, "paths", address, "--plot", picture, "--for", str(WHOLE_S))
        player.join()


def stream(
    qos: qw.Qos, host: Host, address: str, rate_bps: int, resources: contextlib.ExitStack
) -> None:
    """Begin to stream at a rate, once that is granted."""
    sender = Sender(host, address)
    resources.callback(sender.close)
    flow = qos.add_socket(sender.socket, traffic_type=qw.TrafficType.AUDIO_VIDEO)
    flow.set_rate(rate_bps, self_paced=True)
    # What comes at random is now and then more.
    sender.rate_bps = rate_bps * 9 // 10


def draw_all() -> None:
    """Draw both pictures."""
    with contextlib.ExitStack() as resources:
        lab = resources.enter_context(Lab())
        near, far = lab.host("near"), lab.host("far")
        bottleneck = Bottleneck(LINK_BPS, QUEUE_BYTES)
        lab.link(near, far, a_to_b=bottleneck, b_to_a=bottleneck)
        sink = far.popen((*QWAVE, "sink"), stdout=subprocess.PIPE)
        # It says that it listens.
        if sink.stdout is None or not sink.stdout.readline():
            raise RuntimeError("the sink did not start")
        threading.Thread(target=sink.stdout.read, daemon=True).start()
        others = Sender(near, far.ipv4)
        resources.callback(others.close)
        draw_probe(near, far.ipv4, others)
        os.environ["QWAVE_SOCKET"] = resources.enter_context(service(near))
        draw_path(near, far.ipv4, others, resources.enter_context(qw.open(service=True)))


if __name__ == "__main__":
    draw_all()
