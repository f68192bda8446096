"""What Python cannot enforce, said where it can be checked: who mentions what, in the program's source."""

from __future__ import annotations

import ast

from tests.support.sources import modules, within


def _calls(name: str) -> list[tuple[str, ast.Call, ast.AST | None]]:
    """Every call of a name or method in the program, with its module and the call it is an argument of."""
    found: list[tuple[str, ast.Call, ast.AST | None]] = []
    for module, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        outer = {arg: call for call in ast.walk(tree) if isinstance(call, ast.Call) for arg in call.args}
        found += [
            (module, node, outer.get(node))
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and _called(node) == name
        ]
    return found


def _called(node: ast.AST | None) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_proofs_are_made_in_one_module_only() -> None:
    assert {module for module, _, _ in _calls("Proof")} == {"nsharness.policy.proof"}
    for module, path in modules().items():
        if module != "nsharness.policy.proof":
            assert "proof._TOKEN" not in path.read_text(encoding="utf-8")
            assert "__new__(Proof" not in path.read_text(encoding="utf-8")


def test_all_secrets_at_once_are_given_to_what_recognises_them_only() -> None:
    for module, node, outer in _calls("secrets"):
        if not within(module, "nsharness.credentials.map"):
            assert _called(outer) == "Scrubber", f"{module}:{node.lineno}"


def test_what_may_be_sent_is_read_in_one_place_with_a_proof() -> None:
    for name in ("placeholder_secrets", "client_certificate", "prove"):
        assert {module for module, _, _ in _calls(name)} == {"nsharness_proxy.sending"}
    # A secret's own method of that name takes nothing.
    with_proof = {module for module, node, _ in _calls("reveal") if node.args}
    assert with_proof == {"nsharness_proxy.sending"}
