"""The thread in which experiments happen: sessions towards sinks, a sink of our own, port 2177.

A session or a sink only decides; an `ExperimentHost` does what they decide. Its thread sends
trains, keeping itself awake for the last microseconds before each datagram, so it is never the
caller's nor an event loop's. Meanwhile datagrams wait in their sockets, stamped by the kernel.

**Failure.** What goes wrong with one session or sink ends that one; its reader gets the error
after the events. What goes wrong with the thread itself ends the host; every reader gets it, and
so does every caller from then on.

**The end** is made by the thread: `close` asks for it and waits, so it can be interrupted and
called again, and a signal's handler may call it. **A forked child** has no such thread: its
copies of the descriptors are closed, and its calls are refused.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from openqwave.drivers.experiment_loop import ExperimentLoop
from openqwave.drivers.mailbox import Mailbox
from openqwave.drivers.readiness import Wake
from openqwave.drivers.trains import sharpen_timers
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import (
    GeneralFailure,
    InvalidParameter,
    OperationAborted,
    QosError,
    error_of,
    refusal_of_os_error,
)

if TYPE_CHECKING:
    from openqwave.drivers.experiment_loop import Driver
    from openqwave.drivers.initiating import Tags
    from openqwave.drivers.rtnetlink import Network
    from openqwave.probing.session import Event, Session
    from openqwave.probing.sink import Sink

_T = TypeVar("_T")


def parse_peer(text: str) -> Endpoint:
    """A peer by its address.

    Args:
        text: IPv4 or IPv6; a link-local address with its scope, as in ``fe80::1%eth0``.

    Raises:
        InvalidParameter: It is none, or names an interface that is not there.
    """
    try:
        address = ip_address(text)
        if isinstance(address, IPv4Address):
            return Endpoint(address.packed, 0)
        scope = address.scope_id or "0"
        scope_id = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except (ValueError, OSError) as error:
        raise InvalidParameter(f"{text!r} is no address: {error}") from error
    return Endpoint(address.packed, 0, scope_id)


class Running:
    """An experiment that a host runs; iterate over it for its events, to the last one."""

    def __init__(self, host: ExperimentHost, driver: Driver, mailbox: Mailbox) -> None:
        self._host = host
        self._driver = driver
        self._mailbox = mailbox

    @property
    def is_over(self) -> bool:
        """Will nothing happen any more? Events may still wait to be read."""
        return self._mailbox.is_closed

    @property
    def lost_events(self) -> int:
        """Events that were dropped because nobody read them."""
        return self._mailbox.lost_events

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """Take the oldest event, waiting for it.

        Args:
            timeout_s: How long to wait; None for as long as it takes.

        Returns:
            The event; None when there will be no more.

        Raises:
            TimedOut: None came in time.
            QosError: The experiment failed, or its host; see `Mailbox.take`.
        """
        return self._mailbox.take(timeout_s)

    def __iter__(self) -> Iterator[Event]:
        """Every event until the last; errors as with `next_event`."""
        return iter(self._mailbox)

    def do(self, action: Callable[[int], _T]) -> _T:
        """Do something with the session or the sink, in the thread that runs it.

        Args:
            action: Called with the time (`now_ns`); what it raises is raised here, and ends
                nothing.

        Returns:
            What the action returns.

        Raises:
            OperationAborted: The experiment is over.
            QosError: The host broke.
        """
        return self._host.call(lambda loop: loop.act(self._driver, action))

    def cancel(self) -> None:
        """End it now, without telling it; its sockets are closed on return. Harmless if over."""
        with contextlib.suppress(OperationAborted):
            self._host.call(lambda loop: loop.end(self._driver))


class Serving(Running):
    """A sink that a host runs.

    Attributes:
        versions: The IP versions that it answers.
    """

    def __init__(
        self, host: ExperimentHost, driver: Driver, mailbox: Mailbox, versions: tuple[int, ...]
    ) -> None:
        super().__init__(host, driver, mailbox)
        self.versions = versions


class _Command(Generic[_T]):
    """Something to be done by the thread, for somebody who waits."""

    def __init__(self, action: Callable[[ExperimentLoop], _T]) -> None:
        self._action = action
        self.result: Future[_T] = Future()

    def run(self, loop: ExperimentLoop) -> None:
        try:
            self.result.set_result(self._action(loop))
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits for it
            self.result.set_exception(error)


class ExperimentHost:
    """Runs sessions and a sink; see the module's text."""

    def __init__(
        self, allowed: Sequence[str | Network] = (), address: Endpoint | None = None
    ) -> None:
        """Prepare; `start` begins.

        Args:
            allowed: Networks whose hosts may be measured, and may measure, though they are not
                on this host's links.
            address: The one address of this host at which port 2177 is opened; None for all. Its
                port is not looked at.
        """
        self._allowed = tuple(allowed)
        self._address = address
        self._commands: queue.SimpleQueue[_Command[Any]] = queue.SimpleQueue()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._loop: ExperimentLoop | None = None
        self._wake: Wake | None = None
        # A signal's handler may close while its thread wakes the other: hence re-entrant.
        self._lock = threading.RLock()
        self._is_closing = False
        self._is_ended = False
        self._failure: BaseException | None = None
        self._is_told = False

    def start(self) -> None:
        """Start the thread, in the network namespace of the calling one.

        Raises:
            InvalidParameter: The host was started before, or an allowed network is none.
            QosError: The kernel refused what the thread needs.
        """
        if self._thread is not None:
            raise InvalidParameter("an experiment host is started once")
        try:
            self._wake = Wake()
        except OSError as error:
            raise error_of(refusal_of_os_error(error, "no experiments")) from error
        _watch_forks()
        _hosts.add(self)
        started: Future[None] = Future()
        # A daemon, so that a program that forgets to close can end.
        self._thread = threading.Thread(
            target=self._run, args=(self._wake, started), name="openqwave-experiments", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End everything, and wait until nothing is left open. Harmless when done before.

        Raises:
            QosError: The thread had broken; raised once.
        """
        self._is_closing = True
        if self._thread is None or self._pid != os.getpid():
            return
        self._send_wake()
        self._thread.join()
        with self._lock:
            if self._wake is not None:
                self._wake.close()
                self._wake = None
        if self._failure is not None and not self._is_told:
            self._is_told = True
            raise self._reason()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An exception that is on its way was raised by the failure, or matters more.
        self._is_told |= kind is not None
        self.close()

    def run(
        self,
        session: Session,
        peer: str | Endpoint,
        mailbox: Mailbox | None = None,
        tags: Tags | None = None,
    ) -> Running:
        """Run a session towards a sink. It is over when it waits for nothing any more.

        Args:
            session: Not started yet, and left to the host from now on.
            peer: The sink's address, see `parse_peer`; the port is the protocol's.
            mailbox: Where its events go; one to read them from when None.
            tags: Tags its priority probes, in the host's thread; None for nobody.

        Returns:
            The way to its events, and to end it.

        Raises:
            InvalidParameter: The peer is no address.
            DisabledByPolicy: The peer is behind a router, and not in an allowed network.
            HostUnreachable: There is no route.
            PortTaken: The session begins with a small probe, and another socket has port 2177;
                a session that sends one later gets the error with its events.
            QosError: The session refused to start, or the host is closed, or broke.
        """
        where = (peer if isinstance(peer, Endpoint) else parse_peer(peer)).unmapped()
        mailbox = mailbox or Mailbox()
        driver = self.call(lambda loop: loop.begin_session(session, where, mailbox, tags))
        return Running(self, driver, mailbox)

    def serve(self, sink: Sink, mailbox: Mailbox | None = None) -> Serving:
        """Open port 2177 and let a sink answer there.

        Args:
            sink: Left to the host from now on.
            mailbox: Where its events go; one to read them from when None.

        Returns:
            The way to its events, and to end it.

        Raises:
            PortTaken: Another socket has the port; the message says whose.
            InvalidParameter: This host serves a sink already.
            QosError: The host is closed, or broke.
        """
        mailbox = mailbox or Mailbox()
        driver = self.call(lambda loop: loop.begin_sink(sink, mailbox))
        return Serving(self, driver, mailbox, driver.versions)

    def dropped_datagrams(self) -> int:
        """How many datagrams were dropped here, at port 2177, for not being read in time.

        They look like loss on the path, and are not.

        Raises:
            QosError: As with `call`.
        """
        return self.call(lambda loop: loop.dropped)

    def call(self, action: Callable[[ExperimentLoop], _T]) -> _T:
        """Have something done in the thread, and wait for the result.

        Args:
            action: Called with the loop; what it raises is raised here.

        Raises:
            OperationAborted: The host is closed, not started, or another process's.
            QosError: The host broke.
        """
        if self._pid != os.getpid():
            raise OperationAborted("the host's thread is in the process that started it")
        if self._thread is None:
            raise OperationAborted("the host has not been started")
        command = _Command(action)
        self._commands.put(command)
        self._send_wake()
        if self._is_ended:
            # The thread may have looked for the last time just before.
            self._refuse_commands()
        return command.result.result()

    def _send_wake(self) -> None:
        with self._lock:
            if self._wake is not None:
                self._wake.send()

    def _refuse_commands(self) -> None:
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            command.result.set_exception(self._reason())

    def _reason(self) -> QosError:
        """Why nothing is done any more."""
        if self._failure is None:
            return OperationAborted("the experiment host is closed")
        failure = GeneralFailure(f"the experiment host broke: {self._failure!r}")
        failure.__cause__ = self._failure
        return failure

    # -- the thread -------------------------------------------------------------------

    def _run(self, wake: Wake, started: Future[None]) -> None:
        try:
            loop = self._loop = ExperimentLoop(self._allowed, self._address)
            loop.readiness.add(wake.fd, None, lambda _: self._obey(wake, loop))
        except Exception as error:  # noqa: BLE001 - raised by `start`
            self._is_ended = True
            started.set_exception(error)
            return
        sharpen_timers()
        started.set_result(None)
        try:
            while not self._is_closing:
                loop.turn()
        except BaseException as error:  # noqa: BLE001 - raised for every reader and caller
            self._failure = error
        finally:
            loop.close(None if self._failure is None else self._reason())
            self._is_ended = True
            self._refuse_commands()

    def _obey(self, wake: Wake, loop: ExperimentLoop) -> None:
        wake.take()
        while True:
            try:
                self._commands.get_nowait().run(loop)
            except queue.Empty:
                return

    def close_copies(self) -> None:
        """Close what a forked child has a copy of."""
        # Another thread may have held the lock when the process was forked.
        self._lock = threading.RLock()
        if self._loop is not None:
            self._loop.close_copies()
        if self._wake is not None:
            self._wake.close()
            self._wake = None


_hosts: weakref.WeakSet[ExperimentHost] = weakref.WeakSet()


def _close_all_copies() -> None:
    for host in list(_hosts):
        host.close_copies()
    _hosts.clear()


@functools.cache
def _watch_forks() -> None:
    """Have descriptors closed in every child that is forked from now on; once is enough."""
    os.register_at_fork(after_in_child=_close_all_copies)
