"""Who may do what: the kernel's word on a caller, weighed against the policy.

Most of the interface needs no rights. Exact code points and the view over all flows do,
as on Windows, where they belong to Administrators and Network Configuration Operators.
An administrator here is effective uid 0 or CAP_NET_ADMIN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal

if TYPE_CHECKING:
    from openqwave.admission.policy import Policy


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the kernel says of a caller.

    Attributes:
        effective_uid: The uid that rights are judged by.
        has_net_admin: CAP_NET_ADMIN is in the effective set.
        groups: Names of all groups the caller is in.
    """

    effective_uid: int
    has_net_admin: bool
    groups: frozenset[str]

    @property
    def is_administrator(self) -> bool:
        """May the caller do everything?"""
        return self.effective_uid == 0 or self.has_net_admin


def limited_user(effective_uid: int, *, has_net_admin: bool) -> int | None:
    """The user whose limits hold for a caller; None for an administrator.

    As with the kernel's own limits of this kind (RLIMIT_NPROC, quotas of disks): they keep users
    from taking what others need, and an administrator could lift them.
    """
    return None if effective_uid == 0 or has_net_admin else effective_uid


def refuse_exact_dscp(caller: Credentials, policy: Policy, instead: str) -> Refusal | None:
    """May the caller choose code points itself? None means yes.

    Args:
        caller: Who wants to.
        policy: What names the group of those who may.
        instead: What there is without the right, for people.
    """
    if caller.is_administrator or policy.operators_group in caller.groups:
        return None
    return Refusal(
        ErrorCode.ERROR_ACCESS_DENIED,
        "an exact DSCP needs effective uid 0, CAP_NET_ADMIN or membership of the group "
        f"{policy.operators_group!r}; {instead}",
    )


def refuse_enumeration(caller: Credentials) -> Refusal | None:
    """May the caller see all flows? None means yes."""
    if caller.is_administrator:
        return None
    return Refusal(
        ErrorCode.ERROR_ACCESS_DENIED,
        "listing all flows needs effective uid 0 or CAP_NET_ADMIN",
    )
