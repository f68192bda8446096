"""Through a real sudo: root starts it, the invoking user's rights are what counts."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import descendants
from tests.support.program import Running

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd"),
    pytest.mark.xdist_group("sudo"),
]

COMMAND = [sys.executable, "-I", "-m", "nsharness.cli"]


@pytest.fixture
def account() -> pwd.struct_passwd:
    return pwd.getpwnam("nsharness-test")


@pytest.fixture
def run(account: pwd.struct_passwd, through_sudo: list[str]) -> Iterator[Running]:
    environment = {"PATH": os.environ["PATH"]}
    with Running([*through_sudo, *COMMAND, "run", "stage4", "--hold"], environment) as running:
        running.expect("^Holding")
        yield running
        # Only root may signal what sudo started: ask it to end instead.
        identifier = running.expect(r"Started \(id=(stage4-[0-9a-f]+)")[1]
        subprocess.run([*through_sudo, *COMMAND, "stop", identifier], check=True, capture_output=True)
        running.wait()


def test_the_workload_and_all_files_are_the_invoking_users(
    account: pwd.struct_passwd, through_sudo: list[str], run: Running
) -> None:
    identifier = run.expect(r"Started \(id=(stage4-[0-9a-f]+), link=veth, rootless=False")[1]
    state = Path(account.pw_dir, ".local", "state", "nsharness")
    assert (state / "runs" / identifier / "audit.jsonl").exists()
    owners = {path.lstat().st_uid for path in (state.parent.parent).rglob("*")}
    assert owners == {account.pw_uid}

    show = "id -u; exec cat /proc/self/status"
    entering = [*through_sudo, *COMMAND, "enter", identifier, "--", "sh", "-c", show]
    inside = subprocess.run(entering, capture_output=True, text=True, timeout=60)
    assert inside.stdout.splitlines()[0] == str(account.pw_uid), inside
    assert re.search(r"^Groups:\s*$", inside.stdout, re.MULTILINE)
    assert inside.stdout.count("0000000000000000") >= 5

    for name in ("nsharness-init", "nsharness_proxy", "nsharness_mocks"):
        found = [pid for pid in descendants(run.process.pid) if is_program(pid, name)]
        assert found, name
        for pid in found:
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.search(rf"^Uid:(\s+{account.pw_uid}){{4}}$", status, re.MULTILINE), (name, status)
            assert re.search(r"^CapEff:\s+0000000000000000$", status, re.MULTILINE), (name, status)


def is_program(pid: int, name: str) -> bool:
    try:
        return name in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False


def test_the_user_reaches_a_run_that_root_started_for_them(account: pwd.struct_passwd, run: Running) -> None:
    identifier = run.expect(r"Started \(id=(stage4-[0-9a-f]+)")[1]
    state = Path(account.pw_dir, ".local", "state", "nsharness", "runs", identifier)
    # As the user, without sudo: the control socket is theirs.
    status = (
        "import socket\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        f"s.connect('{state}/control')\n"
        's.send(b\'{"op": "status"}\')\n'
        "print(s.recv(999).decode())\n"
    )
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(*[account.pw_gid] * 3)
        os.setresuid(*[account.pw_uid] * 3)
        try:
            exec(status)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
