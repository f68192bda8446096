"""A workspace as an overlay: what the workload does there is kept aside, shown, applied or thrown away."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nsharness.cli import main
from nsharness.linux.identity import Identity, current
from nsharness.supervisor.session import Session
from tests.support.sandboxes import Box, needs_sandbox, opened_box, opened_session

pytestmark = [needs_sandbox, pytest.mark.kernel("overlayfs")]

BEFORE = {
    "kept": "kept\n",
    "changed": "old\n",
    "gone": "gone\n",
    "tree/a": "a\n",
    "tree/b/c": "c\n",
    "was-file": "x\n",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A session, its workspace, and the command line for its run."""

    session: Session
    workspace: Path
    identity: Identity
    capture: pytest.CaptureFixture[str]

    @contextmanager
    def box(self, **more: Any) -> Iterator[Box]:
        files = {"workspace": str(self.workspace), "workspace_mode": "overlay", **more}
        with opened_box(self.session, filesystem=files) as box:
            yield box

    def command(self, name: str, *arguments: str) -> tuple[int, str]:
        self.capture.readouterr()
        code = main([name, self.session.run.id, *arguments])
        out, err = self.capture.readouterr()
        return code, out + err

    def diff(self) -> dict[str, str]:
        return {each["path"]: each["action"] for each in json.loads(self.command("diff", "--json")[1])}

    def contents(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.workspace)): path.read_text()
            for path in self.workspace.rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    @property
    def kept(self) -> Path:
        return self.session.run.path / "overlay"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    """A person with a home below /var/tmp, whom the command line also takes for its caller."""
    mine = current({})
    uid, gid = (4711, 4711) if mine.privileged else (mine.owner_uid, mine.owner_gid)
    home = Path(tempfile.mkdtemp(prefix="nsharness-test-", dir="/var/tmp"))
    workspace = home / "work"
    for name, text in BEFORE.items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(text)
    if mine.privileged:
        for path in (home, *home.rglob("*")):
            os.chown(path, uid, gid)
    person = Identity(mine.privileged, uid, gid, "ada", home, uid, gid)
    monkeypatch.setattr("nsharness.cli.changes.current", lambda: person)
    monkeypatch.setattr("nsharness.cli.command.interrupt", None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with opened_session(home / "state", person) as session:
        monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
        yield Place(session, workspace, person, capsys)
    subprocess.run(["chmod", "-R", "u+rwX", str(home)], check=True)
    shutil.rmtree(home)


WORK = """
echo new > changed; rm gone; echo n > new; mkdir dir; echo d > dir/d
rm -r tree; mkdir tree; echo a2 > tree/a          # opaque
rm was-file; mkdir was-file; echo in > was-file/in
ln -s /etc/passwd link; chmod 755 kept; touch -r kept .
"""


def test_changes_are_kept_aside_shown_applied_and_applied_again(place: Place) -> None:
    with place.box() as box:
        box.out(WORK)
        assert place.contents() == BEFORE
        assert place.diff()["new"] == "add"
        code, text = place.command("apply")
        assert code == 125
        assert "still lives" in text
    assert place.contents() == BEFORE
    expected = {
        "changed": "modify",
        "gone": "delete",
        "new": "add",
        "dir": "add",
        "dir/d": "add",
        "tree/a": "modify",
        "tree/b": "delete",
        "tree/b/c": "delete",
        "was-file": "retype",
        "was-file/in": "add",
        "link": "add",
        "kept": "mode",
    }
    assert place.diff() == expected
    patch = place.command("diff", "--patch")[1]
    assert "-old\n+new\n" in patch
    assert "+-> /etc/passwd" in patch

    code, text = place.command("apply", "changed", "dir/d")
    assert code == 0
    assert place.contents() == {**BEFORE, "changed": "new\n", "dir/d": "d\n"}
    code, text = place.command("apply", "--json")
    assert code == 0, text
    after = {"kept": "kept\n", "changed": "new\n", "new": "n\n", "dir/d": "d\n", "tree/a": "a2\n"}
    assert place.contents() == {**after, "was-file/in": "in\n"}
    assert str((place.workspace / "link").readlink()) == "/etc/passwd"
    assert stat.S_IMODE((place.workspace / "kept").stat().st_mode) == 0o755
    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in place.workspace.rglob("*")} == {
        (place.identity.owner_uid, place.identity.owner_gid)
    }
    assert place.command("apply") == (0, "")
    assert place.command("discard")[0] == 0
    assert not place.kept.exists()
    assert place.command("diff")[0] == 125


def test_the_layers_are_the_owners_alone_and_stay_for_the_next_sandbox(place: Place) -> None:
    with place.box() as box:
        box.out("echo x > new; mv tree/b tree/renamed 2>&1 || true")
    assert stat.S_IMODE(place.kept.stat().st_mode) == 0o700
    with place.box() as box:
        assert box.out("cat new") == "x"
    assert not (place.workspace / "new").exists()


def test_files_that_the_host_may_run_are_named(place: Place) -> None:
    """K22."""
    with place.box() as box:
        box.out(
            "mkdir -p .git/hooks .claude; echo x > .git/hooks/post-checkout; echo {} > .claude/settings.json"
        )
        box.out("echo x > run; chmod +x run; echo text > text")
    code, text = place.command("apply")
    assert code == 0
    warned = {line.split(": ")[2] for line in text.splitlines() if "warning" in line}
    assert warned == {".git", ".git/hooks", ".git/hooks/post-checkout", ".claude/settings.json", "run"}


def test_what_must_not_be_copied_is_refused_and_the_rest_applied(place: Place) -> None:
    with place.box() as box:
        box.out("cp /bin/true suid; chmod 4755 suid; mkfifo pipe; mkdir -p d; mkfifo d/pipe; echo n > new")
    code, text = place.command("apply", "--json")
    assert code == 1
    results = {each["path"]: each["result"] for each in json.loads(text)}
    refused = dict.fromkeys(["suid", "pipe", "d/pipe"], "refused")
    assert results == {**refused, "new": "applied", "d": "applied"}
    assert (place.workspace / "new").exists()
    assert not (place.workspace / "suid").exists()


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["dir", "changed", "tree/b"])
def test_nothing_is_written_through_a_link_in_the_workspace(place: Place, planted: str) -> None:
    """K23: whoever plants it, between the run and apply."""
    with place.box() as box:
        box.out("mkdir dir; echo evil > dir/victim; echo evil > changed; echo evil > tree/b/victim")
    victim = place.identity.home / "outside"
    with place.identity.files():
        victim.mkdir()
        (victim / "victim").write_text("safe")
    target = place.workspace / planted
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.symlink_to(victim / "victim" if planted == "changed" else victim)
    place.command("apply", "--force")
    assert (victim / "victim").read_text() == "safe"
    assert [p.name for p in victim.iterdir()] == ["victim"]


def test_links_that_the_workload_made_are_copied_never_followed(place: Place) -> None:
    secret = place.identity.home / "secret"
    secret.write_text("SECRET")
    with place.box() as box:
        box.out(
            f"rm changed; ln -s {secret} changed; mkdir real; ln -s ../../outside real/link; ln -s / root"
        )
    code, text = place.command("diff", "--patch")
    assert "SECRET" not in text
    code, text = place.command("apply")
    assert code == 0
    assert (place.workspace / "changed").is_symlink()
    assert secret.read_text() == "SECRET"


def test_hostile_modes_and_names_stop_neither_diff_nor_apply_nor_discard(place: Place) -> None:
    with place.box() as box:
        box.out(
            "mkdir -p shut/in/deep; cd shut; echo x > in/deep/f; chmod 0 in/deep/f in/deep in .; cd ..;"
            "echo y > $'a\\e[2J\\nb'; chmod 0 ."
        )
    text = place.command("diff")[1]
    assert "\x1b" not in text
    assert "A shut/in/deep/f" in text
    assert place.command("diff")[1] == text
    assert place.command("apply", "shut")[0] == 0
    assert stat.S_IMODE((place.workspace / "shut").lstat().st_mode) == 0
    assert place.command("discard")[0] == 0
    assert not place.kept.exists()


def test_what_the_host_changed_since_is_left_alone(place: Place) -> None:
    with place.box() as box:
        box.out("echo theirs > changed; echo theirs > new")
    (place.workspace / "changed").write_text("mine")
    code, text = place.command("apply")
    assert code == 1
    assert "after the run began" in text
    assert (place.workspace / "changed").read_text() == "mine"
    assert place.command("apply", "--force")[0] == 0
    assert (place.workspace / "changed").read_text() == "theirs\n"


def test_hidden_files_stay_hidden_under_an_overlay_and_are_not_changed(place: Place) -> None:
    (place.workspace / "tree" / ".env").write_text("SECRET")
    (place.workspace / "keys").mkdir()
    (place.workspace / "keys" / "k").write_text("SECRET")
    with place.box(hide=[".env*", "keys"]) as box:
        done = box.bash(
            "cat tree/.env; stat -c %s tree/.env; rm -rf tree; ls -A keys; mv keys k2; cp -r . /tmp/copy;"
            "grep -r SECRET /home /tmp /var . -s; ln tree/.env x; cat x"
        )
        assert b"SECRET" not in done.stdout
        assert done.stdout.split(b"\n")[0] == b"0"
    assert place.command("apply")[0] == 0
    assert (place.workspace / "tree" / ".env").read_text() == "SECRET"
    assert (place.workspace / "keys" / "k").read_text() == "SECRET"
