"""Through a real sudo: root starts it, the invoking user's rights are what counts."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import nsharness
from tests.support.processes import descendants
from tests.support.program import Program, Running
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel("userns", "procfs", "veth", "mount_setattr", "pidfd"),
    pytest.mark.xdist_group("sudo"),
]

LONG = 30.0  # seconds until a proxy has been loaded, on a busy machine
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
            eventually(
                partial(has_become, pid, account.pw_uid), LONG, f"{name} is {account.pw_name}, for good"
            )
    (zygote,) = [pid for pid in descendants(run.process.pid) if is_program(pid, "nsharness.sandbox.zygote")]
    kept = sum(1 << number for number in (21, 12, 7, 6))  # SYS_ADMIN, NET_ADMIN, SETUID, SETGID
    status = Path(f"/proc/{zygote}/status").read_text()
    assert {int(s, 16) for s in re.findall(r"^Cap(?:Prm|Eff|Bnd):\s+(\S+)$", status, re.MULTILINE)} == {kept}


def has_become(pid: int, uid: int) -> bool:
    """Whether a helper has given up everything. The proxy does it when it has imported what it needs."""
    status = Path(f"/proc/{pid}/status").read_text()
    wanted = (
        rf"Uid:(\s+{uid}){{4}}",
        *(rf"Cap{name}:\s+0{{16}}" for name in ("Eff", "Prm", "Bnd")),
        r"NoNewPrivs:\s+1",
    )
    return all(re.search(rf"^{line}$", status, re.MULTILINE) for line in wanted)


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


@pytest.mark.parametrize(
    ("value", "arguments"), [("ada", ["run", "stage4"]), ("-1", ["ps"]), ("", ["secret", "list"])]
)
def test_a_sudo_uid_that_is_none_starts_nothing(value: str, arguments: list[str], private_home: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(private_home), "SUDO_UID": value}
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (125, 1), done
    assert done.stderr.startswith("nsharness: SUDO_UID is no id")
    assert list(private_home.iterdir()) == []


@pytest.mark.parametrize("chosen", [False, True], ids=["own-uid", "chosen-user"])
def test_roots_own_run_is_of_an_unprivileged_uid(
    account: pwd.struct_passwd, chosen: bool, short_tmp: Path
) -> None:
    """Root without SUDO_UID: a uid that nobody has, or the one that --user names; never 0."""
    program = Program(short_tmp)
    with program.start(
        "run", "stage4", "--hold", *(["--user", account.pw_name] if chosen else [])
    ) as running:
        running.expect("^Holding")
        identifier = running.expect(r"Started \(id=(stage4-[0-9a-f]+)")[1]
        # The streams are pipes whose owner the command has to be, to open them by name.
        script = "id -u; id -g; id -un; cat /dev/stdin; echo out >/dev/stdout"
        inside = program("enter", identifier, "--", "sh", "-c", script, stdin="in\n")
        assert inside.stderr == ""
        uid, gid, name, *rest = inside.stdout.splitlines()
        assert rest == ["in", "out"]
        if chosen:
            assert (int(uid), int(gid), name) == (account.pw_uid, account.pw_gid, account.pw_name)
        else:
            assert int(uid) == int(gid) >= 0x7000_0000
        for pid in descendants(running.process.pid):
            if is_program(pid, "nsharness_proxy") or is_program(pid, "nsharness-init"):
                eventually(partial(has_become, pid, int(uid)), LONG, f"process {pid} is uid {uid}, for good")
        assert {path.lstat().st_uid for path in short_tmp.rglob("*")} == {0}
        program("stop", identifier)
        running.wait()


def test_a_program_with_the_setuid_bit_is_refused(account: pwd.struct_passwd, private_home: Path) -> None:
    """An interpreter with the setuid bit stands for an installation with it."""
    interpreter = private_home.parent / "tmp" / "python"
    shutil.copy(os.path.realpath(sys.executable), interpreter)
    interpreter.chmod(0o4755)
    program = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "from nsharness.linux.identity import current\n"
        "try: current()\n"
        "except Exception as error: print(error)\n"
    )
    user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    environment = {"PYTHONHOME": sys.base_prefix, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [*user, str(interpreter), "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    interpreter.unlink()
    assert done.stdout.startswith("refusing to run setuid or setgid"), done
    assert "install nsharness without the setuid bit" in done.stdout


@pytest.mark.parametrize("weakened", [False, True], ids=["ours", "weakened"])
def test_root_leaves_no_bytecode_in_somebody_elses_installation(
    account: pwd.struct_passwd, weakened: bool, short_tmp: Path
) -> None:
    """uv installs without bytecode; a user could not uninstall what root has written there."""
    source = Path(nsharness.__file__).parent
    shutil.copytree(source, short_tmp / "nsharness", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (short_tmp, *short_tmp.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid)
    weakening = "cli._leave_no_bytecode_of_root = lambda: None" if weakened else ""
    first = f"import sys; sys.path.insert(0, {str(short_tmp)!r})"
    program = f"{first}; from nsharness.cli import command as cli\n{weakening}\n"
    environment = {"HOME": str(short_tmp), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", program + "sys.exit(cli.main(['ps']))"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    roots = [str(path) for path in short_tmp.rglob("*") if path.lstat().st_uid == 0]
    assert bool(roots) == weakened, roots
