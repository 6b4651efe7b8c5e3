"""Values for hot paths: frozen for the type checker, cheap at run time.

A frozen dataclass writes each field through ``object.__setattr__``, which costs about
80 ns a field in CPython 3.11 to 3.13. One call of the subsystem makes ten such values and
is counted in microseconds, so requests, effects and the like use `value`: mypy refuses
assignments to them just the same, and the interpreter does not have to. Values that leave
the package are ordinary frozen dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def value(cls: type[_T]) -> type[_T]:
    """Make a slotted dataclass that is compared and hashed by its fields."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
