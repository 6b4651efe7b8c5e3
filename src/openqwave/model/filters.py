"""What looks at packets at an interface's exit, as the kernel lists it.

Filters (cls_* in the kernel's words) hang from the clsact qdisc, which queues nothing and can stand
beside any root queue. Those of the exit are asked by priority, the lowest number first, until one
of them decides. Source: tc(8), tc-bpf(8).
"""

from __future__ import annotations

from openqwave.model.value import value


@value
class Exit:
    """An interface that packets leave by.

    Attributes:
        index: Its number.
        name: Its name.
        hardware: What it is, by ARPHRD_ number (linux/if_arp.h).
        kind: What the kernel calls a device that is none of hardware, such as "vlan"; else empty.
        is_up: Whether packets can leave by it.
    """

    index: int
    name: str
    hardware: int
    kind: str = ""
    is_up: bool = True


@value
class Filter:
    """One filter of an interface's exit.

    Attributes:
        kind: What it is, such as "bpf".
        priority: Its place: lower ones are asked first.
        handle: Its number among those of its priority.
        chain: 0 for those that every packet meets.
        name: What a bpf filter is called; empty for others.
        program_id: The kernel's number of a bpf filter's program; 0 for others.
    """

    kind: str
    priority: int
    handle: int
    chain: int = 0
    name: str = ""
    program_id: int = 0
