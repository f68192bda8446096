"""The checkpoint file: right key, right owner, right behaviour when it is not what it should be."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from nsharness.agent import checkpoints
from nsharness.agent.checkpoints import CheckpointStore, checkpoint_key
from nsharness.agent.ports import Checkpoint, Checkpoints
from nsharness.errors import NsharnessError

DONE = Checkpoint("the answer é\0\n", (("/tmp/a", b"\0\xff"), ("/tmp/b", b"")), 1.25)
INGREDIENTS: dict[str, Any] = {
    "profile": {"name": "x", "upstreams": {"wiki.local:80": "127.0.0.1:4000"}, "rules": [{"paths": ["/a"]}]},
    "skills": "d" * 64,
    "prompt": "p",
    "model": "scripted",
    "tools": ("exec", "skill"),
    "version": "1",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "checkpoints.sqlite"


@pytest.fixture
def store(path: Path) -> CheckpointStore:
    return CheckpointStore(path)


def test_what_was_saved_is_loaded_by_another_store(path: Path, store: Checkpoints) -> None:
    assert store.load("a") is None
    store.save("a", "default", DONE)
    assert CheckpointStore(path).load("a") == DONE
    assert store.load("b") is None


def test_a_later_one_takes_the_place_of_an_earlier_one_with_its_files(store: Checkpoints) -> None:
    store.save("a", "default", DONE)
    second = Checkpoint("second", (("/tmp/c", b"c"),), 0.5)
    store.save("a", "default", second)
    assert store.load("a") == second


def test_one_that_is_forgotten_is_gone_and_others_stay(path: Path, store: Checkpoints) -> None:
    store.save("a", "default", DONE)
    store.save("b", "default", DONE)
    store.forget("a")
    store.forget("never there")
    assert (store.load("a"), store.load("b")) == (None, DONE)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT DISTINCT key FROM file").fetchall() == [("b",)]


def test_the_oldest_go_when_there_are_too_many(store: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_KEPT", 3)
    for key in "abcde":
        store.save(key, "default", DONE)
    assert [key for key in "abcde" if store.load(key)] == ["c", "d", "e"]


def test_the_file_is_for_its_owner_alone_whatever_the_umask(path: Path, store: Checkpoints) -> None:
    before = os.umask(0)
    try:
        store.save("a", "default", DONE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_nothing_but_plain_text_and_bytes_is_stored(path: Path, store: Checkpoints) -> None:
    """K19: a secret handed over by mistake is refused before it can be written."""

    class Secret(str):
        __slots__ = ()

    hidden = Secret("wiki_0123456789")
    for checkpoint in [
        Checkpoint(hidden, (), 1.0),
        Checkpoint("a", ((hidden, b""),), 1.0),
        Checkpoint("a", (("b", hidden.encode()), ("c", memoryview(b"x"))), 1.0),  # type: ignore[arg-type]
    ]:
        with pytest.raises(TypeError, match="a checkpoint holds"):
            store.save("a", "default", checkpoint)
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"not a database at all, but long enough to be taken for one" * 20,
        b"SQLite format 3\0" + b"\xff" * 5000,
    ],
    ids=["text", "header only"],
)
def test_a_damaged_file_is_an_error_that_says_how_to_get_rid_of_it(
    path: Path, store: Checkpoints, content: bytes
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    uses: list[Callable[[], object]] = [
        lambda: store.load("a"),
        lambda: store.save("a", "n", DONE),
        lambda: store.forget("a"),
    ]
    for use in uses:
        with pytest.raises(NsharnessError) as caught:
            use()
        assert f"rm {path}" in caught.value.hint
        assert str(caught.value).count("\n") == 0
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE checkpoint SET answer = x'00'",
        "UPDATE checkpoint SET seconds = 'soon'",
        "UPDATE file SET data = 7 WHERE place = 0",
        "DROP TABLE file",
        "PRAGMA user_version = 99",
    ],
)
def test_a_file_with_something_else_in_it_is_not_believed(
    path: Path, store: Checkpoints, damage: str
) -> None:
    store.save("a", "default", DONE)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(damage)
        database.commit()
    with pytest.raises(NsharnessError) as caught:
        store.load("a")
    assert f"rm {path}" in caught.value.hint


def test_a_file_cut_in_the_middle_is_not_believed(path: Path, store: Checkpoints) -> None:
    store.save("a", "default", Checkpoint("x" * 50_000, (), 1.0))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(NsharnessError) as caught:
        store.load("a")
    assert f"rm {path}" in caught.value.hint


def test_an_empty_file_is_a_new_one(path: Path, store: Checkpoints) -> None:
    path.parent.mkdir()
    path.touch(mode=0o600)
    store.save("a", "default", DONE)
    assert store.load("a") == DONE


class Prepare(Protocol):
    def __call__(self, path: Path, elsewhere: Path, /) -> object: ...


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda path, elsewhere: path.symlink_to(elsewhere), "no regular file"),
        (lambda path, elsewhere: os.mkfifo(path, 0o600), "no regular file"),
        (lambda path, elsewhere: path.mkdir(), "no regular file"),
        (lambda path, elsewhere: (path.touch(), path.chmod(0o640)), "others may open it"),
    ],
    ids=["link", "fifo", "folder", "loose"],
)
def test_what_is_not_a_private_file_of_ours_is_not_used(
    path: Path, store: Checkpoints, tmp_path: Path, prepare: Prepare, why: str
) -> None:
    """K23."""
    elsewhere = tmp_path / "elsewhere"
    path.parent.mkdir()
    prepare(path, elsewhere)
    with pytest.raises(NsharnessError, match=why):
        store.save("a", "default", DONE)
    assert not elsewhere.exists()


def test_somebody_elses_file_is_not_used(path: Path) -> None:
    CheckpointStore(path).save("a", "default", DONE)
    with pytest.raises(NsharnessError, match="no regular file of uid"):
        CheckpointStore(path, owner=os.geteuid() + 1).load("a")


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NsharnessError, match="cannot use the checkpoint file"):
        CheckpointStore(tmp_path / "file" / "checkpoints.sqlite").load("a")


def test_every_access_happens_with_the_owners_rights(path: Path) -> None:
    entered: list[str] = []

    @contextlib.contextmanager
    def as_owner() -> Iterator[None]:
        assert not path.exists() or entered
        entered.append("in")
        yield
        entered.append("out")

    store = CheckpointStore(path, as_owner=as_owner)
    store.save("a", "default", DONE)
    store.load("a")
    store.forget("a")
    assert entered == ["in", "out"] * 3


def test_a_writer_that_holds_the_file_for_too_long_is_reported(
    path: Path, store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "BUSY_SECONDS", 0.0)
    store.save("a", "default", DONE)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NsharnessError, match="database is locked"):
            store.save("b", "default", DONE)
    store.save("b", "default", DONE)


WRITER = """
import sys
from pathlib import Path
from nsharness.agent.checkpoints import CheckpointStore
from nsharness.agent.ports import Checkpoint

store, me = CheckpointStore(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    store.save(f"{me}-{number}", "default", Checkpoint(me * 5000, (("/f", me.encode() * 9000),), 1.0))
    store.save("shared", "default", Checkpoint(me * 5000, (("/f", me.encode() * 9000),), 1.0))
    shared = store.load("shared")
    assert shared is not None and shared.answer == shared.files[0][1].decode()[:5000]
"""


def test_processes_that_write_at_once_lose_and_mix_nothing(path: Path, store: Checkpoints) -> None:
    names = "abc"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    outcomes = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        outcomes.append((process.returncode, errors))
    assert outcomes == [(0, "")] * len(names)
    for name in names:
        for number in range(25):
            found = store.load(f"{name}-{number}")
            assert found is not None
            assert found.answer == name * 5000


def test_threads_of_one_process_do_not_lose_each_others_locks(path: Path) -> None:
    """Closing any descriptor of a file drops the process's record locks on it (fcntl(2))."""
    store = CheckpointStore(path)
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(25):
                store.save(f"{name}-{number}", "default", DONE)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(store.load(f"{name}-{number}") == DONE for name in "abcd" for number in range(25))


@pytest.mark.parametrize(
    "change",
    [
        {"profile": {**INGREDIENTS["profile"], "name": "y"}},
        {"profile": {**INGREDIENTS["profile"], "system_prompt": ""}},
        {"profile": {**INGREDIENTS["profile"], "rules": [{"paths": ["/b"]}]}},
        {"profile": {**INGREDIENTS["profile"], "upstreams": {"wiki.local:81": "127.0.0.1:4000"}}},
        {"skills": "e" * 64},
        {"prompt": "P"},
        {"model": "openai:x"},
        {"tools": ("exec",)},
        {"version": "2"},
        {"prompt": "", "model": "pscripted"},
    ],
)
def test_the_key_changes_with_each_ingredient(change: dict[str, Any]) -> None:
    assert checkpoint_key(**INGREDIENTS) != checkpoint_key(**INGREDIENTS | change)


def test_the_key_does_not_change_with_what_makes_no_difference() -> None:
    profile = dict(reversed(INGREDIENTS["profile"].items())) | {
        "upstreams": {"wiki.local:80": "127.0.0.1:5000"}
    }
    assert checkpoint_key(**INGREDIENTS | {"profile": profile}) == checkpoint_key(**INGREDIENTS)
    assert len(checkpoint_key(**INGREDIENTS)) == 64
