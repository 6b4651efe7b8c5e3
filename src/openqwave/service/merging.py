"""Several files made one: later ones win, key by key, and it stays known which.

A key is the smallest thing that is replaced: ``marks.voice.dscp`` of a later file leaves
``marks.voice.pcp`` of an earlier one; a list is one value. A rule is one thing, too, known by its
name: a later one of the same name takes its place whole, where the earlier one stood no longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from openqwave.service import settings
from openqwave.service.rulefiles import rule_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from openqwave.admission.rules import Rule
    from openqwave.service.documents import Document, Origin
    from openqwave.service.toml_lines import Place


@dataclass(frozen=True, slots=True)
class Merged:
    """What the files say together.

    Attributes:
        table: All but rules.
        origins: Where each value of it is written, by its place.
        rules: In the order in which they stand.
    """

    table: Mapping[str, Any]
    origins: Mapping[Place, Origin]
    rules: tuple[Rule, ...]


def merged(documents: Iterable[Document]) -> Merged:
    """Put files together.

    Args:
        documents: Files without a mistake, the one that wins last.
    """
    table: dict[str, Any] = {}
    origins: dict[Place, Origin] = {}
    rules: dict[str, Rule] = {}
    for document in documents:
        said = dict(document.table)
        rows = msgspec.convert(said.pop("rule", ()), tuple[settings.Rule, ...])
        for index, row in enumerate(rows):
            rules.pop(row.name, None)
            rules[row.name] = rule_of(row, str(document.origin_of(("rule", index))))
        _put(table, said, (), document, origins)
    return Merged(table, origins, tuple(rules.values()))


def _put(
    into: dict[str, Any],
    said: Mapping[str, Any],
    place: Place,
    document: Document,
    origins: dict[Place, Origin],
) -> None:
    for key, value in said.items():
        here = (*place, key)
        if isinstance(value, dict):
            if not isinstance(into.get(key), dict):
                into[key] = {}
                origins.pop(here, None)
            _put(into[key], value, here, document, origins)
            continue
        if isinstance(into.get(key), dict):
            for each in [one for one in origins if one[: len(here)] == here]:
                del origins[each]
        into[key] = value
        origins[here] = document.origin_of(here)
