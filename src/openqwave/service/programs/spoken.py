"""Requests that speak for programs which ask for nothing: runs begin and end, and all is listed."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from openqwave.admission.rights import refuse_exact_dscp
from openqwave.drivers.closing import close_safely
from openqwave.drivers.handedgroup import HandedGroup, NoGroup
from openqwave.ipc import messages as ms
from openqwave.ipc.packets import encode_packet
from openqwave.ipc.pages import program_page
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal
from openqwave.model.flow import TrafficType
from openqwave.service.programs.carrying import WITHHELD
from openqwave.service.programs.listing import rule_row, run_row
from openqwave.service.programs.runfile import SavedRun
from openqwave.service.programs.treatments import is_withheld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openqwave.service.peers import Peer
    from openqwave.service.programs.carrying import Carrying
    from openqwave.service.programs.runs import Run

_TYPES: Final = frozenset(map(int, TrafficType))
_MOST_DSCP: Final = 63
# As of contracts.
_MOST_BPS: Final = (1 << 64) - 1
_NULL: Final = b"null"


class SpokenFor:
    """Answers requests about runs and rules; by the server's loop only."""

    def __init__(self, carrying: Carrying) -> None:
        """Begin.

        Args:
            carrying: Has them carried out.
        """
        self._carrying = carrying

    def answer(self, peer: Peer, request: ms.Request, descriptor: int) -> bytes | Refusal:
        """Do what is asked.

        Args:
            peer: Who asks.
            request: One of this part of the protocol.
            descriptor: What came along, which is closed with this; -1 for nothing.
        """
        match request:
            case ms.StartRun():
                refusal = self._refuse_wish(peer, request)
                if refusal is None:
                    return self._start(peer, request, descriptor)
                if descriptor >= 0:
                    close_safely(descriptor)
                return refusal
            case ms.EndRun(run=number):
                return self._end(peer, number)
            case ms.ListPrograms(after=after):
                return program_page(islice(self._rows(peer), max(0, after), None))
            case _:
                return Refusal(
                    ErrorCode.ERROR_NOT_SUPPORTED, f"{type(request).__name__} is not known"
                )

    def row(self) -> ms.SpokenForRow:
        """How many runs and rules there are, for the status."""
        runs, rules, in_force = self._carrying.counts
        return ms.SpokenForRow(
            runs=runs, rules=rules, rules_in_force=in_force, reason=self._carrying.why_not
        )

    def _refuse_wish(self, peer: Peer, request: ms.StartRun) -> Refusal | None:
        """May a run be so, whatever came along? None means yes."""
        carrying, caller = self._carrying, peer.credentials()
        policy = carrying.policy
        if why_not := carrying.why_not or carrying.no_groups:
            return Refusal(ErrorCode.ERROR_NOT_SUPPORTED, why_not)
        if request.traffic_type is not None and request.traffic_type not in _TYPES:
            return _bad(f"{request.traffic_type} is no traffic type")
        if request.dscp is not None and not 0 <= request.dscp <= _MOST_DSCP:
            return _bad(f"a DSCP is 0 to {_MOST_DSCP}, and not {request.dscp}")
        if request.rate_bps is not None and not 0 < request.rate_bps <= _MOST_BPS:
            return _bad(f"a rate is 1 to {_MOST_BPS} bit/s, and not {request.rate_bps}")
        instead = "name a traffic type, which takes no right"
        if request.dscp is not None and (refused := refuse_exact_dscp(caller, policy, instead)):
            return refused
        return None if caller.is_administrator else self._refuse_quota(peer.uid, request.rate_bps)

    def _refuse_quota(self, uid: int, rate_bps: int | None) -> Refusal | None:
        """May a user have another run? None means yes."""
        runs, limits = self._carrying.runs, self._carrying.policy.limits
        if runs.count_of(uid) >= limits.runs_per_user:
            return Refusal(
                ErrorCode.ERROR_NO_SYSTEM_RESOURCES,
                f"{limits.runs_per_user} runs of this user go on, as many as one may have "
                "(limits.runs_per_user)",
            )
        return None if rate_bps is None else self._carrying.refuse_rate(uid, rate_bps)

    def _start(self, peer: Peer, request: ms.StartRun, descriptor: int) -> bytes | Refusal:
        carrying = self._carrying
        if descriptor < 0 or carrying.mount is None:
            return _bad("no directory of a cgroup came along")
        try:
            group = HandedGroup(descriptor, carrying.mount, request.pid)
        except NoGroup as error:
            return _bad(f"no directory of a cgroup came along: {error}")
        except OSError as error:
            return _bad(f"no cgroup that can be held came along: {error.strerror}")
        if group.uid != peer.uid and not peer.credentials().is_administrator:
            group.close()
            return Refusal(
                ErrorCode.ERROR_ACCESS_DENIED,
                "the cgroup belongs to another user; make one that is yours",
            )
        saved = SavedRun(
            number=carrying.runs.next_number(),
            program=request.program,
            pid=request.pid,
            uid=peer.uid,
            cgroup=group.path,
            group=group.number,
            traffic_type=request.traffic_type,
            dscp=request.dscp,
            rate_bps=request.rate_bps,
            hold_back=request.hold_back,
            adopt=request.adopt,
        )
        run = carrying.runs.add(saved, group)
        refusal = carrying.carry_out()
        if refusal is not None:
            carrying.runs.end(run, at_once=True)
            carrying.carry_out()
            return refusal
        carrying.runs.save()
        if request.adopt:
            carrying.adopt(run)
        return self._started(run)

    def _started(self, run: Run) -> bytes:
        carrying = self._carrying
        name, how = carrying.explained(run.claim_id)
        words = f"{name}: {how}" if name else how
        if is_withheld(run.wish, carrying.policy):
            words = WITHHELD
        return encode_packet(
            ms.StartedRun(
                run=run.saved.number,
                dscp=run.treatment(carrying.policy).dscp,
                words=words,
                adopted=run.reached.sockets,
                unreachable=run.reached.unreachable,
            )
        )

    def _end(self, peer: Peer, number: int) -> bytes | Refusal:
        runs = self._carrying.runs
        run = runs.find(number)
        if run is None or (run.saved.uid != peer.uid and not peer.credentials().is_administrator):
            # That there is one of somebody else's is nobody's business.
            return Refusal(ErrorCode.ERROR_NOT_FOUND, f"there is no run {number} of this user")
        runs.end(run, at_once=True)
        runs.save()
        return self._carrying.carry_out() or _NULL

    def _rows(self, peer: Peer) -> Iterator[ms.ProgramRow]:
        carrying = self._carrying
        policy, traffic = carrying.policy, carrying.traffic()
        sees_all = peer.credentials().is_administrator
        for run in carrying.runs.all():
            if sees_all or run.saved.uid == peer.uid:
                yield run_row(run, policy, carrying.how_of_run(run), traffic)
        for number, state in enumerate(carrying.ruling.states, 1):
            yield rule_row(number, state, policy, carrying.how(state), traffic)


def _bad(detail: str) -> Refusal:
    return Refusal(ErrorCode.ERROR_INVALID_PARAMETER, detail)
