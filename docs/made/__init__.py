"""What of the pages is made from the code: each page has marks where that has its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from docs.made.pages import MARK, markdown
from docs.made.windows import NUMBERS_MARK, STRUCTURES_MARK, numbers, structures

MADE: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "commands": {MARK: markdown},
    "reference-qos2": {STRUCTURES_MARK: structures, NUMBERS_MARK: numbers},
}
