"""`qwave top` on a pseudo-terminal, against a fake service: keys, sizes, colours, ends, lines."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from openqwave.ipc import messages as ms
from tests.unit.fake_service import STATUS, FakeService, Script, fake_service
from tests.unit.terminals import INTERRUPTIBLE, Screen, environment
from tests.unit.test_cli_overview import PATH, flow
from tests.unit.test_cli_refusals import refusal
from tests.unit.test_overview_programs import RULE, RUN

changed = msgspec.structs.replace

# SGR with a colour of whatever kind: the sixteen, their bright ones, and those of 256 and more.
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")

CONGESTED = changed(PATH, host="10.0.1.9", congested=True, congestion_reason="delay rises")
FLOWS = [
    flow(1, program="ffmpeg", sending_bps=3_000_000),
    flow(2, program="obs", sending_bps=8_000_000, contract_bps=9_000_000),
    flow(
        3,
        program="mumble",
        marking="not admitted",
        dscp=None,
        backend="none",
        backend_reason="no rate is admitted yet, so nothing is changed",
    ),
]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[FakeService]:
    script = Script(flows=lambda _: FLOWS, paths=[PATH, CONGESTED])
    with fake_service(tmp_path, script) as service:
        yield service


class Top(Screen):
    """`qwave top` on a terminal of some size."""

    def __init__(
        self,
        service: FakeService,
        *options: str,
        columns: int = 80,
        lines: int = 24,
        more: Mapping[str, str] | None = None,
    ) -> None:
        arguments = ["top", "--interval", "0.1", *options]
        super().__init__(
            arguments, environment(service, **(more or {})), columns=columns, lines=lines
        )

    def leave(self) -> None:
        self.type(b"q")
        assert self.end() == 0
        # The other screen is left, and the cursor given back.
        assert self.text.rindex("\x1b[?1049l") > self.text.rindex("\x1b[?1049h")
        assert self.text.rindex("\x1b[?25h") > self.text.rindex("\x1b[?25l")
        assert "Traceback" not in self.text


def programs(page: str) -> list[str]:
    """The programs of flows that are shown, in order."""
    return [name for name in re.findall(r"\w+", page) if name in ("ffmpeg", "obs", "mumble")]


def is_drawn(page: str, lines: int, heading: str) -> bool:
    """Is a screen of some height drawn anew, from the first line to the last?"""
    rows = page.split("\n")
    return (
        re.match(r"\d\d:\d\d:\d\d  3 flows", rows[0]) is not None
        and rows[1] == "> flows 1-3 of 3 by flow"
        and rows[2] == heading
        and len(rows) == lines
        and rows[-1].startswith("h help  q quit")
        and ("notices" in page) == (lines > 10)
    )


def test_all_of_the_host_is_on_one_screen(served: FakeService) -> None:
    with Top(served) as top:
        page = top.wait_for(
            lambda page: all(
                word in page for word in ("> flows 1-3 of 3", "paths 1-2 of 2", "notices 1-1 of 1")
            )
        )
        assert re.match(r"\d\d:\d\d:\d\d  3 flows  2 paths  1 congested  1 not admitted\n", page)
        assert "   2  alice  obs      4711  audio video    40      9.00   8.00  -" in page
        assert re.search(r"10\.0\.1\.9 .* congested\n", page)
        assert "service: qwaved 0.1, process 4711; 3 flows, 2 paths." in page
        assert top.lines[-1].startswith("h help  q quit  / filter")
        top.leave()


def test_keys_go_from_pane_to_pane(served: FakeService) -> None:
    with Top(served) as top:
        top.wait_for("> flows 1-3")
        for key, words in (
            (b"\t", "> paths"),
            (b"\t", "> refused"),
            (b"\t", "> notices"),
            (b"\t", "> service"),
            (b"\t", "> programs"),
            (b"\t", "> flows"),
            (b"\x1b[Z", "> programs"),
            (b"1", "> flows"),
            (b"2", "> paths"),
            (b"3", "Nothing was refused."),
            (b"4", "> notices"),
            (b"5", "process 4711, for 62 min"),
            (b"6", "No programs are spoken for."),
            (b"h", "this help; Escape leaves it"),
            (b"\x1b", "> programs"),
            (b"?", "> help"),
            (b"q", ""),
        ):
            top.type(key)
            if words:
                top.wait_for(words)
        assert top.end() == 0


def test_rows_are_sorted_and_turned_round(served: FakeService) -> None:
    with Top(served) as top:
        top.wait_for("> flows 1-3 of 3 by flow")
        top.type(b"s")
        page = top.wait_for("by sends")
        top.wait_for(lambda page: programs(page)[:3] == ["obs", "ffmpeg", "mumble"])
        top.type(b"r")
        page = top.wait_for("by sends, reversed")
        top.wait_for(lambda page: programs(page)[:3] == ["ffmpeg", "obs", "mumble"])
        assert "paths 1-2 of 2 by host" in page
        top.type(b"2ss")
        top.wait_for("> paths 1-2 of 2 by held")
        top.leave()


def test_a_filter_is_typed_kept_and_dropped(served: FakeService) -> None:
    with Top(served) as top:
        top.wait_for("> flows 1-3")
        # Keys that mean something else go into the words.
        top.type(b"/")
        top.type(b"obsq")
        page = top.wait_for('flows 0 by flow, with "obsq"')
        assert "No such flows." in page
        top.type(b"\x7f")
        top.wait_for(lambda page: 'with "obs"' in page and programs(page)[:1] == ["obs"])
        top.type(b"\r")
        top.wait_for("h help")
        # And mean it again.
        top.type(b"s")
        page = top.wait_for('> flows 1-1 of 1 by sends, with "obs"')
        assert "ffmpeg" not in page.partition("notices")[0]
        top.type(b"\x1b")
        top.wait_for("> flows 1-3 of 3 by sends")
        top.leave()


def test_frozen_it_stands_and_goes_on_from_there(served: FakeService) -> None:
    with Top(served) as top:
        top.wait_for("> flows 1-3")
        top.type(b" ")
        top.wait_for("FROZEN")
        served.script.flows = lambda _: [*FLOWS, flow(4)]
        # What happened meanwhile is counted.
        page = top.wait_for("+1")
        assert "> flows 1-3 of 3" in page
        assert "3 flows" in page
        # Keys work on what stands.
        top.type(b"s")
        assert "of 3" in top.wait_for("by sends")
        top.type(b" ")
        page = top.wait_for("> flows 1-4 of 4")
        assert "FROZEN" not in page
        top.wait_for("flow 4 began: ffmpeg of alice")
        top.leave()


def test_details_and_zoom(served: FakeService) -> None:
    with Top(served) as top:
        top.wait_for("> flows 1-3")
        assert "udp [::]:5000" not in top.page
        top.type(b"z")
        top.wait_for("    udp [::]:5000 > [2001:db8::2]:5004, 10.0.1.3:9;")
        page = top.wait_for("(b) none: no rate is admitted yet, so nothing is changed.")
        assert "paths" not in page.partition("\n")[2]
        top.type(b"d")
        top.wait_for(lambda page: "udp [::]" not in page)
        top.type(b"\x1b")
        top.wait_for("paths 1-2 of 2")
        top.leave()


def test_the_screen_follows_the_size_of_the_terminal(served: FakeService) -> None:
    with Top(served, columns=120, lines=40) as top:
        top.wait_for("    udp [::]:5000 > ")
        whole = "flow  user   program   pid  type         DSCP  contract  sends  path"
        small = "flow  program  DSCP  contract  sends"
        for columns, lines, heading in (
            (80, 24, whole),
            (40, 10, small),
            (200, 60, whole),
            (40, 10, small),
        ):
            top.resize(columns, lines)
            page = top.wait_for(lambda page: is_drawn(page, lines, heading))  # noqa: B023 - now
            assert max(map(len, page.split("\n"))) <= columns
        assert "   2  obs        40      9.00   8.00" in page
        assert "1 congested" in page
        for key, words in ((b"2", "> paths 1-2"), (b"4", "> notices"), (b"h", "> help, line 1")):
            top.type(key)
            top.wait_for(words)
        # More than there is room for is moved through.
        top.type(b"\x1b[F")
        top.wait_for("lines, for screen readers.")
        top.leave()


def test_what_was_refused_is_sorted_filtered_and_frozen(served: FakeService) -> None:
    served.script.refusals = [
        refusal(1, program="mumble", detail="only 3 Mbit/s are free", times=3, since_ns=1),
        refusal(2, program="obs", name="ERROR_ACCESS_DENIED", code=5, detail="no right to that"),
    ]
    with Top(served) as top:
        page = top.wait_for("> flows 1-3")
        assert "1 not admitted  4 refused\n" in page
        # What was before it began is no notice, and is there.
        assert "no right to that" not in page
        top.type(b"3")
        top.wait_for("> refused 1-2 of 2 by time")
        page = top.wait_for(lambda page: programs(page)[:2] == ["obs", "mumble"])
        assert "    no right to that; to 192.0.2.7; ERROR_ACCESS_DENIED (5)\n" in page
        top.type(b"ss")
        top.wait_for("by user")
        top.type(b"ss")
        top.wait_for("> refused 1-2 of 2 by times")
        top.wait_for(lambda page: programs(page)[:2] == ["mumble", "obs"])
        top.type(b"r")
        top.wait_for(lambda page: programs(page)[:2] == ["obs", "mumble"])
        top.type(b"/denied\r")
        top.wait_for('> refused 1-1 of 1 by times, reversed, with "denied"')
        top.wait_for(lambda page: "mumble" not in page)
        top.type(b" ")
        top.wait_for("FROZEN")
        served.script.refusals = [*served.script.refusals, refusal(3, program="ffmpeg")]
        top.wait_for("+1")
        assert "4 refused" in top.page
        top.type(b"\x1b")
        assert "ffmpeg" not in top.wait_for("> refused 1-2 of 2")
        top.type(b" ")
        top.wait_for("> refused 1-3 of 3")
        top.type(b"d")
        top.wait_for(lambda page: "no right to that" not in page)
        top.type(b"4")
        page = top.wait_for("refused to ffmpeg of alice, process 4711: set rate of flow 3, to")
        assert page.count("refused to") == 1
        # Only what is new is asked for.
        asked = {one.after for one in served.asked if isinstance(one, ms.ListRefusals)}
        assert asked == {0, 2, 3}
        top.leave()


def test_programs_that_are_spoken_for_are_shown(served: FakeService) -> None:
    served.script.programs = [RUN, RULE]
    with Top(served) as top:
        top.wait_for("> flows 1-3")
        top.type(b"6")
        top.wait_for("> programs 1-2 of 2 by number")
        top.wait_for(lambda page: re.search(r"^run 3 +alice +mumble +4711", page, re.M) is not None)
        page = top.wait_for("nobody of that name runs")
        assert "sent 1,200 packets (240 kB)" in page
        top.type(b"/games\r")
        top.wait_for('> programs 1-1 of 1 by number, with "games"')
        top.type(b"\x1b")
        top.wait_for("> programs 1-2 of 2 by number")
        top.type(b"s")
        top.wait_for("> programs 1-2 of 2 by program")
        served.script.programs = [RULE]
        top.wait_for("> programs 1-1 of 1")
        top.type(b"4")
        top.wait_for("run 3 of mumble ended.")
        top.leave()


def test_why_is_there_on_a_small_screen(served: FakeService) -> None:
    served.script.refusals = [
        refusal(n, program="obs", detail="the path has 3.20 Mbit/s to give") for n in range(1, 9)
    ]
    with Top(served, "--no-colour", columns=40, lines=10) as top:
        top.wait_for("> flows")
        top.type(b"3")
        top.wait_for("> refused 1-1 of 8 by time")
        page = top.wait_for("to 192.0.2.7;\n")
        assert re.search(r"^time +user +program +what +flow$", page, re.MULTILINE)
        assert re.search(r"^[-0-9: ]+ +alice +obs +set rate +8$", page, re.MULTILINE)
        assert "    the path has 3.20 Mbit/s to give;\n    to 192.0.2.7;\n" in page
        top.type(b"\x1b[B")
        top.wait_for("> refused 2-2 of 8")
        top.leave()


def test_an_earlier_service_is_shown_all_the_same(served: FakeService) -> None:
    served.script.features = ()
    with Top(served) as top:
        top.wait_for("> flows 1-3")
        top.type(b"3")
        top.wait_for("Nothing was refused.")
        top.leave()


def test_rows_beyond_the_screen_are_moved_to(served: FakeService) -> None:
    served.script.flows = lambda _: [flow(n) for n in range(1, 101)]
    with Top(served, columns=40, lines=10) as top:
        top.wait_for("> flows 1-6 of 100")
        for key, words in (
            (b"\x1b[B", "2-7"),
            (b"j", "3-8"),
            (b"\x1b[6~", "13-18"),
            (b"\x1b[A", "12-17"),
            (b"\x1b[5~", "2-7"),
            (b"\x1b[F", "100-100"),
            (b"\x1b[H", "1-6"),
        ):
            top.type(key)
            top.wait_for(f"> flows {words} of 100")
        top.leave()


@pytest.mark.parametrize(
    ("options", "more", "has_colour"),
    [
        ([], {}, True),
        (["--no-colour"], {}, False),
        (["--no-color"], {}, False),
        ([], {"NO_COLOR": "1"}, False),
    ],
)
def test_colours(
    served: FakeService, options: list[str], more: dict[str, str], has_colour: bool
) -> None:
    with Top(served, *options, more=more) as top:
        top.wait_for("paths 1-2 of 2")
        # What colour says is there in words, too.
        top.wait_for("congested\n")
        top.type(b"/obs")
        top.wait_for('with "obs"')
        top.type(b"\rh")
        top.wait_for("> help")
        top.leave()
        found = COLOUR.findall(top.text)
        assert bool(found) == has_colour, found[:5]


# -- the service ------------------------------------------------------------------------


def test_the_service_may_go_and_come_back(tmp_path: Path) -> None:
    with ExitStack() as first:
        service = first.enter_context(
            fake_service(tmp_path, Script(flows=lambda _: FLOWS, paths=[PATH]))
        )
        top = Top(service)
        with top:
            top.wait_for("> flows 1-3")
            first.close()
            page = top.wait_for(lambda page: "NO SERVICE" in page and "> flows 1-3" in page)
            assert "Below is what was seen at" in page
            # Keys work all the while.
            top.type(b"5")
            top.wait_for("embedded: each by itself, as an ordinary user")
            top.type(b"1")
            service.path.unlink()
            top.wait_for("NO SERVICE: there is no")
            again = Script(flows=lambda _: [flow(9)], status=changed(STATUS, pid=4712))
            with fake_service(tmp_path, again):
                top.wait_for("> flows 1-1 of 1")
                page = top.wait_for("the service was started again: qwaved 0.1, process 4712")
                assert "NO SERVICE" not in page
                top.leave()


def test_it_begins_without_a_service(tmp_path: Path) -> None:
    with fake_service(tmp_path, Script()) as service:
        path = service.path
    path.unlink()
    with Top(service) as top:
        top.wait_for("NO SERVICE: there is no")
        top.type(b"s/x\rh")
        top.wait_for("> help")
        top.leave()


def test_a_service_that_does_not_answer_holds_up_no_key(served: FakeService) -> None:
    served.script.answers = {ms.ListPaths: None}
    with Top(served) as top:
        top.wait_for("asking the service")
        began_s = time.monotonic()
        top.type(b"h")
        top.wait_for("> help")
        top.type(b"4")
        top.wait_for("> notices 0")
        # One question at a time, however long the answer takes.
        assert [type(one) for one in served.asked] == [ms.AskStatus, ms.ListFlows, ms.ListPaths]
        top.leave()
        assert time.monotonic() - began_s < 4


def test_names_of_others_do_nothing_to_the_terminal(served: FakeService) -> None:
    evil = "\x1b]0;x\x07\x1b[2J漢字" * 10
    served.script.flows = lambda look: [flow(1, program=evil, user=evil), flow(look + 2)]
    with Top(served) as top:
        page = top.wait_for("\\x1b]0;x")
        assert "\x1b]0;x" not in top.text
        assert all(line.count("  ") for line in page.split("\n")[2:4])
        top.leave()


# -- ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"q", b"\x03", b"\x11"])
def test_keys_that_end_it(served: FakeService, key: bytes) -> None:
    with Top(served) as top:
        top.wait_for("> flows 1-3")
        top.type(key)
        assert top.end() == 0
        assert top.text.rindex("\x1b[?1049l") > top.text.rindex("\x1b[?1049h")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_in_order(served: FakeService, number: signal.Signals) -> None:
    with Top(served) as top:
        top.wait_for("> flows 1-3")
        top.process.send_signal(number)
        assert top.end() == 0
        assert top.text.rindex("\x1b[?1049l") > top.text.rindex("\x1b[?1049h")
        assert "Traceback" not in top.text


def test_it_ends_when_its_time_is_over(served: FakeService) -> None:
    with Top(served, "--for", "0.5") as top:
        top.wait_for("> flows 1-3")
        assert top.end() == 0


def test_stopped_and_continued_it_draws_again(served: FakeService) -> None:
    with Top(served) as top:
        top.wait_for("> flows 1-3")
        top.type(b"\x1a")
        _, status = os.waitpid(top.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        while top.is_readable(0.2):
            assert top.read()
        assert "\x1b[?1049l" in top.text
        top.process.send_signal(signal.SIGCONT)
        top.wait_for(lambda _: top.text.count("\x1b[?1049h") == 2)
        top.wait_for("> flows 1-3")
        top.leave()


# -- without a screen -------------------------------------------------------------------


def run(service: FakeService, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "openqwave.cli", "top", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env=environment(service, **more),
        timeout=60,
        check=False,
    )


def test_where_there_is_no_terminal_it_says_what_to_use(served: FakeService) -> None:
    done = run(served)
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input is none: use `qwave flows --watch`" in done.stderr
    assert served.asked == []


def test_a_terminal_that_can_nothing_is_told_of_plain(served: FakeService) -> None:
    with Top(served, more={"TERM": "dumb"}) as top:
        assert top.end() == 2
        assert "use `qwave top --plain`" in top.text
        assert "\x1b" not in top.text


def test_output_in_a_file_is_no_terminal(served: FakeService) -> None:
    script = "import sys\nsys.stdout = open('/dev/null', 'w')\n" + INTERRUPTIBLE
    done = subprocess.run(
        [sys.executable, "-c", script, "top", "--interval", "nan"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "is not from 0.1" in done.stderr
    with Top(served, "--for", "x") as top:
        assert top.end() == 2


def test_plain_says_what_there_is_and_then_what_changes(served: FakeService) -> None:
    def flows(look: int) -> list[ms.FlowRow]:
        if look < 2:
            return FLOWS
        return [*FLOWS[1:], changed(FLOWS[1], flow=7, sending_bps=look)]

    served.script.flows = flows
    served.script.paths = [PATH]
    done = run(served, "--plain", "--interval", "0.1", "--for", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[9:] for line in lines] == [
        "service: qwaved 0.1, process 4711; 3 flows, 1 path.",
        "flow 1: ffmpeg of alice, process 4711; audio video; DSCP 40; sends 3.00 Mbit/s; "
        "to [2001:db8::2]:5004 and 1 more; by socket options.",
        "flow 2: obs of alice, process 4711; audio video; DSCP 40; contract 9.00 Mbit/s; "
        "sends 8.00 Mbit/s; to [2001:db8::2]:5004 and 1 more; by socket options.",
        "flow 3: mumble of alice, process 4711; audio video; marks as the program makes them; "
        "not admitted: no rate is admitted yet, so nothing is changed; "
        "to [2001:db8::2]:5004 and 1 more; nothing is applied.",
        "path 10.0.1.2: measured; carries 20.0 Mbit/s, 12.3 free, 4.00 held, 1.2 s ago; "
        "2 flows; experiments sent 1.23 MB.",
        "flow 1 of ffmpeg ended.",
        "flow 7 began: obs of alice, process 4711; audio video; DSCP 40; "
        "contract 9.00 Mbit/s; sends <0.01 Mbit/s; to [2001:db8::2]:5004 and 1 more; "
        "by socket options.",
    ]


def test_plain_says_what_was_refused(served: FakeService) -> None:
    first = refusal(1, program="obs", flow=2, time_ns=time.time_ns())

    def flows(look: int) -> list[ms.FlowRow]:
        if look == 2:
            again = changed(first, number=3, times=12, since_ns=first.time_ns)
            later = changed(first, number=2, program="", request="hello", flow=None, host=None)
            served.script.refusals = [later, again]
        elif look == 4:
            served.script.refusals = [changed(served.script.refusals[-1], number=4, times=13)]
        return []

    served.script = Script(flows=flows, refusals=[first])
    done = run(served, "--plain", "--interval", "0.1", "--for", "1")
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if "refused" in line]
    # Unless it is midnight, when a day stands there.
    assert [re.sub(r"(\d\d-\d\d )?\d\d(:\d\d)+", "CLOCK", line) for line in lines] == [
        "CLOCK refused to obs of alice, process 4711: set rate of flow 2, to 192.0.2.7: "
        "the path has 3.20 Mbit/s to give (ERROR_NETWORK_BUSY).",
        "CLOCK refused to ? of alice, process 4711: connect: "
        "the path has 3.20 Mbit/s to give (ERROR_NETWORK_BUSY).",
        "CLOCK refused to obs of alice, process 4711: set rate of flow 2, to 192.0.2.7: "
        "the path has 3.20 Mbit/s to give (ERROR_NETWORK_BUSY; 12 times since CLOCK).",
    ]


def test_plain_on_a_terminal_moves_no_cursor(served: FakeService) -> None:
    served.script.flows = lambda _: [flow(1, program="\x1b[2J")]
    with Top(served, "--plain") as top:
        top.wait_for("path 10.0.1.9: congested; delay rises;")
        top.type(b"\x03")
        assert top.end() == 0
        assert "\x1b" not in top.text
        assert "\\x1b[2J" in top.text


def test_plain_goes_on_without_a_service(tmp_path: Path) -> None:
    with fake_service(tmp_path, Script()) as service:
        pass
    service.path.unlink()
    done = run(service, "--plain", "--interval", "0.1", "--for", "0.5")
    assert done.returncode == 0
    assert [line[9:] for line in done.stdout.splitlines()] == [
        f"no service: there is no {service.path}; trying again."
    ]


# -- what it costs others ---------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--version"], ["flows"], ["status"], ["top", "--plain"]])
def test_only_the_full_screen_loads_its_library(served: FakeService, arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from openqwave.cli.main import run\n"
        "try:\n"
        "    run()\n"
        "finally:\n"
        "    sys.stderr.write(' '.join({one.partition('.')[0] for one in sys.modules}))\n"
    )
    more = ["--for", "0.1"] if arguments[0] == "top" else []
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, *more],
        capture_output=True,
        text=True,
        env=environment(served),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "openqwave" in done.stderr
    assert set(done.stderr.split()) & {"textual", "asyncio"} == set()
