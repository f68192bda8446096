"""``nsharness secret``: values come from standard input, never from the command line."""

from __future__ import annotations

import argparse
import getpass
import os
import sys

from nsharness.credentials.secret import MAX_BYTES
from nsharness.credentials.store import SecretStore
from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.linux.process import become


def secret(options: argparse.Namespace) -> int:
    """Set, list or remove."""
    identity = current()
    if identity.privileged and identity.owner_uid != 0:
        # The store is the invoking user's: nothing here needs root.
        become(identity.owner_uid, identity.owner_gid)
    store = SecretStore.default(identity.home, os.environ)
    match options.action:
        case "set":
            store.set(options.name, options.key, _value())
        case "list":
            for name, keys in store.names():
                print(f"{name}: {', '.join(keys)}")
        case _:
            store.remove(options.name, options.key)
    return 0


def _value() -> bytes:
    """The value: typed without echo at a terminal, otherwise all of standard input."""
    if sys.stdin is None:
        raise NsharnessError("no value", why="standard input is closed", hint="pipe the value in")
    if sys.stdin.isatty():
        return getpass.getpass("Value (not shown): ").encode()
    return sys.stdin.buffer.read(MAX_BYTES + 2)
