"""What each function calls the troubles of a path.

qos2.h lists the errors of each function, and programs look for those. A path can be in more kinds
of trouble than each of the lists has names for, so what a list lacks is called by the nearest name
that it has. A host that does not answer at all, by whatever sign, is unreachable. Experiments that
broke off are begun again after a pause, so whoever asks for their results asks again (ERROR_RETRY);
whoever begins to track the host is told that nobody answers there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from openqwave.model.codes import ErrorCode

Names: TypeAlias = Mapping[int, ErrorCode]

# What every list has: the experiments' own thread or the kernel is at fault, not the path.
_FAULTS: Final[Names] = {ErrorCode.ERROR_GEN_FAILURE: ErrorCode.ERROR_IO_DEVICE}

IN_SET_FLOW: Final[Names] = {
    **_FAULTS,
    ErrorCode.ERROR_BAD_NET_NAME: ErrorCode.ERROR_HOST_UNREACHABLE,
    ErrorCode.ERROR_TIMEOUT: ErrorCode.ERROR_HOST_UNREACHABLE,
}
IN_QUERY_FLOW: Final[Names] = {
    **_FAULTS,
    ErrorCode.ERROR_BAD_NET_NAME: ErrorCode.ERROR_HOST_UNREACHABLE,
    ErrorCode.ERROR_UNEXP_NET_ERR: ErrorCode.ERROR_RETRY,
}
IN_NOTIFY_FLOW: Final[Names] = IN_SET_FLOW
# "Off-link while policy forbids experiments there" is not to be told apart from any other path
# that nobody can measure.
IN_START_TRACKING: Final[Names] = {
    **_FAULTS,
    ErrorCode.ERROR_ACCESS_DISABLED_BY_POLICY: ErrorCode.ERROR_NOT_SUPPORTED,
    ErrorCode.ERROR_TIMEOUT: ErrorCode.ERROR_HOST_UNREACHABLE,
    ErrorCode.ERROR_UNEXP_NET_ERR: ErrorCode.ERROR_HOST_UNREACHABLE,
}
# Of functions that no path's trouble stops.
NOT_OF_PATHS: Final[Names] = {}


def named(code: int, names: Names) -> int:
    """An error as a function calls it."""
    return names.get(code, code)
