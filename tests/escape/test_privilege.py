"""Calls of the kernel that a workload must not reach, and privileges that it must not have."""

from __future__ import annotations

import os

import pytest

from tests.support import attacks
from tests.support.attacks import Assault, weakness
from tests.support.sandboxes import needs_sandbox

pytestmark = [needs_sandbox, pytest.mark.xdist_group("escape-privilege")]

NO_SECCOMP = weakness("no_seccomp")
NESTED = weakness("no_seccomp", "no_landlock", "nested_user_namespaces")
PRIVILEGED = weakness(*attacks.PRIVILEGED)
TRACEABLE = weakness("no_seccomp", "no_landlock", "dumpable_init")


# --- what only the filter of system calls refuses ----------------------------------------------------------
# Where it is absent, arguments that mean nothing show that the kernel's own code looked at them.


def test_io_uring_cannot_be_set_up(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('io_uring_setup', 1, BAD)")


def test_io_uring_cannot_be_entered(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('io_uring_enter', -1, 0, 0, 0, 0, 0)")


def test_no_bpf_program_can_be_loaded(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('bpf', 5, BAD, 64)")


def test_page_faults_cannot_be_held_up_from_user_space(assault: Assault) -> None:
    """userfaultfd is what most races in the kernel are won with."""
    assault.python(NO_SECCOMP, "reached('userfaultfd', 1)")


def test_performance_counters_cannot_be_opened(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('perf_event_open', BAD, 0, -1, -1, 0)")


def test_processes_cannot_be_compared_in_the_kernel(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('kcmp', os.getpid(), os.getpid(), 1, 0, 0)")


def test_no_descriptor_can_be_taken_out_of_a_process(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('pidfd_getfd', os.pidfd_open(os.getpid()), 1, 0)")


def test_another_process_cannot_be_told_to_page_out(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('process_madvise', -1, None, 0, 21, 0)")


def test_a_key_cannot_be_added(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('add_key', b'user', b'nsharness-test', b'x', 1, -3)")


def test_keyrings_cannot_be_read(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('keyctl', 0, -3, 0)")


def test_no_key_can_be_requested(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('request_key', b'user', BAD, None, 0)")


def test_files_cannot_be_watched_for_the_whole_file_system(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('fanotify_init', 0x200, 0)")


def test_mounts_cannot_be_picked_up(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('open_tree', -100, b'/', 0)")


def test_the_new_calls_for_mounts_are_closed(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('fsconfig', -1, 0, None, None, 0)")


def test_mount_is_closed(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('mount', BAD, BAD, BAD, 0, None)")


def test_umount_is_closed(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('umount2', BAD, 0x7fff0000)")


def test_chroot_is_closed(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('chroot', BAD)")


def test_no_other_namespace_can_be_entered(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('setns', os.open('/dev/null', os.O_RDONLY), 0)")


def test_the_clock_cannot_be_set(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('clock_settime', 0, BAD)")


def test_the_time_of_day_cannot_be_set(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('settimeofday', BAD, None)")


def test_nothing_can_be_swapped_to(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('swapon', BAD, 0x7fff0000)")


def test_quotas_are_closed(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('quotactl', 0x7fffff00, BAD, 0, None)")


def test_clone3_whose_flags_no_filter_can_read_is_not_there(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('clone3', None, 0)")


def test_addresses_cannot_be_made_predictable(assault: Assault) -> None:
    assault.python(NO_SECCOMP, "reached('personality', 0x40000)")


def test_no_socket_leads_to_a_hypervisor(assault: Assault) -> None:
    """AF_VSOCK, for which there are no network namespaces."""
    assault.python(NO_SECCOMP, "done(lambda: socket.socket(40, socket.SOCK_STREAM))")


@pytest.mark.parametrize(
    ("name", "protocol"), [("diagnosis", 4), ("events of devices", 15), ("families", 16)]
)
def test_no_netlink_but_for_routes(assault: Assault, name: str, protocol: int) -> None:
    assault.python(NO_SECCOMP, f"done(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, {protocol}))")


@pytest.mark.parametrize("upper_bits", [0, 1 << 32], ids=["plain", "with upper bits"])
def test_nothing_can_be_typed_into_a_terminal(assault: Assault, upper_bits: int) -> None:
    """Its own controlling terminal, so that only the filter and the kernel's switch are left to refuse."""
    script = f"""
master, slave = os.openpty()
if os.fork() == 0:
    os.setsid()
    fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    reached('ioctl', slave, 0x5412 | {upper_bits}, b'x')
    os._exit(0)
os.wait()"""
    assault.python(NO_SECCOMP, script)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only there")
def test_calls_of_32_bit_programs_end_the_program(assault: Assault) -> None:
    """``int 0x80`` with another table of numbers: 20 is getpid there."""
    script = """
import mmap
if os.fork() == 0:
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex('53b814000000cd805bc3'))  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid(): escaped()
    os._exit(0)
os.wait()"""
    assault.python(NO_SECCOMP, script)


# --- user namespaces, in which a workload would have every capability ---------------------------------------


def test_no_user_namespace_can_be_made(assault: Assault) -> None:
    assault.shell(NESTED, "unshare -U true && echo ESCAPED")


def test_nothing_can_be_mounted_in_a_namespace_of_its_own(assault: Assault) -> None:
    assault.shell(NESTED, "unshare -Urm mount -t tmpfs none /tmp && echo ESCAPED")


def test_no_network_can_be_made(assault: Assault) -> None:
    assault.shell(NESTED, "unshare -Urn true && echo ESCAPED")


def test_no_pid_namespace_can_be_made(assault: Assault) -> None:
    assault.shell(NESTED, "unshare -Urpf true && echo ESCAPED")


def test_clone_makes_no_user_namespace(assault: Assault) -> None:
    script = """
pid, _ = call('clone', 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
if pid == 0: os._exit(0)
if pid > 0: escaped()"""
    assault.python(NESTED, script)


# --- capabilities -------------------------------------------------------------------------------------------


def test_a_file_system_cannot_be_mounted(assault: Assault) -> None:
    assault.python(PRIVILEGED, "reached('mount', b'none', b'/run', b'tmpfs', 0, None)")


def test_a_mount_cannot_be_taken_off(assault: Assault) -> None:
    """Below it ``/proc/sys`` is writable."""
    assault.python(PRIVILEGED, "reached('umount2', b'/proc/sys', 2)")


def test_the_root_cannot_be_made_writable_again(assault: Assault) -> None:
    """MS_REMOUNT and MS_BIND, without MS_RDONLY."""
    assault.python(PRIVILEGED, "reached('mount', None, b'/', None, 32 | 4096, None)")


def test_a_setuid_bit_cannot_be_honoured_again(assault: Assault) -> None:
    assault.python(PRIVILEGED, "reached('mount', None, b'/tmp', None, 32 | 4096, None)")


def test_the_host_name_cannot_be_changed(assault: Assault) -> None:
    assault.python(PRIVILEGED, "reached('sethostname', b'elsewhere', 9)")


def test_the_root_directory_cannot_be_changed(assault: Assault) -> None:
    assault.python(PRIVILEGED, "done(lambda: os.chroot('/tmp'))")


@pytest.mark.root
def test_root_cannot_be_become(assault: Assault) -> None:
    """Without root there is no uid 0 to become, whatever is left out."""
    assault.python(PRIVILEGED, "done(lambda: os.setuid(0))")


@pytest.mark.root
def test_no_group_can_be_joined(assault: Assault) -> None:
    assault.python(PRIVILEGED, "done(lambda: os.setgroups([0]))")


def test_no_capability_can_be_kept_for_the_next_program(assault: Assault) -> None:
    script = "grep -q 'CapEff:.*0000000000000000' /proc/self/status || echo ESCAPED"
    assault.shell(PRIVILEGED, script)


def test_privileges_can_no_more_be_gained(assault: Assault) -> None:
    assault.shell(PRIVILEGED, "grep -q 'NoNewPrivs:.*0' /proc/self/status && echo ESCAPED")


# --- the first process --------------------------------------------------------------------------------------


def test_init_cannot_be_traced(assault: Assault) -> None:
    script = """
libc.ptrace.argtypes = [ctypes.c_long] * 4
if libc.ptrace(0x4206, 1, 0, 0) == 0: escaped()  # PTRACE_SEIZE: it is not even stopped"""
    assault.python(TRACEABLE, script)


def test_inits_memory_cannot_be_read(assault: Assault) -> None:
    assault.shell(TRACEABLE, "head -c 1 /proc/1/maps | grep -q . && : < /proc/1/mem && echo ESCAPED")


def test_inits_environment_cannot_be_read(assault: Assault) -> None:
    assault.shell(TRACEABLE, ": < /proc/1/environ && echo ESCAPED")


def test_inits_descriptors_cannot_be_listed(assault: Assault) -> None:
    assault.shell(TRACEABLE, "ls /proc/1/fd | grep -q . && echo ESCAPED")


def test_no_descriptor_can_be_taken_from_init(assault: Assault) -> None:
    """The socket that it takes orders on would be among them."""
    script = """
first = os.pidfd_open(1)
if any(call('pidfd_getfd', first, number, 0)[0] >= 0 for number in range(10)): escaped()"""
    assault.python(TRACEABLE, script)


def test_inits_memory_cannot_be_read_by_a_call(assault: Assault) -> None:
    script = """
line = next(line for line in open('/proc/1/maps') if ' r' in line)
buffer = ctypes.create_string_buffer(8)
mine = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
theirs = (ctypes.c_void_p * 2)(int(line.split('-')[0], 16), 8)
if libc.process_vm_readv(1, mine, 1, theirs, 1, 0) == 8: escaped()"""
    assault.python(TRACEABLE, script)
