"""The steps of an examination: what is looked at, and which check judges it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final

from openqwave.cli.doctor import trials
from openqwave.cli.doctor.checks import (
    clock,
    firewall,
    foreign,
    interfaces,
    kernel,
    program,
    queues,
    rights,
    service,
    way,
)
from openqwave.cli.doctor.scene import ask_service, held_by, look
from openqwave.drivers.clockstate import read_clock, try_stamps
from openqwave.drivers.filters import Filters
from openqwave.drivers.kernelparts import read_parts
from openqwave.drivers.netlink import Netlink
from openqwave.drivers.pathfinder import Pathfinder
from openqwave.model.path import PathFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from openqwave.cli.doctor.checks.program import Trial
    from openqwave.cli.doctor.findings import Finding
    from openqwave.cli.doctor.scene import Interface, Scene, ServiceSeen
    from openqwave.cli.interruption import Interruption
    from openqwave.model.endpoint import Endpoint
    from openqwave.model.errors import Refusal
    from openqwave.model.estimates import Unmeasurable

_PARTS: Final = (queues.FQ, queues.HTB, queues.TBF)
# Where the service's program hangs from a link; see `openqwave.enforcement.bpf.presence`.
_BY_TCX: Final = "by TCX"


class Examination:
    """Looks at one host: this one."""

    def __init__(
        self, host: str | None, target: Endpoint | None, interruption: Interruption
    ) -> None:
        """Look at nothing yet.

        Args:
            host: The host that was named; None for none.
            target: Its address.
            interruption: May end any wait.
        """
        self._host = host or ""
        self._target = target
        self._interruption = interruption

    def steps(self) -> Iterator[tuple[str, Callable[[], Sequence[Finding]]]]:
        """All of them, in order: what each looks at, and how."""
        if self._target is not None:
            yield "way", partial(self._way, self._target)
        yield "kernel", lambda: [kernel.version(os.uname().release)]
        yield "rights", self._rights
        yield "service", self._service
        yield "program", self._program
        yield "queues", self._queues
        yield "interfaces", self._interfaces
        yield "firewall", self._firewall
        yield "others' QoS", self._foreign
        yield "clock", self._clock

    # -- what several steps need -------------------------------------------------------

    @cached_property
    def _asked(self) -> ServiceSeen:
        return ask_service(self._interruption)

    def _find(self, target: Endpoint) -> PathFacts | Unmeasurable | Refusal:
        experiments = self._asked.config.policy.experiments
        with contextlib.closing(Pathfinder(experiments.allowed, experiments.forbidden)) as finder:
            return finder.find(target)

    @cached_property
    def _scene(self) -> Scene:
        towards = None
        if self._target is not None:
            route = self._find(self._target)
            towards = route.interface if isinstance(route, PathFacts) else None
        return look(towards, self._asked)

    @cached_property
    def _trial(self) -> Trial:
        return trials.try_program()

    @cached_property
    def _rules(self) -> trials.Rules:
        return trials.read_rules()

    # -- steps -------------------------------------------------------------------------

    def _way(self, target: Endpoint) -> list[Finding]:
        found = [way.route(self._host, self._find(target))]
        error = trials.try_connection(target, self._interruption)
        refused = error is not None and error.errno == errno.ECONNREFUSED
        said = "" if error is None else error.strerror or str(error)
        return [*found, way.sink(self._host, said, is_refused=refused)]

    def _rights(self) -> list[Finding]:
        return [rights.of_caller(self._scene.user, self._scene.held)]

    def _service(self) -> list[Finding]:
        scene = self._scene
        if scene.status is None:
            found = [service.none_runs(scene.no_service)]
        else:
            from importlib.metadata import version

            found = list(service.running(scene.status, version("openqwave")))
            found.append(rights.of_service(scene.status.pid, held_by(scene.status.pid)))
        group = scene.config.policy.operators_group
        found.append(service.operators(group, scene.members(), scene.user, scene.config_trouble))
        return found

    def _program(self) -> list[Finding]:
        status, trial, rules = self._scene.status, self._trial, self._rules
        return [
            program.program(trial, "" if status is None else status.backend.name),
            program.closed_sockets(trial),
            program.makers(trial),
            program.nftables(
                rules.nft_trouble,
                lacks_rights=rules.lacks_rights,
                has_program=not trial.trouble,
            ),
        ]

    def _queues(self) -> list[Finding]:
        scene, parts = self._scene, read_parts()
        had = {module: parts.find(module, option) for module, option in _PARTS}
        return [
            queues.shapers(had, scene.queues),
            *[
                queues.root(
                    each.name,
                    scene.queues_of(each),
                    may_install=scene.may_install(each.name),
                    has_fq=queues.has_fq(had),
                )
                for each in scene.interfaces
            ],
        ]

    def _interfaces(self) -> list[Finding]:
        found: list[Finding] = []
        for each in self._scene.interfaces:
            seen = each.seen
            found += [interfaces.kind(seen), interfaces.ipv6(seen), interfaces.offloads(seen)]
        return found or [interfaces.none_there()]

    def _firewall(self) -> list[Finding]:
        scene, rules = self._scene, self._rules
        versions = [4, 6] if any(each.seen.has_ipv6 for each in scene.interfaces) else [4]
        packets = firewall.packets([each.name for each in scene.interfaces], versions)
        wanted = scene.status is None or scene.status.sink.on
        return [
            firewall.port(
                packets,
                rules.firewalls,
                rules.trouble,
                lacks_rights=rules.lacks_rights,
                is_wanted=wanted,
            )
        ]

    def _foreign(self) -> list[Finding]:
        scene = self._scene
        found = []
        with Netlink(socket.NETLINK_ROUTE) as netlink:
            filters = Filters(netlink)
            for each in scene.interfaces:
                programs = trials.programs_at(each.index)
                if programs is not None:
                    programs = max(0, programs - self._own_programs(each))
                others = filters.of_exit(each.index) if filters.holder(each.index) else []
                queue = scene.queues_of(each)
                found.append(foreign.at_interface(each.name, queue, others, programs))
        rules = self._rules
        marks = foreign.marking_rules(rules.marking, rules.trouble, lacks_rights=rules.lacks_rights)
        return [*found, marks]

    def _own_programs(self, interface: Interface) -> int:
        """How many of the programs at an exit are the service's, by its own word."""
        status = self._scene.status
        places = () if status is None else status.interfaces
        return sum(
            place.name == interface.name and place.words.startswith(_BY_TCX) for place in places
        )

    def _clock(self) -> list[Finding]:
        wait_ns, trouble, is_lost = None, "", False
        try:
            wait_ns = try_stamps()
        except TimeoutError:
            is_lost = True
        except OSError as error:
            trouble = error.strerror or str(error)
        found = [clock.stamps(wait_ns, trouble, is_lost=is_lost)]
        with contextlib.suppress(OSError):
            state = read_clock()
            found += [clock.source(state), clock.synchronised(state)]
        return found
