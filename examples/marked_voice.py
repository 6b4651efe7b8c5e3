"""Voice through the service: packets of this program that qwaved marks, to this host itself.

    python examples/marked_voice.py            # and, to see them: tcpdump -v -n -i lo udp port 5004

Sends fifty datagrams a second for three seconds, as a voice call does, in a flow of the service,
and tells who marks them and with what. Works for every user; the service has to run (`qwave service
install`).
"""

from __future__ import annotations

import argparse
import socket
import sys
import time

import openqwave as qw

# This host itself, so that no other is needed; a mark on loopback is seen as on any interface.
HERE = "127.0.0.1"
# RFC 3551's port for RTP.
PORT = 5004
# 20 ms of speech, G.711: the RTP header and 160 samples.
INTERVAL_S = 0.020
PACKET = b"\x80" + bytes(11 + 160)


def send(seconds: float) -> None:
    """Send as a call does."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        qw.open(service=True) as qos,
    ):
        taker.bind((HERE, PORT))
        sock.connect((HERE, PORT))
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)
        dscp = flow.packet_priority().conformant_dscp
        print(f"{qos.backend.name}: {qos.backend.reason}")
        print(
            f"DSCP {dscp} on UDP from {HERE} port {sock.getsockname()[1]} to port {PORT}",
            flush=True,
        )
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            sock.send(PACKET)
            time.sleep(INTERVAL_S)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Voice that the service marks.")
    parser.add_argument("--seconds", type=float, default=3.0, help="for how long (default 3)")
    asked = parser.parse_args(arguments)
    try:
        send(asked.seconds)
    except (OSError, qw.QosError) as error:
        print(f"marked_voice: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
