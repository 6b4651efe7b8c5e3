"""A request whose answer comes later."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from openqwave.model.errors import Refusal
    from openqwave.subsystem.effects import Value

Result: TypeAlias = "Value | Refusal"


class Pending:
    """A request that is still open.

    Attributes:
        request_id: Names it to `Cancel`.
        future: Gets the result; cancelling the future itself does nothing to the request.
    """

    __slots__ = ("future", "request_id")

    def __init__(self, request_id: int) -> None:
        self.request_id = request_id
        self.future: Future[Result] = Future()
