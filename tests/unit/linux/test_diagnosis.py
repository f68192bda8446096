"""Diagnosis: each place where namespaces are forbidden has a symptom, and its users are told one remedy."""

from __future__ import annotations

import errno
import itertools
import tomllib
from pathlib import Path
from typing import Any

import pytest

from nsharness.linux.diagnosis import _ENGINES, Failure, Surroundings, diagnose

HOSTS = tomllib.loads(Path(__file__).with_name("hosts.toml").read_text())["host"]
_FACTS = {"root", "capable", "seccomp", "sudo", "ids", "sysctls", "version"}


def symptom(host: dict[str, Any]) -> tuple[Failure, Surroundings]:
    failure = Failure(host["step"], getattr(errno, host["errno"]), host.get("label", ""))
    facts = {name: value for name, value in host.items() if name in _FACTS}
    return failure, Surroundings(places=frozenset(host.get("places", ())), **facts)


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host["name"])
def test_every_known_symptom_gets_the_remedy_of_its_place(host: dict[str, Any]) -> None:
    """K12: no start without the layer, and no raw errno instead of a remedy."""
    found = diagnose(*symptom(host))
    assert found.name == host["cause"]
    for text in host["says"]:
        assert text in f"{found.cause} {found.remedy}"
    for text in host.get("never", ()):
        assert text not in found.remedy


def test_the_rows_are_complete() -> None:
    known = _FACTS | {"name", "source", "step", "errno", "label", "places", "cause", "says", "never"}
    assert [row["name"] for row in HOSTS if not row.keys() <= known or not row["says"]] == []
    names = [row["name"] for row in HOSTS]
    assert len(set(names)) == len(names)


def test_whatever_fails_there_is_one_line_that_says_what_to_do() -> None:
    steps = (
        "unshare-user",
        "setgroups",
        "uid_map",
        "unshare-net",
        "address",
        "veth",
        "slave",
        "proc",
        "other",
    )
    numbers = (0, errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EINVAL, errno.ENOSYS, errno.EBUSY)
    for step, number, engine, root in itertools.product(steps, numbers, ["", *_ENGINES], [False, True]):
        found = diagnose(Failure(step, number), Surroundings(root=root, places=frozenset({engine} - {""})))
        for text in (found.name, found.cause, found.remedy):
            assert text
            assert text.isprintable()


def test_sudo_is_offered_where_it_exists_under_the_name_it_needs() -> None:
    failure = Failure("uid_map", errno.EACCES)
    sysctls = {"kernel.apparmor_restrict_unprivileged_userns": "1"}
    with_it = Surroundings(sudo=True, sysctls=sysctls, command="/home/a b/.local/bin/nsharness")
    remedy = diagnose(failure, with_it).remedy
    assert remedy.startswith("'/home/a b/.local/bin/nsharness' doctor --apparmor-profile | sudo tee ")
    assert remedy.endswith("sudo '/home/a b/.local/bin/nsharness' …")
    assert "as root" not in diagnose(failure, Surroundings(sysctls=sysctls)).remedy


def test_root_is_not_told_about_a_restriction_of_others() -> None:
    sysctls = {"kernel.apparmor_restrict_unprivileged_userns": "1"}
    host = Surroundings(root=True, capable=True, sysctls=sysctls)
    assert diagnose(Failure("slave", errno.EACCES, "unconfined"), host).name == "unknown"
