"""The library's one object: from threads, from an event loop, and when its start is given up."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nsharness import AsyncSandbox, NsharnessError, Profile, Sandbox, Sandboxes
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


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder that whoever the workload is reaches and may write to."""
    folder = Path(tempfile.mkdtemp(prefix="nsharness-test-", dir="/var/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_many_sandboxes_share_a_proxy_and_nothing_else(work: Path) -> None:
    rule = {"name": "known", "hosts": ["known.example"]}
    profile = Profile.model_validate({"name": "many", "sandbox_proxy_rules": [rule]})
    with Sandboxes(profile) as many, many.open() as one, many.open(workspace=work) as two:
        assert one.id != two.id
        for box, host in ((one, "one.example"), (two, "two.example")):
            box.run(["sh", "-c", f"echo {host} > /tmp/mine; exec curl -s http://{host}/"])
            assert [denied["host"] for denied in box.denials] == [host]
            assert box.run(["cat", "/tmp/mine"]).stdout == f"{host}\n".encode()
            bundle = box.run(["sh", "-c", "cat $SSL_CERT_FILE"]).stdout.decode()
            assert many.proxy.ca_pem(box.id) in bundle
        assert many.proxy.ca_pem(one.id) != many.proxy.ca_pem(two.id)
        assert two.run(["sh", "-c", "pwd; echo made > made"]).stdout == f"{work}\n".encode()
        assert one.run(["ls", str(work)]).exit_code != 0
        # One that ends ends alone.
        one.__exit__()
        assert two.run(["cat", "made"]).stdout == b"made\n"
        audit = (many.session.run.path / "audit.jsonl").read_text()
        assert audit.count(f'"{one.id}"') == audit.count(f'"{two.id}"') == 1


def test_what_is_open_when_the_block_ends_ends_with_it() -> None:
    with Sandboxes(ready=0) as many:
        box = many.open()
        box.__enter__()
        assert box.run(["true"]).exit_code == 0
    with pytest.raises(NsharnessError):
        box.run(["true"])
    box.__exit__()


def test_a_run_has_one_overlay(tmp_path: Path) -> None:
    files = {"workspace": str(tmp_path), "workspace_mode": "overlay"}
    profile = Profile.model_validate({"name": "over", "filesystem": files})
    with Sandboxes(profile) as many, pytest.raises(NsharnessError, match="use Sandbox for each"):
        many.open()
