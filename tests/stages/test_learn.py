"""``nsharness learn``: a command runs with the road open, and then under the profile that is proposed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.upstreams import Upstream
from tests.support.program import Program

pytestmark = pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd")

SCRIPT = """
for url in a.example.org/users/1 a.example.org/users/2 b.example.org/x key.example.org/v1/a \
    key.example.org/other never.example.org/ 10.0.0.1/; do curl -s -m 20 http://$url; echo; done
curl -s -X POST -d body http://a.example.org/form
"""


@pytest.fixture
def host() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


def test_a_command_runs_under_what_was_learned_from_it(short_tmp: Path, host: Upstream) -> None:
    program = Program(short_tmp)
    short_tmp.chmod(0o755)
    assert program("secret", "set", "key", stdin="k-0123456789abcdef").returncode == 0
    path = short_tmp / "profile.toml"
    names = ("a", "b", "key", "never")
    mapped = "".join(f'"{name}.example.org:80" = "127.0.0.1:{host.port}"\n' for name in names)
    path.write_text(
        f"[upstreams]\n{mapped}"
        '[[sandbox_proxy_rules]]\nname = "key"\nhosts = ["key.example.org"]\npaths = ["/v1/**"]\n'
        'headers = { Authorization = "Bearer {{ key.value }}" }\n'
        '[[sandbox_proxy_rules]]\nname = "unused"\nhosts = ["unused.example.org"]\n'
        '[[sandbox_proxy_rules]]\nname = "never"\nhosts = ["never.example.org"]\ndeny = true\n'
    )
    learned = program("learn", "--no-workspace", "--profile", str(path), "--", "sh", "-c", SCRIPT)
    assert learned.returncode == 0
    assert "every public host" in learned.stderr.splitlines()[0]
    assert "denied-by-rule" in learned.stderr  # What the command wrote is apart from the proposal.
    made = tomllib.loads(learned.stdout)
    rules = {rule["name"]: rule for rule in made["sandbox_proxy_rules"]}
    assert rules.keys() == {
        "key", "never", "learned-a.example.org", "learned-a.example.org-2", "learned-b.example.org",
        "learned-key.example.org", "learned-10.0.0.1",
    }  # fmt: skip
    assert (rules["learned-a.example.org"]["methods"], rules["learned-a.example.org"]["paths"]) == (
        ["GET"],
        ["/users/*"],
    )
    assert rules["learned-key.example.org"]["paths"] == ["/other"]
    for told in ("rule unused", "credential-path", "upstream-address-refused", '"GET never.example.org:80/"'):
        assert told in learned.stdout
    # The credential went where the profile's own rule says, and nowhere else.
    with_key = [r.line for r in host.requests if r.all("Authorization") == ["Bearer k-0123456789abcdef"]]
    assert with_key == ["GET /v1/a HTTP/1.1"]
    assert b"never" not in host.received
    assert host.received.count(b"0123456789abcdef") == 1

    proposal = short_tmp / "proposal.toml"
    proposal.write_text(learned.stdout)
    again = program("exec", "--json", "--no-workspace", "--profile", str(proposal), "--", "sh", "-c", SCRIPT)
    assert {each["host"] for each in json.loads(again.stdout)["denied"]} == {"never.example.org"}
    assert host.received.count(b"0123456789abcdef") == 2


@pytest.mark.slow
def test_a_file_that_is_there_is_not_written_over(short_tmp: Path) -> None:
    program = Program(short_tmp)
    out = short_tmp / "out.toml"
    arguments = ["learn", "--no-workspace", "--out", str(out), "--", "sh", "-c", "echo hello; exit 3"]
    done = program(*arguments)
    assert (done.returncode, done.stdout) == (3, "hello\n")
    assert out.read_text().startswith("# Proposed")
    assert program("check", str(out)).returncode == 0
    assert program(*arguments).returncode == 125
    assert len(list(program.state.rglob("audit.jsonl"))) == 1


@pytest.mark.slow
def test_a_command_chooses_neither_where_the_proposal_goes_nor_what_is_in_it(short_tmp: Path) -> None:
    program = Program(short_tmp)
    short_tmp.chmod(0o755)
    work = short_tmp / "work"
    work.mkdir()
    work.chmod(0o777)  # for the workload of root, who is nobody here
    victim = short_tmp / "victim"
    victim.write_text("as it was")
    out = work / "out.toml"
    script = f"rm -f {out}; ln -s {victim} {out}; echo allow_any >> {out}; test -L {out}"
    done = program("learn", "--no-workspace", "--rw", str(work), "--out", str(out), "--", "sh", "-c", script)
    assert done.returncode == 125
    assert "replaced" in done.stderr
    assert victim.read_text() == "as it was"
