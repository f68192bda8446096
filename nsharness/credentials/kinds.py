"""What is public about the tokens of well-known services: beginning, length, characters.

Tools check this much before they send a token, so a placeholder has to look right; and what is public
need not be hidden. Nothing here is a secret or derived from one.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_letters, ascii_uppercase, digits

from nsharness.credentials.secret import Secret

_ALNUM = ascii_letters + digits
_BASE64URL = _ALNUM + "-_"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of token: its public prefix, then fields, each a number of characters of an alphabet
    or literal text between them."""

    name: str
    prefix: str
    fields: tuple[tuple[str, int] | str, ...]

    @property
    def length(self) -> int:
        """Of the whole token, in characters."""
        return len(self.prefix) + sum(len(f) if isinstance(f, str) else f[1] for f in self.fields)


GENERIC = Kind("", "nsph_", (("0123456789abcdef", 32),))
# Three base64url parts; ``eyJ`` is how every JSON object with a key begins.
JWT = Kind("jwt", "eyJ", ())
KINDS = (
    Kind("anthropic", "sk-ant-api03-", ((_BASE64URL, 93), "AA")),
    Kind("anthropic-oauth", "sk-ant-oat01-", ((_BASE64URL, 93), "AA")),
    Kind("openai-project", "sk-proj-", ((_BASE64URL, 156),)),
    Kind("openai-service", "sk-svcacct-", ((_BASE64URL, 156),)),
    Kind("openai", "sk-", ((_ALNUM, 48),)),
    *(Kind(f"github-{c}", f"gh{c}_", ((_ALNUM, 36),)) for c in "pousr"),
    Kind("github-fine", "github_pat_", ((_ALNUM, 22), "_", (_ALNUM, 59))),
    Kind("gitlab", "glpat-", ((_BASE64URL, 20),)),
    Kind("slack-bot", "xoxb-", ((digits, 12), "-", (digits, 12), "-", (_ALNUM, 24))),
    Kind("slack-user", "xoxp-", ((digits, 12), "-", (digits, 12), "-", (digits, 12), "-", (_ALNUM, 32))),
    Kind("huggingface", "hf_", ((ascii_letters, 34),)),
    Kind("npm", "npm_", ((_ALNUM, 36),)),
    Kind("aws", "AKIA", ((ascii_uppercase + "234567", 16),)),
    Kind("google", "AIza", ((_BASE64URL, 35),)),
    Kind("stripe-live", "sk_live_", ((_ALNUM, 24),)),
    Kind("stripe-test", "sk_test_", ((_ALNUM, 24),)),
    JWT,
)


def kind_of(token: str) -> Kind:
    """The kind with the longest prefix that the token begins with; generic if none fits."""
    fitting = (kind for kind in KINDS if token.startswith(kind.prefix))
    return max(fitting, key=lambda kind: len(kind.prefix), default=GENERIC)


def kind_named(name: str) -> Kind:
    """``KeyError`` for a name that is none; the empty name is the generic kind."""
    return {kind.name: kind for kind in (*KINDS, GENERIC)}[name]


def public_head(token: str) -> str:
    """What of a token is public: its kind's prefix, or else everything up to an early underscore
    (see ``Secret.prefix``); empty if there is nothing like that."""
    kind = kind_of(token)
    return Secret(token).prefix() if kind is GENERIC else kind.prefix
