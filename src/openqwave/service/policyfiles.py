"""Which policy files there are, and what each file of the configuration may say.

`policy.d` holds files of packages and of tools beside those of the administrator, so they are small
and many, and take effect in the order of their names. They say what flows may have; what is the
service's own stands in `qwaved.toml` alone, so that a policy file need not be read to find it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from openqwave.service import settings
from openqwave.service.documents import ConfigError, Mistake, cannot_be_read
from openqwave.service.metrics.wishes import check_metrics
from openqwave.service.reading import Problem, read
from openqwave.service.rulefiles import check_network, check_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from openqwave.service.toml_lines import Place

# Beside the configuration file.
POLICY_DIRECTORY: Final = "policy.d"

# As many as a directory holds that somebody keeps in order.
_MOST_FILES: Final = 256

Check: TypeAlias = Callable[[Mapping[str, object]], Iterable[Problem]]

_TABLES: Final = tuple(each.name for each in msgspec.structs.fields(settings.Settings))
_POLICY_TABLES: Final = tuple(each.name for each in msgspec.structs.fields(settings.PolicyFile))


def files_in(directory: Path, *, may_miss: bool = False) -> Sequence[Path]:
    """The policy files of a directory, in their order; hidden ones are none.

    Args:
        directory: Where they are.
        may_miss: A directory that is not there has none.

    Raises:
        ConfigError: It cannot be read, or has too many.
    """
    try:
        # What is no file is told when it is read.
        files = sorted(
            each
            for each in directory.iterdir()
            if each.suffix == ".toml" and not each.name.startswith(".")
        )
    except OSError as error:
        if may_miss and error.errno in (errno.ENOENT, errno.ENOTDIR):
            return ()
        raise cannot_be_read(directory, error) from error
    except ValueError as error:
        raise ConfigError(directory, Mistake(None, f"cannot be read: {error}")) from error
    if len(files) > _MOST_FILES:
        raise ConfigError(directory, Mistake(None, f"has more than {_MOST_FILES} policy files"))
    return files


def check_config(table: Mapping[str, object]) -> Iterator[Problem]:
    """What is wrong in `qwaved.toml`."""
    if "rule" in table:
        yield Problem(
            ("rule",), f"rule has no place here; rules belong in a file of {POLICY_DIRECTORY}"
        )
    _, problems = read(settings.Settings, {key: table[key] for key in table if key != "rule"})
    yield from problems
    yield from _check_socket(table)
    yield from _check_experiments(table)
    yield from check_metrics(table.get("metrics"))


def check_policy(table: Mapping[str, object]) -> Iterator[Problem]:
    """What is wrong in a policy file."""
    others = [key for key in table if key in _TABLES and key not in _POLICY_TABLES]
    for key in others:
        yield Problem(
            (key,), f"{key} has no place here; it is the service's own and belongs in qwaved.toml"
        )
    _, problems = read(settings.PolicyFile, {key: table[key] for key in table if key not in others})
    yield from problems
    yield from _check_experiments(table)
    yield from check_rules(table.get("rule"))


def _check_socket(table: Mapping[str, object]) -> Iterator[Problem]:
    service = table.get("service")
    if isinstance(service, dict) and isinstance(path := service.get("socket"), str):
        # What types tell of is characters.
        longest = settings.LONGEST_SOCKET_PATH_BYTES
        if len(path) <= longest < len(path.encode()):
            yield Problem(("service", "socket"), f"service.socket has more than {longest} bytes")


def _check_experiments(table: Mapping[str, object]) -> Iterator[Problem]:
    experiments = table.get("experiments")
    if not isinstance(experiments, dict):
        return
    for key in ("allowed", "forbidden"):
        networks = experiments.get(key)
        if not isinstance(networks, list):
            continue
        for index, text in enumerate(networks):
            if isinstance(text, str):
                place: Place = ("experiments", key, index)
                yield from check_network(text, place)
