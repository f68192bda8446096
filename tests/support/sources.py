"""The project's own source files, and what they import."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"nsharness": ROOT, "nsharness_proxy": ROOT / "proxy", "nsharness_mocks": ROOT / "mocks"}


@dataclass(frozen=True, slots=True)
class Import:
    """Module ``importer`` (dotted) imports ``imported``, in line ``line`` of ``path``."""

    importer: str
    imported: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.imported}"


def modules() -> dict[str, Path]:
    """All modules by dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    """All imports, those inside functions and for type checkers only included."""
    names = modules()
    return tuple(
        Import(importer, imported, path, line)
        for importer, path in names.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for imported, line in _imported(node, names)
    )


def _imported(node: ast.AST, names: dict[str, Path]) -> list[tuple[str, int]]:
    match node:
        case ast.Import():
            return [(alias.name, node.lineno) for alias in node.names]
        case ast.ImportFrom(module=str(module)):
            # ``from package import module`` names the module, ``from module import name`` does not.
            full = [f"{module}.{alias.name}" for alias in node.names]
            return [(name if name in names else module, node.lineno) for name in full]
        case _:
            return []


def within(name: str, *packages: str) -> bool:
    """Whether module ``name`` is one of ``packages`` or in one of them."""
    return any(name == package or name.startswith(package + ".") for package in packages)
