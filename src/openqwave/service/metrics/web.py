"""One connection of a collector: as little of HTTP as it takes, from whoever connects.

One request, one answer, and the connection ends. The head of a request has an end within a few
kilobytes and seconds, or the connection has; bodies are not read. Nothing here waits: bytes are
taken as they come, and sent as they are taken.

A page in a browser must not read the numbers of this host by a name that its owner points to
127.0.0.1; so a request to an address of this host has to name an address, or `localhost`.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from openqwave.service.metrics.exposition import format_for

if TYPE_CHECKING:
    from collections.abc import Callable

# Prometheus' own is 300 bytes; proxies add some.
MAX_HEAD_BYTES: Final = 8_192
_READ_BYTES: Final = 4_096
_PLAIN: Final = "text/plain; charset=utf-8"

_STATUSES: Final = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    505: "HTTP Version Not Supported",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered.

    Attributes:
        status: Of HTTP.
        body: The text.
        content_type: What it is.
        has_body: Whether it is sent, too, and not only its length.
    """

    status: int
    body: bytes
    content_type: str = _PLAIN
    has_body: bool = True

    def packed(self) -> bytes:
        """All of it as bytes."""
        allow = "Allow: GET, HEAD\r\n" if self.status == 405 else ""
        head = (
            f"HTTP/1.1 {self.status} {_STATUSES[self.status]}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n{allow}"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode("ascii") + (self.body if self.has_body else b"")


def answer_to(head: bytes, read: Callable[[str], bytes], *, names_matter: bool) -> Answer:
    """Answer a request.

    Args:
        head: All up to the empty line.
        read: Makes the numbers, in a type of content.
        names_matter: Only requests that name an address or `localhost` are answered.
    """
    # Latin-1 takes any byte.
    first, *rest = head.decode("latin-1").splitlines()
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        return Answer(400, b"this is no request of HTTP\n")
    method, target, version = words
    if not version.startswith("HTTP/1."):
        return Answer(505, b"HTTP/1.1 is spoken here\n")
    fields = {}
    for line in rest:
        name, colon, text = line.partition(":")
        if not colon:
            return Answer(400, b"a field of the head has no colon\n")
        fields[name.strip().lower()] = text.strip()
    if method not in ("GET", "HEAD"):
        return Answer(405, b"only GET and HEAD are known here\n")
    if names_matter and not _is_named_by_address(fields.get("host", "")):
        return Answer(403, b"ask by address, or as localhost\n")
    has_body = method == "GET"
    path = target.partition("?")[0]
    if path == "/":
        return Answer(200, b"qwaved: the numbers are at /metrics\n", has_body=has_body)
    if path != "/metrics":
        return Answer(404, b"the numbers are at /metrics\n", has_body=has_body)
    content_type = format_for(fields.get("accept", ""))
    return Answer(200, read(content_type), content_type, has_body)


def _is_named_by_address(host: str) -> bool:
    """Is a request's name of this host one that nobody else can point here?"""
    # HTTP/1.0 has none, and browsers always send one.
    name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
    if name.lower() in ("", "localhost"):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Connection:
    """One connection.

    Attributes:
        sock: It; does not block.
        since_s: When it came, or was answered; monotonic time.
        is_over: There is nothing more to be done but to close it.
    """

    def __init__(self, sock: socket.socket, now_s: float) -> None:
        self.sock = sock
        self.since_s = now_s
        self.is_over = False
        self._head = bytearray()
        self._out: memoryview | None = None

    @property
    def wants_to_write(self) -> bool:
        """Is an answer under way?"""
        return bool(self._out)

    def read(self) -> bytes | Answer | None:
        """Take in what has come.

        Returns:
            A request's head, or an answer to what is none; None where there is nothing to do yet.
        """
        try:
            data = self.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self.is_over = True
            return None
        if self._out is not None:
            # What comes after the request is of no interest, and is read so that the answer is.
            return None
        # Empty lines before a request are nothing (RFC 9112, section 2.2).
        self._head += data if self._head else data.lstrip(b"\r\n")
        for end in (b"\r\n\r\n", b"\n\n"):
            place = self._head.find(end)
            if 0 < place <= MAX_HEAD_BYTES:
                return bytes(self._head[:place])
        if len(self._head) > MAX_HEAD_BYTES:
            return Answer(431, b"the head of the request is too large\n")
        return None

    def answer(self, answer: Answer, now_s: float) -> None:
        """Begin to answer."""
        self._out = memoryview(answer.packed())
        self._head.clear()
        self.since_s = now_s
        self.write()

    def write(self) -> None:
        """Send what is taken."""
        if not self._out:
            return
        try:
            sent = self.sock.send(self._out, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self.is_over = True
            return
        self._out = self._out[sent:]
        if not self._out:
            # It closes when it has read all; closing first might take the answer from it.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
