"""How one host is reached, and whether it answers experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor.findings import Finding, limited, missing, ok
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Unmeasurable
from openqwave.wire.qlpb import PORT

if TYPE_CHECKING:
    from openqwave.model.path import PathFacts

_AS_TAGS: Final = {
    True: "802.1p tags are tried before they are used",
    False: "no 802.1p tags there",
}

_BEYOND: Final = (
    "measure beyond a router where you may: allowed = [...] under [experiments], and "
    "`qwave sink --allow` there"
)


def route(host: str, found: PathFacts | Unmeasurable | Refusal) -> Finding:
    """Judge the way to a host.

    Args:
        host: Its name.
        found: What the kernel says of the way.
    """
    topic = "way"
    if isinstance(found, Unmeasurable):
        fix = _BEYOND if "router" in found.reason else ""
        reason = f"{found.reason}: packets are marked, and nothing is measured"
        return limited(topic, reason, fix, host)
    if isinstance(found, Refusal):
        return missing(topic, found.detail, f"look: ip route get {host}", host)
    where = "on the link of" if found.is_on_link else "behind a router, by"
    return ok(topic, f"{where} {found.interface_name}; {_AS_TAGS[found.may_carry_tags]}", host)


def sink(host: str, trouble: str, *, is_refused: bool = False) -> Finding:
    """Judge whether a host answers at port 2177 of TCP.

    Args:
        host: Its name.
        trouble: Why a connection could not be made; empty if it could.
        is_refused: Whether it said so itself.
    """
    topic = "its sink"
    if not trouble:
        return ok(topic, f"something listens at port {PORT} of TCP", host)
    if is_refused:
        return missing(
            topic,
            f"nobody listens at port {PORT}",
            "run `qwave sink` there, or the service, or Windows with qWAVE",
            host,
        )
    return missing(
        topic,
        f"port {PORT} does not answer: {trouble}",
        f"see whether a firewall there drops port {PORT}, UDP and TCP (qwave doctor there)",
        host,
    )
