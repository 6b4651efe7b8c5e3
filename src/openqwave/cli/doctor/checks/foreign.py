"""QoS that others have set up: what it is, and what it means beside ours. It is never touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.findings import Finding, limited, ok, unknown
from openqwave.enforcement.bpf.attachment import NAME
from openqwave.enforcement.shaping.queues import OUR_ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openqwave.model.filters import Filter
    from openqwave.model.queues import Queue

_TOPIC: Final = "others' QoS"
_AS_ROOT: Final = "look as root: sudo qwave doctor"
# So many rules are named; who has more knows them.
_MOST_NAMED: Final = 3


def at_interface(
    name: str, queues: Sequence[Queue], filters: Sequence[Filter], programs: int | None
) -> Finding:
    """Judge what others have at an interface.

    Args:
        name: The interface.
        queues: Its queues.
        filters: Filters at its exit, ours among them.
        programs: How many TCX programs of others are at its exit; None if that cannot be seen.
    """
    found = []
    root = next((queue for queue in queues if queue.is_root), None)
    if root is not None and root.handle not in (0, OUR_ROOT):
        found.append(f"the root queue {root.kind} {root.handle >> 16:x}:")
    others = [each for each in filters if not each.name.startswith(NAME)]
    if others:
        kinds = ", ".join(f"{each.kind} pref {each.priority}" for each in others[:_MOST_NAMED])
        found.append(f"{_counted(len(others), 'filter')} at the exit ({kinds})")
    if programs:
        found.append(f"{_counted(programs, 'TCX program')} at the exit")
    if found:
        first = any(each.priority == 1 for each in others)
        means = (
            "a filter of priority 1 is asked before the service's program"
            if first
            else "it stays as it is, and may treat otherwise what is marked"
        )
        return limited(
            _TOPIC,
            f"{' and '.join(found)}; {means}",
            f"none if it is meant; tc qdisc show dev {name}, tc filter show dev {name} egress and "
            "bpftool net show it",
            name,
        )
    if programs is None:
        return unknown(
            _TOPIC, "no queue or filter of others; TCX programs cannot be seen", _AS_ROOT, name
        )
    return ok(_TOPIC, "no queue, filter or program of others", name)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def marking_rules(rules: Sequence[str], trouble: str, *, lacks_rights: bool = False) -> Finding:
    """Judge rules of a firewall that write DSCP or priorities.

    Args:
        rules: Those of others, in words.
        trouble: Why not all can be seen; empty if they can.
        lacks_rights: Whether that is for want of rights.
    """
    topic = "others' marks"
    if rules:
        named = "; ".join(rules[:_MOST_NAMED])
        more = f"; and {len(rules) - _MOST_NAMED} more" if len(rules) > _MOST_NAMED else ""
        return limited(
            topic,
            f"rules write marks, and may overwrite ours: {named}{more}",
            "let them leave alone what is marked already, or take them away",
        )
    if trouble:
        fix = _AS_ROOT if lacks_rights else "as it says"
        return unknown(topic, f"rules cannot be seen: {trouble}", fix)
    return ok(topic, "no rule of nftables or iptables writes DSCP or priorities")
