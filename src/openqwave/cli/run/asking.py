"""What `qwave run` and `qwave attach` ask of the service, and what of their failures is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from openqwave.cli.overview.looking import ADVICE
from openqwave.drivers.cgroups import CgroupTrouble
from openqwave.model.errors import QosError, ServiceUnavailable

if TYPE_CHECKING:
    from openqwave.cli.run.wishes import Wish
    from openqwave.client.programs import Programs
    from openqwave.drivers.cgroups import Group
    from openqwave.ipc.messages import StartedRun

# What may go wrong on the way, and has a sentence of its own.
Trouble: TypeAlias = QosError | CgroupTrouble
TROUBLE: Final = (QosError, CgroupTrouble)


def start(
    programs: Programs, group: Group, wish: Wish, *, name: str, pid: int, adopt: bool = False
) -> StartedRun:
    """Have what a group sends treated as it is wished.

    Args:
        programs: The service.
        group: Whose traffic.
        wish: What it is to get.
        name: What it is called where the wish says nothing.
        pid: The process that it is for.
        adopt: Sockets that are there already, too.

    Raises:
        QosError: The service refused.
    """
    return programs.start_run(
        group.fileno(),
        program=wish.name or name,
        pid=pid,
        traffic_type=None if wish.traffic_type is None else int(wish.traffic_type),
        dscp=wish.dscp,
        rate_bps=wish.rate_bps,
        hold_back=wish.rate_bps is not None and wish.holds_back,
        adopt=adopt,
    )


def sentence_of(trouble: Trouble) -> str:
    """What went wrong, and what helps."""
    if isinstance(trouble, ServiceUnavailable):
        return f"{trouble.detail}. {ADVICE}."
    return trouble.detail if isinstance(trouble, QosError) else str(trouble)
