"""`qwave top --plain`: what there is, and then what changes, one line each.

For screen readers, logs and terminals that can nothing else: nothing moves the cursor, nothing is
drawn over, and nothing that was said is said again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from openqwave.cli.overview.showing import encodable, write_out
from openqwave.cli.overview.words import clock
from openqwave.cli.top.happenings import Happening, contents, happenings
from openqwave.cli.top.looks import Look

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openqwave.cli.top.looks import Glance


def write_changes(glances: Iterable[Glance]) -> None:
    """Write what each glance has that the one before did not have."""
    last: Glance | None = None
    seen: Look | None = None
    for glance in glances:
        _write(happenings(last, seen, glance))
        if seen is None and isinstance(glance, Look):
            _write(contents(glance))
        last = glance
        seen = glance if isinstance(glance, Look) else seen


def _write(found: Iterable[Happening]) -> None:
    for each in found:
        at = clock(each.at_s, time.time())
        write_out(encodable(f"{at} {each.words.rstrip('.')}.\n"))
