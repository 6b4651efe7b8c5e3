"""The administrator's files, and what the service makes of them.

They are TOML: `DEFAULT_PATH` unless another is named, and over it those of `policy.d`. `load` makes
a `Config` of them or refuses them whole: files that are half in force are in nobody's mind. Every
mistake in them is told at once, with its file, its line and what would be right. What no file says
is as in `Policy` and its like, and so is everything where there is none. Where each value comes
from is kept.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from openqwave.admission.policy import Experiments, Limits, Marks, Policy
from openqwave.admission.profiles import DEFAULT_PROFILE, PROFILES
from openqwave.enforcement.wishes import Wishes
from openqwave.model.flow import TrafficType
from openqwave.probing.sink_limits import SinkLimits
from openqwave.service import settings
from openqwave.service.documents import (
    MAX_FILE_BYTES,
    ConfigError,
    Mistake,
    cannot_be_read,
    parse_document,
)
from openqwave.service.documents import read_file as _read_file
from openqwave.service.limits import ServerLimits
from openqwave.service.merging import merged
from openqwave.service.metrics.places import NOWHERE, Wanted, place_of
from openqwave.service.policyfiles import (
    POLICY_DIRECTORY,
    check_config,
    check_policy,
    files_in,
)
from openqwave.service.reading import read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from openqwave.service.documents import Document, Origin
    from openqwave.service.policyfiles import Check
    from openqwave.service.toml_lines import Place

__all__ = (
    "DEFAULT_PATH",
    "MAX_FILE_BYTES",
    "Config",
    "ConfigError",
    "Mistake",
    "load",
    "parse",
)

DEFAULT_PATH: Final = Path("/etc/qwave/qwaved.toml")

_BPS_PER_KBPS: Final = 1_000
_BYTES_PER_KB: Final = 1_000
_PPM_PER_PERCENT: Final = 10_000
_NS_PER_S: Final = 1_000_000_000

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
        profile: The table that marks were taken from.
        server_limits: What clients may cost.
        enforcement: Which mechanisms carry out what flows get.
        sink: What the sink grants; None where there is to be none.
        metrics: Where collectors get numbers; None for nowhere.
        socket: Where clients find the service.
        state_directory: Where paths are remembered.
        log_level: From which level on messages are logged (`logging`).
        path: The configuration file; None for none.
        files: All files that say so, those of policy last.
        origins: Where each value comes from, by its place; those of rules are in the rules.
    """

    policy: Policy = field(default_factory=Policy)
    server_limits: ServerLimits = field(default_factory=ServerLimits)
    enforcement: Wishes = field(default_factory=Wishes)
    sink: SinkLimits | None = field(default_factory=SinkLimits)
    metrics: Wanted | None = None
    socket: str = settings.Service().socket
    state_directory: str = settings.Service().state_directory
    log_level: int = _LEVELS[settings.Service().log_level]
    path: Path | None = None
    files: tuple[Path, ...] = field(default=(), compare=False)
    profile: str = DEFAULT_PROFILE
    origins: Mapping[Place, Origin] = field(default_factory=dict, compare=False)


def load(path: Path | None = None, policy: Path | Sequence[Path] | None = None) -> Config:
    """Read the configuration, with its policy files.

    Args:
        path: The file, which has to be there; None for the default one, which need not.
        policy: A directory of policy files, or the files, which have to be there; None for the
            directory beside the default file, which need not, and for none with another.

    Raises:
        ConfigError: A file cannot be read, or has a mistake; it has the mistakes of all.
    """
    file = DEFAULT_PATH if path is None else path
    errors: list[ConfigError] = []
    documents: list[Document] = []

    def read_one(each: Path, check: Check, *, may_miss: bool = False) -> None:
        try:
            documents.append(parse_document(_read_file(each), each, check))
        except OSError as error:
            if not (may_miss and error.errno in (errno.ENOENT, errno.ENOTDIR)):
                errors.append(cannot_be_read(each, error))
        except ConfigError as error:
            errors.append(error)

    read_one(file, check_config, may_miss=path is None)
    has_file = bool(documents)
    try:
        files = _policy_files(path, policy)
    except ConfigError as error:
        files = ()
        errors.append(error)
    for each in files:
        read_one(each, check_policy)
    if errors:
        raise ConfigError(
            errors[0].path,
            *(replace(each, path=error.path) for error in errors for each in error.mistakes),
        )
    return _config(documents, file if has_file else None)


def parse(raw: bytes, path: Path) -> Config:
    """Make a configuration of what one file holds.

    Args:
        raw: The file's bytes.
        path: Its name.

    Raises:
        ConfigError: It has a mistake.
    """
    return _config([parse_document(raw, path, check_config)], path)


def _policy_files(path: Path | None, policy: Path | Sequence[Path] | None) -> Sequence[Path]:
    if isinstance(policy, Path):
        return files_in(policy)
    if policy is not None:
        return policy
    # Beside another configuration may be anything of anybody.
    return files_in(DEFAULT_PATH.parent / POLICY_DIRECTORY, may_miss=True) if path is None else ()


# -- what it means ----------------------------------------------------------------------


def _config(documents: Sequence[Document], path: Path | None) -> Config:
    whole = merged(documents)
    # Each file has been checked, and what they have together is nothing that none of them has.
    read_settings, _ = read(settings.Settings, whole.table)
    service, limits = read_settings.service, read_settings.limits
    sink = read_settings.sink
    return Config(
        policy=replace(_policy(read_settings), rules=whole.rules),
        server_limits=ServerLimits(**_given(limits, "connections", "connections_per_user")),
        enforcement=_enforcement(read_settings.enforcement),
        sink=SinkLimits(**_given(sink, *_SINK_LIMITS)) if sink.enabled else None,
        metrics=_metrics(read_settings.metrics),
        socket=service.socket,
        state_directory=service.state_directory,
        log_level=_LEVELS[service.log_level],
        path=path,
        files=tuple(each.path for each in documents),
        profile=read_settings.marks.profile or DEFAULT_PROFILE,
        origins=whole.origins,
    )


def _metrics(read_metrics: settings.Metrics) -> Wanted | None:
    listen = read_metrics.listen
    if listen is None or listen == NOWHERE:
        return None
    return Wanted(place_of(listen), **_given(read_metrics, "paths"))


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
    "runs_per_user",
    "flows_per_user",
    "destinations_per_user",
)


def _policy(read_settings: settings.Settings) -> Policy:
    given = _given(read_settings.access, "operators_group", "priority_needs_contract")
    if read_settings.rates.default_minimum_kbps is not None:
        given["default_minimum_bps"] = read_settings.rates.default_minimum_kbps * _BPS_PER_KBPS
    return Policy(
        marks=_marks(read_settings.marks),
        limits=_limits(read_settings.limits),
        experiments=_experiments(read_settings.experiments),
        **given,
    )


def _limits(read_limits: settings.ClientLimits) -> Limits:
    scales = {
        "contracts_per_user_kbps": ("contracts_per_user_bps", _BPS_PER_KBPS),
        "contracts_per_host_kbps": ("contracts_per_host_bps", _BPS_PER_KBPS),
        "contracts_per_host_percent": ("contracts_per_host_ppm", _PPM_PER_PERCENT),
        "contracts_per_interface_percent": ("contracts_per_interface_ppm", _PPM_PER_PERCENT),
    }
    given = _given(read_limits, *scales)
    scaled = {
        name: round(given[key] * factor)
        for key, (name, factor) in scales.items()
        if key in given and given[key] != "none"
    }
    return Limits(**scaled, **_given(read_limits, *_POLICY_LIMITS))


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
