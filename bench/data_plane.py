"""What marking costs in the kernel: a packet, a change of a flow, a hundred thousand flows.

    python -m bench.data_plane [--flows 1,1000,100000] [--rounds N] [--json]

In one run, interleaved: how much longer it takes to send a packet of a flow, by the kernel's
program, by a table of nftables as the second backend has it (a map of marks) and as firewalls are
usually written (a map of verdicts), and by IP_TOS on the socket, each on a host of its own with a
veth pair of its own. Each flow is one more peer of one socket. Packets go to one flow among all,
which is then in the processor's caches, and to flows picked by chance, which are not when there
are many; they are dropped where they arrive. "Bare again" is a second host without anything: what
differs there is noise. The program is measured for packets of nobody, too, with rules for programs
in force and without, and for what a rule or a run marks. Before the rounds a packet is caught at
the other end, and has to have its mark.

Then a change of one flow while all are there, beside a `tc` process and an `nft` process; and what
it takes to put and to take all flows.

Aim: at 100,000 flows the program adds less than half of what nftables adds.

Needs root, nft and tc. Takes a minute; a machine with something else to do makes it noisy.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final, TypeAlias

from openqwave.admission.rules import Ports
from openqwave.drivers.filters import Filters
from openqwave.drivers.netlink import Netlink
from openqwave.drivers.sockets import SO_COOKIE
from openqwave.enforcement.bpf.attachment import Attachments
from openqwave.enforcement.bpf.program import EgressProgram
from openqwave.enforcement.claims import Claim, RuleClaim
from openqwave.enforcement.missing import MechanismMissing
from openqwave.enforcement.nft.elements import Element, Place, key_of, putting, taking
from openqwave.enforcement.nft.library import Nft
from openqwave.enforcement.nft.netlink import Netfilter
from openqwave.enforcement.nft.table import OwnTable
from openqwave.lab.topology import Host, Lab
from openqwave.model.endpoint import endpoint_at
from openqwave.model.flow import Transport, Treatment

PORT: Final = 5_004
DSCP, PRIORITY = 46, 5
VOICE: Final = Treatment(dscp=DSCP, queue_priority=PRIORITY)
OTHER: Final = Treatment(dscp=34, queue_priority=PRIORITY)
# Where the peers are: the network for benchmarks (RFC 2544), 131,072 addresses.
PEERS: Final = int(IPv4Address("198.18.0.0"))
PAYLOAD: Final = bytes(172)
# Nobody's, so that what arrives is not the host's, and is dropped at once.
GATEWAY_MAC: Final = "02:00:00:00:00:99"
# Packets of a way in a round: less than a turn of the scheduler, so that many rounds are whole.
PACKETS: Final = 250
# Before them, untimed.
WARMING: Final = 750
CHANGES, PROCESSES = 2_000, 20
# A policy of some length; and users from where no system gives numbers.
RULES, ABSENT_USER = 8, 3_000_000_000
# Of what nftables adds to a packet.
AIM: Final = 0.5
ETH_P_IP: Final = 0x0800


Row: TypeAlias = "dict[str, float]"


def peer(number: int) -> str:
    """The address of a flow's peer; flows are counted from 1."""
    return str(IPv4Address(PEERS + number))


@dataclass
class Way:
    """One way to mark packets, on a host of its own.

    Attributes:
        name: For people.
        host: Whose packets are marked.
        far: Where they arrive.
        sock: Sends.
        tos: What its packets have.
        flows: How many there are.
    """

    name: str
    host: Host
    far: Host
    sock: socket.socket
    tos: int = DSCP << 2
    flows: int = 0
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self) -> None:
        """Have everything but flows; OSError or MechanismMissing where that is not possible."""

    def put(self, numbers: range) -> None:
        """Put flows."""

    def take(self, numbers: range) -> None:
        """Take them away."""

    def changes(self) -> dict[str, Callable[[], object]]:
        """By name, what changes one flow: the first, there and back in turn."""
        return {}


class Tos(Way):
    """IP_TOS on the socket, which has no flows."""

    def start(self) -> None:
        """Write it."""
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, DSCP << 2)


class Program(Way):
    """The kernel's program: a slot for each flow, which counts."""

    def start(self) -> None:
        """Load and attach it."""
        self.program = self.closing.enter_context(EgressProgram.load())
        netlink = Netlink(socket.NETLINK_ROUTE)
        self.closing.callback(netlink.close)
        attachments = Attachments(self.program.programs, Filters(netlink))
        attachments.attach_all()
        self.closing.callback(attachments.close)
        if attachments.reasons:
            raise OSError(", ".join(attachments.reasons.values()))
        cookie = self.sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
        self.cookie = int.from_bytes(cookie, sys.byteorder)
        self.slots: dict[int, int] = {}

    def put(self, numbers: range) -> None:
        """A slot with its treatment for each, then the ways there."""
        table, ways = self.program.table, {}
        for number in numbers:
            slot = self.slots[number] = table.new_slot()
            table.write_treatment(slot, VOICE)
            ways[endpoint_at(IPv4Address(PEERS + number), PORT, 0)] = slot
        table.put_destinations(self.cookie, ways)
        table.put_socket(self.cookie, None, has_destinations=True)

    def take(self, numbers: range) -> None:
        """The ways there, then the slots."""
        table = self.program.table
        gone = [endpoint_at(IPv4Address(PEERS + number), PORT, 0) for number in numbers]
        table.drop_destinations(self.cookie, gone)
        for number in numbers:
            table.free_slot(self.slots.pop(number))

    def changes(self) -> dict[str, Callable[[], object]]:
        """The type of a flow is one write, whatever the number of its peers."""
        wanted = [VOICE, OTHER]
        slot = self.slots[1]

        def change() -> None:
            wanted.reverse()
            self.program.table.write_treatment(slot, wanted[0])

        return {"program": change}


class Ruled(Program):
    """The same, with rules for programs, none of which is for this one."""

    def start(self) -> None:
        """Write as many rules as an administrator may."""
        super().start()
        slot = self.program.table.new_slot()
        self.program.table.write_treatment(slot, VOICE)
        self.program.claims.write([(each, slot) for each in self.rules()], {})
        self.program.claims.bring_in_force()

    def rules(self) -> list[RuleClaim]:
        """Rules for users that do not exist."""
        claim = Claim(1, VOICE)
        return [
            RuleClaim(claim, users=frozenset({ABSENT_USER + number})) for number in range(RULES)
        ]


class ByRule(Ruled):
    """The program, which marks by the last of a few rules for this user's packets."""

    def rules(self) -> list[RuleClaim]:
        """The others are for ports that nobody sends to."""
        last = RuleClaim(
            Claim(1, VOICE),
            users=frozenset({os.getuid()}),
            protocol=Transport.UDP,
            remote=IPv4Network(f"{IPv4Address(PEERS)}/15"),
            remote_ports=Ports(PORT, PORT),
        )
        others = [replace(last, remote_ports=Ports(port, port)) for port in range(1, RULES)]
        return [*others, last]


class ByRun(Ruled):
    """The program, which marks what is in a run."""

    def start(self) -> None:
        """Put the socket in it."""
        super().start()
        slot = self.program.table.new_slot()
        self.program.table.write_treatment(slot, VOICE)
        self.program.claims.put_run(1, slot)
        self.program.claims.set_run(self.sock.fileno(), 1)


class Marks(Way):
    """The second backend's table of nftables: a map of marks, and a few verdicts."""

    def start(self) -> None:
        """Make the table, and its map."""
        self.table = OwnTable(Netfilter(), Nft())
        self.closing.callback(self.table.close)
        self.choices = [self.table.choice_of(DSCP, PRIORITY), self.table.choice_of(34, PRIORITY)]
        self.table.prepare(["udp4"], ())

    def _place(self, number: int) -> Place:
        far = (PEERS + number).to_bytes(4, "big")
        return "udp4", key_of(socket.inet_aton(self.host.ipv4), PORT, far, PORT)

    def put(self, numbers: range) -> None:
        """In transactions of a thousand elements."""
        for some in by_thousands(numbers):
            self.table.change(
                [putting(self._place(each), Element(self.choices[0], 1, each)) for each in some]
            )

    def take(self, numbers: range) -> None:
        """Likewise."""
        for some in by_thousands(numbers):
            self.table.change([taking(self._place(number)) for number in some])

    def changes(self) -> dict[str, Callable[[], object]]:
        """An element is taken and put anew; by a process, too."""
        choices, place = list(self.choices), self._place(1)

        def change() -> None:
            choices.reverse()
            self.table.change([taking(place), putting(place, Element(choices[0], 1, 1))])

        def run() -> None:
            choices.reverse()
            key = f"{self.host.ipv4} . {PORT} . {peer(1)} . {PORT}"
            script = (
                f"delete element inet openqwave udp4 {{ {key} }}; "
                f"add element inet openqwave udp4 {{ {key} : 0x{choices[0]:x} }}"
            )
            subprocess.run(["nft", script], check=True)  # noqa: S607 - whichever is here

        return {"nftables, map of marks": change, "an nft process": run}


class Verdicts(Way):
    """A table as firewalls have it: the verdict in each element."""

    def start(self) -> None:
        """Make the table, by the library."""
        self.nft = Nft()
        self.closing.callback(self.nft.close)
        key = "ipv4_addr . inet_service . ipv4_addr . inet_service"
        hook = "type filter hook output priority mangle; policy accept;"
        self.nft.run(
            f"add table inet peer\n"
            f"add map inet peer flows {{ type {key} : verdict; counter; }}\n"
            f"add chain inet peer marked\n"
            f"add rule inet peer marked ip dscp set {DSCP} meta priority set 0x{PRIORITY:x}\n"
            f"add chain inet peer other\n"
            f"add rule inet peer other ip dscp set 34 meta priority set 0x{PRIORITY:x}\n"
            f"add chain inet peer output {{ {hook} }}\n"
            f"add rule inet peer output ip saddr . udp sport . ip daddr . udp dport vmap @flows\n"
        )

    def _key(self, number: int) -> str:
        return f"{self.host.ipv4} . {PORT} . {peer(number)} . {PORT}"

    def put(self, numbers: range) -> None:
        """Few large commands: each looks through the whole map."""
        for some in by_thousands(numbers, 20):
            elements = ", ".join(f"{self._key(number)} : goto marked" for number in some)
            self.nft.run(f"add element inet peer flows {{ {elements} }}\n")

    def take(self, numbers: range) -> None:
        """Likewise."""
        for some in by_thousands(numbers, 20):
            elements = ", ".join(self._key(number) for number in some)
            self.nft.run(f"delete element inet peer flows {{ {elements} }}\n")

    def changes(self) -> dict[str, Callable[[], object]]:
        """An element is taken and put anew."""
        chains, key = ["marked", "other"], self._key(1)

        def change() -> None:
            chains.reverse()
            self.nft.run(
                f"delete element inet peer flows {{ {key} }}\n"
                f"add element inet peer flows {{ {key} : goto {chains[0]} }}\n"
            )

        return {"nftables, map of verdicts": change}


class Scripted(Way):
    """A class of HTB for a flow, moved by `tc` as scripts do; only its changes are measured."""

    def start(self) -> None:
        """The queue and its classes."""
        self.device = self.host.interface.name
        self._tc("qdisc", "add", "dev", self.device, "root", "handle", "1:", "htb")
        for minor in ("10", "20"):
            name = ["parent", "1:", "classid", f"1:{minor}"]
            self._tc("class", "add", "dev", self.device, *name, "htb", "rate", "10mbit")

    def _tc(self, *arguments: str) -> None:
        subprocess.run(["tc", *arguments], check=True)  # noqa: S607 - whichever is here

    def changes(self) -> dict[str, Callable[[], object]]:
        """The filter of one flow, among no others."""
        minors = ["10", "20"]
        where = ["dev", self.device, "parent", "1:", "protocol", "ip", "prio", "1"]
        what = ["handle", "800::1", "u32", "match", "ip", "dst", f"{peer(1)}/32"]

        def run() -> None:
            minors.reverse()
            self._tc("filter", "replace", *where, *what, "flowid", f"1:{minors[0]}")

        return {"a tc process": run}


def by_thousands(numbers: range, thousands: int = 1) -> Iterator[range]:
    """A range in parts."""
    step = 1_000 * thousands
    return (numbers[at : at + step] for at in range(0, len(numbers), step))


KINDS: Final[dict[str, type[Way]]] = {
    "bare": Way,
    "bare again": Way,
    "IP_TOS": Tos,
    "program, another's socket": Program,
    "program, rules for others": Ruled,
    "program, the eighth rule": ByRule,
    "program, a run": ByRun,
    "program": Program,
    "nftables, map of marks": Marks,
    "nftables, map of verdicts": Verdicts,
    "tc": Scripted,
}
# Of those, what sends nothing, what has no mark, and what gets no flows.
NOT_SENDING: Final = "tc"
UNMARKED: Final = (
    *("bare", "bare again"),
    *("program, another's socket", "program, rules for others"),
)
WITH_FLOWS: Final = ("program", "nftables, map of marks", "nftables, map of verdicts")


def tell(text: str) -> None:
    """Say how far it is, to people who look."""
    if sys.stderr.isatty():
        print(f"\r{text:70}", end="", file=sys.stderr, flush=True)


def make(lab: Lab, name: str) -> Way:
    """A way on a host of its own."""
    near, far = lab.host(f"{name} near"), lab.host(f"{name} far")
    lab.link(near, far)
    network, gateway = f"{IPv4Address(PEERS)}/15", str(IPv4Address(far.ipv4) + 1)
    device = near.interface.name
    with near.enter():
        for command in (
            ["neigh", "add", gateway, "lladdr", GATEWAY_MAC, "nud", "permanent", "dev", device],
            ["route", "add", network, "via", gateway],
        ):
            subprocess.run(["ip", *command], check=True)  # noqa: S607 - whichever is here
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((near.ipv4, PORT))
    way = KINDS[name](name, near, far, sock)
    if name in UNMARKED:
        way.tos = 0
    way.closing.callback(sock.close)
    return way


def check(way: Way, number: int) -> None:
    """See that a flow's packet has its mark where it arrives."""
    with way.far.enter():
        watcher = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    with watcher:
        watcher.settimeout(5)
        way.sock.sendto(PAYLOAD, (peer(number), PORT))
        while (packet := watcher.recv(2_048))[16:20] != socket.inet_aton(peer(number)):
            pass
    if packet[1] != way.tos:
        raise RuntimeError(f"{way.name}: tos {packet[1]:#x}, not {way.tos:#x}")


def send_ns(way: Way, targets: Sequence[tuple[str, int]]) -> float:
    """Send to each; nanoseconds for one of the last `PACKETS`.

    The others bring into the caches what the traffic of other ways has driven out.
    """
    send = way.sock.sendto
    for target in targets[:-PACKETS]:
        send(PAYLOAD, target)
    targets = targets[-PACKETS:]
    began = time.perf_counter_ns()
    for target in targets:
        send(PAYLOAD, target)
    return (time.perf_counter_ns() - began) / len(targets)


def per_packet(ways: Sequence[Way], flows: int, rounds: int) -> dict[str, dict[str, Row]]:
    """Interleaved rounds of all ways, nanoseconds a packet: to one flow, and to any."""
    dice = random.Random(flows)
    one = [(peer(flows), PORT)] * (PACKETS + WARMING)
    taken: dict[str, dict[str, list[float]]] = {
        kind: {way.name: [] for way in ways} for kind in ("one flow", "any flow")
    }
    gc.disable()
    for number in range(rounds):
        if not number % 10:
            tell(f"{flows:,} flows, round {number} of {rounds}")
        any_ = [(peer(dice.randint(1, flows)), PORT) for _ in range(PACKETS + WARMING)]
        for kind, targets in (("one flow", one), ("any flow", any_)):
            for way in dice.sample(ways, len(ways)):
                taken[kind][way.name].append(send_ns(way, targets))
    gc.enable()
    return {kind: rows_of(each) for kind, each in taken.items()}


def rows_of(taken: dict[str, list[float]]) -> dict[str, Row]:
    """What is said of rounds."""
    bare = taken["bare"]
    return {
        name: {
            "median": round(statistics.median(each)),
            # Of each round, because the machine is now faster, now slower.
            "added_median": round(
                statistics.median(one - base for one, base in zip(each, bare, strict=True))
            ),
            "added_minimum": round(min(each) - min(bare)),
        }
        for name, each in taken.items()
    }


def put_flows(ways: Iterable[Way], flows: int) -> dict[str, float]:
    """Put as many as there are to be; microseconds for one of the new ones."""
    taken = {}
    for way in ways:
        tell(f"{flows:,} flows, putting them: {way.name}")
        new = range(way.flows + 1, flows + 1)
        began = time.perf_counter()
        with way.host.enter():
            way.put(new)
        taken[way.name] = round((time.perf_counter() - began) * 1e6 / len(new), 2)
        way.flows = flows
        check(way, flows)
    return taken


def take_flows(ways: Iterable[Way]) -> dict[str, float]:
    """Take all away; microseconds for one."""
    taken = {}
    for way in ways:
        tell(f"taking flows away: {way.name}")
        began = time.perf_counter()
        with way.host.enter():
            way.take(range(1, way.flows + 1))
        taken[way.name] = round((time.perf_counter() - began) * 1e6 / way.flows, 2)
        way.tos = 0
        check(way, way.flows)
    return taken


def changes_us(ways: Iterable[Way]) -> dict[str, Row]:
    """What a change of one flow takes, microseconds."""
    found = {}
    for way in ways:
        with way.host.enter():
            for name, change in way.changes().items():
                is_slow = "process" in name or "verdicts" in name
                each = []
                for number in range(PROCESSES if is_slow else CHANGES):
                    if not number % PROCESSES:
                        tell(f"changes: {name}")
                    began = time.perf_counter_ns()
                    change()
                    each.append((time.perf_counter_ns() - began) / 1_000)
                found[name] = {
                    "median": round(statistics.median(each), 1),
                    "p99": round(statistics.quantiles(each, n=100)[98], 1),
                }
    return found


def measure(sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """All of it; what is not to be had here is in "missing", with the reason."""
    missing: dict[str, str] = {}
    packets, put = {}, {}
    with Lab() as lab, contextlib.ExitStack() as closing:
        ways: dict[str, Way] = {}
        for name in KINDS:
            tell(f"making {name}")
            way = make(lab, name)
            closing.callback(way.closing.close)
            try:
                with way.host.enter():
                    way.start()
            except (OSError, MechanismMissing, subprocess.CalledProcessError) as error:
                missing[name] = str(error)
            else:
                ways[name] = way
        sending = [way for name, way in ways.items() if name != NOT_SENDING]
        with_flows = [ways[name] for name in WITH_FLOWS if name in ways]
        for flows in sizes:
            put = put_flows(with_flows, flows)
            packets[flows] = per_packet(sending, flows, rounds)
        changing = [*with_flows, *(way for name, way in ways.items() if name == NOT_SENDING)]
        changes = changes_us(changing)
        taken = take_flows(with_flows)
    tell("")
    return {
        "per_packet_ns": packets,
        "change_us": changes,
        "put_us": put,
        "take_us": taken,
        "missing": missing,
    }


def show(found: dict[str, Any]) -> None:
    """Print it for people."""
    for flows, tables in found["per_packet_ns"].items():
        for kind, rows in tables.items():
            head = f"{flows:,} flows, ns a packet to {kind}"
            print(f"\n{head:<40}{'median':>9}{'added':>8}{'by minima':>11}")
            for name, row in rows.items():
                added = f"{row['added_median']:>+8}{row['added_minimum']:>+11}"
                print(f"{name:<40}{row['median']:>9}{'' if name == 'bare' else added}")
    rows = found["change_us"]
    ours = rows.get("program", {}).get("median")
    print(f"\n{'a change of one flow, us':<40}{'median':>9}{'99 %':>10}{'times ours':>12}")
    for name, row in rows.items():
        times = f"{row['median'] / ours:>12.1f}" if ours else ""
        print(f"{name:<40}{row['median']:>9}{row['p99']:>10}{times}")
    print(f"\n{'all flows, us for one':<40}{'put':>9}{'taken':>8}")
    for name, taken in found["take_us"].items():
        print(f"{name:<40}{found['put_us'][name]:>9}{taken:>8}")
    for name, reason in found["missing"].items():
        print(f"\nmissing: {name}: {reason}")
    most, tables = max(found["per_packet_ns"].items())
    print()
    for kind, rows in tables.items():
        for name in WITH_FLOWS[1:]:
            if name in rows and WITH_FLOWS[0] in rows:
                parts = [
                    rows[WITH_FLOWS[0]][by] / max(1, rows[name][by])
                    for by in ("added_median", "added_minimum")
                ]
                verdict = "met" if max(parts) < AIM else "MISSED"
                words = f"{parts[0]:.2f} by medians, {parts[1]:.2f} by minima"
                print(f"{verdict}: to {kind} of {most:,}, {words} of {name} (aim: {AIM})")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--flows", default="1,1000,100000", help="how many, by commas, rising")
    parser.add_argument("--rounds", type=int, default=300, help="of 250 packets a way and kind")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    for program in ("ip", "tc", "nft"):
        if shutil.which(program) is None:
            sys.stderr.write(f"{program} is needed and not installed (scripts/tools.sh)\n")
            return 2
    # One processor, which is the same for all.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        found = measure([int(count) for count in options.flows.split(",")], options.rounds)
    except KeyboardInterrupt:
        tell("")
        return 130
    except PermissionError as error:
        sys.stderr.write(f"needs root: {error}\n")
        return 2
    if options.json:
        print(json.dumps(found))
    else:
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
