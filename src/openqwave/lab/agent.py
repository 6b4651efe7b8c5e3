"""A traffic generator or sink as a program: `python -m openqwave.lab.agent [SPEC]`.

A process of its own, so that packets are not sent and stamped in the pauses of the lab's
interpreter. SPEC is a JSON object (see `specs`); without it, the first line of standard input is
the spec, and the end of standard input is a request to stop. SIGTERM and SIGINT are requests too.
Reports are lines of JSON on standard output (see `reporting`), the last one "final", also when
stopped. Exit status 0; 1 after a report "error"; 2 for a spec that cannot be read.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from openqwave import QosError
from openqwave.lab.reporting import Reporter, Stop
from openqwave.lab.sinks import receive_bulk, receive_streams
from openqwave.lab.sources import send_bulk, send_stream
from openqwave.lab.specs import Spec, TcpSink, TcpSource, UdpSink, UdpSource, from_json


def run(spec: Spec, stop: Stop, reporter: Reporter) -> None:
    """Do what a spec says."""
    match spec:
        case UdpSource():
            send_stream(spec, stop, reporter)
        case UdpSink():
            receive_streams(spec, stop, reporter)
        case TcpSource():
            send_bulk(spec, stop, reporter)
        case TcpSink():
            receive_bulk(spec, stop, reporter)


def _stop_at_end_of_input(stop: Stop) -> None:
    # Not by sys.stdin: the interpreter cannot end while a thread waits inside it.
    while os.read(0, 4096):
        pass
    stop.request()


def main() -> int:
    """Run one generator or sink; return the exit status."""
    reporter = Reporter()
    by_argument = len(sys.argv) > 1
    try:
        spec = from_json(sys.argv[1] if by_argument else sys.stdin.buffer.readline().decode())
    except ValueError as error:
        reporter.report("error", message=str(error))
        return 2
    with Stop() as stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop.request)
        if not by_argument:
            watcher = threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True)
            watcher.start()
        try:
            run(spec, stop, reporter)
        except (OSError, ValueError, QosError) as error:
            reporter.report("error", message=f"{type(error).__name__}: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
