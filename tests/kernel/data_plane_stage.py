"""The service with the kernel's program, on the left of two hosts, and what the tests of it share.

Clients are sockets of this process on the left host; what they send is read off the wire at the
right one.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from openqwave.lab.capture import Capture, Direction
from tests.kernel.egress_stage import load, may_use_bpf
from tests.kernel.service_stage import Qwaved, running

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

# The program or nothing; and queues may be put on interfaces.
CONFIG = '[enforcement]\nbackend = "bpf"\nqueues = "install"\n'
# A bound for what takes a fraction of a second.
PATIENCE_S = 30.0
# 64 MB of ring: what a sender of 1 Gbit/s sends in half a second.
FRAMES = 65_536


@contextlib.contextmanager
def serving(left: Host, config: str = CONFIG) -> Iterator[Qwaved]:
    """The service on a host; skips the test where this user may load no programs."""
    if not may_use_bpf():
        load().close()
    with running(left, config) as service:
        yield service


def open_socket(
    host: Host,
    family: socket.AddressFamily = socket.AF_INET,
    kind: socket.SocketKind = socket.SOCK_DGRAM,
) -> socket.socket:
    """A socket on a host."""
    with host.enter():
        sock = socket.socket(family, kind)
    sock.settimeout(PATIENCE_S)
    return sock


@contextlib.contextmanager
def watching(host: Host, direction: Direction, frames: int = FRAMES) -> Iterator[Capture]:
    """A capture at a host's one interface with room for much; nothing may be lost of it."""
    with host.enter():
        capture = Capture(host.interface.name, direction, frames)
    with capture:
        yield capture
        assert not capture.dropped
