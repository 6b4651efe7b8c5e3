"""What an administrator wants of enforcement: which mechanism, how large, on which interfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Mechanism: TypeAlias = Literal["auto", "bpf", "nftables", "socket-options"]

# Four programs with as many flows as one may have. The memory for it is taken at the start:
# 400 bytes a flow, with two destinations, are 26 MB.
DEFAULT_MOST_FLOWS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the configuration says of enforcement.

    Attributes:
        backend: The mechanism; "auto" for the first that can be had, in the order of the words.
        most_flows: How many flows the kernel's tables have room for.
        may_install_queues: Whether a queue that shapes UDP may be installed where nobody
            configured one.
        interfaces: On which interfaces such a queue may be; empty for all but loopback. What marks
            and counts is at all interfaces, whatever this says.
    """

    backend: Mechanism = "auto"
    most_flows: int = DEFAULT_MOST_FLOWS
    may_install_queues: bool = False
    interfaces: tuple[str, ...] = ()
