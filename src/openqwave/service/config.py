"""The administrator's file, and what the service makes of it.

The file is TOML, `DEFAULT_PATH` unless another is named. `load` makes a `Config` of it or refuses
it whole: a file that is half in force is in nobody's mind. Every mistake in it is told at once,
with its line and what would be right. What the file does not say is as in `Policy` and its like,
and so is everything where the default file is not there at all.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import tomllib
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from openqwave.admission.policy import Experiments, Limits, Marks, Policy
from openqwave.admission.profiles import DEFAULT_PROFILE, PROFILES
from openqwave.enforcement.wishes import Wishes
from openqwave.model.flow import TrafficType
from openqwave.probing.sink_limits import SinkLimits
from openqwave.service import settings
from openqwave.service.reading import Problem, name_of, read, shown
from openqwave.service.server import ServerLimits
from openqwave.service.toml_lines import line_of, line_of_depth, places_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from openqwave.service.toml_lines import Place

DEFAULT_PATH: Final = Path("/etc/qwave/qwaved.toml")

# More than any policy needs; what is larger is another file.
MAX_FILE_BYTES: Final = 1 << 18

_BPS_PER_KBPS: Final = 1_000
_BYTES_PER_KB: Final = 1_000
_PPM_PER_PERCENT: Final = 10_000
_NS_PER_S: Final = 1_000_000_000

# Where `tomllib` says that it could not go on.
_AT_LINE: Final = re.compile(r" \(at line (\d+), column \d+\)$")

# What no configuration is, and `tomllib` is before it gives up.
_DEEP: Final = 100
# Fewer than the interpreter takes (sys.int_info), with the separators that TOML allows.
_MANY_DIGITS: Final = re.compile(r"[0-9_]{2000,}")

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


@dataclass(frozen=True, slots=True)
class Config:
    """What the service works with.

    Attributes:
        policy: What flows may have.
        server_limits: What clients may cost.
        enforcement: Which mechanisms carry out what flows get.
        sink: What the sink grants; None where there is to be none.
        socket: Where clients find the service.
        state_directory: Where paths are remembered.
        log_level: From which level on messages are logged (`logging`).
        path: The file that says so; None for none.
    """

    policy: Policy = field(default_factory=Policy)
    server_limits: ServerLimits = field(default_factory=ServerLimits)
    enforcement: Wishes = field(default_factory=Wishes)
    sink: SinkLimits | None = field(default_factory=SinkLimits)
    socket: str = settings.Service().socket
    state_directory: str = settings.Service().state_directory
    log_level: int = _LEVELS[settings.Service().log_level]
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong in a file.

    Attributes:
        line: From 1; None for the file as a whole.
        reason: What is wrong, and what would be right.
    """

    line: int | None
    reason: str


class ConfigError(Exception):
    """A file was refused.

    Attributes:
        path: The file.
        mistakes: All that is wrong with it, from the top down; at least one.
    """

    def __init__(self, path: Path, *mistakes: Mistake) -> None:
        super().__init__(path, *mistakes)
        self.path = path
        self.mistakes = mistakes

    @property
    def line(self) -> int | None:
        """Where the first mistake is; None if it is the file as a whole."""
        return self.mistakes[0].line

    @property
    def reason(self) -> str:
        """What the first mistake is."""
        return self.mistakes[0].reason

    def __str__(self) -> str:
        """Each mistake in a line of its own, with the file and the line."""
        return "\n".join(
            f"{self.path}: {each.reason}"
            if each.line is None
            else f"{self.path}, line {each.line}: {each.reason}"
            for each in self.mistakes
        )


def load(path: Path | None = None) -> Config:
    """Read the configuration.

    Args:
        path: The file, which has to be there; None for the default one, which need not.

    Raises:
        ConfigError: The file cannot be read, or has a mistake.
    """
    file = DEFAULT_PATH if path is None else path
    try:
        raw = _read_file(file)
    except OSError as error:
        if path is None and error.errno in (errno.ENOENT, errno.ENOTDIR):
            return Config()
        why = error.strerror or str(error)
        raise ConfigError(file, Mistake(None, f"cannot be read: {why}")) from error
    return parse(raw, file)


def _read_file(path: Path) -> bytes:
    # A name with a zero in it is no name of a file, and the interpreter says so in its own way.
    if "\0" in str(path):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def parse(raw: bytes, path: Path) -> Config:
    """Make a configuration of what a file holds.

    Args:
        raw: The file's bytes.
        path: Its name.

    Raises:
        ConfigError: It has a mistake.
    """
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(path, Mistake(None, f"is larger than {MAX_FILE_BYTES} bytes"))
    try:
        text = raw.decode("utf-8")
        table = tomllib.loads(text)
        read_settings, problems = read(settings.Settings, table)
        problems += _check(table)
        if problems:
            lines = places_of(text)
            mistakes = [Mistake(line_of(lines, each.place), each.reason) for each in problems]
            mistakes.sort(key=lambda each: each.line or 0)
            raise ConfigError(path, *mistakes)
    except UnicodeDecodeError as error:
        at = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, Mistake(at, "is not UTF-8")) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, _syntax(error, text)) from error
    except RecursionError as error:
        deep = line_of_depth(text, _DEEP)
        raise ConfigError(path, Mistake(deep, "has lists in lists beyond measure")) from error
    except ValueError as error:
        # Of all that TOML allows, the interpreter limits integers only, in their digits.
        digits = _MANY_DIGITS.search(text)
        line = 1 if digits is None else text.count("\n", 0, digits.start()) + 1
        raise ConfigError(path, Mistake(line, "has a number of too many digits")) from error
    return _config(read_settings, path)


def _syntax(error: tomllib.TOMLDecodeError, text: str) -> Mistake:
    message = str(error)
    found = _AT_LINE.search(message)
    # Elsewhere it is "(at end of document)".
    line = int(found[1]) if found else text.count("\n") + 1
    return Mistake(line, f"is no TOML: {_AT_LINE.sub('', message)}")


# -- what types cannot tell -------------------------------------------------------------


def _check(table: Mapping[str, object]) -> Iterator[Problem]:
    service = table.get("service")
    if isinstance(service, dict) and isinstance(path := service.get("socket"), str):
        # What types tell of is characters.
        longest = settings.LONGEST_SOCKET_PATH_BYTES
        if len(path) <= longest < len(path.encode()):
            yield Problem(("service", "socket"), f"service.socket has more than {longest} bytes")
    experiments = table.get("experiments")
    if isinstance(experiments, dict):
        for key in ("allowed", "forbidden"):
            yield from _check_networks(experiments.get(key), ("experiments", key))


def _check_networks(networks: object, place: Place) -> Iterator[Problem]:
    if not isinstance(networks, list):
        return
    for index, text in enumerate(networks):
        here = (*place, index)
        if not isinstance(text, str):
            continue
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            yield Problem(
                here,
                f"{name_of(here)} is {shown(text)} and has to be a network, "
                'as "10.0.0.0/8" or "2001:db8::/32"',
            )
            continue
        try:
            ip_network(text)
        except ValueError:
            # It may be the address that is wrong, or the length.
            yield Problem(
                here,
                f"{name_of(here)} is {shown(text)}, an address within a network; "
                f'"{meant}" is the network, "{text.partition("/")[0]}" the address alone',
            )


# -- what it means ----------------------------------------------------------------------


def _config(read_settings: settings.Settings, path: Path) -> Config:
    service, limits = read_settings.service, read_settings.limits
    sink = read_settings.sink
    return Config(
        policy=_policy(read_settings),
        server_limits=ServerLimits(**_given(limits, "connections", "connections_per_user")),
        enforcement=_enforcement(read_settings.enforcement),
        sink=SinkLimits(**_given(sink, *_SINK_LIMITS)) if sink.enabled else None,
        socket=service.socket,
        state_directory=service.state_directory,
        log_level=_LEVELS[service.log_level],
        path=path,
    )


def _enforcement(read_enforcement: settings.Enforcement) -> Wishes:
    given = _given(read_enforcement, "backend", "most_flows", "interfaces")
    if read_enforcement.queues is not None:
        given["may_install_queues"] = read_enforcement.queues == "install"
    return Wishes(**given)


_SINK_LIMITS: Final = ("sessions", "sessions_per_peer", "datagrams_per_s", "peer_datagrams_per_s")
_POLICY_LIMITS: Final = (
    "handles",
    "flows",
    "destinations",
    "destinations_per_flow",
    "tracked_hosts",
    "pending_operations",
)


def _policy(read_settings: settings.Settings) -> Policy:
    given: dict[str, Any] = {}
    if read_settings.access.operators_group is not None:
        given["operators_group"] = read_settings.access.operators_group
    if read_settings.rates.default_minimum_kbps is not None:
        given["default_minimum_bps"] = read_settings.rates.default_minimum_kbps * _BPS_PER_KBPS
    return Policy(
        marks=_marks(read_settings.marks),
        limits=Limits(**_given(read_settings.limits, *_POLICY_LIMITS)),
        experiments=_experiments(read_settings.experiments),
        **given,
    )


def _marks(read_marks: settings.Marks) -> Mapping[TrafficType, Marks | None]:
    profile = PROFILES[read_marks.profile or DEFAULT_PROFILE]
    marks = dict(profile)
    for traffic_type, usual in profile.items():
        match getattr(read_marks, traffic_type.name.lower()):
            case "none":
                marks[traffic_type] = None
            case settings.TypeMarks(dscp=dscp, pcp=pcp):
                usual_pcp = 0 if usual is None else usual.pcp
                marks[traffic_type] = Marks(dscp, usual_pcp if pcp is None else pcp)
    return MappingProxyType(marks)


def _experiments(read_experiments: settings.Experiments) -> Experiments:
    scales = {
        "share_percent": ("share_ppm", _PPM_PER_PERCENT),
        "most_kbps": ("most_bps", _BPS_PER_KBPS),
        "burst_kb": ("burst_bytes", _BYTES_PER_KB),
        "estimate_age_s": ("estimate_age_ns", _NS_PER_S),
        "answer_s": ("answer_ns", _NS_PER_S),
        "warm_s": ("warm_ns", _NS_PER_S),
    }
    given = _given(read_experiments, *scales)
    scaled = {
        name: round(given[key] * factor) for key, (name, factor) in scales.items() if key in given
    }
    return Experiments(**scaled, **_given(read_experiments, "allowed", "forbidden"))


def _given(table: object, *names: str) -> dict[str, Any]:
    """What a table of the file says, without what it does not."""
    said = {name: getattr(table, name) for name in names}
    return {name: value for name, value in said.items() if value is not None}
