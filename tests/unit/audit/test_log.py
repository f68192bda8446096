"""The audit log as a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsharness.audit.event import AuditEvent
from nsharness.audit.log import AuditLog, read


def event(host: str) -> AuditEvent:
    return AuditEvent(1, "2026-01-01T00:00:00.000Z", "s1", "deny", "dns", host=host)


def opened(path: Path) -> AuditLog:
    return AuditLog(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))


def test_events_are_lines_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = opened(path)
    # Whatever is in an event, it is one line (K27).
    hosts = ["a.b", "line\nbreak", "\x1b[2J", "\u2028", '"', "\ud800"]
    for host in hosts:
        log.write(event(host))
    log.close()
    log.close()
    assert len(path.read_bytes().splitlines()) == len(hosts)
    assert path.read_bytes().isascii()
    assert [e.host for e in read(path)] == hosts


def test_two_writers_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    one, two = opened(path), opened(path)
    for number in range(50):
        (one, two)[number % 2].write(event(str(number)))
    one.close()
    two.close()
    assert [e.host for e in read(path)] == [str(number) for number in range(50)]


def test_a_line_that_a_crash_cut_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = opened(path)
    log.write(event("a"))
    with path.open("a") as file:
        file.write('{"at": 1, "ti\n\n[]\n')
    log.write(event("b"))
    log.close()
    assert [e.host for e in read(path)] == ["a", "b"]


def test_a_record_that_cannot_be_kept_is_an_error() -> None:
    """K12"""
    log = AuditLog(os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(OSError, match="No space"):
        log.write(event("a"))
    log.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.write(event("a"))
