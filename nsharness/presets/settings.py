"""Which registries this machine's own tools use: their configuration, read where they read it.

Never that of the working directory: a workload could have written it. A password or token that stands there
is left there; that there was one is all that is kept. The ``parse_…`` functions are pure; ``FINDERS`` read
the files, with whatever rights the caller has.
"""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from nsharness.policy.hosts import HostError, canonical_host, is_ip

_MAX_BYTES: Final = 1 << 20
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# Without what a rule would take for a pattern, or two servers for different things.
_PATH: Final = re.compile(r"[A-Za-z0-9._~/@:+-]*")
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]+")


@dataclass(frozen=True, slots=True)
class Registry:
    """Where packages come from. ``path`` is where its files begin, without a slash at the end; ``url`` is the
    whole address without credentials, ``credential`` whether the configuration has some for it."""

    host: str
    path: str = ""
    port: int | None = None
    scheme: str = "https"
    url: str = ""
    credential: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a tool is configured for, and the variables that tell the same tool in the sandbox."""

    registries: tuple[Registry, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the tools' files are: the owner's home, their environment, and the root of the file system."""

    home: Path
    environ: Mapping[str, str]
    root: Path = Path("/")

    def text(self, *places: str) -> list[str]:
        """The contents of those of the files that there are; ``~`` is the home."""
        found = []
        for place in places:
            path = self.home / place[2:] if place.startswith("~/") else self.root / place.lstrip("/")
            if not path.is_file():  # a pipe would wait for a writer
                continue
            try:
                with path.open("rb") as stream:
                    found.append(stream.read(_MAX_BYTES).decode(errors="replace"))
            except OSError:
                continue
        return found

    def config(self, below: str) -> str:
        """A file of the owner's configuration directory."""
        folder = self.environ.get("XDG_CONFIG_HOME", "")
        return f"{folder}/{below}" if folder.startswith("/") else f"~/.config/{below}"


def registry(address: str) -> Registry | None:
    """What an http address says, None for any other text."""
    try:
        parts = urlsplit(address.strip().removeprefix("sparse+"))
        host, port = canonical_host(parts.hostname or ""), parts.port
    except (HostError, ValueError):
        return None
    if parts.scheme not in _DEFAULT_PORTS or not host or not _PATH.fullmatch(parts.path):
        return None
    path = re.sub("/{2,}", "/", parts.path).rstrip("/")
    own = None if port in (None, _DEFAULT_PORTS[parts.scheme]) else port
    shown = f"[{host}]" if is_ip(host) and ":" in host else host
    url = f"{parts.scheme}://{shown}{f':{own}' if own else ''}{parts.path}"
    return Registry(host, path, own, parts.scheme, url, parts.username is not None)


def _registries(addresses: Iterable[str]) -> list[Registry]:
    return [found for address in addresses if (found := registry(address)) is not None]


# --- Python -------------------------------------------------------------------------------------------------


def parse_pip(text: str) -> tuple[list[str], list[str]]:
    """The index, and the further ones, of a pip.conf; of each the last that it names."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return [], []
    index: list[str] = []
    extra: list[str] = []
    for section in ("global", "download", "install"):
        index += parser.get(section, "index-url", fallback="").split()
        extra += parser.get(section, "extra-index-url", fallback="").split()
    return index[-1:], extra


def parse_uv(text: str) -> tuple[list[str], list[str]]:
    """The same of a uv.toml."""
    data = _toml(text)
    index: list[str] = []
    extra: list[str] = []
    for table in (data, data.get("pip")):
        if isinstance(table, dict):
            index += _strings(table.get("index-url"))
            extra += _strings(table.get("extra-index-url"))
    for entry in data.get("index", ()) if isinstance(data.get("index"), list) else ():
        if isinstance(entry, dict):
            (index if entry.get("default") is True else extra).extend(_strings(entry.get("url")))
    return index[-1:], extra


def python(machine: Machine) -> Found:
    environ = machine.environ
    pip_files = [environ[name] for name in ("PIP_CONFIG_FILE",) if name in environ]
    pip_files += [machine.config("pip/pip.conf"), "~/.pip/pip.conf", "/etc/pip.conf", "/etc/xdg/pip/pip.conf"]
    uv_files = [machine.config("uv/uv.toml"), "/etc/uv/uv.toml"]
    told_pip = _indexes(environ, ("PIP_INDEX_URL",), ("PIP_EXTRA_INDEX_URL",))
    told_uv = _indexes(environ, ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), ("UV_INDEX", "UV_EXTRA_INDEX_URL"))
    pip = _together([told_pip, *map(parse_pip, machine.text(*pip_files))])
    uv = _together([told_uv, *map(parse_uv, machine.text(*uv_files))])
    env: dict[str, str] = {}
    found: list[Registry] = []
    # A tool without configuration of its own uses what the other has.
    for own, other, variables in (
        (pip, uv, ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")),
        (uv, pip, ("UV_DEFAULT_INDEX", "UV_INDEX")),
    ):
        indexes, extra = own if any(own) else other
        if indexes:
            env[variables[0]] = indexes[0].url
        if extra:
            env[variables[1]] = " ".join(dict.fromkeys(each.url for each in extra))
        found += [*indexes[:1], *extra]
    # The files of an index lie beside its pages, as the common servers arrange them.
    return Found(tuple(dict.fromkeys(_above(each, "/simple") for each in found)), env)


def _indexes(
    environ: Mapping[str, str], index: Iterable[str], extra: Iterable[str]
) -> tuple[list[str], list[str]]:
    """The same from variables; of the first list the first counts."""
    return (
        [word for name in index for word in environ.get(name, "").split()],
        [word for name in extra for word in environ.get(name, "").split()],
    )


def _together(sources: Iterable[tuple[list[str], list[str]]]) -> tuple[list[Registry], list[Registry]]:
    """Indexes and further ones, of the sources in their order."""
    pairs = list(sources)
    indexes, extra = ([word for pair in pairs for word in pair[number]] for number in (0, 1))
    return _registries(_unnamed(indexes)), _registries(_unnamed(extra))


def _unnamed(addresses: Iterable[str]) -> list[str]:
    """uv gives an index a name, ``name=https://…``."""
    return [re.sub(r"^[A-Za-z0-9_.-]+=(?=https?://)", "", address) for address in addresses]


def _above(each: Registry, ending: str) -> Registry:
    path = each.path.removesuffix(ending)
    return Registry(each.host, path, each.port, each.scheme, each.url, each.credential)


# --- npm ----------------------------------------------------------------------------------------------------


def parse_npmrc(text: str) -> tuple[str, list[str], list[str]]:
    """The registry, those of scopes, and for which (``//host/path``) there are credentials."""
    main, scoped, known = "", [], []
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        key, value = key.strip(), value.strip().strip("\"'")
        if not equals or key.startswith(("#", ";")):
            continue
        if key == "registry":
            main = value
        elif key.startswith("@") and key.endswith(":registry"):
            scoped.append(value)
        elif key.startswith("//") and key.rpartition(":")[2] in ("_authToken", "_auth", "_password"):
            known.append(key.rpartition(":")[0].rstrip("/"))
    return main, scoped, known


def npm(machine: Machine) -> Found:
    environ = machine.environ
    main = environ.get("npm_config_registry", environ.get("NPM_CONFIG_REGISTRY", ""))
    user = environ.get("NPM_CONFIG_USERCONFIG", environ.get("npm_config_userconfig", "~/.npmrc"))
    scoped: list[str] = []
    known: list[str] = []
    for text in machine.text(user, "/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc"):
        found = parse_npmrc(text)
        main = main or found[0]
        scoped += found[1]
        known += found[2]
    registries = _registries([main, *scoped])
    env = {"npm_config_registry": registries[0].url} if registry(main) is not None else {}
    return Found(tuple(_with_credential(each, known) for each in registries), env)


def _with_credential(each: Registry, known: Iterable[str]) -> Registry:
    place = each.url.partition(":")[2].rstrip("/")
    has = each.credential or any(place == one or place.startswith(one + "/") for one in known)
    return Registry(each.host, each.path, each.port, each.scheme, each.url, has)


# --- cargo --------------------------------------------------------------------------------------------------


def parse_cargo(text: str) -> list[str]:
    """The addresses of all registries and of the sources that replace others, of a config.toml."""
    data = _toml(text)
    found: list[str] = []
    for table, key in (("registries", "index"), ("source", "registry")):
        entries = data.get(table)
        for entry in entries.values() if isinstance(entries, dict) else ():
            found += _strings(entry.get(key)) if isinstance(entry, dict) else []
    return found


def cargo(machine: Machine) -> Found:
    named = {name: value for name, value in machine.environ.items() if _CARGO_VARIABLE.fullmatch(name)}
    home = machine.environ.get("CARGO_HOME", "~/.cargo")
    addresses = list(named.values())
    for text in machine.text(f"{home}/config.toml", f"{home}/config"):
        addresses += parse_cargo(text)
    kept = {name: found.url for name, value in named.items() if (found := registry(value)) is not None}
    env = {name: "sparse+" * named[name].startswith("sparse+") + url for name, url in kept.items()}
    return Found(tuple(_registries(addresses)), env)


_CARGO_VARIABLE: Final = re.compile(r"CARGO_REGISTRIES_[A-Z0-9_]+_INDEX")


# --- Debian -------------------------------------------------------------------------------------------------


def parse_sources(text: str) -> list[str]:
    """The addresses of a sources.list, in its one-line form or in stanzas (sources.list(5))."""
    found: list[str] = []
    field_name = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#") or not line.strip():
            continue
        words = re.sub(r"\[[^\]]*\]", " ", line).split()
        if words and words[0] in ("deb", "deb-src"):
            found += words[1:2]
            continue
        if not line[0].isspace():
            field_name, _, line = line.partition(":")
        if field_name.lower() == "uris":
            found += line.split()
    return found


def debian(machine: Machine) -> Found:
    folder = machine.root / "etc/apt/sources.list.d"
    files = ["/etc/apt/sources.list"]
    if folder.is_dir():
        listed = sorted(path.name for path in folder.iterdir() if path.suffix in (".list", ".sources"))
        files += [f"/etc/apt/sources.list.d/{name}" for name in listed]
    addresses = [address for text in machine.text(*files) for address in parse_sources(text)]
    return Found(tuple(dict.fromkeys(_registries(addresses))))


# --- containers ---------------------------------------------------------------------------------------------


def parse_docker(text: str) -> list[str]:
    """The registries that a config.json has credentials for."""
    try:
        data = json.loads(text)
    except ValueError:
        return []
    logins = data.get("auths") if isinstance(data, dict) else None
    names = list(logins) if isinstance(logins, dict) else []
    return [name if "://" in name else f"https://{name}" for name in names]


def parse_registries(text: str) -> list[str]:
    """The registries of a containers-registries.conf(5)."""
    data = _toml(text)
    hosts = _strings(data.get("unqualified-search-registries"))
    entries = data.get("registry")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("blocked") is not True:
            hosts += _strings(entry.get("location")) or _strings(entry.get("prefix"))
    return [f"https://{host}" for host in hosts if not host.startswith("*")]


def containers(machine: Machine) -> Found:
    docker = machine.environ.get("DOCKER_CONFIG", "~/.docker")
    addresses = [each for text in machine.text(f"{docker}/config.json") for each in parse_docker(text)]
    conf = (machine.config("containers/registries.conf"), "/etc/containers/registries.conf")
    for text in machine.text(*conf)[:1]:  # the owner's replaces the system's
        addresses += parse_registries(text)
    # Images are below /v2 (the distribution specification), whatever is before the first slash.
    found = [Registry(each.host, "/v2", each.port, each.scheme, each.url) for each in _registries(addresses)]
    return Found(tuple(dict.fromkeys(found)))


# --- AWS ----------------------------------------------------------------------------------------------------


def parse_aws(text: str, profile: str) -> str:
    """The region of a profile, empty when it names none."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return ""
    section = profile if profile == "default" else f"profile {profile}"
    return parser.get(section, "region", fallback="").strip()


def aws(machine: Machine) -> Found:
    environ = machine.environ
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
    if not region:
        file = environ.get("AWS_CONFIG_FILE", "~/.aws/config")
        profile = environ.get("AWS_PROFILE", "default")
        region = next((found for text in machine.text(file) if (found := parse_aws(text, profile))), "")
    if not _REGION.fullmatch(region):
        return Found()
    env = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    return Found((Registry(f"bedrock-runtime.{region}.amazonaws.com"),), env)


# --- all ----------------------------------------------------------------------------------------------------

FINDERS: Final[Mapping[str, Callable[[Machine], Found]]] = {
    "python": python,
    "npm": npm,
    "cargo": cargo,
    "debian": debian,
    "containers": containers,
    "aws": aws,
}
WHERE: Final[Mapping[str, str]] = {
    "python": "pip or uv: pip config set --user global.index-url URL",
    "npm": "npm: npm config set registry URL",
    "cargo": "cargo, as [source] or [registries] in ~/.cargo/config.toml",
    "debian": "apt, in /etc/apt/sources.list",
    "containers": "podman in registries.conf, or docker login",
    "aws": "AWS: aws configure set region REGION",
}
"""Where a person says what a finder looks for."""


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
