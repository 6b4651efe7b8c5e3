"""A request whose answer comes later."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from openqwave.model.errors import Refusal
    from openqwave.subsystem.effects import Value

Result: TypeAlias = "Value | Refusal"

_T = TypeVar("_T")


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


def finish(result: _T | Refusal | Pending, cancel: Callable[[int], object]) -> _T | Refusal:
    """The result of a request, waited for; one that is interrupted leaves no request behind.

    Args:
        result: What the request was answered with.
        cancel: Aborts a pending request, by its id.
    """
    if not isinstance(result, Pending):
        return result
    try:
        return cast("_T | Refusal", result.future.result())
    except BaseException:
        cancel(result.request_id)
        raise
