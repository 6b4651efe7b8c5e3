"""Both ends of the control protocol, joined back to back: what one writes, the other reads."""

from __future__ import annotations

from collections.abc import Callable

from openqwave.ipc import asking, serving
from openqwave.ipc import messages as ms
from openqwave.model.codes import ErrorCode
from openqwave.model.errors import Refusal

LIMITS = serving.PeerLimits(outstanding=4, pause_bytes=200, queue_bytes=2_000)
LOSS = Refusal(ErrorCode.ERROR_DEVICE_REINITIALIZATION_NEEDED, "the machine slept")
NO_FLOW = Refusal(ErrorCode.ERROR_NOT_FOUND, "no flow of that id")
NULL = b"null"

# One of each request, with everything said that may be left out.
REQUESTS: list[Callable[[int], ms.Request]] = [
    lambda i: ms.AddSocket(i, 0, 4, False, "fe80::1", 5004, 3, 12),
    lambda i: ms.AddSocket(i, 9, 0, True, None, 0),
    lambda i: ms.RemoveSocket(i, 9, True),
    lambda i: ms.RemoveSocket(i, 9, False),
    lambda i: ms.SetTrafficType(i, 9, 3),
    lambda i: ms.SetRate(i, 9, 12_000_000, 1, 1, True, True),
    lambda i: ms.SetRate(i, 9, None, 0, 0),
    lambda i: ms.SetDscp(i, 9, 46),
    lambda i: ms.Query(i, 9, "fundamentals", True, True),
    lambda i: ms.Query(i, 9, "path"),
    lambda i: ms.Notify(i, 9, 2, 5_000_000),
    lambda i: ms.Notify(i, 9, 0, None),
    lambda i: ms.StartTracking(i, "192.0.2.7"),
    lambda i: ms.StopTracking(i, "fe80::7", 2),
    ms.EnumerateFlows,
    lambda i: ms.EnumerateFlows(i, 17),
    lambda i: ms.Cancel(i, 4),
    ms.Check,
    ms.Close,
    lambda i: ms.ListFlows(i, 3),
    lambda i: ms.ListPaths(i, 100),
    ms.AskStatus,
    lambda i: ms.StartRun(i, "player", 4711, 4, 46, 20_000_000, True, True),
    lambda i: ms.StartRun(i, "player", 4711),
    lambda i: ms.EndRun(i, 7),
    lambda i: ms.ListPrograms(i, 3),
    lambda i: ms.ListRefusals(i, 3),
]


def service_events(end: serving.ServiceEnd) -> list[serving.Event]:
    """All that the service's end has to tell."""
    return list(iter(end.next_event, None))


def client_events(end: asking.ClientEnd) -> list[asking.Event]:
    """All that the program's end has to tell."""
    return list(iter(end.next_event, None))


def take_packet(end: serving.ServiceEnd) -> bytes | None:
    """The next packet, as sent."""
    packet = end.next_packet()
    if packet is not None:
        end.packet_sent()
    return packet


def sent(end: serving.ServiceEnd) -> list[ms.Reply]:
    """All that the service's end sends."""
    return [ms.decode_reply(packet) for packet in iter(lambda: take_packet(end), None)]


class JoinedEnds:
    """A connection.

    Attributes:
        service: The service's end.
        client: The program's.
    """

    def __init__(self, limits: serving.PeerLimits = LIMITS) -> None:
        self.service = serving.ServiceEnd(limits)
        self.client = asking.ClientEnd("a program")

    def open(self) -> JoinedEnds:
        """Hello and welcome."""
        self.service.receive_packet(self.client.hello())
        (opened,) = service_events(self.service)
        assert isinstance(opened, serving.Opened)
        self.service.welcome(service="qwaved 1", lends=False)
        (welcomed,) = self.hear()
        assert isinstance(welcomed, asking.Welcomed)
        return self

    def say(self, message: ms.Request, descriptors: int = 0) -> list[serving.Event]:
        """Carry a request over; what the service's end makes of it."""
        self.service.receive_packet(self.client.request(message), descriptors)
        return service_events(self.service)

    def hear(self) -> list[asking.Event]:
        """Carry all that waits back; what the program's end makes of it."""
        for packet in iter(lambda: take_packet(self.service), None):
            self.client.receive_packet(packet)
        return client_events(self.client)
