"""The end of the process, and forks: no kernel state outlives the flow."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

import openqwave as qw
from tests.unit.loopback import Bench, options_of, pacing_of

UNPACED = (1 << 64) - 1


def run(sock: socket.socket, body: str, *, code: int = 0) -> str:
    """Run a program that inherits a socket as `sock`; it is connected."""
    program = f"""
import os, socket, sys, threading, asyncio
import openqwave as qw
sock = socket.socket(fileno={sock.fileno()})
VOICE = qw.TrafficType.VOICE
{body}
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        pass_fds=[sock.fileno()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stdout


MARK = """
flow = qw.open().add_socket(sock, traffic_type=VOICE, adaptive=False)
if sock.type == socket.SOCK_STREAM:
    flow.set_rate(1_000_000)
print(sock.getsockopt(0, 1))
"""

# How a program ends. The socket survives it, because this process shares it.
ENDINGS: dict[str, tuple[str, int]] = {
    "falls off the end": (MARK + "sock.detach()", 0),
    "sys.exit": (MARK + "sock.detach(); sys.exit(7)", 7),
    "uncaught exception": (MARK + "sock.detach(); sys.stderr.close(); 1 / 0", 1),
    "without closing the socket object": (
        MARK + "import warnings; warnings.simplefilter('ignore')",
        0,
    ),
    "in a thread": (
        f"def body():\n    {MARK.strip().replace(chr(10), chr(10) + '    ')}\n"
        "thread = threading.Thread(target=body); thread.start(); thread.join(); sock.detach()",
        0,
    ),
    "in a loop": (
        """
async def main():
    import openqwave.aio as aio
    qos = await aio.open()
    await qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
    print(sock.getsockopt(0, 1))
asyncio.run(main()); sock.detach()
""",
        0,
    ),
    "with several handles": (
        MARK + MARK.replace("VOICE", "qw.TrafficType.CONTROL") + "sock.detach()",
        0,
    ),
}


@pytest.mark.parametrize("kind", ["udp4 connected", "tcp6 connected"])
@pytest.mark.parametrize("how", ENDINGS)
def test_the_end_of_the_process_unmarks(sockets: Bench, kind: str, how: str) -> None:
    # "The death of the process does the same. No kernel state of the flow outlives it."
    sock = sockets.make(kind)
    body, code = ENDINGS[how]
    assert run(sock, body, code=code).split()[0] == str(56 << 2)
    assert options_of(sock).tos == 0
    assert options_of(sock).priority == 0
    assert pacing_of(sock) == UNPACED


def test_a_signal_that_python_turns_into_an_exception(sockets: Bench) -> None:
    sock = sockets.make("udp4 connected")
    run(sock, MARK + "import signal; sock.detach(); signal.raise_signal(signal.SIGINT)", code=-2)
    assert options_of(sock).tos == 0


# -- forks ----------------------------------------------------------------------------


def in_child(body: Callable[[], int]) -> int:
    """What a forked child answers; 99 where it raised, -14 where it hung."""
    child = os.fork()
    if child == 0:
        code = 99
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            code = body()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_childs_copy_of_a_handle_is_invalid(sockets: Bench) -> None:
    # "handles belong to the process that opened them, and in any other they are invalid"
    sock = sockets.make("udp4 connected")
    with qw.open() as qos:
        flow = qos.add_socket(sock, traffic_type=qw.TrafficType.VOICE, adaptive=False)

        def body() -> int:
            calls: list[Callable[[], object]] = [
                lambda: qos.add_socket(sock),
                lambda: qos.track("127.0.0.1"),
                lambda: qos.untrack("127.0.0.1"),
                qos.flow_ids,
                lambda: flow.set_traffic_type(qw.TrafficType.BACKGROUND),
                lambda: flow.remove_socket(sock),
                lambda: flow.set_rate(1),
                lambda: flow.set_dscp(1),
                flow.rate_bps,
                flow.packet_priority,
                flow.fundamentals,
                lambda: flow.wait_congested(0),
            ]
            valid = 0
            for call in calls:
                try:
                    call()
                except qw.InvalidHandle:
                    continue
                valid += 1
            flow.close()
            qos.close()
            return valid

        assert in_child(body) == 0
        # The child's closing changed nothing of ours.
        assert options_of(sock).tos == 56 << 2
        flow.set_traffic_type(qw.TrafficType.CONTROL)
    assert options_of(sock).tos == 0


def test_a_child_opens_handles_of_its_own(sockets: Bench) -> None:
    ours, theirs = sockets.make("udp4 connected"), sockets.make("udp4 connected")
    with qw.open() as qos:
        first = qos.add_socket(ours, traffic_type=qw.TrafficType.VOICE, adaptive=False)

        def body() -> int:
            with qw.open() as own:
                flow = own.add_socket(theirs, traffic_type=qw.TrafficType.VOICE, adaptive=False)
                if flow.id == first.id or options_of(theirs).tos != 56 << 2:
                    return 1
            return int(options_of(theirs).tos != 0)

        assert in_child(body) == 0
        assert options_of(ours).tos == 56 << 2


def test_a_childs_exit_leaves_the_parents_marks(sockets: Bench) -> None:
    # A forked child that ends in the ordinary way runs the exit handlers it inherited.
    sock = sockets.make("udp4 connected")
    body = """
import warnings
warnings.simplefilter("ignore")
qos = qw.open()
qos.add_socket(sock, traffic_type=VOICE, adaptive=False)
if os.fork() == 0:
    sock.detach()
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]), sock.getsockopt(0, 1))
qos.close()
print(sock.getsockopt(0, 1))
sock.detach()
"""
    assert run(sock, body).split() == ["0", str(56 << 2), "0"]
