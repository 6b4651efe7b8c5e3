"""Whatever processes do, limits of users and hosts are kept, and refuse nothing that fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openqwave.admission.policy import Limits, Policy
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.subsystem import requests as rq
from tests.unit.driven import NO_MECHANISM, A, B, Driven, add, facts, rate

USERS = (1_000, 1_001, None)
PROCESSES = 6
FLOWS, DESTINATIONS, OF_USER_BPS, OF_HOST_BPS = 4, 6, 100, 150

steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "join", "rate", "rate", "remove", "close", "policy"]),
        st.integers(0, PROCESSES - 1),
        st.integers(0, 8),
        st.sampled_from([0, 1, 10, 40, 60, 100, 150]),
        st.booleans(),
    ),
    max_size=60,
)


class Book:
    """What the limits are about, kept as simply as can be."""

    def __init__(self) -> None:
        self.policy = Policy(
            limits=Limits(
                flows_per_user=FLOWS,
                destinations_per_user=DESTINATIONS,
                contracts_per_user_bps=OF_USER_BPS,
                contracts_per_host_bps=OF_HOST_BPS,
            )
        )
        self.driven = Driven(self.policy)
        self.handles = [self.open(process) for process in range(PROCESSES)]
        # By flow: the process, its destinations, the host of an adaptive one, the rate.
        self.flows: dict[int, tuple[int, int, object, int]] = {}
        self.cookie = 0

    def open(self, process: int) -> int:
        handle = self.driven.engine.open_handle(process + 1, USERS[process % len(USERS)])
        assert isinstance(handle, int)
        return handle

    def of_user(self, process: int) -> list[tuple[int, int, object, int]]:
        """The flows of a process's user; none of an administrator's."""
        user = USERS[process % len(USERS)]
        if user is None:
            return []
        return [one for one in self.flows.values() if USERS[one[0] % len(USERS)] == user]

    def ask(self, process: int, request: rq.Request, *, fails: bool) -> object:
        """Ask; the kernel may refuse."""
        if fails:
            self.driven.mechanism.refusals.append(NO_MECHANISM)
        result = self.driven.result(self.handles[process], request)
        self.driven.mechanism.refusals.clear()
        if isinstance(result, Refusal) and result.code is ErrorCode.ERROR_NOT_SUPPORTED:
            assert fails
        return result

    def add(self, process: int, *, is_adaptive: bool, fails: bool) -> None:
        mine = self.of_user(process)
        fits = len(mine) < FLOWS and sum(one[1] for one in mine) < DESTINATIONS
        self.cookie += 1
        host = A if self.cookie % 2 else B
        request = add(0, facts(self.cookie), host, is_adaptive=is_adaptive)
        result = self.ask(process, request, fails=fails)
        if isinstance(result, int):
            assert fits
            self.flows[result] = (process, 1, host if is_adaptive else None, 0)
        else:
            assert isinstance(result, Refusal)
            assert (result.code is ErrorCode.ERROR_NO_SYSTEM_RESOURCES) != fits

    def join(self, flow: int, *, fails: bool) -> None:
        process, count, host, rate_bps = self.flows[flow]
        if host is not None:
            return
        fits = sum(one[1] for one in self.of_user(process)) < DESTINATIONS
        self.cookie += 1
        result = self.ask(process, add(flow, facts(self.cookie), A), fails=fails)
        if isinstance(result, int):
            assert fits
            self.flows[flow] = (process, count + 1, host, rate_bps)
        else:
            assert isinstance(result, Refusal)
            assert (result.code is ErrorCode.ERROR_NO_SYSTEM_RESOURCES) != fits

    def set_rate(self, flow: int, rate_bps: int, *, fails: bool) -> None:
        process, count, host, held_bps = self.flows[flow]
        more_bps = rate_bps - held_bps
        user_bps = sum(one[3] for one in self.of_user(process)) if self.of_user(process) else 0
        of_host = [one[3] for one in self.flows.values() if host is not None and one[2] is host]
        is_limited = USERS[process % len(USERS)] is not None
        fits_user = not is_limited or more_bps <= 0 or user_bps + more_bps <= OF_USER_BPS
        fits_host = host is None or more_bps <= 0 or sum(of_host) + more_bps <= OF_HOST_BPS
        result = self.ask(process, rate(flow, rate_bps), fails=fails)
        if result is None:
            assert fits_user
            assert fits_host
            self.flows[flow] = (process, count, host, rate_bps)
            return
        assert isinstance(result, Refusal)
        wanted = (
            ErrorCode.ERROR_NO_SYSTEM_RESOURCES
            if not fits_user
            else ErrorCode.ERROR_NETWORK_BUSY
            if not fits_host
            else ErrorCode.ERROR_NOT_SUPPORTED
        )
        assert result.code is wanted

    def remove(self, flow: int, *, fails: bool) -> None:
        process = self.flows[flow][0]
        if self.ask(process, rq.RemoveSocket(flow, None), fails=fails) is None:
            del self.flows[flow]

    def close(self, process: int) -> None:
        self.driven.grant(self.handles[process], rq.CloseHandle())
        self.flows = {number: one for number, one in self.flows.items() if one[0] != process}
        self.handles[process] = self.open(process)

    def change_policy(self) -> None:
        """There and back again."""
        for policy in (Policy(), self.policy):
            now_ns = self.driven.now_ns
            self.driven.carry_out(self.driven.engine.receive_policy(policy, now_ns=now_ns))


@given(steps)
def test_limits_are_kept_and_refuse_nothing_that_fits(
    walk: list[tuple[str, int, int, int, bool]],
) -> None:
    book = Book()
    for what, process, number, rate_bps, fails in walk:
        flow = list(book.flows)[number % len(book.flows)] if book.flows else None
        if what == "add":
            book.add(process, is_adaptive=bool(number % 2), fails=fails)
        elif what == "close":
            book.close(process)
        elif what == "policy":
            book.change_policy()
        elif flow is None:
            continue
        elif what == "join":
            book.join(flow, fails=fails)
        elif what == "rate":
            book.set_rate(flow, rate_bps, fails=fails)
        else:
            book.remove(flow, fails=fails)
    for process in range(PROCESSES):
        book.driven.grant(book.handles[process], rq.CloseHandle())
    book.driven.wait(10**12)
    assert book.driven.engine.entry_count == 0
