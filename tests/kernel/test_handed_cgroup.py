"""Descriptors that are handed over as a cgroup's directory; what is none is refused."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import openqwave as qw
from openqwave.client.programs import Programs, open_programs
from openqwave.drivers.cgroups import CgroupTrouble, make, mounted
from openqwave.drivers.handedgroup import HandedGroup, NoGroup
from openqwave.lab.topology import Lab
from openqwave.model.cgroups import GroupMount
from tests.kernel.data_plane_stage import serving
from tests.kernel.run_stage import CONFIG, Ground
from tests.kernel.service_stage import NOBODY, Actor, Qwaved, reaching
from tests.patience import PATIENCE_S, until

if TYPE_CHECKING:
    from openqwave.lab.topology import Host

_libc = ctypes.CDLL(None)
_MNT_DETACH = 2

pytestmark = [pytest.mark.kernel, pytest.mark.root]


@pytest.fixture
def mount() -> GroupMount:
    try:
        return mounted()
    except CgroupTrouble as trouble:
        pytest.skip(str(trouble))


@contextlib.contextmanager
def sleeping(place: Ground, group: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process in a cgroup."""
    with subprocess.Popen(place.entering("sleep", "1000", group=group)) as process:
        try:
            until(lambda: process.pid in place.processes())
            yield process
        finally:
            process.kill()


def opened(path: Path, flags: int = os.O_RDONLY) -> int:
    return os.open(path, flags | os.O_CLOEXEC)


# -- the descriptor -------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [os.O_RDONLY | os.O_DIRECTORY, os.O_PATH], ids=["read", "path"])
def test_a_group_is_held_by_either_kind_of_descriptor(
    flags: int, place: Ground, mount: GroupMount
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    group = HandedGroup(opened(place.path, flags), mount)
    assert group.path == f"/{place.path.name}"
    assert group.number == place.path.stat().st_ino
    assert group.uid == 0
    assert not group.is_populated()
    assert list(group.processes()) == []
    group.close()
    group.close()
    # What was handed over is closed by a thread.
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_who_is_in_it_and_below(place: Ground, mount: GroupMount) -> None:
    (place.path / "below").mkdir()
    with (
        contextlib.closing(HandedGroup(opened(place.path), mount)) as group,
        sleeping(place) as one,
        sleeping(place, "below") as two,
    ):
        assert set(group.processes()) == {one.pid, two.pid}
        assert group.is_populated()
        assert group.holds(one.pid)
        assert group.holds(two.pid)
        assert not group.holds(os.getpid())
        assert not group.holds(2**22)
    (place.path / "below").rmdir()


def test_that_it_is_empty_is_told(place: Ground, mount: GroupMount) -> None:
    with contextlib.closing(HandedGroup(opened(place.path), mount)) as group, select.epoll() as ep:
        ep.register(group.fileno(), select.EPOLLPRI)
        with sleeping(place):
            assert group.is_populated()
            assert ep.poll(0) == []
        assert ep.poll(PATIENCE_S)
        assert not group.is_populated()
        assert ep.poll(0) == []


def test_one_that_was_removed_is_empty(place: Ground, mount: GroupMount) -> None:
    folder = place.path / "gone"
    folder.mkdir()
    group = HandedGroup(opened(folder), mount)
    assert (group.is_populated(), group.is_gone) == (False, False)
    folder.rmdir()
    assert not group.is_populated()
    assert group.is_gone
    assert list(group.processes()) == []
    assert not group.remove()
    group.close()
    late = place.path / "late"
    late.mkdir()
    number = opened(late)
    late.rmdir()
    with pytest.raises(OSError, match="No such"):
        HandedGroup(number, mount)


def test_only_what_was_made_for_a_run_is_removed(place: Ground, mount: GroupMount) -> None:
    with make(place.path, "run", os.getpid()) as made:
        mine, other = made.path, place.path / "other"
    other.mkdir()
    for folder, is_removed in ((mine, True), (other, False)):
        with contextlib.closing(HandedGroup(opened(folder), mount)) as group:
            assert group.remove() is is_removed
            assert folder.exists() is not is_removed
    other.rmdir()


def test_where_it_is_is_found_by_a_process_or_by_looking(place: Ground, mount: GroupMount) -> None:
    for likely in (0, 1, os.getpid(), 2**22, -5):
        with contextlib.closing(HandedGroup(opened(place.path), mount, likely)) as group:
            assert group.path == f"/{place.path.name}"
    with contextlib.closing(HandedGroup.at(f"/{place.path.name}", mount)) as group:
        assert group.number == place.path.stat().st_ino
    with pytest.raises(FileNotFoundError):
        HandedGroup.at(f"/{place.path.name}/nowhere", mount)
    with pytest.raises(NoGroup):
        HandedGroup.at("/../etc", mount)


def test_one_whose_name_is_no_text_is_refused(place: Ground, mount: GroupMount) -> None:
    # It could be written neither in the file of runs nor in a list.
    folder = Path(os.fsdecode(bytes(place.path) + b"/\xff"))
    folder.mkdir()
    try:
        with pytest.raises(NoGroup, match="UTF-8"):
            HandedGroup(opened(folder), mount)
    finally:
        folder.rmdir()


def test_whoever_tells_a_wrong_process_has_nobody_look_through_all_groups(
    place: Ground, mount: GroupMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def walk(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
        while len(looked) < 100_000:
            looked.append(top)
            yield f"{top}/nowhere", [], []

    monkeypatch.setattr(os, "walk", walk)
    with contextlib.closing(HandedGroup(opened(place.path), mount, 1)) as group:
        assert group.path == f"/{place.path.name}"
    assert looked == []
    # One that came from a mount of somebody's own.
    monkeypatch.setattr(os, "readlink", lambda _: "/")
    with contextlib.closing(HandedGroup(opened(place.path), mount, 1)) as group:
        assert group.path == ""
    assert 0 < len(looked) < 10_000


# -- at the service -------------------------------------------------------------------------


def a_socket() -> int:
    return socket.socket().detach()


def a_pipe() -> int:
    kept, other = os.pipe()
    os.close(other)
    return kept


STRANGE: dict[str, Callable[[Ground], int]] = {
    "a socket": lambda _: a_socket(),
    "a pipe": lambda _: a_pipe(),
    "memory": lambda _: os.memfd_create("x"),
    "a file": lambda _: opened(Path("/etc/passwd")),
    "a folder": lambda _: opened(Path("/tmp")),  # noqa: S108 - any will do
    "proc": lambda _: opened(Path("/proc/self")),
    "a namespace": lambda _: opened(Path("/proc/self/ns/net")),
    "a device": lambda _: opened(Path("/dev/null")),
    "a process": lambda _: os.pidfd_open(os.getpid()),
    "an eventfd": lambda _: os.eventfd(0),
    "a file of a cgroup": lambda place: opened(place.path / "cgroup.procs"),
    "the root of cgroups": lambda place: opened(place.path.parent),
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        left, right = lab.host("left"), lab.host("right")
        lab.link(left, right)
        yield left


@pytest.fixture(scope="module")
def service(host: Host) -> Iterator[Qwaved]:
    with serving(host, CONFIG) as found:
        yield found


@pytest.fixture
def programs(service: Qwaved) -> Iterator[Programs]:
    with reaching(service.socket), open_programs() as found:
        yield found


@pytest.mark.parametrize("strange", STRANGE.values(), ids=list(STRANGE))
def test_what_is_no_cgroup_is_refused(
    strange: Callable[[Ground], int], place: Ground, service: Qwaved, programs: Programs
) -> None:
    before = service.descriptors()
    number = strange(place)
    try:
        for _ in range(3):
            with pytest.raises(qw.InvalidParameter, match="cgroup"):
                programs.start_run(number, program="x", pid=0, dscp=1)
    finally:
        os.close(number)
    until(lambda: service.descriptors() <= before, "the service keeps what it refused")
    assert programs.programs() == ()


@contextlib.contextmanager
def mute_files(folder: Path) -> Iterator[int]:
    """A folder of a file system in user space where nobody ever answers."""
    try:
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        pytest.skip("needs FUSE")
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    if _libc.mount(b"mute", bytes(folder), b"fuse", 0, options) != 0:
        os.close(fuse)
        pytest.skip("no FUSE can be mounted")
    try:
        number = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield number
        finally:
            os.close(number)
    finally:
        # Ends whatever waits for an answer.
        os.close(fuse)
        assert _libc.umount2(bytes(folder), _MNT_DETACH) == 0


def test_a_folder_that_never_answers_holds_nobody_up(
    tmp_path: Path, service: Qwaved, programs: Programs
) -> None:
    before = service.descriptors()
    with mute_files(tmp_path) as number:
        for _ in range(20):
            with pytest.raises(qw.InvalidParameter, match="cgroup"):
                programs.start_run(number, program="x", pid=0, dscp=1)
        assert programs.programs() == ()
    until(lambda: service.descriptors() <= before, "the service keeps what it refused")


def test_another_users_cgroup_is_refused(service: Qwaved, place: Ground) -> None:
    with Actor(NOBODY, service=service.socket) as nobody, pytest.raises(qw.AccessDenied):
        nobody.call(start, str(place.path))
    os.chown(place.path, NOBODY, NOBODY)
    with Actor(NOBODY, service=service.socket) as nobody, sleeping(place):
        run = nobody.call(start, str(place.path))
        assert nobody.call(end, run) is None
        with pytest.raises(qw.FlowNotFound):
            nobody.call(end, run)


def start(_: dict[str, object], path: str) -> int:
    number = os.open(path, os.O_RDONLY)
    try:
        with open_programs() as programs:
            return programs.start_run(number, program="x", pid=0, traffic_type=4).run
    finally:
        os.close(number)


def end(_: dict[str, object], run: int) -> None:
    with open_programs() as programs:
        programs.end_run(run)


def test_a_name_that_is_no_text_troubles_nobody_else(service: Qwaved, place: Ground) -> None:
    os.chown(place.path, NOBODY, NOBODY)
    folder = Path(os.fsdecode(bytes(place.path) + b"/\xff"))
    folder.mkdir()
    try:
        os.chown(folder, NOBODY, NOBODY)
        with Actor(NOBODY, service=service.socket) as nobody, sleeping(place):
            with pytest.raises(qw.InvalidParameter, match="UTF-8"):
                nobody.call(start, str(folder))
            nobody.call(end, nobody.call(start, str(place.path)))
    finally:
        folder.rmdir()


def test_no_more_runs_than_a_user_may_have(host: Host, place: Ground) -> None:
    os.chown(place.path, NOBODY, NOBODY)
    with serving(host, f"{CONFIG}[limits]\nruns_per_user = 3\n") as own, sleeping(place):
        with Actor(NOBODY, service=own.socket) as nobody:
            runs = [nobody.call(start, str(place.path)) for _ in range(3)]
            with pytest.raises(qw.NoSystemResources, match="runs_per_user"):
                nobody.call(start, str(place.path))
            nobody.call(end, runs[0])
            nobody.call(start, str(place.path))
        # The connections that asked are long gone.
        with reaching(own.socket), open_programs() as programs:
            assert len(programs.programs()) == 3


def test_runs_come_and_go_and_nothing_stays(
    place: Ground, service: Qwaved, programs: Programs
) -> None:
    before = service.descriptors()
    for _ in range(100):
        with make(place.path, "run", os.getpid()) as group, sleeping(place, group.path.name):
            programs.start_run(group.fileno(), program="x", pid=0, dscp=1)
    until(lambda: programs.programs() == (), "runs do not end")
    until(lambda: not place.below(), "the service does not remove what is empty")
    until(lambda: service.descriptors() <= before, "the service keeps what has ended")
