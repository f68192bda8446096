"""Domains below which strangers can have names: a wildcard over one would be a wildcard over everybody.

Only used where a profile is loaded. The list (https://publicsuffix.org) comes with mitmproxy's
``publicsuffix2`` and is years old, so large shared domains that it lacks are named here. Both can
still miss one: this catches mistakes, and is no boundary that anything else relies on.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from nsharness.errors import NsharnessError

# Anybody can have a name directly below these.
_NEWER = frozenset(
    {
        "amplifyapp.com",
        "azurecontainerapps.io",
        "codeberg.page",
        "deno.dev",
        "fly.dev",
        "framer.app",
        "hf.space",
        "loca.lt",
        "netlify.app",
        "ngrok-free.app",
        "ngrok-free.dev",
        "ngrok.app",
        "ngrok.dev",
        "pages.dev",
        "r2.dev",
        "railway.app",
        "replit.app",
        "replit.dev",
        "supabase.co",
        "surge.sh",
        "trycloudflare.com",
        "vercel.app",
        "vercel.dev",
    }
)

# Below these the names of all customers stand under regions and services, at several depths.
_CLOUDS = ("amazonaws.com", "amazonaws.com.cn", "azurewebsites.net", "on.aws", "windows.net")


def is_shared(base: str) -> bool:
    """Whether names below a canonical host name belong to more than one owner.

    True for a single label, a public suffix, and what stands above one (``amazonaws.com``).
    """
    if "." not in base or base in _NEWER:
        return True
    if any(base == cloud or base.endswith("." + cloud) for cloud in _CLOUDS):
        return True
    return _is_listed(base, _list())


def _is_listed(base: str, rules: frozenset[str]) -> bool:
    """Whether a name is a suffix (``*`` stands for a label, ``!`` for an exception) or has one below it."""
    name = ".".join(map(_unicode, base.split(".")))
    if "!" + name in rules:
        return False
    if name in rules or "*." + name.partition(".")[2] in rules:
        return True
    return any(rule.endswith("." + name) for rule in rules)


def _list() -> frozenset[str]:
    """The rules of the packaged list. The package itself is not imported: it brings an HTTP client along."""
    spec = importlib.util.find_spec("publicsuffix2")
    if spec is None or spec.origin is None:
        raise NsharnessError("public suffix list", why="the package publicsuffix2 is not installed")
    text = Path(spec.origin).with_name("public_suffix_list.dat").read_text("utf-8")
    lines = (line.strip() for line in text.splitlines())
    return frozenset(line for line in lines if line and not line.startswith("//"))


def _unicode(label: str) -> str:
    """The list spells its names in Unicode."""
    return label[4:].encode().decode("punycode") if label.startswith("xn--") else label
