"""Rules of firewalls, tried with packets that are never sent: what passes, and what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openqwave.cli.doctor.filtering.iptables import SavedRules
from openqwave.cli.doctor.filtering.nft import Ruleset
from openqwave.cli.doctor.filtering.walk import Act, Base, Packet, Step, Truth, fate_of

UDP = Packet("udp", 2177, "eth0", 4)
TCP = Packet("tcp", 2177, "eth0", 4)
UDP6 = Packet("udp", 2177, "eth0", 6)
YES, MAYBE, NO = Truth.YES, Truth.MAYBE, Truth.NO

ACCEPT, DROP = {"accept": None}, {"drop": None}
NEW = {"ct": {"key": "state"}}
PROTOCOL = {"meta": {"key": "l4proto"}}


def port(protocol: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": "dport"}}


def match(left: object, right: object, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def ruleset(
    *rules: list[dict[str, Any]],
    policy: str = "accept",
    family: str = "inet",
    sets: dict[str, Any] | None = None,
    others: dict[str, list[list[dict[str, Any]]]] | None = None,
    **chain: object,
) -> Ruleset:
    """One table "t" with a base chain "in", and other chains."""
    base = {"family": family, "table": "t", "name": "in", "hook": "input", "prio": 0}
    listed: list[dict[str, Any]] = [{"metainfo": {}}, {"table": {"family": family, "name": "t"}}]
    listed.append({"chain": base | {"policy": policy} | chain})
    for name, elements in (sets or {}).items():
        found = {"family": family, "table": "t", "name": name}
        listed.append({"set": found if elements is None else found | {"elem": elements}})
    for name, each in {"in": list(rules), **(others or {})}.items():
        listed += [
            {"rule": {"family": family, "table": "t", "chain": name, "expr": statements}}
            for statements in each
        ]
    return Ruleset(json.dumps({"nftables": listed}))


# What a rule before "drop" does, by the packets that pass then.
ACCEPTING: dict[str, tuple[dict[str, Any], Packet, Truth]] = {
    "its port": (match(port("udp"), 2177), UDP, YES),
    "its port of the other protocol": (match(port("udp"), 2177), TCP, NO),
    "its port of both": (match(port("th"), 2177), TCP, YES),
    "another port": (match(port("udp"), 53), UDP, NO),
    "in a set": (match(port("udp"), {"set": [53, 2177]}), UDP, YES),
    "in no set": (match(port("udp"), {"set": [53, 54]}), UDP, NO),
    "in a range": (match(port("udp"), {"range": [2000, 2177]}), UDP, YES),
    "in a range in a set": (match(port("udp"), {"set": [1, {"range": [2177, 2200]}]}), UDP, YES),
    "in no range": (match(port("udp"), {"set": [{"range": [2178, 2200]}]}), UDP, NO),
    "with a counter of its own": (
        match(port("udp"), {"set": [{"elem": {"val": 2177, "counter": {}}}]}),
        UDP,
        YES,
    ),
    "not another port": (match(port("udp"), 53, "!="), UDP, YES),
    "not another port of the other protocol": (match(port("udp"), 53, "!="), TCP, NO),
    "not its port": (match(port("udp"), 2177, "!="), UDP, NO),
    "in a named set": (match(port("udp"), "@full"), UDP, YES),
    "not in a named set": (match(port("udp"), "@other"), UDP, NO),
    "in a set that was not listed": (match(port("udp"), "@terse"), UDP, MAYBE),
    "of the other protocol in one": (match(port("udp"), "@terse"), TCP, NO),
    "its protocol": (match(PROTOCOL, "udp"), UDP, YES),
    "its protocol by number": (match(PROTOCOL, {"set": [6, 17]}), UDP, YES),
    "another protocol": (match(PROTOCOL, "tcp"), UDP, NO),
    "IPv4's protocol": (
        match({"payload": {"protocol": "ip", "field": "protocol"}}, "udp"),
        UDP,
        YES,
    ),
    "IPv4's protocol of IPv6": (
        match({"payload": {"protocol": "ip", "field": "protocol"}}, "udp"),
        UDP6,
        NO,
    ),
    "from some hosts": (
        match({"payload": {"protocol": "ip", "field": "saddr"}}, "10.0.0.1"),
        UDP,
        MAYBE,
    ),
    "from hosts of the other version": (
        match({"payload": {"protocol": "ip6", "field": "saddr"}}, "fd00::1"),
        UDP,
        NO,
    ),
    "its interface": (match({"meta": {"key": "iifname"}}, "eth0"), UDP, YES),
    "loopback": (match({"meta": {"key": "iifname"}}, "lo"), UDP, NO),
    "interfaces with a star": (match({"meta": {"key": "iifname"}}, "eth*"), UDP, YES),
    "not loopback": (match({"meta": {"key": "iif"}}, "lo", "!="), UDP, YES),
    "its family": (match({"meta": {"key": "nfproto"}}, "ipv4"), UDP, YES),
    "the other family": (match({"meta": {"key": "nfproto"}}, "ipv6"), UDP, NO),
    "connections that are there": (match(NEW, ["established", "related"], "in"), UDP, NO),
    "new connections": (match(NEW, ["new", "established"], "in"), UDP, YES),
    "something unheard of": (match({"osf": {"key": "name"}}, "Linux"), UDP, MAYBE),
    "a rate": ({"limit": {"rate": 5, "per": "second"}}, UDP, MAYBE),
    "a counter": ({"counter": {"packets": 0, "bytes": 0}}, UDP, YES),
    "a log": ({"log": {"prefix": "x"}}, UDP, YES),
    "something only iptables knows": ({"xt": None}, UDP, MAYBE),
    "a condition of iptables": ({"xt": {"type": "match", "name": "multiport"}}, UDP, MAYBE),
    "a mark of iptables": ({"xt": {"type": "target", "name": "DSCP"}}, UDP, YES),
}


@pytest.mark.parametrize("name", ACCEPTING)
def test_conditions_of_nftables(name: str) -> None:
    statement, packet, passes = ACCEPTING[name]
    sets = {"full": [22, 2177], "other": [22], "terse": None}
    rules = ruleset([statement, ACCEPT], policy="drop", sets=sets)
    assert rules.fate_of(packet).passes is passes
    # And the other way round: the same condition before "drop".
    turned = {YES: NO, NO: YES, MAYBE: MAYBE}[passes]
    assert ruleset([statement, DROP], sets=sets).fate_of(packet).passes is turned


def test_the_rule_or_the_policy_that_drops_is_named() -> None:
    rules = ruleset([match(port("udp"), 2177), DROP])
    assert rules.fate_of(UDP).why == ("drop in table inet t, chain in",)
    assert ruleset(policy="drop").fate_of(UDP).why == ("policy drop of table inet t, chain in",)
    assert ruleset([match(PROTOCOL, "udp"), {"reject": None}]).fate_of(UDP).passes is NO
    reject = ruleset([match(PROTOCOL, "udp"), {"xt": {"type": "target", "name": "REJECT"}}])
    assert (reject.fate_of(UDP).passes, reject.fate_of(TCP).passes) == (NO, YES)
    assert ruleset(policy="drop", family="ip6").fate_of(UDP).passes is YES
    assert ruleset(policy="drop", family="ip6").fate_of(UDP6).passes is NO


def test_chains_are_followed() -> None:
    open_it = [match(port("th"), 2177), ACCEPT]
    jump, goto = {"jump": {"target": "c"}}, {"goto": {"target": "c"}}
    assert ruleset([jump], policy="drop", others={"c": [open_it]}).fate_of(UDP).passes is YES
    back: list[dict[str, Any]] = [{"return": None}]
    assert ruleset([jump], [ACCEPT], policy="drop", others={"c": [back]}).fate_of(UDP).passes is YES
    # Who goes does not come back: the policy decides.
    assert ruleset([goto], [ACCEPT], policy="drop", others={"c": [back]}).fate_of(UDP).passes is NO
    loop: list[dict[str, Any]] = [jump]
    assert ruleset([jump], others={"c": [loop]}).fate_of(UDP).passes is YES


def test_verdict_maps_are_followed() -> None:
    def mapped(key: object, *pairs: list[object]) -> list[dict[str, Any]]:
        return [{"vmap": {"key": key, "data": {"set": list(pairs)}}}]

    states = mapped(NEW, ["established", ACCEPT], ["invalid", DROP])
    assert ruleset(states, policy="drop").fate_of(UDP).passes is NO
    assert ruleset(states).fate_of(UDP).passes is YES
    ports = mapped(port("udp"), [53, DROP], [2177, {"jump": {"target": "c"}}])
    assert ruleset(ports, policy="drop", others={"c": [[ACCEPT]]}).fate_of(UDP).passes is YES
    assert ruleset(ports, policy="drop", others={"c": [[ACCEPT]]}).fate_of(TCP).passes is NO


def test_every_base_chain_has_to_let_it_pass() -> None:
    rules = json.dumps(
        {
            "nftables": [
                {
                    "chain": {
                        "family": "inet",
                        "table": "a",
                        "name": "in",
                        "hook": "input",
                        "prio": 0,
                    }
                },
                {"rule": {"family": "inet", "table": "a", "chain": "in", "expr": [ACCEPT]}},
                {
                    "chain": {
                        "family": "ip",
                        "table": "b",
                        "name": "pre",
                        "hook": "prerouting",
                        "prio": -300,
                        "policy": "drop",
                    }
                },
                # What leaves is of no interest.
                {
                    "chain": {
                        "family": "inet",
                        "table": "a",
                        "name": "out",
                        "hook": "output",
                        "prio": 0,
                        "policy": "drop",
                    }
                },
            ]
        }
    )
    assert Ruleset(rules).fate_of(UDP).why == ("policy drop of table ip b, chain pre",)
    assert Ruleset(rules).fate_of(UDP6).passes is YES


def test_a_chain_of_another_device_is_not_asked() -> None:
    for device, passes in (("eth1", YES), ("eth0", NO), (["eth1", "eth0"], NO)):
        rules = ruleset([DROP], family="netdev", hook="ingress", dev=device)
        assert rules.fate_of(UDP).passes is passes


def test_rules_that_write_marks_are_named_and_ours_are_not() -> None:
    def mangle(key: object, value: object) -> list[dict[str, Any]]:
        return [{"mangle": {"key": key, "value": value}}]

    dscp = {"payload": {"protocol": "ip", "field": "dscp"}}
    rules = [
        {"family": "inet", "table": "t", "chain": "c", "expr": mangle(dscp, "ef")},
        {
            "family": "ip6",
            "table": "u",
            "chain": "c",
            "expr": mangle({"meta": {"key": "priority"}}, "0:6"),
        },
        {
            "family": "inet",
            "table": "t",
            "chain": "d",
            "expr": mangle({"meta": {"key": "mark"}}, 1),
        },
        {"family": "inet", "table": "openqwave", "chain": "c", "expr": mangle(dscp, "cs7")},
        {"family": "ip", "table": "mangle", "chain": "OUTPUT", "expr": [{"xt": {"name": "DSCP"}}]},
    ]
    listed = [{"metainfo": {}}, *({"rule": rule} for rule in rules)]
    assert Ruleset(json.dumps({"nftables": listed})).marking_rules() == [
        "ip dscp set ef in table inet t, chain c",
        "meta priority set 0:6 in table ip6 u, chain c",
        "target DSCP in table ip mangle, chain OUTPUT",
    ]


def test_a_walk_follows_all_that_may_be() -> None:
    chains = {
        "a": [Step(MAYBE, Act.ACCEPT, words="first"), Step(MAYBE, Act.DROP, words="second")],
        "b": [Step(NO, Act.DROP, words="never"), Step(YES, Act.ACCEPT), Step(YES, Act.DROP)],
    }
    assert fate_of([Base("a", "a")], chains).why == ("second",)
    assert fate_of([Base("a", "a")], chains).passes is MAYBE
    assert fate_of([Base("b", "b", drops=True)], chains).passes is YES
    assert fate_of([Base("a", "a"), Base("none", "none", drops=True)], chains).passes is NO
    assert fate_of([], chains).passes is YES


SAVED = """
# Generated by iptables-save
*mangle
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A OUTPUT -p udp -m udp --dport 5060 -j DSCP --set-dscp 0x2e
-A OUTPUT -p tcp -j TOS --set-tos 0x10/0x3f
COMMIT
*filter
:INPUT {policy} [0:0]
:mine - [0:0]
{rules}
COMMIT
"""


def saved(*rules: str, policy: str = "DROP", version: int = 4) -> SavedRules:
    return SavedRules(SAVED.format(policy=policy, rules="\n".join(rules)), version)


IPTABLES: dict[str, tuple[str, Packet, Truth]] = {
    "its port": ("-p udp -m udp --dport 2177", UDP, YES),
    "of the other protocol": ("-p udp -m udp --dport 2177", TCP, NO),
    "by number": ("-p 17 --dport 2177", UDP, YES),
    "a range": ("-p udp --dport 2000:3000", UDP, YES),
    "an open range": ("-p udp --dport 3000:", UDP, NO),
    "several": ("-p udp -m multiport --dports 53,2177", UDP, YES),
    "others": ("-p udp -m multiport --dports 53,54:60", UDP, NO),
    "not others": ("-p udp ! --dport 53", UDP, YES),
    "its interface": ("-i eth+", UDP, YES),
    "another interface": ("-i lo", UDP, NO),
    "any but another": ("! -i lo", UDP, YES),
    "what is there": ("-m conntrack --ctstate RELATED,ESTABLISHED", UDP, NO),
    "what is new": ("-m state --state NEW", UDP, YES),
    "some hosts": ("-s 10.0.0.0/8", UDP, MAYBE),
    "all but some hosts": ("! -s 10.0.0.0/8", UDP, MAYBE),
    "with a comment": ('-p udp -m comment --comment "let it in" --dport 2177', UDP, YES),
    "with a flag": ("-p tcp -m tcp --tcp-flags FIN,SYN SYN", TCP, MAYBE),
}


@pytest.mark.parametrize("name", IPTABLES)
def test_conditions_of_iptables(name: str) -> None:
    words, packet, passes = IPTABLES[name]
    assert saved(f"-A INPUT {words} -j ACCEPT").fate_of(packet).passes is passes
    turned = {YES: NO, NO: YES, MAYBE: MAYBE}[passes]
    rules = saved(
        f"-A INPUT {words} -j REJECT --reject-with icmp-port-unreachable", policy="ACCEPT"
    )
    assert rules.fate_of(packet).passes is turned


def test_chains_and_marks_of_iptables() -> None:
    rules = saved("-A INPUT -j LOG", "-A INPUT -j mine", "-A mine -p udp --dport 2177 -j ACCEPT")
    assert rules.fate_of(UDP).passes is YES
    assert rules.fate_of(TCP).why == ("policy drop of iptables -t filter, chain INPUT",)
    assert saved(version=6).fate_of(UDP6).why == (
        "policy drop of ip6tables -t filter, chain INPUT",
    )
    assert saved("-A INPUT -g mine", "-A INPUT -j ACCEPT").fate_of(UDP).passes is NO
    assert rules.marking_rules() == [
        "target DSCP in iptables -t mangle, chain OUTPUT",
        "target TOS in iptables -t mangle, chain OUTPUT",
    ]
    assert SavedRules("", 4).fate_of(UDP).passes is YES
