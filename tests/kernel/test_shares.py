"""What a profile's [filesystem] shares: modes, hidden and protected paths, links in any arrangement."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux.identity import Identity, current
from nsharness.plan.steps import Plan
from nsharness.supervisor import planning
from nsharness.supervisor.limits import plan_limits
from nsharness.supervisor.planning import plan_for
from nsharness.supervisor.session import Session
from tests.support.sandboxes import needs_sandbox, opened_box, opened_session, warm

pytestmark = needs_sandbox

SECRET = "hidden-from-the-workload"
MAKE = (
    *(".git/hooks/pre-commit", ".git/config", ".git/objects/x", ".envrc"),
    *("code", "sub/.env", "keys/a", "out/of/it"),
)


@pytest.fixture(scope="module")
def identity() -> Iterator[Identity]:
    mine = current({})
    uid, gid = (4711, 4711) if mine.privileged else (mine.owner_uid, mine.owner_gid)
    home = Path(tempfile.mkdtemp(prefix="nsharness-test-", dir="/var/tmp"))
    if mine.privileged:
        os.chown(home, uid, gid)
    yield Identity(mine.privileged, uid, gid, "ada", home, uid, gid)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def session(identity: Identity) -> Iterator[Session]:
    with opened_session(identity.home / "state", identity) as opened:
        yield warm(opened)


@pytest.fixture
def work(identity: Identity) -> Iterator[Path]:
    folder = identity.home / "work"
    with identity.files():
        for name in MAKE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(SECRET if "env" in name or "keys" in name else "text")
        os.link(folder / "sub/.env", folder / "sub/other-name")
        (folder / ".env.link").symlink_to("out/of/it")
    yield folder
    shutil.rmtree(folder)


def test_hidden_files_have_neither_content_nor_size_under_any_name(session: Session, work: Path) -> None:
    script = "cat sub/.env sub/other-name .env.link out/of/it; stat -c %s sub/.env sub/other-name; ls -A keys"
    more = "; mv sub moved; cat moved/.env; ln moved/.env x; cat x; cp -a keys k; ls -A k; mv keys k3"
    with opened_box(session, filesystem={"workspace": str(work)}) as weak:
        assert SECRET.encode() in weak.bash(script).stdout
    with opened_box(session, filesystem={"workspace": str(work), "hide": [".env*", "keys"]}) as box:
        done = box.bash(script + more)
        assert SECRET.encode() not in done.stdout
        assert done.stdout.split() == [b"0", b"0"]


@pytest.mark.parametrize("protected", [True, False])
def test_what_the_host_would_run_is_read_only_where_it_exists(
    session: Session, work: Path, protected: bool
) -> None:
    """K22: also by way of a directory above; without protection each of these succeeds."""
    files = {"workspace": str(work), **({} if protected else {"protect": []})}
    attacks = (
        "for f in .git/hooks/pre-commit .git/hooks/new .git/config .envrc; do echo evil > $f; done;"
        "mv .git old && cp -r old .git && echo evil > .git/hooks/post-checkout; mv .envrc e; rm -f .envrc;"
        "ln -sf code .envrc"
    )
    with opened_box(session, filesystem=files) as box:
        box.bash(attacks)
        box.out("echo fine > .git/objects/new; echo fine > code")
    evil = [p for p in work.rglob("*") if p.is_file() and "evil" in p.read_text() and "old" not in p.parts]
    assert bool(evil) is not protected
    assert (not (work / ".envrc").is_symlink()) is protected
    assert (work / "code").read_text() == "fine\n"


@pytest.mark.parametrize("known", [True, False])
def test_a_workload_does_not_change_what_nsharness_runs_from(
    session: Session, work: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """An environment in the project, say. With the next command the host would run what was put there."""
    code = work / "tools" / "lib" / "nsharness"
    with session.identity.files():
        code.mkdir(parents=True)
        (code / "__init__.py").write_text("right = True\n")
    monkeypatch.setattr(planning, "own_code", lambda: [str(work / "tools" / "lib")] if known else [])
    attacks = (
        "echo evil > tools/lib/nsharness/__init__.py; echo evil > tools/lib/sitecustomize.py;"
        "mv tools/lib old; mv tools elsewhere; mkdir -p tools/lib/nsharness;"
        "echo evil > tools/lib/nsharness/__init__.py"
    )
    with opened_box(session, filesystem={"workspace": str(work)}) as box:
        box.bash(attacks)
        box.out("echo fine > code")
    left = "".join(path.read_text() for path in (work / "tools").rglob("*.py"))
    assert left == ("right = True\n" if known else "evil\n")
    if known:
        with pytest.raises(NsharnessError, match=r"for writing: nsharness runs from .*tools/lib"):
            opened_box(session, filesystem={"read_write": [str(work)]}).__enter__()


def test_a_workspace_can_be_read_only(session: Session, work: Path) -> None:
    with opened_box(session, filesystem={"workspace": str(work), "workspace_mode": "ro"}) as box:
        assert box.out("cat code") == "text"
        assert b"Read-only file system" in box.bash("echo x > new; echo x > code; rm code").stderr
    assert (work / "code").read_text() == "text"


@pytest.mark.slow
def test_the_plan_that_is_printed_is_the_plan_that_is_carried_out(
    session: Session, identity: Identity, work: Path
) -> None:
    files = {"workspace": str(work), "hide": [".env*"], "read_only": ["/usr/share"], "size": "64MiB"}
    with opened_box(session, filesystem=files) as box:
        limits = plan_limits(box._profile.limit_values())
        printed = plan_for(
            box._profile, identity, sandbox=box.id, ca_pem="", limits=limits, environment={}, overlay=""
        )
        assert Plan.from_json(printed.to_json()) == box.plan
        seen = {line.split()[4] for line in box.out("cat /proc/self/mountinfo").splitlines()}
        named = {step.path for step in box.plan.steps} | {"/dev/pts"}
        assert seen <= named
        assert box.out("df --output=size -k /tmp | tail -1").strip() == "65536"


def test_no_arrangement_of_links_leads_out_of_the_workspace(
    session: Session, identity: Identity, work: Path
) -> None:
    """K23: random graphs of links, relative, absolute, through each other and through ``/proc``."""
    outside = identity.home / "outside"
    with identity.files():
        outside.mkdir()
        (outside / "secret").write_text(SECRET)
    chance = random.Random(20)
    names = [f"l{number}" for number in range(60)]
    for name in names:
        steps = [
            chance.choice(["..", ".", "sub", *names, "out", "outside"]) for _ in range(chance.randint(1, 5))
        ]
        start = chance.choice(["", "", "/", f"{outside}/", "/proc/self/root/", "/proc/self/cwd/", "../" * 9])
        end = chance.choice(["", "outside/secret", "secret", f"../{outside.name}/secret"])
        (work / name).symlink_to(
            f"{start}{'/'.join(steps)}/{end}" if chance.random() < 0.8 else f"{outside}/secret"
        )
    files = {"workspace": str(work), "hide": ["keys", ".env", ".envrc"]}
    write = "for l in l*; do cat $l $l/secret; echo evil > $l; echo evil > $l/secret; done 2>/dev/null"
    script = f"{write}; cat {outside}/*"
    with opened_box(session, filesystem=files) as box:
        assert SECRET.encode() not in box.bash(script).stdout
    assert (outside / "secret").read_text() == SECRET
    assert [path.name for path in outside.iterdir()] == ["secret"]
    shutil.rmtree(outside)


def test_what_is_private_in_the_home_is_absent_not_merely_unreadable(
    session: Session, identity: Identity
) -> None:
    names = (".ssh", ".aws", ".netrc", ".config", ".gnupg", ".bash_history", ".docker", ".kube")
    with identity.files():
        for name in names:
            (identity.home / name).mkdir(exist_ok=True)
    with opened_box(session) as box:
        done = box.bash("cd; stat " + " ".join(names))
    assert done.stderr.count(b"No such file") == len(names)


def test_abstract_sockets_of_the_host_are_not_there(session: Session) -> None:
    """K13: X11 and D-Bus listen there; the names belong to a network namespace."""
    import socket
    import sys

    name = f"nsharness-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(f"\0{name}")
        service.listen()
        with socket.socket(socket.AF_UNIX) as here:
            here.connect(f"\0{name}")
        script = f"import socket; print(socket.socket(socket.AF_UNIX).connect_ex('\\0{name}'))"
        python = sys.executable if sys.executable.startswith("/usr") else "python3"
        with opened_box(session) as box:
            done = box.run([python, "-I", "-c", script])
            if done.exit_code == 127:
                pytest.skip("no Python in /usr")
            assert done.stdout.strip() == b"111"
