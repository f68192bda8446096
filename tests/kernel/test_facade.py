"""The library's one object: from threads, from an event loop, and when its start is given up."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nsharness import AsyncSandbox, NsharnessError, Profile, Sandbox
from tests.support.sandboxes import needs_sandbox

pytestmark = needs_sandbox


@pytest.fixture(autouse=True)
def state(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(short_tmp))


@pytest.mark.slow
def test_threads_have_sandboxes_of_their_own() -> None:
    def use(number: int) -> bytes:
        with Sandbox() as box:
            box.write("/tmp/mine", str(number).encode())
            return box.run(["cat", "/tmp/mine"]).stdout

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(use, range(2))) == [b"0", b"1"]


def test_environment_and_folder_are_for_one_program() -> None:
    with Sandbox() as box:
        done = box.run(["sh", "-c", "echo $GREETING $PWD"], env={"GREETING": "hello"}, cwd="/usr")
        assert done.stdout == b"hello /usr\n"
        assert box.run(["sh", "-c", "echo $GREETING $PWD"]).stdout == b"/tmp\n"


@pytest.mark.slow
async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    """The leak check of this folder looks for what is left."""

    async def use() -> None:
        async with AsyncSandbox():
            raise AssertionError("cancelled before it was there")

    task = asyncio.create_task(use())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_what_is_wrong_is_said_before_anything_starts(short_tmp: Path) -> None:
    with pytest.raises(NsharnessError, match="cannot share"), Sandbox(workspace="/etc"):
        pass
    missing = Profile.model_validate(
        {
            "name": "p",
            "sandbox_proxy_rules": [{"name": "r", "hosts": ["a.b"], "headers": {"X": "{{ no.key }}"}}],
        }
    )
    with pytest.raises(NsharnessError, match="nsharness secret set no"), Sandbox(missing):
        pass
