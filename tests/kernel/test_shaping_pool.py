"""The pool of leaves: what is installed where, what stays, what is given back, and what is told.

Times and rates are in test_shaping_rates.py.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from openqwave.enforcement.shaping import leaves as leaves_module
from openqwave.enforcement.shaping.leaves import MOST_LEAVES, STEP
from openqwave.enforcement.shaping.queues import OUR_ROOT
from openqwave.enforcement.shaping.shapers import Leaf, Shapers
from openqwave.lab.capture import Direction
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.queues import ROOT_PARENT
from tests.kernel.shaping_stage import (
    PATIENCE_S,
    Ground,
    WithoutFq,
    ground_of,
    hop,
    numbered,
    numbers,
    of_the_flow,
)

if TYPE_CHECKING:
    from openqwave.lab.topology import Host, Lab

pytestmark = pytest.mark.kernel

FIRST, SECOND = Leaf(OUR_ROOT | STEP), Leaf(OUR_ROOT | 2 * STEP)
RATE_BPS = 8_000_000


@pytest.fixture
def ground(pair: tuple[Host, Host]) -> Iterator[Ground]:
    with ground_of(*pair) as made:
        made.qdiscs = WithoutFq(made.netlink)
        made.shapers = made.another()
        yield made


def refused(outcome: object, code: ErrorCode, *words: str) -> None:
    assert isinstance(outcome, Refusal), outcome
    assert outcome.code == code
    for word in words:
        assert word in outcome.detail


def grant(ground: Ground, flow_id: int = 1, rate_bps: int = RATE_BPS) -> object:
    return ground.shapers.grant(flow_id, rate_bps, [ground.peer])


def rates(ground: Ground) -> dict[int, int]:
    found = ground.qdiscs.leaves(ground.interface, OUR_ROOT)
    return {leaf.classid: leaf.rate_bytes_per_s * 8 for leaf in found}


# -- installing and giving back ---------------------------------------------------------


def test_the_first_flow_installs_a_pool_and_cleaning_up_removes_it(ground: Ground) -> None:
    before = ground.queues()
    assert grant(ground) == FIRST
    assert (ground.root().kind, ground.root().handle) == ("htb", OUR_ROOT)
    assert rates(ground) == {FIRST.classid: RATE_BPS}
    assert ground.shapers.observe() == {1: RATE_BPS}
    ground.shapers.clean_up()
    assert ground.queues() == before
    assert ground.shapers.observe() == {}
    ground.shapers.clean_up()
    assert ground.queues() == before


def test_asking_again_changes_nothing(ground: Ground) -> None:
    assert grant(ground) == grant(ground) == FIRST
    before = ground.queues()
    # Not only because it is remembered: another process finds the same and leaves it so.
    other = ground.another()
    assert other.grant(1, RATE_BPS, [ground.peer]) == FIRST
    assert ground.queues() == before
    assert rates(ground) == {FIRST.classid: RATE_BPS}


def test_each_flow_has_its_leaf_and_both_ip_versions_share_it(ground: Ground) -> None:
    both = [ground.peer, hop(ground.right.ipv6)]
    assert ground.shapers.grant(1, RATE_BPS, both) == FIRST
    assert grant(ground, 2, 1_000_000) == SECOND
    assert ground.shapers.observe() == {1: RATE_BPS, 2: 1_000_000}
    assert grant(ground, 1, 2_000_000) == FIRST
    assert ground.shapers.observe() == {1: 2_000_000, 2: 1_000_000}
    ground.shapers.end(1)
    ground.shapers.end(1)
    assert ground.shapers.observe() == {2: 1_000_000}


def test_what_no_flow_sends_passes_at_once(ground: Ground) -> None:
    grant(ground, rate_bps=10_000)
    with ground.sender() as sock, ground.left.capture(Direction.OUTGOING) as capture:
        for number in range(200):
            sock.send(numbered(number, 1_000))
        # Of 10 kbit/s, 200 packets would take three minutes.
        packets = capture.wait_for(200, timeout_s=5, where=of_the_flow)
    assert numbers(packets) == list(range(200))


@pytest.mark.parametrize("steps", range(6))
def test_a_crash_at_any_step_leaves_what_can_be_gone_on_with_and_cleaned_up(
    ground: Ground, steps: int
) -> None:
    class Crash(BaseException):
        pass

    class Crashing(WithoutFq):
        left = steps

        def step(self) -> None:
            if not Crashing.left:
                raise Crash
            Crashing.left -= 1

        def install_htb(self, *args: Any) -> None:  # noqa: ANN401 - passed on
            self.step()
            super().install_htb(*args)

        def put_class(self, *args: Any) -> None:  # noqa: ANN401 - passed on
            self.step()
            super().put_class(*args)

        def put_segmenter(self, *args: Any) -> None:  # noqa: ANN401 - passed on
            self.step()
            super().put_segmenter(*args)

    before = ground.queues()
    crashing = ground.another(Crashing(ground.netlink))
    with contextlib.suppress(Crash):
        for flow_id in (1, 2):
            crashing.grant(flow_id, 1_000_000, [ground.peer])
    assert not Crashing.left
    assert grant(ground) == FIRST
    assert ground.shapers.observe() == {1: RATE_BPS}
    with ground.sender(FIRST.classid) as sock, ground.left.capture(Direction.OUTGOING) as capture:
        sock.send(numbered(7, 100))
        assert numbers(capture.wait_for(1, timeout_s=PATIENCE_S, where=of_the_flow)) == [7]
    ground.another().clean_up()
    assert ground.queues() == before


# -- what others set up ---------------------------------------------------------------------


def test_a_root_that_somebody_set_up_stays(ground: Ground) -> None:
    assert ground.left.interface.try_qdisc("pfifo")
    before = ground.queues()
    refused(grant(ground), ErrorCode.ERROR_NOT_SUPPORTED, "eth0", "pfifo", "tc qdisc", "fq")
    ground.shapers.clean_up()
    assert ground.queues() == before


def test_a_pool_is_installed_only_where_it_may_be(ground: Ground) -> None:
    before = ground.queues()
    for may_install in (frozenset[str](), frozenset({"eth1"})):
        ground.shapers = ground.another(may_install=may_install)
        refused(grant(ground), ErrorCode.ERROR_NOT_SUPPORTED, "eth0", "noqueue", "[enforcement]")
    assert ground.queues() == before
    ground.shapers = ground.another(may_install=frozenset({"eth0"}))
    assert grant(ground) == FIRST


def test_a_root_that_is_set_up_in_the_same_moment_wins(ground: Ground) -> None:
    class Slow(WithoutFq):
        def install_htb(self, *args: Any) -> None:  # noqa: ANN401 - passed on
            ground.left.interface.try_qdisc("pfifo")
            super().install_htb(*args)

    ground.shapers = ground.another(Slow(ground.netlink))
    refused(grant(ground), ErrorCode.ERROR_NOT_SUPPORTED, "pfifo")
    assert ground.root().kind == "pfifo"


def test_a_pool_that_is_replaced_is_told_and_comes_back_when_it_can(ground: Ground) -> None:
    grant(ground)
    grant(ground, 2)
    assert ground.shapers.reconcile() == {}
    assert ground.left.interface.try_qdisc("pfifo")
    before = ground.queues()
    told = ground.shapers.reconcile()
    assert told.keys() == {1, 2}
    refused(told[1], ErrorCode.ERROR_NOT_SUPPORTED, "eth0", "pfifo")
    assert ground.shapers.observe() == {}
    # Told once.
    assert ground.shapers.reconcile() == {}
    refused(grant(ground, 3), ErrorCode.ERROR_NOT_SUPPORTED, "pfifo")
    assert ground.queues() == before

    root = ground.root()
    ground.qdiscs.remove_root(root.interface, root.handle)
    assert ground.shapers.reconcile() == {1: FIRST, 2: SECOND}
    assert rates(ground) == {FIRST.classid: RATE_BPS, SECOND.classid: RATE_BPS}


def test_a_pool_that_is_removed_is_put_back(ground: Ground) -> None:
    grant(ground)
    ground.qdiscs.remove_root(ground.interface, OUR_ROOT)
    # The flow's handle is the same, so there is nothing to tell.
    assert ground.shapers.reconcile() == {}
    assert ground.shapers.observe() == {1: RATE_BPS}


def test_a_leaf_that_is_changed_is_changed_back(ground: Ground) -> None:
    grant(ground)
    ground.qdiscs.put_class(ground.interface, OUR_ROOT, FIRST.classid, 77, 60_000)
    assert ground.shapers.reconcile() == {}
    assert rates(ground) == {FIRST.classid: RATE_BPS}


def test_a_pool_that_is_gone_is_noticed_by_the_next_change(ground: Ground) -> None:
    grant(ground)
    ground.qdiscs.remove_root(ground.interface, OUR_ROOT)
    assert grant(ground, rate_bps=1_000_000) == FIRST
    assert ground.shapers.observe() == {1: 1_000_000}
    assert ground.left.interface.try_qdisc("pfifo")
    refused(grant(ground, rate_bps=2_000_000), ErrorCode.ERROR_NOT_SUPPORTED, "pfifo")


# -- refusals ------------------------------------------------------------------------------------


def test_without_any_queue_that_shapes_the_flow_is_refused(ground: Ground) -> None:
    class Bare(WithoutFq):
        def install_htb(self, *_: Any) -> None:  # noqa: ANN401 - whatever it is asked
            raise FileNotFoundError(errno.ENOENT, "no htb")

    before = ground.queues()
    ground.shapers = ground.another(Bare(ground.netlink))
    refused(grant(ground), ErrorCode.ERROR_NOT_SUPPORTED, "eth0", "sch_fq", "sch_htb")
    assert ground.queues() == before


def test_without_the_leafs_queue_the_flow_is_refused(ground: Ground) -> None:
    class Bare(WithoutFq):
        def put_segmenter(self, *_: Any) -> None:  # noqa: ANN401 - whatever it is asked
            raise FileNotFoundError(errno.ENOENT, "no tbf")

    ground.shapers = ground.another(Bare(ground.netlink))
    refused(grant(ground), ErrorCode.ERROR_NOT_SUPPORTED, "sch_tbf")


def test_without_rights_the_flow_is_refused(ground: Ground) -> None:
    class Weak(WithoutFq):
        def install_fq(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - whatever it is asked
            raise PermissionError(errno.EPERM, "Operation not permitted")

    ground.shapers = ground.another(Weak(ground.netlink))
    refused(grant(ground), ErrorCode.ERROR_ACCESS_DENIED, "eth0", "CAP_NET_ADMIN")


def test_without_a_destination_or_a_route_the_flow_is_refused(ground: Ground) -> None:
    refused(ground.shapers.grant(1, RATE_BPS, []), ErrorCode.ERROR_NOT_SUPPORTED, "destination")
    nowhere = hop("192.0.2.1")
    refused(
        ground.shapers.grant(1, RATE_BPS, [ground.peer, nowhere]),
        ErrorCode.ERROR_HOST_UNREACHABLE,
        "192.0.2.1",
    )
    assert ground.shapers.observe() == {}


def test_a_rate_below_what_the_kernel_counts_is_refused(ground: Ground) -> None:
    assert grant(ground) == FIRST
    refused(grant(ground, rate_bps=100), ErrorCode.ERROR_NOT_SUPPORTED, "eth0", "400 bit/s")
    # A failed call changes nothing.
    assert ground.shapers.observe() == {1: RATE_BPS}


def test_leaves_can_run_out_and_are_given_out_again_when_empty(ground: Ground) -> None:
    for flow_id in range(MOST_LEAVES):
        assert isinstance(grant(ground, flow_id), Leaf)
    refused(grant(ground, MOST_LEAVES), ErrorCode.ERROR_NO_SYSTEM_RESOURCES, str(MOST_LEAVES), "fq")
    assert grant(ground, 0, 10_000) == FIRST
    with ground.sender(FIRST.classid) as sock:
        for number in range(3):
            sock.send(numbered(number, 1_000))
        ground.shapers.end(0)
        # The second packet waits for 0.8 s.
        refused(grant(ground, MOST_LEAVES), ErrorCode.ERROR_NO_SYSTEM_RESOURCES)
        ground.shapers.end(1)
        assert grant(ground, MOST_LEAVES) == SECOND


def test_a_flow_over_two_interfaces_is_refused_and_one_that_moves_keeps_its_leaf(
    lab: Lab,
) -> None:
    left, middle, right = lab.host("left"), lab.router("middle"), lab.host("right")
    first = lab.link(left, middle)
    second = lab.link(left, middle)
    lab.link(middle, right)
    with ground_of(left, right) as made:
        made.qdiscs = WithoutFq(made.netlink)
        shapers: Shapers = made.another()
        near, far = hop(first.b.ipv4), hop(second.b.ipv4)
        refused(
            shapers.grant(1, RATE_BPS, [near, far]),
            ErrorCode.ERROR_NOT_SUPPORTED,
            "2 interfaces",
            "eth0",
        )
        assert shapers.observe() == {}
        assert shapers.grant(1, RATE_BPS, [near]) == FIRST
        assert shapers.grant(1, RATE_BPS, [far]) == FIRST
        indexes = [end.index for end in left.interfaces]
        assert [
            {leaf.classid for leaf in made.qdiscs.leaves(index, OUR_ROOT)} for index in indexes
        ] == [{FIRST.classid}, {FIRST.classid}]
        # A socket that is bound to an interface leaves by it.
        assert shapers.grant(2, RATE_BPS, [hop(first.b.ipv4, indexes[1])]) == SECOND
        rates_there = {leaf.classid for leaf in made.qdiscs.leaves(indexes[1], OUR_ROOT)}
        assert rates_there == {FIRST.classid, SECOND.classid}


# -- changes -----------------------------------------------------------------------------------


def test_changing_the_rate_keeps_what_waits_in_order(ground: Ground) -> None:
    grant(ground, rate_bps=1_000_000)
    with ground.sender(FIRST.classid) as sock, ground.left.capture(Direction.OUTGOING) as capture:
        for number in range(50):
            sock.send(numbered(number, 1_000))
        (leaf,) = ground.qdiscs.leaves(ground.interface, OUR_ROOT)
        assert leaf.waiting_packets > 40
        for rate_bps in (2_000_000, 500_000, 50_000_000):
            assert grant(ground, rate_bps=rate_bps) == FIRST
        sock.send(numbered(50, 1_000))
        packets = capture.wait_for(51, timeout_s=PATIENCE_S, where=of_the_flow)
    assert numbers(packets) == list(range(51))


def test_ending_a_flow_keeps_what_waits(ground: Ground) -> None:
    grant(ground, rate_bps=4_000_000)
    with ground.sender(FIRST.classid) as sock, ground.left.capture(Direction.OUTGOING) as capture:
        for number in range(50):
            sock.send(numbered(number, 1_000))
        ground.shapers.end(1)
        packets = capture.wait_for(50, timeout_s=PATIENCE_S, where=of_the_flow)
    assert numbers(packets) == list(range(50))


def test_a_larger_mtu_does_not_make_the_leaf_drop(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is too long for the queue that cuts trains is dropped if it is no train.
    monkeypatch.setattr(leaves_module, "HEADROOM_BYTES", -700)
    grant(ground)
    with ground.sender(FIRST.classid) as sock, ground.left.capture(Direction.OUTGOING) as capture:
        sock.send(numbered(0, 1_400))
        monkeypatch.undo()
        ground.outlets.have_changed()
        ground.shapers = ground.another()
        grant(ground)
        sock.send(numbered(1, 1_400))
        assert numbers(capture.wait_for(1, timeout_s=PATIENCE_S, where=of_the_flow)) == [1]


def test_the_kernel_refuses_to_remove_or_override_another_root(ground: Ground) -> None:
    assert ground.left.interface.try_qdisc("pfifo")
    with pytest.raises(OSError, match="Invalid"):
        ground.qdiscs.remove_root(ground.interface, OUR_ROOT)
    with pytest.raises(FileExistsError):
        ground.qdiscs.install_htb(ground.interface, OUR_ROOT, 14)
    assert ground.root().parent == ROOT_PARENT
    assert ground.root().kind == "pfifo"
