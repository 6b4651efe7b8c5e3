"""Programs that know nothing of marks, by `qwave run`: each packet of theirs, and nobody else's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.data_plane_stage import open_socket
from tests.kernel.run_stage import (
    AUDIO_VIDEO,
    BACKGROUND,
    CONFIG,
    QWAVE,
    VOICE,
    Ground,
    as_user,
    finished,
    programs_of,
    start,
    until_none,
)
from tests.kernel.service_stage import DAEMON, NOBODY, Qwaved, public_folder, running
from tests.kernel.unchanged import (
    PATIENCE_S,
    PROGRAMS,
    Conversation,
    Program,
    Wire,
    skip_without,
    wait_for_end,
)
from tests.patience import until

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

pytestmark = [pytest.mark.kernel, pytest.mark.root]

PORT, BESIDE, RECEIVER = 5300, 5301, 5004
# Sends a datagram to an address and a port.
SAY = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
"""

# A family: the first has a child and that one a child; the last leaves everybody behind, and
# speaks again when it is told to.
FAMILY = """
import os, socket, sys, time
to, told = (sys.argv[1], int(sys.argv[2])), sys.argv[3]
def say(what):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(what, to)
say(b"parent")
if os.fork() == 0:
    say(b"child")
    if os.fork() == 0:
        os.setsid()
        say(b"grandchild")
        if os.fork() == 0:
            for number in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            while not os.path.exists(told):
                time.sleep(0.01)
            say(b"daemon")
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
sys.exit(7)
"""


def said(wire: Wire, port: int = RECEIVER) -> list[tuple[str, int]]:
    """Datagrams that arrived at a port, and their marks."""
    return [(each.payload.decode(), each.dscp) for each in wire.of(port)]


# Sends a datagram each time that it is given a line, and says so.
SPEAKER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for line in sys.stdin:
    sock.sendto(line.strip().encode(), (sys.argv[1], int(sys.argv[2])))
    print("said", flush=True)
"""


class Speaker:
    """A program that says what it is told, from one socket."""

    def __init__(self, host: Host, to: str, service: Qwaved, wrapper: list[str]) -> None:
        argv = [*wrapper, sys.executable, "-c", SPEAKER, to, str(RECEIVER)]
        self.process = start(host, argv, service, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "said\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.communicate()


# -- the programs -----------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_each_packet_is_marked_and_nobody_elses(
    program: Program,
    side: str,
    hosts: tuple[Host, Host],
    service: Qwaved,
    place: Ground,
    wire: Wire,
    tmp_path: Path,
) -> None:
    skip_without(program)
    program.prepare(tmp_path)
    left, right = hosts
    ends = (right, left) if side == "client" else (left, right)
    marked, beside = (
        # Half of them speak IPv6.
        Conversation(program, tmp_path, port, *ends, is_v6=program.name in ("curl", "asyncio"))
        for port in (PORT, BESIDE)
    )
    env = {"QWAVE_SOCKET": service.socket}
    through = place.run("--type", "voice")
    servers = [
        marked.serve(*(through if side == "server" else ()), env=env),
        beside.serve(*(place.entering() if side == "server" else ())),
    ]
    clients = [
        (beside, beside.ask(*(place.entering() if side == "client" else ()))),
        (marked, marked.ask(*(through if side == "client" else ()), env=env)),
    ]
    for conversation, client in clients:
        conversation.finish(client)
    if side == "server":
        (row,) = programs_of(service)
        assert (row.kind, row.traffic_type, row.dscp) == ("run", "voice", VOICE)
    for server in servers:
        server.kill()
        server.wait()
    until_none(service)
    wire.look()
    packets = wire.of(PORT)
    assert {each.protocol for each in packets} == program.protocols
    assert len(packets) >= 10
    assert set(wire.marks(PORT)) == {VOICE}, wire.marks(PORT)
    assert set(wire.marks(BESIDE)) <= {0} | program.own_marks, wire.marks(BESIDE)
    ports = {PORT, BESIDE}
    assert all(ports & {each.source_port, each.destination_port} for each in wire.seen)


def test_children_and_who_outlives_them(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire, tmp_path: Path
) -> None:
    left, right = hosts
    told = tmp_path / "told"
    argv = [sys.executable, "-c", FAMILY, right.ipv4, str(RECEIVER), str(told)]
    other = [sys.executable, "-c", SAY, right.ipv4, str(RECEIVER), "other"]
    status, out, err = finished(left, [*place.run("--type=background"), *argv], service)
    assert (status, out, err) == (7, "", "")
    assert finished(left, place.entering(*other), service)[0] == 0
    # The command is over, and somebody is left.
    (row,) = service.show("flows")["programs"]
    assert row["cgroup"].endswith(place.below()[0])
    assert row["sent_packets"] == 3
    assert len(place.processes()) == 1
    told.touch()
    until_none(service)
    until(lambda: not place.below())
    assert sorted(said(wire)) == sorted(
        [
            ("parent", BACKGROUND),
            ("child", BACKGROUND),
            ("grandchild", BACKGROUND),
            ("daemon", BACKGROUND),
            ("other", 0),
        ]
    )


def test_a_run_within_a_run(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    say = f'"{sys.executable}" -c "$0" {right.ipv4} {RECEIVER}'
    inner = f"{' '.join(QWAVE)} run --type voice -- {say} inner"
    argv = ["sh", "-c", f"{say} before; {inner}; {say} after", SAY]
    status, _, err = finished(left, [*place.run("--type=background"), *argv], service)
    assert (status, err) == (0, "")
    until_none(service)
    assert said(wire) == [("before", BACKGROUND), ("inner", VOICE), ("after", BACKGROUND)]


@pytest.mark.parametrize(
    ("options", "dscp"),
    [
        (["--dscp", "46"], 46),
        (["--type", "voice", "--dscp", "10"], 10),
        (["--type", "audio-video"], AUDIO_VIDEO),
        (["--dscp", "0", "--name", "unmarked"], 0),
    ],
    ids=["dscp", "dscp before type", "type", "no marks"],
)
def test_marks_that_are_asked_for(
    hosts: tuple[Host, Host],
    service: Qwaved,
    place: Ground,
    wire: Wire,
    options: list[str],
    dscp: int,
) -> None:
    left, right = hosts
    argv = [sys.executable, "-c", SAY, right.ipv4, str(RECEIVER), "word"]
    assert finished(left, [*place.run(*options), *argv], service) == (0, "", "")
    until_none(service)
    assert said(wire) == [("word", dscp)]


def test_the_command_is_what_it_is_without(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground
) -> None:
    left, _ = hosts
    run = place.run("--type=voice")
    assert finished(left, [*run, "sh", "-c", "exit 3"], service)[0] == 3
    assert finished(left, [*run, "sh", "-c", "kill -TERM $$"], service)[0] == -signal.SIGTERM
    assert finished(left, [*run, "sh", "-c", "echo out; echo err >&2"], service) == (
        0,
        "out\n",
        "err\n",
    )
    # It is no child of anybody who waits.
    process = start(left, [*run, "sleep", "600"], service)
    until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
    assert [row.pid for row in programs_of(service)] == [process.pid]
    assert place.processes() == [process.pid]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == -signal.SIGINT
    echo = start(left, [*run, "cat"], service, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert echo.communicate("said\n", timeout=PATIENCE_S)[0] == "said\n"
    until_none(service)


def test_it_says_how_it_is_carried_out(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground
) -> None:
    run = place.run("--type=voice", "--verbose")
    status, out, err = finished(hosts[0], [*run, "true"], service)
    assert (status, out) == (0, "")
    assert err.startswith("qwave run: run ")
    until_none(service)


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("no-such-command", 127, "No such file or directory"),
        ("/proc/self/mem", 126, "Permission denied"),
        ("/tmp", 126, "Is a directory"),  # noqa: S108 - a directory is all that it is
    ],
)
def test_a_command_that_cannot_be_executed(
    hosts: tuple[Host, Host],
    service: Qwaved,
    place: Ground,
    command: str,
    status: int,
    words: str,
) -> None:
    found = finished(hosts[0], [*place.run("--type=voice"), command], service)
    assert found == (status, "", f"qwave run: {command}: {words}\n")
    assert not programs_of(service)


def test_what_is_executed_and_fails_leaves_nothing(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    status, out, err = finished(hosts[0], [*place.run("--type=voice"), str(script)], service)
    assert (status, out) == (127, "")
    assert err == f"qwave run: {script}: No such file or directory\n"
    assert not programs_of(service)
    assert place.below() == []


def test_many_runs_at_once_are_told_apart(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    speakers = {}
    try:
        for dscp in range(1, 17):
            wrapper = place.run(f"--dscp={dscp}") if dscp % 4 else place.entering()
            speakers[dscp] = Speaker(left, right.ipv4, service, wrapper)
        until(lambda: len(programs_of(service)) == 12)
        for word in ("first", "second"):
            for dscp, speaker in speakers.items():
                speaker.say(f"{word} {dscp}")
    finally:
        for speaker in speakers.values():
            speaker.kill()
    until_none(service)
    assert said(wire) == [
        (f"{word} {dscp}", dscp if dscp % 4 else 0)
        for word in ("first", "second")
        for dscp in range(1, 17)
    ]


# Sends by the socket that is its standard input.
BY_STDIN = """
import socket, sys
socket.socket(fileno=0).sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
"""


def test_a_socket_belongs_to_whoever_has_made_it(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    argv = [sys.executable, "-c", BY_STDIN, right.ipv4, str(RECEIVER)]
    with open_socket(left) as brought:
        process = start(
            left, [*place.run("--type=voice"), *argv, "brought"], service, stdin=brought.fileno()
        )
        assert process.wait(PATIENCE_S) == 0
    # The other way round: made in a run, and used by somebody outside.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handing = "import socket, sys; sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        handing += "socket.send_fds(socket.socket(fileno=0), [b'x'], [sock.fileno()]); "
        handing += "sys.stdout.write('handed'); sys.stdout.flush(); sys.stdin.read()"
        process = start(
            left,
            [*place.run("--type=voice"), sys.executable, "-c", handing],
            service,
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
        )
        _, numbers, _, _ = socket.recv_fds(ours, 1, 1)
        with socket.socket(fileno=numbers[0]) as handed:
            handed.sendto(b"handed", (right.ipv4, RECEIVER))
        process.kill()
        process.communicate()
    until_none(service)
    assert said(wire) == [("brought", 0), ("handed", VOICE)]


# -- who may ----------------------------------------------------------------------------


def test_a_user_runs_programs_in_a_cgroup_of_theirs(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    place.make("theirs", NOBODY)
    say = [sys.executable, "-c", SAY, right.ipv4, str(RECEIVER), "word"]
    run = as_user(NOBODY, *QWAVE, "run", "--type=voice", "--", *say)
    assert finished(left, place.entering(*run, group="theirs"), service) == (0, "", "")
    until_none(service)
    until(lambda: not place.below())
    assert said(wire) == [("word", VOICE)]
    # An exact code point has a right of its own.
    run = as_user(NOBODY, *QWAVE, "run", "--dscp=46", "--", *say)
    status, out, err = finished(left, place.entering(*run, group="theirs"), service)
    assert (status, out) == (125, "")
    assert err.startswith("qwave run: ")
    assert "Traceback" not in err
    assert len(said(wire)) == 1
    assert not place.below()


def test_a_user_without_a_cgroup(hosts: tuple[Host, Host], service: Qwaved, place: Ground) -> None:
    run = as_user(NOBODY, *QWAVE, "run", "--type=voice", "--", "true")
    status, out, err = finished(hosts[0], place.entering(*run), service)
    assert (status, out) == (125, "")
    assert err == (
        f"qwave run: no cgroup can be made below {place.path}: Permission denied; it belongs to "
        "root, and there is no systemd to ask for another place; run it as root\n"
    )


# systemd does not run here. This stands for it: enters a cgroup that belongs to the user, as
# `systemd-run --user --scope` has the manager do, and becomes the command behind the options.
STAND_IN = """#!/bin/sh
echo $(echo "$@") >> {log}
[ "$1" = --user ] && [ "$2" = --scope ] || exit 9
while [ "$1" != -- ]; do shift; done
shift
mkdir -p {scope}
echo $$ > {scope}/cgroup.procs && exec "$@"
"""

# As though systemd had started this machine.
BOOTED = """
from pathlib import Path
from openqwave.cli.run import scopes
scopes.BOOTED = Path("/")
from openqwave.cli.main import run
run()
"""


def test_a_login_gets_its_cgroup_from_systemd(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    # A session that is root's, a manager that is the user's, and rights to move between them.
    place.make("session")
    scope = place.make("manager", NOBODY) / "run-1.scope"
    place.own.append(scope)
    os.chown(place.path / "cgroup.procs", NOBODY, NOBODY)
    with public_folder() as folder:
        log = folder / "log"
        log.touch()
        os.chown(log, NOBODY, NOBODY)
        stand_in = folder / "systemd-run"
        stand_in.write_text(STAND_IN.format(log=log, scope=scope))
        stand_in.chmod(0o755)
        path = f"PATH={folder}:{os.environ['PATH']}"
        say = [sys.executable, "-c", SAY, right.ipv4, str(RECEIVER), "word"]
        qwave = [sys.executable, "-c", BOOTED, "run", "--type=voice", "--", *say]
        argv = place.entering("env", path, *as_user(NOBODY, *qwave), group="session")
        assert finished(left, argv, service) == (0, "", "")
        asked = log.read_text().splitlines()
    # Tried, and then done.
    assert [line.partition(" -- ")[0] for line in asked] == [
        "--user --scope --quiet --collect --property=Delegate=yes"
    ] * 2
    assert asked[0].endswith(" -- true")
    assert "run --in-scope --type=voice --" in asked[1]
    until_none(service)
    assert said(wire) == [("word", VOICE)]


def test_another_users_run_is_not_theirs_to_see(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground
) -> None:
    left, _ = hosts
    place.make("theirs", NOBODY)
    run = as_user(NOBODY, *QWAVE, "run", "--type=voice", "--name=nobody's", "--", "sleep", "600")
    sleeper = start(left, place.entering(*run, group="theirs"), service)
    until(lambda: bool(programs_of(service)))
    assert [row.name for row in programs_of(service)] == ["nobody's"]
    look = as_user(DAEMON, *QWAVE, "flows", "--json")
    status, out, _ = finished(left, look, service)
    assert status == 0
    assert '"programs": []' in out
    (row,) = programs_of(service)
    end = as_user(DAEMON, *QWAVE, "attach", "--end", str(row.number))
    status, _, err = finished(left, end, service)
    assert status == 2
    assert f"there is no run {row.number}" in err
    assert len(programs_of(service)) == 1
    sleeper.kill()
    sleeper.wait()
    until_none(service)
    until(lambda: not place.below())


# -- ends -------------------------------------------------------------------------------


def test_a_run_is_ended_before_its_program(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    speaker = Speaker(left, right.ipv4, service, place.run("--type=voice"))
    speaker.say("marked")
    (row,) = programs_of(service)
    assert finished(left, [*QWAVE, "attach", "--end", str(row.number)], service) == (
        0,
        f"Run {row.number} of {row.name} has ended.\n",
        "",
    )
    speaker.say("not")
    assert not programs_of(service)
    assert place.below() == []
    assert place.processes() == [speaker.process.pid]
    speaker.kill()
    assert said(wire) == [("marked", VOICE), ("not", 0)]


def test_the_outer_run_is_ended_first(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    inner = [*QWAVE, "run", "--type=voice", "--"]
    wrapper = [*place.run("--type=background", "--name=outer"), *inner]
    speaker = Speaker(left, right.ipv4, service, wrapper)
    speaker.say("in both")
    outer, _ = programs_of(service)
    assert outer.name == "outer"
    status, out, err = finished(left, [*QWAVE, "attach", "--end", str(outer.number)], service)
    assert (status, err) == (0, "")
    assert "cannot be removed yet: processes or other cgroups are in it" in out
    assert [row.number for row in programs_of(service)] != [outer.number]
    speaker.say("in the inner one")
    speaker.kill()
    until_none(service)
    # Who comes next sweeps up.
    until(lambda: len(place.below()) == 1)
    assert finished(left, [*place.run("--type=voice"), "true"], service) == (0, "", "")
    assert said(wire) == [("in both", VOICE), ("in the inner one", VOICE)]


def test_everything_is_killed_and_nothing_is_left(
    hosts: tuple[Host, Host], place: Ground, wire: Wire
) -> None:
    left, right = hosts
    with public_folder() as folder:
        service = Qwaved(folder, left, CONFIG)
        try:
            service.start()
            beside = Speaker(left, right.ipv4, service, place.entering())
            speaker = Speaker(left, right.ipv4, service, place.run("--type=voice"))
            speaker.say("marked")
            service.kill()
            # Its program in the kernel has gone with it, and the marks with that.
            speaker.say("after the service")
            beside.say("beside")
            speaker.kill()
            assert len(place.below()) <= 1
            service.start()
            assert not programs_of(service)
            again = Speaker(left, right.ipv4, service, place.run("--type=background"))
            again.say("again")
            beside.say("beside again")
            assert len(programs_of(service)) == 1
            assert len(place.below()) == 1
            again.kill()
            until_none(service)
            until(lambda: not place.below())
            beside.kill()
            assert service.stop() == 0
        finally:
            service.close()
    assert said(wire) == [
        ("marked", VOICE),
        ("after the service", 0),
        ("beside", 0),
        ("again", BACKGROUND),
        ("beside again", 0),
    ]


def test_a_service_that_comes_back_takes_its_runs_up(
    hosts: tuple[Host, Host], place: Ground, wire: Wire
) -> None:
    left, right = hosts
    with public_folder() as folder:
        service = Qwaved(folder, left, CONFIG)
        try:
            service.start()
            speaker = Speaker(left, right.ipv4, service, place.run("--type=voice"))
            speaker.say("before")
            (before,) = programs_of(service)
            service.kill()
            service.start()
            speaker.say("after")
            (after,) = programs_of(service)
            assert after.name == before.name
            speaker.kill()
            until_none(service)
            until(lambda: not place.below())
            assert service.stop() == 0
        finally:
            service.close()
    assert said(wire) == [("before", VOICE), ("after", VOICE)]


def test_what_was_left_is_swept_up_by_the_next_run(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left_over = place.path / f"qwave-run-{gone.pid}-17-0123abcd"
    left_over.mkdir()
    assert finished(hosts[0], [*place.run("--type=voice"), "true"], service) == (0, "", "")
    assert not left_over.exists()
    until_none(service)


# Has the kernel take what nobody reads yet, and ends.
HASTY = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.setblocking(False)
sent = 0
try:
    while True:
        sent += sock.send(bytes(10_000))
except BlockingIOError:
    print(sent)
"""


def test_what_the_kernel_sends_for_a_program_that_has_ended(
    hosts: tuple[Host, Host], service: Qwaved, place: Ground, wire: Wire
) -> None:
    left, right = hosts
    with open_socket(right, kind=socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # So that the sender's kernel keeps most of it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        listener.bind((right.ipv4, PORT))
        listener.listen()
        hasty = [sys.executable, "-c", HASTY, right.ipv4, str(PORT)]
        status, out, err = finished(left, [*place.run("--type=voice"), *hasty], service)
        assert (status, err) == (0, "")
        until_none(service)
        # Whatever the service does with runs, it has done it again.
        assert finished(left, [*place.run("--type=background"), "true"], service)[0] == 0
        until_none(service)
        before = wire.count()
        with listener.accept()[0] as peer:
            left_over = int(out)
            while left_over:
                left_over -= len(peer.recv(1 << 20))
            assert peer.recv(1) == b""
        wait_for_end(hosts, PORT)
    assert wire.count() - before > 10
    assert set(wire.marks(PORT)) == {VOICE}, wire.marks(PORT)


# -- services that cannot ---------------------------------------------------------------


def test_a_service_without_the_program(hosts: tuple[Host, Host], place: Ground) -> None:
    left, _ = hosts
    config = '[enforcement]\nbackend = "socket-options"\n[sink]\nenabled = false\n'
    with running(left, config) as service:
        status, out, err = finished(left, [*place.run("--type=voice"), "true"], service)
        assert (status, out) == (125, "")
        assert err.startswith("qwave run: ")
        assert "socket options" in err
        assert place.below() == []


def test_no_service(hosts: tuple[Host, Host], place: Ground, tmp_path: Path) -> None:
    status, out, err = finished(
        hosts[0], [*place.run("--type=voice"), "true"], str(tmp_path / "nobody")
    )
    assert (status, out) == (125, "")
    assert "`qwave service install` sets the service up" in err
    assert place.below() == []


def test_a_service_that_hangs(hosts: tuple[Host, Host], place: Ground, tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        process = start(hosts[0], [*place.run("--type=voice"), "true"], path)
        listener.settimeout(PATIENCE_S)
        with listener.accept()[0] as peer:
            assert peer.recv(4_096)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 130
    assert place.below() == []
