"""What the scrubber must do, said in the simplest and slowest way: for its tests and its fuzzer."""

from __future__ import annotations

import base64
import html
import random
from collections.abc import Callable, Iterable, Iterator

from nsharness.credentials.scrub_forms import Form, forms_of, spellings, values_of

Encoder = Callable[[random.Random, bytes], bytes]


def scrubbed(body: bytes, secrets: Iterable[str]) -> bytes:
    """Every byte of every occurrence of every form, overwritten."""
    forms = forms_of(sorted({value for secret in secrets for value in values_of(secret)}))
    out = bytearray(body)
    for start, end in occurrences(body, forms):
        out[start:end] = b"*" * (end - start)
    return bytes(out)


def occurrences(body: bytes, forms: Iterable[Form]) -> Iterator[tuple[int, int]]:
    for form in forms:
        for start in range(len(body)):
            ends = {start}
            for unit in form.units:
                ends = {e + len(way) for e in ends for way in spellings(unit) if body.startswith(way, e)}
                if not ends:
                    break
            else:
                yield start, max(ends)


def mixed(rng: random.Random, text: bytes, *ways: Callable[[int], Iterable[str]]) -> bytes:
    """Each byte as it is, or in a way chosen at random."""
    out = []
    for byte in text:
        choices = [chr(byte), *(spelled for way in ways for spelled in way(byte))]
        out.append(rng.choice(choices))
    return "".join(out).encode()


def _percent(byte: int) -> list[str]:
    return [f"%{byte:02x}", f"%{byte:02X}"]


def _json(byte: int) -> list[str]:
    short = {0x22: ['\\"'], 0x2F: ["\\/"], 0x5C: ["\\\\"]}
    return [f"\\u{byte:04x}", f"\\u{byte:04X}", *short.get(byte, [])]


def _html(byte: int) -> list[str]:
    named = html.escape(chr(byte))
    return [f"&#{byte};", f"&#x{byte:x};", f"&#X{byte:X};", *([named] if len(named) > 1 else [])]


def in_base64(rng: random.Random, text: bytes) -> bytes:
    around = rng.randbytes(rng.randrange(5)) + text + rng.randbytes(rng.randrange(5))
    coded = rng.choice((base64.b64encode, base64.urlsafe_b64encode))(around)
    return rng.choice((coded, coded.rstrip(b"=")))


def in_hex(rng: random.Random, text: bytes) -> bytes:
    return "".join(rng.choice((c, c.upper())) for c in text.hex()).encode()


ENCODERS: dict[str, Encoder] = {
    "literal": lambda rng, text: text,
    "percent": lambda rng, text: mixed(rng, text, _percent),
    "json": lambda rng, text: mixed(rng, text, _json),
    "html": lambda rng, text: mixed(rng, text, _html),
    "everything": lambda rng, text: mixed(rng, text, _percent, _json, _html),
    "hex": in_hex,
    "base64": in_base64,
    "percent over base64": lambda rng, text: mixed(rng, in_base64(rng, text), _percent),
    "json over hex": lambda rng, text: mixed(rng, in_hex(rng, text), _json),
}

_NOISE = [b"\n", b" ", b'"', b"{}", b"%", b"\\", b"&#", b"\\u00", b"%2", b"ghp_", b"\xff\x00", b"a", b"=="]


def random_secrets(rng: random.Random) -> list[str]:
    """Few secrets, made to be troublesome: they repeat, overlap, contain each other, hold what introduces
    escapes."""
    alphabet = rng.choice(["ab", "ab\\%&", "%25", "\\u0", 'a "/\\', "&#;x16", "abcdefghijklmnop0123456789-_"])
    first = "".join(rng.choices(alphabet, k=rng.randrange(8, 20)))
    found = [rng.choice(["", "ghp_", "k_"]) + first]
    if rng.random() < 0.4:
        cut = rng.randrange(1, 9)
        shorter = first[: max(8, len(first) - cut)]
        found.append(rng.choice([first + first[:cut], first[cut:] + first, shorter]))
    # Shown to the scrubber as header values are.
    return [rng.choice(["", "Bearer "]) + s.strip().ljust(8, "z") for s in found]


def random_body(rng: random.Random, secrets: list[str]) -> bytes:
    """Noise, secrets in some form, and beginnings and ends of those."""
    parts = []
    for _ in range(rng.randrange(12)):
        secret = rng.choice(secrets).removeprefix("Bearer ").encode()
        whole = ENCODERS[rng.choice(list(ENCODERS))](rng, secret)
        cut = rng.randrange(len(whole) + 1)
        noise = rng.choice(_NOISE)
        parts.append(rng.choice([whole, whole, whole[:cut], whole[cut:], noise, noise]))
    return b"".join(parts)


def pieces(rng: random.Random, body: bytes) -> Iterator[bytes]:
    """The body, cut anywhere, often into single bytes."""
    largest = rng.choice([1, 3, 17, 100, 100_000])
    start = 0
    while start < len(body):
        size = rng.randrange(largest + 1)
        yield body[start : start + size]
        start += size
