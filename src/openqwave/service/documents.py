"""One file of the configuration: read, checked against what it may say, each value with its line.

What is wrong with a file is a `ConfigError`, which has all of it, with the file, the line and what
would be right.
"""

from __future__ import annotations

import errno
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openqwave.service.reading import Problem
from openqwave.service.toml_lines import line_of, line_of_depth, places_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from openqwave.service.toml_lines import Place

# More than any policy needs; what is larger is another file.
MAX_FILE_BYTES: Final = 1 << 18

# Where `tomllib` says that it could not go on.
_AT_LINE: Final = re.compile(r" \(at line (\d+), column \d+\)$")

# What no configuration is, and `tomllib` is before it gives up.
_DEEP: Final = 100
# Fewer than the interpreter takes (sys.int_info), with the separators that TOML allows.
_MANY_DIGITS: Final = re.compile(r"[0-9_]{2000,}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value is written.

    Attributes:
        path: The file.
        line: From 1.
    """

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong in a file.

    Attributes:
        line: From 1; None for the file as a whole.
        reason: What is wrong, and what would be right.
        path: The file; None for the one of the error that it is in.
    """

    line: int | None
    reason: str
    path: Path | None = None


class ConfigError(Exception):
    """Files were refused.

    Attributes:
        path: The first that has a mistake.
        mistakes: All that is wrong, file by file and from the top down; at least one.
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
            f"{each.path or self.path}: {each.reason}"
            if each.line is None
            else f"{each.path or self.path}, line {each.line}: {each.reason}"
            for each in self.mistakes
        )


@dataclass(frozen=True, slots=True)
class Document:
    """A file without a mistake.

    Attributes:
        path: The file.
        table: What is in it, as `tomllib` reads it.
        lines: Where each value stands.
    """

    path: Path
    table: Mapping[str, object]
    lines: Mapping[Place, int]

    def origin_of(self, place: Place) -> Origin:
        """Where a value of it is written."""
        return Origin(self.path, line_of(self.lines, place) or 1)


def read_file(path: Path) -> bytes:
    """The bytes of a file, or of a larger one as many as tell that it is.

    Raises:
        OSError: It cannot be read.
    """
    # A name with a zero in it is no name of a file, and the interpreter says so in its own way.
    if "\0" in str(path):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    # Who opens a pipe that nobody writes to would wait, and all clients of the service with it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)


def cannot_be_read(path: Path, error: OSError) -> ConfigError:
    """That a file or a directory cannot be read."""
    return ConfigError(path, Mistake(None, f"cannot be read: {error.strerror or error}"))


def parse_document(
    raw: bytes, path: Path, check: Callable[[Mapping[str, object]], Iterable[Problem]]
) -> Document:
    """Make a document of what a file holds.

    Args:
        raw: The file's bytes.
        path: Its name.
        check: Tells what is wrong in its table.

    Raises:
        ConfigError: It has a mistake.
    """
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(path, Mistake(None, f"is larger than {MAX_FILE_BYTES} bytes"))
    try:
        text = raw.decode("utf-8")
        table = tomllib.loads(text)
        problems = list(check(table))
        lines = places_of(text)
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
    if problems:
        mistakes = [Mistake(line_of(lines, each.place), each.reason) for each in problems]
        mistakes.sort(key=lambda each: each.line or 0)
        raise ConfigError(path, *mistakes)
    return Document(path, table, lines)


def _syntax(error: tomllib.TOMLDecodeError, text: str) -> Mistake:
    message = str(error)
    found = _AT_LINE.search(message)
    # Elsewhere it is "(at end of document)".
    line = int(found[1]) if found else text.count("\n") + 1
    return Mistake(line, f"is no TOML: {_AT_LINE.sub('', message)}")
