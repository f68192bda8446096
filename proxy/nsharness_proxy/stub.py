"""The stub resolver's sockets: queries over UDP and TCP, answered from the address that was asked.

In the gateway every address is local and the UDP socket is bound to none, so the address that a
query went to comes as a control message (IP_PKTINFO in ip(7)) and goes back with the answer:
clients take no answer from elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

from nsharness_proxy import dns

_IP_PKTINFO: Final = 8
# struct in_pktinfo: interface index, local address, destination address.
_PKTINFO: Final = struct.Struct("=I4s4s")
_BURST: Final = 64
_TCP_IDLE_SECONDS: Final = 10.0
_BACKLOG: Final = 4096


class Stub:
    """Answers on two passed sockets and owns them."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, resolve: dns.Resolve) -> None:
        self._udp = udp
        self._tcp = tcp
        self._resolve = resolve
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Begin to answer."""
        self._udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._udp.setblocking(False)
        asyncio.get_running_loop().add_reader(self._udp, self._answer_udp)
        self._server = await asyncio.start_server(self._serve_tcp, sock=self._tcp, backlog=_BACKLOG)

    def stop(self) -> None:
        """Close both sockets and every connection. Idempotent."""
        if self._udp.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._udp)
            self._udp.close()
        if self._server is not None:
            self._server.close()
        self._tcp.close()
        for writer in tuple(self._connections):
            writer.transport.abort()

    def _answer_udp(self) -> None:
        # A burst at a time, so that a flood of queries leaves room for everything else.
        for _ in range(_BURST):
            try:
                query, ancillary, flags, client = self._udp.recvmsg(dns.MAX_QUERY + 1, 256)
                reply = dns.answer(query, self._resolve)
                if reply is not None and not flags & socket.MSG_TRUNC:
                    self._udp.sendmsg([reply], _reply_from(ancillary), 0, client)
            except BlockingIOError:
                return
            except OSError:
                # An error that ICMP reported about an earlier answer; the query at hand is asked again.
                continue

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            async with asyncio.timeout(_TCP_IDLE_SECONDS) as idle:
                while True:
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    reply = None
                    if length <= dns.MAX_QUERY:
                        reply = dns.answer(await reader.readexactly(length), self._resolve)
                    if reply is None:
                        return
                    writer.write(struct.pack("!H", len(reply)) + reply)
                    await writer.drain()
                    idle.reschedule(asyncio.get_running_loop().time() + _TCP_IDLE_SECONDS)
        except (TimeoutError, EOFError, OSError):
            return
        finally:
            self._connections.discard(writer)
            writer.close()


def _reply_from(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The control message that sends an answer from the address its query went to."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(data) >= _PKTINFO.size:
            _, _, destination = _PKTINFO.unpack_from(data)
            return [(level, kind, _PKTINFO.pack(0, destination, b"\0" * 4))]
    return []
