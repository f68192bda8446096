"""The resolver: a short-lived process that turns templates into a sealed credential map, and exits.

``python -I -m nsharness.credentials.resolver --request-fd N --reply-fd M --map-fd K``

It reads one JSON request from N, becomes the user whose store it is, writes the map into the memfd
K, seals it, and answers on M with everything about the map but the values. So the supervisor, which
lives as long as the sandboxes do, never has a value in its memory. Standard library only.
"""

from __future__ import annotations

import json
import os
import secrets
import string
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nsharness.credentials.build import Binding, build
from nsharness.credentials.secret import SecretRef
from nsharness.credentials.store import SecretStore
from nsharness.credentials.template import Template
from nsharness.errors import NsharnessError
from nsharness.linux.fds import given, seal, write_all
from nsharness.linux.process import become, make_undumpable

_MAX_REQUEST = 1 << 20
_ALPHABET = string.ascii_letters + string.digits
_RANDOM_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Request:
    """What the supervisor asks for. ``ensure`` are secrets to make, prefix and 32 random letters and
    digits, where they do not exist; ``digests`` are those whose SHA-256 is wanted."""

    store: Path
    user: tuple[int, int] | None
    bindings: tuple[Binding, ...]
    digests: tuple[SecretRef, ...]
    ensure: tuple[tuple[SecretRef, str], ...]

    @classmethod
    def from_json(cls, data: Any) -> Request:
        """``ValueError`` (or ``KeyError``, ``TypeError``) unless the request has exactly its keys."""
        if not isinstance(data, dict) or set(data) - {"store", "uid", "gid", "bindings", "digests", "ensure"}:
            raise ValueError("unknown keys")
        uid, gid = data.get("uid"), data.get("gid")
        if (uid is None) != (gid is None) or not isinstance(uid or 0, int) or not isinstance(gid or 0, int):
            raise ValueError("uid and gid come together")
        return cls(
            store=Path(data["store"]),
            user=None if uid is None or gid is None else (uid, gid),
            bindings=tuple(Binding.from_json(binding) for binding in data.get("bindings", ())),
            digests=tuple(SecretRef(name, key) for name, key in data.get("digests", ())),
            ensure=tuple((SecretRef(e["name"], e["key"]), str(e["prefix"])) for e in data.get("ensure", ())),
        )


def resolve(request: Request, map_descriptor: int) -> dict[str, Any]:
    """Do what the request says as the current user; the map goes into the descriptor, sealed."""
    store = SecretStore(request.store)
    for ref, prefix in request.ensure:
        store.ensure(ref.name, ref.key, partial(_generated, prefix))
    credentials = build(request.bindings, store)
    refs = {ref for binding in request.bindings for ref in Template.parse(binding.template).refs}
    values = {str(ref): store.get(ref.name, ref.key) for ref in sorted(refs | set(request.digests))}
    reply = {
        "hosts": list(credentials.hosts),
        "headers": credentials.header_names(),
        "digests": {str(ref): values[str(ref)].digest() for ref in request.digests},
        "kinds": credentials.kinds(),
        "prefixes": {name: value.prefix() for name, value in values.items()},
    }
    write_all(map_descriptor, credentials.to_bytes())
    seal(map_descriptor)
    return reply


def run(request_descriptor: int, reply_descriptor: int, map_descriptor: int) -> int:
    """Read, resolve, reply. Whatever goes wrong is one error in the reply, without a traceback."""
    try:
        request = _read_request(request_descriptor)
        if request.user is not None and os.geteuid() == 0:
            become(*request.user)
        # After the change of user, which sets the flag anew (prctl(2)).
        make_undumpable()
        reply = resolve(request, map_descriptor)
    except NsharnessError as error:
        reply = {"error": {"what": error.what, "why": error.why, "hint": error.hint}}
    except Exception as error:  # noqa: BLE001 - the boundary of the process: a traceback could quote a value
        reply = {"error": {"what": "resolver", "why": f"internal error: {type(error).__name__}", "hint": ""}}
    write_all(reply_descriptor, json.dumps(reply).encode())
    return 1 if "error" in reply else 0


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    request_fd, reply_fd, map_fd = given(words, "--request-fd", "--reply-fd", "--map-fd")
    make_undumpable()
    return run(request_fd, reply_fd, map_fd)


def _read_request(descriptor: int) -> Request:
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(_MAX_REQUEST + 1)
    try:
        if len(content) > _MAX_REQUEST:
            raise ValueError("too long")
        return Request.from_json(json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise NsharnessError("resolver request", why=f"malformed: {type(error).__name__}") from None


def _generated(prefix: str) -> bytes:
    return (prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))).encode()


if __name__ == "__main__":
    sys.exit(main())
