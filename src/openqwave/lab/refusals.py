"""What the kernel refused, said in words: netlink's errors with the thing that was wanted.

Netlink's own message for a queue or a device that a kernel was built without is "No such file or
directory" or "Operation not supported", which tells nobody what to do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pyroute2.netlink.exceptions import NetlinkError


@contextlib.contextmanager
def explained(wanted: str) -> Iterator[None]:
    """Raise an OSError, with netlink's number, that says what was wanted.

    Args:
        wanted: What the kernel is asked for and what provides it, in words.
    """
    try:
        yield
    except NetlinkError as error:
        reason = os.strerror(error.code)
        raise OSError(error.code, f"the kernel refuses {wanted}: {reason}") from error
