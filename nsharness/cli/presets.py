"""``nsharness presets`` and ``nsharness init``: ready-made parts of profiles, and a profile made of them."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.policy.load import digest_of, parse_profile
from nsharness.presets.catalogue import load, names
from nsharness.presets.filling import fill
from nsharness.presets.settings import Machine
from nsharness.presets.writing import profile_text, storing
from nsharness.supervisor.trust import PROFILE_NAME, TrustStore


def presets(_: argparse.Namespace) -> int:
    """List them, a line each."""
    width = max(map(len, names()))
    for name in names():
        print(f"{name:{width}}  {load(name).about}")
    return 0


def init(options: argparse.Namespace) -> int:
    """Write the profile here. ``NsharnessError`` where there is one, or where a preset cannot be had."""
    identity = current()
    folder = Path.cwd()
    path = folder / PROFILE_NAME
    with identity.files():
        additions = fill(options.preset, Machine(identity.home, os.environ))
        name = re.sub(r"[^a-z0-9_-]+", "-", folder.name.lower()).strip("-_")[:48] or "profile"
        text = profile_text(name, additions)
        parse_profile(text, str(path))  # Presets that do not go together leave no file.
        _write(path, text)
    # Whoever asks for a profile need not be asked whether they want it. What is trusted is what was written:
    # in a shared folder a workload may have replaced the file by now.
    TrustStore(identity).trust(path, digest_of(text))
    print(f"wrote {path}")
    for ref, about in {ref: about for each in additions for ref, about in each.secrets.items()}.items():
        print(f"next: {storing(ref)}    ({about})")
    return 0


def _write(path: Path, text: str) -> None:
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise NsharnessError(
            f"{path} is there already", hint="change that one, or move it away and repeat the command"
        ) from None
    except OSError as error:
        raise NsharnessError(
            f"cannot write {path}", why=error.strerror or str(error), hint="change to a folder of your own"
        ) from None
