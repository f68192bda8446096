"""Which system calls a workload may make: the rules, as values. ``nsharness.linux.seccomp`` compiles them.

Two filters, of which the kernel obeys the stricter answer for each call. ``allow list``: what programs need,
by moby's default profile for containers without capabilities, and less; a call that nobody has heard of yet
does not exist (ENOSYS), so that programs fall back to older ones. ``conditions``: calls that are allowed but
for certain arguments. Two, because in libseccomp an unconditional rule for a call wins over conditional ones.

Arguments are compared as the kernel reads them: it cuts an ``int`` to 32 bits, so that a comparison of all 64
would be passed by setting one of the upper ones (CVE-2019-10063).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from nsharness.frozen import frozen

type Comparison = Literal["equal", "greater", "different", "masked"]

INT: Final = 0xFFFF_FFFF


@frozen
class Argument:
    """A condition on the argument at ``index``: it is, it is not, or it is more than ``value``; ``masked``
    compares only the bits of ``mask``."""

    index: int
    comparison: Comparison
    value: int
    mask: int = 0


@frozen
class Rule:
    """What becomes of some calls when all conditions hold: allowed (``refusal`` 0), or an errno."""

    calls: tuple[str, ...]
    refusal: int = 0
    when: tuple[Argument, ...] = ()


@frozen
class Filter:
    """Rules, and what becomes of calls that none matches: allowed (``otherwise`` 0) or an errno.

    Calls of a foreign architecture, 32-bit ones and x32 among them, kill the process. Names that a machine or
    its libseccomp does not know are left out.
    """

    name: str
    rules: tuple[Rule, ...]
    otherwise: int = 0

    def describe(self) -> str:
        """One line for people."""
        allowed = {call for rule in self.rules if not rule.refusal for call in rule.calls}
        refused = {call for rule in self.rules if rule.refusal for call in rule.calls}
        if self.otherwise:
            refusal = errno.errorcode[self.otherwise]
            return f"{self.name}: {len(allowed)} system calls, {len(refused)} refused, others {refusal}"
        return f"{self.name} on {', '.join(sorted(refused))}"


# --- the allow list -----------------------------------------------------------------------------------------

_GROUPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "files": """
            access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3
            faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown
            fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat
            fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat
            lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek
            lsetxattr lstat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat
            openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
            readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile
            setxattr setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range
            syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev
            file_getattr file_setattr listmount statmount cachestat
        """,
        "waiting": """
            epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
            eventfd2 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll ppoll
            pselect6 select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
            io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
        """,
        "memory": """
            brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
            mlockall mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc
            pkey_free pkey_mprotect process_mrelease remap_file_pages
        """,
        "processes": """
            arch_prctl capget capset clone execve execveat exit exit_group fork futex
            futex_requeue futex_wait futex_waitv futex_wake get_robust_list getpgid getpgrp getpid
            getppid getpriority getrlimit getrusage getsid gettid ioprio_get ioprio_set kill
            landlock_add_rule landlock_create_ruleset landlock_restrict_self modify_ldt pause
            pidfd_open pidfd_send_signal prctl prlimit64 ptrace process_vm_readv process_vm_writev
            restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
            rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo seccomp set_robust_list
            set_tid_address setpgid setpriority setrlimit setsid sigaltstack tgkill tkill unshare
            vfork wait4 waitid
        """,
        "identity": """
            getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid
            setgroups setregid setresgid setresuid setreuid setuid
        """,
        "scheduling": """
            getcpu get_mempolicy mbind set_mempolicy set_mempolicy_home_node
            sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
            sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
            sched_setattr sched_setparam sched_setscheduler sched_yield
        """,
        "time": """
            adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer
            gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun
            timer_gettime timer_settime times
        """,
        "communication": """
            accept accept4 bind connect getpeername getsockname getsockopt ioctl listen
            mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget
            msgrcv msgsnd pipe pipe2 recvfrom recvmmsg recvmsg semctl semget semop semtimedop
            sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socket
            socketpair
        """,
        "the system": "getrandom sysinfo uname lsm_get_self_attr lsm_list_modules lsm_set_self_attr",
    }
)

_REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "attack surface of the kernel that tools do without": """
            bpf io_uring_enter io_uring_register io_uring_setup lookup_dcookie perf_event_open
            userfaultfd fanotify_init fanotify_mark kcmp pidfd_getfd process_madvise migrate_pages
            move_pages
        """,
        "keyrings, which no namespace divides": "add_key keyctl request_key",
        "file systems and roots": """
            chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_by_handle_at
            open_tree open_tree_attr pivot_root quotactl quotactl_fd umount2
        """,
        "namespaces of others": "setns",
        "the machine": """
            acct clock_settime create_module delete_module finit_module get_kernel_syms
            init_module ioperm iopl kexec_file_load kexec_load nfsservctl query_module reboot
            setdomainname sethostname settimeofday swapoff swapon sysfs _sysctl syslog uselib
            ustat vhangup
        """,
    }
)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ALLOWED: Final = frozenset(name for text in _GROUPS.values() for name in _names(text))
"""The calls that are allowed, whatever their arguments as far as the allow list goes."""
REFUSED: Final = frozenset(name for text in _REFUSED.values() for name in _names(text))
"""The calls that are refused with EPERM: they exist, and a program is to be told so."""

# personality(2), as the OCI's profile has it: Linux, 32 bits, a 2.6 version number, both, and only asking.
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFF_FFFF)

# --- conditions ---------------------------------------------------------------------------------------------

# ioctl_tty(2): both put characters into a terminal's input, as if somebody had typed them.
TIOCSTI: Final = 0x5412
TIOCLINUX: Final = 0x541C

NAMESPACES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "time": 0x0000_0080,
        "mount": 0x0002_0000,
        "cgroup": 0x0200_0000,
        "uts": 0x0400_0000,
        "ipc": 0x0800_0000,
        "user": 0x1000_0000,
        "pid": 0x2000_0000,
        "network": 0x4000_0000,
    }
)
"""The flags of clone(2) and unshare(2) that make namespaces."""
BROWSERS_NEED: Final = ("user", "pid", "network", "ipc")
"""Namespaces that the sandboxes of Chromium and Firefox make; the last three need the first."""

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
_FAMILIES: Final = frozenset({AF_UNIX, AF_INET, AF_INET6, AF_NETLINK})
_NETLINK_ROUTE: Final = 0


def filters(*, user_namespaces: bool = False) -> tuple[Filter, ...]:
    """Both filters; with ``user_namespaces`` a program may make some of its own, and a root in them."""
    roots = {"chroot"} if user_namespaces else set()
    allowed = Filter(
        "allow list",
        (
            Rule(tuple(sorted(ALLOWED | roots))),
            *(Rule(("personality",), 0, (Argument(0, "masked", value, INT),)) for value in _PERSONALITIES),
            Rule(tuple(sorted(REFUSED - roots)), errno.EPERM),
        ),
        errno.ENOSYS,
    )
    # Its flags are in memory, where no filter can read them: glibc falls back to clone.
    clone3 = Rule(("clone3",), errno.ENOSYS)
    return allowed, Filter("conditions", (*_terminals(), *_namespaces(user_namespaces), clone3, *_sockets()))


def _terminals() -> list[Rule]:
    requests = (TIOCSTI, TIOCLINUX)
    return [Rule(("ioctl",), errno.EPERM, (Argument(1, "masked", number, INT),)) for number in requests]


def _namespaces(user_namespaces: bool) -> list[Rule]:
    rules = []
    for name, flag in NAMESPACES.items():
        if user_namespaces and name in BROWSERS_NEED:
            continue
        # In clone's flags the lowest byte is a signal; there is no such flag for it.
        calls = ("unshare",) if name == "time" else ("clone", "unshare")
        rules.append(Rule(calls, errno.EPERM, (Argument(0, "masked", flag, flag),)))
    return rules


def _sockets() -> list[Rule]:
    """Families, of netlink only routes and interfaces. What does not fit into 32 bits is refused."""
    unknown = [number for number in range(max(_FAMILIES)) if number not in _FAMILIES]
    other = [
        *((Argument(0, "equal", number),) for number in unknown),
        (Argument(0, "greater", max(_FAMILIES)),),
        (Argument(0, "equal", AF_NETLINK), Argument(2, "different", _NETLINK_ROUTE)),
    ]
    # socketpair(2) knows only AF_UNIX of these; the others' code is reached by it nevertheless.
    pairs = [
        *((Argument(0, "equal", number),) for number in range(max(_FAMILIES) + 1) if number != AF_UNIX),
        (Argument(0, "greater", max(_FAMILIES)),),
    ]
    return [
        *(Rule(("socket",), errno.EAFNOSUPPORT, when) for when in other),
        *(Rule(("socketpair",), errno.EAFNOSUPPORT, when) for when in pairs),
    ]
