"""Options given back that could not be given back when it was time.

**After a crash.** A service that was killed leaves marked sockets behind, and a journal that says
what each of them had (`openqwave.enforcement.journal`). The next one looks for them before it
serves anybody, in whatever process they are, and gives them that. What an application wrote
itself since is its last word and stays.

**In the run.** A flow can end when its socket is out of reach: its process was killed and it may
or may not be shared with one of a thousand others, or nothing can be fetched from its process and
it lent nothing. What such sockets are owed stays in the journal, too, and is tried again.

Each record is freed when it is done with and not before, so it does no harm to be cut off and
begin again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from openqwave.enforcement.holds import give_back
from openqwave.enforcement.marks import NotKept
from openqwave.model.sockets import Elsewhere

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from openqwave.enforcement.journal import Journal


class Sockets(Protocol):
    """Reaches sockets wherever they are; see `openqwave.drivers.reaching`."""

    def seek(self, owed: Mapping[int, int]) -> None:
        """Let `borrow` find these, by cookie and inode, and none named so before."""

    def search_everywhere(self) -> None:
        """Look through all processes now, however long that takes."""

    def borrow(self, cookie: int) -> socket.socket | None:
        """The socket, to be given back; None when it is gone.

        Raises:
            Elsewhere: Others are still looked through.
            OSError: It cannot be had.
        """

    def give_back(self, sock: socket.socket | None) -> None:
        """End the use."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of the sockets that were owed something.

    Attributes:
        given_back: They have their own options again.
        gone: Nobody holds them any more.
        searched: Processes are still looked through for them; worth another try soon.
        failed: They are out of reach, or the kernel refused; they stay in the journal.
        reason: Why the last of those failed; empty where none did.
    """

    given_back: int = 0
    gone: int = 0
    searched: int = 0
    failed: int = 0
    reason: str = ""


def recover(journal: Journal, sockets: Sockets) -> Recovered:
    """Give back what is left in the journal, before anybody is served.

    Looks through all processes, however long that takes (a second for half a million descriptors).

    Args:
        journal: Says what is owed.
        sockets: Reaches them.
    """
    if not journal.left:
        return Recovered()
    _seek(journal, sockets)
    sockets.search_everywhere()
    return retry(journal, sockets)


def retry(journal: Journal, sockets: Sockets) -> Recovered:
    """Give back what is left in the journal, as far as that goes without long searches.

    To be called where nothing else uses the two, once in a while.

    Args:
        journal: Says what is owed.
        sockets: Reaches them.
    """
    _seek(journal, sockets)
    given_back = gone = searched = failed = 0
    reason = ""
    for cookie, record in tuple(journal.left.items()):
        try:
            sock = sockets.borrow(cookie)
            if sock is None:
                gone += 1
            else:
                try:
                    give_back(sock, record)
                finally:
                    sockets.give_back(sock)
                given_back += 1
        except Elsewhere:
            searched += 1
        except (OSError, NotKept) as error:
            failed += 1
            reason = str(error)
        else:
            journal.settle(cookie)
    _seek(journal, sockets)
    return Recovered(given_back, gone, searched, failed, reason)


def _seek(journal: Journal, sockets: Sockets) -> None:
    sockets.seek({cookie: record.inode for cookie, record in journal.left.items()})
