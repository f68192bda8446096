"""Files that tools of the host run or obey by themselves: who applies them should have read them."""

from __future__ import annotations

import re
from typing import Final

from nsharness.overlay.changes import Change

_RUNS: Final = (
    (r"\.git/.*|\.git", "git runs hooks and filters, and obeys settings, that stand there"),
    (r"\.gitmodules|\.gitattributes|\.githooks/.*", "git acts on it"),
    (r"\.husky/.*|\.pre-commit-config\.yaml|lefthook\.ya?ml", "it says what git hooks run"),
    (r"\.claude/.*|\.mcp\.json|\.cursor/.*|\.gemini/.*|\.codex/.*", "agents on the host run what it says"),
    (r"\.vscode/.*|\.idea/.*|\.vim/.*|\.nvim\.lua|\.exrc|.*\.code-workspace", "editors run what it says"),
    (r"\.devcontainer/.*", "editors build and start what it says"),
    (
        r"\.envrc|\.tool-versions|\.?mise\.toml|\.python-version",
        "shells act on it on entering",
    ),
    (r"\.npmrc|\.yarnrc(\.yml)?|\.yarn/.*|\.pnpmfile\.cjs|\.cargo/.*|\.bazelrc", "a build tool obeys it"),
    (r"\.github/.*|\.gitlab-ci\.yml", "it runs with the project's rights once it is pushed"),
    (r"conftest\.py|sitecustomize\.py|.*\.pth", "Python runs it without being told to"),
    (r"package\.json|Makefile|makefile|GNUmakefile|build\.rs|setup\.py|justfile", "a usual command runs it"),
)
_PATTERNS: Final = tuple(
    (re.compile(rf"(?:.*/)?(?:{text})", re.DOTALL | re.IGNORECASE), why) for text, why in _RUNS
)


def risk(change: Change) -> str:
    """Why the host may run what this change leaves behind; empty when nothing says so."""
    if change.after is None:
        return ""
    for pattern, why in _PATTERNS:
        if pattern.fullmatch(change.path):
            return why
    became = change.after.mode & 0o111 and not (change.before and change.before.mode & 0o111)
    return "it is a program now" if change.after.kind == "file" and became else ""
