"""The process: ``python -I -m nsharness_mocks --listen-fd N --tokens-fd M --events-fd K [--uid --gid]``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Generator, Sequence

import uvicorn
from starlette.types import ASGIApp

from nsharness.errors import NsharnessError
from nsharness.linux.process import become, make_undumpable
from nsharness_mocks.app import HOSTS, build_app
from nsharness_mocks.events import EventChannel

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_TOKENS = 64 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or until the events socket ends; 125 when that cannot even begin."""
    make_undumpable()
    # Ctrl-C reaches the whole terminal group; when we end is the supervisor's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = _options(arguments)
    try:
        digests = read_digests(options.tokens_fd)
        listener = _listener(options.listen_fd)
        events = socket.socket(fileno=options.events_fd)
        asyncio.run(_serve(listener, events, digests, options.uid, options.gid))
    except NsharnessError as error:
        print(f"nsharness_mocks: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"nsharness_mocks: cannot start: {error.strerror}", file=sys.stderr)
        return 125
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nsharness_mocks", allow_abbrev=False)
    parser.add_argument("--listen-fd", type=int, required=True, help="a listening loopback TCP socket")
    parser.add_argument("--tokens-fd", type=int, required=True, help='JSON {"host": SHA-256 of its token}')
    parser.add_argument("--events-fd", type=int, required=True, help="a SOCK_SEQPACKET socket")
    parser.add_argument("--uid", type=int, help="who to become, after everything is loaded")
    parser.add_argument("--gid", type=int)
    options = parser.parse_args(arguments)
    if (options.uid is None) != (options.gid is None):
        parser.error("--uid and --gid go together")
    return options


def read_digests(descriptor: int) -> dict[str, str]:
    """Host to digest, from a pipe or a memfd, which is closed. Anything unexpected: ``NsharnessError``."""
    what = "cannot read the token digests"
    with open(descriptor, "rb") as stream:
        if stream.seekable():
            stream.seek(0)
        raw = stream.read(_MAX_TOKENS + 1)
    try:
        digests = json.loads(raw)
    except ValueError:
        raise NsharnessError(what, why="no JSON on the descriptor") from None
    if not isinstance(digests, dict) or not digests.keys() <= set(HOSTS):
        raise NsharnessError(what, why=f"expected an object with the keys {', '.join(HOSTS)}")
    if not all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in digests.values()):
        # The value is not shown: a token itself may have been put there by mistake.
        raise NsharnessError(what, why="a value is not a SHA-256 in lower-case hex")
    return digests


def _listener(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or not listener.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        raise NsharnessError("cannot serve the mocks", why="--listen-fd is not a listening TCP socket")
    address = listener.getsockname()[0]
    if not ipaddress.ip_address(address).is_loopback:
        raise NsharnessError("cannot serve the mocks", why=f"{address} can be reached from elsewhere")
    return listener


class _Server(uvicorn.Server):
    """uvicorn without its own ideas about signals, saying when it is ready."""

    def __init__(self, config: uvicorn.Config, events: EventChannel) -> None:
        super().__init__(config)
        self._events = events

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        await self._events.send({"event": "ready"})


async def _serve(
    listener: socket.socket, sock: socket.socket, digests: dict[str, str], uid: int | None, gid: int | None
) -> None:
    events = EventChannel(sock)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, events.ended.set)
    config = _config(build_app(digests, events.send))
    # Loads what uvicorn imports by name: afterwards the interpreter's files may be out of reach.
    config.load()
    if uid is not None and gid is not None:
        become(uid, gid)
        make_undumpable()  # a change of uid may set the flag back to the system's default (prctl(2))
    os.umask(0o077)
    server = asyncio.create_task(_Server(config, events).serve(sockets=[listener]))
    ended = asyncio.create_task(events.ended.wait())
    await asyncio.wait({server, ended}, return_when=asyncio.FIRST_COMPLETED)
    if server.done():
        server.result()
    # No graceful end: asyncio.run() cancels what is still served, which is meant and no news for stderr.
    logging.disable()


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
    )
