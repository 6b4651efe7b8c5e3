"""What `qwave policy explain` is asked: a program, and where it sends from and to."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from openqwave.admission.rules import Program, Traffic
from openqwave.drivers.programs import (
    Seen,
    named_program,
    own_address_towards,
    process_program,
)
from openqwave.model.flow import Transport

_LAST_PORT: Final = 65_535


class BadPlace(ValueError):
    """A text is no address with a port; the text of this says what one is."""


@dataclass(frozen=True, slots=True)
class Place:
    """One end.

    Attributes:
        address: As packets carry it: IPv4 where it was IPv4 within IPv6.
        port: None for any.
    """

    address: IPv4Address | IPv6Address
    port: int | None


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked.

    Attributes:
        who: A process's number, or a program's path or name.
        remote: Where it sends.
        local: From where; None for what this host chooses.
        protocol: ``tcp`` or ``udp``.
        user: Who would run the program; None where nobody said so.
        cgroup: Where it would run, likewise.
    """

    who: str
    remote: Place
    local: Place | None = None
    protocol: str = "udp"
    user: str | None = None
    cgroup: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with all that this host knows about it.

    Attributes:
        pid: The process; None for a program that need not run.
        traffic: What is to be sent.
        unknown: What could not be found out, each as a sentence.
    """

    pid: int | None
    traffic: Traffic
    unknown: tuple[str, ...]


def place_of(text: str, *, needs_port: bool) -> Place:
    """Read ``192.0.2.1:5004``, ``[2001:db8::1]:5004``, or without a port, which may be left out.

    Raises:
        BadPlace: It is none of them.
    """
    shape = "ADDR:PORT, or [ADDR]:PORT for IPv6" if needs_port else "ADDR, ADDR:PORT or [ADDR]:PORT"
    wrong = BadPlace(f"{text!r} is not {shape}.")
    port_text: str | None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise wrong
        port_text = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    else:
        host, port_text = text, None
    if port_text is None and needs_port:
        raise wrong
    try:
        address = ip_address(host)
    except ValueError as error:
        raise wrong from error
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Place(address, None if port_text is None else _port_of(port_text, wrong))


def _port_of(text: str, wrong: BadPlace) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_LAST_PORT))):
        raise wrong
    port = int(text)
    if not 1 <= port <= _LAST_PORT:
        raise BadPlace(f"{text} is no port: those are from 1 to {_LAST_PORT}.")
    return port


def look_up(question: Question) -> Asked:
    """Find out what this host knows.

    Raises:
        NoProcess: There is no process of that number.
    """
    pid = int(question.who) if question.who.isdecimal() else None
    seen: Seen
    if pid is None:
        seen = named_program(question.who, question.user, question.cgroup)
    else:
        seen = process_program(pid)
    unknown = list(seen.unknown)
    local, local_port = None, None
    if question.local is None:
        local = own_address_towards(question.remote.address)
        if local is None:
            unknown.append("its local address: this host has no way there; --from says one")
    else:
        local, local_port = question.local.address, question.local.port
    if local_port is None:
        unknown.append("its local port: --from says one")
    program: Program = seen.program
    traffic = Traffic(
        program,
        Transport[question.protocol.upper()],
        local,
        question.remote.address,
        local_port,
        question.remote.port,
    )
    return Asked(pid, traffic, tuple(unknown))
