"""The rules for system calls, as values: what is allowed, refused and compared."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.plan.syscalls import ALLOWED, BROWSERS_NEED, NAMESPACES, REFUSED, Argument, Filter, filters

NUMBERS = st.one_of(st.integers(0, 64), st.integers(0, 2**64 - 1))


def holds(condition: Argument, arguments: tuple[int, ...]) -> bool:
    """seccomp_rule_add(3)'s comparisons, written down again."""
    value = arguments[condition.index]
    return {
        "equal": value == condition.value,
        "different": value != condition.value,
        "greater": value > condition.value,
        "masked": value & condition.mask == condition.value,
    }[condition.comparison]


def verdict(one: Filter, call: str, *arguments: int) -> int:
    """0 or the errno that a filter has for a call: what all filters of the sandbox must allow."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    for rule in one.rules:
        if call in rule.calls and all(holds(condition, padded) for condition in rule.when):
            return rule.refusal
    return one.otherwise


def refusal(call: str, *arguments: int, user_namespaces: bool = False) -> int:
    found = [verdict(one, call, *arguments) for one in filters(user_namespaces=user_namespaces)]
    return next((each for each in found if each), 0)


def test_no_call_is_both_allowed_and_refused() -> None:
    assert not ALLOWED & REFUSED


@pytest.mark.parametrize(
    "call",
    [
        *("io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "bpf", "perf_event_open"),
        *("add_key", "request_key", "keyctl", "kexec_load", "kexec_file_load", "init_module", "finit_module"),
        *("delete_module", "mount", "umount2", "pivot_root", "fsopen", "fsmount", "move_mount", "open_tree"),
        *("mount_setattr", "setns", "open_by_handle_at", "chroot", "reboot", "swapon", "syslog", "acct"),
    ],
)
def test_a_call_that_tools_do_without_is_refused(call: str) -> None:
    assert refusal(call) == errno.EPERM


@pytest.mark.parametrize(
    "call",
    [
        *("read", "write", "openat2", "execve", "execveat", "futex", "mmap", "mprotect", "rseq", "prctl"),
        *("ptrace", "process_vm_readv", "memfd_create", "statx", "getrandom", "landlock_restrict_self"),
        *("seccomp", "renameat2", "epoll_pwait2", "unshare", "clone", "vfork"),
    ],
)
def test_what_programs_need_is_allowed(call: str) -> None:
    assert refusal(call) == 0


def test_a_call_from_the_future_does_not_exist() -> None:
    assert refusal("no_such_call") == errno.ENOSYS
    assert refusal("clone3") == errno.ENOSYS


@pytest.mark.parametrize("request_number", [0x5412, 0x541C])
@given(upper=st.integers(0, 2**32 - 1))
def test_the_upper_half_of_an_ioctls_number_hides_nothing(request_number: int, upper: int) -> None:
    assert refusal("ioctl", 0, upper << 32 | request_number) == errno.EPERM


@given(number=NUMBERS)
def test_every_other_ioctl_is_allowed(number: int) -> None:
    assert (refusal("ioctl", 0, number) == 0) == (number & 0xFFFF_FFFF not in (0x5412, 0x541C))


@pytest.mark.parametrize("kind", NAMESPACES)
@given(others=st.integers(0, 2**64 - 1))
def test_no_namespace_is_made_whatever_else_is_asked_for(kind: str, others: int) -> None:
    flags = others | NAMESPACES[kind]
    assert refusal("unshare", flags) == errno.EPERM
    if kind != "time":
        assert refusal("clone", flags) == errno.EPERM


def test_threads_and_processes_are_made() -> None:
    for flags in (0x11, 0x3D0F00, 0x1200011, 0x4111):  # fork, pthread_create, glibc's fork, posix_spawn
        assert refusal("clone", flags) == 0


@given(flags=st.integers(0, 2**64 - 1))
def test_a_profile_for_browsers_allows_what_they_make_and_no_other(flags: int) -> None:
    forbidden = sum(bit for kind, bit in NAMESPACES.items() if kind not in BROWSERS_NEED)
    assert (refusal("unshare", flags, user_namespaces=True) == 0) == (not flags & forbidden)
    assert refusal("chroot", user_namespaces=True) == 0
    assert refusal("mount", user_namespaces=True) == errno.EPERM
    assert refusal("setns", user_namespaces=True) == errno.EPERM


@given(family=NUMBERS, protocol=st.integers(0, 300))
def test_only_four_families_of_sockets(family: int, protocol: int) -> None:
    allowed = family in (1, 2, 10) or (family == 16 and protocol == 0)
    assert refusal("socket", family, 1, protocol) == (0 if allowed else errno.EAFNOSUPPORT)
    assert refusal("socketpair", family, 1, protocol) == (0 if family == 1 else errno.EAFNOSUPPORT)


def test_personalities_are_those_of_containers() -> None:
    assert [refusal("personality", value) for value in (0, 8, 0x20000, 0x20008, 0xFFFF_FFFF)] == [0] * 5
    for value in (0x0400000, 0x0100000, 6):  # READ_IMPLIES_EXEC, MMAP_PAGE_ZERO, Solaris
        assert refusal("personality", value) == errno.ENOSYS


def test_a_filter_says_in_a_line_what_it_is() -> None:
    allow_list, conditions = (one.describe() for one in filters())
    assert allow_list.startswith("allow list: ")
    assert allow_list.endswith("refused, others ENOSYS")
    assert conditions == "conditions on clone, clone3, ioctl, socket, socketpair, unshare"
