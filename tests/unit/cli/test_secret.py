"""``nsharness secret``: a value goes in by standard input and never comes out."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

import pytest

from nsharness.cli.secret import secret
from nsharness.credentials.store import SecretStore
from nsharness.errors import NsharnessError

VALUE = b"wiki_0123456789abcdef"


class Input:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SecretStore:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in ("SUDO_UID", "SUDO_GID"):
        monkeypatch.delenv(name, raising=False)
    return SecretStore.default(Path("/nonexistent"), os.environ)


def call(monkeypatch: pytest.MonkeyPatch, data: bytes = b"", **options: object) -> int:
    monkeypatch.setattr(sys, "stdin", Input(data))
    return secret(argparse.Namespace(**options))


def test_what_is_set_is_stored(monkeypatch: pytest.MonkeyPatch, store: SecretStore) -> None:
    assert call(monkeypatch, VALUE + b"\n", action="set", name="wiki", key="token") == 0
    assert store.get("wiki", "token").reveal().encode() == VALUE


def test_listing_shows_names_and_no_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("token", "other"):
        call(monkeypatch, VALUE, action="set", name="wiki", key=key)
    call(monkeypatch, action="list")
    assert capsys.readouterr().out == "wiki: other, token\n"


def test_what_is_removed_is_gone(monkeypatch: pytest.MonkeyPatch, store: SecretStore) -> None:
    call(monkeypatch, VALUE, action="set", name="wiki", key="token")
    call(monkeypatch, action="rm", name="wiki", key=None)
    assert list(store.names()) == []


@pytest.mark.parametrize("data", [b"", b"short", b"two\nlines of it", b"x" * (1 << 20)])
def test_what_cannot_be_a_secret_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    with pytest.raises(NsharnessError) as raised:
        call(monkeypatch, data, action="set", name="wiki", key="token")
    assert not data or data.decode() not in str(raised.value)


def test_without_standard_input_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(NsharnessError, match="standard input is closed"):
        secret(argparse.Namespace(action="set", name="wiki", key="token"))


def test_at_a_terminal_it_is_typed_without_echo(monkeypatch: pytest.MonkeyPatch, store: SecretStore) -> None:
    class Terminal(Input):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(b"must not be read"))
    monkeypatch.setattr("getpass.getpass", lambda _: VALUE.decode())
    secret(argparse.Namespace(action="set", name="wiki", key="token"))
    assert store.get("wiki", "token").reveal().encode() == VALUE
