"""The resolver as the supervisor runs it: a real process, with descriptors and nothing else."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nsharness.credentials.build import CredentialMap
from nsharness.credentials.store import SecretStore
from nsharness.linux.fds import is_sealed, memfd, read_all

VALUE = "wiki_hunter22222222"
NOBODY = 65534
BINDING = {
    "rule": "wiki",
    "hosts": ["wiki.local", "*.docs.example"],
    "header": "Authorization",
    "template": "Bearer {{ wiki.token }}",
}


@dataclass(frozen=True)
class Outcome:
    """What one run of the resolver left: its reply, the map's descriptor, and all that it printed."""

    status: int
    reply: dict[str, Any]
    descriptor: int
    printed: str

    @property
    def credentials(self) -> CredentialMap:
        return CredentialMap.from_bytes(read_all(self.descriptor))


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    store = SecretStore(tmp_path / "secrets")
    store.set("wiki", "token", VALUE.encode())
    return store


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    opened: list[int] = []
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def _run(descriptors: list[int], request: bytes, *, cwd: Path | None = None) -> Outcome:
    descriptor = memfd("credentials")
    descriptors.append(descriptor)
    request_read, request_write = os.pipe()
    reply_read, reply_write = os.pipe()
    command = [sys.executable, "-I", "-m", "nsharness.credentials.resolver"]
    for name, number in (("request", request_read), ("reply", reply_write), ("map", descriptor)):
        command += [f"--{name}-fd", str(number)]
    with subprocess.Popen(
        command,
        pass_fds=(request_read, reply_write, descriptor),
        env={},
        cwd=cwd or "/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        os.close(request_read)
        os.close(reply_write)
        try:
            with os.fdopen(request_write, "wb") as file:
                file.write(request)
        except BrokenPipeError:
            pass  # it need not read a request that is too long to its end
        with os.fdopen(reply_read, "rb") as file:
            reply = file.read()
        printed, _ = process.communicate(timeout=30)
    assert VALUE.encode() not in reply
    assert VALUE not in printed
    assert "Traceback" not in printed
    return Outcome(process.returncode, json.loads(reply), descriptor, printed)


def _resolve(descriptors: list[int], store: SecretStore, **request: Any) -> Outcome:
    return _run(
        descriptors, json.dumps({"store": str(store.root), "bindings": [BINDING], **request}).encode()
    )


def test_the_map_is_in_the_sealed_memory_and_the_reply_has_no_value(
    store: SecretStore, descriptors: list[int]
) -> None:
    outcome = _resolve(descriptors, store, digests=[["wiki", "token"]])
    assert outcome.status == 0
    assert outcome.reply == {
        "hosts": ["wiki.local", "*.docs.example"],
        "headers": {"wiki.local": ["Authorization"], "*.docs.example": ["Authorization"]},
        "digests": {"wiki.token": hashlib.sha256(VALUE.encode()).hexdigest()},
        "kinds": {"wiki.token": ""},
        "prefixes": {"wiki.token": "wiki_"},
    }
    assert outcome.printed == ""
    value = outcome.credentials._value("wiki.local", "Authorization")
    assert value is not None
    assert value.reveal() == f"Bearer {VALUE}"
    assert is_sealed(outcome.descriptor)
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(outcome.descriptor, b"x", 0)
    assert fcntl.fcntl(outcome.descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL


def test_a_secret_that_is_to_exist_is_made_once(tmp_path: Path, descriptors: list[int]) -> None:
    store = SecretStore(tmp_path / "secrets")
    ensure = [{"name": "wiki", "key": "token", "prefix": "wiki_"}]
    first = _resolve(descriptors, store, ensure=ensure, digests=[["wiki", "token"]])
    made = store.get("wiki", "token").reveal()
    assert re.fullmatch(r"wiki_[A-Za-z0-9]{32}", made)
    assert first.reply["digests"]["wiki.token"] == hashlib.sha256(made.encode()).hexdigest()
    again = _resolve(descriptors, store, ensure=ensure, digests=[["wiki", "token"]])
    assert again.reply == first.reply
    assert again.credentials == first.credentials
    assert made not in json.dumps(first.reply)


def test_a_missing_secret_is_an_error_with_the_remedy_and_no_map(
    store: SecretStore, descriptors: list[int]
) -> None:
    binding = {**BINDING, "template": "{{ github.pat }}"}
    outcome = _resolve(descriptors, store, bindings=[BINDING, binding | {"header": "X-Key"}])
    assert outcome.status == 1
    error = outcome.reply["error"]
    assert set(outcome.reply) == {"error"}
    assert "rule wiki" in error["what"]
    assert "github.pat" in error["what"]
    assert error["hint"] == "nsharness secret set github --key pat"
    assert read_all(outcome.descriptor) == b""


def test_a_store_that_others_can_read_is_an_error(store: SecretStore, descriptors: list[int]) -> None:
    (store.root / "wiki.token").chmod(0o644)
    outcome = _resolve(descriptors, store)
    assert outcome.status == 1
    assert "others may read it" in outcome.reply["error"]["why"]
    assert read_all(outcome.descriptor) == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b'{"store": 1}',
        b'{"store": "/nowhere", "more": 1}',
        b'{"store": "/nowhere", "uid": 1}',
        b'{"store": "/nowhere", "uid": "x", "gid": "x"}',
        b'{"store": "/nowhere", "bindings": [{}]}',
        b'{"store": "/nowhere", "digests": [["a"]]}',
        b'{"store": "/nowhere", "digests": [["../a", "b"]]}',
        b" " * ((1 << 20) + 1),
    ],
    ids=lambda content: str(content[:50]),
)
def test_a_request_that_is_none_is_one_error(request_bytes: bytes, descriptors: list[int]) -> None:
    outcome = _run(descriptors, request_bytes)
    assert outcome.status == 1
    assert "malformed" in outcome.reply["error"]["why"]
    assert read_all(outcome.descriptor) == b""


def test_a_package_of_that_name_in_the_working_folder_is_not_run(
    store: SecretStore, tmp_path: Path, descriptors: list[int]
) -> None:
    """K20."""
    impostor = tmp_path / "nsharness"
    impostor.mkdir()
    (impostor / "__init__.py").write_text("raise SystemExit('impostor')")
    request = json.dumps({"store": str(store.root), "bindings": [BINDING]}).encode()
    outcome = _run(descriptors, request, cwd=tmp_path)
    assert outcome.status == 0
    assert outcome.printed == ""


def test_nothing_to_resolve_is_an_empty_map(tmp_path: Path, descriptors: list[int]) -> None:
    outcome = _resolve(descriptors, SecretStore(tmp_path / "absent"), bindings=[])
    assert outcome.reply == {"hosts": [], "headers": {}, "digests": {}, "kinds": {}, "prefixes": {}}
    assert len(outcome.credentials) == 0
    assert is_sealed(outcome.descriptor)
    assert not (tmp_path / "absent").exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user can reach: pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.root
def test_root_opens_the_store_as_the_user_that_it_is_for(open_folder: Path, descriptors: list[int]) -> None:
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    ensure = [{"name": "wiki", "key": "token", "prefix": "wiki_"}]
    store = SecretStore(home / "secrets", owner=NOBODY)
    outcome = _resolve(descriptors, store, uid=NOBODY, gid=NOBODY, ensure=ensure)
    assert outcome.status == 0, outcome.reply
    status = (store.root / "wiki.token").stat()
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    # Root's own files are out of its reach: what root could read is not what the user could.
    closed = open_folder / "roots"
    SecretStore(closed).set("wiki", "token", VALUE.encode())
    denied = _resolve(descriptors, SecretStore(closed), uid=NOBODY, gid=NOBODY)
    assert denied.status == 1
    assert "Permission denied" in denied.reply["error"]["why"]


def test_the_current_user_may_be_named(store: SecretStore, descriptors: list[int]) -> None:
    assert _resolve(descriptors, store, uid=os.getuid(), gid=os.getgid()).status == 0


def test_it_is_undumpable_before_it_reads_a_value() -> None:
    """K14: no core dump, no ptrace, also after the change of user."""
    probe = (
        "import json, os, resource, prctl\n"
        "from nsharness.credentials import resolver\n"
        "state = lambda *_: {'state': [prctl.get_dumpable(), *resource.getrlimit(resource.RLIMIT_CORE)]}\n"
        "resolver.resolve = state\n"
        "read, write = os.pipe()\n"
        'os.write(write, b\'{"store": "/nowhere"}\')\n'
        "os.close(write)\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))\n"
        "raise SystemExit(resolver.main(['--request-fd', str(read), '--reply-fd', '1', '--map-fd', '2']))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout) == {"state": [0, 0, 0]}, done.stderr


def test_it_needs_the_standard_library_only() -> None:
    """Start-up: a process that only reads files must not load pydantic or mitmproxy."""
    code = (
        "import sys; import nsharness.credentials.resolver; "
        "print(sorted(name for name in ('pydantic', 'mitmproxy', 'publicsuffix2', 'pyroute2', 'asyncio')"
        " if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n", done.stderr
