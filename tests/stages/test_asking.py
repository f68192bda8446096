"""A command asks for a host that no rule names, and a person answers: at the terminal, or by ``approve``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proxy.upstreams import Upstream
from tests.support.processes import descendants
from tests.support.program import Program
from tests.support.terminal import Terminal, terminals

pytestmark = pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd")

CURL = "curl -s -o /dev/null -w 'got %{http_code}\\n'"


@pytest.fixture
def program(short_tmp: Path) -> Program:
    return Program(short_tmp)


@pytest.fixture
def at_terminal(program: Program) -> Iterator[Callable[..., Terminal]]:
    with terminals(program) as start:
        yield start


@pytest.fixture
def host() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


def profile(folder: Path, host: Upstream) -> Path:
    """One that asks; two names lead to the host."""
    path = folder / "profile.toml"
    path.write_text(
        '# mine\n[network]\nunknown = "ask"\n[upstreams] # kept\n'
        f'"a.example.org:80" = "127.0.0.1:{host.port}"\n"b.example.org:80" = "127.0.0.1:{host.port}"\n'
    )
    folder.chmod(0o755)
    return path


def test_at_a_terminal_only_a_person_can_answer(
    program: Program, at_terminal: Callable[..., Terminal], host: Upstream, short_tmp: Path
) -> None:
    """K27. The command shows a question of its own, leaves the terminal in the middle of a sequence, writes
    on and on, and has answers typed as a terminal would that reports a title."""
    script = (
        "stty -echo; echo 'Allow it? once/always/never'; read fake; echo \"faked <$fake>\"; "
        f"{CURL} http://a.example.org/ > /tmp/got & asking=$!; "
        "(while :; do printf 'noise\\033]0;'; sleep 0.005; done) & "
        'wait $asking; kill $!; cat /tmp/got; read line; echo "read <$line>"'
    )
    path = profile(short_tmp, host)
    path.write_text(path.read_text().replace('[network]\nunknown = "ask"\n', ""))
    terminal = at_terminal(
        "exec", "--ask", "--no-workspace", "--profile", str(path), "--", "bash", "-c", script
    )
    terminal.expect("once/always/never")
    terminal.type("always\r")
    terminal.expect("faked <always>")
    code = terminal.expect("the code ([a-z2-9]{4}),")[1]
    terminal.expect("nsharness approve.\n> ")
    (run,) = (entry["run"] for entry in json.loads(program("ps", "--json").stdout))
    assert "waiting" in program("approve", run).stdout
    assert host.requests == []
    terminal.type("\x1b]lonce\x1b\\once\r")
    shown = terminal.expect("An answer is one of")
    assert "noise" not in shown.string[: shown.start()]
    assert host.requests == []
    terminal.type(f"once {code}\r")
    terminal.expect("a.example.org is allowed in this run\n")
    terminal.expect("got 200")
    terminal.type("mine\r")
    terminal.expect("read <mine>")
    assert terminal.wait() == 0
    assert len(host.requests) == 1


def test_without_a_terminal_approve_answers_and_always_is_written(
    program: Program, host: Upstream, short_tmp: Path
) -> None:
    path = profile(short_tmp, host)
    before = path.read_text()
    script = "; ".join(f"{CURL} http://{name}.example.org/" for name in "ababab")
    arguments = ["exec", "--no-workspace", "--profile", str(path), "--", "sh", "-c", script]
    with subprocess.Popen(
        program.argv(arguments), env=program.environment, cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        run = _told(process.stderr.readline(), "a.example.org")
        (row,) = json.loads(program("approve", run, "--json").stdout)
        assert (row["host"], row["state"]) == ("a.example.org", "waiting")
        assert program("approve", run, "192.0.2.1", "once").returncode == 125
        for incomplete in (["a.example.org"], ["once"], ["a.example.org", "yes"]):
            assert program("approve", run, *incomplete).returncode == 125
        done = program("approve", run, "A.example.org", "always")
        assert (done.returncode, done.stderr) == (0, "")
        assert str(path) in done.stdout
        assert _told(process.stderr.readline(), "b.example.org") == run
        # Who waits while the proxy dies has no answer, and is asked about anew; a yes stays one.
        (proxy,) = (
            p
            for p in descendants(process.pid)
            if b"nsharness_proxy" in Path(f"/proc/{p}/cmdline").read_bytes()
        )
        os.kill(proxy, signal.SIGKILL)
        assert _told(process.stderr.readline(), "b.example.org") == run
        assert "stays denied" in program("approve", run, "b.example.org", "never").stdout
        codes = ["200", "000", "200", "403", "200", "403"]
        assert process.stdout.read().split() == " got ".join(["", *codes]).split()
        assert process.wait() == 0
    made = path.read_text()
    assert made.startswith(before)
    assert re.search(r'# Added by nsharness on .*\n\[\[sandbox_proxy_rules\]\]\n.*\nhosts = \["a', made)
    # Now the profile names it, and nobody is asked.
    done = program(
        "exec", "--no-workspace", "--profile", str(path), "--", "curl", "-s", "http://a.example.org"
    )
    assert (done.stdout, done.stderr) == ("ok", "")


@pytest.mark.slow
def test_always_is_not_written_where_the_workload_could_have(
    program: Program, host: Upstream, short_tmp: Path
) -> None:
    work = short_tmp / "work"
    work.mkdir()
    short_tmp.chmod(0o755)
    path = profile(work, host)
    before = path.read_text()
    assert program("trust", str(path)).returncode == 0
    arguments = ["exec", "--no-workspace", "--profile", str(path), "--rw", str(work)]
    with subprocess.Popen(
        program.argv([*arguments, "--", "curl", "-s", "http://a.example.org/"]), env=program.environment,
        cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        run = _told(process.stderr.readline(), "a.example.org")
        done = program("approve", run, "a.example.org", "always")
        assert "where the workload can write" in done.stdout
        assert 'hosts = ["a.example.org"]' in done.stdout
        assert process.communicate()[0] == "ok"
    assert path.read_text() == before


def _told(line: str, host: str) -> str:
    """The run that a line on standard error names."""
    match = re.fullmatch(r"nsharness: waits for an answer about (\S+) .*: nsharness approve (\S+)\n", line)
    assert match is not None, line
    assert match[1] == host
    return match[2]
