"""How every program in a sandbox comes to trust the run's certificate authority. Pure.

Neither way suffices alone. Programs that use the system's certificates look in the place of the distribution
they were built for: all of those places lead to one bundle, the directory that OpenSSL looks things up in has
the authority under its name there, and Java has a store of its own. Others bring certificates along and are
told by a variable; most of those replace what they brought, so that the variable must name the whole bundle.

What the host trusts stays trusted, for connections that the proxy passes through.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Final

from nsharness.plan import java
from nsharness.plan.certificates import certificates, subject_hash
from nsharness.plan.facts import (
    CA_BUNDLES,
    CERTIFICATE_DIRECTORIES,
    ETC_ENTRIES,
    JAVA_STORES,
    CertificateDirectory,
    HostFacts,
)
from nsharness.plan.places import parents, within
from nsharness.plan.steps import Bind, Cover, Directory, File, Links, Step, Symlink

CA_FILE: Final = "/etc/nsharness/ca.pem"
"""The run's certificate authority alone, for clients that add to their own bundle (Node, Deno)."""
CA_BUNDLE: Final = "/etc/nsharness/ca-bundle.pem"
"""The host's trusted certificates and the run's authority, for clients that take one file."""
JAVA_STORE: Final = "/etc/nsharness/cacerts"
"""The same for Java, where the host has one."""
_HOST_DIRECTORY: Final = "/etc/nsharness/certs"
"""Below it, the host's own directories of certificates, by a number."""

PLACES: Final = (*CA_BUNDLES, *CERTIFICATE_DIRECTORIES, *JAVA_STORES)
"""Where the authority is put for programs that use the system's certificates."""

_BUNDLE_VARIABLES: Final = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
    "NIX_SSL_CERT_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
)
_ADDED_VARIABLES: Final = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")


def variables(ca_pem: str, facts: HostFacts) -> dict[str, str]:
    """The variables that tell programs of the authority, none without one."""
    if not ca_pem:
        return {}
    made = dict.fromkeys(_BUNDLE_VARIABLES, CA_BUNDLE) | dict.fromkeys(_ADDED_VARIABLES, CA_FILE)
    made["UV_SYSTEM_CERTS"] = "true"
    if facts.java:
        # For a Java that was not made by the distribution: it brings a store along.
        made["JAVA_TOOL_OPTIONS"] = f"-Djavax.net.ssl.trustStore={JAVA_STORE}"
    return made


def trusted(ca_pem: str, facts: HostFacts, made: set[str]) -> list[Step]:
    """The steps for the system's places; ``made`` are the directories that are there, and is added to.

    Without an authority the host's directories are shared as they are.
    """
    if not ca_pem:
        return _as_on_the_host(facts, made)
    steps: list[Step] = [
        File(CA_FILE, ca_pem),
        File(CA_BUNDLE, facts.ca_bundle.rstrip("\n") + "\n" + ca_pem),
    ]
    if facts.java:
        steps.append(File(JAVA_STORE, _java_store(ca_pem, facts), binary=True))
    for path in CERTIFICATE_DIRECTORIES:
        steps += _directory(path, ca_pem, facts, made)
    for path, target in _places(facts):
        if not within(path, *CERTIFICATE_DIRECTORIES):
            steps += _redirected(path, target, facts, made)
    return steps


def _as_on_the_host(facts: HostFacts, made: set[str]) -> list[Step]:
    steps: list[Step] = []
    for path in CERTIFICATE_DIRECTORIES:
        if facts.kind(path) == "symlink":
            steps += [*map(Directory, parents(path, made)), Symlink(path, facts.entries[path].target)]
        elif path in facts.certificates:
            steps += [*map(Directory, parents(path, made)), Directory(path)]
            steps.append(Bind(facts.certificates[path].source, path))
    return steps


def _places(facts: HostFacts) -> list[tuple[str, str]]:
    """Where programs look, and at what of ours they are to look."""
    places = [(path, CA_BUNDLE) for path in CA_BUNDLES]
    return [*places, *((path, JAVA_STORE) for path in JAVA_STORES if facts.java)]


def _directory(path: str, ca_pem: str, facts: HostFacts, made: set[str]) -> list[Step]:
    """A directory of certificates of the sandbox's own, with links to what is in the host's."""
    if facts.kind(path) == "symlink":  # to another of these
        return [*map(Directory, parents(path, made)), Symlink(path, facts.entries[path].target)]
    tops = [path, *(each for each in CERTIFICATE_DIRECTORIES if _leads_to(each, path, facts))]
    inside = [(place, target, top) for place, target in _places(facts) for top in tops if within(place, top)]
    links = {place.removeprefix(f"{top}/"): target for place, target, top in inside}
    host = facts.certificates.get(path, CertificateDirectory(path))
    links |= dict.fromkeys(_hash_names(ca_pem, host.names), CA_FILE)
    steps: list[Step] = [*map(Directory, parents(f"{path}/x", made))]
    taken = {name.partition("/")[0] for name in links}
    kept = tuple(name for name in host.names if name not in taken)
    if kept:
        shown = f"{_HOST_DIRECTORY}/{CERTIFICATE_DIRECTORIES.index(path)}"
        steps += [*map(Directory, parents(f"{shown}/x", made)), Bind(host.source, shown)]
        steps.append(Links(path, shown, kept))
    for name, target in links.items():
        steps += [*map(Directory, parents(f"{path}/{name}", made)), Symlink(f"{path}/{name}", target)]
    return steps


def _leads_to(link: str, path: str, facts: HostFacts) -> bool:
    return facts.kind(link) == "symlink" and facts.entries[link].target == path


def _hash_names(ca_pem: str, names: tuple[str, ...]) -> list[str]:
    """The names under which OpenSSL finds the authority, beside the certificates that have ``names``."""
    taken, found = set(names), []
    for der in certificates(ca_pem):
        stem, number = subject_hash(der), 0
        while f"{stem}.{number}" in taken:
            number += 1
        taken.add(f"{stem}.{number}")
        found.append(f"{stem}.{number}")
    return found


def _redirected(path: str, target: str, facts: HostFacts, made: set[str]) -> list[Step]:
    shared = [entry for entry in ETC_ENTRIES if within(path, entry) and facts.kind(entry) is not None]
    if shared:
        # In a bind of the host's directory nothing can be made, only covered; a symlink there leads to
        # another of these places.
        bound = facts.kind(shared[0]) == "directory" and facts.kind(path) == "file"
        return [Cover(path, target)] if bound else []
    return [*map(Directory, parents(path, made)), Symlink(path, target)]


@lru_cache(maxsize=1)
def _java_entries(ca_bundle: str) -> tuple[bytes, ...]:
    """Of what the host trusts, which is the same for every sandbox."""
    numbered = enumerate(certificates(ca_bundle))
    return tuple(java.entry(f"host-{number}", der) for number, der in numbered)


def _java_store(ca_pem: str, facts: HostFacts) -> str:
    """In base64, as a step has it."""
    own = [(f"nsharness-{number}", der) for number, der in enumerate(certificates(ca_pem))]
    return base64.b64encode(java.trust_store(own, _java_entries(facts.ca_bundle))).decode("ascii")
