"""What is made of what was seen: the verdict, the reason, and what would help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openqwave.cli.doctor.checks import (
    clock,
    firewall,
    foreign,
    interfaces,
    kernel,
    program,
    queues,
    rights,
    service,
    way,
)
from openqwave.cli.doctor.checks.interfaces import Seen
from openqwave.cli.doctor.checks.program import Trial
from openqwave.cli.doctor.filtering.walk import Fate, Packet, Truth
from openqwave.cli.doctor.findings import Finding, Verdict
from openqwave.drivers.clockstate import ClockState
from openqwave.drivers.kernelparts import Part
from openqwave.drivers.offloads import Offloads
from openqwave.enforcement.bpf.backend import DataPlane
from openqwave.enforcement.shaping.queues import OUR_ROOT
from openqwave.ipc.rows import BackendRow, InterfaceRow, MemoryRow, SinkRow, StatusRow
from openqwave.model.codes import ErrorCode
from openqwave.model.endpoint import Endpoint
from openqwave.model.errors import Refusal
from openqwave.model.estimates import Unmeasurable
from openqwave.model.filters import Filter
from openqwave.model.path import LinkType, PathFacts
from openqwave.model.queues import ROOT_PARENT, Queue

OK, LIMITED, MISSING, UNKNOWN = Verdict.OK, Verdict.LIMITED, Verdict.MISSING, Verdict.UNKNOWN
ALL_RIGHTS = (1 << 41) - 1
NET_ADMIN, BPF, SYS_ADMIN = 1 << 12, 1 << 39, 1 << 21
THERE, LOADABLE, ABSENT, PERHAPS = Part.THERE, Part.LOADABLE, Part.ABSENT, Part.UNKNOWN


def check(found: Finding, verdict: Verdict, *words: str) -> None:
    """It is judged so, in these words; and whoever is told of trouble is told what to do."""
    assert found.verdict is verdict, found
    for word in words:
        assert word in f"{found.reason} | {found.fix}", found
    if verdict is MISSING:
        assert found.fix, found
    if verdict is OK:
        assert not found.fix, found


@pytest.mark.parametrize(
    ("release", "verdict", "word"),
    [
        ("6.18.44-fc", OK, "all that is used"),
        ("6.7.0", OK, ""),
        ("6.6.1-lts", LIMITED, "6.7"),
        ("6.1.0-28-amd64", LIMITED, "clsact"),
        ("5.15.0", LIMITED, "nftables"),
        ("5.10.0", LIMITED, "options alone"),
        ("10.0", OK, ""),
        ("strange", UNKNOWN, "strange"),
    ],
)
def test_versions_of_the_kernel(release: str, verdict: Verdict, word: str) -> None:
    check(kernel.version(release), verdict, word)


def test_rights_of_who_looks() -> None:
    check(rights.of_caller("root", ALL_RIGHTS), OK, "root")
    check(rights.of_caller("nobody", 0), LIMITED, "CAP_NET_ADMIN and CAP_BPF", "sudo")
    check(rights.of_caller("x", NET_ADMIN), LIMITED, "CAP_BPF")
    # CAP_SYS_ADMIN contains CAP_BPF.
    check(rights.of_caller("x", NET_ADMIN | SYS_ADMIN), OK)


def test_rights_of_the_service() -> None:
    check(rights.of_service(7, ALL_RIGHTS), OK)
    check(rights.of_service(7, ALL_RIGHTS & ~(1 << 19)), LIMITED, "CAP_SYS_PTRACE (")
    check(rights.of_service(7, None), UNKNOWN, "7")


def test_the_program() -> None:
    check(program.program(Trial(has_tcx=True), ""), OK, "TCX")
    check(program.program(Trial(has_tcx=False), ""), OK, "clsact")
    refused = Trial("CAP_BPF is missing", lacks_rights=True)
    check(program.program(refused, ""), UNKNOWN, "CAP_BPF", "sudo")
    check(program.program(refused, "nftables"), UNKNOWN)
    check(program.program(refused, DataPlane.name), OK, "the service has")
    check(program.program(Trial("no BPF in this kernel"), ""), LIMITED, "no BPF", "nftables")


def test_closed_sockets() -> None:
    check(program.closed_sockets(Trial()), LIMITED, "mount -t cgroup2")
    check(program.closed_sockets(Trial(cgroups="/c")), OK, "/c")
    check(program.closed_sockets(Trial(cgroups="/c", deaf="refused there")), LIMITED, "refused")
    untried = Trial("no", lacks_rights=True, cgroups="/c")
    check(program.closed_sockets(untried), UNKNOWN, "/c", "sudo")


def test_which_program_makes_a_socket() -> None:
    check(program.makers(Trial()), OK, "may name programs")
    check(program.makers(Trial(nameless="no types")), LIMITED, "no types", "qwave run", "refusals")
    check(program.makers(Trial("CAP_BPF is missing", lacks_rights=True)), UNKNOWN, "sudo")
    check(program.makers(Trial("no BPF in this kernel")), UNKNOWN, "not tried")


def test_nftables() -> None:
    check(program.nftables("", lacks_rights=False, has_program=False), OK)
    check(program.nftables("no", lacks_rights=True, has_program=True), UNKNOWN, "no", "sudo")
    check(program.nftables("not installed", lacks_rights=False, has_program=True), OK, "not needed")
    check(program.nftables("no", lacks_rights=False, has_program=False), LIMITED, "libnftables1")


@pytest.mark.parametrize(
    ("fq", "htb", "tbf", "verdict"),
    [
        (THERE, ABSENT, ABSENT, OK),
        (LOADABLE, ABSENT, ABSENT, OK),
        (ABSENT, THERE, LOADABLE, LIMITED),
        (ABSENT, THERE, ABSENT, MISSING),
        (ABSENT, ABSENT, THERE, MISSING),
        (PERHAPS, PERHAPS, PERHAPS, UNKNOWN),
        (PERHAPS, THERE, THERE, LIMITED),
        (ABSENT, PERHAPS, THERE, UNKNOWN),
    ],
)
def test_queues_of_the_kernel(fq: Part, htb: Part, tbf: Part, verdict: Verdict) -> None:
    check(queues.shapers({"sch_fq": fq, "sch_htb": htb, "sch_tbf": tbf}, []), verdict)


def test_a_queue_that_runs_is_there() -> None:
    parts = {"sch_fq": PERHAPS, "sch_htb": PERHAPS, "sch_tbf": PERHAPS}
    check(queues.shapers(parts, [Queue(2, "fq", 0, ROOT_PARENT)]), OK)


def root(kind: str, handle: int = 0) -> list[Queue]:
    return [Queue(2, kind, handle, ROOT_PARENT)]


def test_root_queues() -> None:
    def judged(found: list[Queue], *, may: bool = False, fq: bool = True) -> Finding:
        return queues.root("eth0", found, may_install=may, has_fq=fq)

    check(judged(root("fq", 0x8001 << 16)), OK)
    check(judged(root("htb", OUR_ROOT)), OK, "by the service")
    check(judged(root("fq_codel")), LIMITED, "tc qdisc replace dev eth0 root fq", "[enforcement]")
    check(judged(root("fq_codel"), may=True), OK, "may replace")
    check(judged(root("cake", 0x10000), may=True), LIMITED, "cake 1:", "somebody set up")
    check(judged([]), LIMITED, "no queue")
    without = judged(root("pfifo_fast"), fq=False)
    check(without, LIMITED, "[enforcement]")
    assert "root fq" not in without.fix


def test_kinds_of_interfaces() -> None:
    seen = Seen("eth0")
    check(interfaces.kind(seen), OK)
    check(interfaces.kind(replace(seen, is_up=False)), MISSING, "down")
    check(interfaces.kind(replace(seen, is_wireless=True)), OK, "Wi-Fi")
    check(interfaces.kind(replace(seen, kind="vlan")), OK, "VLAN")
    check(interfaces.kind(replace(seen, kind="wireguard", hardware=65_534)), OK, "tunnel")
    check(interfaces.kind(replace(seen, hardware=32)), LIMITED, "32")
    check(interfaces.none_there(), MISSING)
    check(interfaces.ipv6(seen), OK)
    check(interfaces.ipv6(replace(seen, has_ipv6=False)), LIMITED, "eth0.disable_ipv6")


def test_offloads_matter_where_they_spoil_stamps() -> None:
    def judged(offloads: Offloads) -> Finding:
        return interfaces.offloads(Seen("eth0", offloads=offloads))

    check(judged(Offloads()), OK)
    check(judged(Offloads(gro=True, tso=True)), OK, "GRO, TSO on", "not probes")
    check(judged(Offloads(lro=True)), LIMITED, "ethtool -K eth0 lro off")
    check(judged(Offloads(gather_us=121)), LIMITED, "121 us", "rx-usecs")
    check(judged(Offloads(gather_us=121, is_adaptive=True)), OK)
    check(judged(Offloads(gather_us=120)), OK)


def test_what_others_have_at_an_interface() -> None:
    def judged(
        found: list[Queue], filters: list[Filter] | None = None, programs: int | None = 0
    ) -> Finding:
        return foreign.at_interface("eth0", found, filters or [], programs)

    check(judged(root("pfifo_fast")), OK)
    check(judged(root("htb", OUR_ROOT), [Filter("bpf", 177, 1, name="openqwave+clsact")]), OK)
    check(judged(root("htb", 0x10000)), LIMITED, "htb 1:")
    check(judged(root("noqueue"), [Filter("u32", 9, 1)]), LIMITED, "u32 pref 9")
    check(judged(root("noqueue"), [Filter("bpf", 1, 1, name="x")]), LIMITED, "asked before")
    check(judged(root("noqueue"), programs=2), LIMITED, "2 TCX programs")
    check(judged(root("noqueue"), programs=None), UNKNOWN, "TCX", "sudo")
    check(judged(root("htb", 0x10000), programs=None), LIMITED)


def test_rules_that_write_marks() -> None:
    check(foreign.marking_rules([], ""), OK)
    check(foreign.marking_rules([], "no right", lacks_rights=True), UNKNOWN, "no right", "sudo")
    check(foreign.marking_rules([], "install it"), UNKNOWN, "as it says")
    check(foreign.marking_rules(["a"], "no right"), LIMITED, "a")
    check(foreign.marking_rules(list("abcde"), ""), LIMITED, "a; b; c; and 2 more")


UDP = Packet("udp", 2177, "eth0", 4)


def test_the_port() -> None:
    tried = firewall.packets(["eth0", "wlan0"], [4, 6])
    assert len(tried) == 8
    assert {each.port for each in tried} == {2177}

    def closed(packet: Packet) -> Fate:
        is_closed = packet.protocol == "udp" and packet.interface == "eth0"
        return Fate(Truth.NO, ("drop in table inet f, chain in",)) if is_closed else Fate(Truth.YES)

    def perhaps(_: Packet) -> Fate:
        return Fate(Truth.MAYBE, ("policy drop of iptables -t filter, chain INPUT",))

    found = firewall.port(tried, [closed], "")
    check(found, MISSING, "UDP over IPv4 and IPv6 at eth0 (", "chain in)")
    assert "TCP" not in found.reason
    assert "wlan0" not in found.reason
    assert found.fix == "nft insert rule inet f in meta l4proto { tcp, udp } th dport 2177 accept"
    check(firewall.port(tried, [closed], "", is_wanted=False), OK, "sink is off")
    check(firewall.port(tried, [closed, perhaps], ""), MISSING, "eth0")
    assert "UDP and TCP over IPv4 and IPv6 at eth0, wlan0" in (
        firewall.port(tried, [perhaps], "").reason
    )
    check(firewall.port(tried, [perhaps], ""), UNKNOWN, "iptables -I INPUT -p udp --dport 2177")
    check(firewall.port(tried, [], ""), OK)
    check(firewall.port(tried, [], "no right", lacks_rights=True), UNKNOWN, "no right", "sudo")
    check(firewall.port(tried, [], "install it"), UNKNOWN, "install it", "as it says")


@pytest.mark.parametrize(
    ("why", "fix"),
    [
        ("reject in table inet firewalld, chain filter_INPUT", "firewall-cmd "),
        ("drop in table ip filter, chain ufw-skip-to-policy-input", "ufw allow 2177"),
        ("DROP in ip6tables -t filter, chain INPUT", "ip6tables -I INPUT"),
    ],
)
def test_the_port_is_opened_by_what_closes_it(why: str, fix: str) -> None:
    found = firewall.port([UDP], [lambda _: Fate(Truth.NO, (why,))], "")
    assert found.fix.startswith(fix)


def test_the_clock() -> None:
    check(clock.stamps(12_345), OK, "12 us")
    check(clock.stamps(None, "Network is unreachable"), MISSING, "unreachable")
    check(clock.stamps(None, is_lost=True), UNKNOWN, "loopback", "firewall")
    check(clock.source(ClockState("tsc", is_synchronised=True, error_us=1)), OK)
    check(clock.source(ClockState("", is_synchronised=True, error_us=1)), OK)
    check(clock.source(ClockState("hpet", is_synchronised=True, error_us=1)), LIMITED, "hpet")
    check(clock.synchronised(ClockState("tsc", is_synchronised=True, error_us=1_500)), OK, "1.5 ms")
    check(clock.synchronised(ClockState("tsc", is_synchronised=False, error_us=1)), LIMITED)


STATUS = StatusRow(
    service="openqwave 1",
    version="1",
    protocol=1,
    pid=7,
    uptime_ns=1,
    socket="/s",
    config_file="",
    handles=0,
    flows=0,
    paths=0,
    peers=0,
    lends=False,
    backend=BackendRow(name="kernel program", reason="best"),
    sink=SinkRow(on=True, reason=""),
    memory=MemoryRow(path="", state=""),
    interfaces=(InterfaceRow(name="eth0", queue="fq", is_attached=True, words="by TCX"),),
)


def test_the_service() -> None:
    check(service.none_runs("nobody listens"), LIMITED, "nobody listens", "install")
    first, second = service.running(STATUS, "1")
    check(first, OK, "process 7")
    check(second, OK, "kernel program: best")
    older, _ = service.running(STATUS, "2")
    check(older, LIMITED, "version 1", "this command 2")
    row = replace_row(STATUS, backend=BackendRow(name="nftables", reason="bpf cannot be had"))
    _, marks = service.running(row, "1")
    check(marks, LIMITED, "bpf cannot be had")
    place = InterfaceRow(
        name="ib0", queue="", is_attached=False, words="packets of ib0 have a link header"
    )
    _, _, exit_ = service.running(replace_row(STATUS, interfaces=(place,)), "1")
    check(exit_, LIMITED, "ib0")


def replace_row(row: StatusRow, **changes: object) -> StatusRow:
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    return StatusRow(**fields | changes)


def test_operators() -> None:
    check(service.operators("net", ["ann", "bob"], "bob", ""), OK, "ann, bob; you are one")
    check(service.operators("net", ["ann"], "bob", ""), OK, "you are not")
    check(service.operators("net", [], "bob", ""), OK, "nobody yet")
    check(service.operators("net", list("abcdefg"), "a", ""), OK, "and 2 more")
    check(service.operators("net", None, "bob", ""), LIMITED, "groupadd net")
    check(service.operators("net", None, "bob", "cannot be read"), UNKNOWN, "cannot be read")


FACTS = PathFacts(
    Endpoint(bytes([10, 0, 0, 2]), 0), 2, "eth0", b"", b"", 1_500, LinkType.WIRED, 1_000_000_000
)


def test_the_way_to_a_host() -> None:
    check(way.route("tv", FACTS), OK, "eth0", "tried")
    check(way.route("tv", replace(FACTS, link_type=LinkType.WIRELESS)), OK, "no 802.1p")
    check(way.route("tv", replace(FACTS, gateway=b"1234")), OK, "router", "no 802.1p")
    beyond = Unmeasurable("10.0.0.2 is beyond a router")
    check(way.route("tv", beyond), LIMITED, "beyond a router", "allowed")
    check(way.route("tv", Unmeasurable("is this host's own address")), LIMITED)
    refusal = Refusal(ErrorCode.ERROR_HOST_UNREACHABLE, "no route")
    check(way.route("tv", refusal), MISSING, "no route", "ip route get tv")
    check(way.sink("tv", ""), OK)
    check(way.sink("tv", "refused", is_refused=True), MISSING, "nobody listens", "qwave sink")
    check(way.sink("tv", "no answer"), MISSING, "no answer", "firewall")
