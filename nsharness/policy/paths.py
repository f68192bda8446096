"""One normal form for the path of a request, and the globs that a rule matches it with.

What is checked is what is sent: ``split_target`` gives the only path that a proxy may forward. Like
for hosts, a path that two servers could read differently is refused instead of guessed: an encoded
slash, backslash or control character, double encoding, path parameters on dot segments, bytes that
are no UTF-8. RFC 3986 section 6.2.2 describes the normalisation that remains.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# pchar of RFC 3986 section 3.3 beyond the unreserved: kept as they come, raw or encoded.
_KEPT = frozenset(b"!$&'()*+,;=:@")
_TRIPLET = re.compile(rb"%(..?)?", re.DOTALL)
_HEX = re.compile(rb"[0-9A-Fa-f]{2}")
# Most paths are in normal form and have nothing that could be ambiguous: no `%`, no `;`, no dot or
# nothing where a segment begins.
_PLAIN = re.compile(r"/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*/)*(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*)?")
_CONTROL = re.compile(rb"[\x00-\x20\x7f]")


class PathError(ValueError):
    """A request target or a path glob that has no single reading. The text is for the user."""


def split_target(target: str) -> tuple[str, str]:
    """Path (normalised) and query (without ``?``, raw bytes beyond ASCII encoded) of a request target in
    origin form.

    The target may hold raw bytes beyond ASCII as UTF-8 or as surrogate escapes. ``PathError`` when
    the target is ambiguous, has a fragment, or is in another form (RFC 9112 section 3.2).
    """
    path, _, query = target.partition("?")
    if _CONTROL.search(_bytes(query)) or "#" in query:
        raise PathError("the query has a control character, a space or a fragment")
    if not query.isascii():
        # No URI has them as they are, and servers differ in what they take them for.
        query = "".join(c if c.isascii() else "".join(f"%{b:02X}" for b in _bytes(c)) for c in query)
    return normalise_path(path), query


def join_target(path: str, query: str) -> str:
    """The exact request target to send for what ``split_target`` gave."""
    return f"{path}?{query}" if query else path


def normalise_path(path: str) -> str:
    """The normal form of an absolute path; a fixed point of this function.

    Unreserved characters are decoded, all other encodings written in upper case, raw characters
    that no URI may hold encoded, dot segments and empty segments removed; a slash at the end stays.
    """
    if _PLAIN.fullmatch(path):
        return path
    segments = [_canonical_segment(_bytes(segment)) for segment in _split(path)]
    for segment in segments:
        _refuse_dotted_parameters(segment)
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment not in (".", ""):
            kept.append(segment)
    # A path that ends in "/", "/." or "/.." names a directory (RFC 3986 section 5.2.4).
    if segments[-1] in ("", ".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


@dataclass(frozen=True, slots=True)
class PathGlob:
    """A pattern over normalised paths: ``*`` stays within a segment, ``**`` crosses segments.

    ``*`` alone stands for one segment that is not empty, so ``/snippets/*`` matches
    ``/snippets/durability`` but neither ``/snippets/`` nor ``/snippets/a/b``. ``**`` is a segment of
    its own: any number of them in the middle, at least one (which may be empty) at the end.
    Both sides are compared percent-decoded, so that another spelling of a path matches the same.
    """

    text: str
    # Runs of segments between the ``**``; each segment is its literal pieces between the ``*``.
    _runs: tuple[tuple[tuple[bytes, ...], ...], ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> PathGlob:
        """Compile a glob such as ``/snippets/*`` or ``/api/**``; ``PathError`` says what is wrong with it."""
        if "?" in text:
            raise PathError(f"path pattern {text!a} has a `?`: the query is not matched")
        runs: list[tuple[tuple[bytes, ...], ...]] = []
        run: list[tuple[bytes, ...]] = []
        canonical: list[str] = []
        segments = _split(text)
        for index, segment in enumerate(segments):
            if segment == "**":
                runs.append(tuple(run))
                run = []
                canonical.append(segment)
                continue
            if "**" in segment:
                raise PathError(f"path pattern {text!a} has `**` inside a segment: it stands alone")
            literal = "*".join(_canonical_segment(_bytes(piece)) for piece in segment.split("*"))
            if literal in (".", "..") or (not literal and index < len(segments) - 1):
                raise PathError(f"path pattern {text!a} has a dot segment or `//`: no path ever has")
            run.append(tuple(unquote_to_bytes(piece) for piece in literal.split("*")))
            canonical.append(literal)
        runs.append(tuple(run))
        return cls("/" + "/".join(canonical), tuple(runs))

    def matches(self, path: str) -> bool:
        """Whether a path in normal form is meant. Linear in the path for each ``*``; never backtracks."""
        if "%" in path:
            segments = [unquote_to_bytes(segment) for segment in path[1:].split("/")]
        else:
            segments = path[1:].encode().split(b"/")
        first, *others = self._runs
        if len(segments) < len(first) or not _run_matches(first, segments):
            return False
        if not others:
            return len(segments) == len(first)
        *middle, last = others
        position = len(first)
        # All runs have a fixed length, so taking each as early as it fits leaves the most for the rest.
        for run in middle:
            end = len(segments) - len(run)
            while position <= end and not _run_matches(run, segments[position:]):
                position += 1
            if position > end:
                return False
            position += len(run)
        rest = len(segments) - position
        if not last:
            return rest >= 1
        # In the middle ``**`` stands for whole segments; the last of a path may be the empty one.
        return rest >= len(last) and _run_matches(last, segments[len(segments) - len(last) :])

    def __str__(self) -> str:
        return self.text


def _run_matches(run: tuple[tuple[bytes, ...], ...], segments: list[bytes]) -> bool:
    return all(_segment_matches(pieces, segment) for pieces, segment in zip(run, segments, strict=False))


def _segment_matches(pieces: tuple[bytes, ...], segment: bytes) -> bool:
    """Whether a segment is the pieces with anything between them; a wildcard never means an empty segment."""
    if len(pieces) == 1:
        return segment == pieces[0]
    first, *middle, last = pieces
    if not segment or len(segment) < len(first) + len(last):
        return False
    if not (segment.startswith(first) and segment.endswith(last)):
        return False
    position, end = len(first), len(segment) - len(last)
    for piece in middle:
        found = segment.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


def _split(path: str) -> list[str]:
    if not path.startswith("/"):
        raise PathError(f"path {_shown(path)} does not start with a slash")
    return path[1:].split("/")


def _canonical_segment(raw: bytes) -> str:
    """One segment with its encodings made canonical; ``PathError`` where servers differ in reading it."""
    if _CONTROL.search(raw):
        raise PathError("the path has a control character or a space")
    if b"\\" in raw or b"#" in raw:
        raise PathError("the path has a backslash or a fragment")
    for triplet in _TRIPLET.finditer(raw):
        if not _HEX.fullmatch(triplet[1] or b""):
            raise PathError("the path has a `%` that encodes nothing")
    decoded = unquote_to_bytes(raw)
    if b"/" in decoded or b"\\" in decoded:
        raise PathError("the path has an encoded slash or backslash")
    if any(byte < 0x20 or byte == 0x7F for byte in decoded):
        raise PathError("the path has an encoded control character")
    if any(_HEX.match(decoded, at.end()) for at in re.finditer(b"%", decoded)):
        raise PathError("the path is percent-encoded twice")
    try:
        decoded.decode("utf-8")
    except UnicodeDecodeError:
        # Overlong forms of the dot and the slash are among them.
        raise PathError("the path is not UTF-8") from None
    out: list[str] = []
    index = 0
    while index < len(raw):
        byte = raw[index]
        if byte == 0x25:
            value = int(raw[index + 1 : index + 3], 16)
            out.append(chr(value) if value in _UNRESERVED else f"%{value:02X}")
            index += 3
        else:
            out.append(chr(byte) if byte in _UNRESERVED or byte in _KEPT else f"%{byte:02X}")
            index += 1
    return "".join(out)


def _refuse_dotted_parameters(segment: str) -> None:
    """Servers that cut ``;parameters`` off before they resolve dot segments see another path."""
    name, *parameters = segment.replace("%3B", ";").split(";")
    if parameters and (name in ("", ".", "..") or any(text.startswith(".") for text in parameters)):
        raise PathError("the path has parameters on a dot segment")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise PathError("the path has characters that no byte stands for") from None


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")
