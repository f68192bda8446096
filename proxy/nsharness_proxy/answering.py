"""Hooks that can be answered at once are, where the layers ask: not in a task of its own for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from mitmproxy.proxy import commands, events, layer


class Answer(Enum):
    """What became of a hook."""

    GIVEN = auto()
    REFUSED = auto()
    """Nobody gets to know that the hook is done, and whatever waits for it stays where it is."""
    LATER = auto()
    """It has to be waited for: that is for the event loop."""


class Answered:
    """Stands before the topmost layer of a connection, and looks like one to the engine.

    A hook is answered when it comes, and the layers are told when they are through with the event that it
    came from: in the middle of that they could not be given another one. The same happens, in the same
    order, to hooks in tasks that begin at once and then wait for the connection's lock.
    """

    def __init__(self, top: layer.Layer, answer: Callable[[commands.StartHook], Answer]) -> None:
        self._top = top
        self._answer = answer

    def handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        """Pass an event on, and what follows from it. What is sent over one connection without anything in
        between goes together: a head, and the body that came with it."""
        waiting = deque((event,))
        sent: commands.SendData | None = None
        while waiting:
            # The topmost layer may replace this method once it knows what comes next.
            for command in self._top.handle_event(waiting.popleft()):
                if isinstance(command, commands.SendData):
                    if sent is not None and sent.connection is command.connection:
                        sent = commands.SendData(sent.connection, sent.data + command.data)
                        continue
                    if sent is not None:
                        yield sent
                    sent = command
                    continue
                if isinstance(command, commands.StartHook):
                    answer = self._answer(command)
                    if answer is not Answer.LATER:
                        if answer is Answer.GIVEN and command.blocking:
                            waiting.append(events.HookCompleted(command))
                        continue
                elif isinstance(command, commands.Log):
                    # Quotes what clients send, and would be dropped (``Connection.log``).
                    continue
                if sent is not None:
                    yield sent
                    sent = None
                yield command
        if sent is not None:
            yield sent
