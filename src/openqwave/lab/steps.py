"""What a sender does to its own socket while it sends, in order of time.

A program changes its traffic class by a socket option, or it puts its socket in a flow and lets
the library do it; a stream can do either at given moments of its run, and packets before and after
differ in nothing else. The library is loaded and its handle open before the first packet, as in a
program that means to use it: a flow's step costs the time of two calls.

Phases number the packets. Each packet carries the phase it was sent in and a sequence number that
starts at 0 with every phase, so what was lost is known for each phase exactly, whatever waited in
a queue or overtook when the next began. Steps that are due together are all taken before the next
packet.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Self

import openqwave
from openqwave.lab.reporting import Reporter
from openqwave.lab.specs import FlowStep, Marking, UdpSource


def set_traffic_class(sock: socket.socket, dscp: int, ecn: int = 0) -> None:
    """Mark what a socket sends from now on."""
    traffic_class = dscp << 2 | ecn
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)


class Steps:
    """The timeline of one sender; flows end with its `with` block.

    Attributes:
        phase: The phase of the next packet.
    """

    def __init__(self, spec: UdpSource, sock: socket.socket, reporter: Reporter) -> None:
        self.phase = 0
        self._sock = sock
        self._peer = (spec.destination, spec.port)
        self._reporter = reporter
        self._flows = contextlib.ExitStack()
        timeline: list[tuple[float, Callable[[], None]]] = []
        # In this order where times are equal: a phase is new to the packets of its first step.
        timeline += [(at_s, self._begin_phase) for at_s in spec.phases]
        timeline += [(step.at_s, functools.partial(self._mark, step)) for step in spec.markings]
        if spec.flows:
            qos = self._flows.enter_context(openqwave.open())
            for step in spec.flows:
                flow = contextlib.ExitStack()
                timeline.append((step.at_s, functools.partial(self._join, step, qos, flow)))
                if step.until_s is not None:
                    timeline.append((step.until_s, functools.partial(self._leave, flow)))
        timeline.sort(key=lambda item: item[0])
        self._coming: Iterator[tuple[float, Callable[[], None]]] = iter(timeline)
        self._next = next(self._coming, None)

    def take_until(self, elapsed_ns: int) -> None:
        """Take every step that is due.

        Raises:
            QosError: The library refused a flow.
            OSError: The kernel refused a mark.
        """
        while self._next is not None and elapsed_ns >= self._next[0] * 1e9:
            self._next[1]()
            self._next = next(self._coming, None)

    def _begin_phase(self) -> None:
        self.phase += 1
        self._reporter.report("phase", phase=self.phase)

    def _mark(self, step: Marking) -> None:
        set_traffic_class(self._sock, step.dscp, step.ecn)
        self._reporter.report("marked", dscp=step.dscp, ecn=step.ecn)

    def _join(self, step: FlowStep, qos: openqwave.Qos, until: contextlib.ExitStack) -> None:
        begun_ns = time.monotonic_ns()
        flow = qos.add_socket(
            self._sock,
            self._peer,
            traffic_type=openqwave.TrafficType.BEST_EFFORT,
            adaptive=False,
        )
        added_ns = time.monotonic_ns()
        flow.set_traffic_type(step.traffic_type)
        set_ns = time.monotonic_ns()
        until.enter_context(flow)
        self._reporter.report(
            "flow",
            flow_id=flow.id,
            traffic_type=step.traffic_type.name.lower(),
            dscp=flow.packet_priority().conformant_dscp,
            backend=qos.backend.name,
            add_socket_ns=added_ns - begun_ns,
            set_flow_ns=set_ns - added_ns,
        )

    def _leave(self, flow: contextlib.ExitStack) -> None:
        flow.close()
        self._reporter.report("left")

    def close(self) -> None:
        """End the flows that have not ended; the socket gets its own options back."""
        self._flows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
