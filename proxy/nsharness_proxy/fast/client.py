"""A client's requests, one after the other, each put before the judge and then to its host; and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from nsharness.credentials.decoding import DecodingError
from nsharness.policy import headers
from nsharness.policy.authority import Claims
from nsharness_proxy import claims, hops, http1, refusal, scrubbing, told
from nsharness_proxy.bodies import UNDECODABLE, BodyRefusedError
from nsharness_proxy.claims import Named
from nsharness_proxy.decision import Decision
from nsharness_proxy.fast import wire
from nsharness_proxy.fast.framing import Chunked, Fixed, Reader
from nsharness_proxy.fast.front import IDLE_SECONDS, Front
from nsharness_proxy.fast.host import CLOSED, Host
from nsharness_proxy.fast.service import Service
from nsharness_proxy.http1 import Block, Head, HeadError, HeadTooLargeError
from nsharness_proxy.judge import Asked
from nsharness_proxy.refusal import Refused
from nsharness_proxy.upstream import UpstreamError

_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_ESTABLISHED: Final = b" 200 Connection established\r\n\r\n"

NOT_FORWARDED: Final = refusal.malformed("this is no request that could be forwarded")


class Client(Front):
    """One client, and the request at hand."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._block: Block | None = None
        self._absolute = ("", "")
        self._claims: Claims | None = None
        self._head: Head | None = None
        self._reader: Reader | None = None
        self._answer: Head | None = None
        self._out: list[bytes] = []
        self._chunks = False
        self._closes = False

    def _next_head(self) -> bool:
        if self._client_is_full:
            # It does not take the answers that it has.
            return False
        data = self._buffer
        while data[:2] == b"\r\n":
            # RFC 9112 section 2.2: empty lines before a request are ignored.
            data = data[2:]
        self._buffer = data
        if not data:
            return False
        try:
            head = http1.request_head(data, self._block)
        except HeadTooLargeError:
            self._reject(Refused(431, "headers-too-large"))
            return False
        except HeadError:
            self._reject(NOT_FORWARDED)
            return False
        if head is None:
            if self.owes_since is None:
                self.owes_since = asyncio.get_running_loop().time()
            return False
        self.owes_since = None
        self.deadline = self._service.now + IDLE_SECONDS
        return self._begin(head)

    def _begin(self, head: Head) -> bool:
        if head.method == b"CONNECT":
            return self._connect(head)
        method = head.method.decode("ascii")
        if method.upper() == "CONNECT":
            # Another method than that, and not to every reader.
            self._reject(NOT_FORWARDED, method)
            return False
        block = head.block
        if block.upgrades and not head.has_body and headers.is_websocket(method, block.fields):
            self._hand_over()
            return False
        self._buffer = self._buffer[head.size :]
        self._head, self._closes = head, head.closes
        try:
            scheme, absolute, target = wire.split_target(head.target)
        except wire.TargetError:
            self._reject(NOT_FORWARDED, method)
            return False
        judge = self.judge
        if block is not self._block or (scheme, absolute) != self._absolute or self._claims is None:
            # What a client says of its destination is mostly what it said before.
            self._block = block if len(block.lines) <= told.LONGEST else None
            self._absolute = scheme, absolute
            named = Named(scheme, absolute, "", headers.values(block.fields, b"host"), self._tls, self._sni)
            self._claims = claims.of_request(judge.origin, judge.sandbox.names, judge.tunnel, named)
        made = judge.decide(Asked(head.method, target, head.fields, self._claims, head.has_body))
        self._answered = False
        self._answer = None
        self._reader = None
        if head.has_body:
            self._reader = Chunked() if head.chunked else Fixed(head.length or 0)
        if isinstance(made, Refused):
            return self._refuse(made)
        self._made = made
        self._read = self._waiting
        if block.expects and any(name.lower() == b"expect" for name, _ in made.fields):
            made.fields = tuple(field for field in made.fields if field[0].lower() != b"expect")
            self._transport.write(wire.go_on(head.version))
        again = head.method in _SAFE and not head.has_body
        host = self._service.hosts.take(made, again=again)
        if host is not None:
            return self._ask(host)
        self._opening = asyncio.ensure_future(self._open(made))
        return False

    def _connect(self, head: Head) -> bool:
        """Becomes a tunnel, in which everything begins anew."""
        judge = self.judge
        self._buffer = self._buffer[head.size :]
        if judge.origin.entrance != "explicit" or judge.tunnel is not None:
            self._reject(NOT_FORWARDED, "CONNECT")
            return False
        self._head, self._closes, self._reader, self._answered = head, head.closes, None, False
        # In a tunnel the same words say something else.
        self._block = self._claims = None
        target = head.target.decode("utf-8", "surrogateescape")
        refused = judge.enter(claims.of_connect(target, headers.values(head.fields, b"host")), head.fields)
        if refused is not None:
            return self._refuse(refused)
        self._transport.write(head.version + _ESTABLISHED)
        self.owes_since = asyncio.get_running_loop().time()
        # Some clients send empty lines after the request.
        self._buffer = self._buffer.lstrip(b"\r\n")
        self._read = self._first
        return bool(self._buffer)

    def _reject(self, refused: Refused, method: str | None = None) -> None:
        """What came is no request."""
        if method is None:
            self.judge.malformed()
        else:
            self.judge.deny(None, refusal.malformed(""), method=method)
        self._transport.write(refused.page())
        self._linger()

    def _refuse(self, refused: Refused) -> bool:
        """Answer now. What is still to come of the request is read and dropped, so that the answer is not
        lost in a reset, and the connection ends after it."""
        head = self._head
        assert head is not None
        self._closes = head.closes or self._reader is not None or refused.status == 400
        self._made = None
        self._answered = True
        self._transport.write(refused.page(head.method.decode("ascii"), closes=self._closes))
        return self._finish()

    async def _open(self, made: Decision) -> None:
        try:
            host = await self._service.hosts.open(self.judge, made)
        except UpstreamError as error:
            self._opening = None
            self.failed(error.reason)
            return
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a client must not wait for what will never come
            self._opening = None
            self.failed(refusal.UPSTREAM_FAILED, error)
            return
        self._opening = None
        try:
            self._ask(host)
        except Exception as error:  # noqa: BLE001 - as everywhere
            host.close()
            self._crash(error)
            return
        self._advance()

    def _ask(self, host: Host) -> bool:
        """Put the request to its host, with the secrets that there is a proof for."""
        made, head = self._made, self._head
        assert made is not None
        assert head is not None
        self._host = host
        fields = self.judge.ready(made, host.reached, made.fields)
        if isinstance(fields, Refused):
            self._host = None
            self._service.hosts.give(host, made)
            return self._refuse(fields)
        if self._client_is_full:
            host.pause()
        target = made.view.target.encode("utf-8", "surrogateescape")
        host.ask(self, head.method, wire.request_head(head.method, target, head.version, fields))
        if self._reader is None:
            return False
        self._read = self._body
        return bool(self._buffer)

    def _waiting(self) -> bool:
        """Nothing further is read before the request at hand has its answer, or its host."""
        return False

    def _body(self) -> bool:
        reader, made, host = self._reader, self._made, self._host
        assert reader is not None
        assert made is not None
        self.deadline = self._service.now + IDLE_SECONDS
        assert host is not None
        piece, self._buffer = reader.feed(self._buffer)
        chunked = self._head is not None and self._head.chunked
        for clean in made.sent(piece) if piece else ():
            host.send(wire.chunk(clean) if chunked else clean)
        if not reader.done:
            return False
        for clean in made.sent(b""):
            host.send(wire.chunk(clean) if chunked else clean)
        if chunked:
            host.send(wire.LAST_CHUNK)
        self._reader = None
        self._read = self._waiting
        return False

    def _stopped(self, stopped: BodyRefusedError) -> bool:
        """The body of the request must not go on."""
        self._drop_host()
        if self._answer is None:
            return self._refuse(stopped.refused)
        self._made = None
        self._break_off()
        return False

    def _no_body(self) -> None:
        """What came as a body is none: the connection ends, but not without a word."""
        made, self._made = self._made, None
        self._drop_host()
        if made is not None:
            self.judge.end(made, "error", reason=refusal.MALFORMED)
        if self._answer is None and not self._answered:
            self._reject(NOT_FORWARDED)
        else:
            self._break_off()

    def _drop_host(self) -> None:
        if self._host is not None:
            self._host.close()
            self._host = None

    # Its answer.

    def begun(self, head: Head) -> None:
        made, asked = self._made, self._head
        assert made is not None
        assert asked is not None
        self._answer = head
        fields = hops.of_answer(head.fields, head.status)
        try:
            clean = scrubbing.clean(
                self._service.sandbox.scrubber,
                made.view.method,
                head.status,
                head.reason,
                fields,
                credentialed=made.allow.credentialed,
            )
        except DecodingError:
            self.judge.end(made, "error", reason=UNDECODABLE.reason)
            self._drop_host()
            self._refuse(UNDECODABLE)
            self._advance()
            return
        made.received = clean.body
        version, self._chunks, out = head.version, head.chunked, list(clean.fields)
        self._closes = asked.closes or head.version == b"HTTP/1.0"
        bodyless = asked.method == b"HEAD" or head.status in (204, 304)
        if clean.decoded:
            # The length of a decoded body is not known in advance (RFC 9112 section 6).
            old, version = asked.version == b"HTTP/1.0", b"HTTP/1.1"
            self._chunks = not old
            self._closes = self._closes or old
            out.append((b"Connection", b"close") if old else (b"Transfer-Encoding", b"chunked"))
        elif bodyless:
            self._chunks = False
        elif head.length is None and not head.chunked:
            self._closes = True
        self._out = [wire.answer_head(version, head.status, clean.reason, out)]

    def goes_on(self, piece: bytes, *, last: bool) -> None:
        made, out = self._made, self._out
        assert made is not None
        assert self._answer is not None
        self.deadline = self._service.now + IDLE_SECONDS
        received = made.received
        if not last:
            out += self._framed(received(piece)) if piece else ()
        else:
            out += self._framed(received.last(piece))
            if self._chunks:
                out.append(wire.LAST_CHUNK)
            self.judge.end(made, "response", status=self._answer.status)
            self._answered = True
            self._made = None
        if out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._out = []
        if last:
            self._over(made)

    def _framed(self, pieces: Iterable[bytes]) -> list[bytes]:
        return [wire.chunk(piece) if self._chunks else piece for piece in pieces]

    def _over(self, made: Decision) -> None:
        """The answer has been sent."""
        host = self._host
        assert host is not None
        self._host = None
        if self._reader is not None:
            # It has answered before it was told everything: the rest is for nobody.
            host.close()
        else:
            if self._client_is_full:
                host.resume()
            self._service.hosts.give(host, made)
        self._finish()
        self._advance()

    def _finish(self) -> bool:
        """What follows the answer to a request: the rest of the request, the next one, or the end."""
        self._host_is_full = False
        if self._reader is not None and not self._reader.done:
            self._read = self._rest
            return True
        self._reader = self._head = None
        if self._closes:
            self._linger() if self._buffer else self._leave()
            return False
        self._read = self._next_head
        return True

    def _rest(self) -> bool:
        assert self._reader is not None
        _, self._buffer = self._reader.feed(self._buffer)
        return self._finish() if self._reader.done else False

    def broken(self, stopped: BodyRefusedError) -> None:
        """What came from the host must not go on; the client sees that something is missing."""
        made, self._made = self._made, None
        self._host = None
        if made is not None:
            self.judge.end(made, "error", reason=stopped.refused.reason)
        self._flush()
        self._break_off()

    def failed(self, reason: str, error: Exception | None = None) -> None:
        """There is no answer, or no more of it."""
        if error is not None:
            self._service.report.failure("a request failed", error)
        made, host, self._host = self._made, self._host, None
        if made is None or self._answered:
            return
        head = self._head
        assert head is not None
        waited = reason == CLOSED and host is not None and host.requests > 1 and host.unanswered
        if waited and head.method in _SAFE and not head.has_body:
            # It was closed before it was asked. What has no effect may be asked again (RFC 9110 9.2.1).
            self._opening = asyncio.ensure_future(self._open(made))
            return
        self._made = None
        try:
            self.judge.end(made, "error", reason=reason)
        except OSError as unrecorded:
            self._crash(unrecorded)
            return
        if self._answer is not None:
            self._flush()
            self._break_off()
            return
        self._answered = self._closes = True
        self._transport.write(refusal.upstream_failure(reason).page(head.method.decode("ascii")))
        self._finish()
        self._advance()

    def host_full(self, full: bool) -> None:
        """Whether the host takes no more for now."""
        self._host_is_full = full
        self._gate()

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out = []
