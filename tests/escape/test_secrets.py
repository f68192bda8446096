"""What a workload must not learn: the person's secrets, wherever the host keeps them."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nsharness.linux import libc
from nsharness.linux.identity import Identity
from nsharness.plan.steps import Bind, Directory, Plan, Tmpfs
from tests.support.attacks import CANARY, SECRET_FILES, Assault, adding, weakness, with_plan
from tests.support.sandboxes import needs_sandbox
from tests.support.tiers import others_slow

pytestmark = [needs_sandbox, pytest.mark.xdist_group("escape-secrets")]

VARIABLE = "NSHARNESS_TESTS_TOKEN"


def _hosts_home(plan: Plan) -> Plan:
    home = plan.environment["HOME"]
    return adding(Bind(home, home))(plan)


def _hosts_environment(plan: Plan) -> Plan:
    return replace(plan, environment={**os.environ, **plan.environment})


def _hosts_temporary_files(plan: Plan) -> Plan:
    steps = tuple(
        Bind("/tmp", "/tmp", writable=True) if isinstance(step, Tmpfs) and step.path == "/tmp" else step
        for step in plan.steps
    )
    return replace(plan, steps=steps)


HOSTS_HOME = with_plan("home of the host", _hosts_home)
HOSTS_ENVIRONMENT = with_plan("environment of the host", _hosts_environment)
HOSTS_FILES = with_plan("temporary files of the host", _hosts_temporary_files)
HOSTS_PROC = with_plan(
    "procfs of the host",
    adding(Directory("/host-proc"), Bind("/proc", "/host-proc")),
    "no_user_namespace",
    "no_landlock",
)
HOSTS_IPC = weakness("hosts_ipc", "no_landlock")
CALLERS_KEYS = weakness("callers_keys", "no_seccomp")
DESCRIPTORS = weakness("descriptors_stay", "no_landlock")


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", others_slow(SECRET_FILES))
def test_a_secret_in_the_home_directory_cannot_be_read(
    assault: Assault, identity: Identity, name: str
) -> None:
    assault.shell(HOSTS_HOME, f'grep -q {CANARY} "$1" && echo ESCAPED', str(identity.home / name))


def test_the_home_directory_cannot_be_searched(assault: Assault) -> None:
    assault.shell(HOSTS_HOME, f"cd; grep -rq {CANARY} . && echo ESCAPED")


def test_the_records_of_runs_cannot_be_listed(assault: Assault) -> None:
    assault.shell(HOSTS_HOME, "cd; ls state/*/nsharness/runs/* && echo ESCAPED")


def test_no_descriptor_leads_out(assault: Assault, identity: Identity) -> None:
    """One of a directory outside the sandbox is as good as a bind of it."""
    script = """
for number in range(64):
    try: os.open(sys.argv[1].lstrip('/'), os.O_RDONLY, dir_fd=number)
    except OSError: continue
    escaped()"""
    assault.python(DESCRIPTORS, script, str(identity.home / ".netrc"))


@pytest.fixture(scope="module")
def agent(identity: Identity) -> Iterator[Path]:
    """A socket in the host's /tmp, as an ssh-agent's; whoever connects may use the keys."""
    with tempfile.TemporaryDirectory(prefix="nsharness-agent-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as service:
            service.bind(f"{folder}/agent")
            service.listen()
            for path in (folder, f"{folder}/agent"):
                os.chown(path, identity.workload_uid, identity.workload_gid)
            yield Path(folder, "agent")


def test_the_ssh_agent_cannot_be_asked(assault: Assault, agent: Path) -> None:
    script = "done(lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1]))"
    assault.python(HOSTS_FILES, script, str(agent))


def test_a_temporary_file_of_the_host_cannot_be_read(assault: Assault, agent: Path) -> None:
    (agent.parent / "token").write_text(CANARY)
    script = f'grep -q {CANARY} "$1" && echo ESCAPED'
    assault.shell(HOSTS_FILES, script, str(agent.parent / "token"))


# --- the environment ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _secret_in_the_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, CANARY)
        yield


KEY = f"nsharness-test-{secrets.token_hex(8)}"


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[bool]:
    """A key in the caller's session keyring (keyrings(7)), as Kerberos keeps them; whether there is one."""
    add_key = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    try:
        made = libc.syscall(add_key, b"user", KEY.encode(), CANARY.encode(), len(CANARY), -3)
    except OSError:
        yield False
        return
    yield True
    libc.syscall(libc.syscall_number("keyctl"), 9, made, -3)  # KEYCTL_UNLINK


def test_a_variable_of_the_caller_is_not_inherited(assault: Assault) -> None:
    assault.shell(HOSTS_ENVIRONMENT, f'[ -n "${VARIABLE}" ] && echo ESCAPED')


def test_no_process_was_started_with_the_callers_environment(assault: Assault) -> None:
    script = f"grep -qs {CANARY} /proc/[0-9]*/environ && echo ESCAPED"
    assault.shell(HOSTS_ENVIRONMENT, script)


# --- processes of the host ----------------------------------------------------------------------------------

_HOLDER = """
import ctypes, os, sys
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
libc = ctypes.CDLL(None)
libc.prctl(4, ctypes.c_ulong(1), 0, 0, 0)  # PR_SET_DUMPABLE
libc.prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)  # Yama: anybody may look
secret = ctypes.create_string_buffer(sys.argv[1].encode()[::-1])
file = os.memfd_create('kept')
os.write(file, sys.argv[1].encode())
print(ctypes.addressof(secret), file, flush=True)
sys.stdin.read()
"""


class Holder:
    """A process of the person that holds secrets, as a proxy does that forgot to make itself undumpable.

    Without root it is in the zygote's user namespace, in which alone a weakened workload has any rights.
    """

    def __init__(self, identity: Identity, zygote: int) -> None:
        self.canary = f"canary-{secrets.token_hex(8)}"
        python = [sys.executable, "-I", "-c", _HOLDER, self.canary, str(identity.workload_uid)]
        entering = ["nsenter", "--preserve-credentials", "-U", "-t", str(zygote)]
        self.process = subprocess.Popen(
            python if identity.privileged else [*entering, *python],
            cwd="/",
            env={VARIABLE: self.canary},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address, self.file = (int(word) for word in self.process.stdout.readline().split())

    def close(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(scope="module")
def holder(assault: Assault, identity: Identity) -> Iterator[Holder]:
    made = Holder(identity, assault.session(HOSTS_PROC.flaws).zygote.pid)
    yield made
    made.close()


PLACES = "for proc in ('/proc', '/host-proc'):"


def test_memory_of_a_process_of_the_host_cannot_be_read(assault: Assault, holder: Holder) -> None:
    script = f"""
wanted = sys.argv[3][::-1].encode()  # as the memory has it, and no command line
{PLACES}
    try:
        with open(f'{{proc}}/{{sys.argv[1]}}/mem', 'rb', buffering=0) as memory:
            memory.seek(int(sys.argv[2]))
            if memory.read(len(wanted)) == wanted: escaped()
    except OSError as error: print(error)"""
    assault.python(HOSTS_PROC, script, str(holder.process.pid), str(holder.address), holder.canary)


def test_the_environment_of_a_process_of_the_host_cannot_be_read(assault: Assault, holder: Holder) -> None:
    script = f"grep -qs '{VARIABLE}=canary' /*proc/$1/environ && echo ESCAPED"
    assault.shell(HOSTS_PROC, script, str(holder.process.pid))


def test_the_command_line_of_a_process_of_the_host_cannot_be_read(assault: Assault, holder: Holder) -> None:
    assault.shell(HOSTS_PROC, "grep -qs canary /*proc/$1/cmdline && echo ESCAPED", str(holder.process.pid))


def test_an_open_file_of_a_process_of_the_host_cannot_be_read(assault: Assault, holder: Holder) -> None:
    """Such as the memfd in which a proxy is given its credentials."""
    script = 'grep -qs canary "/host-proc/$1/fd/$2" "/proc/$1/fd/$2" && echo ESCAPED'
    assault.shell(HOSTS_PROC, script, str(holder.process.pid), str(holder.file))


def test_files_cannot_be_reached_through_a_process_of_the_host(
    assault: Assault, holder: Holder, identity: Identity
) -> None:
    script = f'grep -qs {CANARY} "/host-proc/$1/root$2" "/proc/$1/root$2" && echo ESCAPED'
    assault.shell(HOSTS_PROC, script, str(holder.process.pid), str(identity.home / ".netrc"))


# --- what processes share without files ---------------------------------------------------------------------


def _number() -> int:
    return secrets.randbelow(1 << 30) + 1


def test_shared_memory_of_the_host_cannot_be_read(assault: Assault) -> None:
    own, key = ctypes.CDLL(None, use_errno=True), _number()
    segment = own.shmget(key, 4096, 0o1666)
    try:
        assault.python(HOSTS_IPC, f"if libc.shmget({key}, 0, 0) >= 0: escaped()")
    finally:
        own.shmctl(segment, 0, None)


def test_semaphores_of_the_host_cannot_be_used(assault: Assault) -> None:
    own, key = ctypes.CDLL(None, use_errno=True), _number()
    semaphores = own.semget(key, 1, 0o1666)
    try:
        assault.python(HOSTS_IPC, f"if libc.semget({key}, 0, 0) >= 0: escaped()")
    finally:
        own.semctl(semaphores, 0, 0)


def test_messages_of_the_host_cannot_be_read(assault: Assault) -> None:
    own, key = ctypes.CDLL(None, use_errno=True), _number()
    queue = own.msgget(key, 0o1666)
    try:
        assault.python(HOSTS_IPC, f"if libc.msgget({key}, 0) >= 0: escaped()")
    finally:
        own.msgctl(queue, 0, None)


def test_message_queues_of_the_host_cannot_be_opened(assault: Assault) -> None:
    own, name = ctypes.CDLL(None, use_errno=True), f"/nsharness-test-{secrets.token_hex(8)}"
    queue = own.mq_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
    assert queue >= 0
    try:
        assault.python(HOSTS_IPC, f"if libc.mq_open({name.encode()!r}, os.O_RDONLY) >= 0: escaped()")
    finally:
        own.mq_unlink(name.encode())
        os.close(queue)


def test_a_key_of_the_caller_cannot_be_found(assault: Assault, key: bool) -> None:
    if not key:
        pytest.skip("this kernel keeps no keys for us")
    assault.python(CALLERS_KEYS, f"if call('keyctl', 10, -3, b'user', b'{KEY}', 0)[0] > 0: escaped()")
