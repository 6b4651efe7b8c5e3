"""Netlink's framing, by messages made by hand and by a socket that is none of the kernel's."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import cast

import pytest

from openqwave.drivers import netlink as module
from openqwave.drivers.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    attribute,
    attributes,
    drain,
    message,
    number,
    split,
)
from openqwave.drivers.rtnetlink import (
    LinkState,
    announced_link,
    gateway_of,
    read_links,
    settled,
    to_link,
)

ERROR, DONE, KIND = 2, 3, 77
MULTI, INTERRUPTED = 0x2, 0x12


def refusal(sequence: int, code: int) -> bytes:
    return message(ERROR, 0, sequence, struct.pack("=i", -code))


class Kernel:
    """Answers questions by a script; stands for the socket."""

    def __init__(self, *rounds: list[bytes]) -> None:
        self.rounds = list(rounds)
        self.waiting: list[bytes] = []
        self.asked: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.asked.append(data)
        self.waiting += self.rounds.pop(0)
        return len(data)

    def recv(self, _size: int) -> bytes:
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "nothing came")
        return self.waiting.pop(0)

    def close(self) -> None:
        """There is nothing to close."""


def talking_to(kernel: Kernel) -> Netlink:
    with Netlink(socket.NETLINK_ROUTE) as netlink:
        pass
    netlink.socket = cast("socket.socket", kernel)
    return netlink


# -- framing --------------------------------------------------------------------------


def test_attributes_are_padded_and_found_again() -> None:
    data = attribute(3, b"lo\0") + attribute(0x8004, struct.pack("=i", -7)) + attribute(5, b"")
    assert len(data) == 8 + 8 + 4
    found = attributes(data)
    assert found == {3: b"lo\0", 4: struct.pack("=i", -7), 5: b""}
    assert (number(found, 4), number(found, 5), number(found, 6)) == (-7, 0, 0)


@pytest.mark.parametrize("data", [b"", b"\x04", b"\x00\x00\x01\x00", b"\x03\x00\x01\x00"])
def test_attributes_that_end_early_are_none(data: bytes) -> None:
    assert attributes(data) == {}


def test_messages_that_come_together_are_told_apart() -> None:
    data = message(20, 1, 5, b"abcde") + message(21, 2, 6, b"")
    assert list(split(data)) == [(20, 1, 5, b"abcde"), (21, 2, 6, b"")]
    assert list(split(data[:20] + b"\0")) == [(20, 1, 5, b"abcd\0")]
    assert list(split(bytes(16))) == []


# -- asking ---------------------------------------------------------------------------


def test_each_question_gets_its_answer_in_whatever_order() -> None:
    kernel = Kernel(
        [message(KIND, 0, 2, b"two!") + refusal(3, errno.ENOENT), message(1, 0, 1, b"")]
    )
    found = talking_to(kernel).ask_each(KIND, [b"a", b"b", b"c"])
    assert found[:2] == [b"", b"two!"]
    assert isinstance(found[2], OSError)
    assert found[2].errno == errno.ENOENT
    asked = [(KIND, 1, 1, b"a"), (KIND, 1, 2, b"b"), (KIND, 1, 3, b"c")]
    assert list(split(kernel.asked[0])) == asked


def test_questions_leave_together_and_not_too_many() -> None:
    count = 70
    rounds = [
        [message(KIND, 0, one, struct.pack("=I", one)) for one in range(first, last)]
        for first, last in ((1, 33), (33, 65), (65, 71))
    ]
    kernel = Kernel(*rounds)
    found = talking_to(kernel).ask_each(KIND, [b"abcd"] * count)
    assert found == [struct.pack("=I", one) for one in range(1, count + 1)]
    assert [len(list(split(data))) for data in kernel.asked] == [32, 32, 6]


def test_answers_to_what_was_asked_before_are_skipped() -> None:
    kernel = Kernel([], [message(KIND, 0, 1, b"late"), message(KIND, 0, 2, b"here")])
    netlink = talking_to(kernel)
    with pytest.raises(BlockingIOError):
        netlink.ask(KIND, b"")
    assert netlink.ask(KIND, b"") == b"here"


def test_a_refusal_is_an_error() -> None:
    netlink = talking_to(Kernel([refusal(1, errno.EPERM)], [refusal(2, errno.EBUSY)]))
    with pytest.raises(PermissionError):
        netlink.ask(KIND, b"")
    with pytest.raises(OSError, match="busy"):
        netlink.dump(KIND, b"")


def test_a_change_is_confirmed_or_refused() -> None:
    kernel = Kernel([refusal(1, 0)], [refusal(2, errno.EEXIST)])
    netlink = talking_to(kernel)
    netlink.change(KIND, b"body", NLM_F_CREATE | NLM_F_EXCL)
    ((kind, flags, _, body),) = split(kernel.asked[0])
    # A request, confirmation wanted, and what was asked for.
    assert (kind, flags, body) == (KIND, 0x1 | 0x4 | 0x400 | 0x200, b"body")
    with pytest.raises(FileExistsError):
        netlink.change(KIND, b"body")


def test_a_list_ends_when_it_says_so() -> None:
    kernel = Kernel(
        [
            message(KIND, MULTI, 1, b"abcd") + message(KIND, MULTI, 1, b"efgh"),
            message(KIND, MULTI, 9, b"none"),
            message(KIND, MULTI, 1, b"ijkl"),
            message(DONE, MULTI, 1, struct.pack("=i", 0)),
        ]
    )
    assert talking_to(kernel).dump(KIND, b"") == [b"abcd", b"efgh", b"ijkl"]
    ((_, flags, _, _),) = split(kernel.asked[0])
    assert flags == 0x301


def test_a_list_that_breaks_off_is_an_error() -> None:
    end = message(DONE, MULTI, 1, struct.pack("=i", -errno.ENOENT))
    with pytest.raises(FileNotFoundError):
        talking_to(Kernel([message(KIND, MULTI, 1, b"abcd"), end])).dump(KIND, b"")


def test_a_list_that_changed_meanwhile_is_read_again() -> None:
    def listing(sequence: int, flags: int, body: bytes) -> list[bytes]:
        return [message(KIND, flags, sequence, body) + message(DONE, MULTI, sequence, bytes(4))]

    kernel = Kernel(listing(1, INTERRUPTED, b"old."), listing(2, MULTI, b"new."))
    assert talking_to(kernel).dump(KIND, b"") == [b"new."]
    restless = Kernel(*(listing(turn, INTERRUPTED, b"any.") for turn in (1, 2, 3)))
    assert talking_to(restless).dump(KIND, b"") == [b"any."]


@pytest.mark.usefixtures("fd_guard")
def test_an_answer_that_does_not_come_is_not_awaited_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", struct.pack("@ll", 0, 10_000))
    with Netlink(socket.NETLINK_ROUTE) as netlink:
        # NLMSG_NOOP is not answered.
        with pytest.raises(BlockingIOError):
            netlink.ask(1, b"")
        netlink.close()


class Announcing:
    """A socket with announcements."""

    def __init__(self, *what: bytes | int) -> None:
        self.what: Iterator[bytes | int] = iter(what)

    def recv(self, size: int) -> bytes:
        one = next(self.what)
        if isinstance(one, int):
            raise OSError(one, "")
        return one[:size]


def test_announcements_are_drained() -> None:
    sock = Announcing(b"first", errno.ENOBUFS, b"second", errno.EAGAIN, b"later")
    assert list(drain(cast("socket.socket", sock), 3)) == [b"fir", None, b"sec"]
    with pytest.raises(OSError):  # noqa: PT011 - it has no words
        list(drain(cast("socket.socket", Announcing(errno.EBADF))))


# -- links and routes -----------------------------------------------------------------


def link_message(flags: int = 0x1_0043, family: int = 0) -> bytes:
    fields = struct.pack("=BxHiII", family, 1, 7, flags, 0)
    counters = struct.pack("=4Q", 1, 2, 3, 123_456_789_012)
    return (fields + attribute(3, b"eth7\0") + attribute(4, struct.pack("=I", 1400))) + attribute(
        23, counters + bytes(64)
    )


def test_a_link_is_read() -> None:
    link = to_link(link_message())
    assert link == LinkState(7, "eth7", True, 1400, 1, 123_456_789_012)
    assert settled(link) == LinkState(7, "eth7", True, 1400, 1)
    assert to_link(struct.pack("=BxHiII", 0, 1, 7, 0, 0)) == LinkState(7, "", False, 0, 1)


@pytest.mark.parametrize("missing", [0x1, 0x40, 0x1_0000])
def test_a_link_that_lacks_anything_is_not_up(missing: int) -> None:
    assert not to_link(link_message(0x1_0043 & ~missing)).is_up


def test_only_interfaces_themselves_are_announced_links() -> None:
    assert announced_link(16, link_message()) == to_link(link_message())
    assert announced_link(17, link_message()) == to_link(link_message())
    assert announced_link(24, link_message()) is None
    # AF_BRIDGE: a port.
    assert announced_link(16, link_message(family=7)) is None


def test_a_gateway_is_of_either_ip_version() -> None:
    assert gateway_of({5: b"\x0a\0\0\1"}) == b"\x0a\0\0\1"
    assert gateway_of({18: struct.pack("=H", 10) + bytes(15) + b"\1"}) == bytes(15) + b"\1"
    assert gateway_of({}) == b""


@pytest.mark.usefixtures("fd_guard")
def test_loopback_is_a_link_everywhere() -> None:
    assert read_links()[1].name == "lo"
