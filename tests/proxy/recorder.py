"""A host that keeps every byte it gets, connection by connection, and answers what llhttp makes of them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Self

from tests.proxy.reference import Message, Requests

DEADLINE = 10.0


def named(request: Message) -> list[bytes]:
    """An answer that tells which request it belongs to."""
    body = f"{request.method} {request.target}".encode("latin-1")
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    return [head + (b"" if request.method == "HEAD" else body)]


class Recorder:
    """Listens on loopback. ``answer`` gives what is sent for each complete request, piece by piece; an
    empty piece ends the connection."""

    def __init__(self, answer: Callable[[Message], Iterable[bytes]] = named) -> None:
        self.answer = answer
        self.received: list[bytearray] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._markers: dict[int, threading.Event] = {}
        self._serving: list[tuple[socket.socket, threading.Thread]] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(DEADLINE)
        for connection, thread in self._serving:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE)
        self._listener.close()

    def forget(self) -> None:
        """Begin anew, once everything has settled."""
        self.received.clear()
        self._serving.clear()

    def settle(self, patience: float = DEADLINE) -> list[bytes]:
        """What came over each connection, once all of them have ended.

        Connections are accepted in their order, so when one that is made now is there, all earlier ones are.
        """
        with socket.socket() as marker:
            marker.bind(("127.0.0.1", 0))
            accepted = self._markers[marker.getsockname()[1]] = threading.Event()
            marker.connect(("127.0.0.1", self.port))
            assert accepted.wait(DEADLINE)
        for connection, thread in self._serving:
            # One that waits for another request may be kept, unless its host does not want it any longer.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            thread.join(patience)
            assert not thread.is_alive(), "a connection of a client that is gone was not closed"
        return [bytes(data) for data in self.received]

    def _accept(self) -> None:
        while True:
            try:
                connection, (_, port) = self._listener.accept()
            except OSError:
                return
            marker = self._markers.pop(port, None)
            if marker is not None:
                connection.close()
                marker.set()
                continue
            self.received.append(bytearray())
            arguments = (connection, self.received[-1])
            thread = threading.Thread(target=self._serve, args=arguments, daemon=True)
            self._serving.append((connection, thread))
            thread.start()

    def _serve(self, connection: socket.socket, received: bytearray) -> None:
        requests, answered = Requests(), 0
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not requests.error and (data := connection.recv(1 << 16)):
                received += data
                requests.feed(data)
                for request in requests.messages[answered:]:
                    if not request.complete:
                        break
                    answered += 1
                    for piece in self.answer(request):
                        if not piece:
                            return
                        connection.sendall(piece)
