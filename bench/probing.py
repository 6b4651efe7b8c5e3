"""What following a path costs, counted on the wire of an emulated 20 Mbit/s link.

A program on one host has an adaptive flow to the other, where `qwave sink` runs. Everything that
leaves for or from port 2177 is counted at the interface, IP headers and TCP included, for some
minutes in each of these cases:

    first    from the first interest on, with a flow that holds a rate
    idle     a flow that holds nothing, and a path on which nothing happens
    change   a flow that holds a rate, and cross traffic of half the link that comes and goes each
             ten seconds
    nobody   from two minutes after the flow has ended

The budget is a hundredth of the link on average over five minutes. Beside it stands ping at the
same 100 echoes a second, which tells nothing but delay.

Needs root (taps). Run: python -m bench.probing [--minutes N] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.estimate import sink_on
from bench.estimate_cases import path, stage
from openqwave.lab.capture import Capture, Direction
from openqwave.lab.emulation import EmulatedLink
from openqwave.lab.links import Cross, CrossKind
from openqwave.lab.topology import Lab

LINK_MBIT, HELD_BPS = 20, 2_000_000
BUDGET_PPM = 10_000
PORT, STREAM_PORT = 2177, 5001
CHANGE_S = 10.0
# The path stays warm for two minutes after the last interest.
WARM_S = 125.0
# Often enough that no ring overflows: 100 probes and a train a second are some 120 packets.
LOOK_S = 1.0
# An echo of ping as small as a small probe, and as often as they come.
PING_BPS = 100 * 60 * 8


@contextmanager
def interested(address: str, rate_bps: int) -> Iterator[None]:
    """Have an adaptive flow towards a host, holding a rate if it is not 0."""
    # On the host, in whose namespace this process is by now.
    import socket

    import openqwave as qw

    with qw.open() as qos, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, STREAM_PORT))
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO)
        if rate_bps:
            flow.wait_available(rate_bps, timeout_s=60)
            flow.set_rate(rate_bps, self_paced=True)
        yield


def count(
    capture: Capture, seconds: float, look: Callable[[float], None], say: Callable[[str], None]
) -> int:
    """Bytes of experiments that leave in a time; `look` is called with how much has passed."""
    total = 0
    began_s = time.monotonic()
    while (elapsed_s := time.monotonic() - began_s) < seconds:
        look(elapsed_s)
        time.sleep(LOOK_S)
        total += sum(
            packet.length_bytes
            for packet in capture.packets()
            if PORT in (packet.source_port, packet.destination_port)
        )
        say(f"{elapsed_s:4.0f} of {seconds:.0f} s, {total / 1000:.0f} kB")
    if capture.dropped:
        raise RuntimeError(f"the capture lost {capture.dropped} packets")
    return total


class Changing:
    """Cross traffic that comes and goes."""

    def __init__(self, link: EmulatedLink) -> None:
        self._link = link
        self._is_there = False

    def look(self, elapsed_s: float) -> None:
        """Let it be there in every other ten seconds."""
        is_there = int(elapsed_s // CHANGE_S) % 2 == 1
        if is_there != self._is_there:
            self._is_there = is_there
            cross = (Cross(CrossKind.POISSON, LINK_MBIT * 500_000),) if is_there else ()
            self._link.reshape(path(replace(stage(LINK_MBIT), cross=cross)))


def nothing(_: float) -> None:
    """Nothing changes."""


def measure(seconds: float, say: Callable[[str], None]) -> dict[str, int]:
    """Bytes in each case."""
    found: dict[str, int] = {}
    with Lab() as lab:
        near, far = lab.host("near"), lab.host("far")
        link = lab.emulated_link(near, far, path(stage(LINK_MBIT)))
        with (
            sink_on(far),
            near.enter(),
            Capture(link.a.name, Direction.OUTGOING) as capture,
        ):

            def case(name: str, look: Callable[[float], None] = nothing) -> None:
                found[name] = count(capture, seconds, look, lambda text: say(f"{name}: {text}"))

            capture.packets()
            with interested(link.b.ipv4, 0):
                # Counted from before the rate is asked for: the first measurements are in it.
                with interested(link.b.ipv4, HELD_BPS):
                    case("first")
                    case("change", Changing(link).look)
                link.reshape(path(stage(LINK_MBIT)))
                case("idle")
            count(capture, WARM_S, nothing, lambda text: say(f"warm: {text}"))
            case("nobody")
    return found


def main() -> int:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="for each case (%(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds = 60 * options.minutes

    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:60}", end="", file=sys.stderr, flush=True)

    found = measure(seconds, say)
    print(file=sys.stderr)
    budget_bps = LINK_MBIT * BUDGET_PPM
    rates = {name: size * 8 / seconds for name, size in found.items()}
    if options.json:
        print(json.dumps({"seconds": seconds, "budget_bps": budget_bps, "bytes": found}))
    else:
        print(f"{'case':8} {'bytes':>10} {'kbit/s':>8} {'of the budget':>14} {'of ping':>8}")
        for name, rate_bps in rates.items():
            print(
                f"{name:8} {found[name]:10} {rate_bps / 1000:8.1f} "
                f"{rate_bps / budget_bps:13.0%} {rate_bps / PING_BPS:8.1f}"
            )
    is_within = all(rate_bps <= budget_bps for rate_bps in rates.values())
    return 0 if is_within and not found["nobody"] else 1


if __name__ == "__main__":
    sys.exit(main())
