"""`python -m docs.made.top`: takes the pictures of `qwave top` in the pages, of the real thing.

The service and six programs run on one host of a lab, in network namespaces of their own; needs
root, a machine with little else to do, and a minute::

    studio ==== 20 Mbit/s ==== near ==== 20 Mbit/s ==== office

`obs` streams to the studio and is granted what it wants, and so is `player` towards the office.
`ffmpeg` wants more than is left towards the studio, and `mumble` marks that it has no right to.
Then others send more to the studio than there is room for.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from contextlib import ExitStack
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.style import Style
from rich.text import Text

import openqwave as qw
from openqwave.lab.shape import Bottleneck
from openqwave.lab.topology import Lab
from tests.kernel.qwave import Sink
from tests.kernel.service_stage import Actor, running
from tests.unit.terminals import Screen, environment_at

if TYPE_CHECKING:
    from openqwave.lab.hosts import Host

IMAGES: Final = Path(__file__).parents[1] / "images"
COLUMNS, LINES = 80, 24

MBPS: Final = 1_000_000
LINK_BPS: Final = 20 * MBPS
QUEUE_BYTES: Final = LINK_BPS // 8 // 10
# With IP and UDP headers, which rates count.
PACKET_BYTES, HEADER_BYTES = 1_228, 28
# Longer than anything takes.
PATIENCE_S: Final = 60.0
# A machine that was busy elsewhere spoils a measurement, but not so many.
MOST_TRIES: Final = 10
# So long what programs send is counted before the picture is taken.
SETTLED_S: Final = 4.0

# What every Linux has as users.
GAMES, NEWS, BACKUP = 5, 9, 34
# What the emulator of a terminal calls colours, where the painter of the picture has other words.
COLOURS: Final = {"default": None, "brown": "yellow"}


class Top(Screen):
    """`qwave top`, on a terminal that a picture is taken of."""

    patience_s = PATIENCE_S

    def picture(self, name: str) -> None:
        """Keep what stands there now as docs/images/NAME.svg."""
        console = Console(record=True, width=COLUMNS, height=LINES, file=StringIO())
        # The emulator is fed when somebody asks for lines.
        for row, _ in enumerate(self.lines):
            console.print(self._painted(row), soft_wrap=True)
        svg = console.export_svg(title="qwave top", unique_id=name)
        # Pictures of pages load nothing from elsewhere.
        svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
        lines = [line.rstrip() for line in svg.splitlines()]
        (IMAGES / f"{name}.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _painted(self, row: int) -> Text:
        painted = Text(no_wrap=True)
        cells = [self._screen.buffer[row][column] for column in range(COLUMNS)]
        for (colour, bold, reverse, underline), run in groupby(cells, _style_of):
            style = Style(color=colour, bold=bold, reverse=reverse, underline=underline)
            painted.append("".join([cell.data for cell in run]), style)
        return painted


def _style_of(cell: Any) -> tuple[str | None, bool, bool, bool]:  # noqa: ANN401 - the emulator's
    colour = COLOURS.get(cell.fg, cell.fg.replace("bright", "bright_"))
    return colour, cell.bold, cell.reverse, cell.underscore


# -- what programs do, in actors ----------------------------------------------------------


def begin(
    state: dict[str, Any], name: str, host: str, port: int, kind: str, is_adaptive: bool
) -> None:
    """Be a program of some name that has a flow."""
    sys.argv = [name]
    state["qos"] = qw.open(service=True)
    state["socket"] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, port))
    state["flow"] = state["qos"].add_socket(
        sock, traffic_type=qw.TrafficType[kind], adaptive=is_adaptive
    )


def be_granted(state: dict[str, Any], rate_bps: int) -> None:
    """Wait for a rate, and hold to it."""
    for _ in range(MOST_TRIES):
        state["flow"].wait_available(rate_bps, PATIENCE_S)
        try:
            state["flow"].set_rate(rate_bps, self_paced=True)
        except qw.NetworkBusy:
            continue
        return
    raise RuntimeError("the machine is too busy for a rate to be granted")


def be_refused(state: dict[str, Any], rate_bps: int) -> None:
    """Want more than there is."""
    try:
        state["flow"].set_rate(rate_bps)
    except qw.NetworkBusy:
        return
    raise RuntimeError("it was granted")


def want_a_mark(state: dict[str, Any]) -> None:
    """Want what takes a right."""
    try:
        state["flow"].set_dscp(46)
    except qw.AccessDenied:
        return
    raise RuntimeError("it was granted")


def send(state: dict[str, Any], rate_bps: int) -> None:
    """Send at a rate from here on."""
    threading.Thread(target=_send, args=(state["socket"], rate_bps), daemon=True).start()


def send_without_a_flow(state: dict[str, Any], host: str, port: int, rate_bps: int) -> None:
    """Send as programs do that ask nobody."""
    state["socket"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    state["socket"].connect((host, port))
    send(state, rate_bps)


def _send(sock: socket.socket, rate_bps: int) -> None:
    payload = bytes(PACKET_BYTES - HEADER_BYTES)
    due_s = time.monotonic()
    while True:
        due_s += 8 * PACKET_BYTES / rate_bps
        time.sleep(max(0.0, due_s - time.monotonic()))
        try:
            sock.send(payload)
        except ConnectionRefusedError:
            # Nobody listens there, which does not matter.
            continue


# -- the stage ------------------------------------------------------------------------------


def main() -> None:
    """Take them."""
    with Lab() as lab, ExitStack() as stack:
        near, studio, office = lab.host("near"), lab.host("studio"), lab.host("office")
        narrow = Bottleneck(LINK_BPS, QUEUE_BYTES)
        for far in (studio, office):
            lab.link(near, far, a_to_b=narrow, b_to_a=narrow)
            stack.enter_context(Sink(far))
        service = stack.enter_context(running(near, "[sink]\nenabled = false\n"))

        def program(uid: int, name: str, far: Host, kind: str, *, adaptive: bool = False) -> Actor:
            actor = stack.enter_context(Actor(uid, host=near, service=service.socket))
            ports[0] += 2
            actor.call(begin, name, far.ipv4, ports[0], kind, adaptive)
            return actor

        ports = [5_002]
        mumble = program(GAMES, "mumble", office, "VOICE")
        mumble.call(send, MBPS // 12)
        obs = program(GAMES, "obs", studio, "AUDIO_VIDEO", adaptive=True)
        obs.call(be_granted, 8 * MBPS)
        obs.call(send, 79 * MBPS // 10)
        player = program(NEWS, "player", office, "AUDIO_VIDEO", adaptive=True)
        player.call(be_granted, 5 * MBPS)
        player.call(send, 48 * MBPS // 10)
        rsync = program(BACKUP, "rsync", office, "BACKGROUND")
        rsync.call(send, 23 * MBPS // 10)
        with Top(["top"], environment_at(service.socket), columns=COLUMNS, lines=LINES) as top:
            top.wait_for("> flows 1-4 of 4")
            ffmpeg = program(NEWS, "ffmpeg", studio, "AUDIO_VIDEO", adaptive=True)
            ffmpeg.call(be_refused, 15 * MBPS)
            mumble.call(want_a_mark)
            top.wait_for("2 refused")
            others = stack.enter_context(Actor(host=near))
            others.call(send_without_a_flow, studio.ipv4, 9, 24 * MBPS)
            top.wait_for("1 congested")
            top.type(b"s")
            time.sleep(SETTLED_S)
            top.wait_for("> flows 1-5 of 5 by sends")
            top.picture("top")
            top.type(b"3")
            top.wait_for("> refused 1-2 of 2")
            top.picture("top-refused")
            top.type(b"q")
            top.end()


if __name__ == "__main__":
    main()
