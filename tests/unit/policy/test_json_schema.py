"""The JSON Schema that editors get agrees with what the loader takes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import nsharness
from nsharness.errors import NsharnessError
from nsharness.policy.load import parse_profile
from nsharness.policy.schema import json_schema
from nsharness.stages import stage4

README = (Path(nsharness.__file__).parent.parent / "README.md").read_text()
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def accepted(text: str) -> tuple[bool, bool]:
    """By the schema, and by the loader."""
    try:
        parse_profile(text, "p", default_name="p")
        loads = True
    except NsharnessError:
        loads = False
    return VALIDATOR.is_valid(tomllib.loads(text)), loads


def test_it_is_a_schema_that_can_be_printed() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(json.dumps(json_schema())) == json_schema()


def test_profiles_that_are_right_are_right_for_editors() -> None:
    demo = (Path(stage4.__file__).parent / "profile.toml").read_text()
    assert accepted(demo) == (True, True)
    blocks = [block.partition("```")[0] for block in README.split("```toml\n")[1:]]
    assert blocks
    for block in [*blocks, "", 'extends = "work"', 'extends = ["./a.toml"]']:
        assert VALIDATOR.is_valid(tomllib.loads(block)), block


@pytest.mark.parametrize(
    "text",
    [
        "modle = 1",
        "name = 7",
        "sandbox_proxy_rules = {}",
        '[[sandbox_proxy_rules]]\nname = "a"',
        '[[sandbox_proxy_rules]]\nname = "a"\nhosts = "a.test"',
        '[[sandbox_proxy_rules]]\nname = "a"\nhosts = ["a.test"]\nmethod = ["GET"]',
        '[[only]]\nhosts = ["a.test"]\nheaders = {}',
        '[filesystem]\nworkspace_mode = "all"',
        "[limits]\npids = 1",
        '[network]\nunknown = "allow"',
        "[privilege]\nuser_namespaces = 1",
        "[env]\nA = 1",
    ],
)
def test_unknown_keys_and_wrong_types_are_wrong_for_both(text: str) -> None:
    assert accepted(text) == (False, False)


def test_every_key_is_explained() -> None:
    def walk(node: Any, visit: Callable[[dict[str, Any]], None]) -> None:
        if isinstance(node, dict):
            visit(node)
            for each in node.values():
                walk(each, visit)
        elif isinstance(node, list):
            for each in node:
                walk(each, visit)

    def explained(node: dict[str, Any]) -> None:
        for name, field in node.get("properties", {}).items():
            assert field.get("description"), name

    walk(json_schema(), explained)
