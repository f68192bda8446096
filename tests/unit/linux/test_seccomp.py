"""Compiling and installing filters: what the kernel then does, in a child that is thrown away."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux import libc, process, seccomp
from nsharness.linux.chain import attempt
from nsharness.plan.syscalls import ALLOWED, REFUSED, Argument, Filter, Rule, filters

pytestmark = pytest.mark.kernel("seccomp")


def under(*wanted: Filter, then: Callable[[], object]) -> str:
    """What ``then`` gives in a child under these filters; the errno's name when it fails."""
    compiled = seccomp.Library().compile(wanted)

    def act() -> str:
        process.set_no_new_privs()
        seccomp.install(compiled)
        try:
            return str(then())
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    outcome = attempt([("act", act)])
    return outcome.detail or outcome.why


def test_the_sandboxes_filters_are_small_enough_for_the_kernel() -> None:
    for user_namespaces in (False, True):
        compiled = seccomp.Library().compile(filters(user_namespaces=user_namespaces))
        assert [one.name for one in compiled] == ["allow list", "conditions"]
        assert all(0 < len(one.program) // 8 < 4096 for one in compiled)


def test_the_library_knows_nearly_all_names() -> None:
    """A name with a slip of the pen would be left out silently."""
    library = seccomp.Library()
    unknown = {name for name in ALLOWED | REFUSED if not library.knows(name)}
    recent = {
        *(
            "cachestat",
            "fchmodat2",
            "file_getattr",
            "file_setattr",
            "futex_requeue",
            "futex_wait",
            "futex_wake",
        ),
        *("getxattrat", "listmount", "listxattrat", "lsm_get_self_attr", "lsm_list_modules"),
        *("lsm_set_self_attr", "map_shadow_stack", "mseal", "open_tree_attr", "removexattrat", "setxattrat"),
        *("statmount", "set_mempolicy_home_node", "quotactl_fd"),
    }
    elsewhere = {"memfd_secret"}
    if os.uname().machine != "x86_64":
        pytest.skip("the list has names that only x86_64 has")
    assert unknown <= recent | elsewhere


def test_a_call_is_refused_with_its_errno_and_an_unknown_one_with_the_filters() -> None:
    rules = Filter("test", (Rule(tuple(ALLOWED - {"getppid"})), Rule(("acct",), errno.EPERM)), errno.ENOSYS)
    assert under(rules, then=lambda: libc.syscall(_number("getppid")) > 0) == "ENOSYS"
    assert under(rules, then=lambda: libc.syscall(_number("getpid")) > 0) == "True"
    assert under(rules, then=lambda: libc.syscall(_number("acct"), None)) == "EPERM"


def _number(call: str) -> int:
    return seccomp.Library()._number(call)


@pytest.mark.parametrize("upper", [0, 1 << 32, 0xFFFF_FFFF << 32])
def test_only_the_half_that_the_kernel_reads_is_compared(upper: int) -> None:
    rules = Filter("test", (Rule(("ioctl",), errno.EPERM, (Argument(1, "masked", 0x5412, 0xFFFF_FFFF),)),))
    number = _number("ioctl")
    assert under(rules, then=lambda: libc.syscall(number, 0, upper | 0x5412, 0)) == "EPERM"
    assert under(rules, then=lambda: libc.syscall(number, 99, upper | 0x5413, 0)) == "EBADF"


@pytest.mark.parametrize("family", [40, 1 << 32 | 40, 1 << 32 | socket.AF_INET])
def test_a_family_beyond_32_bits_is_no_family(family: int) -> None:
    number = _number("socket")
    assert under(*filters(), then=lambda: libc.syscall(number, family, 1, 0)) == "EAFNOSUPPORT"
    assert under(*filters(), then=lambda: libc.syscall(number, socket.AF_INET, 1, 0) > 0) == "True"


def test_everything_that_is_started_is_filtered_too() -> None:
    def child() -> int:
        return os.waitstatus_to_exitcode(os.system("unshare -m true 2>/dev/null"))

    assert under(*filters(), then=child) == "1"


def test_without_the_library_the_error_says_what_to_install() -> None:
    with pytest.raises(NsharnessError) as caught:
        seccomp.Library(("libseccomp.so.none",))
    assert str(caught.value) == (
        "cannot filter system calls: there is no libseccomp.so.none (install libseccomp 2.4 or newer "
        "(Debian, Ubuntu: sudo apt-get install libseccomp2))"
    )


def test_a_rule_that_the_library_refuses_is_an_error() -> None:
    wrong = Filter("odd", (Rule(("read",), 0),))  # The same as what happens otherwise.
    with pytest.raises(NsharnessError, match="cannot compile the filter 'odd'"):
        seccomp.Library().compile([wrong])


def test_no_filter_and_an_odd_one_are_errors() -> None:
    def install(*compiled: seccomp.Compiled) -> str:
        def act() -> str:
            process.set_no_new_privs()
            try:
                seccomp.install(compiled)
            except NsharnessError as error:
                return str(error)
            return "installed"

        return attempt([("act", act)]).detail

    assert install() == "cannot filter system calls: no filter was compiled"
    assert install(seccomp.Compiled("odd", bytes(8))).startswith(
        "cannot install the filter 'odd' of system calls"
    )


def test_every_call_of_this_kernels_past_is_either_allowed_or_refused() -> None:
    """What is in neither list does not exist for programs: that is for calls that nobody needs."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    release = ctypes.CDLL(None).free
    release.argtypes = [ctypes.c_void_p]
    names = set()
    for number in range(470):
        if address := library.seccomp_syscall_resolve_num_arch(0, number):
            names.add(ctypes.string_at(address).decode())
            release(address)
    conditional = {"personality", "clone3"}
    never_made = {
        *("getpmsg", "putpmsg", "afs_syscall", "tuxcall", "security", "vserver"),
        *("set_thread_area", "get_thread_area", "epoll_ctl_old", "epoll_wait_old"),
    }
    assert len(names) > 300
    assert names - ALLOWED - REFUSED <= conditional | never_made
