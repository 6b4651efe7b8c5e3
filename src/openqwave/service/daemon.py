"""qwaved: everything put together, in order, and taken apart again.

Start: read the configuration, take the journal of the last run and give back what it had marked
(a crash leaves marks on sockets that live on), take what it left out of the kernel, choose what
marks packets, open the listeners, say READY. End, by SIGTERM or Ctrl-C: stop listening, close every
handle (which gives options back), take everything out of the kernel, close the rest. SIGHUP reads
the configuration again; one with a mistake changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.drivers.links import Links
from openqwave.drivers.reaching import ReachableSockets
from openqwave.enforcement.journal import Journal
from openqwave.enforcement.missing import MechanismMissing
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.model.errors import QosError
from openqwave.runtime.runtime import Runtime
from openqwave.service.activation import Listeners, listeners_for
from openqwave.service.config import DEFAULT_PATH, Config, ConfigError, load
from openqwave.service.estimates import EstimateStore
from openqwave.service.kernel import Kernel
from openqwave.service.metrics.applying import CountedBackend
from openqwave.service.metrics.collecting import Sources
from openqwave.service.metrics.serving import Metrics
from openqwave.service.notify import Notifier
from openqwave.service.policyfiles import POLICY_DIRECTORY
from openqwave.service.programs.carrying import Carrying
from openqwave.service.programs.spoken import SpokenFor
from openqwave.service.recovery import recover, retry
from openqwave.service.server import Server
from openqwave.service.showing import Showing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_log = logging.getLogger("openqwave.service")

# sysexits.h: what a service manager's reader expects of a bad configuration.
EXIT_CONFIG: Final = 78
EXIT_FAILED: Final = 1

# Flow ids of the service start here; those of embedded subsystems hold their process's id.
_FIRST_FLOW_ID = 1

# The journal's prefix of a level, as systemd reads it (sd-daemon(3)).
_PREFIXES: Final = {
    logging.DEBUG: "<7>",
    logging.INFO: "<6>",
    logging.WARNING: "<4>",
    logging.ERROR: "<3>",
    logging.CRITICAL: "<2>",
}


class _Lines(logging.Formatter):
    """One line a record, with the level as the journal takes it, or as people do."""

    def __init__(self, *, for_journal: bool) -> None:
        super().__init__("%(message)s" if for_journal else "qwaved: %(levelname)s: %(message)s")
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._for_journal:
            return text
        prefix = _PREFIXES.get(record.levelno, "<6>")
        return "\n".join(prefix + line for line in text.splitlines())


@dataclass(frozen=True, slots=True)
class Options:
    """The command line.

    Attributes:
        config: The configuration file; None for the default one, which need not be there.
        socket: Where to listen; None for what the configuration says.
        run_directory: Where the journal of marks is; it must outlive a crash.
        check: Only read the configuration.
        policy: The directory of policy files; None for the one beside the default configuration.
    """

    config: Path | None
    socket: str | None
    run_directory: Path | None
    check: bool
    policy: Path | None = None


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; ends the program where it is wrong, or asks for help."""
    parser = argparse.ArgumentParser(
        prog="qwaved",
        description="One QoS subsystem for all programs of this host; see qwaved(8).",
        epilog="Signals: SIGHUP reads the configuration again, SIGTERM and Ctrl-C end it.",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"the configuration (default {DEFAULT_PATH})"
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="DIR",
        help="policy files, which win over the configuration in the order of their names (default "
        f"{DEFAULT_PATH.parent / POLICY_DIRECTORY}; none beside another configuration)",
    )
    parser.add_argument("--socket", metavar="PATH", help="listen here (default as configured)")
    parser.add_argument(
        "--run-directory",
        type=Path,
        metavar="DIR",
        help="for what must outlive a crash, but not the machine (default: the socket's)",
    )
    parser.add_argument(
        "--check", action="store_true", help="read the configuration, say what is wrong, and end"
    )
    parser.add_argument("--version", action="version", version=f"qwaved {version('openqwave')}")
    read = parser.parse_args(arguments)
    return Options(read.config, read.socket, read.run_directory, read.check, read.policy)


class Daemon:
    """The service, from its start to its end.

    Attributes:
        config: What is in force.
        runtime: The subsystem.
        server: Serves clients.
    """

    def __init__(self, config: Config, listeners: Listeners, run_directory: Path) -> None:
        """Put everything together.

        Args:
            config: What is in force.
            listeners: Where clients come in.
            run_directory: Holds the journal of marks.

        Raises:
            OSError: A file or a descriptor is not to be had.
            MechanismMissing: What the configuration insists on is not to be had.
        """
        self.config = config
        self.listeners = listeners
        self._started_ns = time.monotonic_ns()
        self._directory = ReachableSockets()
        self._journal = Journal(run_directory / "marks")
        if self._journal.complaint:
            _log.error("%s; what it says is owed is not given back", self._journal.complaint)
        recovered = recover(self._journal, self._directory)
        if recovered.given_back or recovered.failed:
            _log.warning(
                "the last run ended without giving back %d sockets' options: %d given back, "
                "%d gone by themselves, %d could not be",
                recovered.given_back + recovered.gone + recovered.failed,
                recovered.given_back,
                recovered.gone,
                recovered.failed,
            )
        options = SocketOptions(self._directory, Links(), self._journal)
        self._kernel = Kernel(config.enforcement, options, self._directory)
        self._store = EstimateStore(Path(config.state_directory) / "paths.sqlite3")
        applying = CountedBackend(self._kernel.chosen)
        self.runtime = Runtime(
            config.policy,
            self._directory,
            applying,
            first_flow_id=_FIRST_FLOW_ID,
            memory=self._store,
        )
        name = f"qwaved {version('openqwave')}"
        self._carrying = Carrying(
            self.runtime,
            self._kernel.program_marks,
            self._kernel.why_no_programs,
            config.policy,
            run_directory,
        )
        showing = Showing(
            self.runtime,
            self._store,
            self._kernel,
            config,
            listeners.path,
            self._started_ns,
            SpokenFor(self._carrying),
        )
        self.server = Server(
            self.runtime,
            self._directory,
            listeners.sockets,
            version=name,
            show=showing.show,
            limits=config.server_limits,
        )
        self._kernel.watch(self.server)
        self._carrying.watch(self.server)
        self._showing = showing
        self._metrics = Metrics(
            Sources(
                version("openqwave"),
                self.runtime,
                self.server,
                self._kernel,
                applying,
                self._carrying,
            )
        )
        self._notifier = Notifier()

    def serve(self, config_file: Path | None, policy: Path | None = None) -> None:
        """Serve until a signal ends it.

        Args:
            config_file: What SIGHUP reads again; None for the default file.
            policy: The directory of policy files, likewise.
        """

        def end(_: int, __: FrameType | None) -> None:
            self.server.stop()

        def reload(_: int, __: FrameType | None) -> None:
            self.server.do(lambda: self.reload(config_file, policy))

        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, end),
            signal.SIGINT: signal.signal(signal.SIGINT, end),
            signal.SIGHUP: signal.signal(signal.SIGHUP, reload),
        }
        try:
            self._serve_sink()
            self._metrics.obey(self.config.metrics)
            _log.info("listening at %s", self.listeners.path)
            self._notifier.ready(f"listening at {self.listeners.path}")
            self.server.run(self._tick, self._settle_debts)
        finally:
            self._notifier.stopping()
            for number, handler in before.items():
                signal.signal(number, handler)

    def reload(self, config_file: Path | None, policy: Path | None = None) -> None:
        """Read the configuration again; one with a mistake changes nothing."""
        self._notifier.reloading()
        try:
            config = load(config_file, policy)
            self._kernel.can_be_had(config.enforcement)
        except ConfigError as error:
            _log.error("%s; the running configuration stays", error)
        except MechanismMissing as error:
            _log.error("%s; the running configuration stays", _refused(config, error))
        else:
            self.runtime.set_policy(config.policy)
            self._carrying.obey(config.policy)
            self.server.limits = config.server_limits
            self.config = self._showing.config = config
            logging.getLogger("openqwave").setLevel(config.log_level)
            self._kernel.tell_what_waits(config.enforcement)
            self._serve_sink()
            self._metrics.obey(config.metrics)
            _log.info("the configuration was read again")
        self._notifier.ready(f"listening at {self.listeners.path}")

    def close(self) -> None:
        """Give everything back; harmless if done already."""
        self._metrics.close()
        self.server.close()
        self._showing.close()
        self._carrying.close()
        self.runtime.close()
        self._kernel.close()
        self._store.close()
        self._journal.close()
        self.listeners.close()

    def _tick(self) -> None:
        """Once a second."""
        self._notifier.keep_alive()
        # What the kernel tells late: TCP that had something left to send.
        self.runtime.drop_closed()
        self._kernel.look_again(self.server)
        self._carrying.tick()
        self._metrics.tick()

    def _settle_debts(self) -> bool:
        """Give back what could not be given back in time; whether to go on soon."""
        if not self._journal.left:
            return False
        # Under the lock, as all that uses sockets.
        tried = self.runtime.look(lambda _: retry(self._journal, self._directory))
        return tried.searched > 0

    def _serve_sink(self) -> None:
        if self.config.sink is None:
            self.runtime.stop_sink()
        else:
            self.runtime.serve_sink(self.config.sink)


def _refused(config: Config, error: MechanismMissing) -> str:
    where = "the configuration" if config.path is None else str(config.path)
    return f"{where}: enforcement.backend is {config.enforcement.backend!r}, but {error}"


def _set_up_log(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(for_journal="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger("openqwave")
    root.handlers[:] = [handler]
    root.setLevel(level)


def _raise_descriptor_limit() -> None:
    """Every connection costs two; the usual soft limit of 1,024 is for programs that select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(arguments: Sequence[str] | None = None) -> int:
    """The program `qwaved`; returns its exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        config = load(options.config, options.policy)
    except ConfigError as error:
        sys.stderr.write(f"qwaved: {error}\n")
        return EXIT_CONFIG
    if options.check:
        sys.stdout.write("the configuration is good\n")
        return 0
    _set_up_log(config.log_level)
    _raise_descriptor_limit()
    try:
        listeners = listeners_for(options.socket or config.socket)
        directory = options.run_directory or Path(listeners.path).parent
        with contextlib.closing(Daemon(config, listeners, directory)) as daemon:
            daemon.serve(options.config, options.policy)
    except MechanismMissing as error:
        sys.stderr.write(f"qwaved: cannot run: {_refused(config, error)}\n")
        return EXIT_FAILED
    except (OSError, QosError) as error:
        sys.stderr.write(f"qwaved: cannot run: {error}\n")
        return EXIT_FAILED
    return 0
