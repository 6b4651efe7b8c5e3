"""The service and the kernel: what it chooses, what it leaves, and what it hears of."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import openqwave as qw
from openqwave.drivers.filters import Filters
from openqwave.drivers.links import Links
from openqwave.drivers.netlink import Netlink
from openqwave.drivers.qdiscs import Qdiscs
from openqwave.drivers.sockets import SocketDirectory
from openqwave.enforcement.bpf.attachment import NAME_WITH_CLSACT, PRIORITY
from openqwave.enforcement.bpf.program import EgressProgram, Sizes
from openqwave.enforcement.shaping.queues import OUR_ROOT
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.enforcement.wishes import Wishes
from openqwave.lab.capture import Direction
from openqwave.lab.topology import Host, Lab
from openqwave.service.kernel import Kernel
from openqwave.service.server import Server
from tests.kernel.backend_stage import tc
from tests.kernel.egress_stage import may_use_bpf
from tests.kernel.service_stage import NOBODY, TIMEOUT_S, Actor, Qwaved, public_folder, running
from tests.patience import until

pytestmark = pytest.mark.kernel

PORT = 6_000
needs_bpf = pytest.mark.skipif(
    not may_use_bpf(), reason="BPF wants root of the first user namespace"
)
BPF = '[enforcement]\nbackend = "bpf"\n'
NFTABLES = '[enforcement]\nbackend = "nftables"\n'
needs_nft = pytest.mark.skipif(
    shutil.which("nft") is None and not Path("/usr/sbin/nft").exists(), reason="there is no nft"
)
# A program that wants what only rights give.
UNPRIVILEGED = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def begin(state: dict[str, Any], host: str) -> None:
    """Open a handle, and have a flow of an unconnected socket."""
    state["qos"] = qos = qw.open(service=True)
    state["socket"] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    state["flow"] = qos.add_socket(
        sock, (host, PORT), traffic_type=qw.TrafficType.VOICE, adaptive=False
    )


def send(state: dict[str, Any], host: str) -> None:
    state["socket"].sendto(b"x", (host, PORT))


def close(state: dict[str, Any]) -> None:
    state["socket"].close()


def mark_on_the_wire(actor: Actor, far: Host) -> int:
    """The code point that the next packet of the actor carries at the other host."""
    with far.capture(Direction.INCOMING) as capture:
        actor.call(send, far.ipv4)
        (packet,) = capture.wait_for(1, TIMEOUT_S, lambda seen: seen.destination_port == PORT)
    return packet.dscp


@needs_bpf
def test_the_best_is_chosen_and_shown(pair: tuple[Host, Host]) -> None:
    near, far = pair
    with running(near) as service, Actor(NOBODY, host=near, service=service.socket) as user:
        status = service.show("status")
        assert status["backend"]["name"] == "kernel program"
        rows = {row["name"]: row for row in status["interfaces"]}
        assert rows.keys() == {"lo", "eth0"}
        for row in rows.values():
            assert row["is_attached"]
            assert row["words"].startswith(("by TCX", "by clsact"))
            assert row["queue"]
        user.call(begin, far.ipv4)
        assert mark_on_the_wire(user, far) == 56


@needs_bpf
def test_interfaces_that_come_later(lab: Lab) -> None:
    near, one, two = lab.host("near"), lab.host("one"), lab.host("two")
    lab.link(near, one)
    with running(near, BPF) as service:
        lab.link(near, two)
        until(lambda: len(service.show("status")["interfaces"]) == 3)
        assert all(row["is_attached"] for row in service.show("status")["interfaces"])
        with Actor(host=near, service=service.socket) as user:
            user.call(begin, two.ipv4)
            assert mark_on_the_wire(user, two) == 56


@needs_bpf
def test_a_socket_that_is_closed_is_noticed_at_once(pair: tuple[Host, Host]) -> None:
    near, far = pair
    with running(near, BPF) as service, Actor(host=near, service=service.socket) as user:
        user.call(begin, far.ipv4)
        assert service.show("status")["flows"] == 1
        user.call(close)
        began_s = time.monotonic()
        until(lambda: service.show("status")["flows"] == 0)
        # Who looks for closed sockets does so every ten seconds.
        assert time.monotonic() - began_s < 8


@needs_bpf
def test_sockets_of_other_namespaces_are_marked_by_their_options(pair: tuple[Host, Host]) -> None:
    near, far = pair
    with running(near, BPF) as service, Actor(host=far, service=service.socket) as user:
        user.call(begin, near.ipv4)
        assert mark_on_the_wire(user, near) == 56
        (row,) = service.show("flows")["flows"]
        assert row["dscp"] == 56


@needs_bpf
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
def test_nothing_is_left_behind(pair: tuple[Host, Host], *, is_killed: bool) -> None:
    near, far = pair
    with near.enter():
        before = state_of(near)
    with public_folder() as folder, contextlib.closing(Qwaved(folder, near, BPF)) as service:
        service.start()
        with Actor(host=near, service=service.socket) as user:
            user.call(begin, far.ipv4)
            assert mark_on_the_wire(user, far) == 56
            if is_killed:
                service.kill()
            else:
                assert service.stop() == 0
            assert mark_on_the_wire(user, far) == 0
    with near.enter():
        assert state_of(near) == before


def state_of(host: Host) -> list[str]:
    """Queues and filters."""
    name = host.interface.name
    return [tc("qdisc", "show"), tc("filter", "show", "dev", name, "egress")]


@needs_bpf
def test_what_a_crash_has_left_is_taken_away(pair: tuple[Host, Host]) -> None:
    """A filter, a queue and a table of ours; those of others stay."""
    near, far = pair
    name, index = near.interface.name, near.interface.index
    nft = shutil.which("nft") or "/usr/sbin/nft"
    with near.enter(), Netlink(socket.NETLINK_ROUTE) as netlink:
        before = state_of(near)
        tc("qdisc", "add", "dev", "lo", "root", "handle", "7:", "pfifo")
        others = tc("qdisc", "show", "dev", "lo")
        with EgressProgram.load(Sizes(16, 16, 16, 16, 16)) as program:
            Filters(netlink).add_with_clsact(
                index, program.programs.egress, NAME_WITH_CLSACT, PRIORITY
            )
        Qdiscs(netlink).install_htb(index, OUR_ROOT, 14)
        assert "htb" in tc("qdisc", "show", "dev", name)
    table = '[enforcement]\nbackend = "nftables"\n'
    with public_folder() as folder, contextlib.closing(Qwaved(folder, near, table)) as crashed:
        crashed.start()
        with Actor(host=near, service=crashed.socket) as user:
            user.call(begin_bound, far.ipv4)
            crashed.kill()
    with near.enter():
        listed = subprocess.run([nft, "list", "tables"], check=True, capture_output=True, text=True)
        assert "openqwave" in listed.stdout
    with running(near, BPF), near.enter():
        assert tc("qdisc", "show", "dev", name) == before_of(before, name)
        assert tc("filter", "show", "dev", name, "egress") == ""
        listed = subprocess.run([nft, "list", "tables"], check=True, capture_output=True, text=True)
        assert listed.stdout == ""
        assert tc("qdisc", "show", "dev", "lo") == others


class Clock:
    """Time that passes when it is told to."""

    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


def test_looks_that_take_long_leave_time_for_clients(
    pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, _ = pair
    clock = Clock()
    looks: list[float] = []

    def take_long() -> None:
        tc("qdisc", "replace", "dev", "lo", "root", "pfifo", "limit", f"{1_000 + len(looks)}")
        looks.append(clock.now_s)
        clock.now_s += 1.0

    server = SimpleNamespace(runtime=SimpleNamespace(look=lambda ask: ask(None)))
    with near.enter():
        sockets = SocketDirectory()
        options = SocketOptions(sockets, Links())
        with contextlib.closing(Kernel(Wishes("socket-options"), options, sockets)) as kernel:
            monkeypatch.setattr("openqwave.service.kernel.time", clock)
            monkeypatch.setattr(kernel.chosen, "reconcile", take_long)
            while clock.now_s < 1_100:
                kernel.look_again(cast("Server", server))
                clock.now_s += 0.01
    # What was announced is looked at again, and a tenth of the time goes into that.
    assert 8 <= len(looks) <= 12


def begin_bound(state: dict[str, Any], host: str) -> None:
    """The same with a socket that has a port."""
    state["qos"] = qos = qw.open(service=True)
    state["socket"] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", 0))
    state["flow"] = qos.add_socket(
        sock, (host, PORT), traffic_type=qw.TrafficType.VOICE, adaptive=False
    )


def before_of(state: list[str], name: str) -> str:
    lines = [line for line in state[0].splitlines(keepends=True) if f"dev {name} " in line]
    return "".join(line.replace(f" dev {name}", "") for line in lines)


# -- what others change while it runs -----------------------------------------------------


def nft(*arguments: str) -> str:
    """What `nft` says on this host."""
    program = shutil.which("nft") or "/usr/sbin/nft"
    done = subprocess.run([program, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@contextlib.contextmanager
def marked_by_a_table(near: Host, far: Host) -> Iterator[tuple[Qwaved, Actor]]:
    """A service with a table, who has a flow there, and this thread where both are."""
    with (
        running(near, NFTABLES) as service,
        Actor(host=near, service=service.socket) as user,
        near.enter(),
    ):
        user.call(begin_bound, far.ipv4)
        yield service, user


@needs_nft
@pytest.mark.root
def test_a_table_that_is_taken_away_comes_back(pair: tuple[Host, Host]) -> None:
    """Nobody tells the service of it: it looks by itself."""
    with marked_by_a_table(*pair) as (_, user):
        nft("flush", "ruleset")
        until(lambda: "openqwave" in nft("list", "tables"))
        assert mark_on_the_wire(user, pair[1]) == 56


@needs_nft
@pytest.mark.root
def test_a_table_of_our_name_that_is_anothers_ends_nothing(pair: tuple[Host, Host]) -> None:
    with marked_by_a_table(*pair) as (service, user):
        nft('delete table inet openqwave; add table inet openqwave { comment "theirs"; }')
        until(lambda: "could not be brought back" in service.log.read_text())
        assert "nft delete table inet openqwave" in service.log.read_text()
        with pytest.raises(qw.NotSupported, match="which is left as it is"):
            user.call(change_type)
        assert "theirs" in nft("list", "ruleset")
        nft("delete table inet openqwave")
        user.call(change_type)
        assert mark_on_the_wire(user, pair[1]) == 40


def change_type(state: dict[str, Any]) -> None:
    state["flow"].set_traffic_type(qw.TrafficType.AUDIO_VIDEO)


# -- what cannot be had -----------------------------------------------------------------


@contextlib.contextmanager
def unprivileged(
    folder: Path, config: str, rights: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """The service as an ordinary user, with some rights; its process, socket and configuration."""
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")
    for name in ("state", "run"):
        (folder / name).mkdir()
        os.chown(folder / name, NOBODY, NOBODY)
    file = folder / "qwaved.toml"
    file.write_text(f'[service]\nstate_directory = "{folder}/state"\n{config}')
    path = str(folder / "run" / "qwaved.sock")
    argv = [*UNPRIVILEGED, f"--inh-caps=-all{rights}", f"--ambient-caps=-all{rights}"]
    argv += [sys.executable, "-m", "openqwave.service"]
    argv += ["--config", str(file), "--socket", path]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        yield process, path, file
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("name", "words"), [("bpf", "CAP_BPF"), ("nftables", "CAP_NET_ADMIN")])
def test_what_is_insisted_on_and_cannot_be_had_ends_the_start(name: str, words: str) -> None:
    config = f'[enforcement]\nbackend = "{name}"\n'
    with public_folder() as folder, unprivileged(folder, config) as (process, _, file):
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 1
        assert f"qwaved: cannot run: {file}: enforcement.backend is '{name}', but " in errors
        assert words in errors
        assert "Traceback" not in errors


@needs_bpf
def test_two_rights_suffice_for_the_program(pair: tuple[Host, Host]) -> None:
    near, far = pair
    rights = ",+net_admin,+bpf"
    with public_folder() as folder, near.enter(), unprivileged(folder, BPF, rights) as started:
        process, path, _ = started
        until(lambda: os.path.exists(path) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        with Actor(NOBODY, service=path) as user:
            user.call(begin, far.ipv4)
            assert mark_on_the_wire(user, far) == 56


def test_without_rights_there_are_options_and_the_reason_is_shown() -> None:
    with public_folder() as folder, unprivileged(folder, "") as (process, path, file):
        until(lambda: os.path.exists(path))
        shown = Qwaved.show(_Named(path), "status")  # type: ignore[arg-type]  # its socket is used
        assert shown["backend"]["name"] == "socket options"
        assert "bpf cannot be had: " in shown["backend"]["reason"]
        assert "nftables cannot be had: " in shown["backend"]["reason"]
        # And who insists later is refused, with all that is in the same file.
        file.write_text(f"{file.read_text()}{BPF}[limits]\nhandles = 1\n")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        heard = []
        for line in process.stderr:
            heard.append(line)
            if "stays" in line:
                break
        assert "enforcement.backend is 'bpf', but " in heard[-1]
        assert heard[-1].endswith("; the running configuration stays\n")
        with Actor(service=path) as one, Actor(service=path) as two:
            one.call(open_two)
            two.call(open_two)


def open_two(state: dict[str, Any]) -> None:
    state["handles"] = [qw.open(service=True), qw.open(service=True)]


class _Named:
    """What `Qwaved.show` needs of a service."""

    def __init__(self, path: str) -> None:
        self.socket = path


@needs_bpf
def test_what_waits_for_a_restart_is_said(pair: tuple[Host, Host]) -> None:
    with running(pair[0], BPF) as service:
        service.write_config('[enforcement]\nbackend = "socket-options"\n')
        service.signal(signal.SIGHUP)
        service.wait_for(b"READY=1")
        assert "will wait for the next start" in service.log.read_text()
        assert service.show("status")["backend"]["name"] == "kernel program"
