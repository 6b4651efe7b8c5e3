"""Which rule holds for some traffic, row by row, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from openqwave.admission.precedence import best_first
from openqwave.admission.rules import (
    Conditions,
    Grant,
    Ports,
    Program,
    Rule,
    Traffic,
    cgroup_depth,
    decide,
    mismatch,
    unit_depth,
)
from openqwave.model.flow import Transport

APP = Program(
    path="/usr/bin/app",
    name="app",
    user="ann",
    uid=1000,
    cgroup="/user.slice/user-1000.slice/host@1000.service/app.slice/app.service",
)
# A program that sends UDP from 192.0.2.1:5000 to 198.51.100.7:5004.
HERE = Traffic(APP, Transport.UDP, ip_address("192.0.2.1"), ip_address("198.51.100.7"), 5000, 5004)
# The same over IPv6.
THERE = Traffic(
    APP, Transport.UDP, ip_address("2001:db8::1"), ip_address("2001:db8:1::7"), 5000, 5004
)


def ports(text: str) -> Ports:
    low, _, high = text.partition("-")
    return Ports(int(low), int(high or low))


def conditions(text: str) -> Conditions:
    """``user=ann remote=10.0.0.0/8 to=5004``."""
    found: dict[str, object] = {}
    for part in text.split():
        key, value = part.split("=")
        match key:
            case "local" | "remote":
                found[key] = ip_network(value)
            case "from" | "to":
                found["local_ports" if key == "from" else "remote_ports"] = ports(value)
            case "protocol":
                found[key] = Transport[value.upper()]
            case _:
                found[key] = value
    return Conditions(**found)  # type: ignore[arg-type]  # each by its key


def rules(*texts: str) -> list[Rule]:
    return [Rule(f"rule {n}", conditions(text), Grant(dscp=n)) for n, text in enumerate(texts)]


ROOT_SLICE = "/user.slice"
UNIT = "unit=app.service"

# Two rules that match the same traffic: the one that wins, the one that does not, and why. Each is
# tried in both orders.
WINS = [
    # A user before anything else.
    ("user=ann", "", "names a user"),
    ("user=1000", "", "names a user"),
    ("user=ann", "program=/usr/bin/app", "names a user"),
    ("user=ann", "program=app", "names a user"),
    ("user=ann", UNIT, "names a user"),
    ("user=ann", "local=192.0.2.1 remote=198.51.100.7 from=5000 to=5004 protocol=udp", "a user"),
    ("user=ann", f"program=/usr/bin/app {UNIT} remote=198.51.100.7", "names a user"),
    ("user=ann program=app", "user=ann", "names the program"),
    ("user=ann program=/usr/bin/app", "user=ann program=app", "names the program by its path"),
    ("user=ann to=5004", "user=1000", "has 1 conditions on packets instead of 0"),
    # Then a program, by its path before by its name.
    ("program=app", "", "names the program"),
    ("program=/usr/bin/app", "", "names the program"),
    ("program=/usr/bin/app", "program=app", "names the program by its path"),
    ("program=app", "remote=198.51.100.0/24", "names the program"),
    ("program=app", "local=192.0.2.1 remote=198.51.100.7 from=5000 to=5004 protocol=udp", "the pr"),
    ("program=/usr/bin/app", "program=app remote=198.51.100.7 to=5004", "by its path"),
    ("program=app", UNIT, "names the program"),
    ("program=app", f"cgroup={APP.cgroup}", "names the program"),
    ("program=app to=5004", "program=app", "has 1 conditions"),
    ("program=/usr/bin/app protocol=udp", "program=/usr/bin/app", "has 1 conditions"),
    ("program=app remote=198.51.100.7", "program=app to=5004", "has a remote address, which"),
    # Then where it runs, the deeper place first.
    (UNIT, "", "names a unit or cgroup"),
    (f"cgroup={ROOT_SLICE}", "", "names a unit or cgroup"),
    ("cgroup=/", "", "names a unit or cgroup"),
    (UNIT, "local=192.0.2.1 remote=198.51.100.7 from=5000 to=5004 protocol=udp", "names a unit"),
    (UNIT, "unit=app.slice", "names the deeper unit or cgroup"),
    (UNIT, "unit=host@1000.service", "names the deeper"),
    ("unit=host@1000.service", "unit=user.slice", "names the deeper"),
    (UNIT, f"cgroup={ROOT_SLICE}", "names the deeper"),
    ("cgroup=/user.slice/user-1000.slice", f"cgroup={ROOT_SLICE}", "names the deeper"),
    (f"cgroup={ROOT_SLICE}", "cgroup=/", "names the deeper"),
    ("cgroup=/user.slice/user-1000.slice", "unit=user.slice", "names the deeper"),
    (UNIT, f"cgroup={ROOT_SLICE} to=5004 protocol=udp", "names the deeper"),
    (f"{UNIT} to=5004", f"cgroup={APP.cgroup}", "has 1 conditions"),
    (f"program=app {UNIT}", "program=app", "names a unit or cgroup"),
    # Then more conditions on packets, whichever.
    ("protocol=udp", "", "has 1 conditions on packets instead of 0"),
    ("to=5004 protocol=udp", "local=192.0.2.1", "has 2 conditions on packets instead of 1"),
    ("remote=198.51.100.7 to=5004 protocol=udp", "remote=198.51.100.7 protocol=udp", "has 3"),
    ("from=5000 to=5004 protocol=udp", "local=192.0.2.1 remote=198.51.100.7", "has 3 conditions"),
    ("remote=0.0.0.0/0 to=1-65535", "remote=198.51.100.7", "has 2 conditions"),
    (
        "remote=198.51.100.7 from=5000 to=5004 protocol=udp",
        "local=192.0.2.1 remote=198.51.100.7 to=5004",
        "has 4 conditions on packets instead of 3",
    ),
    # Then the part that counts more: source, destination, source port, destination port, protocol.
    ("local=192.0.2.1", "remote=198.51.100.7", "has a local address, which counts more"),
    ("local=192.0.2.1", "from=5000", "has a local address"),
    ("local=192.0.2.1", "to=5004", "has a local address"),
    ("local=192.0.2.1", "protocol=udp", "has a local address"),
    ("remote=198.51.100.7", "from=5000", "has a remote address, which counts more"),
    ("remote=198.51.100.7", "to=5004", "has a remote address"),
    ("remote=198.51.100.7", "protocol=udp", "has a remote address"),
    ("from=5000", "to=5004", "has a local port, which counts more"),
    ("from=5000", "protocol=udp", "has a local port"),
    ("to=5004", "protocol=udp", "has a remote port, which counts more"),
    # However wide it is.
    ("local=0.0.0.0/0", "remote=198.51.100.7", "has a local address"),
    ("from=1-65535", "to=5004", "has a local port"),
    ("local=192.0.2.1 protocol=udp", "remote=198.51.100.7 from=5000", "has a local address"),
    ("remote=198.51.100.7 from=5000", "remote=198.51.100.7 to=5004", "has a local port"),
    (
        "local=0.0.0.0/0 to=5004",
        "local=192.0.2.1 protocol=udp",
        "has a remote port, which counts more",
    ),
    # Then the narrower one, in the part that counts most.
    ("remote=198.51.100.7", "remote=198.51.100.0/24", "is narrower in a remote address"),
    ("remote=198.51.100.0/24", "remote=198.51.0.0/16", "is narrower in a remote address"),
    ("remote=198.51.0.0/16", "remote=0.0.0.0/0", "is narrower in a remote address"),
    ("local=192.0.2.1", "local=192.0.2.0/24", "is narrower in a local address"),
    ("to=5004", "to=5004-5005", "is narrower in a remote port"),
    ("to=5000-5010", "to=1-65535", "is narrower in a remote port"),
    ("from=5000", "from=4999-5000", "is narrower in a local port"),
    (
        "local=192.0.2.1 remote=0.0.0.0/0",
        "local=192.0.2.0/24 remote=198.51.100.7",
        "is narrower in a local address",
    ),
    (
        "remote=198.51.100.7 to=1-65535",
        "remote=198.51.100.0/24 to=5004",
        "is narrower in a remote address",
    ),
    ("from=5000 to=1-65535", "from=5000-5001 to=5004", "is narrower in a local port"),
    ("remote=198.51.100.7 protocol=udp", "remote=198.51.100.0/24 protocol=udp", "is narrower"),
    ("program=app to=5004", "program=app to=5000-5010", "is narrower in a remote port"),
    ("user=ann remote=198.51.100.7", "user=ann remote=198.51.100.0/24", "is narrower in"),
]

# Rules that are not for that traffic, and what is said of them.
MISSES = [
    ("program=/usr/bin/other", "program is /usr/bin/other there, and here /usr/bin/app"),
    ("program=/usr/local/bin/app", "program is /usr/local/bin/app there"),
    ("program=ap", "program is ap there, and here app"),
    ("user=bob", "user is bob there, and here ann"),
    ("user=1001", "user is 1001 there, and here ann"),
    ("unit=ssh.service", "unit is ssh.service there, and here /user.slice/"),
    ("unit=app", "unit is app there"),
    ("cgroup=/user.slice/user-100", "cgroup is /user.slice/user-100 there"),
    ("cgroup=/system.slice", "cgroup is /system.slice there"),
    ("protocol=tcp", "protocol is tcp there, and here udp"),
    ("local=192.0.2.2", "local is 192.0.2.2/32 there, and here 192.0.2.1"),
    ("remote=10.0.0.0/8", "remote is 10.0.0.0/8 there, and here 198.51.100.7"),
    ("remote=::/0", "remote is ::/0 there, and here 198.51.100.7"),
    ("from=5001", "local_ports is 5001 there, and here 5000"),
    ("to=5005-5010", "remote_ports is 5005-5010 there, and here 5004"),
    ("to=1-5003", "remote_ports is 1-5003 there"),
    # The first that is not met is told.
    ("user=bob protocol=tcp", "user is bob there"),
    ("program=app user=ann to=1", "remote_ports is 1 there"),
]


def test_there_are_enough_rows() -> None:
    assert len(WINS) >= 60
    assert len(MISSES) + len(WINS) >= 80


@pytest.mark.parametrize(("better", "worse", "why"), WINS)
def test_which_of_two_holds(better: str, worse: str, why: str) -> None:
    for texts in permutations((better, worse)):
        found = decide(rules(*texts), HERE)
        assert found.winner is not None
        assert found.winner.conditions == conditions(better), texts
        (loser,) = found.losers
        assert loser.matches
        assert why in loser.reason
        assert why in found.reason


@pytest.mark.parametrize(("text", "why"), MISSES)
def test_which_does_not_match(text: str, why: str) -> None:
    found = decide(rules(text), HERE)
    assert found.winner is None
    (loser,) = found.losers
    assert not loser.matches
    assert why in loser.reason


@pytest.mark.parametrize(
    "text",
    [
        *("", "user=ann", "user=1000", "program=app", "program=/usr/bin/app", "cgroup=/"),
        *(UNIT, "unit=app.slice", "cgroup=/user.slice", "cgroup=/user.slice/", "protocol=udp"),
        *("local=192.0.2.1", "local=192.0.2.0/24", "remote=0.0.0.0/0", "remote=198.51.100.7"),
        *("from=5000", "from=4000-5000", "to=5004-6000", "to=1-65535"),
    ],
)
def test_which_matches(text: str) -> None:
    assert mismatch(conditions(text), HERE) is None


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("remote=2001:db8:1::7", "remote=2001:db8::/32"),
        ("local=2001:db8::1 to=5004", "remote=2001:db8:1::7 to=5004"),
        ("remote=2001:db8::/32", "remote=::/0"),
    ],
)
def test_six_as_four(better: str, worse: str) -> None:
    found = decide(rules(worse, better, "remote=0.0.0.0/0"), THERE)
    assert found.winner is not None
    assert found.winner.conditions == conditions(better)


def test_the_examples_of_microsofts_page() -> None:
    # "policy_A only specifies an application name, and policy_B specifies the destination".
    a, b = "program=app", "remote=198.51.100.0/24"
    # "C: destination address, TCP; D: the same with port 80".
    c, d = "remote=198.51.100.7 protocol=udp", "remote=198.51.100.7 to=5004 protocol=udp"
    assert decide(rules(b, a), HERE).winner == rules(b, a)[1]
    assert decide(rules(d, c), HERE).winner == rules(d, c)[0]


def test_of_two_alike_the_later_one_holds() -> None:
    for text in ("", "user=ann", "program=app to=5004", "remote=198.51.100.7"):
        found = decide(rules(text, text), HERE)
        assert found.winner is not None
        assert found.winner.name == "rule 1"
        assert found.losers[0].reason == "'rule 1' describes it as closely and stands later"
    # Addresses that are equally wide and differ cannot both match, but ranges of ports can.
    assert (
        decide(rules("to=5000-5004", "to=5004-5008"), HERE).winner == rules("", "to=5004-5008")[1]
    )


def test_rules_are_never_added_up() -> None:
    one = Rule("one", conditions("user=ann"), Grant(dscp=46))
    two = Rule("two", conditions("to=5004"), Grant(rate_bps=1_000_000))
    found = decide([one, two], HERE)
    assert found.winner is one
    assert found.winner.grant == Grant(dscp=46)


def test_losers_come_best_first_then_those_that_do_not_match() -> None:
    found = decide(
        rules("", "user=bob", "to=5004", "user=ann", "protocol=tcp", "program=app"), HERE
    )
    assert found.winner is not None
    assert found.winner.name == "rule 3"
    assert [(each.rule.name, each.matches) for each in found.losers] == [
        ("rule 5", True),
        ("rule 2", True),
        ("rule 0", True),
        ("rule 1", False),
        ("rule 4", False),
    ]


def test_no_rules_and_none_that_matches() -> None:
    assert decide([], HERE).winner is None
    assert decide([], HERE).reason == "no rule is for this traffic"
    assert decide(rules("to=1"), HERE).reason == "no rule is for this traffic"
    assert decide(rules("to=5004"), HERE).reason == "no other rule is for this traffic"


UNKNOWN = Traffic(Program(name="app"))


@pytest.mark.parametrize(
    "text",
    [
        *("program=/usr/bin/app", "user=ann", UNIT, "cgroup=/", "protocol=udp"),
        *("local=0.0.0.0/0", "remote=::/0", "from=1-65535", "to=1-65535"),
    ],
)
def test_what_is_not_known_meets_no_condition(text: str) -> None:
    reason = mismatch(conditions(text), UNKNOWN)
    assert reason is not None
    assert reason.endswith("and here not known")


def test_what_is_known_of_it_counts() -> None:
    assert mismatch(conditions("program=app"), UNKNOWN) is None
    assert mismatch(Conditions(), Traffic(Program())) is None


def test_depths() -> None:
    assert unit_depth("app.service", APP.cgroup) == 5
    assert unit_depth("user.slice", APP.cgroup) == 1
    assert unit_depth("app.slic", APP.cgroup) == 0
    assert unit_depth("x.service", "/x.service/x.service") == 2
    assert unit_depth("x.service", "/") == 0


def test_what_users_call_their_units_is_believed_of_themselves_only() -> None:
    manager = "/user.slice/user-1000.slice/user@1000.service"
    theirs = Program(name="app", user="ann", uid=1000, cgroup=f"{manager}/nginx.service")
    anybody, ann = Conditions(unit="nginx.service"), Conditions(unit="nginx.service", user="ann")
    assert mismatch(anybody, Traffic(theirs)) is not None
    assert mismatch(ann, Traffic(theirs)) is None
    # All of a user's, by the unit that the host's manager gave the user.
    assert mismatch(Conditions(unit="user@1000.service"), Traffic(theirs)) is None
    places = {"nginx.service": [f"{manager}/nginx.service", "/system.slice/nginx.service"]}
    rules = [Rule("any", anybody, Grant(dscp=46)), Rule("ann", ann, Grant(dscp=10))]
    placed = {
        (each.rule.name, path) for each in best_first(rules, places) for path in each.cgroups or ()
    }
    assert placed == {
        ("any", "/system.slice/nginx.service"),
        ("ann", "/system.slice/nginx.service"),
        ("ann", f"{manager}/nginx.service"),
    }
    assert cgroup_depth("/", "/") == 1
    assert cgroup_depth("/a", "/a/b") == 2
    assert cgroup_depth("/a/b", "/a/b") == 3
    assert cgroup_depth("/a/b", "/a/bc") == 0


# -- any rules --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """For each condition the texts that match, and none of them."""

    key: str
    values: tuple[str, ...]


CHOICES = [
    Choice("user", ("ann", "1000", "bob")),
    Choice("program", ("app", "/usr/bin/app", "other")),
    Choice("unit", ("app.service", "app.slice")),
    Choice("cgroup", ("/", "/user.slice")),
    Choice("local", ("192.0.2.1", "192.0.2.0/24")),
    Choice("remote", ("198.51.100.7", "198.51.100.0/24", "10.0.0.0/8")),
    Choice("from", ("5000", "1-65535")),
    Choice("to", ("5004", "5000-5010", "1")),
    Choice("protocol", ("udp", "tcp")),
]


@st.composite
def texts(draw: st.DrawFn) -> str:
    parts = []
    for choice in CHOICES:
        value = draw(st.sampled_from((None, None, *choice.values)))
        if value is not None:
            parts.append(f"{choice.key}={value}")
    return " ".join(parts)


@trying(deadline=None, max_examples=200)
@given(st.lists(texts(), max_size=6))
def test_whoever_wins_wins_against_each(each: list[str]) -> None:
    these = rules(*each)
    found = decide(these, HERE)
    matching = [rule for rule in these if mismatch(rule.conditions, HERE) is None]
    assert (found.winner is None) == (not matching)
    told = {loser.rule.name for loser in found.losers}
    assert told | {found.winner.name if found.winner else ""} >= {rule.name for rule in these}
    assert len(found.losers) == len(these) - (found.winner is not None)
    for one, other in combinations(matching, 2):
        two = decide([one, other], HERE)
        if found.winner in (one, other):
            assert two.winner is found.winner
    # Where all differ, the order in which they stand does not matter.
    if len({rule.conditions for rule in matching}) == len(matching) and found.winner:
        backwards = decide(these[::-1], HERE)
        if "stands later" not in found.reason + "".join(one.reason for one in found.losers):
            assert backwards.winner is found.winner
