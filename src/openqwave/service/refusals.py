"""What was refused last, and why: remembered for who runs the host.

A program is told why it is refused, and may tell nobody. So the service remembers the last
refusals, a bounded number of each user and of all together; where there is no room, the oldest one
of the user who has the most is forgotten, and a flood of one user's pushes out no other's. What is
refused again in the same words, of the same process, is one entry that counts.

Not remembered is what ended because its own program had it ended (ERROR_OPERATION_ABORTED).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.ipc import messages as ms
from openqwave.ipc.packets import MAX_ID
from openqwave.ipc.refusals import RefusalRow
from openqwave.model.codes import ErrorCode
from openqwave.service.access import user_name
from openqwave.service.dispatch import name_of
from openqwave.service.views import host_text, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openqwave.model.errors import Refusal
    from openqwave.runtime.runtime import Runtime
    from openqwave.service.peers import Peer
    from openqwave.subsystem.views import FlowView

# As many as somebody reads through; a busy day of one user fits into a few hundred.
OF_A_USER: Final = 250
OF_ALL: Final = 1_000
# As much of a sentence as the program itself is told; some quote what was asked for.
_MOST_DETAIL: Final = 1_024
# The longest address, with the name of an interface.
_MOST_ADDRESS: Final = 64

# Stands for the first packet of who was turned away before it came.
UNHEARD: Final = ms.Hello(ms.PROTOCOL_VERSION, (), "")

# Who asked, by process and name; what, of which flow, to where; and why not.
_Key: TypeAlias = tuple[int, str, str, int, str, ErrorCode, str]


@dataclass(slots=True)
class _Kept:
    """One entry; its key has the rest.

    Attributes:
        number: Its place among all.
        host: Where what was asked for goes.
        first_ns: When it was refused first, CLOCK_REALTIME.
        last_ns: When last.
        times: How often.
    """

    number: int
    host: str
    first_ns: int
    last_ns: int
    times: int = 1


class Refusals:
    """Remembers the last refusals; by the loop.

    Args:
        runtime: Knows where flows go.
        clock_ns: CLOCK_REALTIME.
    """

    def __init__(self, runtime: Runtime, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._runtime = runtime
        self._clock_ns = clock_ns
        # Of each user, the oldest first.
        self._of_user: dict[int, dict[_Key, _Kept]] = {}
        self._count = 0
        self._last_number = 0

    def remember(self, peer: Peer, request: ms.Hello | ms.Request, refusal: Refusal) -> None:
        """One more.

        Args:
            peer: Who asked.
            request: What for.
            refusal: Why not.
        """
        if refusal.code is ErrorCode.ERROR_OPERATION_ABORTED:
            return
        kind, flow_id, host = name_of(request), _flow_of(request), _host_of(request)
        program = peer.program
        if not program and not isinstance(request, ms.Hello):
            # As flows are shown: what it calls itself says more than the name of an interpreter.
            program = peer.identity.program
        key = (peer.pid, program, kind, flow_id, host, refusal.code, refusal.detail[:_MOST_DETAIL])
        kept = self._of_user.setdefault(peer.uid, {})
        now_ns = self._clock_ns()
        self._last_number += 1
        known = kept.pop(key, None)
        if known is not None:
            known.number, known.last_ns = self._last_number, now_ns
            known.times += 1
            kept[key] = known
            return
        if flow_id:
            host = self._far_end(peer.owner, flow_id)
        kept[key] = _Kept(self._last_number, host, now_ns, now_ns)
        self._count += 1
        if len(kept) > OF_A_USER:
            self._forget_one(peer.uid)
        elif self._count > OF_ALL:
            self._forget_one(max(self._of_user, key=lambda uid: len(self._of_user[uid])))

    def _far_end(self, owner: int, flow_id: int) -> str:
        """Where a flow goes; empty for one that is not the owner's."""
        now_ns = time.monotonic_ns()
        found, _ = self._runtime.look(
            lambda engine: engine.flow_views(flow_id - 1, 1, now_ns=now_ns, owners=(owner,))
        )
        for view in found:
            if view.flow_id == flow_id:
                return _end_of(view)
        return ""

    def _forget_one(self, uid: int) -> None:
        kept = self._of_user[uid]
        del kept[next(iter(kept))]
        self._count -= 1
        if not kept:
            del self._of_user[uid]

    def rows(self, after: int, uid: int | None) -> Iterator[RefusalRow]:
        """What is remembered, the oldest first, as rows that are made as they are taken.

        Args:
            after: Only what has a higher number.
            uid: Only what this user was refused; None for everybody.
        """
        users = self._of_user if uid is None else {uid: self._of_user.get(uid, {})}
        found = [
            (each.number, owner, key, each)
            for owner, kept in users.items()
            for key, each in kept.items()
            if each.number > after
        ]
        # No two have the same number.
        found.sort()
        for _, owner, key, each in found:
            yield _row(owner, key, each)


def _row(uid: int, key: _Key, kept: _Kept) -> RefusalRow:
    pid, program, request, flow_id, _, code, detail = key
    return RefusalRow(
        number=kept.number,
        time_ns=kept.last_ns,
        pid=pid,
        program=program,
        user=user_name(uid),
        uid=uid,
        request=request,
        code=int(code),
        name=code.name,
        detail=detail,
        flow=flow_id or None,
        host=kept.host or None,
        times=kept.times,
        since_ns=kept.first_ns if kept.times > 1 else None,
    )


def _flow_of(request: ms.Hello | ms.Request) -> int:
    """The flow that it is about; 0 for none, and for what cannot be one."""
    flow_id = getattr(request, "flow", 0)
    return flow_id if 0 < flow_id <= MAX_ID else 0


def _host_of(request: ms.Hello | ms.Request) -> str:
    """Where a request says that something goes; empty where it does not."""
    match request:
        case ms.AddSocket(address=str(address), port=port):
            address = address[:_MOST_ADDRESS]
            return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        case ms.StartTracking(address=address) | ms.StopTracking(address=address):
            return address[:_MOST_ADDRESS]
        case _:
            return ""


def _end_of(view: FlowView) -> str:
    if view.host is not None:
        return host_text(view.host)
    for sock in view.sockets:
        for destination in sock.destinations:
            return text_of(destination)
    return ""
