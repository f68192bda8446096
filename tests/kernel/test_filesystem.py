"""What files a workload sees, and what it can change of them."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux.identity import Identity, current
from nsharness.plan.steps import Mask
from nsharness.supervisor.session import Session
from tests.support.sandboxes import Box, needs_sandbox, opened_box, opened_session, warm

pytestmark = needs_sandbox

PRIVATE = ("/tmp", "/var/tmp", "/run", "/dev/shm")
CANARY = "canary-5d2e"


@pytest.fixture(scope="module")
def identity() -> Iterator[Identity]:
    """Somebody with a home directory, for root by way of sudo."""
    home = Path(tempfile.mkdtemp(prefix="nsharness-home-", dir="/var/tmp"))
    for name in (".ssh/id_ed25519", ".netrc", ".config/tool/token", "project/code.py"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(CANARY)
    mine = current({})
    uid = 4711 if mine.privileged else mine.owner_uid
    if mine.privileged:
        for path in (home, *home.rglob("*")):
            os.chown(path, uid, uid)
    gid = mine.owner_gid if uid == mine.owner_uid else uid
    yield Identity(mine.privileged, uid, gid, "ada", home, uid, gid)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def session(identity: Identity) -> Iterator[Session]:
    with opened_session(identity.home / "state", identity) as opened:
        yield warm(opened)


def mounts(box: Box) -> list[tuple[str, set[str], str]]:
    """Where, with which options, of which type; as mountinfo shows them (proc(5))."""
    found = []
    for line in box.out("cat /proc/self/mountinfo").splitlines():
        front, _, back = line.partition(" - ")
        found.append(
            (front.split()[4], set(front.split()[5].split(",")) | set(front.split()[6:]), back.split()[0])
        )
    return found


# --- read-only ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/new",
            "/usr/new",
            "/usr/bin/new",
            "/usr/local/bin/new",
            "/etc/new",
            "/etc/ssl/certs/new",
            "/bin/new",
        ),
        *("/lib/new", "/home/new", "/var/new", "/dev/new", "/proc/new", "/etc/nsharness/new"),
    ],
)
def test_nothing_can_be_made_outside_the_private_places(box: Box, path: str) -> None:
    done = box.bash('echo x > "$1" || mkdir "$1" || ln -s /tmp "$1" || ln /etc/passwd "$1"', path)
    assert done.exit_code != 0
    assert box.bash(f"ls -d {path}").exit_code != 0


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/usr/bin/env", "/etc/ld.so.cache"]
)
def test_no_system_file_can_be_changed(box: Box, path: str) -> None:
    before = box.out(f"sha256sum {path}")
    script = (
        'echo x >> "$1"; : > "$1"; rm -f "$1"; chmod 777 "$1"; mv /tmp/x "$1"; truncate -s 0 "$1"; touch "$1"'
    )
    done = box.bash(f"echo x > /tmp/x; {script}; rm -f /tmp/x", path)
    assert b"Read-only file system" in done.stderr
    assert box.out(f"sha256sum {path}") == before


def test_every_mount_but_the_workloads_own_is_read_only(box: Box) -> None:
    own = {*PRIVATE, box.out("echo $HOME"), "/proc", "/dev/pts"}
    masks = {step.path for step in box.plan.steps if isinstance(step, Mask)}
    for path, options, _ in mounts(box):
        if path not in own | masks and path.rpartition("/")[0] != "/dev":
            assert "ro" in options, path


def test_no_mount_honours_setuid_bits_or_device_files(box: Box) -> None:
    for path, options, _ in mounts(box):
        if not path.startswith(("/dev/", "/proc/")):
            assert {"nosuid", "nodev"} <= options, path
        elif path.startswith("/dev/"):
            assert "nosuid" in options, path


def test_no_mount_is_tied_to_one_of_the_host(box: Box) -> None:
    """What the host mounts later does not appear, what is unmounted is not pinned (mount_namespaces(7))."""
    for path, options, _ in mounts(box):
        assert not [
            option for option in options if option.startswith(("shared:", "master:", "propagate_from:"))
        ], path


ATTEMPTS = {
    "remount writable": "mount -o remount,rw,bind /usr",
    "remount the root": "mount -o remount,rw /",
    "unmount": "umount /usr",
    "unmount lazily": "umount -l /etc/ssl/certs",
    "uncover a mask": "umount /proc/keys /proc/timer_list /proc/interrupts",
    "unmount proc": "umount -l /proc",
    "mount memory": "mount -t tmpfs x /tmp",
    "mount proc": "mkdir -p /tmp/p && mount -t proc x /tmp/p",
    "bind": "mkdir -p /tmp/p && mount --bind /usr /tmp/p",
    "move": "mount --move /usr /tmp",
    "make shared": "mount --make-rshared /",
    "change the root": "chroot / true",
    "make a device": "mknod /tmp/sda b 8 0",
    "make a character device": "mknod /tmp/mem c 1 1",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_mounts_and_devices_are_the_supervisors_business(box: Box, attempt: str) -> None:
    before = mounts(box)
    done = box.bash(ATTEMPTS[attempt] + " 2>/tmp/err")
    assert done.exit_code != 0
    assert mounts(box) == before
    box.out("cat /tmp/err; rm -rf /tmp/p /tmp/err")


def test_the_newer_mount_calls_are_refused_too(box: Box, python: str) -> None:
    script = """if 1:
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        open_tree, move_mount, fsopen, fsmount, fspick, mount_setattr = 428, 429, 430, 432, 433, 442
        attributes = ctypes.create_string_buffer(bytes(8) + bytes([1]) + bytes(23), 32)
        print(libc.syscall(open_tree, -100, b'/usr', 1), libc.syscall(fsopen, b'tmpfs', 0),
              libc.syscall(fspick, -100, b'/', 0), libc.syscall(move_mount, -100, b'/usr', -100, b'/tmp', 0),
              libc.syscall(mount_setattr, -100, b'/usr', 0, attributes, 32))"""
    assert box.out('"$1" -I -c "$2"', python, script) == "-1 -1 -1 -1 -1"
    assert "ro" in next(options for path, options, _ in mounts(box) if path == "/usr")


# --- absent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/sys", "/root", "/boot", "/mnt", "/media", "/opt", "/srv", "/.dockerenv", "/lost+found"]
)
def test_what_is_not_named_is_not_there(box: Box, path: str) -> None:
    assert box.bash(f"ls -d {path}").exit_code != 0


def test_the_root_holds_what_the_plan_made_and_nothing_else(box: Box) -> None:
    names = {"/" + name for name in box.out("ls -A /").split()}
    assert names == {"/" + step.path.split("/")[1] for step in box.plan.steps if step.path != "/"}


@pytest.mark.parametrize("path", ["shadow", "gshadow", "sudoers", "ssh", "fstab", "crontab", "environment"])
def test_of_etc_only_the_harmless_part_is_there(box: Box, path: str) -> None:
    assert box.bash(f"ls -d /etc/{path}").exit_code != 0


def test_etc_knows_one_person(box: Box, identity: Identity) -> None:
    assert [line.split(":")[0] for line in box.out("cat /etc/passwd").splitlines()] == ["ada", "nobody"]
    assert box.out("id -un; id -u").split() == ["ada", str(identity.workload_uid)]


def test_home_is_there_empty_and_the_persons_own_is_not(box: Box, identity: Identity) -> None:
    assert box.out("echo $HOME; ls -A $HOME") == str(identity.home)
    assert box.out("cd; echo mine > .netrc; cat .netrc; rm .netrc") == "mine"
    assert (identity.home / ".netrc").read_text() == CANARY
    assert box.out(f"grep -rs {CANARY} /home /var /tmp /run /etc /root /mnt /opt /srv /dev/shm; :") == ""


@pytest.mark.parametrize("folder", PRIVATE)
def test_private_places_share_nothing_with_the_host(box: Box, folder: str) -> None:
    name = f"nsharness-test-{secrets.token_hex(8)}"
    on_host = Path(folder, name)
    try:
        on_host.write_text(CANARY)
    except PermissionError:
        assert folder == "/run"
    try:
        assert box.bash(f"cat {on_host}").exit_code == 1
        box.out(f"echo mine > {on_host}")
        assert not on_host.exists() or on_host.read_text() == CANARY
        box.out(f"rm {on_host}")
    finally:
        on_host.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_sockets_of_the_host_have_no_path_here(box: Box, python: str, kind: socket.SocketKind) -> None:
    """K13: docker, D-Bus, ssh-agent, X11, tmux and the like live in /run, /tmp or the home directory."""
    path = f"/tmp/nsharness-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, kind) as service:
        service.bind(path)
        Path(path).chmod(0o777)
        try:
            script = f"import socket; print(socket.socket(socket.AF_UNIX, {int(kind)}).connect_ex('{path}'))"
            assert box.out('"$1" -I -c "$2"', python, script) == "2"
        finally:
            Path(path).unlink()


def test_dev_holds_the_harmless_devices_alone(box: Box) -> None:
    assert set(box.out("ls -A /dev").split()) == {
        *(
            "fd",
            "full",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
            "stdout",
            "tty",
            "urandom",
            "zero",
        )
    }
    assert box.out("ls -A /dev/pts").split() in (["ptmx"], [])


def test_the_devices_work(box: Box) -> None:
    assert box.out(
        "head -c 4 /dev/zero | od -An -tx1; echo x > /dev/null; head -c 4 /dev/urandom | wc -c"
    ).split() == [
        *["00"] * 4,
        "4",
    ]
    assert b"No space left" in box.bash("echo x > /dev/full").stderr


def test_terminals_are_the_sandboxes_own(box: Box, python: str) -> None:
    script = "import os; a, b = os.openpty(); print(os.ttyname(b))"
    assert box.out('"$1" -I -c "$2"', python, script) == "/dev/pts/0"


# --- proc ---------------------------------------------------------------------------------------------------

MASKED = (
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
)


@pytest.mark.parametrize("name", [*MASKED, "timer_stats"])
def test_masked_entries_are_empty_and_take_nothing(box: Box, name: str) -> None:
    assert (
        box.out(f"cd /proc; if [ -d {name} ]; then ls -A {name}; elif [ -e {name} ]; then cat {name}; fi")
        == ""
    )
    box.bash(f"echo x > /proc/{name}; echo x > /proc/{name}/x")
    assert box.out(f"cd /proc; if [ -f {name} ]; then cat {name}; fi") == ""
    assert box.bash(f"rm -rf /proc/{name}").stdout == b""


def test_the_masks_hide_something() -> None:
    """Otherwise the test above would say nothing on this machine."""
    assert Path("/proc/interrupts").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        *("sys/kernel/core_pattern", "sys/kernel/hostname", "sys/vm/overcommit_memory", "sys/fs/file-max"),
        *("sys/kernel/modprobe", "sys/kernel/ns_last_pid", "sys/net/ipv4/ip_forward", "sysrq-trigger"),
        *(
            "sys/user/max_user_namespaces",
            "irq/default_smp_affinity",
            "bus/pci/devices",
            "sys/fs/binfmt_misc/register",
        ),
    ],
)
def test_settings_of_the_kernel_take_nothing(box: Box, path: str) -> None:
    script = 'cd /proc; [ -e "$1" ] || exit 7; value=$(cat "$1" 2>/dev/null) || value=1; echo "$value" > "$1"'
    done = box.bash(script, path)
    assert done.exit_code in (1, 7)
    if done.exit_code == 1:
        assert b"Read-only file system" in done.stderr or b"Permission denied" in done.stderr


def test_the_modes_of_proc_cannot_be_changed(box: Box) -> None:
    assert box.bash("chmod 777 /proc/sys/kernel/core_pattern /proc/1 /proc/kmsg").exit_code == 1


# --- what a profile shares ----------------------------------------------------------------------------------


@pytest.fixture
def workspace(identity: Identity) -> Iterator[Path]:
    """A folder in the person's home, with links that lead out of it."""
    folder = identity.home / "project"
    (folder / "to-netrc").symlink_to(identity.home / ".netrc")
    (folder / "to-above").symlink_to("../.ssh/id_ed25519")
    (folder / "to-etc").symlink_to("/etc/shadow")
    (folder / "to-root").symlink_to("/")
    yield folder
    for path in folder.iterdir():
        if path.name != "code.py":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture
def working_box(session: Session, workspace: Path) -> Iterator[Box]:
    with opened_box(session, workspace=str(workspace)) as box:
        yield box


def test_a_workspace_is_shared_both_ways_and_belongs_to_the_person(
    working_box: Box, workspace: Path, identity: Identity
) -> None:
    assert working_box.out("pwd; cat code.py").splitlines() == [str(workspace), CANARY]
    working_box.out("echo made > new; mkdir -p a/b; chmod 4755 new")
    assert (workspace / "new").read_text() == "made\n"
    assert {
        (path.stat().st_uid, path.stat().st_gid) for path in (workspace / "new", workspace / "a" / "b")
    } == {(identity.workload_uid, identity.workload_gid)}


def test_around_a_workspace_home_stays_empty(working_box: Box) -> None:
    assert working_box.out("ls -A $HOME") == "project"


@pytest.mark.parametrize("link", ["to-netrc", "to-above", "to-etc"])
def test_links_in_a_workspace_do_not_lead_out(working_box: Box, link: str) -> None:
    """K23."""
    assert working_box.bash(f"cat {link}").exit_code == 1


def test_a_link_to_the_root_leads_to_the_sandboxes_root(working_box: Box) -> None:
    assert set(working_box.out("ls -A to-root/").split()) == set(working_box.out("ls -A /").split())


def test_a_workspace_that_is_a_link_is_what_the_link_led_to_at_the_start(
    session: Session, workspace: Path, identity: Identity
) -> None:
    """K23: resolved once, and shown; what is checked and mounted is where it led."""
    link = identity.home / "link"
    link.symlink_to(workspace)
    (workspace / "inner").mkdir()
    try:
        with opened_box(session, workspace=str(link / "inner")) as box:
            assert box.out("pwd") == str(workspace / "inner")
            assert f"resolved   {link}/inner is {workspace}/inner" in box.plan.describe()
        link.unlink()
        link.symlink_to(identity.home)
        with pytest.raises(NsharnessError, match="cannot share"), opened_box(session, workspace=str(link)):
            pass
    finally:
        link.unlink()


def test_the_home_the_store_and_the_state_are_not_shared(session: Session, identity: Identity) -> None:
    """K30: a workspace must not be a way to the secrets that the proxy keeps from the workload."""
    store = identity.home / ".local/share/nsharness/secrets"
    for path in (
        identity.home,
        identity.home.parent,
        store,
        store.parent,
        store / "wiki",
        identity.home / ".local",
    ):
        with pytest.raises(NsharnessError, match="cannot share"), opened_box(session, workspace=str(path)):
            pass


@pytest.mark.root
def test_a_workspace_that_the_person_cannot_reach_is_not_reached_for_them(
    session: Session, short_tmp: Path
) -> None:
    """Root opens it with the person's rights, without its own groups."""
    short_tmp.chmod(0o755)
    hidden = short_tmp / "hidden"
    (hidden / "open").mkdir(parents=True)
    (hidden / "open").chmod(0o777)
    hidden.chmod(0o750)
    with (
        pytest.raises(NsharnessError, match="not yours to read"),
        opened_box(session, workspace=str(hidden / "open")),
    ):
        pass


def test_what_is_made_inside_goes_with_the_sandbox(session: Session) -> None:
    with opened_box(session) as box:
        box.out("for d in /tmp /var/tmp /run /dev/shm $HOME; do echo x > $d/kept; done")
    with opened_box(session) as box:
        assert box.out("ls -A /tmp /var/tmp /run /dev/shm $HOME | grep kept; :") == ""


def test_private_places_have_a_size(box: Box) -> None:
    for folder in (*PRIVATE, "$HOME"):
        assert 0 < int(box.out(f"df --output=size -k {folder} | tail -1")) <= 1 << 20
