"""Files that a workload must not read, change or make."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nsharness.linux import landlock
from nsharness.linux.identity import Identity
from nsharness.plan.steps import Bind, Cover, Directory, Mask, Plan, ReadOnly, Step, Tmpfs
from tests.support.attacks import (
    CANARY,
    PRIVILEGED,
    Assault,
    adding,
    changing,
    weakness,
    with_plan,
    without,
)
from tests.support.sandboxes import needs_sandbox

pytestmark = [needs_sandbox, pytest.mark.xdist_group("escape-filesystem")]


def _writable(step: Step) -> Step:
    return replace(step, writable=True) if isinstance(step, Bind) and "nsharness-" in step.path else step


def _executable(step: Step) -> Step:
    return replace(step, noexec=False) if isinstance(step, Tmpfs) else step


def _hosts_folders(plan: Plan) -> Plan:
    """Some of the host's directories, where the sandbox has its own or none."""
    places = ("/var/tmp", "/etc", "/sys")
    steps = [step for path in places for step in (Directory(path), Bind(path, path))]
    return adding(*steps)(plan)


WRITABLE = with_plan("writable shares", changing(_writable))
UNHIDDEN = with_plan("nothing hidden", without(Cover))
UNMASKED = with_plan("nothing masked", without(Mask))
OPEN_SETTINGS = with_plan("settings writable", without(ReadOnly, "/proc/sys"), *PRIVILEGED)
OPEN_ROOT = with_plan("root writable", without(ReadOnly, "/"), *PRIVILEGED)
EXECUTABLE = with_plan("programs anywhere", changing(_executable))
HOSTS_FOLDERS = with_plan("folders of the host", _hosts_folders)
NO_LANDLOCK = weakness("no_landlock")


@pytest.fixture(scope="module")
def workspace(identity: Identity) -> Iterator[Path]:
    """A folder of work, with what git would run, and with a secret that the profile hides."""
    folder = Path(tempfile.mkdtemp(prefix="nsharness-work-", dir="/tmp"))
    (folder / ".git" / "hooks").mkdir(parents=True)
    (folder / ".git" / "config").write_text("[core]\n")
    for name in (".env", "deep/.env"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(CANARY)
    (folder / "out").symlink_to("/etc/machine-id" if Path("/etc/machine-id").exists() else "/etc/hostname")
    _give(folder, identity)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def library(identity: Identity) -> Iterator[Path]:
    """A folder that is shared for reading only; the person may write there."""
    folder = Path(tempfile.mkdtemp(prefix="nsharness-library-", dir="/tmp"))
    (folder / "book").write_text("text")
    _give(folder, identity)
    yield folder
    shutil.rmtree(folder)


def _give(folder: Path, identity: Identity) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, identity.workload_uid, identity.workload_gid, follow_symlinks=False)


@pytest.fixture(scope="module")
def profile(workspace: Path, library: Path) -> dict[str, Any]:
    files = {"workspace": str(workspace), "read_only": [str(library)], "hide": [".env"]}
    return {"filesystem": files}


def landlock_is_used() -> bool:
    """Whether this kernel has that layer."""
    try:
        return landlock.version() >= landlock.USABLE
    except OSError:
        return False


# --- shares -------------------------------------------------------------------------------------------------


def test_a_file_that_is_shared_for_reading_cannot_be_opened_for_writing(
    assault: Assault, library: Path
) -> None:
    assault.shell(WRITABLE, ': >> "$1/book" && echo ESCAPED', str(library))


def test_nothing_can_be_made_where_only_reading_is_shared(assault: Assault, library: Path) -> None:
    assault.shell(WRITABLE, 'mkdir "$1/made" && rmdir "$1/made" && echo ESCAPED', str(library))


def test_nothing_can_be_renamed_where_only_reading_is_shared(assault: Assault, library: Path) -> None:
    script = 'mv "$1/book" "$1/other" && mv "$1/other" "$1/book" && echo ESCAPED'
    assault.shell(WRITABLE, script, str(library))


def test_no_mode_can_be_changed_where_only_reading_is_shared(assault: Assault, library: Path) -> None:
    assault.shell(WRITABLE, 'chmod 0600 "$1/book" && echo ESCAPED', str(library))


def test_no_hook_can_be_left_for_the_hosts_git(assault: Assault, workspace: Path) -> None:
    assault.shell(WRITABLE, 'cd "$1/.git/hooks" && : > post-checkout && echo ESCAPED', str(workspace))


def test_the_settings_of_the_hosts_git_cannot_be_changed(assault: Assault, workspace: Path) -> None:
    assault.shell(WRITABLE, ': >> "$1/.git/config" && echo ESCAPED', str(workspace))


@pytest.mark.parametrize("name", [".env", "deep/.env"])
def test_a_hidden_file_cannot_be_read(assault: Assault, workspace: Path, name: str) -> None:
    script = f'grep -q {CANARY} "$1" && echo ESCAPED'
    assault.shell(UNHIDDEN, script, str(workspace / name))


def test_a_hidden_file_cannot_be_renamed_into_sight(assault: Assault, workspace: Path) -> None:
    script = f"""cd "$1" && mv .env seen && grep -q {CANARY} seen && echo ESCAPED; mv seen .env; :"""
    assault.shell(UNHIDDEN, script, str(workspace))


def test_a_hidden_file_cannot_be_linked_into_sight(assault: Assault, workspace: Path) -> None:
    script = f"""cd "$1" && ln .env seen && grep -q {CANARY} seen && echo ESCAPED; rm -f seen"""
    assault.shell(UNHIDDEN, script, str(workspace))


def test_a_link_in_a_share_does_not_lead_to_the_hosts_file(assault: Assault, workspace: Path) -> None:
    mine = (workspace / "out").read_text().strip()
    assault.shell(HOSTS_FOLDERS, '[ "$(cat "$1/out")" = "$2" ] && echo ESCAPED', str(workspace), mine)


# --- the host's files ---------------------------------------------------------------------------------------


def test_temporary_files_of_the_host_cannot_be_read(assault: Assault, identity: Identity) -> None:
    path = str(identity.home / ".netrc")  # in /var/tmp
    assault.shell(HOSTS_FOLDERS, f'grep -q {CANARY} "$1" && echo ESCAPED', path)


def test_the_hosts_accounts_cannot_be_listed(assault: Assault) -> None:
    assault.shell(HOSTS_FOLDERS, "grep -q ^root: /etc/passwd && echo ESCAPED")


def test_the_hosts_devices_cannot_be_listed(assault: Assault) -> None:
    assault.shell(HOSTS_FOLDERS, "ls /sys/class /sys/kernel && echo ESCAPED")


# --- the kernel's ------------------------------------------------------------------------------------------


def test_interrupts_cannot_be_counted(assault: Assault) -> None:
    """They tell of every key that somebody presses."""
    assault.shell(UNMASKED, "grep -q . /proc/interrupts && echo ESCAPED")


def test_keys_cannot_be_listed(assault: Assault) -> None:
    assault.shell(UNMASKED, "grep -q keyring /proc/keys && echo ESCAPED")


_OPEN_AS_ROOT = """
try: os.setuid(0)
except OSError: pass
done(lambda: os.open(sys.argv[1], os.O_WRONLY))"""


@pytest.mark.root
def test_core_pattern_cannot_be_opened_for_writing(assault: Assault) -> None:
    """It names a program that the host's kernel starts. Nothing is written, and only root ever could."""
    assault.python(OPEN_SETTINGS, _OPEN_AS_ROOT, "/proc/sys/kernel/core_pattern")


@pytest.mark.root
def test_addresses_cannot_be_made_predictable_for_everybody(assault: Assault) -> None:
    assault.python(OPEN_SETTINGS, _OPEN_AS_ROOT, "/proc/sys/kernel/randomize_va_space")


def test_a_setting_of_the_network_cannot_be_opened_for_writing(assault: Assault) -> None:
    script = "done(lambda: os.open('/proc/sys/net/ipv4/ip_forward', os.O_WRONLY))"
    assault.python(OPEN_SETTINGS, script)


# --- the sandbox's own -------------------------------------------------------------------------------------


def test_nothing_can_be_made_at_the_root(assault: Assault) -> None:
    assault.shell(OPEN_ROOT, "mkdir /made && echo ESCAPED")


def test_no_library_can_be_put_before_every_program(assault: Assault) -> None:
    assault.shell(OPEN_ROOT, ": > /etc/ld.so.preload && echo ESCAPED; rm -f /etc/ld.so.preload")


def test_names_of_hosts_cannot_be_redirected(assault: Assault) -> None:
    assault.shell(OPEN_ROOT, ": >> /etc/hosts && mv /etc/resolv.conf /etc/was && echo ESCAPED")


def test_accounts_cannot_be_made(assault: Assault) -> None:
    assault.shell(OPEN_ROOT, "cp /etc/passwd /etc/passwd- && mv /etc/passwd- /etc/passwd && echo ESCAPED")


def test_no_program_runs_from_shared_memory(assault: Assault) -> None:
    assault.shell(EXECUTABLE, "cp /usr/bin/true /dev/shm/p && /dev/shm/p && echo ESCAPED")


def test_no_device_file_can_be_made(assault: Assault) -> None:
    """One of 0:0, which says in an overlay that a file is gone, needs no capability; Landlock refuses it."""
    if not landlock_is_used():
        pytest.skip("this kernel has no Landlock that is of use")
    assault.python(NO_LANDLOCK, "done(lambda: os.mknod('/tmp/gone', 0o020600, 0))")
