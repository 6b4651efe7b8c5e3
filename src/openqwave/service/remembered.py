"""Paths that nobody is interested in now, and of which something is remembered, as rows.

They come after the paths that the subsystem knows. Only the newest are shown: what a person may
want to see, and little enough that a list costs nobody anything. With whom this host has talked is
for administrators to see.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from openqwave.ipc.rows import PathRow
from openqwave.model.endpoint import address_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openqwave.model.endpoint import Endpoint
    from openqwave.runtime.runtime import Runtime
    from openqwave.service.estimates import EstimateStore, Remembered

MOST_SHOWN: Final = 256


def remembered_rows(runtime: Runtime, store: EstimateStore, after: int) -> Iterator[PathRow]:
    """What is remembered of other paths than those that the subsystem knows, the newest first.

    Args:
        runtime: The subsystem.
        store: Remembers.
        after: How many rows of all paths are left out at the beginning; those of the subsystem's
            come first.
    """
    left_out = after - runtime.look(lambda engine: engine.path_count)
    for one in store.remembered(0, MOST_SHOWN):
        host = _scoped(one)
        if runtime.look(lambda engine, host=host: engine.has_path(host)):  # type: ignore[misc]
            continue
        if left_out > 0:
            left_out -= 1
            continue
        yield remembered_row(one, host)


def _scoped(one: Remembered) -> Endpoint:
    """The far end, with the scope that it has now, if it needs one."""
    if one.host.is_link_local:
        with contextlib.suppress(OSError):
            return replace(one.host, scope_id=socket.if_nametoindex(one.interface_name))
    return one.host


def remembered_row(one: Remembered, host: Endpoint) -> PathRow:
    """One path as a row."""
    known = one.fundamentals
    scope = f"%{one.interface_name}" if host.is_link_local else ""
    return PathRow(
        host=f"{host.address}{scope}",
        interface=one.interface_name,
        source=address_text(one.source),
        gateway=address_text(one.gateway) or None,
        link_type=one.link_type,
        on_link=not one.gateway,
        capacity_bps=known.bottleneck_bps,
        available_bps=known.available_bps,
        available_low_bps=one.available_low_bps,
        rtt_ns=known.rtt_ns,
        confidence=one.confidence,
        age_ns=one.age_ns,
        is_remembered=True,
    )
