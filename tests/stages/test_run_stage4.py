"""The main job, as a person runs it: real processes, real namespaces, the real command line."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.processes import alive, descendants
from tests.support.program import Program, Running
from tests.support.tiers import others_slow

pytestmark = pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd")

# One worker runs these one after the other: they look at the same run.
SHARED = pytest.mark.xdist_group("shared-run")

EXPECTED = [
    r"^\[mock-services\] Started \(pid \d+, hosts=\['webhook\.local', 'wiki\.local'\]\)$",
    r"^\[proxy\]         credentials loaded for hosts: \['wiki\.local'\]$",
    r"^\[proxy\]         Started \(pid \d+, engine=mitmproxy, injecting for hosts=\['wiki\.local'\]\)$",
    r"^\[sandbox\]       Started \(id=stage4-[0-9a-f]{12}, link=veth, rootless=(True|False), proxy-wired\)$",
    r"^Checkpoint `default` started\.$",
    r"^\[sandbox\] \$ curl -s http://wiki\.local/snippets/durability$",
    r"^\[proxy\]         injected headers for wiki\.local: \['Authorization'\]$",
    r"^\[mock-services\] GET /snippets/durability \(host=wiki\.local, auth=Bearer wiki_…\) → 200$",
    r"^\[sandbox\]   → exit=0, stdout=\d+ chars, cwd=/tmp$",
    r"^Checkpoint `default` finished in \d+\.\ds\.$",
]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def held(program: Program) -> Iterator[Running]:
    """A run whose flow is over and whose sandbox lives on; this test may end it."""
    with program.start("run", "stage4", "--hold") as running:
        running.expect("^Holding")
        yield running


@dataclass(frozen=True)
class Shared:
    """A held run that several tests look at and none ends."""

    program: Program
    running: Running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    program = Program(tmp_path_factory.mktemp("shared"))
    with program.start("run", "stage4", "--hold") as running:
        running.expect("^Holding")
        yield Shared(program, running)


def run_id(running: Running) -> str:
    return running.expect(r"Started \(id=(stage4-[0-9a-f]+)")[1]


def pids(running: Running) -> dict[str, int]:
    """The pids that the run announced, and those below its supervisor."""
    return {
        "supervisor": running.process.pid,
        "mocks": int(running.expect(r"mock-services\] Started \(pid (\d+)")[1]),
        "proxy": int(running.expect(r"proxy\] +Started \(pid (\d+)")[1]),
    }


def test_the_lines_come_in_the_promised_order_and_form(program: Program, tmp_path: Path) -> None:
    done = program("run", "stage4", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    position = 0
    for pattern in EXPECTED:
        matching = [number for number in range(position, len(lines)) if re.search(pattern, lines[number])]
        assert matching, f"{pattern} not found after line {position} of\n{done.stdout}{done.stderr}"
        position = matching[0] + 1
    assert f"rootless={os.geteuid() != 0}" in done.stdout
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert summary.startswith("The wiki on durability: ")
    assert summary.strip() in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
def test_a_second_run_comes_from_the_cache_unless_that_is_disabled(program: Program) -> None:
    first = program("run", "stage4")
    second = program("run", "stage4")
    third = program("run", "stage4", env={"DISABLE_CACHE": "1"})
    assert [done.returncode for done in (first, second, third)] == [0, 0, 0]
    assert "served from the cache" in second.stdout
    assert "→ 200" not in second.stdout
    assert "→ 200" in third.stdout
    assert "served from the cache" not in third.stdout


@SHARED
def test_the_token_is_nowhere_but_in_the_store_and_the_proxy(shared: Shared) -> None:
    """K14: no environment, no argument, no file, no other memory; no template, no name inside."""
    program, held = shared.program, shared.running
    token = program.secret("wiki", "token")
    needles = leaks.forms(token)
    inside = program(
        "enter", run_id(held), "--", "sh", "-c", "env; cat /proc/*/environ /proc/*/cmdline; ps aux; set"
    )
    assert inside.returncode == 0, inside.stderr
    assert not leaks.in_bytes(inside.stdout.encode(), needles)
    assert "wiki" not in inside.stdout
    assert "{{" not in inside.stdout
    everything = (
        "cat /etc/passwd /etc/nsharness/* /proc/self/mountinfo; grep -r '' /tmp /run /var/tmp ~ 2>/dev/null"
    )
    files = program("enter", run_id(held), "--", "sh", "-c", everything)
    assert not leaks.in_bytes(files.stdout.encode(), needles)

    assert leaks.in_processes(needles) == []
    store = program.data / "nsharness" / "secrets"
    assert leaks.in_files([program.state, program.data], needles, but=[store]) == []
    assert leaks.in_files([store], needles) != []
    assert not leaks.in_bytes("\n".join(held.lines).encode(), needles)
    if os.geteuid() == 0:
        found = pids(held)
        assert leaks.in_memory(found["proxy"], {token})
        assert not leaks.in_memory(found["mocks"], {token})
        for pid in descendants(found["supervisor"]) | {found["supervisor"]}:
            assert pid == found["proxy"] or not leaks.in_memory(pid, {token}), Path(
                f"/proc/{pid}/comm"
            ).read_text()


@pytest.mark.slow
@SHARED
def test_the_search_for_the_token_finds_it_where_it_is_planted(shared: Shared) -> None:
    program, held = shared.program, shared.running
    token = program.secret("wiki", "token")
    needles = leaks.forms(token)
    planted = program.state / "planted"
    planted.write_bytes(b"x" * 70_000 + token)
    assert leaks.in_files([program.state], needles) == [str(planted.resolve())]
    planted.write_text("Basic " + base64.b64encode(b"user:" + token).decode())
    assert leaks.in_files([program.state], needles) == [str(planted.resolve())]
    planted.unlink()
    command = ["env", f"PLANTED={token.decode()}", "sleep", "600"]
    with Running(command, program.environment) as hostile:
        assert any(str(hostile.process.pid) in place for place in leaks.in_processes(needles))
    leaky = ["env", f"PLANTED={token.decode()}", "sh", "-c", "cat /proc/*/environ"]
    inside = program("enter", run_id(held), "--", *leaky)
    assert leaks.in_bytes(inside.stdout.encode(), needles)
    if os.geteuid() == 0:
        assert leaks.in_memory(os.getpid(), {token})


REFUSED = {
    "a host that no rule names, by the proxy": "curl -s -o /dev/null -w '%{http_code}' http://webhook.local/",
    "a host that no rule names, directly": "curl -s --noproxy '*' http://webhook.local/ || echo refused",
    "a method that the rule does not name": "curl -s -o /dev/null -w '%{http_code}' -X POST http://wiki.local/snippets/x",
    "a path that the rule does not name": "curl -s -o /dev/null -w '%{http_code}' http://wiki.local/admin",
    "an address": "curl -s -o /dev/null -w '%{http_code}' http://203.0.113.7/",
    "an address, directly": "curl -s --noproxy '*' -o /dev/null -w '%{http_code}' http://203.0.113.7/",
    "TLS to an address": "curl -sk --noproxy '*' https://203.0.113.7/ || echo refused",
    "port 22": "curl -s --noproxy '*' telnet://203.0.113.7:22 || echo refused",
    "IPv6": "curl -s --noproxy '*' http://[2001:db8::1]/ || echo refused",
    "the services' own port": "curl -s --noproxy '*' http://127.0.0.1:{port}/ || echo refused",
    "another resolver": "curl -s --noproxy '*' http://example.com/ || echo refused",
}


@SHARED
@pytest.mark.parametrize("what", REFUSED)
def test_refused_at_once(shared: Shared, what: str) -> None:
    program, held = shared.program, shared.running
    mocks = pids(held)["mocks"]
    ports = re.findall(r"0100007F:([0-9A-F]{4}) .* 0A ", Path(f"/proc/{mocks}/net/tcp").read_text())
    command = REFUSED[what].replace("{port}", str(int(ports[0], 16)) if ports else "1")
    started = os.times().elapsed
    done = program("enter", run_id(held), "--", "sh", "-c", command)
    assert done.stdout in ("403", "421", "refused\n", "000"), done
    assert os.times().elapsed - started < 5
    assert not [line for line in held.lines if "webhook" in line and "→" in line]


@SHARED
def test_a_client_that_ignores_the_proxy_is_served_the_same(shared: Shared) -> None:
    """K11: proxy variables are a convenience, the road is the namespace's."""
    program, held = shared.program, shared.running
    command = "env -i PATH=$PATH curl -s http://wiki.local/snippets/durability"
    done = program("enter", run_id(held), "--", "sh", "-c", command)
    assert "Fact: " in done.stdout, done


def test_ps_stop_and_enter_use_the_promised_exit_codes(program: Program, held: Running) -> None:
    run = run_id(held)
    assert run in program("ps").stdout
    assert json.loads(program("ps", "--json").stdout)[0]["run"] == run
    assert program("enter", run, "--", "sh", "-c", "exit 7").returncode == 7
    assert program("enter", run, "--", "cat", stdin="hallo").stdout == "hallo"
    assert program("enter", run, "--", "no-such-program").returncode == 127
    assert program("enter", run, "--", "/etc/passwd").returncode == 126
    assert program("enter", run, "--", "sh", "-c", "kill -TERM $$").returncode == 143
    assert program("enter", "stage4-nonesuch", "--", "true").returncode == 125
    inside = program(
        "enter", run, "--", "sh", "-c", "cat /tmp/summary.txt; grep -E 'Cap(Prm|Bnd)|NoNew' /proc/self/status"
    )
    assert inside.stdout.startswith("The wiki on durability: ")
    assert inside.stdout.count("0000000000000000") == 2
    assert "NoNewPrivs:\t1" in inside.stdout
    assert program("stop", run).returncode == 0
    assert held.wait() == 128 + signal.SIGTERM
    assert program("ps").stdout.splitlines()[1:] == []
    assert program("enter", run, "--", "true").returncode == 125


@SHARED
def test_every_decision_is_one_line_of_the_audit_log(shared: Shared) -> None:
    program, held = shared.program, shared.running
    run = run_id(held)
    program("enter", run, "--", "curl", "-s", "http://webhook.local/webhooks/x")
    log = program.state / "nsharness" / "runs" / run / "audit.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [
        e for e in events if e["action"] == "inject" and e["host"] == "wiki.local" and e["rule"] == "wiki"
    ]
    assert [e for e in events if e["action"] == "deny" and e["host"] == "webhook.local"]
    assert not leaks.in_bytes(log.read_bytes(), leaks.forms(program.secret("wiki", "token")))


@pytest.mark.slow
def test_a_dead_proxy_is_replaced_and_the_sandbox_goes_on(program: Program, held: Running) -> None:
    os.kill(pids(held)["proxy"], signal.SIGKILL)
    command = ["enter", run_id(held), "--", "curl", "-s", "http://wiki.local/snippets/durability"]
    assert "Fact: " in program(*command).stdout
    held.expect(r"ended unexpectedly \(status -9\)")


@pytest.mark.slow
def test_a_proxy_that_is_given_up_leaves_nobody_waiting(program: Program, held: Running) -> None:
    """It fails closed, and at once: connections that nobody will ever accept are refused."""
    said, killed = held.expect(r"proxy\] +Started \(pid (\d+)"), []
    while said[1] is not None:  # Each start, until one is not followed by another.
        os.kill(int(said[1]), signal.SIGKILL)
        killed.append(said[1])
        said = held.expect(rf"not started again|proxy\] +Started \(pid (?!(?:{'|'.join(killed)}),)(\d+)")
    done = program("enter", run_id(held), "--", "curl", "-sS", "--max-time", "30", "http://wiki.local/x")
    assert done.returncode in (5, 6, 7), done  # No proxy, no name, no connection; 28 would be the timeout.


@pytest.mark.parametrize("number", others_slow([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]))
def test_however_it_ends_nothing_of_it_is_left(
    program: Program, held: Running, number: signal.Signals
) -> None:
    below = descendants(held.process.pid)
    assert len(below) >= 4
    watched = [os.pidfd_open(pid) for pid in below]
    held.process.send_signal(number)
    held.wait()
    for descriptor in watched:
        assert select.select([descriptor], [], [], 10)[0], "a process outlives its run"
        os.close(descriptor)
    # What is there besides belongs to the tests that run beside this one.
    left = [orphan for orphan in json.loads(program("gc", "--json").stdout) if orphan["run"] == run_id(held)]
    assert all(orphan["gone"] for orphan in left)
    assert bool(left) == (number == signal.SIGKILL)
    assert not list(program.state.rglob("control"))


@pytest.mark.parametrize(
    "pattern",
    others_slow(
        [
            r"\$ curl",
            "mock-services",
            "credentials loaded",
            "proxy.*Started",
            "sandbox.*Started",
            "Checkpoint",
        ]
    ),
)
def test_an_interrupt_at_any_step_leaves_nothing(
    program: Program, pattern: str, eventually: Callable[..., object]
) -> None:
    with program.start("run", "stage4", "--hold") as running:
        running.expect(pattern)
        below = descendants(running.process.pid)
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 130
    eventually(lambda: not [pid for pid in below if alive(pid)])
    assert not [line for line in running.lines if "Traceback" in line]
    assert not list(program.state.rglob("control"))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["run", "stage5"], "stage4"),
        (["run", "stage4", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["stop", "none"], "no run 'none'"),
        (["run", "stage4", "--model", "nonsense"], "nonsense"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_is_one_line_and_125(program: Program, arguments: list[str], wanted: str) -> None:
    done = program(*arguments)
    assert done.returncode == 125
    assert done.stdout == ""
    assert wanted in done.stderr
    assert len(done.stderr.splitlines()) == 1
