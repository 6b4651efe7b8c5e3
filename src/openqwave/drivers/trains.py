"""Trains: datagrams that leave back to back, or with a spacing that holds to microseconds.

Everything is laid out before the first one leaves (`SendBatch`). Back to back means one system
call for as many as the kernel takes. Paced, each datagram is due at a time counted from the
first, so one that is late does not delay those after it; the thread sleeps until `SPIN_NS` before
the time and is awake for the rest. Measured over veth, absolute error at the 50th, 95th and 99th
percentile for a spacing of 500 us: asleep 2.6, 108 and 421 us; asleep then awake 0.3, 4 and 13 us.

While a paced train blocks its thread, no garbage is collected, and the thread's timer slack is
1 ns (the kernel may otherwise be 50 us late on purpose, PR_SET_TIMERSLACK in prctl(2)). While it
sleeps, other threads of the program may keep the interpreter for a tenth of a millisecond at a
time only. What is left is the machine: a thread that is taken off its processor is late by that,
and the stamps say so.

A send that fails does not raise. It ends the train, and `Departure.unsent` tells where and why.
An error that the socket still held from an earlier datagram (a router's or the far host's
complaint) is not this train's: it is taken off, and the send tried once more.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import gc
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from openqwave.drivers.batches import SendBatch
from openqwave.drivers.stamps import Stamping

# The last part of each wait is spent awake. Longer costs processor time, shorter lets timers
# that are late show: 1 % of sleeps end more than 100 us late on a busy virtual machine.
SPIN_NS = 200_000

# How long another thread may keep the interpreter's lock when this one wakes. The usual 5 ms are
# more than the length of most trains (measured beside a thread that computes: a spacing of 600 us
# is off by 592 us in the median with 5 ms, by 2 us with this).
_SWITCH_S = 0.000_1

# How long a train waits for room in the socket before it gives up: a full-sized datagram takes
# 12 ms at 1 Mbit/s, and room comes when the interface has sent some.
_ROOM_MS = 100

# Between two datagrams with this spacing there is time to answer a probe or two, which takes 50 us
# each, and be awake again before the second is due.
_SLOW_GAP_NS = 1_000_000
# A faster train that lasts longer than this is sent piece by piece all the same: a handshake that
# waits for its end has 250 ms (MS-QLPB 3.1.4).
_LONGEST_BLOCK_NS = 100_000_000

# Operations of prctl(2), from linux/prctl.h.
_PR_SET_TIMERSLACK = 29
_PR_GET_TIMERSLACK = 30
_FINEST_SLACK_NS = 1

_prctl = ctypes.CDLL(None).prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class SendFault(enum.Enum):
    """Why a datagram did not leave."""

    TOO_LARGE = "it is larger than the interface takes"
    UNREACHABLE = "no route leads there"
    NO_BUFFERS = "the socket or the interface has no room"
    NOT_PERMITTED = "a firewall or the lack of a right forbids it"
    REFUSED = "the kernel refuses it"


_FAULTS = {
    errno.EMSGSIZE: SendFault.TOO_LARGE,
    errno.ENETUNREACH: SendFault.UNREACHABLE,
    errno.EHOSTUNREACH: SendFault.UNREACHABLE,
    errno.ENETDOWN: SendFault.UNREACHABLE,
    errno.EHOSTDOWN: SendFault.UNREACHABLE,
    errno.ENODEV: SendFault.UNREACHABLE,
    errno.ENXIO: SendFault.UNREACHABLE,
    errno.EADDRNOTAVAIL: SendFault.UNREACHABLE,
    errno.ENOBUFS: SendFault.NO_BUFFERS,
    errno.ENOMEM: SendFault.NO_BUFFERS,
    errno.EAGAIN: SendFault.NO_BUFFERS,
    errno.EPERM: SendFault.NOT_PERMITTED,
    errno.EACCES: SendFault.NOT_PERMITTED,
}


def fault_of(error: OSError) -> SendFault:
    """Why, by the system's error."""
    return _FAULTS.get(error.errno or 0, SendFault.REFUSED)


@dataclass(frozen=True, slots=True)
class Unsent:
    """Where a train ended early.

    Attributes:
        index: The datagram that could not be sent; none after it was tried.
        fault: Why.
    """

    index: int
    fault: SendFault


@dataclass(frozen=True, slots=True)
class Departure:
    """What became of a train.

    Attributes:
        stamps_ns: When each datagram that was sent left, CLOCK_REALTIME.
        is_kernel: Whether each of them is the kernel's word; else this process read the clock
            just before the send, or around the call if one call sent several.
        unsent: Why there are fewer than there should be; None if all were sent.
    """

    stamps_ns: tuple[int, ...]
    is_kernel: tuple[bool, ...]
    unsent: Unsent | None = None


@contextlib.contextmanager
def punctual() -> Iterator[None]:
    """Let the calling thread's timers be exact, and the garbage wait, for a `with` block."""
    slack_ns = _prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    was_collecting = gc.isenabled()
    sharpen_timers()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()
        _prctl(_PR_SET_TIMERSLACK, slack_ns, 0, 0, 0)


@contextlib.contextmanager
def waking_promptly() -> Iterator[None]:
    """For a `with` block in which the calling thread sleeps: let other threads not hold it up."""
    usual_s = sys.getswitchinterval()
    if usual_s <= _SWITCH_S:
        # Another thread does the same, and will undo it.
        yield
        return
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual_s)


def sharpen_timers() -> None:
    """Let the calling thread's timers be exact for as long as it lives."""
    _prctl(_PR_SET_TIMERSLACK, _FINEST_SLACK_NS, 0, 0, 0)


class Train:
    """One train on its way.

    `run` sends it to its end. A thread that has other work sends a slow one piece by piece:
    `send_due` whenever `due_ns` is near, until `is_over`; then `finish`.
    """

    def __init__(
        self,
        fd: int,
        stamping: Stamping,
        batch: SendBatch,
        gap_ns: int,
        *,
        wants_stamps: bool,
    ) -> None:
        """Make it ready; nothing leaves yet.

        Args:
            fd: The socket.
            stamping: The same socket's.
            batch: The datagrams.
            gap_ns: Time from one to the next; 0 for back to back.
            wants_stamps: Whether the kernel is to be asked when they left.
        """
        self._fd = fd
        self._stamping = stamping
        self._batch = batch
        self._gap_ns = gap_ns
        self._wants_stamps = wants_stamps
        self._sent = 0
        self._clocks_ns: list[int] = []
        self._unsent: Unsent | None = None
        self._first_due_ns: int | None = None

    @property
    def is_slow(self) -> bool:
        """Does it leave time for other work, or take so much that others cannot wait for it?"""
        span_ns = self._gap_ns * self._batch.count
        return self._gap_ns >= _SLOW_GAP_NS or span_ns > _LONGEST_BLOCK_NS

    @property
    def is_over(self) -> bool:
        """Has everything been sent, or something failed?"""
        return self._unsent is not None or self._sent == self._batch.count

    @property
    def due_ns(self) -> int:
        """When the next datagram is due, CLOCK_MONOTONIC; 0 before the first."""
        if self._first_due_ns is None:
            return 0
        return self._first_due_ns + self._sent * self._gap_ns

    def run(self) -> Departure:
        """Send everything, waiting as the spacing demands."""
        if not self._gap_ns:
            self.send_due()
            return self.finish()
        with punctual():
            while not self.is_over:
                pause_ns = self.due_ns - SPIN_NS - time.monotonic_ns()
                if pause_ns > 0:
                    with waking_promptly():
                        time.sleep(pause_ns / 1e9)
                self.send_due()
        return self.finish()

    def send_due(self) -> None:
        """Send the next datagram when its time has come, awake until then; all if back to back."""
        now_ns = time.monotonic_ns()
        if self._first_due_ns is None:
            self._first_due_ns = now_ns
            self._stamping.begin(wanted=self._wants_stamps)
        if not self._gap_ns:
            self._send(self._batch.count - self._sent)
            return
        due_ns = self.due_ns
        while now_ns < due_ns:
            now_ns = time.monotonic_ns()
        self._send(1)

    def finish(self) -> Departure:
        """Take the stamps and tell what became of the train."""
        stamps_ns = self._clocks_ns
        is_kernel = [False] * self._sent
        if self._wants_stamps and self._sent:
            for index, stamp_ns in self._stamping.collect(self._sent).items():
                stamps_ns[index] = stamp_ns
                is_kernel[index] = True
        return Departure(tuple(stamps_ns), tuple(is_kernel), self._unsent)

    def _send(self, wanted: int) -> None:
        """Send so many in a row."""
        has_retried = False
        while wanted:
            before_ns = time.time_ns()
            try:
                count = self._batch.send(self._fd, self._sent, wanted)
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    if self._await_room():
                        continue
                elif not has_retried and error.errno != errno.EMSGSIZE:
                    has_retried = True
                    self._stamping.stumbled(self._sent)
                    continue
                self._stamping.stumbled(self._sent)
                self._unsent = Unsent(self._sent, fault_of(error))
                return
            after_ns = time.time_ns() if count > 1 else before_ns
            self._clocks_ns += [
                before_ns + (after_ns - before_ns) * turn // count for turn in range(count)
            ]
            self._stamping.sent(count)
            self._sent += count
            wanted -= count

    def _await_room(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(_ROOM_MS))
