"""What a measured stream feels: 2 Mbit/s of small packets beside `qwave probe` on 20 Mbit/s.

A paced stream of 200-byte packets, as of voice and games, runs through an emulated 20 Mbit/s link
for some seconds alone and then while `qwave probe` measures the same link, several times in turn.
Printed are its losses and the 99th percentile of its one-way delay, alone and beside, and the
difference; the aim of the project is no loss and less than 5 ms more.

Needs root (taps), and a machine with nothing else to do. Run: python -m bench.beside [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.estimate import probe, sink_on
from bench.estimate_cases import path, stage
from openqwave.lab.specs import UdpSink, UdpSource
from openqwave.lab.topology import Host, Lab
from openqwave.lab.traffic import Agent

LINK_MBIT, STREAM_BPS = 20, 2_000_000
PAYLOAD_BYTES = 172
# One measurement takes 2.8 s and the command half a second more.
STREAM_S = 4.0
AIM_MS = 5.0


def stream(left: Host, right: Host, measured: Path | None) -> dict[str, Any]:
    """Send the stream, with a measurement beside if a file for its samples is given."""
    with Agent(right, UdpSink(right.ipv4)) as sink:
        source = UdpSource(right.ipv4, sink.port, STREAM_BPS, STREAM_S, payload_bytes=PAYLOAD_BYTES)
        with Agent(left, source) as sender:
            if measured is not None:
                probe(left, right.ipv4, measured)
            sent = sender.wait(STREAM_S + 10)
        final = sink.stop()
    (account,) = final["streams"]
    return {"lost": sent["sent"] - account["received"], "p99_ms": account["delay_ns"]["p99"] / 1e6}


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cpus = sorted(os.sched_getaffinity(0))
    cpu = cpus[-1] if len(cpus) > 1 else None
    if cpu is not None:
        os.sched_setaffinity(0, cpus[:-1])
    alone, beside = [], []
    with Lab() as lab, tempfile.TemporaryDirectory() as scratch:
        left, right = lab.host("left"), lab.host("right")
        lab.emulated_link(left, right, path(stage(LINK_MBIT)), cpu=cpu)
        with sink_on(right):
            for _ in range(rounds):
                alone.append(stream(left, right, None))
                beside.append(stream(left, right, Path(scratch) / "samples.jsonl"))
    for name, found in (("alone", alone), ("beside", beside)):
        times = ", ".join(f"{one['p99_ms']:.2f}" for one in found)
        lost = sum(one["lost"] for one in found)
        sys.stdout.write(f"{name:7} lost {lost}, 99th percentile {times} ms\n")
    rise = statistics.median(one["p99_ms"] for one in beside) - statistics.median(
        one["p99_ms"] for one in alone
    )
    lost = sum(one["lost"] for one in beside)
    is_met = rise < AIM_MS and not lost
    sys.stdout.write(f"{'met' if is_met else 'MISSED'}: +{rise:.2f} ms, {lost} lost (aim: 5, 0)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
