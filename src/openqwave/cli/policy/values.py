"""Each value of a policy as its files have it, with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from openqwave.admission.profiles import PROFILES
from openqwave.model.flow import TrafficType
from openqwave.service import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openqwave.service.config import Config
    from openqwave.service.documents import Origin
    from openqwave.service.toml_lines import Place

_BPS_PER_KBPS: Final = 1_000
_BYTES_PER_KB: Final = 1_000
_PPM_PER_PERCENT: Final = 10_000
_NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Value:
    """One value that is in force with these files.

    Attributes:
        key: Its name, with those of its tables.
        value: As TOML has it.
        origin: Where it is written; None for nowhere.
        profile: The table of marks that it was taken from; empty if none.
    """

    key: str
    value: Any
    origin: Origin | None
    profile: str = ""

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        where = "default" if self.origin is None else str(self.origin)
        return f"profile {self.profile}, {where}" if self.profile else where


def values_of(config: Config) -> list[Value]:
    """All values of the policy, table by table."""
    found = [
        _value(config, ("access", "operators_group"), config.policy.operators_group),
        _value(
            config, ("access", "priority_needs_contract"), config.policy.priority_needs_contract
        ),
        _value(config, ("marks", "profile"), config.profile),
    ]
    for traffic_type in TrafficType:
        found += _marks(config, traffic_type)
    for place, value in (*_limits(config), *_experiments(config)):
        found.append(_value(config, place, value))
    minimum = config.policy.default_minimum_bps // _BPS_PER_KBPS
    found.append(_value(config, ("rates", "default_minimum_kbps"), minimum))
    return found


def _value(config: Config, place: Place, value: object) -> Value:
    return Value(".".join(map(str, place)), value, config.origins.get(place))


def _marks(config: Config, traffic_type: TrafficType) -> Iterator[Value]:
    name = traffic_type.name.lower()
    place: Place = ("marks", name)
    marks = config.policy.marks[traffic_type]
    of_profile = config.origins.get(("marks", "profile"))

    def taken(key: str, value: object) -> Value:
        """A value that no file gives this type itself."""
        return Value(key, value, of_profile, config.profile)

    if marks is None:
        said = config.origins.get(place)
        key = ".".join(map(str, place))
        yield taken(key, "none") if said is None else Value(key, "none", said)
        return
    for part, value in (("dscp", marks.dscp), ("pcp", marks.pcp)):
        found = _value(config, (*place, part), value)
        # A type that the profile leaves alone has no priority there either.
        is_taken = found.origin is None and PROFILES[config.profile][traffic_type] is not None
        yield taken(found.key, value) if is_taken else found


def _limits(config: Config) -> Iterator[tuple[Place, Any]]:
    of_flows, of_connections = config.policy.limits, config.server_limits
    scaled = {
        "contracts_per_user_kbps": _most(of_flows.contracts_per_user_bps, _BPS_PER_KBPS),
        "contracts_per_host_kbps": _most(of_flows.contracts_per_host_bps, _BPS_PER_KBPS),
        "contracts_per_host_percent": _share(of_flows.contracts_per_host_ppm),
        "contracts_per_interface_percent": _share(of_flows.contracts_per_interface_ppm),
    }
    for name in settings.ClientLimits.__struct_fields__:
        if name in scaled:
            yield ("limits", name), scaled[name]
            continue
        limits = of_flows if hasattr(of_flows, name) else of_connections
        yield ("limits", name), getattr(limits, name)


def _most(value: int | None, scale: int) -> int | str:
    return "none" if value is None else value // scale


def _share(ppm: int | None) -> float | str:
    return "none" if ppm is None else ppm / _PPM_PER_PERCENT


def _experiments(config: Config) -> Iterator[tuple[Place, Any]]:
    found = config.policy.experiments
    values = {
        "share_percent": found.share_ppm / _PPM_PER_PERCENT,
        "most_kbps": found.most_bps // _BPS_PER_KBPS,
        "burst_kb": found.burst_bytes // _BYTES_PER_KB,
        "allowed": list(found.allowed),
        "forbidden": list(found.forbidden),
        "estimate_age_s": found.estimate_age_ns / _NS_PER_S,
        "answer_s": found.answer_ns / _NS_PER_S,
        "warm_s": found.warm_ns / _NS_PER_S,
    }
    for name, value in values.items():
        yield ("experiments", name), value
