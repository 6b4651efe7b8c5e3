"""What is raised when the other end does not keep to the protocol.

Only a program's end raises: it has a caller who waits. At the service's end the same is an event
(`openqwave.ipc.serving.Violated`), because a service outlives whoever speaks to it.
"""

from __future__ import annotations

from openqwave.model.errors import ReinitializationNeeded

# Bad packets are quoted in errors and logs, and a peer chooses how long they are.
MAX_REASON_CHARS = 160


class ProtocolError(ReinitializationNeeded):
    """The other end said what the protocol does not allow; nothing more can be believed of it.

    To who holds the handle it is the same as a service that went away: open a new one.

    Attributes:
        reason: What was wrong, on one line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the control protocol was broken: {reason}")
        self.reason = reason


def reason_of(error: Exception) -> str:
    """What an exception says, fit for a line of a log whatever bytes led to it.

    Args:
        error: Raised by a decoder; it may quote what a peer sent.

    Returns:
        Printable characters on one line, `MAX_REASON_CHARS` at most.
    """
    text = str(error)[:MAX_REASON_CHARS]
    return text if text.isprintable() else ascii(text)[1:-1][:MAX_REASON_CHARS]
