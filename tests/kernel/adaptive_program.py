"""A program that streams by what it is told: run on a host by tests, it obeys lines of JSON.

Each line names a call and its arguments; the answer is a line of JSON with the result or the
Win32 name of the error, and how long the call took. Streams are self-paced UDP from threads.

    {"call": "flow", "name": "a", "to": ["192.0.2.1", 5001]}
    {"call": "rate", "name": "a", "bps": 12000000}
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from typing import Any

import openqwave as qw

# With IP and UDP headers, which rates count.
PACKET_BYTES, PAYLOAD_BYTES = 1228, 1200


class Stream:
    """A socket, its flow, and a thread that sends at a rate."""

    def __init__(self, qos: qw.Qos, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.connect((host, port))
        self.flow = qos.add_socket(self.socket, traffic_type=qw.TrafficType.AUDIO_VIDEO)
        self._rate_bps = 0
        self._changed = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def send_at(self, rate_bps: int) -> None:
        with self._changed:
            self._rate_bps = rate_bps
            self._changed.notify()

    def _send(self) -> None:
        payload = bytes(PAYLOAD_BYTES)
        due_s = time.monotonic()
        while True:
            with self._changed:
                while not self._rate_bps and not self._is_over:
                    self._changed.wait()
                    due_s = time.monotonic()
                if self._is_over:
                    return
                due_s += 8 * PACKET_BYTES / self._rate_bps
                self._changed.wait(max(0.0, due_s - time.monotonic()))
            # Nobody listens there, which does not matter.
            with contextlib.suppress(ConnectionRefusedError):
                self.socket.send(payload)

    def close(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()
        self.flow.close()
        self.socket.close()


def shown(value: Any) -> Any:  # noqa: ANN401 - whatever a call returns
    if isinstance(value, qw.Fundamentals):
        return {
            "bottleneck_bps": value.bottleneck_bps,
            "available_bps": value.available_bps,
            "rtt_ns": value.rtt_ns,
        }
    if isinstance(value, qw.PathStatus):
        congestion = value.congestion
        return shown(value.fundamentals) | {
            "is_congested": congestion.is_congested,
            "reason": None if congestion.reason is None else congestion.reason.name,
            "sent_bytes": value.sent_bytes,
            "own_bps": value.own_bps,
            "held_bps": value.held_bps,
            "age_ns": value.age_ns,
            "obstacle": value.obstacle,
        }
    return value


def main() -> None:
    streams: dict[str, Stream] = {}
    with qw.open() as qos:

        def obey(order: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever a call returns
            name = order.get("name", "")
            match order["call"]:
                case "flow":
                    streams[name] = Stream(qos, *order["to"])
                    return streams[name].flow.id
                case "track":
                    return qos.track(order["host"])
                case "untrack":
                    return qos.untrack(order["host"])
                case "rate":
                    return streams[name].flow.set_rate(order["bps"], self_paced=True)
                case "send":
                    return streams[name].send_at(order["bps"])
                case "query":
                    return streams[name].flow.fundamentals(fresh=order.get("fresh", False))
                case "path" if name in streams:
                    return streams[name].flow.path()
                case "available":
                    return streams[name].flow.wait_available(order["bps"], order["timeout_s"])
                case "congested":
                    return streams[name].flow.wait_congested(order["timeout_s"])
                case "uncongested":
                    return streams[name].flow.wait_uncongested(order["timeout_s"])
                case "close":
                    return streams.pop(name).close()
            raise ValueError(order)

        for line in sys.stdin:
            began_s = time.monotonic()
            try:
                answer = {"value": shown(obey(json.loads(line)))}
            except qw.QosError as error:
                answer = {"error": error.code.name, "detail": error.detail}
            answer["took_s"] = time.monotonic() - began_s
            print(json.dumps(answer), flush=True)
        for stream in streams.values():
            stream.close()


if __name__ == "__main__":
    main()
