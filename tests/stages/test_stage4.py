"""Stage 4 without a kernel: the real profile, skill, loop, mocks and checkpoint file; a local shell."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nsharness import stages
from nsharness.agent.checkpoints import CheckpointStore
from nsharness.agent.ports import Checkpoint, ShellResult
from nsharness.agent.procedure import parse
from nsharness.agent.skills import SkillFolder
from nsharness.errors import NsharnessError
from nsharness.policy.decide import Allow, Deny, decide, decide_host
from nsharness.policy.load import load_profile
from nsharness.policy.profile import Profile, SandboxProxyRule
from nsharness.policy.request import RequestView
from nsharness.stages import stage4
from nsharness.stages.stage4.flow import PROMPT, Stage4Result, run_stage4
from nsharness_mocks.wiki import SNIPPETS
from tests.mocks.process import WIKI_TOKEN, Mocks, running
from tests.stages.local import LocalSandbox, LocalShell
from tests.unit.agent.fakes import Result

FACT = next(line for line in SNIPPETS["durability"].splitlines() if line.startswith("Fact: "))[6:]
SUMMARY = f"The wiki on durability: {FACT}\n".encode()
CURL = "curl -s http://wiki.local/snippets/durability"


@dataclass(slots=True)
class Told:
    """A console that remembers what it was told."""

    lines: list[str] = field(default_factory=list)

    def checkpoint_started(self, name: str) -> None:
        self.lines.append(f"started {name}")

    def checkpoint_finished(self, name: str, seconds: float) -> None:
        assert 0 < seconds < 60
        self.lines.append(f"finished {name}")

    def checkpoint_cached(self, name: str) -> None:
        self.lines.append(f"cached {name}")

    def command_started(self, command: str) -> None:
        self.lines.append(f"$ {command}")

    def command_finished(self, result: ShellResult) -> None:
        self.lines.append(f"exit={result.exit_code}, stdout={len(result.stdout)} chars")

    @property
    def commands(self) -> list[str]:
        return [line[2:] for line in self.lines if line.startswith("$ ")]


@pytest.fixture(scope="module")
def mocks() -> Iterator[Mocks]:
    with running() as mocks:
        yield mocks


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "state" / "checkpoints.sqlite")


@dataclass(slots=True)
class Stage:
    """Runs the flow, each time in a new sandbox."""

    root: Path
    mocks: Mocks
    store: CheckpointStore
    token: str | None = WIKI_TOKEN
    runs: int = 0

    def run(self, **how: Any) -> tuple[Stage4Result, Told]:
        told = Told()
        return run_stage4(self.sandbox(), told, self.store, **how), told

    def sandbox(self) -> LocalSandbox:
        self.runs += 1
        return LocalSandbox(self.root / f"run{self.runs}", self.mocks.address, self.token)


@pytest.fixture
def stage(tmp_path: Path, mocks: Mocks, store: CheckpointStore) -> Stage:
    return Stage(tmp_path, mocks, store)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], Profile]:
    """The stage's profile with a copy of its skill in which one text is replaced by another."""

    def edited(old: str, new: str) -> Profile:
        folder = tmp_path / "skills"
        shutil.copytree(stage4.FOLDER / "skills", folder, dirs_exist_ok=True)
        file = folder / "wiki-summary" / "SKILL.md"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        return stage4.PROFILE.model_copy(update={"skill_source": str(folder)})

    return edited


def test_the_agent_reads_the_wiki_and_leaves_the_fact(stage: Stage, mocks: Mocks) -> None:
    result, told = stage.run()
    event = mocks.event()
    assert (event["path"], event["auth"], event["status"]) == ("/snippets/durability", "Bearer wiki_…", 200)
    assert result.summary == SUMMARY
    assert FACT in result.answer
    assert not result.cached
    assert told.lines == [
        "started default",
        f"$ {CURL}",
        "exit=0, stdout=514 chars",
        f"$ FACT='{FACT}'",
        "exit=0, stdout=0 chars",
        "$ printf '%s\\n' \"The wiki on durability: $FACT\" > /tmp/summary.txt",
        "exit=0, stdout=0 chars",
        "$ cat /tmp/summary.txt",
        f"exit=0, stdout={len(SUMMARY)} chars",
        "finished default",
    ]


def test_a_second_run_is_served_from_the_checkpoint_with_its_summary(stage: Stage, mocks: Mocks) -> None:
    first, _ = stage.run()
    mocks.event()
    second, told = stage.run()
    assert told.lines == ["cached default"]
    assert second == Stage4Result(first.answer, SUMMARY, cached=True, seconds=first.seconds)


def test_disabling_the_cache_does_everything_again_and_replaces_the_result(
    stage: Stage, mocks: Mocks
) -> None:
    stage.run()
    mocks.event()
    again, told = stage.run(disable_cache=True)
    assert mocks.event()["status"] == 200
    assert told.commands[0] == CURL
    assert not again.cached
    assert stage.run()[0].seconds == again.seconds


def test_a_failing_run_without_the_cache_leaves_no_earlier_result_behind(stage: Stage, mocks: Mocks) -> None:
    stage.run()
    stage.token = None
    for how in ({"disable_cache": True}, {}):
        with pytest.raises(NsharnessError):
            stage.run(**how)
    assert [mocks.event()["status"] for _ in range(3)] == [200, 401, 401]


@pytest.mark.parametrize("token", [None, "wiki_wrong_0123456789abcdefghijkl"])
def test_without_the_token_the_run_fails_says_where_and_leaves_no_checkpoint(
    stage: Stage, mocks: Mocks, token: str | None
) -> None:
    stage.token = token
    for _ in range(2):
        with pytest.raises(NsharnessError) as caught:
            stage.run()
        assert mocks.event()["status"] == 401
        assert caught.value.exit_code == 1
        assert "step 1 (Read the snippet)" in str(caught.value)
        assert '"unauthorized"' in str(caught.value)


class DeniedShell(LocalShell):
    def run(self, command: str, timeout: float = 60.0) -> Result:
        return LocalShell.run(
            self, command.replace(CURL, """echo '{"error": "denied by nsharness"}'"""), timeout
        )


class DeniedSandbox(LocalSandbox):
    @property
    def shell(self) -> LocalShell:
        return DeniedShell(self.home)


def test_a_refusal_of_the_proxy_reads_like_one(stage: Stage) -> None:
    """Any body without the fact stops the procedure, whatever its status: curl -s exits 0 for all of them."""
    told = Told()
    denied = DeniedSandbox(stage.root / "denied", stage.mocks.address, None)
    with pytest.raises(NsharnessError, match="denied by nsharness"):
        run_stage4(denied, told, stage.store)
    assert told.commands == [CURL]


def test_an_unreachable_wiki_is_told_by_curls_status(stage: Stage) -> None:
    stage.mocks = Mocks(stage.mocks.process, stage.mocks.events, ("127.0.0.1", 1))
    with pytest.raises(NsharnessError, match=r"step 1 \(Read the snippet\): exit status 7"):
        stage.run()


def test_editing_the_skill_changes_what_is_done_and_what_is_cached(
    stage: Stage, mocks: Mocks, own: Callable[[str, str], Profile]
) -> None:
    stage.run(profile=own("snippets/durability", "snippets/durability"))
    mocks.event()
    result, told = stage.run(profile=own("snippets/durability", "snippets/replay"))
    assert mocks.event()["path"] == "/snippets/replay"
    assert told.commands[0] == CURL.replace("durability", "replay")
    assert b"recorded" in result.summary


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("> /tmp/summary.txt", "> /tmp/elsewhere.txt", "step 3"),
        (
            '"The wiki on durability: $FACT" > /tmp/summary.txt',
            "x; false",
            r"step 2 \(Write the summary\): exit status 1",
        ),
        ("cat /tmp/summary.txt\n", "cat /tmp/summary.txt; (exit 4)\n", "step 3 .* exit status 4"),
        ("cat /tmp/summary.txt\n", ": > /tmp/summary.txt; echo 'The wiki on durability: '\n", "I followed"),
        ("Expect: a line that starts with `Fact: `.", "Expect: the fact.", "cannot follow the skill"),
    ],
    ids=["not written", "failed", "failed at the end", "empty", "unclear"],
)
def test_an_agent_that_did_not_do_it_is_a_failure_and_no_checkpoint(
    stage: Stage, mocks: Mocks, own: Callable[[str, str], Profile], old: str, new: str, words: str
) -> None:
    profile = own(old, new)
    for _ in range(2):
        with pytest.raises(NsharnessError, match=words) as caught:
            stage.run(profile=profile)
        assert caught.value.exit_code == 1
        if words != "cannot follow the skill":
            mocks.event()


def test_every_part_of_the_request_is_part_of_the_key(stage: Stage) -> None:
    keys: list[str] = []

    class Store:
        def load(self, key: str) -> Checkpoint:
            keys.append(key)
            return Checkpoint("a", (("/tmp/summary.txt", b"s"),), 1.0)

        def save(self, key: str, name: str, checkpoint: Checkpoint) -> None: ...
        def forget(self, key: str) -> None: ...

    sandbox = stage.sandbox()
    other = stage4.PROFILE.model_copy(update={"env": {"A": "b"}})
    moved = stage4.PROFILE.with_upstreams({"wiki.local": "127.0.0.1:4000"})
    again = stage4.PROFILE.with_upstreams({"wiki.local": "127.0.0.1:5000"})
    fewer = stage4.PROFILE.model_copy(update={"allowed_tools": ("exec",)})
    for how in [
        {},
        {"profile": other},
        {"profile": moved},
        {"profile": fewer},
        {"prompt": "x"},
        {"model": "a:b"},
    ]:
        run_stage4(sandbox, Told(), Store(), **how)  # type: ignore[arg-type]
    assert len(set(keys)) == 6
    run_stage4(sandbox, Told(), Store(), profile=again)
    run_stage4(sandbox, Told(), Store(), prompt=PROMPT, model="scripted")
    assert keys[6:] == [keys[2], keys[0]]


def test_the_profile_is_the_file_and_the_file_is_this() -> None:
    assert load_profile(Path(stage4.__file__).parent / "profile.toml") == stage4.PROFILE
    assert stage4.PROFILE.name == "stage4"
    assert stage4.PROFILE.sandbox_proxy_rules == (
        SandboxProxyRule(
            name="wiki",
            hosts=("wiki.local",),
            methods=("GET",),
            paths=("/snippets/*",),
            headers={"Authorization": "Bearer {{ wiki.token }}"},
        ),
    )
    assert stage4.PROFILE.allowed_tools == ("exec", "skill")
    assert stage4.PROFILE.model == "scripted"


@pytest.mark.parametrize(
    ("method", "host", "path", "allowed"),
    [
        ("GET", "wiki.local", "/snippets/durability", True),
        ("GET", "wiki.local", "/snippets/", False),
        ("GET", "wiki.local", "/snippets/a/b", False),
        ("GET", "wiki.local", "/", False),
        ("POST", "wiki.local", "/snippets/durability", False),
        ("POST", "webhook.local", "/webhooks/a", False),
    ],
)
def test_the_profile_allows_snippets_and_nothing_else(
    method: str, host: str, path: str, allowed: bool
) -> None:
    request = RequestView(method=method, scheme="http", host=host, port=80, path=path, query="", headers=())
    policy = stage4.PROFILE.with_upstreams({"wiki.local": "127.0.0.1:4000"}).to_policy()
    assert isinstance(decide(policy, request), Allow) == allowed
    assert isinstance(decide_host(policy, "webhook.local", 80), Deny)


def test_the_skill_can_be_followed_with_what_a_sandbox_has() -> None:
    (skill,) = SkillFolder(stage4.FOLDER / "skills").skills()
    assert skill.name == "wiki-summary"
    assert "wiki" in skill.description
    steps = parse(SkillFolder(stage4.FOLDER / "skills").read("wiki-summary").text)
    assert steps[0].command == CURL
    words = {word for step in steps for word in re.findall(r"^\w+", step.command, re.MULTILINE)}
    assert words <= {"curl", "printf", "cat"}


def test_no_file_of_the_stage_holds_a_token() -> None:
    for file in Path(stages.__path__[0]).rglob("*"):
        if file.suffix in (".toml", ".md", ".py"):
            assert not re.search(r"wiki_[A-Za-z0-9]{8}", file.read_text()), file


CACHED = """
import sys
from pathlib import Path
from nsharness.agent.checkpoints import CheckpointStore
from nsharness.stages.stage4.flow import run_stage4

class Nothing:
    def __getattr__(self, name):
        raise AssertionError(name)

class Console(Nothing):
    def checkpoint_cached(self, name):
        print(name)

run_stage4(Nothing(), Console(), CheckpointStore(Path(sys.argv[1])))
heavy = {"pydantic_ai", "mitmproxy", "pyroute2", "openai", "httpx"}
print(*sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


def test_a_cached_run_needs_no_sandbox_and_imports_no_pydantic_ai(
    stage: Stage, mocks: Mocks, tmp_path: Path
) -> None:
    stage.run()
    mocks.event()
    path = tmp_path / "state" / "checkpoints.sqlite"
    done = subprocess.run(
        [sys.executable, "-I", "-c", CACHED, str(path)], capture_output=True, text=True, cwd="/"
    )
    assert (done.stderr, done.stdout) == ("", "default\n\n")
