"""The library of `nft`, called in this process: no program is started.

libnftables (libnftables(3)) takes the same text as the command `nft` and says no in the same
words. It is asked for what is rare and hard to write by hand, rules and chains; what is frequent,
the elements of maps, goes to the kernel directly (`openqwave.enforcement.nft.elements`).

A context has one netlink socket, which belongs to the network namespace in which it was opened.
Each command buffer is one transaction: all of it or nothing. After an error the context is thrown
away, because release 1.0.6 was seen to crash when it went on with one.

It says what failed in English only: it never asks for a locale.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final, Self

# Major 1 since the first release, in 2018.
_FILE: Final = "libnftables.so.1"
# NFT_CTX_OUTPUT_JSON, and _TERSE: without the elements of named sets and maps.
_AS_JSON, _IS_TERSE = 1 << 4, 1 << 11
# What the kernel said comes as its text alone, in brackets or after a colon.
_NUMBERS: Final = {
    os.strerror(number): number
    for number in (
        errno.EPERM,
        errno.EACCES,
        errno.ENOENT,
        errno.EEXIST,
        errno.EBUSY,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EOPNOTSUPP,
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.EINVAL,
        errno.EINTR,
    )
}
# What a kernel without nftables, or without the family, answers.
_ABSENT: Final = frozenset({errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})


def open_library(file: str = _FILE) -> ctypes.CDLL:
    """Load the library.

    Args:
        file: Its name.

    Raises:
        OSError: It is not installed (ENOPROTOOPT: the mechanism is missing).
    """
    try:
        library = ctypes.CDLL(file)
    except OSError:
        detail = f"{file} is not installed: install the package libnftables1 (or nftables)"
        raise OSError(errno.ENOPROTOOPT, detail) from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.restype = None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


class Nft:
    """Runs commands as `nft` does."""

    def __init__(self, library: ctypes.CDLL | None = None, *, as_json: bool = False) -> None:
        """Open the library in the network namespace of this thread.

        Args:
            library: It; None for the one that is installed.
            as_json: Lists are JSON, without the elements of named sets and maps.

        Raises:
            OSError: It is not installed, or has no memory or descriptor.
        """
        self._library = library or open_library()
        self._flags = _AS_JSON | _IS_TERSE if as_json else 0
        self._context: int | None = self._open()

    def run(self, commands: str) -> str:
        """Carry out commands as one transaction.

        Args:
            commands: One on each line.

        Returns:
            What `nft` would print.

        Raises:
            OSError: All is as before; the text is nft's own first line.
        """
        context = self._context or self._open()
        self._context = context
        ctypes.set_errno(0)
        status = self._library.nft_run_cmd_from_buffer(context, commands.encode())
        if status == 0:
            printed = self._library.nft_ctx_get_output_buffer(context)
            return (printed or b"").decode()
        said = (self._library.nft_ctx_get_error_buffer(context) or b"").decode()
        self.close()
        raise _error(said)

    def close(self) -> None:
        """Give the context back; the next command opens another."""
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.close()

    def _open(self) -> int:
        context = self._library.nft_ctx_new(0)
        if not context:
            raise OSError(errno.ENOMEM, "libnftables could not be started")
        self._library.nft_ctx_buffer_output(context)
        self._library.nft_ctx_buffer_error(context)
        if self._flags:
            self._library.nft_ctx_output_set_flags(context, self._flags)
        return int(context)


def _error(said: str) -> OSError:
    """What nft said, as the error that the kernel gave it; EIO for what is none of the kernel's."""
    first = said.strip().partition("\n")[0]
    number = next((number for text, number in _NUMBERS.items() if text in first), errno.EIO)
    if number in _ABSENT:
        number = errno.EOPNOTSUPP
    return OSError(number, f"nft: {first or 'no reason given'}")
