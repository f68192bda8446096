"""From a TOML file to a ``Profile``; every failure is one line with file, line and key."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from nsharness.errors import NsharnessError
from nsharness.policy.connecting import NetworkSettings, ProxySettings
from nsharness.policy.extending import Source, gather, joined, located
from nsharness.policy.profile import Bound, Profile, SandboxProxyRule
from nsharness.policy.resources import LimitSettings
from nsharness.policy.sharing import FilesystemSettings, PrivilegeSettings

if TYPE_CHECKING:
    from nsharness.policy.shape import RunProfile

MAX_BYTES = 1 << 20
"""A profile is written by people; a file beyond this size is something else."""

Key = tuple[str | int, ...]

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII)
_LINE = re.compile(r" ?\(at (line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A profile from files: the one that was named is the last of ``sources``, after those that it extends.
    ``digest`` is of the very texts that it was read from."""

    profile: Profile
    digest: str
    sources: tuple[Source, ...]

    @property
    def path(self) -> Path:
        """The file that was named."""
        return self.sources[-1].path

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it was read from."""
        return tuple(source.path for source in self.sources)


def load_profile(path: str | os.PathLike[str]) -> Profile:
    """The profile in a TOML file. A file without ``name`` is called by its own name; ``upstream_ca`` and
    shared paths come back as absolute paths, or as ones in the owner's home (``~``).

    ``NsharnessError`` for a file that cannot be read, is no UTF-8, no TOML, or no profile.
    """
    return load(path).profile


def load(path: str | os.PathLike[str], home: Path | None = None) -> Loaded:
    """The same, and where it is from. ``home`` is whose profiles names mean, by default the caller's."""
    path = Path(path)
    owner = home or Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home fails where there is none
    sources = gather(path, _source, lambda word, folder: located(word, folder, owner, os.environ))
    data = joined(sources)
    data.setdefault("name", _slug(path.stem))
    try:
        profile = Profile.model_validate(data)
    except ValidationError as error:
        raise _explained(error, sources, data) from None
    digests = [digest_of(source.text) for source in sources]
    # That of one file stays what it was.
    named = [
        f"{os.path.realpath(source.path)} {digest}" for source, digest in zip(sources, digests, strict=True)
    ]
    return Loaded(profile, digests[0] if len(sources) == 1 else digest_of("\n".join(named)), sources)


def _source(path: Path) -> tuple[str, dict[str, Any]]:
    text = _read(path)
    return text, _anchored(_data(text, str(path)), path.absolute().parent)


def _explained(error: ValidationError, sources: tuple[Source, ...], data: dict[str, Any]) -> NsharnessError:
    """The error at the file that has it, where one of them is wrong by itself."""
    wrong = {problem["loc"][-1:] for problem in error.errors(include_url=False, include_input=False)}
    for source in reversed(sources):
        alone = {"name": "profile", **source.data}
        alone.pop("extends", None)
        try:
            Profile.model_validate(alone)
        except ValidationError as own:
            if own.errors(include_url=False, include_input=False)[0]["loc"][-1:] in wrong:
                return explain(own, str(source.path), source.text, alone)
    return explain(error, str(sources[-1].path), sources[-1].text if len(sources) == 1 else "", data)


def _anchored(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths are relative to their file. What is no path yet is left for the validation."""

    def anchor(value: object) -> object:
        if isinstance(value, list):
            return [anchor(each) for each in value]
        if not isinstance(value, str) or value.startswith("~") or not value or "\0" in value:
            return value
        return os.path.normpath(folder / value)

    made = dict(data)
    if isinstance(made.get("upstream_ca"), str) and made["upstream_ca"]:
        made["upstream_ca"] = str(folder / made["upstream_ca"])
    if "workspace" in made:
        made["workspace"] = anchor(made["workspace"])
    files = made.get("filesystem")
    if isinstance(files, dict):
        paths = ("workspace", "read_only", "read_write")
        made["filesystem"] = {key: anchor(value) if key in paths else value for key, value in files.items()}
    return made


def digest_of(text: str) -> str:
    """What ``load`` says of a file with this text that extends no other."""
    return hashlib.sha256(text.encode()).hexdigest()


def upstream_authorities(profile: RunProfile) -> str:
    """The certificates in the profile's ``upstream_ca`` as PEM, empty without one: for the proxy, which reads
    no files. ``NsharnessError`` for a file that cannot be read or that no certificate is in."""
    if profile.upstream_ca is None:
        return ""
    what = f"upstream_ca {profile.upstream_ca}"
    text = _read(Path(profile.upstream_ca), what=what, hint="give the path of a file of certificates (PEM)")
    certificates = _CERTIFICATE.findall(text)
    if not certificates:
        raise NsharnessError(what, why="no certificate is in it", hint="it takes PEM, BEGIN CERTIFICATE")
    _check_certificates(what, certificates)
    # Bundles hold comments, and people put keys into the same file: only certificates go further.
    return "".join(f"{certificate}\n" for certificate in certificates)


def _check_certificates(what: str, certificates: Iterable[str]) -> None:
    """``NsharnessError`` unless all of them are X.509 (RFC 5280)."""
    # Here, because few profiles have any.
    from cryptography import x509

    for number, certificate in enumerate(certificates, 1):
        try:
            x509.load_pem_x509_certificate(certificate.encode("ascii"))
        except ValueError:
            why = f"number {number} of its certificates is none"
            raise NsharnessError(what, why=why, hint="export it anew, as PEM") from None


def parse_profile(text: str, source: str, *, default_name: str | None = None) -> Profile:
    """The profile in TOML text, alone: whatever it extends is not read, and its paths stay as they are.
    ``source`` is what messages call the file."""
    data = _data(text, source)
    if default_name is not None:
        data.setdefault("name", default_name)
    data.pop("extends", None)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise explain(error, source, text, data) from None


def _data(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(text, source, str(error)) from None
    except RecursionError:
        raise NsharnessError(f"profile {source}", why="it is nested too deeply") from None


def explain(error: ValidationError, source: str, text: str = "", data: object = None) -> NsharnessError:
    """The first problem of a validation as the error a user sees, with its line in ``text`` and the name
    of its rule in ``data``. A profile that was made in Python has neither."""
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    context = first.get("ctx", {})
    where: Key = (*first["loc"], *context.get("where", ()))
    why, hint = _reason(first["type"], str(first["msg"]), where)
    if len(problems) > 1:
        why += f"; and {len(problems) - 1} more"
    parts = [f"profile {source}"]
    line = _line_of(text, where)
    if line is not None:
        parts.append(f"line {line}")
    rule = _rule_name(data, where)
    if rule:
        parts.append(f"rule {rule}")
    if where:
        parts.append(_dotted(where))
    return NsharnessError(", ".join(parts), why=why, hint=hint)


def _read(path: Path, *, what: str = "", hint: str = "give the path of a TOML file") -> str:
    what = what or f"profile {path}"
    try:
        # Opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise NsharnessError(what, why=why, hint=hint) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            why = "is a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise NsharnessError(what, why=why, hint=hint)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NsharnessError(what, why=error.strerror or "cannot be read") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise NsharnessError(what, why=f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NsharnessError(f"{what}, line {line}", why="not UTF-8 text") from None


def _slug(stem: str) -> str:
    """A file's name made into a profile's; never empty."""
    return re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:48] or "profile"


def _syntax_error(text: str, source: str, message: str) -> NsharnessError:
    """The parser's message names a position, which may be the end; it quotes no values."""
    match = _LINE.search(message)
    line = int(match[2]) if match and match[2] else len(text.splitlines())
    return NsharnessError(f"profile {source}, line {line}", why=f"not TOML: {_LINE.sub('', message)}")


def _reason(kind: str, message: str, where: Key) -> tuple[str, str]:
    """Why, and what to do, in our words where pydantic's speak of Python."""
    key = str(where[-1]) if where else ""
    if kind == "extra_forbidden":
        known = _known(where)
        near = difflib.get_close_matches(key, known, 1)
        return f"unknown key {key!a}", f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    if kind == "missing":
        return "it is required", f"add {key} = …"
    return message.removeprefix("Value error, "), ""


def _known(where: Key) -> list[str]:
    """The keys that are valid where an unknown one stood."""
    inner: dict[object, type[BaseModel]] = {
        "sandbox_proxy_rules": SandboxProxyRule,
        "only": Bound,
        "proxy": ProxySettings,
        "network": NetworkSettings,
        "limits": LimitSettings,
        "filesystem": FilesystemSettings,
        "privilege": PrivilegeSettings,
    }
    model = inner.get(where[0], Profile) if len(where) > 1 else Profile
    return list(model.model_fields)


def _rule_name(data: object, where: Key) -> str:
    """The name of the rule that a problem is in, if it has one."""
    match data, where:
        case {"sandbox_proxy_rules": [*rules]}, ("sandbox_proxy_rules", int(index), *_):
            name = rules[index].get("name") if isinstance(rules[index], Mapping) else None
            return name if isinstance(name, str) else ""
    return ""


def _dotted(where: Key) -> str:
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[\w-]+", part) else ascii(part))
    return text


def _line_of(text: str, where: Key) -> int | None:
    """The line of a key, or of the nearest thing around it that has one."""
    lines = {key: line for line, key in reversed(list(_key_lines(text)))} if text else {}
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return None


def _key_lines(text: str) -> Iterator[tuple[int, Key]]:
    """Every key of a valid TOML document with the line where its statement begins, in order.

    The parser keeps no positions. But a statement of TOML, alone, is TOML: so take lines until they
    parse, and look at what came out.
    """
    lines = text.splitlines(keepends=True)
    table: Key = ()
    counts: dict[Key, int] = {}
    start = 0
    while start < len(lines):
        end = start + 1
        while (statement := _parsed("".join(lines[start:end]))) is None and end < len(lines):
            end += 1
        if lines[start].lstrip().startswith("["):
            table = _resolve(statement or {}, counts, is_array=lines[start].lstrip().startswith("[["))
            yield start + 1, table
        else:
            for key in _paths(statement or {}):
                yield start + 1, (*table, *key)
        start = end


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _resolve(header: Mapping[str, Any], counts: dict[Key, int], *, is_array: bool) -> Key:
    """The full key of a table header; a part that is an array of tables means its latest element."""
    names: list[str] = []
    inner: Any = header
    while isinstance(inner, Mapping) and inner:
        name, inner = next(iter(inner.items()))
        names.append(name)
    table: Key = ()
    for index, name in enumerate(names):
        table = (*table, name)
        if is_array and index == len(names) - 1:
            counts[table] = counts.get(table, -1) + 1
        if table in counts:
            table = (*table, counts[table])
    return table


def _paths(value: object, key: Key = ()) -> Iterator[Key]:
    """The key of everything inside a value."""
    if key:
        yield key
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _paths(inner, (*key, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, (*key, index))
