"""Which mechanism enforces which limit: chosen from facts, never pretended."""

from __future__ import annotations

import json
from itertools import product

import pytest

from nsharness.errors import NsharnessError
from nsharness.plan.limits import DEFAULT_PIDS, LimitFacts, LimitPlan, Limits, choose, mechanisms

ALL = frozenset({"memory", "pids", "cpu"})
UNIFIED = LimitFacts(unified="/cg", unified_controllers=ALL)
LEGACY = LimitFacts(legacy={name: f"/v1/{name}" for name in ALL})
NOTHING = LimitFacts()
OLD = LimitFacts(nproc_of_namespace=False)
EVERYTHING = Limits(memory=1 << 30, pids=100, cpu=1.5, tmp=1 << 20, open_files=512, wall=60.0, output=5000)


def chosen(limits: Limits, facts: LimitFacts) -> dict[str, str]:
    return {limit.name: limit.mechanism for limit in choose(limits, facts).limits}


@pytest.mark.parametrize(("facts", "group"), [(UNIFIED, "cgroup2"), (LEGACY, "cgroup1")])
def test_control_groups_are_used_where_there_are_any(facts: LimitFacts, group: str) -> None:
    assert chosen(EVERYTHING, facts) == {
        **dict.fromkeys(ALL, group),
        "tmp": "tmpfs",
        "open_files": "rlimit",
        "wall": "supervisor",
        "output": "supervisor",
    }


def test_the_newer_version_is_preferred_controller_by_controller() -> None:
    both = LimitFacts("/cg", frozenset({"pids"}), {"memory": "/v1/memory", "pids": "/v1/pids"})
    assert chosen(Limits(memory=1 << 30, pids=9), both) == {
        "memory": "cgroup1",
        "pids": "cgroup2",
        "tmp": "tmpfs",
    }


@pytest.mark.parametrize(
    ("limits", "facts"),
    [
        (Limits(memory=1 << 30), NOTHING),
        (Limits(cpu=1), NOTHING),
        (Limits(pids=10), OLD),
        (Limits(memory=1 << 30), LimitFacts(unified="/cg", unified_controllers=frozenset({"pids"}))),
    ],
)
def test_what_was_asked_for_and_cannot_be_enforced_is_an_error(limits: Limits, facts: LimitFacts) -> None:
    with pytest.raises(NsharnessError, match=r"cannot enforce limits\.\w+ = .*best_effort"):
        choose(limits, facts)


def test_with_best_effort_the_plan_says_what_it_is_worth() -> None:
    plan = choose(Limits(memory=1 << 30, pids=10, cpu=1, best_effort=True), OLD)
    text = "\n".join(limit.describe() for limit in plan.limits)
    assert "memory 1GiB (rlimit: RLIMIT_DATA, of each process alone" in text
    assert "pids 10 (not enforced)" in text
    assert "cpu 1 (not enforced)" in text
    assert plan.rlimits == (("RLIMIT_DATA", 1 << 30),)
    assert not any(limit.needed for limit in plan.limits if limit.name in ALL)


def test_without_a_wish_nothing_fails_anywhere() -> None:
    for controllers, legacy, nproc in product((ALL, frozenset[str]()), ({}, LEGACY.legacy), (True, False)):
        facts = LimitFacts("/cg" if controllers else "", controllers, legacy, nproc)
        plan = choose(Limits(), facts)
        pids = plan.of("pids")
        assert plan.of("memory") is plan.of("cpu") is plan.of("wall") is None
        assert (pids is None) == (not controllers and not legacy and not nproc)
        assert pids is None or (pids.value, pids.needed) == (DEFAULT_PIDS, False)


def test_the_settings_of_the_newer_version() -> None:
    (group,) = choose(EVERYTHING, UNIFIED).groups("run-1")
    assert (group.path, group.version) == ("/cg/nsharness-run-1", 2)
    assert set(group.controllers) == ALL
    assert dict(group.settings) == {
        "memory.max": str(1 << 30),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "100",
        "cpu.max": "150000 100000",
    }


def test_the_settings_of_the_older_version() -> None:
    groups = choose(EVERYTHING, LEGACY).groups("run-1")
    assert {group.path for group in groups} == {f"/v1/{name}/nsharness-run-1" for name in ALL}
    memory = next(group for group in groups if group.controllers == ("memory",))
    # In the other order the kernel refuses: together may not be less than memory alone.
    size = str(1 << 30)
    assert memory.settings == (("memory.limit_in_bytes", size), ("memory.memsw.limit_in_bytes", size))


def test_a_sandbox_without_control_groups_makes_none() -> None:
    plan = choose(Limits(pids=10, open_files=300), NOTHING)
    assert plan.groups("run-1") == ()
    assert plan.rlimits == (("RLIMIT_NPROC", 10), ("RLIMIT_NOFILE", 300))


@pytest.mark.parametrize("facts", [UNIFIED, LEGACY])
def test_a_plan_survives_json(facts: LimitFacts) -> None:
    plan = choose(EVERYTHING, facts)
    assert LimitPlan.from_record(json.loads(json.dumps(plan.to_record()))) == plan


def test_the_mechanisms_of_a_host_can_be_listed() -> None:
    assert {limit.name: limit.mechanism for limit in mechanisms(NOTHING)} == {
        "memory": "rlimit",
        "pids": "rlimit",
        "cpu": "none",
        "tmp": "tmpfs",
        "open_files": "rlimit",
        "wall": "supervisor",
        "output": "supervisor",
    }
