"""Search for a secret's bytes wherever they must not be."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

_WINDOW = 1 << 20


def forms(secret: bytes) -> set[bytes]:
    """The secret as it is, and in the encodings that software uses without being asked."""
    found = {secret, secret[::-1], secret.hex().encode(), quote(secret, safe="").encode()}
    for shift in range(3):
        # The characters that depend on the secret alone, whatever stands before and behind it.
        encoded = base64.b64encode(b"\0" * shift + secret)
        found.add(encoded[4 if shift else 0 : -4])
    return found


def in_bytes(content: bytes, needles: Iterable[bytes]) -> bool:
    """Whether any of the needles is in the content."""
    return any(needle in content for needle in needles)


def in_files(roots: Iterable[Path], needles: set[bytes], *, but: Iterable[Path] = ()) -> list[str]:
    """The regular files below ``roots`` that hold a needle, in content or name; ``but`` are left out."""
    excluded = [path.resolve() for path in but]
    found = []
    for root in roots:
        for path in _files(root):
            if any(path.is_relative_to(other) for other in excluded):
                continue
            if in_bytes(os.fsencode(path), needles) or in_bytes(_content(path), needles):
                found.append(str(path))
    return found


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root.resolve()):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _content(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def in_processes(needles: set[bytes], *, but: Iterable[int] = ()) -> list[str]:
    """The processes whose environment or arguments hold a needle, of all that we may look at."""
    excluded = {os.getpid(), *but}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in excluded:
            for place in (*sorted(entry.glob("task/*/environ")), entry / "environ", entry / "cmdline"):
                with contextlib.suppress(OSError):
                    if in_bytes(place.read_bytes(), needles):
                        found.append(str(place))
    return found


def in_memory(pid: int, needles: set[bytes]) -> bool:
    """Whether a needle is in a process's writable memory; needs root for an undumpable one."""
    overlap = max(map(len, needles))
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, permissions, *_ = line.split()
            if not permissions.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            while start < end:
                try:
                    memory.seek(start)
                    content = memory.read(min(_WINDOW + overlap, end - start))
                except (OSError, ValueError, OverflowError):
                    break
                if in_bytes(content, needles):
                    return True
                start += _WINDOW
    return False
