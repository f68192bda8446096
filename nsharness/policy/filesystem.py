"""What of the host's file system a profile shares, and the checks of its keys."""

from __future__ import annotations

from typing import Final, Literal

type WorkspaceMode = Literal["rw", "ro", "overlay"]

PROTECTED: Final = (
    ".git/hooks",
    ".git/config",
    ".git/info/attributes",
    ".git/modules",
    ".githooks",
    ".husky",
    ".pre-commit-config.yaml",
    ".claude",
    ".mcp.json",
    ".cursor",
    ".vscode",
    ".idea",
    ".devcontainer",
    ".envrc",
    ".npmrc",
)
"""What tools of the host run or obey by themselves when somebody opens the folder or uses git there."""


def path(text: str) -> str:
    """An absolute or relative path, or one in the owner's home (``~/…``)."""
    if "\0" in text or "\n" in text:
        raise ValueError(f"{text!a} is no path")
    if text.startswith("~") and text != "~" and not text.startswith("~/"):
        raise ValueError(f"{text!a}: only one's own home directory can be meant, ~/…")
    return text


def glob(text: str) -> str:
    """A glob for names, or, with a slash, for paths below the shared folder."""
    if "\0" in text or not text.strip("/") or text.startswith("/") or ".." in text.split("/"):
        raise ValueError(
            f"{text!a} is no glob: it is relative to the shared folder, as .env* or config/*.pem"
        )
    return text


def relative(text: str) -> str:
    """A path below the workspace, written in full."""
    parts = text.split("/")
    if "\0" in text or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{text!a} is no path below the workspace, such as .git/hooks")
    return text
