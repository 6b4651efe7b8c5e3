"""The stream of `congestion.py`, run on the near host: it holds a rate, sends, and tells notices.

Each line of its output is an object of JSON: "sending" with how long further flows on the path
took, in nanoseconds, then "told" for each notice of congestion and relief, with CLOCK_MONOTONIC.
It never ends by itself.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
import time

import openqwave as qw

RATE_BPS, FURTHER_BPS, FURTHER = 8_000_000, 64_000, 100
PAYLOAD_BYTES, PACKET_BYTES = 1_200, 1_228
MAGIC = b"bnch"
NUMBER = struct.Struct("!4sI")
# A path of which too little is known answers "ask again shortly" after two seconds.
TRIES = 10


def tell(event: str, **fields: object) -> None:
    """Write an object."""
    print(json.dumps({"event": event, "at_ns": time.monotonic_ns(), **fields}), flush=True)


def send(sock: socket.socket, pacer: qw.Pacer) -> None:
    """Send for ever."""
    packet = bytearray(PAYLOAD_BYTES)
    number = 0
    while True:
        pacer.wait(PACKET_BYTES)
        NUMBER.pack_into(packet, 0, MAGIC, number)
        number += 1
        with contextlib.suppress(ConnectionRefusedError):
            sock.send(packet)


def admit(flow: qw.Flow, rate_bps: int) -> None:
    """Have a rate granted; on a busy machine the first measurements may come to nothing."""
    for _ in range(TRIES):
        try:
            flow.set_rate(rate_bps, self_paced=True)
        except (qw.RetryLater, qw.NetworkBusy):
            time.sleep(0.5)
        else:
            return
    flow.set_rate(rate_bps, self_paced=True)


def further(qos: qw.Qos, sock: socket.socket) -> list[int]:
    """How long further flows on the same path take, from `add_socket` to the granted rate."""
    times = []
    for _ in range(FURTHER):
        start_ns = time.perf_counter_ns()
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE)
        try:
            flow.set_rate(FURTHER_BPS, self_paced=True)
        except qw.QosError:
            # The path seemed busy in this moment.
            continue
        finally:
            took_ns = time.perf_counter_ns() - start_ns
            flow.close()
        times.append(took_ns)
        time.sleep(0.01)
    return times


def main(address: str, port: int) -> None:
    """Stream to an address."""
    with (
        qw.open() as qos,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        sock.connect((address, port))
        other.connect((address, port))
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.AUDIO_VIDEO)
        admit(flow, RATE_BPS)
        threading.Thread(target=send, args=(sock, flow.pacer()), daemon=True).start()
        tell("sending", further_ns=further(qos, other))
        while True:
            flow.wait_congested()
            tell("told", is_congested=True)
            flow.wait_uncongested()
            tell("told", is_congested=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
