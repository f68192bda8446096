"""The text of a new profile, with comments that say what to do next. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nsharness.policy.commandline import Addition, variables

_WIDTH: Final = 90

_HEAD: Final = """\
# What a sandbox of nsharness may reach, and with which credentials. Whatever no rule allows is denied.
# The workload never has a secret: it is put into requests on their way to the hosts of a rule that names it.
# After a change: nsharness check, then nsharness trust. All keys are in docs/profiles.md.
"""

_EXAMPLE: Final = """\
# [[sandbox_proxy_rules]]
# name = "wiki"
# hosts = ["wiki.example.com"]
# methods = ["GET"]
# paths = ["/pages/**"]
# headers = { Authorization = "Bearer {{ wiki.token }}" }
#
# The secret of that rule is stored with: nsharness secret set wiki --key token
"""

_NETWORK: Final = """\
# Hosts that no rule names: with this a person is asked, at the terminal or with nsharness approve.
# [network]
# unknown = "ask"
"""

_FILES: Final = """\
# Files: the folder in which a command is started is shared with it; .env files are hidden there.
[filesystem]
workspace = "."
hide = [".env*"]
"""


def profile_text(name: str, additions: Sequence[Addition]) -> str:
    """A profile with these presets; TOML that ``policy.load`` reads."""
    parts = [_HEAD, f"name = {_value(name)}\n"]
    secrets = {ref: about for addition in additions for ref, about in addition.secrets.items()}
    if secrets:
        told = "".join(map(_secret, secrets.items()))
        parts.append(f"# Secrets to store; each command reads a value from standard input:\n{told}")
    if env := variables(additions, {}):
        parts.append("[env]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in env.items()))
    parts += [_NETWORK, _FILES]
    for addition in additions:
        parts.append(f"# --- {addition.name} ---\n")
        parts += ["[[sandbox_proxy_rules]]\n" + table(rule) for rule in addition.rules]
    if not additions:
        parts.append(_EXAMPLE)
    return "\n".join(parts)


def _secret(item: tuple[str, str]) -> str:
    ref, about = item
    return f"#   {storing(ref)}    # {about}\n"


def storing(ref: str) -> str:
    """The command that stores a secret, ``secret-name.key``."""
    name, _, key = ref.partition(".")
    return f"nsharness secret set {name} --key {key}"


def table(values: Mapping[str, Any]) -> str:
    """The keys of a table, a line each."""
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in values.items())


def document(values: Mapping[str, Any], rules: str = "") -> str:
    """A whole profile but for its rules, which stand at the end as text. Tables within tables are inline."""
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    parts = [table(plain)] if plain else []
    parts += [f"[{_key(k)}]\n{table(v)}" for k, v in values.items() if isinstance(v, Mapping)]
    return "\n".join([*parts, *([rules] if rules else [])])


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _value(text)


def _value(value: object) -> str:
    """A value of TOML; strings as JSON has them, which is how TOML's basic strings are written, too."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        items = [_value(each) for each in value]
        line = "[" + ", ".join(items) + "]"
        return line if len(line) < _WIDTH else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    return json.dumps(value, ensure_ascii=False)
