"""Cgroups that come and go are followed, by folders that are as those of the kernel."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from openqwave.drivers import inotify
from openqwave.drivers.grouptree import GroupTree
from openqwave.model.cgroups import GroupMount


class Clock:
    """Nanoseconds, as a test has them."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tree(tmp_path: Path, clock: Clock) -> Iterator[GroupTree]:
    (tmp_path / "system.slice" / "a.service").mkdir(parents=True)
    found = GroupTree(GroupMount(str(tmp_path), "/"), clock=clock)
    yield found
    found.close()


def number(folder: Path) -> int:
    return folder.stat().st_ino


def is_told(tree: GroupTree) -> bool:
    return bool(select.select([tree], [], [], 10)[0])


def test_what_is_there_is_known(tree: GroupTree, tmp_path: Path) -> None:
    assert tree.named(["a.service", "b.service"]) == {
        "a.service": {"/system.slice/a.service"},
        "b.service": set(),
    }
    folder = tmp_path / "system.slice" / "a.service"
    assert tree.ids_of("/system.slice/a.service") == {number(folder)}
    assert tree.ids_of("/") == {number(tmp_path)}
    assert tree.ids_of("/nowhere") == set()
    assert not tree.take()
    assert not tree.look_again()
    assert tree.trouble == ""


def test_what_comes_is_told_with_all_below_it(tree: GroupTree, tmp_path: Path) -> None:
    deep = tmp_path / "user.slice" / "one" / "b.service"
    deep.mkdir(parents=True)
    (tmp_path / "a-file").touch()
    assert is_told(tree)
    assert tree.take()
    assert tree.named(["b.service"])["b.service"] == {"/user.slice/one/b.service"}
    assert tree.ids_of("/user.slice/one/b.service") == {number(deep)}
    # And what comes below that.
    (deep / "a.service").mkdir()
    assert is_told(tree)
    assert tree.take()
    assert tree.named(["a.service"])["a.service"] == {
        "/system.slice/a.service",
        "/user.slice/one/b.service/a.service",
    }


def test_what_matters_to_nobody_is_not_told_and_known_all_the_same(tmp_path: Path) -> None:
    tree = GroupTree(GroupMount(str(tmp_path), "/"), lambda path: path.endswith("/b.service"))
    try:
        (tmp_path / "a.service").mkdir()
        assert not tree.take()
        assert tree.ids_of("/a.service")
        (tmp_path / "a.service" / "b.service").mkdir()
        assert tree.take()
        (tmp_path / "a.service" / "b.service").rmdir()
        assert tree.take()
        (tmp_path / "a.service").rmdir()
        assert not tree.take()
    finally:
        tree.close()


def test_what_mattered_to_nobody_is_not_remembered(tmp_path: Path) -> None:
    tree = GroupTree(GroupMount(str(tmp_path), "/"), lambda path: path.endswith("/b.service"))
    try:
        for name in ("a.service", "b.service"):
            (tmp_path / name).mkdir()
            (tmp_path / name).rmdir()
            (tmp_path / name).mkdir()
            assert tree.take() is (name == "b.service")
            (tmp_path / name).rmdir()
        assert tree.take()
        assert tree.ids_of("/a.service") == set()
        assert tree.ids_of("/b.service") != set()
    finally:
        tree.close()


def test_who_makes_folders_without_end_holds_nobody_up(tmp_path: Path) -> None:
    watcher = inotify.Inotify()
    try:
        watcher.watch(str(tmp_path))
        for number_ in range(2_000):
            (tmp_path / f"folder-{number_:09}").mkdir()
            (tmp_path / f"folder-{number_:09}").rmdir()
        counts = [len(list(watcher.take())) for _ in range(4)]
        assert 0 < counts[0] < 3_000
        assert sum(counts) == 4_000
    finally:
        watcher.close()


def test_one_that_goes_does_not_cost_a_look_at_all_others(tree: GroupTree, tmp_path: Path) -> None:
    class Unread(dict[str, int]):
        def __iter__(self) -> Iterator[str]:
            raise AssertionError("all are looked at")

    vars(tree)["_ids"] = Unread(vars(tree)["_ids"])
    (tmp_path / "system.slice" / "a.service").rmdir()
    assert tree.take()
    (tmp_path / "system.slice").rmdir()
    assert tree.take()
    assert tree.named(["a.service"])["a.service"] == {"/system.slice/a.service"}


def test_what_the_kernel_lost_is_looked_for_a_tenth_of_the_time(
    tree: GroupTree, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_: inotify.Inotify) -> list[object]:
        raise inotify.Overflow

    def slow(_: inotify.Inotify, __: str) -> int:
        clock.now_ns += 1_000_000_000
        return 1

    monkeypatch.setattr(inotify.Inotify, "take", lose)
    monkeypatch.setattr(inotify.Inotify, "watch", slow)
    assert not tree.take()
    (tmp_path / "b.service").mkdir()
    assert not tree.take()
    assert not tree.look_again()
    clock.now_ns += 60_000_000_000
    assert tree.look_again()
    assert tree.ids_of("/b.service")
    assert not tree.look_again()


def test_looking_at_all_takes_a_tenth_of_the_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: inotify.Inotify, __: str) -> int:
        # Slow, too.
        clock.now_ns += 1_000_000_000
        raise OSError(errno.ENOSPC, "too many folders are watched")

    monkeypatch.setattr(inotify.Inotify, "watch", refuse)
    tree = GroupTree(GroupMount(str(tmp_path), "/"), clock=clock)
    try:
        assert not tree.look_again()
        (tmp_path / "b.service").mkdir()
        clock.now_ns += 8_000_000_000
        assert not tree.look_again()
        clock.now_ns += 2_000_000_000
        assert tree.look_again()
    finally:
        tree.close()


def test_files_are_nobodys_business(tree: GroupTree, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not tree.take()


def test_what_has_gone_keeps_its_number_for_a_while(
    tree: GroupTree, tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "system.slice" / "a.service"
    before = number(folder)
    # While it is open its number is given to no other, as that of a cgroup never is.
    held = os.open(folder, os.O_RDONLY)
    folder.rmdir()
    folder.mkdir()
    os.close(held)
    assert tree.take()
    after = number(folder)
    assert after != before
    assert tree.ids_of("/system.slice/a.service") == {before, after}
    clock.now_ns += 60 * 10**9
    assert tree.look_again()
    assert tree.ids_of("/system.slice/a.service") == {after}
    folder.rmdir()
    assert tree.take()
    assert tree.named(["a.service"])["a.service"] == {"/system.slice/a.service"}
    clock.now_ns += 60 * 10**9
    assert tree.look_again()
    assert tree.named(["a.service"])["a.service"] == set()
    assert not tree.look_again()


def test_what_goes_with_all_below_it(tree: GroupTree, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "system.slice" / "a.service").rmdir()
    (tmp_path / "system.slice").rmdir()
    assert tree.take()
    clock.now_ns += 60 * 10**9
    assert tree.look_again()
    assert tree.named(["a.service", "system.slice"]) == {"a.service": set(), "system.slice": set()}


def test_a_mount_that_begins_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "a.service").mkdir()
    tree = GroupTree(GroupMount(str(tmp_path), "/docker/abc"))
    try:
        assert tree.named(["a.service"])["a.service"] == {"/docker/abc/a.service"}
        (tmp_path / "b.service").mkdir()
        assert tree.take()
        assert tree.ids_of("/docker/abc/b.service") == {number(tmp_path / "b.service")}
    finally:
        tree.close()


def test_where_no_more_may_be_watched_all_is_looked_at(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: inotify.Inotify, __: str) -> int:
        raise OSError(errno.ENOSPC, "too many folders are watched")

    monkeypatch.setattr(inotify.Inotify, "watch", refuse)
    tree = GroupTree(GroupMount(str(tmp_path), "/"), clock=clock)
    try:
        assert tree.trouble == "too many folders are watched"
        assert not tree.look_again()
        (tmp_path / "b.service").mkdir()
        assert not tree.take()
        assert tree.look_again()
        assert tree.ids_of("/b.service") == {number(tmp_path / "b.service")}
        # Once there is room again they are told of.
        monkeypatch.undo()
        assert not tree.look_again()
        assert tree.trouble == ""
        (tmp_path / "c.service").mkdir()
        assert tree.take()
    finally:
        tree.close()


def test_where_the_kernel_lost_count_all_is_looked_at(
    tree: GroupTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_: inotify.Inotify) -> list[object]:
        raise inotify.Overflow

    with monkeypatch.context() as patched:
        patched.setattr(inotify.Inotify, "take", lose)
        (tmp_path / "b.service").mkdir()
        (tmp_path / "system.slice" / "a.service").rmdir()
        assert tree.take()
    assert tree.ids_of("/b.service")
    assert tree.named(["a.service"])["a.service"] == {"/system.slice/a.service"}
    (tmp_path / "b.service" / "c").mkdir()
    assert tree.take()
    assert tree.ids_of("/b.service/c")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    watcher = inotify.Inotify()
    with pytest.raises(FileNotFoundError):
        watcher.watch(str(tmp_path / "nowhere"))
    watcher.close()
    watcher.close()
    assert watcher.fileno() == -1
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        watcher.watch(str(tmp_path))
