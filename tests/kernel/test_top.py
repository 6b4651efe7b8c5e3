"""`qwave top` on a pseudo-terminal, looking at the real service and real flows in a lab.

What keys do to which rows is asked of a service that says what a test wrote down
(`tests/unit/test_cli_top.py`); here it is whether all of it holds together.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import openqwave as qw
from openqwave.cli.overview.command import Options, run_refusals
from openqwave.lab.capture import Direction
from openqwave.lab.topology import Host
from tests.kernel.data_plane_stage import serving
from tests.kernel.run_stage import CONFIG as RUNS
from tests.kernel.run_stage import ground, start
from tests.kernel.service_stage import (
    NOBODY,
    TIMEOUT_S,
    Actor,
    Qwaved,
    public_folder,
    reaching,
)
from tests.unit.terminals import Screen, Terminal, environment_at
from tests.unit.test_cli_top import COLOUR

pytestmark = [pytest.mark.kernel, pytest.mark.root]

PORT = 6_000
# Sends a datagram, and waits until it is told to end.
SAY = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
sys.stdin.read()
"""
NO_SINK = "[sink]\nenabled = false\n"
INTERVAL = ["--interval", "0.2"]
# Sizes with the last line of a screen, and the heading of flows.
KEYS = {
    (80, 24): "h help  q quit  / filter  s sort  Tab next  space freeze  r reverse  d details",
    (40, 10): "h help  q quit  / filter  s sort  z zoom",
}
WHOLE = "flow  user +program +pid +type +DSCP  contract  sends  path"
SMALL = "flow +program( +pid)?( +type)? +DSCP  contract  sends"


class Top(Screen):
    """`qwave top` on a terminal of some size."""

    # Ten times what it takes on a busy machine.
    patience_s = 60.0

    def __init__(self, service: Qwaved, *options: str, columns: int = 120, lines: int = 40) -> None:
        super().__init__(
            ["top", *INTERVAL, *options],
            environment_at(service.socket),
            columns=columns,
            lines=lines,
        )

    def press(self, keys: bytes, words: str) -> str:
        """Press keys, and wait until words stand there."""
        self.type(keys)
        return self.wait_for(words)

    def wait_for_line(self, pattern: str) -> str:
        """Wait until a line of that form is there; return the page."""
        return self.wait_for(lambda page: re.search(pattern, page, re.MULTILINE) is not None)

    def sized(self, size: tuple[int, int], title: str, heading: str) -> None:
        """Give the terminal a size, and wait until it is drawn for that."""
        self.resize(*size)
        self.wait_for(lambda page: is_drawn(page, size, title, heading))

    def leave(self) -> None:
        self.type(b"q")
        assert self.end() == 0
        # The other screen is left, and the cursor given back.
        assert self.text.rindex("\x1b[?1049l") > self.text.rindex("\x1b[?1049h")
        assert self.text.rindex("\x1b[?25h") > self.text.rindex("\x1b[?25l")
        assert "Traceback" not in self.text


@pytest.fixture
def service(pair: tuple[Host, Host]) -> Iterator[Qwaved]:
    """The service of the left host; tests may end it and start it again."""
    with public_folder() as folder:
        service = Qwaved(folder, pair[0], NO_SINK)
        try:
            yield service.start()
            if service.process is not None and service.process.poll() is None:
                assert service.stop() == 0, service.log.read_text()
            assert "Traceback" not in service.log.read_text(), service.log.read_text()
        finally:
            service.close()


# -- what programs do, in actors ----------------------------------------------------------


def begin(state: dict[str, Any], host: str, kind: str) -> int:
    """Open a handle, and have a flow of a socket that goes to a host."""
    state["qos"] = qw.open(service=True)
    state["socket"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    state["flow"] = state["qos"].add_socket(
        state["socket"], (host, PORT), traffic_type=qw.TrafficType[kind], adaptive=False
    )
    return int(state["flow"].id)


def send(state: dict[str, Any], host: str) -> None:
    state["socket"].sendto(b"x", (host, PORT))


def want_a_mark(state: dict[str, Any]) -> str:
    """Ask for an exact code point; what is told instead."""
    try:
        state["flow"].set_dscp(46)
    except qw.AccessDenied as error:
        return str(error.detail)
    raise AssertionError("it was not refused")


def refusals_seen(_: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever JSON holds
    """What `qwave refusals` shows."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run_refusals(Options(as_json=True)) == 0
    return json.loads(out.getvalue())


def mark_on_the_wire(actor: Actor, far: Host) -> int:
    """The code point that the next packet of the actor carries at the other host."""
    with far.capture(Direction.INCOMING) as capture:
        actor.call(send, far.ipv4)
        (packet,) = capture.wait_for(1, TIMEOUT_S, lambda seen: seen.destination_port == PORT)
    return packet.dscp


def unfolded(page: str) -> str:
    """A page as one line of words."""
    return " ".join(page.split())


# -- tests --------------------------------------------------------------------------------


def test_flows_and_their_marks_come_and_go(service: Qwaved, pair: tuple[Host, Host]) -> None:
    near, far = pair
    with Top(service) as top, Actor(NOBODY, host=near, service=service.socket) as user:
        top.wait_for("No flows.")
        number = user.call(begin, far.ipv4, "VOICE")
        top.wait_for_line(rf"^ +{number}  nobody  \S+ +{user.pid}  voice  +56 ")
        # What is shown is what packets carry.
        assert mark_on_the_wire(user, far) == 56
        top.wait_for(
            lambda page: re.search(rf"> {far.ipv4}:{PORT};.* queue 6;", unfolded(page)) is not None
        )
        top.wait_for(f"flow {number} began: ")
        user.kill()
        top.wait_for("No flows.")
        top.wait_for_line(rf"flow {number} of \S+ ended\.$")
        top.leave()


def test_what_is_refused_is_there_with_its_reason(service: Qwaved, pair: tuple[Host, Host]) -> None:
    near, far = pair
    with (
        Actor(NOBODY, host=near, service=service.socket) as user,
        Actor(host=near, service=service.socket) as root,
    ):
        number = user.call(begin, far.ipv4, "VOICE")
        root.call(begin, far.ipv4, "CONTROL")
        with Top(service) as top:
            top.wait_for("> flows 1-2 of 2")
            why = user.call(want_a_mark)
            assert "needs effective uid 0" in why
            told = f"process {user.pid}: set dscp of flow {number}, to {far.ipv4}:{PORT}: {why}"
            top.wait_for(lambda page: f"{told} (ERROR_ACCESS_DENIED)." in unfolded(page))
            top.wait_for("2 flows  0 paths  1 refused\n")
            top.press(b"3", "> refused 1-1 of 1 by time")
            top.wait_for_line(rf" nobody +\S+ +{user.pid}  set dscp +{number}$")
            below = f"{user.pid} set dscp {number} {why}; to {far.ipv4}:{PORT};"
            top.wait_for(lambda page: f"{below} ERROR_ACCESS_DENIED (5) " in unfolded(page))
            # Again in the same words it is the same one.
            user.call(want_a_mark)
            top.wait_for_line(r"ERROR_ACCESS_DENIED \(5\); 2 times since ")
            assert "> refused 1-1 of 1" in top.page
            # On every screen; where it does not fit it says so.
            for size in KEYS:
                top.sized(size, "> refused 1-1 of 1", r"time +(user +)?program +.*what.*")
                top.wait_for(lambda page: " ".join(why.split()[:9]) in unfolded(page))
            top.wait_for(lambda page: page.split("\n")[-2].endswith("…"))
            top.leave()
        # Others are not told.
        seen = root.call(refusals_seen)
        assert (seen["scope"], len(seen["refusals"])) == ("all", 1)
        seen = user.call(refusals_seen)
        assert (seen["scope"], [row["detail"] for row in seen["refusals"]]) == ("own", [why])
        with Actor(1, host=near, service=service.socket) as other:
            assert other.call(refusals_seen)["refusals"] == []


def test_keys_sort_filter_and_freeze(service: Qwaved, pair: tuple[Host, Host]) -> None:
    near, far = pair
    with (
        Actor(host=near, service=service.socket) as root,
        Actor(NOBODY, host=near, service=service.socket) as user,
        Actor(1, host=near, service=service.socket) as late,
        Top(service) as top,
    ):
        root.call(begin, far.ipv4, "CONTROL")
        user.call(begin, far.ipv4, "VOICE")
        top.wait_for("> flows 1-2 of 2 by flow")
        top.wait_for(lambda page: users(page) == ["root", "nobody"])
        for name in ("sends", "contract", "trouble", "program", "user"):
            top.press(b"s", f"> flows 1-2 of 2 by {name}")
        top.wait_for(lambda page: users(page) == ["nobody", "root"])
        top.press(b"r", "by user, reversed")
        top.wait_for(lambda page: users(page) == ["root", "nobody"])
        top.press(b"/voice", '> flows 1-1 of 1 by user, reversed, with "voice"')
        top.wait_for(lambda page: users(page) == ["nobody"])
        top.press(b"\x1b", "> flows 1-2 of 2")
        top.press(b" ", "FROZEN")
        late.call(begin, far.ipv4, "BACKGROUND")
        # What happens meanwhile is counted, and not shown.
        page = top.wait_for_line(r"^FROZEN \d\d:\d\d:\d\d \+1  2 flows")
        assert users(page) == ["root", "nobody"]
        top.press(b" ", "> flows 1-3 of 3")
        top.wait_for(
            lambda page: users(page) == ["root", "nobody", "daemon"] and "FROZEN" not in page
        )
        top.leave()


def test_every_size_and_no_colour(service: Qwaved, pair: tuple[Host, Host]) -> None:
    near, far = pair
    with (
        Actor(NOBODY, host=near, service=service.socket) as user,
        Top(service, "--no-colour") as top,
    ):
        user.call(begin, far.ipv4, "VOICE")
        top.wait_for("> flows 1-1 of 1")
        for size, heading in (((80, 24), WHOLE), ((40, 10), SMALL), ((80, 24), WHOLE)):
            top.sized(size, "> flows 1-1 of 1", heading)
            # There is one pane at a time where there is no room for more.
            top.wait_for(lambda page: ("notices 1-" in page) == (size[1] == 24))  # noqa: B023 - now
        user.call(want_a_mark)
        for key, words in (
            (b"2", "> paths"),
            (b"3", "> refused 1-1"),
            (b"4", "> notices"),
            (b"5", "> service"),
            (b"h", "> help"),
        ):
            top.press(key, words)
        top.leave()
        assert COLOUR.findall(top.text) == []
        assert "56" in top.text


def test_the_service_is_killed_and_comes_back(service: Qwaved, pair: tuple[Host, Host]) -> None:
    near, far = pair
    with Top(service) as top:
        with Actor(NOBODY, host=near, service=service.socket) as user:
            user.call(begin, far.ipv4, "VOICE")
            user.call(want_a_mark)
            top.wait_for("> flows 1-1 of 1")
            top.wait_for("1 refused")
            service.kill()
            # What was seen last is there, and keys go on.
            top.wait_for(lambda page: "NO SERVICE: " in page and "> flows 1-1 of 1" in page)
            top.press(b"5", "embedded: each by itself, as an ordinary user")
            top.press(b"3", "> refused 1-1 of 1")
            top.type(b"1")
        service.start()
        assert service.process is not None
        again = f"the service was started again: qwaved {version_of(service)}, process "
        top.wait_for(f"{again}{service.process.pid}")
        top.wait_for(lambda page: "NO SERVICE" not in page)
        # The new one has none of it.
        top.wait_for("1 flow ended with the service")
        top.wait_for("No flows.")
        top.press(b"3", "Nothing was refused.")
        with Actor(NOBODY, host=near, service=service.socket) as user:
            user.call(begin, far.ipv4, "VOICE")
            user.call(want_a_mark)
            top.wait_for("> refused 1-1 of 1")
        top.leave()


def test_programs_that_are_spoken_for(pair: tuple[Host, Host]) -> None:
    near, far = pair
    with ground() as place, serving(near, RUNS) as service, Top(service) as top:
        top.press(b"6", "No programs are spoken for.")
        argv = [*place.run("--type", "voice", "--rate", "2mbit"), sys.executable, "-c", SAY]
        with start(near, [*argv, far.ipv4, str(PORT)], service, stdin=subprocess.PIPE) as process:
            top.wait_for_line(r"^run 1 +root +\S+ +\d+ +voice +56 +2\.00 +1$")
            top.wait_for("sent 1 packet (")
            process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0
        top.wait_for("No programs are spoken for.")
        top.press(b"4", "> notices")
        top.wait_for_line(r"run 1 of \S+ is new: of root; process \d+; voice; DSCP 56; rate 2\.00 ")
        top.wait_for_line(r"run 1 of \S+ ended\.$")
        top.leave()


def test_plain_lines_say_the_same(service: Qwaved, pair: tuple[Host, Host]) -> None:
    near, far = pair
    arguments = ["top", "--plain", *INTERVAL]
    plain = Terminal(arguments, environment_at(service.socket), columns=1_000)
    try:
        plain.read_until(1, "0 flows, 0 paths.")
        with Actor(NOBODY, host=near, service=service.socket) as user:
            number = user.call(begin, far.ipv4, "VOICE")
            plain.read_until(1, f"flow {number} began: ")
            plain.read_until(1, f"process {user.pid}; voice; DSCP 56; to {far.ipv4}:{PORT}; by ")
            why = user.call(want_a_mark)
            plain.read_until(1, f"set dscp of flow {number}, to {far.ipv4}:{PORT}: {why}")
            service.kill()
            plain.read_until(1, "no service: ")
        service.start()
        plain.read_until(1, "the service was started again: ")
        plain.process.send_signal(signal.SIGINT)
        assert plain.end() == 0
    finally:
        if plain.process.poll() is None:
            plain.process.kill()
            plain.end()
    # Nothing moves the cursor, and everything is a line with a time.
    assert "\x1b" not in plain.text
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in plain.text.splitlines())


def users(page: str) -> list[str]:
    """The users of flows that are shown, in order."""
    return re.findall(r"^ +\d+  (root|nobody|daemon) ", page, re.MULTILINE)


def is_drawn(page: str, size: tuple[int, int], title: str, heading: str) -> bool:
    """Is a screen of some size drawn anew, from the first line to the last?"""
    rows = page.split("\n")
    return (
        re.match(r"\d\d:\d\d:\d\d  \d flows? ", rows[0]) is not None
        and rows[1].startswith(title)
        and re.fullmatch(heading, rows[2]) is not None
        and len(rows) == size[1]
        and max(map(len, rows)) <= size[0]
        and rows[-1] == KEYS[size]
    )


def version_of(service: Qwaved) -> str:
    with reaching(service.socket):
        return str(service.show("status")["version"])
