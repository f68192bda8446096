"""What a workload is and is not: privileges, processes, descriptors, environment, terminal.

As root every test runs twice: for root itself, whose workload has a uid of its own, and for somebody who
used sudo.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux import libc
from nsharness.linux.identity import Identity, current
from nsharness.supervisor.session import Session
from tests.support.processes import descendants, process
from tests.support.sandboxes import Box, needs_sandbox, opened_box, opened_session, warm
from tests.support.waiting import eventually

pytestmark = needs_sandbox

SOMEBODY = 4711
CANARY = "canary-9c1f"
NOTHING = "0" * 16


@pytest.fixture(scope="module", params=["root itself", "sudo"] if os.geteuid() == 0 else ["ordinary user"])
def identity(request: pytest.FixtureRequest) -> Iterator[Identity]:
    """On whose behalf; the home directory holds something worth stealing."""
    home = Path(tempfile.mkdtemp(prefix="nsharness-home-", dir="/tmp"))
    (home / ".ssh").mkdir()
    for name in (".netrc", ".ssh/id_ed25519", ".bash_history"):
        (home / name).write_text(CANARY)
    mine = current({})
    uid = SOMEBODY if request.param == "sudo" else mine.owner_uid
    workload = mine.workload_uid if request.param == "root itself" else uid
    gid = mine.owner_gid if request.param == "ordinary user" else uid
    group = gid if request.param == "ordinary user" else workload
    if request.param == "sudo":
        for path in (home, *home.rglob("*")):
            os.chown(path, uid, uid)
    yield Identity(mine.privileged, uid, gid, "ada", home, workload, group)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def session(identity: Identity) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "CANARY",
            "AWS_SECRET_ACCESS_KEY",
            "SSH_AUTH_SOCK",
            "http_proxy",
            "LD_PRELOAD_",
            "BASH_ENV",
        ):
            patch.setenv(name, f"/{CANARY}")
        with opened_session(identity.home / "state", identity) as opened:
            yield warm(opened)


def inside(box: Box) -> set[int]:
    """The processes of a sandbox, as the host numbers them; orphans are children of its PID 1."""
    return {box.pid, *descendants(box.pid)}


def status_of(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def status_inside(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


# --- privilege ----------------------------------------------------------------------------------------------

WAYS = {
    "a program": lambda box: box.out("cat /proc/self/status"),
    "a command": lambda box: box.shell.run("cat /proc/self/status").stdout,
    "the shell": lambda box: box.shell.run("cat /proc/$$/status").stdout,
    "a session of its own": lambda box: box.out("setsid -w cat /proc/self/status"),
    "the first process": lambda box: box.out("cat /proc/1/status"),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_process_has_a_capability_in_any_set_or_can_gain_one(box: Box, way: str) -> None:
    status = status_inside(WAYS[way](box))
    sets = {name: value for name, value in status.items() if name.startswith("Cap")}
    assert sets == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), NOTHING)
    assert status["NoNewPrivs"] == "1"


@pytest.fixture
def busy_box(fresh_box: Box) -> Box:
    """With a background job, and a program in a session of its own."""
    fresh_box.shell.run("sleep 60 & setsid sleep 60 &")
    # Neither is on its way to its program any more, and nothing else is left.
    eventually(lambda: [found.name for found in map(process, inside(fresh_box)) if found].count("sleep") == 2)
    eventually(lambda: len(inside(fresh_box)) == 4)
    return fresh_box


def test_the_host_sees_the_same(busy_box: Box) -> None:
    for pid in inside(busy_box):
        status = status_of(pid)
        assert (status["CapEff"], status["CapPrm"], status["CapBnd"], status["NoNewPrivs"]) == (
            *[NOTHING] * 3,
            "1",
        )


def test_every_process_is_the_workloads_user_on_the_host_and_never_root(
    busy_box: Box, identity: Identity
) -> None:
    for pid in inside(busy_box):
        status = status_of(pid)
        assert status["Uid"].split() == [str(identity.workload_uid)] * 4
        assert status["Gid"].split() == [str(identity.workload_gid)] * 4
        assert "0" not in status["Uid"].split()
        if identity.privileged:
            assert status["Groups"] == ""
    assert identity.workload_uid != 0


def test_root_cannot_be_become(box: Box, python: str) -> None:
    script = """if 1:
        import os
        for attempt in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0),
                        lambda: os.setgroups([0]), lambda: os.setreuid(-1, 0)):
            try: attempt()
            except OSError: continue
            print('became')"""
    assert box.out('"$1" -I -c "$2"', python, script) == ""


def test_the_rules_for_root_are_switched_off_and_locked(box: Box, python: str) -> None:
    """capabilities(7): NOROOT, NO_SETUID_FIXUP and their locks, KEEP_CAPS_LOCKED."""
    script = "import ctypes; print(ctypes.CDLL(None).prctl(27))"
    assert int(box.out('"$1" -I -c "$2"', python, script)) & 0b101111 == 0b101111


@pytest.mark.parametrize("options", ["-U", "-Ur", "-Um", "-Urpf", "-Ui", "-Uu", "-UC"])
def test_no_further_user_namespace(box: Box, options: str) -> None:
    done = box.bash(f"unshare {options} true")
    assert done.exit_code == 1
    assert b"No space left on device" in done.stderr or b"Operation not permitted" in done.stderr


@pytest.mark.parametrize("options", ["-m", "-p", "-n", "-i", "-u", "-C"])
def test_no_namespace_of_any_other_kind(box: Box, options: str) -> None:
    assert b"Operation not permitted" in box.bash(f"unshare {options} true").stderr


def test_the_limit_of_user_namespaces_cannot_be_raised(box: Box) -> None:
    assert box.out("cat /proc/sys/user/max_user_namespaces") == "0"
    assert box.bash("echo 10 > /proc/sys/user/max_user_namespaces").exit_code == 1


def test_a_setuid_program_gives_nothing(box: Box, identity: Identity) -> None:
    box.out("cp /usr/bin/bash /tmp/suid && chmod 6755 /tmp/suid")
    assert box.out("/tmp/suid -p -c 'id -u; id -ru'").split() == [str(identity.workload_uid)] * 2
    box.out("rm /tmp/suid")


@pytest.fixture
def workspace(identity: Identity) -> Iterator[Path]:
    """A folder that the profile shares, and that belongs to the workload's user."""
    folder = Path(tempfile.mkdtemp(prefix="nsharness-work-", dir="/tmp"))
    if identity.privileged:
        os.chown(folder, identity.workload_uid, identity.workload_gid)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.root
def test_a_setuid_root_program_in_the_workspace_gives_nothing(
    session: Session, identity: Identity, workspace: Path
) -> None:
    shutil.copy("/usr/bin/bash", workspace / "suid")
    (workspace / "suid").chmod(0o6755)
    with opened_box(session, workspace=str(workspace)) as box:
        assert box.out("./suid -p -c 'id -u; id -g'").split() == [str(identity.workload_uid)] * 2


def test_a_crash_leaves_no_core(box: Box) -> None:
    assert box.shell.run("ulimit -Hc; ulimit -c").stdout.split() == ["0", "0"]
    assert box.shell.run("cd /tmp && bash -c 'kill -SEGV $$'; ls /tmp | grep core").stdout == ""
    assert "0                    0" in next(
        line for line in box.out("cat /proc/1/limits").splitlines() if line.startswith("Max core")
    )


# --- the first process --------------------------------------------------------------------------------------


def test_no_signal_reaches_the_first_process(box: Box) -> None:
    box.out("for number in {1..31} {34..64}; do kill -$number 1; done; :")
    assert box.alive
    assert box.out("echo goes on") == "goes on"


def test_a_signal_to_everybody_spares_it_too(fresh_box: Box) -> None:
    fresh_box.bash("kill -KILL -1", timeout=5)
    assert fresh_box.alive
    assert fresh_box.out("echo goes on") == "goes on"


CLOSED = (
    *(
        "environ",
        "mem",
        "maps",
        "root",
        "cwd",
        "fd",
        "fdinfo",
        "exe",
        "task/1/environ",
        "task/1/mem",
        "smaps",
    ),
    *("pagemap", "auxv", "io", "stack", "syscall", "personality", "map_files", "ns/net", "ns/mnt", "ns/user"),
)


@pytest.mark.parametrize("name", CLOSED)
def test_the_first_process_cannot_be_looked_into(box: Box, name: str) -> None:
    script = r"""p=/proc/1/$1
    if [ -L "$p" ] || readlink "$p" >/dev/null 2>&1; then readlink "$p" && exit 0; fi
    if [ -d "$p" ]; then ls -A "$p" && exit 0; else head -c 1 "$p" && exit 0; fi
    exit 9"""
    done = box.bash(script, name)
    assert done.exit_code == 9, done
    assert done.stdout == b""


def test_the_first_process_cannot_be_traced_or_robbed_of_descriptors(box: Box, python: str) -> None:
    script = """if 1:
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        attach, seize, pidfd_open, pidfd_getfd = 16, 0x4206, 434, 438
        print(libc.ptrace(attach, 1, 0, 0), libc.ptrace(seize, 1, 0, 0))
        pidfd = libc.syscall(pidfd_open, 1, 0)
        print([libc.syscall(pidfd_getfd, pidfd, number, 0) for number in range(10)])
        buffer = ctypes.create_string_buffer(8)
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
        print(libc.process_vm_readv(1, vector, 1, vector, 1, 0))"""
    assert box.out('"$1" -I -c "$2"', python, script).splitlines() == ["-1 -1", str([-1] * 10), "-1"]


def test_no_command_line_or_name_tells_where_nsharness_lives(box: Box) -> None:
    text = box.out("cat /proc/[0-9]*/{cmdline,comm,stat,cgroup} /proc/[0-9]*/task/*/comm | tr '\\0' ' '")
    here = str(Path(__file__).resolve().parents[2])
    for secret in (sys.executable, sys.prefix, sys.base_prefix, here, "zygote", "python"):
        assert secret not in text
    assert box.out("tr -d '\\0' < /proc/1/cmdline").strip() == f"nsharness-init {box.id}"


def test_only_the_sandboxes_own_processes_are_there(box: Box) -> None:
    pids = {int(word) for word in box.out("cd /proc; echo [0-9]*").split()}
    assert 1 in pids
    assert len(pids) <= len(inside(box)) + 2
    assert box.bash(f"kill -0 {os.getpid() + 100000}").exit_code == 1


# --- descriptors --------------------------------------------------------------------------------------------

LIST = "cd /proc/self/fd && for fd in *; do readlink $fd; done"
OWN_LISTING = "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> \\(.*\\)/\\1 \\2/p'"


@pytest.mark.parametrize("shell", [False, True], ids=["a program", "a command"])
def test_a_program_has_three_descriptors_and_no_more(box: Box, shell: bool) -> None:
    listing = box.shell.run(OWN_LISTING).stdout if shell else box.out(OWN_LISTING)
    found = dict(line.split(" ", 1) for line in listing.splitlines())
    # ls has opened the folder itself; sed is at the other end of its output.
    assert set(found) == {"0", "1", "2", "3"}
    assert found["3"].startswith("/proc/")
    assert all(
        target.startswith("pipe:") or target == "/dev/null" for name, target in found.items() if name != "3"
    )


def test_children_of_the_shell_have_none_of_its_own_descriptors(box: Box) -> None:
    """Not the one that commands come on, nor the one that their end is told on."""
    script = "for way in '' 'setsid -w' nohup 'env -i'; do $way bash -c 'cd /proc/$$/fd; echo *'; done 2>&1"
    numbers = {int(word) for word in box.shell.run(script).stdout.split() if word.isdigit()}
    assert numbers <= {0, 1, 2, 3, 255}  # 255 is bash's own
    for number in (250, 251):
        assert "Bad file descriptor" in box.shell.run(f"bash -c 'echo x >&{number}'").stderr


def test_no_descriptor_of_any_process_leads_to_a_file_of_the_host(box: Box) -> None:
    # One program alone: another that is just being started has its libraries open.
    targets = set(box.shell.run("LC_ALL=C readlink /proc/[0-9]*/fd/*; :").stdout.split())
    assert {target for target in targets if not target.startswith(("pipe:", "/proc/"))} <= {"/dev/null"}


@pytest.mark.parametrize(
    "kind", ["file", "read-only file", "directory", "path", "socket", "memory", "device"]
)
def test_only_pipes_are_handed_in(box: Box, kind: str, tmp_path: Path) -> None:
    """A regular file can be opened again for writing through /proc/self/fd, a directory leads outside."""
    (tmp_path / "file").write_text("content")
    with socket.socket() as sock:
        make = {
            "file": lambda: os.open(tmp_path / "file", os.O_RDWR),
            "read-only file": lambda: os.open(tmp_path / "file", os.O_RDONLY),
            "directory": lambda: os.open(tmp_path, os.O_RDONLY),
            "path": lambda: os.open(tmp_path / "file", os.O_PATH),
            "socket": lambda: os.dup(sock.fileno()),
            "memory": lambda: os.memfd_create("memory"),
            "device": lambda: os.open("/dev/urandom", os.O_RDONLY),
        }
        descriptor = make[kind]()
    try:
        with pytest.raises(NsharnessError, match="cannot hand this descriptor"):
            box.spawn(["true"], [descriptor])
    finally:
        os.close(descriptor)


# --- environment and terminal -------------------------------------------------------------------------------


def test_the_environment_is_the_plans_and_nothing_else(box: Box) -> None:
    done = box.run(["env", "-0"])
    found = dict(item.split("=", 1) for item in done.stdout.decode().rstrip("\0").split("\0"))
    assert found == dict(box.plan.environment)


def test_no_process_has_anything_of_the_callers_environment(box: Box) -> None:
    """K14."""
    text = box.out(
        "cat /proc/[0-9]*/environ /proc/[0-9]*/task/*/environ 2>/dev/null | tr '\\0' '\\n'; env; set"
    )
    assert CANARY not in text
    assert not [
        line for line in text.splitlines() if line.startswith(("SUDO_", "XDG_", "SSH_", "PYTHON", "PYTEST"))
    ]
    assert CANARY not in box.shell.run("env; set; cat /proc/$$/environ").stdout


def test_there_is_no_controlling_terminal(box: Box) -> None:
    """K24."""
    assert "No such device or address" in box.shell.run(": < /dev/tty").stderr
    assert b"No such device or address" in box.bash(": < /dev/tty").stderr
    terminals = box.out("cat /proc/[0-9]*/stat | sed 's/.*) //' | cut -d ' ' -f 5 | sort -u")
    assert terminals == "0"


def test_every_program_leads_a_session_of_its_own(box: Box) -> None:
    pid, session_id = box.out("set -- $(sed 's/.*) //' /proc/$$/stat); echo $$ $4").split()
    assert pid == session_id
    assert box.out("set -- $(sed 's/.*) //' /proc/1/stat); echo $4") == "1"


def test_no_signal_handling_is_inherited(box: Box) -> None:
    status = status_inside(box.out("cat /proc/self/status"))
    assert (status["SigIgn"], status["SigBlk"]) == (NOTHING, NOTHING)


def test_the_host_name_is_the_sandboxes_own_and_stays(box: Box) -> None:
    assert box.out("cat /proc/sys/kernel/hostname /etc/hostname").split() == [box.id, box.id]
    assert box.bash("hostname elsewhere || echo elsewhere > /proc/sys/kernel/hostname").exit_code != 0
    assert socket.gethostname() != box.id


# --- what processes share without files ---------------------------------------------------------------------

_KEYCTL_GET_KEYRING, _KEYCTL_UNLINK, _KEYCTL_SEARCH = 0, 9, 10
_SESSION_KEYRING, _USER_KEYRING = -3, -4


@pytest.fixture
def host_keys() -> Iterator[str]:
    """A name under which the host's session and user keyrings hold a key (keyrings(7))."""
    add_key = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    keyctl, name = libc.syscall_number("keyctl"), f"nsharness-test-{secrets.token_hex(8)}".encode()
    keys = []
    try:
        for ring in (_SESSION_KEYRING, _USER_KEYRING):
            key = libc.syscall(add_key, b"user", name, CANARY.encode(), len(CANARY), ring)
            keys.append((key, ring))
    except OSError as error:
        pytest.skip(f"this kernel keeps no keys: {error.strerror}")
    yield name.decode()
    for key, ring in keys:
        libc.syscall(keyctl, _KEYCTL_UNLINK, key, ring)


def test_the_callers_keys_are_not_found(host_keys: str, identity: Identity, python: str) -> None:
    """A session that starts while the caller has keys: its processes would inherit the keyring."""
    keyctl = libc.syscall_number("keyctl")
    script = f"""if 1:
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        search = lambda ring: libc.syscall({keyctl}, {_KEYCTL_SEARCH}, ring, b'user', b'{host_keys}', 0)
        print([search(ring) for ring in (-3, -4, -5)])"""
    own = ctypes.CDLL(None)
    assert own.syscall(keyctl, _KEYCTL_SEARCH, _SESSION_KEYRING, b"user", host_keys.encode(), 0) > 0
    with opened_session(identity.home / "state", identity) as session, opened_box(session) as box:
        assert box.out('"$1" -I -c "$2"', python, script).startswith("[-1, -1, -1]")
        assert box.out("cat /proc/keys") == ""


def test_shared_memory_of_the_host_is_not_there(box: Box, python: str) -> None:
    own = ctypes.CDLL(None, use_errno=True)
    key = 0x4E534831
    segment = own.shmget(key, 4096, 0o1666)
    assert segment >= 0
    try:
        script = f"import ctypes; print(ctypes.CDLL(None).shmget({key}, 0, 0))"
        assert box.out('"$1" -I -c "$2"', python, script) == "-1"
        assert len(box.out("cat /proc/sysvipc/shm").splitlines()) == 1
    finally:
        own.shmctl(segment, 0, None)


@pytest.mark.parametrize("call", ["settimeofday", "reboot", "swapoff", "acct", "sethostname", "chroot"])
def test_the_host_as_a_whole_is_not_changed(box: Box, python: str, call: str) -> None:
    arguments = {
        "settimeofday": "ctypes.create_string_buffer(16), None",
        "reboot": "0",
        "swapoff": "b'/tmp'",
        "acct": "None",
        "sethostname": "b'x', 1",
        "chroot": "b'/tmp'",
    }[call]
    script = f"import ctypes; print(ctypes.CDLL(None).{call}({arguments}))"
    assert box.out('"$1" -I -c "$2"', python, script) == "-1"


def test_the_kernels_log_is_closed(box: Box) -> None:
    assert box.bash("head -c 1 /proc/kmsg").exit_code == 1
    assert box.bash("head -c 1 /dev/kmsg").exit_code == 1


def test_a_signal_does_not_reach_a_process_of_the_host(box: Box, identity: Identity) -> None:
    """K24: the workload has its user's uid on the host; the pid namespace keeps them apart."""
    user = identity.workload_uid if identity.privileged else None
    with subprocess.Popen(["sleep", "60"], user=user, start_new_session=True) as victim:
        box.bash(f"kill -KILL {victim.pid}; kill -KILL -{victim.pid}; kill -KILL {{300..32767}}")
        assert victim.poll() is None
        victim.kill()
