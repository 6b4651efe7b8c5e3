"""Tests under another kernel than this machine's, which may lack fq, netem, VLAN or Wi-Fi.

    python -m tests.other_kernel test [-- PYTEST ARGUMENTS]
    python -m tests.other_kernel run [--clock virtual] -- COMMAND [ARGUMENT ...]
    python -m tests.other_kernel build

The kernel is User Mode Linux, an ordinary program: no rights are needed, nothing of this machine
is changed. It is built once, in 5 to 15 minutes, into ~/.cache/openqwave; OPENQWAVE_UML names one
that is there already. A guest starts in a second and sees this machine's files; what it writes is
discarded. With `--clock virtual` its time jumps over every wait.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.other_kernel import build, guest
from tests.other_kernel.guest import Clock

ROOT = Path(__file__).parents[2]

# What is run, by how time passes. Timing is tested in virtual time, where it is exact; what only
# happens or not, in real time. Of the other folders, tests that ask for what kernels may lack.
TIER: dict[Clock, tuple[str, ...]] = {
    Clock.REAL: (
        "tests/kernel/test_attachment.py",
        "tests/kernel/test_egress_program.py",
        "tests/kernel/test_nftables.py",
        "tests/kernel/test_program_marks.py",
        "tests/kernel/test_restore.py",
        "tests/kernel/test_sequences_tools.py",
        "tests/kernel/test_shaping_pool.py",
        "tests/kernel/test_socket_release.py",
        "tests/kernel/test_udp_pacing.py",
        "tests/other_kernel/test_vlan.py",
        "tests/other_kernel/test_wifi.py",
    ),
    Clock.VIRTUAL: (
        "tests/kernel/test_program_rates.py",
        "tests/kernel/test_shaping_fq.py",
        "tests/kernel/test_shaping_rates.py",
        "tests/other_kernel/test_departures.py",
        "tests/other_kernel/test_fq.py",
        "tests/other_kernel/test_meter.py",
        "tests/other_kernel/test_netem.py",
    ),
}

# For one run of pytest; seen are 1 to 2 minutes.
LIMIT_S = 1_200.0

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    asked = parser().parse_args(arguments)
    # Asked to end, it ends what it has started, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        match asked.verb:
            case "build":
                print(build.build(asked.linux, asked.jobs))
                return 0
            case "run":
                return guest.run(
                    build.build(asked.linux, asked.jobs),
                    asked.command,
                    clock=Clock(asked.clock),
                    memory=asked.memory,
                    limit_s=asked.limit,
                )
            case _:
                return test(asked.linux, asked.jobs, asked.rest)
    except build.CannotBuildError as error:
        build.say(str(error))
        return 1
    except KeyboardInterrupt:
        build.say("interrupted; the guest is gone, a build goes on where it was")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    top = argparse.ArgumentParser(
        prog="python -m tests.other_kernel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--linux", choices=build.VERSIONS, default=build.VERSIONS[0], help="the kernel's version"
    )
    common.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="files compiled at once, where it has to be built",
    )
    verbs = top.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", parents=[common], help="build the kernel, and say where it is")
    one = verbs.add_parser("run", parents=[common], help="run a command under it")
    one.add_argument("--clock", choices=[clock.value for clock in Clock], default="real")
    one.add_argument("--memory", default="1G", help="the guest's")
    one.add_argument("--limit", type=float, default=600.0, help="seconds, then it is ended")
    one.add_argument("command", nargs="+", help="a program and its arguments, or a shell's line")
    tier = verbs.add_parser("test", parents=[common], help="run the tests that want it")
    tier.add_argument("rest", nargs="*", metavar="ARGUMENT", help="for pytest, after --")
    return top


def test(version: str, jobs: int, rest: Sequence[str]) -> int:
    """Run the tier; where no kernel is to be had that is said, and is no failure."""
    try:
        kernel = build.build(version, jobs)
    except build.BuildFailedError:
        raise
    except build.CannotBuildError as error:
        build.say(f"skipped, nothing was tested: {error}")
        return 0
    worst = 0
    for clock, places in TIER.items():
        if not places:
            continue
        build.say(f"Linux {version}, {clock.value} time")
        status = guest.run(
            kernel,
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                f"--color={'yes' if sys.stdout.isatty() else 'no'}",
                # A guest's system calls are slow.
                "--timeout=300",
                *places,
                *rest,
            ],
            clock=clock,
            limit_s=LIMIT_S,
            environment={"COLUMNS": str(shutil.get_terminal_size().columns)},
        )
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
