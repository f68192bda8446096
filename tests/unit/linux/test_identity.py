"""Whose files are used, and as whom the workload runs."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from nsharness.errors import NsharnessError
from nsharness.linux.identity import current

ACCOUNTS = {
    0: pwd.struct_passwd(("root", "x", 0, 0, "", "/root", "/bin/bash")),
    1000: pwd.struct_passwd(("ada", "x", 1000, 100, "", "/home/ada", "/bin/bash")),
}


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: ACCOUNTS[uid])
    by_name = {entry.pw_name: entry for entry in ACCOUNTS.values()}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: by_name[name])


def be(
    monkeypatch: pytest.MonkeyPatch, uid: int, gid: int, *, euid: int | None = None, egid: int | None = None
) -> None:
    values = {"getuid": uid, "geteuid": uid if euid is None else euid, "getgid": gid, "getegid": gid}
    for name, value in (values | ({} if egid is None else {"getegid": egid})).items():
        monkeypatch.setattr(os, name, lambda value=value: value)


def test_an_ordinary_user_is_owner_and_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 1000, 100)
    found = current({"HOME": "/elsewhere", "SUDO_UID": "7"})
    assert (found.privileged, found.owner_name, found.home) == (False, "ada", Path("/home/ada"))
    assert (found.owner_uid, found.owner_gid, found.workload_uid, found.workload_gid) == (
        1000,
        100,
        1000,
        100,
    )
    assert found.drop_to is None


def test_under_sudo_it_is_the_invoking_user(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, 0)
    found = current({"SUDO_UID": "1000", "SUDO_GID": "1000", "HOME": "/root"})
    assert (found.privileged, found.owner_name, found.home) == (True, "ada", Path("/home/ada"))
    assert (found.owner_uid, found.owner_gid) == found.drop_to == (1000, 1000)


def test_without_a_group_from_sudo_it_is_the_accounts_own(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, 0)
    assert current({"SUDO_UID": "1000"}).workload_gid == 100


@pytest.mark.parametrize(
    "environ", [{}, {"SUDO_UID": "0"}, {"SUDO_UID": "0", "SUDO_GID": "0"}, {"SUDO_UID": "000"}]
)
def test_root_itself_never_lends_its_uid_to_the_workload(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    be(monkeypatch, 0, 0)
    found = current(environ)
    assert found.owner_uid == 0
    assert found.workload_uid == found.workload_gid >= 0x7000_0000
    assert found.drop_to == (found.workload_uid, found.workload_uid)
    # Nobody else has it: another run has another one.
    assert len({current(environ).workload_uid for _ in range(20)}) > 1


@pytest.mark.parametrize("name", ["SUDO_UID", "SUDO_GID"])
@pytest.mark.parametrize(
    "value",
    [
        *("", "ada", "-1", "+1000", " 1000", "1000 ", "1_000", "0x3e8", "1e3", "1000\n", "١٠٠٠", "²"),
        *(str(2**32 - 1), str(2**32), str(2**32 + 1000), "9" * 5000),
    ],
    ids=lambda value: ascii(value[:12]),
)
def test_what_is_no_id_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    be(monkeypatch, 0, 0)
    with pytest.raises(NsharnessError, match=f"{name} is no id"):
        current({"SUDO_UID": "1000", "SUDO_GID": "1000", name: value})


def test_the_largest_id_there_is_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, 0)
    largest = str(2**32 - 2)
    assert current({"SUDO_UID": largest, "SUDO_GID": largest}).workload_uid == 2**32 - 2


def test_an_unknown_invoker_needs_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, 0)
    with pytest.raises(NsharnessError, match="no group is known for uid 4711"):
        current({"SUDO_UID": "4711"})


def test_an_unknown_invoker_does_not_get_roots_home(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, 0)
    found = current({"SUDO_UID": "4711", "SUDO_GID": "4711", "HOME": "/root"})
    assert (found.owner_name, found.home) == ("uid4711", Path("/nonexistent"))


@pytest.mark.parametrize(
    ("home", "used"), [("/data", "/data"), ("data", "/nonexistent"), ("", "/nonexistent")]
)
def test_a_user_without_an_account_has_the_home_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, home: str, used: str
) -> None:
    be(monkeypatch, 4711, 4711)
    assert current({"HOME": home}).home == Path(used)


@pytest.mark.parametrize("changes", [{"euid": 0}, {"egid": 0}])
def test_an_installation_with_a_setuid_or_setgid_bit_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, int]
) -> None:
    be(monkeypatch, 1000, 100, **changes)
    with pytest.raises(NsharnessError, match="refusing to run setuid or setgid"):
        current({})


@pytest.mark.parametrize(
    ("user", "uid", "gid", "name"),
    [
        ("ada", 1000, 100, "ada"),
        ("1000", 1000, 100, "ada"),
        ("1000:4711", 1000, 4711, "ada"),
        ("4711", 4711, 4711, "uid4711"),
        ("4711:100", 4711, 100, "uid4711"),
    ],
)
@pytest.mark.parametrize("environ", [{}, {"SUDO_UID": "1000", "SUDO_GID": "1000"}])
def test_root_chooses_the_workloads_user_and_keeps_the_files(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], user: str, uid: int, gid: int, name: str
) -> None:
    be(monkeypatch, 0, 0)
    found = current(environ, user)
    assert (found.workload_uid, found.workload_gid, found.workload_name) == (uid, gid, name)
    assert found.owner_uid == int(environ.get("SUDO_UID", "0"))
    assert found.drop_to == (uid, gid)


@pytest.mark.parametrize("user", ["root", "0", "00", "1000:0", "0:1000"])
def test_nobody_makes_the_workload_root(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    be(monkeypatch, 0, 0)
    with pytest.raises(NsharnessError, match="never root"):
        current({}, user)


@pytest.mark.parametrize(
    "user", ["", "nobody-here", "-1", "1000:", "1000:x", ":1000", "4294967295", "9" * 5000, "²"]
)
def test_a_workloads_user_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    be(monkeypatch, 0, 0)
    with pytest.raises(NsharnessError, match="no such user"):
        current({}, user)


def test_only_root_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 1000, 100)
    assert current({}, "ada").workload_uid == 1000
    with pytest.raises(NsharnessError, match="only root can choose"):
        current({}, "4711")
