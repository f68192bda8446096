"""What a plan must know of the host: gathered once, so that composing a plan needs no file system."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from nsharness.frozen import field, frozen
from nsharness.plan.hiding import Found, hidden
from nsharness.plan.listing import listing

type Kind = Literal["directory", "file", "symlink", "special"]

SYSTEM_DIRECTORIES: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu")
"""Where programs and libraries live; nothing of a person's is in them."""

ETC_ENTRIES: Final = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates.conf",
    "/etc/crypto-policies",
    "/etc/terminfo",
    "/etc/gai.conf",
)
"""The files of ``/etc`` that programs need and that hold nothing private."""

CA_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep the bundle of trusted certificates (Debian, Fedora, SUSE, Alpine)."""

CERTIFICATE_DIRECTORIES: Final = ("/etc/ssl/certs", "/etc/pki/tls/certs")
"""Where they keep the certificates one by one, under the names that OpenSSL looks for."""

JAVA_STORES: Final = (
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
)
"""Where the JREs of distributions look for trusted certificates (Debian, Fedora)."""
JAVA_SETTINGS: Final = ("java", "java-*")
"""What of ``/etc`` a distribution's Java does not start without, as patterns: its own settings lead there."""
_JAVA: Final = ("/usr/bin/java", "/usr/lib/jvm", "/usr/local/bin/java")


@frozen
class Entry:
    """What one path of the host is; ``target`` is where a symlink points, as it is written there."""

    kind: Kind
    target: str = ""


@frozen
class CertificateDirectory:
    """A directory of the host's trusted certificates: where it really is, and what is in it."""

    source: str
    names: tuple[str, ...] = ()


@frozen
class HostFacts:
    """The host's entries that a plan may name, and the certificates that the host trusts."""

    entries: dict[str, Entry] = field(default_factory=dict)
    ca_bundle: str = ""
    hidden: dict[str, Found] = field(default_factory=dict)
    """What the profile's ``hide`` means in the shared folders, by path."""
    certificates: dict[str, CertificateDirectory] = field(default_factory=dict)
    """Those of ``CERTIFICATE_DIRECTORIES`` that are there; one that leads to another is in ``entries``."""
    java: bool = False
    """Whether there is a Java among the host's programs."""
    java_settings: tuple[str, ...] = ()
    """The directories that ``JAVA_SETTINGS`` stands for."""

    def kind(self, path: str) -> Kind | None:
        """What is at ``path``, None when nothing is or when it was not asked for."""
        entry = self.entries.get(path)
        return entry.kind if entry else None


def gather(extra: Iterable[str] = (), *, hide: Iterable[str] = (), shared: Iterable[str] = ()) -> HostFacts:
    """Look at the system directories, ``/etc``'s harmless part, the ``extra`` paths, and what there is to
    ``hide`` in the ``shared`` folders.

    An extra path that leads over a symbolic link counts as one: what the plan shows is what will be mounted.
    """
    extra = tuple(extra)
    entries: dict[str, Entry] = {}
    for path in (*SYSTEM_DIRECTORIES, *ETC_ENTRIES, *CA_BUNDLES, *JAVA_STORES, *extra):
        # A link anywhere on the way would make what is checked and what is mounted two things.
        real = os.path.realpath(path) if path in extra else path
        entry = _look(path) if real == path else Entry("symlink", real)
        if entry is not None:
            entries[path] = entry
    bundle = next((path for path in CA_BUNDLES if os.path.isfile(path)), None)  # noqa: PTH113 - as above
    folders = tuple(path for path in shared if (entry := _look(path)) and entry.kind == "directory")
    text = _text(bundle, _version(bundle)) if bundle else ""
    directories = _certificate_directories(entries)
    has_java = any(map(os.path.lexists, (*_JAVA, *JAVA_STORES)))
    settings = _java_settings() if has_java else ()
    return HostFacts(entries, text, _hidden(folders, tuple(hide)), directories, has_java, settings)


def _java_settings() -> tuple[str, ...]:
    names = _names("/etc", _version("/etc"))
    wanted = {name for each in JAVA_SETTINGS for name in fnmatch.filter(names, each)}
    found = [f"/etc/{name}" for name in names if name in wanted]
    return tuple(path for path in found if (entry := _look(path)) and entry.kind == "directory")


def _version(path: str) -> tuple[int, ...]:
    """What changes with the file or the entries of the directory."""
    status = os.stat(path)  # noqa: PTH116 - for every sandbox
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=2)
def _text(path: str, _: tuple[int, ...]) -> str:
    """Read once: a session's many sandboxes find the same."""
    return Path(path).read_text(encoding="utf-8")


@lru_cache(maxsize=len(CERTIFICATE_DIRECTORIES) + 1)
def _names(path: str, _: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(sorted(each.name for each in os.scandir(path)))


def _certificate_directories(entries: dict[str, Entry]) -> dict[str, CertificateDirectory]:
    """Those that there are; a link from one to another is added to ``entries``."""
    found: dict[str, CertificateDirectory] = {}
    for path in CERTIFICATE_DIRECTORIES:
        real = os.path.realpath(path)
        if real != path and real in CERTIFICATE_DIRECTORIES:
            entries[path] = Entry("symlink", real)
        elif (entry := _look(real)) is not None and entry.kind == "directory":
            found[path] = CertificateDirectory(real, _names(real, _version(real)))
    return found


def _hidden(folders: tuple[str, ...], hide: tuple[str, ...]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for folder in folders if hide else ():
        found |= hidden(folder, listing(folder), hide)
    # A link's target may lie in another folder, or in none: then it is not in the sandbox at all.
    inside = tuple(folder + "/" for folder in folders)
    return {path: _now(path, kind) for path, kind in found.items() if path.startswith(inside)}


def _now(path: str, kind: Found) -> Found:
    entry = _look(path)
    return kind if kind == "unreadable" or entry is None else entry.kind


def _look(path: str) -> Entry | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISLNK(status.st_mode):
        return Entry("symlink", os.readlink(path))  # noqa: PTH115 - as above
    if stat.S_ISDIR(status.st_mode):
        return Entry("directory")
    # A socket, a pipe or a device is a way to somebody on the host.
    return Entry("file" if stat.S_ISREG(status.st_mode) else "special")
