"""The program comes to every exit, stays there, goes, and nobody else's place is touched."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
from typing import Any

import pytest

from openqwave.drivers.filters import Filters
from openqwave.drivers.netlink import Netlink
from openqwave.drivers.rtnetlink import OutgoingChanges
from openqwave.drivers.sockets import SO_COOKIE
from openqwave.enforcement.bpf import attachment, syscalls
from openqwave.enforcement.bpf.attachment import NAME, NAME_WITH_CLSACT, PRIORITY
from openqwave.lab.hosts import Host
from openqwave.lab.topology import Lab
from openqwave.model.filters import Exit
from openqwave.model.flow import Treatment
from tests.kernel.exits import (
    WAYS,
    Exits,
    Foreign,
    ip,
    is_in,
    loaded,
    needs_tcx,
    on,
    shown,
    tc,
    tcx,
)

pytestmark = [pytest.mark.kernel, pytest.mark.root]

LINK_DETACH = 34
PORT = 5_005
PACKETS = 20

by_both_ways = pytest.mark.parametrize("with_tcx", WAYS, ids=["tcx", "clsact"])


@pytest.fixture
def host(pair: tuple[Host, Host]) -> Host:
    return pair[0]


def foreign_setting(host: Host) -> None:
    """A root queue, and filters before and after ours, at the exit and at the entrance."""
    tc(host, "qdisc add dev eth0 root handle 7: htb default 10")
    tc(host, "class add dev eth0 parent 7: classid 7:10 htb rate 100mbit")
    tc(host, "qdisc add dev eth0 clsact")
    for place, priority in (("egress", 9), ("egress", 300), ("ingress", 177), ("ingress", 3)):
        words = f"filter add dev eth0 {place} prio {priority} protocol ip u32 match u32 0 0 "
        tc(host, words + "action mirred egress mirror dev lo")


def without_ours(lines: list[str]) -> list[str]:
    """What tc shows but for filters of ours, each of which is two lines."""
    kept: list[str] = []
    for line in lines:
        if f"pref {PRIORITY} bpf" in line or "pref 8 bpf" in line:
            continue
        if NAME in line:
            continue
        kept.append(line)
    return kept


def send(host: Host, sock: socket.socket) -> None:
    for _ in range(PACKETS):
        sock.sendto(b"x", (host.links[0].seen_from(host)[1].ipv4, PORT))


def talking(exits: Exits) -> tuple[socket.socket, int]:
    """A socket of the host whose packets the program counts, and its slot."""
    with exits.host.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    exits.host.at_close(sock.close)
    cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)
    table = exits.program.table
    slot = table.new_slot()
    table.write_treatment(slot, Treatment(46, None, None, False))
    table.put_socket(cookie, slot)
    return sock, slot


def counted(exits: Exits, slot: int) -> int:
    return exits.program.table.read_meters([slot])[slot].packets


@by_both_ways
def test_every_exit_has_the_program_and_then_none(host: Host, with_tcx: bool) -> None:
    before = shown(host)
    with on(host, with_tcx=with_tcx) as exits:
        exits.reconcile()
        assert exits.is_everywhere
        assert set(exits.places()) == {"lo", "eth0"}
        assert exits.attachments.reasons == exits.attachments.notes == {}
        assert exits.attachments.mechanism == ("TCX" if with_tcx else "clsact")
        sock, slot = talking(exits)
        send(host, sock)
        assert counted(exits, slot) == PACKETS
    assert shown(host) == before


def test_the_better_way_is_found(host: Host) -> None:
    with on(host, with_tcx=None) as exits:
        exits.reconcile()
        has_tcx = host.run(attachment.has_tcx, 1)
        assert exits.attachments.mechanism == ("TCX" if has_tcx else "clsact")


@by_both_ways
def test_nothing_is_changed_where_nothing_has_changed(host: Host, with_tcx: bool) -> None:
    with on(host, with_tcx=with_tcx) as exits:
        exits.reconcile()
        there = shown(host)
        with host.enter():
            changes = OutgoingChanges()
        host.at_close(changes.close)
        for _ in range(10):
            exits.reconcile()
        assert not changes.have_happened()
        assert shown(host) == there


@by_both_ways
def test_filters_and_queues_of_others_stay(host: Host, with_tcx: bool) -> None:
    foreign_setting(host)
    before = shown(host)
    with on(host, with_tcx=with_tcx) as exits:
        exits.reconcile()
        assert exits.is_everywhere
        during = shown(host)
        if not with_tcx:
            assert is_in([line for line in before if "eth0 egress" in line], during)
            eth0 = host.interface.index
            assert next(one.priority for one in exits.filters.of_exit(eth0)) == 8
        # They change while we are there.
        tc(host, "filter del dev eth0 egress prio 300")
        tc(host, "filter add dev eth0 egress prio 12 protocol ip u32 match u32 1 1")
        tc(host, "qdisc replace dev eth0 root handle 9: pfifo")
        exits.reconcile()
        assert exits.is_everywhere
        during = without_ours(shown(host))
    after = shown(host)
    assert [line for line in after if "eth0 egress" in line] == [
        line for line in during if "eth0 egress" in line
    ]
    changed = [line for line in before if "pref 300" not in line and "htb" not in line]
    assert is_in([line for line in changed if "ingress:" in line], after)
    assert any("pfifo 9:" in line for line in after)
    assert any("pref 12 " in line for line in after)


@by_both_ways
def test_a_foreign_program_still_runs_after_ours(
    host: Host, foreign: Foreign, with_tcx: bool
) -> None:
    eth0 = host.interface.index
    with on(host, with_tcx=with_tcx) as exits:
        tc(host, "qdisc add dev eth0 clsact")
        exits.filters.put(eth0, foreign.program, "theirs", 1_000)
        exits.reconcile()
        sock, slot = talking(exits)
        seen = foreign.count
        send(host, sock)
        assert foreign.count - seen >= PACKETS
        assert counted(exits, slot) == PACKETS
        assert [one.name for one in exits.filters.of_exit(eth0)][-1] == "theirs"
    assert [one.name for one in exits.filters.of_exit(eth0)] == ["theirs"]


@by_both_ways
def test_who_ends_the_matter_does_not_hide_packets(host: Host, with_tcx: bool) -> None:
    eth0 = host.interface.index
    with on(host, with_tcx=with_tcx) as exits:
        exits.reconcile()
        ending = Foreign(verdict=0)
        host.at_close(ending.close)
        # Who comes later, with a lower number than ours.
        if with_tcx:
            link = host.run(syscalls.link_create, ending.program, eth0, syscalls.TCX_EGRESS)
            host.at_close(lambda: os.close(link))
        else:
            exits.filters.put(eth0, ending.program, "theirs", 50)
        exits.reconcile()
        sock, slot = talking(exits)
        send(host, sock)
        assert counted(exits, slot) == PACKETS
        assert exits.attachments.notes == {}


def test_programs_of_others_keep_their_order(host: Host) -> None:
    eth0 = host.interface.index
    loaded().close()
    needs_tcx(host)
    others = [Foreign() for _ in range(3)]
    links = [
        host.run(syscalls.link_create, each.program, eth0, syscalls.TCX_EGRESS)
        for each in others[:2]
    ]
    ids = [each.id for each in others]
    assert tcx(host, eth0) == ids[:2]
    with on(host, with_tcx=True) as exits:
        exits.reconcile()
        assert tcx(host, eth0) == [exits.ids[0], *ids[:2]]
        sock, slot = talking(exits)
        seen = [each.count for each in others]
        send(host, sock)
        assert all(each.count - was >= PACKETS for each, was in zip(others[:2], seen, strict=False))
        assert counted(exits, slot) == PACKETS
        # One goes ahead, on purpose: it stays there, and we say so.
        links.append(
            host.run(
                syscalls.link_create,
                others[2].program,
                eth0,
                syscalls.TCX_EGRESS,
                syscalls.FIRST,
            )
        )
        os.close(links.pop(0))
        exits.reconcile()
        assert tcx(host, eth0) == [ids[2], exits.ids[0], ids[1]]
        assert "goes ahead" in exits.attachments.notes["eth0"]
    assert tcx(host, eth0) == [ids[2], ids[1]]
    for link in links:
        os.close(link)
    for each in others:
        each.close()


@by_both_ways
def test_interfaces_come_are_renamed_and_go(host: Host, with_tcx: bool) -> None:
    with on(host, with_tcx=with_tcx) as exits:
        exits.reconcile()
        ip(host, "link add later type veth peer name peer")
        exits.reconcile()
        assert exits.places() == {"lo": 1, "eth0": 1, "later": 1, "peer": 1}
        index = host.run(socket.if_nametoindex, "later")
        ip(host, "link set later name renamed")
        exits.reconcile()
        assert exits.places() == {"lo": 1, "eth0": 1, "renamed": 1, "peer": 1}
        ip(host, "link del renamed")
        exits.reconcile()
        assert exits.places() == {"lo": 1, "eth0": 1}
        # One that has the number of another that is gone, before we look.
        ip(host, f"link add again index {index} type veth peer name other")
        exits.reconcile()
        ip(host, "link del again")
        ip(host, f"link add again index {index} type veth peer name other")
        exits.reconcile()
        assert exits.places() == {"lo": 1, "eth0": 1, "again": 1, "other": 1}
        assert exits.attachments.reasons == {}


def take_away(exits: Exits, how: str) -> None:
    host = exits.host
    if how == "link":
        (held,) = [one for index, one in vars(exits.attachments)["_held"].items() if index != 1]
        buffer = ctypes.create_string_buffer(struct.pack("=I", held.link), 4)
        assert ctypes.CDLL(None).syscall(321, LINK_DETACH, buffer, 4) == 0
    elif how == "filter":
        tc(host, "filter del dev eth0 egress")
    elif how == "qdisc":
        tc(host, "qdisc del dev eth0 clsact")
    else:
        other = Foreign()
        eth0 = host.interface.index
        (ours,) = exits.filters.of_exit(eth0)
        exits.filters.put(eth0, other.program, NAME_WITH_CLSACT, ours.priority, [ours])
        other.close()


@pytest.mark.parametrize("how", ["link", "filter", "qdisc", "replaced"])
def test_what_somebody_takes_away_is_put_back(host: Host, how: str) -> None:
    before = shown(host)
    with on(host, with_tcx=how == "link") as exits:
        exits.reconcile()
        there = exits.places()
        take_away(exits, how)
        if how != "replaced":
            assert exits.places() != there
        exits.reconcile()
        assert exits.places() == there
        sock, slot = talking(exits)
        send(host, sock)
        assert counted(exits, slot) == PACKETS
    if how == "filter":
        # The bare qdisc could have become somebody else's: nothing says that it is ours.
        assert is_in(before, shown(host))
    else:
        assert shown(host) == before


# -- crashes ------------------------------------------------------------------------------


def in_child(host: Host, work: Any) -> int:  # noqa: ANN401 - any callable
    """Do something in a process that may end in the middle; how it ended."""
    child = os.fork()
    if child == 0:
        try:
            host.run(work)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@by_both_ways
def test_a_killed_process_leaves_nothing_after_the_next_start(host: Host, with_tcx: bool) -> None:
    foreign_setting(host)
    before = shown(host)
    with on(host, with_tcx=with_tcx) as exits:

        def work() -> None:
            # What a fork has from its parent is not its own: it loads the program itself.
            program = loaded()
            filters = Filters(Netlink(socket.NETLINK_ROUTE))
            attachment.Attachments(program.programs, filters, with_tcx=with_tcx).attach_all()
            os.kill(os.getpid(), signal.SIGKILL)

        assert in_child(host, work) == -signal.SIGKILL
        if with_tcx:
            assert shown(host) == before
        else:
            assert len(shown(host)) > len(before)
            exits.clean_up()
            assert shown(host) == before
            exits.clean_up()
            assert shown(host) == before


def test_a_bare_qdisc_of_others_stays(host: Host) -> None:
    tc(host, "qdisc add dev eth0 clsact")
    before = shown(host)
    with on(host, with_tcx=False) as exits:
        exits.reconcile()
        assert exits.is_everywhere
        exits.clean_up()
        assert shown(host) == before
        exits.reconcile()
    assert shown(host) == before


def test_a_qdisc_of_ours_that_others_use_stays(host: Host) -> None:
    with on(host, with_tcx=False) as exits:
        exits.reconcile()
        tc(host, "filter add dev eth0 ingress prio 177 protocol ip u32 match u32 1 1")
        exits.clean_up()
        assert exits.places() == {"lo": 0, "eth0": 0}
        assert "clsact" in tc(host, "qdisc show dev eth0")
        assert "u32" in tc(host, "filter show dev eth0 ingress")
        assert "clsact" not in tc(host, "qdisc show dev lo")
        exits.reconcile()
        names = {one.name for one in exits.filters.of_exit(host.interface.index)}
        assert names == {NAME}


class Ending(Netlink):
    """Ends the process before its n-th change."""

    left = 0

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        self.change_together([(kind, body, flags)])

    def change_together(self, changes: Any) -> list[OSError | None]:  # noqa: ANN401
        if self.left == 0:
            os._exit(7)
        self.left -= 1
        return super().change_together(changes)


@pytest.mark.parametrize("has_others", [False, True])
def test_a_crash_between_any_two_steps_leaves_nothing(host: Host, has_others: bool) -> None:
    if has_others:
        foreign_setting(host)
    before = shown(host)
    crashed = 0
    with on(host, with_tcx=False) as exits:
        for step in range(20):

            def work(step: int = step) -> None:
                netlink = Ending(socket.NETLINK_ROUTE)
                netlink.left = step
                held = attachment.Attachments(
                    exits.program.programs, Filters(netlink), with_tcx=False
                )
                held.attach_all()
                # Somebody comes with a lower number, on our qdisc or on theirs: it is moved.
                tc(host, "filter add dev eth0 egress prio 6 protocol ip u32 match u32 1 1")
                held.reconcile()
                tc(host, "filter del dev eth0 egress prio 6")
                held.close()
                os._exit(0)

            ended = in_child(host, work)
            crashed += ended == 7
            exits.clean_up()
            if "pref 6 " in "".join(shown(host)):
                tc(host, "filter del dev eth0 egress prio 6")
                if not has_others:
                    tc(host, "qdisc del dev eth0 clsact")
            assert shown(host) == before, step
            if ended == 0:
                break
    assert ended == 0
    assert crashed >= 4


# -- refusals -------------------------------------------------------------------------------


def test_an_ingress_qdisc_is_left_and_said(host: Host) -> None:
    tc(host, "qdisc add dev eth0 ingress")
    tc(host, "filter add dev eth0 ingress prio 5 protocol ip u32 match u32 1 1")
    before = shown(host)
    with on(host, with_tcx=False) as exits:
        exits.reconcile()
        assert exits.places()["lo"] == 1
        assert "ingress qdisc" in exits.attachments.reasons["eth0"]
        assert "clsact" in exits.attachments.reasons["eth0"]
        # It is tried again.
        tc(host, "qdisc del dev eth0 ingress")
        exits.reconcile()
        assert exits.is_everywhere
        assert exits.attachments.reasons == {}
        exits.close()
        tc(host, "qdisc add dev eth0 ingress")
        tc(host, "filter add dev eth0 ingress prio 5 protocol ip u32 match u32 1 1")
    assert shown(host) == before


def test_a_filter_of_priority_1_is_left_and_noted(host: Host) -> None:
    tc(host, "qdisc add dev eth0 clsact")
    tc(host, "filter add dev eth0 egress prio 1 protocol ip u32 match u32 1 1")
    tc(host, "filter add dev eth0 egress prio 2 protocol ip u32 match u32 1 1")
    before = shown(host)
    with on(host, with_tcx=False) as exits:
        exits.reconcile()
        assert exits.is_everywhere
        assert "priority 1" in exits.attachments.notes["eth0"]
        there = shown(host)
        exits.reconcile()
        assert shown(host) == there
    assert shown(host) == before


@by_both_ways
def test_missing_rights_are_said(host: Host, with_tcx: bool) -> None:
    with on(host, with_tcx=with_tcx) as exits:

        def work() -> None:
            os.setresuid(65_534, 65_534, 65_534)
            exits.attachments.reconcile()
            reasons = exits.attachments.reasons
            said = set(reasons) == {"lo", "eth0"} and all(
                "CAP_NET_ADMIN" in why and "AmbientCapabilities" in why for why in reasons.values()
            )
            os._exit(5 if said else 6)

        assert in_child(host, work) == 5
        assert exits.places() == {"lo": 0, "eth0": 0}


def test_a_header_that_the_program_does_not_know_is_said(host: Host) -> None:
    with on(host, with_tcx=True) as exits:
        ours = exits.attachments
        found = exits.filters.exits
        # No device of such a kind can be made everywhere: an interface is said to be a CAN bus.
        exits.filters.exits = lambda: [  # type: ignore[method-assign]
            Exit(one.index, one.name, 280 if one.name == "eth0" else one.hardware)
            for one in found()
        ]
        exits.reconcile()
        assert exits.places() == {"lo": 1, "eth0": 0}
        assert "hardware type 280" in ours.reasons["eth0"]


def test_an_interface_that_goes_meanwhile_is_no_trouble(host: Host) -> None:
    for with_tcx in WAYS:
        with on(host, with_tcx=with_tcx) as exits:
            found = exits.filters.exits
            exits.filters.exits = lambda found=found: [  # type: ignore[method-assign, misc]
                *found(),
                Exit(9_999, "gone", 1),
            ]
            exits.reconcile()
            assert exits.attachments.reasons == {}
            assert exits.is_everywhere


@by_both_ways
def test_a_namespace_that_is_gone_is_no_trouble(with_tcx: bool) -> None:
    with loaded() as program:
        with Lab() as lab:
            exits = Exits(lab.host("lonely"), program, with_tcx=with_tcx)
            exits.reconcile()
            assert exits.places() == {"lo": 1}
        if with_tcx:
            exits.attachments.close()
