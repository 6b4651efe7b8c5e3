"""Where cgroups are, by the text of mounts; and families of processes, by processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from openqwave.drivers import cgroups, families
from openqwave.drivers.cgroups import CgroupTrouble, NoSuchProcess, NotAllowed
from openqwave.model.cgroups import GroupMount, group_mount
from tests.patience import until

UNIFIED = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("", None),
        ("22 1 0:20 / /proc rw - proc proc rw", None),
        (UNIFIED, GroupMount("/sys/fs/cgroup", "/")),
        # A field more, as many as the kernel likes.
        (
            r"31 24 0:27 / /sys/fs/cgroup/uni\040fied\134 rw shared:4 master:1 - cgroup2 none rw",
            GroupMount("/sys/fs/cgroup/uni fied\\", "/"),
        ),
        # The one nearest to the root counts, whichever comes first.
        (
            f"40 24 0:26 /a/b /mnt rw - cgroup2 none rw\n{UNIFIED}",
            GroupMount("/sys/fs/cgroup", "/"),
        ),
        ("40 24 0:26 /a/b /mnt rw - cgroup2 none rw", GroupMount("/mnt", "/a/b")),
        # The older hierarchies do not count.
        ("50 24 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", None),
    ],
)
def test_the_mount_that_shows_most_is_found(mounts: str, expected: GroupMount | None) -> None:
    assert group_mount(mounts) == expected


@pytest.mark.parametrize(
    ("mount", "group", "folder"),
    [
        (GroupMount("/sys/fs/cgroup", "/"), "/", "/sys/fs/cgroup"),
        (GroupMount("/sys/fs/cgroup", "/"), "/a/b", "/sys/fs/cgroup/a/b"),
        (GroupMount("/mnt", "/a"), "/a", "/mnt"),
        (GroupMount("/mnt", "/a"), "/a/b", "/mnt/b"),
        (GroupMount("/mnt", "/a"), "/ab", None),
        (GroupMount("/mnt", "/a"), "/", None),
        # What is outside of a container is named from inside so.
        (GroupMount("/mnt", "/"), "/../other", None),
        (GroupMount("/mnt", "/"), "/..", None),
    ],
)
def test_where_a_group_is(mount: GroupMount, group: str, folder: str | None) -> None:
    assert mount.folder_of(group) == folder


# -- groups, as folders are -----------------------------------------------------------


def started(pid: int) -> int:
    kin = families.look_up(pid)
    assert kin is not None
    return kin.started


def test_one_that_is_made_tells_whom_for(tmp_path: Path) -> None:
    pid = os.getpid()
    with cgroups.make(tmp_path, "run", pid) as group:
        assert group.path.parent == tmp_path
        assert group.path.name.startswith(f"qwave-run-{pid}-{started(pid)}-")
        assert cgroups.is_ours(group.path)
        assert os.fstat(group.fileno()).st_ino == group.path.stat().st_ino
        assert not os.get_inheritable(group.fileno())
    assert not cgroups.is_ours(tmp_path)
    with pytest.raises(NoSuchProcess, match="there is no process 999999999"):
        cgroups.make(tmp_path, "attach", 999_999_999)


def test_what_was_left_is_swept_up(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    pid = os.getpid()
    left = tmp_path / f"qwave-run-{gone.pid}-17-0123abcd"
    attached = tmp_path / f"qwave-attach-{gone.pid}-17-0123abcd"
    # The number was given again, or means another one here.
    of_another = tmp_path / f"qwave-run-{pid}-{started(pid) - 1}-0123abcd"
    in_use = tmp_path / f"qwave-run-{gone.pid}-17-89abcdef"
    own = tmp_path / f"qwave-run-{pid}-{started(pid)}-0123abcd"
    strange = tmp_path / "qwave-run-whatever"
    for each in (left, attached, of_another, in_use / "somebody", own, strange):
        each.mkdir(parents=True)
    with cgroups.make(tmp_path, "run", pid) as made:
        assert set(tmp_path.iterdir()) == {in_use, own, strange, made.path}


def test_a_group_that_is_in_use_is_not_removed(tmp_path: Path) -> None:
    group = cgroups.make(tmp_path, "run", os.getpid())
    (group.path / "below").mkdir()
    assert not group.remove()
    assert group.path.exists()
    (group.path / "below").rmdir()
    again = cgroups.Group(group.path)
    assert again.remove()
    assert not group.path.exists()
    # The service was faster.
    assert again.remove()


def test_where_none_can_be_made_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(CgroupTrouble, match="removed meanwhile, try again"):
        cgroups.make(tmp_path / "gone", "run", os.getpid())


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (1, NotAllowed, "it belongs to root"),
        (13, NotAllowed, "it belongs to root"),
        (30, NotAllowed, "it is mounted read-only"),
        (11, CgroupTrouble, "as many are there as are allowed"),
        (28, CgroupTrouble, "No space left on device"),
    ],
)
def test_why_none_can_be_made(
    monkeypatch: pytest.MonkeyPatch, code: int, kind: type[CgroupTrouble], words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(kind, match=words) as raised:
        cgroups.make(Path("/"), "run", os.getpid())
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (3, NoSuchProcess, "process 17 has ended"),
        (13, NotAllowed, "root may"),
        (16, CgroupTrouble, "cgroup.subtree_control"),
        (22, CgroupTrouble, "a thread of the kernel"),
        (95, CgroupTrouble, "cgroup.type"),
        (19, CgroupTrouble, "removed meanwhile, try again"),
    ],
)
def test_why_a_process_is_not_moved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    kind: type[CgroupTrouble],
    words: str,
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with cgroups.make(tmp_path, "run", os.getpid()) as group:
        (group.path / "cgroup.procs").touch()
        monkeypatch.setattr(os, "write", fail)
        with pytest.raises(kind, match=words) as raised:
            group.take(17)
        assert type(raised.value) is kind


def test_the_group_of_a_process_that_is_not_there() -> None:
    with pytest.raises(NoSuchProcess, match="there is no process 999999999"):
        cgroups.folder_of(GroupMount("/mnt", "/"), 999_999_999)


def test_a_group_that_is_not_mounted_here() -> None:
    with pytest.raises(CgroupTrouble, match="not below /mnt"):
        cgroups.folder_of(GroupMount("/mnt", "/nowhere"), os.getpid())


# -- families -------------------------------------------------------------------------

# Starts one that starts another, and says which they are; all wait to be ended. The second calls
# itself what a careless reader of /proc takes for something else.
NEST = """
import os, sys, time
names = [os.getpid()]
end, other = os.pipe()
child = os.fork()
if child == 0:
    open("/proc/self/comm", "w").write(") R 1 (")
    grandchild = os.fork()
    if grandchild:
        os.write(other, str(grandchild).encode())
    time.sleep(600)
print(os.getpid(), child, os.read(end, 20).decode(), flush=True)
time.sleep(600)
"""


def test_a_family_has_parents_before_children() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NEST], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        try:
            assert len(pids) == 3
            assert families.family_of(process.pid) == pids
            assert families.family_of(pids[1]) == pids[1:]
            for parent, child in pairwise(pids):
                kin = families.look_up(child)
                assert kin is not None
                assert (kin.pid, kin.parent, kin.is_kernel) == (child, parent, False)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
    assert families.family_of(process.pid) == []
    assert families.look_up(process.pid) is None


def test_a_process_by_one_of_its_threads() -> None:
    found: list[families.Kin | None] = []
    thread = threading.Thread(
        target=lambda: found.append(families.look_up(threading.get_native_id()))
    )
    thread.start()
    thread.join()
    assert found == [families.look_up(os.getpid())]
    assert found[0] is not None
    assert found[0].pid == os.getpid()


def test_who_is_waited_for_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    kin = families.look_up(process.pid)
    assert kin is not None
    assert kin.has_ended
    assert families.family_of(process.pid) == []
    process.wait()


# Ends its first thread, and goes on in another one until nobody listens any more.
HEADLESS = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
print("headless", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_who_has_lost_the_first_thread_goes_on() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HEADLESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "headless\n"
        stat = Path(f"/proc/{process.pid}/stat")
        until(lambda: stat.read_text().split()[2] == "Z")
        kin = families.look_up(process.pid)
        assert kin is not None
        assert not kin.has_ended
        assert families.family_of(process.pid) == [process.pid]
        assert families.living_thread(process.pid) > process.pid
        process.kill()
    assert families.living_thread(os.getpid()) == os.getpid()


def test_whose_a_process_is() -> None:
    assert families.user_of(os.getpid()) == os.geteuid()
    assert families.user_of(999_999_999) is None
