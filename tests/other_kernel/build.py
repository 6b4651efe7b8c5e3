"""Makes the tests' kernel: Debian's source, our configuration, one executable file.

Model. User Mode Linux (UML) is the Linux kernel compiled as an ordinary program: it needs no
virtual machine, no rights and no modules, and brings with it everything that the machine's own
kernel may lack. Debian has its ready-made package of an old version only, which ends at once on
processors with AMX: UML saves a process's floating-point state in a buffer of 2,696 bytes, and
those processors' is 11,008 bytes long. The buffer's size is one number in the source (kernels from
6.13 on ask at run time), so it is measured on this machine and written there.

The result is kept below ~/.cache under a name made of all it depends on: the version, the
configuration, the size. A build that was interrupted goes on where it was.

Sources: Documentation/virt/uml/user_mode_linux_howto_v2.rst, arch/x86/um/user-offsets.c.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

CONFIGURATION = Path(__file__).with_name("kernel.config")

# An executable that is there already, for those who have one.
READY = "OPENQWAVE_UML"

# Versions that Debian has the source of, the ordinary one first. 6.1 is for what older kernels
# do: no TCX (6.6), no cookie of a network namespace on the way out, no departure times that fq
# takes from UDP sockets (6.7).
VERSIONS = ("6.12", "6.1")

# What has to be on the machine, and the Debian package of each.
TOOLS = {
    "gcc": "gcc",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "xz": "xz-utils",
    "tar": "tar",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
}
HEADER = Path("/usr/include/stdio.h")  # Of libc6-dev, without which gcc compiles nothing.

# Source and objects together take 2.1 GB.
ROOM_BYTES = 3 << 30

# What `make` compiles, counted once; for the progress that is shown.
FILES = 1_800

# How often progress is told where it cannot be rewritten, in seconds.
EVERY_S = 30.0

FP_SIZE_FILE = "arch/x86/um/user-offsets.c"
FP_SIZE_LINE = "DEFINE_LONGS(HOST_FP_SIZE, 2696)"
FP_BYTES = 2_696

# <linux/ptrace.h>, <linux/elf.h>
PTRACE_ATTACH, PTRACE_GETREGSET, NT_X86_XSTATE = 16, 0x4204, 0x202


class CannotBuildError(Exception):
    """This machine cannot build the kernel; the text says why and what would help."""


class BuildFailedError(CannotBuildError):
    """Something should have worked and did not: nothing to be passed over."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a kernel is made of.

    Attributes:
        version: Of Linux, as in Debian's package linux-source-VERSION.
        configuration: The lines that are added to UML's own defaults.
        fp_bytes: Room for this processor's floating-point state.
    """

    version: str
    configuration: str
    fp_bytes: int

    @property
    def name(self) -> str:
        """The same for the same kernel, and only for it."""
        parts = (self.version, self.configuration, str(self.fp_bytes))
        return f"uml-{self.version}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"

    @property
    def wanted(self) -> list[str]:
        """The lines of the configuration that have to be there when it is made."""
        return [line for line in self.configuration.splitlines() if is_setting(line)]


def is_setting(line: str) -> bool:
    """Tell whether a line of a configuration sets something, on or off."""
    return line.startswith("CONFIG_") or (
        line.startswith("# CONFIG_") and line.endswith("is not set")
    )


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where kernels are kept."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/root"), ".cache")
    return Path(base, "openqwave")


def ready(version: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the kernel if it is there: the one that the environment names, or one built before.

    Raises:
        BuildFailedError: The environment names something that cannot be run.
    """
    if named := environment.get(READY):
        path = Path(named)
        if not os.access(path, os.X_OK) or path.is_dir():
            raise BuildFailedError(f"{READY} names {named}, which is no program")
        return path
    if platform.machine() != "x86_64":
        return None
    path = cache_folder(environment) / recipe(version).name / "linux"
    return path if path.exists() else None


def recipe(version: str) -> Recipe:
    """What the kernel of this version is made of on this machine."""
    return Recipe(
        version,
        CONFIGURATION.read_text(encoding="ascii"),
        # Never less than there was: on most processors it stays, and so does the kernel's name.
        max(FP_BYTES, floating_point_bytes()),
    )


def obstacle(folder: Path) -> str | None:
    """Say why the kernel cannot be built here, and what would help; None if it can be."""
    if platform.machine() != "x86_64":
        return f"User Mode Linux is for x86_64, this machine is {platform.machine()}"
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if not HEADER.exists():
        missing.append("libc6-dev")
    if {"apt", "dpkg"} & set(missing):
        return (
            "the kernel's source comes from Debian's archive, and this system has no apt; "
            f"name a User Mode Linux of your own in {READY}"
        )
    if missing:
        return f"missing: {' '.join(missing)} (sudo apt-get install {' '.join(missing)})"
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < ROOM_BYTES:
        return f"{folder} has less than {ROOM_BYTES >> 30} GB free; set XDG_CACHE_HOME to a place"
    return None


def build(version: str, jobs: int, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the kernel, after building it where it is not there; minutes, shown on stderr.

    Args:
        version: Of Linux; one of `VERSIONS`.
        jobs: How many files may be compiled at once.
        environment: For the folder of the cache, and a kernel that is ready.

    Raises:
        CannotBuildError: What is missing here.
        BuildFailedError: What went wrong, and where it is written down.
    """
    if found := ready(version, environment):
        return found
    cache = cache_folder(environment)
    if reason := obstacle(cache):
        raise CannotBuildError(reason)
    kernel = recipe(version)
    folder = cache / kernel.name
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder / "lock"):
        target = folder / "linux"
        if target.exists():  # Another process has built it while this one waited.
            return target
        begun_s = time.monotonic()
        source = unpack(kernel, folder)
        configure(kernel, source, folder / "build.log")
        compile_all(source, jobs, folder / "build.log")
        # The name appears with the whole file behind it.
        shutil.copy2(source / "linux", folder / "linux.new")
        (folder / "linux.new").rename(target)
        shutil.rmtree(source)
        took_s = time.monotonic() - begun_s
        say(f"built in {took_s / 60:.0f} min {took_s % 60:.0f} s: {target}")
    return target


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process; wait for another's build."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is building the kernel: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unpack(kernel: Recipe, folder: Path) -> Path:
    """Fetch the source and lay it out with the buffer's size corrected; once."""
    source = folder / "source"
    if source.exists():
        return source
    package = f"linux-source-{kernel.version}"
    fresh = folder / "source.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    say(f"fetching {package} (150 MB)")
    fetch(package, fresh)
    (archive,) = fresh.glob("*.deb")
    say("unpacking it")
    log = folder / "build.log"
    log.write_bytes(b"")
    run(["dpkg-deb", "--extract", archive.name, "."], fresh, log)
    archive.unlink()
    (tree,) = fresh.glob("usr/src/*.tar.xz")
    run(
        ["tar", "--extract", f"--file={tree.relative_to(fresh)}", "--strip-components=1"],
        fresh,
        log,
    )
    tree.unlink()
    offsets = fresh / FP_SIZE_FILE
    text = offsets.read_text(encoding="utf-8")
    if FP_SIZE_LINE not in text:
        raise BuildFailedError(f"{FP_SIZE_FILE} of {package} is not as expected: {FP_SIZE_LINE}")
    offsets.write_text(
        text.replace(FP_SIZE_LINE, FP_SIZE_LINE.replace(str(FP_BYTES), str(kernel.fp_bytes))),
        encoding="utf-8",
    )
    fresh.rename(source)
    return source


def fetch(package: str, folder: Path) -> None:
    """Download a package of Debian's, as anybody; as root, ask for the list of packages first."""
    # Root would otherwise hand the download to a user who may not write here.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=", "download", package]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 and os.geteuid() == 0:
        update = ["apt-get", "-qq", "update"]
        subprocess.run(update, capture_output=True, check=False)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise CannotBuildError(
            f"apt-get cannot fetch {package}: {said[-1] if said else done.returncode} "
            f"(try: sudo apt-get update; or name a User Mode Linux of your own in {READY})"
        )


def configure(kernel: Recipe, source: Path, log: Path) -> None:
    """Make UML's default configuration with ours on top, and see that it has come out so."""
    say("configuring")
    run(["make", "ARCH=um", "defconfig"], source, log)
    with (source / ".config").open("a", encoding="ascii") as file:
        file.write(kernel.configuration)
    run(["make", "ARCH=um", "olddefconfig"], source, log)
    made = set((source / ".config").read_text(encoding="ascii").splitlines())
    if missing := [line for line in kernel.wanted if line not in made]:
        raise BuildFailedError(f"Linux {kernel.version} does not take: {', '.join(missing)}")


def compile_all(source: Path, jobs: int, log: Path) -> None:
    """Run make, as politely as can be, and show how far it is."""
    command = ["nice", "make", "ARCH=um", f"-j{jobs}", "linux"]
    with log.open("ab") as file:
        make = subprocess.Popen(
            command,
            cwd=source,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )
        try:
            assert make.stdout is not None
            with Progress() as progress:
                for line in make.stdout:
                    file.write(line)
                    if re.match(rb"\s+(CC|AS|HOSTCC|LD|AR)\s", line):
                        progress.one_more()
            status = make.wait()
        except BaseException:
            # Its own compilers are in its session; what is done stays for the next time.
            os.killpg(make.pid, signal.SIGTERM)
            make.wait()
            raise
    if status != 0:
        raise failed(command, log)


class Progress:
    """Tells how many files are compiled: in one line on a terminal, else now and then."""

    def __init__(self) -> None:
        self._count = 0
        self._begun_s = self._told_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def one_more(self) -> None:
        """Count a file."""
        self._count += 1
        now_s = time.monotonic()
        if now_s - self._told_s < (1.0 if self._is_terminal else EVERY_S):
            return
        self._told_s = now_s
        text = (
            f"compiling: {min(99, 100 * self._count // FILES)} %, "
            f"{(now_s - self._begun_s) / 60:.1f} min"
        )
        if self._is_terminal:
            sys.stderr.write(f"\r[other kernel] {text}   ")
            sys.stderr.flush()
        else:
            say(text)

    def __enter__(self) -> Self:
        say("compiling (5 min on two idle processors)")
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            sys.stderr.write("\n")


def run(command: Sequence[str], folder: Path, log: Path) -> None:
    """Run a step of the build; what it says goes to the log."""
    with log.open("ab") as file:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False
        )
    if done.returncode != 0:
        raise failed(command, log)


def failed(command: Sequence[str], log: Path) -> BuildFailedError:
    """Say what went wrong, with the last that was said."""
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    return BuildFailedError(f"{' '.join(command)} failed; more is in {log}:\n" + "\n".join(said))


def floating_point_bytes() -> int:
    """Ask the kernel how long a process's floating-point state is, as UML will."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    command = ["sleep", "60"]
    child = subprocess.Popen(command)
    try:
        if libc.ptrace(PTRACE_ATTACH, child.pid, 0, 0) != 0:
            raise CannotBuildError(
                f"no process may be traced here ({os.strerror(ctypes.get_errno())}), "
                "which User Mode Linux does"
            )
        os.waitpid(child.pid, 0)
        room = ctypes.create_string_buffer(1 << 16)
        vector = (ctypes.c_size_t * 2)(ctypes.addressof(room), len(room))
        libc.ptrace(PTRACE_GETREGSET, child.pid, NT_X86_XSTATE, ctypes.addressof(vector))
        return int(vector[1])
    finally:
        child.kill()
        child.wait()


def say(text: str) -> None:
    """Tell a person what happens."""
    print(f"[other kernel] {text}", file=sys.stderr, flush=True)
