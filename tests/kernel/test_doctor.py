"""`qwave doctor` on hosts of the lab: it finds what somebody set up there, and changes nothing."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from openqwave.cli.doctor.command import MISSING, NOTHING_MISSING, Options, run_doctor
from openqwave.lab.offloads import disable_offloads
from tests.kernel.exits import Foreign, loaded, needs_tcx, shown, tc
from tests.kernel.qwave import Sink, run
from tests.kernel.service_stage import NOBODY, Actor, running

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = [pytest.mark.kernel, pytest.mark.root]

PORT_CLOSED = """
table inet guard {
    chain incoming {
        type filter hook input priority 0; policy accept
        ct state established,related accept
        udp dport 2177 drop
    }
}
"""
DROPS_ALL = """
table inet guard {
    chain incoming {
        type filter hook input priority 0; policy drop
        iifname "lo" accept
        ct state established,related accept
        meta l4proto { tcp, udp } th dport { 22, 2100-2200 } accept
    }
}
"""
MARKS = """
table ip tagger {
    chain leaving {
        type route hook output priority mangle; policy accept
        udp dport 5060 ip dscp set ef
    }
}
"""


def nft(host: Host, text: str) -> None:
    def load() -> None:
        argv = ["/usr/sbin/nft", "-f", "-"]
        subprocess.run(argv, input=text, text=True, check=True)

    host.run(load)


def rules(host: Host) -> str:
    argv = ["/usr/sbin/nft", "list", "ruleset"]
    return host.run(lambda: subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def findings(host: Host, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and what was found, by topic and subject."""
    done = run(host, "doctor", "--json", *arguments)
    assert done.errors == ""
    told = done.told
    found = {f"{one['topic']} {one['subject'] or ''}".strip(): one for one in told["findings"]}
    assert len(found) == len(told["findings"])
    return done.status, found


def verdicts(found: dict[str, dict[str, Any]], *names: str) -> list[str]:
    return [found[name]["verdict"] for name in names]


def test_a_host_as_it_comes(pair: tuple[Host, Host]) -> None:
    left, _ = pair
    loaded().close()
    before = shown(left), rules(left)
    status, found = findings(left)
    assert status == NOTHING_MISSING, found
    assert (
        verdicts(
            found,
            "your rights",
            "program",
            "nftables",
            "interface eth0",
            "IPv6 eth0",
            "offloads eth0",
            "firewall",
            "others' QoS eth0",
            "others' marks",
            "stamps",
        )
        == ["ok"] * 10
    )
    assert found["service"]["verdict"] == "limited"
    assert "kernel" in found
    # It has loaded a program and asked for rules, and nothing of it is left.
    assert (shown(left), rules(left)) == before


def test_a_queue_of_somebody_is_found(pair: tuple[Host, Host]) -> None:
    left, _ = pair
    tc(left, "qdisc add dev eth0 root handle 7: htb default 10")
    _, found = findings(left)
    for name in ("queue eth0", "others' QoS eth0"):
        assert found[name]["verdict"] == "limited"
        assert "htb 7:" in found[name]["reason"]
    assert (
        "tc qdisc replace dev eth0" in found["queue eth0"]["fix"]
        or "del" in (found["queue eth0"]["fix"])
    )


def test_a_filter_and_a_program_of_somebody_are_found(pair: tuple[Host, Host]) -> None:
    from openqwave.enforcement.bpf import syscalls

    left, _ = pair
    loaded().close()
    tc(left, "qdisc add dev eth0 clsact")
    words = "filter add dev eth0 egress prio 9 protocol ip u32 match u32 0 0 "
    tc(left, words + "action mirred egress mirror dev lo")
    _, found = findings(left)
    assert "u32 pref 9" in found["others' QoS eth0"]["reason"]
    needs_tcx(left)
    with contextlib.closing(Foreign()) as foreign:
        index = left.interface.index
        link = left.run(syscalls.link_create, foreign.program, index, syscalls.TCX_EGRESS)
        try:
            _, found = findings(left)
        finally:
            os.close(link)
    assert "1 TCX program" in found["others' QoS eth0"]["reason"]


def test_a_firewall_that_closes_the_port_is_found(pair: tuple[Host, Host]) -> None:
    left, _ = pair
    nft(left, PORT_CLOSED)
    status, found = findings(left)
    assert status == MISSING
    wall = found["firewall"]
    assert wall["verdict"] == "missing"
    assert "UDP over IPv4 and IPv6 at eth0" in wall["reason"]
    assert "TCP" not in wall["reason"]
    assert "table inet guard, chain incoming" in wall["reason"]
    # What it says to do helps.
    nft(left, wall["fix"].removeprefix("nft ") + "\n")
    status, found = findings(left)
    assert (status, found["firewall"]["verdict"]) == (NOTHING_MISSING, "ok"), found


def test_a_firewall_that_lets_the_port_pass_is_understood(pair: tuple[Host, Host]) -> None:
    left, _ = pair
    nft(left, DROPS_ALL)
    assert findings(left)[1]["firewall"]["verdict"] == "ok"
    nft(left, "flush chain inet guard incoming\n")
    found = findings(left)[1]
    assert "UDP and TCP over IPv4 and IPv6 at eth0 (policy drop" in found["firewall"]["reason"]
    # Loopback is dropped as well.
    assert found["stamps"]["verdict"] == "unknown"


def test_rules_that_write_marks_are_found(pair: tuple[Host, Host]) -> None:
    left, _ = pair
    nft(left, MARKS)
    marks = findings(left)[1]["others' marks"]
    assert marks["verdict"] == "limited"
    assert "ip dscp set ef in table ip tagger, chain leaving" in marks["reason"]


def test_offloads_are_seen(pair: tuple[Host, Host]) -> None:
    left, _ = pair
    left.run(disable_offloads, "eth0")
    assert findings(left)[1]["offloads eth0"]["reason"] == "none that matters"
    words = ["/usr/sbin/ethtool", "-K", "eth0", "gro", "on"]
    done = left.run(lambda: subprocess.run(words, capture_output=True, check=False))
    if done.returncode:
        pytest.skip("GRO cannot be switched on here")
    found = findings(left)[1]["offloads eth0"]
    assert found["verdict"] == "ok"
    assert found["reason"].startswith("GRO on; ")


def test_a_host_without_a_way_out(lab: Any) -> None:  # noqa: ANN401 - the fixture's
    status, found = findings(lab.host("alone"))
    assert status == MISSING
    assert found["interface"]["verdict"] == "missing"


def test_the_way_to_a_host_and_its_sink(pair: tuple[Host, Host]) -> None:
    left, right = pair
    status, found = findings(left, right.ipv4)
    assert status == MISSING
    assert "on the link of eth0" in found[f"way {right.ipv4}"]["reason"]
    assert "nobody listens" in found[f"its sink {right.ipv4}"]["reason"]
    with Sink(right):
        status, found = findings(left, right.ipv4)
    assert (status, found[f"its sink {right.ipv4}"]["verdict"]) == (NOTHING_MISSING, "ok")
    assert findings(left, right.ipv6)[1][f"way {right.ipv6}"]["verdict"] == "ok"


def test_a_host_that_does_not_answer_takes_a_second(pair: tuple[Host, Host]) -> None:
    left, right = pair
    nft(right, PORT_CLOSED.replace("udp", "tcp"))
    status, found = findings(left, right.ipv4)
    assert status == MISSING
    assert "no answer within 1 s" in found[f"its sink {right.ipv4}"]["reason"]


def look(_: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Run the command; in an actor."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = run_doctor(Options(as_json=True))
    return status, json.loads(out.getvalue())


def seen_by(actor: Actor) -> tuple[int, dict[str, dict[str, Any]]]:
    status, told = actor.call(look)
    return status, {
        f"{one['topic']} {one['subject'] or ''}".strip(): one for one in told["findings"]
    }


def test_what_nobody_may_see_is_unknown_with_the_reason(
    pair: tuple[Host, Host], capfd: pytest.CaptureFixture[str]
) -> None:
    left, _ = pair
    nft(left, PORT_CLOSED)
    with Actor(NOBODY, host=left) as nobody:
        status, found = seen_by(nobody)
    # The library of nftables would write there.
    assert capfd.readouterr().err == ""
    assert status == NOTHING_MISSING
    for name in ("program", "nftables", "firewall", "others' marks", "others' QoS eth0"):
        assert found[name]["verdict"] == "unknown", found[name]
        assert found[name]["fix"], found[name]
    assert "CAP_BPF" in found["program"]["reason"]
    assert "CAP_NET_ADMIN" in found["your rights"]["reason"]
    assert found["stamps"]["verdict"] == "ok"
    assert found["interface eth0"]["verdict"] == "ok"


def test_a_running_service_is_seen_by_nobody_too(pair: tuple[Host, Host]) -> None:
    left, _ = pair
    loaded().close()
    # What nobody cannot load from root's home is loaded before.
    assert version("openqwave")
    with running(left, "[sink]\nenabled = false\n") as service:
        nft(left, PORT_CLOSED)
        with (
            Actor(NOBODY, host=left, service=service.socket) as nobody,
            Actor(host=left, service=service.socket) as root,
        ):
            _, by_nobody = seen_by(nobody)
            status, by_root = seen_by(root)
    assert by_nobody["program"]["reason"] == "the service has its program in the kernel"
    for found in (by_nobody, by_root):
        assert verdicts(found, "service", "marks by", "its rights") == ["ok", "ok", "ok"]
    # Its own program is none of others', and where the sink is off nobody needs the port.
    assert by_root["others' QoS eth0"]["verdict"] == "ok"
    assert by_root["firewall"]["verdict"] == "ok"
    assert status == NOTHING_MISSING


def test_a_page_is_plain_in_a_pipe(pair: tuple[Host, Host]) -> None:
    done = run(pair[0], "doctor")
    assert "\x1b" not in done.output
    assert done.output.splitlines()[0].startswith("kernel ")
