"""What the service asks of the kernel and does to it, beside carrying out plans."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from openqwave.drivers.links import Links
from openqwave.drivers.netlink import Netlink
from openqwave.drivers.rtnetlink import RTM_GETLINK
from openqwave.drivers.sockets import SocketDirectory
from openqwave.enforcement.bpf.attachment import Attachments
from openqwave.enforcement.socket_options import SocketOptions
from openqwave.enforcement.wishes import Wishes
from openqwave.lab.topology import Lab
from openqwave.service.kernel import Kernel
from tests.kernel.egress_stage import load, may_use_bpf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.kernel, pytest.mark.root]

BPF = Wishes("bpf", 3)


@pytest.fixture
def make() -> Iterator[Callable[[Wishes], Kernel]]:
    """Makes the service's part of a host's kernel."""
    if not may_use_bpf():
        load().close()
    made: list[Kernel] = []

    def make(wishes: Wishes) -> Kernel:
        directory = SocketDirectory()
        made.append(Kernel(wishes, SocketOptions(directory, Links()), directory))
        return made[-1]

    with Lab() as lab:
        near = lab.host("near")
        lab.link(near, lab.host("far"))
        with near.enter():
            yield make
            for each in made:
                each.close()


def test_whether_the_program_can_be_had_is_seen_without_attaching_it(
    make: Callable[[Wishes], Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = make(Wishes("socket-options"))

    def attach(_: Attachments) -> None:
        raise AssertionError("it was attached")

    monkeypatch.setattr(Attachments, "reconcile", attach)
    kernel.can_be_had(BPF)


def test_a_look_lists_the_interfaces_once(
    make: Callable[[Wishes], Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = make(BPF)
    listed: list[int] = []
    dump = Netlink.dump

    def count(netlink: Netlink, kind: int, *rest: Any) -> list[bytes]:  # noqa: ANN401 - passed on
        listed.append(kind)
        return dump(netlink, kind, *rest)

    monkeypatch.setattr(Netlink, "dump", count)
    runtime = SimpleNamespace(look=lambda ask: ask(None))
    kernel.look_again(cast("Any", SimpleNamespace(runtime=runtime)))
    assert listed == [RTM_GETLINK]
    # People see queues, too.
    listed.clear()
    rows = kernel.interfaces()
    assert len(listed) == 1
    assert {row.name: row.queue for row in rows} == {"lo": "noqueue", "eth0": "noqueue"}
