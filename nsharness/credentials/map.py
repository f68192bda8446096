"""The credential map: which values go to which hosts, and who may read them.

There are three readers, one for each use, and a test that looks at who calls them: ``reveal`` and
``placeholder_secrets`` give what may be sent, to whoever has a ``Proof`` that it may; ``secrets`` gives
everything to what must recognise it, and stands only where such a thing is made, ``Scrubber(…)``;
``client_certificate`` gives, for a ``Proof`` too, a key to TLS, which shows a host that it has it and never
sends it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from nsharness.credentials.kinds import kind_of
from nsharness.credentials.secret import Secret, SecretRef
from nsharness.policy.hosts import HostPattern
from nsharness.policy.proof import Proof, ProofError

_VERSION_BYTES = 8
_SECTIONS = ("version", "hosts", "secrets", "entitled", "certificates")
_PEM = re.compile(
    r"-----BEGIN (?P<label>[A-Z0-9 ]+)-----(?P<body>[A-Za-z0-9+/= ]+)-----END (?P=label)-----", re.ASCII
)
_KEY_LABELS = frozenset({"PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"})


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a host is shown in TLS: a chain, the client's own certificate first, and its key.

    Secrets are one line, so both are PEM with spaces in place of its line breaks. ``ValueError``, without
    the text, if they are not that, and for keys that are encrypted.
    """

    chain: Secret
    key: Secret

    def __post_init__(self) -> None:
        _unfolded(self.chain, "certificate", {"CERTIFICATE"})
        if _unfolded(self.key, "key", _KEY_LABELS).count("-----BEGIN") != 1:
            raise ValueError("there are several keys")

    def chain_pem(self) -> str:
        """The certificates as PEM."""
        return _unfolded(self.chain, "certificate", {"CERTIFICATE"})

    def key_pem(self) -> str:
        """The key as PEM: for the TLS library, and for nothing else."""
        return _unfolded(self.key, "key", _KEY_LABELS)


class CredentialMap:
    """``{host pattern: {header name: value}}`` and what belongs to it, read-only. Shows names, never a value.

    ``secrets`` are the values that templates refer to, by ``name.key``; ``entitled`` says which of them may
    go to which host pattern in place of a placeholder. A map has a ``version``, a random text that another
    map never has: so a proof for one map opens no other.
    """

    __slots__ = ("_certificates", "_entitled", "_hosts", "_secrets", "version")

    def __init__(
        self,
        hosts: Mapping[str, Mapping[str, Secret]],
        *,
        secrets: Mapping[str, Secret] | None = None,
        entitled: Mapping[str, Iterable[str]] | None = None,
        certificates: Mapping[str, ClientCertificate] | None = None,
        version: str | None = None,
    ) -> None:
        self._hosts = {host: dict(headers) for host, headers in hosts.items()}
        self._secrets = dict(secrets or {})
        self._entitled = {host: tuple(refs) for host, refs in (entitled or {}).items()}
        self._certificates = dict(certificates or {})
        self.version = version or _new_version()
        if any(ref not in self._secrets for refs in self._entitled.values() for ref in refs):
            raise ValueError("a host is entitled to a secret that is not there")

    def reveal(self, proof: Proof, header: str) -> str:
        """The value of a header for the request that the proof is for: send it and keep it nowhere.

        ``ProofError`` if the proof is for another map or does not entitle to the header.
        """
        self._check(proof)
        if header.lower() not in (name.lower() for name in proof.headers):
            raise ProofError("headers", "the rule does not inject this one")
        value = self._value(proof.pattern, header)
        if value is None:
            raise ProofError("headers", "the credential map has no value for it")
        return value.reveal()

    def placeholder_secrets(self, proof: Proof) -> dict[str, Secret]:
        """The secrets, by ``name.key``, that may take the place of their placeholders in this request."""
        self._check(proof)
        entitled = self._entitled.get(proof.pattern, ())
        if not set(proof.secrets) <= set(entitled):
            raise ProofError("secrets", "the credential map does not entitle the host to them")
        return {ref: self._secrets[ref] for ref in proof.secrets}

    def has(self, host: str, header: str) -> bool:
        """Whether there is a value for a pattern's canonical text and a header name in any case."""
        return self._value(host, header) is not None

    def client_certificate(self, proof: Proof) -> ClientCertificate:
        """The certificate to show to the host that the proof is for, with its key.

        ``ProofError`` if the proof is for another map or does not entitle to it.
        """
        self._check(proof)
        if not proof.certificate:
            raise ProofError("certificate", "the rule shows none")
        found = self._certificates.get(proof.pattern)
        if found is None:
            raise ProofError("certificate", "the credential map has none for it")
        return found

    def has_certificate(self, host: str) -> bool:
        """Whether there is a client certificate for a pattern's canonical text."""
        return host in self._certificates

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host patterns that get a credential of any kind, in the order of the profile."""
        return tuple(dict.fromkeys((*self._hosts, *self._entitled, *self._certificates)))

    def header_names(self) -> dict[str, list[str]]:
        """What may be logged: the names of the headers for each host pattern."""
        return {host: list(self._hosts.get(host, ())) for host in self.hosts}

    def kinds(self) -> dict[str, str]:
        """What may be known of the secrets: the name of the kind of each (see ``kinds``)."""
        return {ref: kind_of(secret.reveal()).name for ref, secret in self._secrets.items()}

    def secrets(self) -> Iterator[Secret]:
        """Everything that must not come back, each once: the secrets, and the header values that have one in
        them. Only as the argument of what will recognise them: ``Scrubber(credentials.secrets())``."""
        seen: list[Secret] = []
        headers = (secret for values in self._hosts.values() for secret in values.values())
        for secret in (*self._secrets.values(), *headers):
            # A header without a secret in it is public. A map that names no secrets is one of bare headers.
            hidden = not self._secrets or any(s.reveal() in secret.reveal() for s in self._secrets.values())
            if hidden and secret not in seen:
                seen.append(secret)
                yield secret

    def to_bytes(self) -> bytes:
        """The map with its values as JSON: only ever into a sealed memfd."""
        plain = {
            "version": self.version,
            "hosts": {host: _plain(headers) for host, headers in self._hosts.items()},
            "secrets": _plain(self._secrets),
            "entitled": self._entitled,
            "certificates": {
                host: _plain({"chain": each.chain, "key": each.key})
                for host, each in self._certificates.items()
            },
        }
        return json.dumps(plain, ensure_ascii=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> CredentialMap:
        """Read what ``to_bytes`` wrote; ``ValueError``, without the content, if it is not that."""
        made = _parsed(content)
        if made is None:
            del content
            raise ValueError("the credential map is malformed")
        return made

    def _value(self, host: str, header: str) -> Secret | None:
        """The value for a pattern's canonical text and a header name in any case."""
        for name, secret in self._hosts.get(host, {}).items():
            if name.lower() == header.lower():
                return secret
        return None

    def _check(self, proof: Proof) -> None:
        if type(proof) is not Proof:
            raise ProofError("token", "this is no proof")
        if proof.secret_version != self.version:
            raise ProofError("secret_version", "it is that of another credential map")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CredentialMap):
            return NotImplemented
        # The version says which map it is, not what is in it.
        return all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__ if name != "version"
        )

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.hosts)

    def __repr__(self) -> str:
        return f"CredentialMap({self.header_names()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential map travels in sealed memory only")


def _new_version() -> str:
    # Not made from the values: whoever reads audit lines could try guesses on it.
    return secrets.token_hex(_VERSION_BYTES)


def _plain(values: Mapping[str, Secret]) -> dict[str, str]:
    return {name: secret.reveal() for name, secret in values.items()}


def _secrets_of(values: Mapping[str, str]) -> dict[str, Secret]:
    return {name: Secret(value) for name, value in values.items()}


def _parsed(content: bytes) -> CredentialMap | None:
    """The map, or None: what an exception says, and the frames of its traceback, could quote a value."""
    try:
        data: dict[str, Any] = json.loads(content)
        if tuple(data) != _SECTIONS or type(data["version"]) is not str or not data["version"]:
            return None
        certificates = {_pattern(host): _secrets_of(each) for host, each in data["certificates"].items()}
        return CredentialMap(
            {_pattern(host): _secrets_of(headers) for host, headers in data["hosts"].items()},
            secrets={str(SecretRef.parse(ref)): value for ref, value in _secrets_of(data["secrets"]).items()},
            entitled={_pattern(host): tuple(map(str, refs)) for host, refs in data["entitled"].items()},
            certificates={
                host: ClientCertificate(each["chain"], each["key"]) for host, each in certificates.items()
            },
            version=data["version"],
        )
    except (ValueError, AttributeError, TypeError, KeyError):
        return None


def _pattern(host: str) -> str:
    return str(HostPattern.parse(host))


def _unfolded(secret: Secret, what: str, labels: Iterable[str]) -> str:
    """One line of PEM as lines. ``ValueError``, without the text, if it is none or has another label."""
    folded = secret.reveal()
    blocks = list(_PEM.finditer(folded))
    rest = _PEM.sub("", folded).strip(" ")
    if not blocks or rest or any(block["label"] not in set(labels) for block in blocks):
        del folded, blocks, rest
        raise ValueError(f"the {what} is not PEM with its line breaks made spaces, or has another label")
    return "".join(
        f"-----BEGIN {block['label']}-----\n{_lines(block['body'])}-----END {block['label']}-----\n"
        for block in blocks
    )


def _lines(body: str) -> str:
    packed = body.replace(" ", "")
    return "".join(packed[start : start + 64] + "\n" for start in range(0, len(packed), 64))
