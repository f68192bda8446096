"""The import rules, executed: who may know whom, and what is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.sources import imports, modules, within

# Whoever imports one of these has to be in one of the places to its right.
CONFINED = {
    "mitmproxy": ["nsharness_proxy"],
    "pyroute2": ["nsharness.sandbox.rtnetlink"],
    "prctl": ["nsharness.linux"],
    "pydantic": [
        "nsharness.policy.commandline",
        "nsharness.policy.connecting",
        "nsharness.policy.profile",
        "nsharness.policy.resources",
        "nsharness.policy.narrowing",
        "nsharness.policy.sharing",
        "nsharness.policy.load",
        "nsharness.policy.schema",
        "nsharness.policy.strict",
        "nsharness.agent",
    ],
    "pydantic_ai": ["nsharness.agent", "nsharness.tools.toolset"],
    "mcp": ["nsharness.tools.serving", "nsharness.tools.stdio"],
    "anyio": ["nsharness.tools.serving", "nsharness.tools.stdio"],
    "starlette": ["nsharness_mocks"],
    "uvicorn": ["nsharness_mocks"],
    "openai": [],
    "anthropic": [],
    "nsharness_proxy": ["nsharness_proxy"],
    "nsharness_mocks": ["nsharness_mocks"],
}

# What each package of nsharness may use of the others. The supervisor starts the sandbox's programs and the
# proxy, it does not import them; what decides and what plans knows nothing of the kernel.
LAYERS = {
    "errors": [],
    "frozen": [],
    "audit": ["errors"],
    "policy": ["errors", "credentials"],
    "plan": ["errors"],
    "linux": ["errors"],
    "overlay": ["errors", "linux"],
    "credentials": ["errors", "linux", "policy"],
    "sandbox": ["errors", "linux", "plan"],
    "supervisor": ["errors", "linux", "policy", "credentials", "plan", "audit", "overlay"],
    "background": ["errors", "linux", "supervisor"],
    "presets": ["errors", "policy"],
    "tools": ["errors"],
    "agent": ["errors", "policy", "tools"],
    "stages": ["errors", "policy", "agent"],
    "cli": [
        "errors",
        "linux",
        "policy",
        "credentials",
        "plan",
        "audit",
        "overlay",
        "supervisor",
        "background",
        "presets",
        "tools",
        "agent",
        "stages",
    ],
}
# The probe for a veth pair makes one, with the code that sandboxes are made with.
EXEMPT = {("nsharness.linux.chain", "nsharness.sandbox.gateway")}

# What the other two programs may use of nsharness, as long as that does not load pydantic.
OTHER_PROGRAMS = {
    "nsharness_proxy": [
        "nsharness.errors",
        "nsharness.frozen",
        "nsharness.policy",
        "nsharness.credentials",
        "nsharness.audit",
        "nsharness.linux",
    ],
    "nsharness_mocks": ["nsharness.errors", "nsharness.linux"],
}

HEAVY = {"pyroute2", "mitmproxy", "pydantic", "pydantic_ai", "starlette", "uvicorn", "asyncio", "mcp"}


def loaded_by(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded at the end of ``program``."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{program}\nimport sys\nprint(*sys.modules, file=sys.stderr)"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_there_are_imports_to_check() -> None:
    assert len(imports()) > 300


@pytest.mark.parametrize("package", CONFINED)
def test_a_package_is_imported_only_where_it_belongs(package: str) -> None:
    places = CONFINED[package]
    wrong = [
        str(each)
        for each in imports()
        if within(each.imported, package) and not within(each.importer, *places)
    ]
    assert wrong == []


def test_every_package_of_nsharness_has_its_layer() -> None:
    assert {
        name.split(".")[1] for name in modules() if within(name, "nsharness") and "." in name
    } == LAYERS.keys()


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_uses_only_what_is_below_it(package: str) -> None:
    allowed = [f"nsharness.{name}" for name in (package, "frozen", *LAYERS[package])]
    wrong = [
        str(each)
        for each in imports()
        if within(each.importer, f"nsharness.{package}")
        and within(each.imported, "nsharness")
        and each.imported != "nsharness"  # for __version__
        and not within(each.imported, *allowed)
        and (each.importer, each.imported) not in EXEMPT
    ]
    assert wrong == []


@pytest.mark.parametrize("program", OTHER_PROGRAMS)
def test_another_program_uses_only_the_shared_parts(program: str) -> None:
    used = [
        each for each in imports() if within(each.importer, program) and within(each.imported, "nsharness")
    ]
    wrong = [str(each) for each in used if not within(each.imported, *OTHER_PROGRAMS[program])]
    assert wrong == []
    shared = "\n".join(f"import {name}" for name in sorted({each.imported for each in used}))
    assert loaded_by(shared) & (HEAVY - {"asyncio"}) == set()


@pytest.mark.parametrize(
    "program",
    [
        "import nsharness",
        "import nsharness.cli",
        "import nsharness.linux.probe",
        "import nsharness.cli.runs",
        "import nsharness.cli.enter",
        "import nsharness.cli.approve",
        "import nsharness.cli.secret",
        "import nsharness.cli.doctor",
        "from nsharness.tools import openai_chat_tools, openai_responses_tools, anthropic_tools",
    ],
)
def test_what_starts_often_loads_nothing_heavy(program: str) -> None:
    assert loaded_by(program) & HEAVY == set()


def test_commands_that_make_a_sandbox_load_no_sdk_with_it() -> None:
    loaded = loaded_by("import nsharness.cli.execute, nsharness.cli.mcp")
    assert loaded & {"mcp", "anyio", "pydantic_ai", "openai", "anthropic", "mitmproxy", "pyroute2"} == set()


def test_the_proxy_starts_without_what_only_some_connections_need() -> None:
    """mitmproxy is loaded when one does (``loader``)."""
    loaded = loaded_by(
        "import uvloop, nsharness_proxy.__main__, nsharness_proxy.engine, nsharness_proxy.loader"
    )
    assert {"nsharness_proxy", "uvloop", "OpenSSL"} <= loaded
    assert loaded & {"mitmproxy", "mitmproxy_rs", "h11", "h2", "pydantic", "pyroute2"} == set()


def test_a_run_without_a_profile_loads_nothing_heavy() -> None:
    """What reads profiles would take as long to load as a sandbox takes to start; and each of the others
    would be a tenth of what is loaded."""
    loaded = loaded_by("import nsharness.cli.execute, nsharness.policy.plain")
    assert loaded & (HEAVY | {"dataclasses", "logging", "tomllib", "cryptography", "secrets"}) == set()


def test_the_zygote_imports_neither_credentials_nor_policy() -> None:
    """It forks what the workload runs in: what it has never loaded cannot be found in that memory."""
    assert not {
        str(each)
        for each in imports()
        if within(each.importer, "nsharness.sandbox") and within(each.imported, "nsharness.credentials")
    }


def test_what_is_forked_for_each_sandbox_is_small() -> None:
    """What watches over forks makes each of them dearer, and pages that it touches are each sandbox's own."""
    loaded = loaded_by("import nsharness.sandbox.zygote")
    assert loaded & {"pyroute2", "threading", "logging", "multiprocessing", "random"} == set()
    assert loaded & {"argparse", "pathlib", "dataclasses", "inspect"} == set()
    assert "pyroute2" in loaded_by("import nsharness.sandbox.rtnetlink")


def test_public_names_are_there_and_load_on_use() -> None:
    program = "import nsharness\nfor name in nsharness.__all__: getattr(nsharness, name)"
    assert {"pydantic", "nsharness"} <= loaded_by(program)


def test_a_command_that_is_handed_over_loads_next_to_nothing() -> None:
    """The whole way of ``nsharness exec`` until a spare has taken it: what is slow to import is named, and so
    is how much there may be."""
    idle = loaded_by("pass")
    found = loaded_by("import nsharness.cli, nsharness.background.client") - idle
    assert not found & {
        "typing",
        "socket",
        "argparse",
        "re",
        "enum",
        "collections",
        "pathlib",
        "signal",
        "json",
    }
    assert len(found) <= 8, found
