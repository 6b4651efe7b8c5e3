"""openqwave for asyncio: the names of `openqwave` as coroutines."""

from openqwave.client.aio import Flow, Opening, Qos, open  # noqa: A004 - the face's name

__all__ = ["Flow", "Opening", "Qos", "open"]
