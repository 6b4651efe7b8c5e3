"""Who may do what through the service: an ordinary user in one process, rights in another.

The kernel's word decides: SO_PEERCRED and the groups of whoever connected. Marks are looked for
on the wire.
"""

from __future__ import annotations

import grp
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

import openqwave as qw
from tests.kernel.service_stage import DAEMON, NOBODY, Actor, Qwaved, running

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = [pytest.mark.kernel, pytest.mark.root]

PORT = 5_004
# A group that every system has, in the part of the operators'.
OPERATORS = grp.getgrgid(9).gr_name if 9 in {entry.gr_gid for entry in grp.getgrall()} else "mail"
OPERATORS_GID = grp.getgrnam(OPERATORS).gr_gid
EXPEDITED = 46


@pytest.fixture
def service(pair: tuple[Host, Host]) -> Iterator[Qwaved]:
    config = f'[access]\noperators_group = "{OPERATORS}"\n'
    with running(pair[0], config) as service:
        yield service


def begin(state: dict[str, Any], host: str, kind: int = int(qw.TrafficType.VOICE)) -> int:
    """Open a handle and a flow."""
    state["qos"] = qos = qw.open(service=True)
    state["socket"] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, PORT))
    state["flow"] = flow = qos.add_socket(sock, traffic_type=qw.TrafficType(kind), adaptive=False)
    return flow.id


def set_dscp(state: dict[str, Any], dscp: int) -> None:
    state["flow"].set_dscp(dscp)


def send(state: dict[str, Any]) -> None:
    state["socket"].send(b"x")


def flow_ids(state: dict[str, Any]) -> tuple[int, ...]:
    return tuple(state["qos"].flow_ids())


def has_priority(state: dict[str, Any], flow_id: int) -> int:
    """Ask for the marks of a flow by its number, whosever it is."""
    return qw.Flow(state["qos"].session, flow_id).packet_priority().conformant_dscp


def remove(state: dict[str, Any], flow_id: int) -> None:
    refusal = state["qos"].session.remove_socket(flow_id, None)
    if refusal is not None:
        raise qw.FlowNotFound(refusal.detail)


def mark_on_the_wire(actor: Actor, pair: tuple[Host, Host]) -> int:
    """The code point that the next packet of the actor carries."""
    with pair[1].capture() as capture:
        actor.call(send)
        (packet,) = capture.wait_for(1, where=lambda seen: seen.destination_port == PORT)
    return packet.dscp


def test_a_mark_by_type_needs_no_rights(pair: tuple[Host, Host], service: Qwaved) -> None:
    with Actor(NOBODY, host=pair[0], service=service.socket) as user:
        user.call(begin, pair[1].ipv4)
        assert mark_on_the_wire(user, pair) == 56


def test_an_exact_mark_needs_the_group(pair: tuple[Host, Host], service: Qwaved) -> None:
    with Actor(NOBODY, host=pair[0], service=service.socket) as user:
        user.call(begin, pair[1].ipv4)
        with pytest.raises(qw.AccessDenied, match=OPERATORS):
            user.call(set_dscp, EXPEDITED)
        assert mark_on_the_wire(user, pair) == 56, "the flow keeps its present marks"
    with Actor(NOBODY, [OPERATORS_GID], host=pair[0], service=service.socket) as member:
        member.call(begin, pair[1].ipv4)
        member.call(set_dscp, EXPEDITED)
        assert mark_on_the_wire(member, pair) == EXPEDITED


def test_root_may_do_all(pair: tuple[Host, Host], service: Qwaved) -> None:
    with (
        Actor(host=pair[0], service=service.socket) as root,
        Actor(NOBODY, host=pair[0], service=service.socket) as user,
    ):
        own, others = root.call(begin, pair[1].ipv4), user.call(begin, pair[1].ipv4)
        root.call(set_dscp, EXPEDITED)
        assert mark_on_the_wire(root, pair) == EXPEDITED
        assert root.call(flow_ids) == tuple(sorted((own, others)))
        assert root.call(has_priority, others) == 56
        with pytest.raises(qw.FlowNotFound):
            root.call(remove, others)
        assert mark_on_the_wire(user, pair) == 56


def test_a_user_sees_nobody_elses(pair: tuple[Host, Host], service: Qwaved) -> None:
    with (
        Actor(DAEMON, host=pair[0], service=service.socket) as one,
        Actor(NOBODY, host=pair[0], service=service.socket) as other,
    ):
        flow_id = one.call(begin, pair[1].ipv4)
        other.call(begin, pair[1].ipv4)
        with pytest.raises(qw.AccessDenied):
            other.call(flow_ids)
        with pytest.raises(qw.FlowNotFound):
            other.call(has_priority, flow_id)


def become_root_of_a_namespace(_: dict[str, Any]) -> None:
    """Have every capability, where it counts for nothing."""
    import ctypes

    if ctypes.CDLL(None).unshare(0x10000000):  # CLONE_NEWUSER
        raise PermissionError("no user namespaces for users here")


def test_root_of_a_namespace_of_ones_own_is_nobody(
    pair: tuple[Host, Host], service: Qwaved
) -> None:
    with Actor(NOBODY, host=pair[0], service=service.socket) as user:
        try:
            user.call(become_root_of_a_namespace)
        except RuntimeError as error:
            pytest.skip(str(error))
        user.call(begin, pair[1].ipv4)
        with pytest.raises(qw.AccessDenied):
            user.call(flow_ids)
        with pytest.raises(qw.AccessDenied):
            user.call(set_dscp, EXPEDITED)
