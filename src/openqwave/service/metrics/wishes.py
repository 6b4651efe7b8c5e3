"""What may be wrong with `[metrics]` that types cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openqwave.service.metrics.places import NOWHERE, place_of
from openqwave.service.reading import Problem, shown

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_metrics(table: object) -> Iterator[Problem]:
    """What is wrong in the table `[metrics]`.

    Args:
        table: As it was read; whatever the file has there.
    """
    listen = table.get("listen") if isinstance(table, dict) else None
    if not isinstance(table, dict) or not isinstance(listen, str) or listen == NOWHERE:
        return
    here = ("metrics", "listen")
    try:
        place = place_of(listen)
    except ValueError as error:
        yield Problem(here, f"metrics.listen is {shown(listen)} and {error}")
        return
    if not place.is_of_this_host and table.get("beyond_this_host") is not True:
        yield Problem(
            here,
            f"metrics.listen is {shown(listen)}, where other hosts may ask; nobody is asked for a "
            "name there, so say beyond_this_host = true if that is meant",
        )
