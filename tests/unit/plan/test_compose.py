"""Profile and host facts → plan: what every plan has, and what none has."""

from __future__ import annotations

import copy
import dataclasses
import posixpath
import re
from collections.abc import Iterable

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nsharness.errors import NsharnessError
from nsharness.plan import trust
from nsharness.plan.compose import Request, compose
from nsharness.plan.facts import (
    CA_BUNDLES,
    CERTIFICATE_DIRECTORIES,
    ETC_ENTRIES,
    SYSTEM_DIRECTORIES,
    CertificateDirectory,
    Entry,
    HostFacts,
    Kind,
)
from nsharness.plan.steps import (
    Bind,
    Cover,
    Device,
    Devpts,
    Directory,
    File,
    Links,
    Mask,
    Plan,
    Proc,
    ReadOnly,
    Step,
    Symlink,
    Tmpfs,
)
from nsharness.plan.trust import CA_BUNDLE, CA_FILE

SYSTEM = (*SYSTEM_DIRECTORIES, "/etc", "/boot", "/proc", "/sys", "/dev")
DEBIAN = HostFacts(
    {
        "/usr": Entry("directory"),
        **{f"/{name}": Entry("symlink", f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")},
        "/etc/alternatives": Entry("directory"),
        "/etc/ld.so.cache": Entry("file"),
        "/etc/localtime": Entry("symlink", "/usr/share/zoneinfo/Etc/UTC"),
        "/etc/ssl/certs/ca-certificates.crt": Entry("file"),
        "/srv/work": Entry("directory"),
        "/srv/work/inner": Entry("directory"),
        "/srv/data.txt": Entry("file"),
        "/srv/link": Entry("symlink", "/usr"),
        "/srv/socket": Entry("special"),
    },
    "-----BEGIN CERTIFICATE-----\nhost\n",
    certificates={"/etc/ssl/certs": CertificateDirectory("/etc/ssl/certs", ("0a.0", "ca-certificates.crt"))},
)


def request(**changes: object) -> Request:
    plain = Request(
        "run-1", 1000, 1000, "u", "/home/u", "10.127.0.1", "http://10.127.0.1:3128", ca_pem="PEM\n"
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def within(path: str, *tops: str) -> bool:
    return any(path == top or path.startswith(top.rstrip("/") + "/") for top in tops)


# --- any request, any host ---------------------------------------------------------------------------------

_SEGMENTS = st.sampled_from(
    ["usr", "etc", "ssl", "certs", "home", "u", "tmp", "var", "run", "srv", "x", "x.y", "lib"]
)
_PATHS = st.lists(_SEGMENTS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
_ODD_PATHS = st.one_of(
    _PATHS,
    st.sampled_from(
        ["/", "//", "//srv/x", "///usr", "/srv/../etc", "/srv/", "srv", "", ".", "/proc/1", "/sys/x"]
    ),
    st.text(alphabet="/.ab:\n ", max_size=8),
)
_KINDS: st.SearchStrategy[Kind] = st.sampled_from(["directory", "file", "symlink", "special"])


@st.composite
def hosts(draw: st.DrawFn, wanted: Iterable[str]) -> HostFacts:
    """A host on which nothing lies below what is no directory, as ``gather`` would report it."""
    asked = sorted({*SYSTEM_DIRECTORIES, *ETC_ENTRIES, *CA_BUNDLES, *wanted})
    unusual = draw(st.dictionaries(st.sampled_from(asked), st.none() | _KINDS, max_size=12))
    kinds: dict[str, Kind | None] = {}
    for path in asked:
        above = {kinds[path[:at]] for at in range(1, len(path)) if path[at] == "/" and path[:at] in kinds}
        if above & {"file", "special", None}:
            kinds[path] = None
        else:
            kinds[path] = "symlink" if "symlink" in above else unusual.get(path, "directory")
    entries = {path: Entry(kind, "usr") for path, kind in kinds.items() if kind is not None}
    directories: dict[str, CertificateDirectory] = {}
    for path in CERTIFICATE_DIRECTORIES:
        kind = draw(st.sampled_from(["directory", "moved", "link", None]))
        if kind == "link" and path == "/etc/ssl/certs":
            entries[path] = Entry("symlink", "/etc/pki/tls/certs")
        elif kind is not None:
            source = path if kind == "directory" else "/var/lib/ca"
            directories[path] = CertificateDirectory(source, draw(st.sampled_from([(), ("0a.0", "java")])))
    bundle = draw(st.sampled_from(["", "PEM\n"]))
    java = draw(st.booleans())
    settings = ("/etc/java-17-openjdk",) if java else ()
    return HostFacts(entries, bundle, certificates=directories, java=java, java_settings=settings)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Request, HostFacts]:
    shares = draw(st.lists(_ODD_PATHS, max_size=3, unique=True))
    writable = draw(st.lists(_ODD_PATHS, max_size=2, unique=True))
    workspace = draw(st.none() | _ODD_PATHS)
    facts = draw(hosts([*shares, *writable, *([workspace] if workspace else [])]))
    asked = request(
        home=draw(st.one_of(st.sampled_from(["/home/u", "/root", "/tmp/u", "/run/u", "/var"]), _ODD_PATHS)),
        ca_pem=draw(st.sampled_from(["", "PEM\n"])),
        private=tuple(draw(st.lists(_PATHS, max_size=2))),
        environment=draw(st.dictionaries(st.sampled_from(["A", "HOME", "http_proxy"]), st.text(max_size=5))),
    )
    # Of what is drawn, that which is accepted: whatever gets through must keep every promise.
    asked = dataclasses.replace(
        asked,
        read_only=tuple(path for path in shares if accepted(asked, facts, read_only=(path,))),
        read_write=tuple(path for path in writable if accepted(asked, facts, read_write=(path,))),
        workspace=workspace if workspace and accepted(asked, facts, workspace=workspace) else None,
    )
    assume(accepted(asked, facts))
    return asked, facts


def accepted(asked: Request, facts: HostFacts, **changes: object) -> bool:
    try:
        compose(dataclasses.replace(asked, **changes), facts)  # type: ignore[arg-type]
    except NsharnessError:
        return False
    return True


@settings(max_examples=50)
@given(requests())
def test_the_same_values_give_the_same_plan_and_are_not_changed(pair: tuple[Request, HostFacts]) -> None:
    before = copy.deepcopy(pair)
    assert compose(*pair) == compose(*pair)
    assert pair == before


@settings(max_examples=50)
@given(requests())
def test_every_plan_survives_json(pair: tuple[Request, HostFacts]) -> None:
    plan = compose(*pair)
    assert Plan.from_json(plan.to_json()) == plan


@settings(max_examples=50)
@given(requests())
def test_no_plan_has_a_writable_system_path(pair: tuple[Request, HostFacts]) -> None:
    for step in compose(*pair).steps:
        if isinstance(step, Bind) and step.writable:
            assert not within(step.path, *SYSTEM)
            assert step.path == step.source == posixpath.normpath(step.path)
            assert step.path not in ("/", "//", "/root", "/run", "/home", "/var", "/tmp", "/var/tmp")


@settings(max_examples=50)
@given(requests())
def test_only_what_is_asked_for_is_writable(pair: tuple[Request, HostFacts]) -> None:
    asked, _ = pair
    wanted = {*asked.read_write, *([asked.workspace] if asked.workspace else [])}
    assert {step.path for step in compose(*pair).steps if isinstance(step, Bind) and step.writable} <= wanted


@settings(max_examples=50)
@given(requests())
@example((request(home="/tmp/u"), DEBIAN))
@example((request(home="/var"), DEBIAN))
@example((request(home="//home/u"), DEBIAN))
def test_every_place_exists_before_something_is_put_there(pair: tuple[Request, HostFacts]) -> None:
    made, links, mounted = {"/"}, set[str](), set[str]()

    def there(path: str) -> bool:
        return path in made or any(within(path, top) and path != top for top in mounted | links)

    for step in compose(*pair).steps:
        match step:
            case Directory(path) | File(path) | Symlink(path) | Device(path):
                assert there(posixpath.dirname(path)), step
                (links if isinstance(step, Symlink) else made).add(path)
            case Bind(_, path) | Cover(path) | Tmpfs(path) | Proc(path) | Devpts(path):
                assert there(path), step
                # What was made at the place before is hidden now; a bind brings what the host has.
                made = {other for other in made if other == path or not within(other, path)}
                if isinstance(step, Bind):
                    mounted.add(path)
            case Links(path, into):
                assert there(path), step
                assert there(into), step
            case Mask() | ReadOnly():
                continue


def mounts(steps: Iterable[Step]) -> list[tuple[int, str]]:
    kinds = (Bind, Cover, Device, Tmpfs, Proc, Devpts, Mask)
    return [(index, step.path) for index, step in enumerate(steps) if isinstance(step, kinds)]


@settings(max_examples=50)
@given(requests())
@example((request(home="/var"), DEBIAN))
@example((request(home="/srv/homes/u"), HostFacts({"/srv": Entry("directory")})))
def test_nothing_is_covered_later(pair: tuple[Request, HostFacts]) -> None:
    points = mounts(compose(*pair).steps)
    for index, inner in points:
        for later, outer in points:
            assert not (later > index and inner != outer and within(inner, outer)), (inner, outer)


@settings(max_examples=50)
@given(requests())
def test_proc_is_masked_after_it_is_mounted_and_the_root_is_sealed_last(
    pair: tuple[Request, HostFacts],
) -> None:
    steps = compose(*pair).steps
    proc = steps.index(Proc())
    guards = [index for index, step in enumerate(steps) if isinstance(step, Mask | ReadOnly)]
    assert all(index > proc for index in guards)
    assert steps[-1] == ReadOnly("/")
    assert steps.count(ReadOnly("/")) == 1


@settings(max_examples=50)
@given(requests())
def test_no_share_reaches_what_is_private(pair: tuple[Request, HostFacts]) -> None:
    asked, _ = pair
    own = {*SYSTEM_DIRECTORIES, *ETC_ENTRIES, "/etc/ssl/certs", "/etc/pki/tls/certs", "/var/lib/ca"}
    own.add("/etc/java-17-openjdk")
    for step in compose(*pair).steps:
        if isinstance(step, Bind) and not (step.source in own and not step.writable):
            for path in asked.private:
                assert not within(path, step.source)
                assert not within(step.source, path)
            assert not within(posixpath.normpath(asked.home).replace("//", "/"), step.source)


@settings(max_examples=50)
@given(requests())
def test_home_is_empty_but_for_what_is_shared(pair: tuple[Request, HostFacts]) -> None:
    asked, _ = pair
    plan = compose(*pair)
    home = compose(dataclasses.replace(asked, environment={}), pair[1]).environment["HOME"]
    assert any(step == Tmpfs(home, asked.tmp_size, 0o700) for step in plan.steps)
    shared = {*asked.read_only, *asked.read_write, asked.workspace}
    for step in plan.steps:
        if isinstance(step, Bind | Symlink | Device | Cover) and within(step.path, home):
            assert step.path in shared


@settings(max_examples=50)
@given(requests())
def test_the_environment_is_an_allow_list(pair: tuple[Request, HostFacts]) -> None:
    """K14: nothing of the caller's environment is handed on."""
    asked, _ = pair
    proxies = {f"{kind}_proxy" for kind in ("http", "https", "all", "no")}
    certificates = set(trust.variables(asked.ca_pem, pair[1]))
    known = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "TMPDIR", "NODE_USE_ENV_PROXY"}
    known |= proxies | {name.upper() for name in proxies} | certificates
    environment = compose(*pair).environment
    assert set(environment) == known | set(asked.environment)
    assert all(environment[name] == value for name, value in asked.environment.items())


def test_a_variable_of_the_caller_is_nowhere_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """K14."""
    monkeypatch.setenv("CANARY_NAME", "canary-value")
    assert "canary" not in compose(request(), DEBIAN).to_json().lower()


# --- one request, one host ---------------------------------------------------------------------------------


def steps_of(**changes: object) -> tuple[Step, ...]:
    return compose(request(**changes), DEBIAN).steps


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/proc",
            "/proc/1",
            "/sys",
            "/sys/kernel",
            "/dev",
            "/dev/sda",
            "/run",
            "/etc",
            "/boot",
            "/root",
        ),
        *(
            "/var",
            "/home",
            "/tmp",
            "/var/tmp",
            "//srv/work",
            "//etc",
            "/srv/work/",
            "/srv/../etc",
            "srv/work",
            "",
        ),
    ],
)
@pytest.mark.parametrize("way", ["read_only", "read_write"])
def test_forbidden_shares_are_refused(path: str, way: str) -> None:
    facts = dataclasses.replace(DEBIAN, entries={**DEBIAN.entries, path: Entry("directory")})
    with pytest.raises(NsharnessError, match="cannot share"):
        compose(request(**{way: (path,)}), facts)


@pytest.mark.parametrize("path", ["/usr/local/x", "/usr", "/etc/x", "/boot/x", "/bin/x", "/nix/store"])
def test_system_paths_are_shared_read_only_or_not_at_all(path: str) -> None:
    facts = dataclasses.replace(DEBIAN, entries={**DEBIAN.entries, path: Entry("directory")})
    for changes in ({"read_write": (path,)}, {"workspace": path}):
        with pytest.raises(NsharnessError, match="system path"):
            compose(request(**changes), facts)
    assert Bind(path, path) in compose(request(read_only=(path,)), facts).steps


@pytest.mark.parametrize(
    ("path", "why"), [("/srv/link", "symbolic link"), ("/srv/socket", "socket"), ("/srv/absent", "absent")]
)
def test_only_real_files_and_directories_are_shared(path: str, why: str) -> None:
    """K13, K23."""
    with pytest.raises(NsharnessError, match=why):
        steps_of(read_only=(path,))


@pytest.mark.parametrize("share", ["/srv", "/srv/homes", "/srv/homes/u"])
def test_what_holds_the_home_directory_is_not_shared(share: str) -> None:
    facts = HostFacts({share: Entry("directory")})
    with pytest.raises(NsharnessError, match="home directory"):
        compose(request(home="/srv/homes/u", workspace=share), facts)


@pytest.mark.parametrize("share", ["/srv/keep", "/srv/keep/secrets", "/srv/keep/secrets/one"])
def test_the_secret_store_is_not_shared_from_above_or_below(share: str) -> None:
    """K30."""
    facts = HostFacts({share: Entry("directory")})
    with pytest.raises(NsharnessError, match="nsharness itself keeps"):
        compose(request(private=("/srv/keep/secrets",), read_only=(share,)), facts)


@pytest.mark.parametrize("share", ["/etc/ssl", "/etc/ssl/certs", "/etc/pki", "/etc/ssl/certs/java"])
def test_what_would_cover_the_certificates_is_not_shared(share: str) -> None:
    facts = dataclasses.replace(DEBIAN, entries={**DEBIAN.entries, share: Entry("directory")})
    with pytest.raises(NsharnessError, match="cover parts"):
        compose(request(read_only=(share,)), facts)


def test_an_inner_share_comes_after_its_outer_one() -> None:
    steps = steps_of(read_only=("/srv/work",), workspace="/srv/work/inner")
    outer, inner = Bind("/srv/work", "/srv/work"), Bind("/srv/work/inner", "/srv/work/inner", writable=True)
    assert steps.index(outer) < steps.index(inner)


def test_a_share_gets_the_directories_above_it() -> None:
    steps = steps_of(workspace="/srv/work")
    assert [step for step in steps if within(step.path, "/srv")] == [
        Directory("/srv"),
        Directory("/srv/work"),
        Bind("/srv/work", "/srv/work", writable=True),
    ]


def test_the_workspace_is_the_working_directory() -> None:
    assert compose(request(workspace="/srv/work"), DEBIAN).cwd == "/srv/work"
    assert compose(request(), DEBIAN).cwd == "/tmp"


@pytest.mark.parametrize(
    ("home", "inside"),
    [
        ("/home/u", "/home/u"),
        ("//home/u", "/home/u"),
        ("/var/lib/u", "/var/lib/u"),
        ("/tmp/u", "/tmp/u"),
        *(
            (home, "/home/agent")
            for home in ("/", "//", "/root", "/usr/games", "/var", "/tmp", "/run", "/dev", "/bin")
        ),
        *(
            (home, "/home/agent")
            for home in ("/nonexistent", "/proc/x", "", "u", "/home/a:b", "/home/a\nroot::0:0")
        ),
    ],
)
def test_home_is_the_persons_own_path_where_that_can_be(home: str, inside: str) -> None:
    plan = compose(request(home=home), DEBIAN)
    assert plan.environment["HOME"] == inside
    (passwd,) = (step for step in plan.steps if isinstance(step, File) and step.path == "/etc/passwd")
    assert passwd.content.splitlines()[0] == f"u:x:1000:1000::{inside}:/bin/bash"
    assert len(passwd.content.splitlines()) == 2


def test_system_links_stay_links() -> None:
    assert Symlink("/bin", "usr/bin") in steps_of()


def test_the_runs_authority_is_trusted_in_addition_to_the_hosts() -> None:
    steps = steps_of()
    assert File(CA_FILE, "PEM\n") in steps
    assert File(CA_BUNDLE, DEBIAN.ca_bundle + "PEM\n") in steps
    assert Symlink("/etc/ssl/certs/ca-certificates.crt", CA_BUNDLE) in steps


def test_without_an_authority_nothing_of_it_is_there() -> None:
    plan = compose(request(ca_pem=""), DEBIAN)
    assert not [step for step in plan.steps if isinstance(step, Cover)]
    assert "SSL_CERT_FILE" not in plan.environment


def test_a_host_name_fits_the_kernels_limit() -> None:
    assert compose(request(sandbox="x" * 100), DEBIAN).hostname == "x" * 63


def test_name_resolution_stays_inside() -> None:
    """K10: no resolver of the host's, no search domain."""
    (resolv,) = (step for step in steps_of() if isinstance(step, File) and step.path == "/etc/resolv.conf")
    assert resolv.content.splitlines()[0] == "nameserver 10.127.0.1"
    assert "search" not in resolv.content


def test_every_sandbox_is_a_machine_of_its_own() -> None:
    """machine-id(5): 32 lower-case hexadecimal digits, and a newline."""
    first, second = (
        next(
            step.content
            for step in steps_of(sandbox=name)
            if isinstance(step, File) and step.path == "/etc/machine-id"
        )
        for name in ("a-1", "a-2")
    )
    assert first != second
    assert re.fullmatch(r"[0-9a-f]{32}\n", first)
