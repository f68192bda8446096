"""The supervisor's end of a message socket: events go to a handler, replies to whoever waits for them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from nsharness.errors import NsharnessError
from nsharness.linux import fds
from nsharness.supervisor.hub import Action, Hub
from nsharness.supervisor.promise import Promise

type Message = dict[str, Any]
type Reply = tuple[Message, list[int]]


class Channel:
    """One message socket, read by the hub.

    ``on_event`` is called in the hub's thread for every message that is no awaited reply; the descriptors
    that came with it are the handler's to close. ``on_end`` is called once, at end-of-file.
    """

    def __init__(
        self,
        hub: Hub,
        sock: socket.socket,
        on_event: Callable[[Message, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._socket = sock
        self._on_event = on_event
        self._on_end = on_end
        self._lock = threading.Lock()
        self._waiting: dict[str, Promise[Reply]] = {}
        self._ended = False
        sock.setblocking(False)
        hub.add(sock.fileno(), self._read)

    def _read(self) -> list[Action]:
        actions: list[Action] = []
        while True:
            try:
                message, descriptors = fds.receive(self._socket)
            except BlockingIOError:
                return actions
            except ConnectionResetError:
                # It ended without having read all that we sent. What it said before is still there.
                continue
            except (OSError, ValueError):
                # Gone, or no longer making sense: either way there is nobody to talk to.
                message, descriptors = None, []
            if message is None:
                self._hub.remove(self._socket.fileno())
                actions.append((2**63, self._end))
                return actions
            actions.append(self._action(message, descriptors))

    def _action(self, message: Message, descriptors: list[int]) -> Action:
        moment = message.get("at")
        return moment if isinstance(moment, int) else 0, lambda: self._dispatch(message, descriptors)

    def _dispatch(self, message: Message, descriptors: list[int]) -> None:
        with self._lock:
            waiting = self._waiting.pop(str(message.get("reply_to", "")), None)
        if waiting is not None:
            waiting.keep((message, descriptors))
        else:
            self._on_event(message, descriptors)

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            waiting, self._waiting = self._waiting, {}
        for promise in waiting.values():
            promise.fail(EOFError())
        self._on_end()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send without waiting. ``BrokenPipeError`` when the other side is gone."""
        fds.send(self._socket, message, descriptors)

    def request(self, message: Message, descriptors: Sequence[int] = (), timeout: float = 30.0) -> Reply:
        """Send and wait for the reply, up to ``timeout`` seconds.

        ``NsharnessError`` when the reply is an error; ``EOFError`` when the other side ends first.
        """
        return self.ask(message, descriptors).reply(timeout)

    def ask(self, message: Message, descriptors: Sequence[int] = ()) -> Asked:
        """Send, and wait for the reply later. Raises what ``request`` does."""
        asked = Asked(str(message.get("op")), self._forget)
        with self._lock:
            if self._ended:
                raise EOFError
            self._waiting[asked.tag] = asked.promise
        try:
            self.send({**message, "tag": asked.tag}, descriptors)
        except OSError as error:
            self._forget(asked.tag)
            if isinstance(error, BlockingIOError):
                raise NsharnessError(f"cannot ask for {message.get('op')}", why="requests pile up") from None
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                raise EOFError from None
            raise
        except BaseException:
            self._forget(asked.tag)
            raise
        return asked

    def _forget(self, tag: str) -> None:
        with self._lock:
            self._waiting.pop(tag, None)

    def close(self) -> None:
        """Stop listening and close the socket: for the other side, the end. Idempotent."""
        if self._socket.fileno() < 0:
            return
        with contextlib.suppress(RuntimeError):
            self._hub.remove(self._socket.fileno())
        self._socket.close()
        with self._lock:
            self._ended = True
            waiting, self._waiting = self._waiting, {}
        for promise in waiting.values():
            promise.fail(EOFError())


class Asked:
    """A request whose reply is still to come."""

    def __init__(self, what: str, forget: Callable[[str], None]) -> None:
        self._what = what
        self._forget = forget
        self.promise: Promise[Reply] = Promise()
        self.tag = f"{id(self.promise):x}"

    def reply(self, timeout: float = 30.0) -> Reply:
        """Wait for it, up to ``timeout`` seconds. Raises what ``Channel.request`` does."""
        try:
            reply, received = self.promise.result(timeout)
        except TimeoutError:
            raise NsharnessError(f"no answer to {self._what} within {timeout:.0f} s") from None
        finally:
            self._forget(self.tag)
        if reply.get("event") == "error":
            fds.close_all(received)
            raise NsharnessError(
                str(reply.get("what", "")), why=str(reply.get("why", "")), hint=str(reply.get("hint", ""))
            )
        return reply, received
