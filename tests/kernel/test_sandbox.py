"""Programs and files of a sandbox, seen from the library."""

from __future__ import annotations

import os
import threading
import time

import pytest

from nsharness.errors import NsharnessError
from nsharness.supervisor.session import Session
from tests.support.descriptors import open_now
from tests.support.sandboxes import Box, needs_sandbox, opened_box
from tests.support.tiers import others_slow
from tests.support.waiting import DEADLINE, eventually

pytestmark = needs_sandbox


# --- programs -----------------------------------------------------------------------------------------------


def test_a_program_says_how_it_ended_and_what_it_wrote(box: Box) -> None:
    done = box.bash("cat; echo error >&2; exit 3")
    assert (done.exit_code, done.stdout, done.stderr, done.timed_out) == (3, b"", b"error\n", False)


def test_a_program_that_a_signal_ended_has_the_shells_exit_code(box: Box) -> None:
    assert box.bash("kill -TERM $$").exit_code == 128 + 15


@pytest.mark.parametrize(
    ("argv", "code", "why"),
    [
        (["nonexistent-program"], 127, "No such file or directory"),
        (["/nonexistent/program"], 127, "No such file or directory"),
        (["/etc/passwd"], 126, "Permission denied"),
        (["/usr"], 126, "Permission denied"),
        ([], 127, "no program is named"),
        (["true", "x" * 100_000], 126, "too large"),
        (["true", "a\0b"], 125, "Invalid argument"),
        (["a\0b"], 125, "Invalid argument"),
        (["x" * 50_000], 125, "File name too long"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_program_that_cannot_be_started_is_one_clear_error(
    box: Box, argv: list[str], code: int, why: str
) -> None:
    with pytest.raises(NsharnessError, match=why) as raised:
        box.run(argv)
    assert raised.value.exit_code == code
    assert len(str(raised.value)) < 100_000
    assert box.out("echo goes on") == "goes on"


def test_input_and_output_of_any_bytes_pass_unchanged(box: Box) -> None:
    data = os.urandom(2 << 20)
    done = box.run(["cat"], stdin=data, limit=1 << 30)
    assert done.stdout == data


def test_output_beyond_the_limit_is_dropped_and_the_program_ends_as_it_would(box: Box) -> None:
    done = box.bash("head -c 3000000 /dev/zero; exit 4")
    assert (len(done.stdout), done.exit_code) == (1_000_000, 4)


@pytest.mark.parametrize(
    "script", others_slow(["sleep 60", "yes", "yes >&2", "while :; do :; done", "yes & sleep 60"])
)
def test_a_program_whose_time_is_over_is_killed(fresh_box: Box, script: str) -> None:
    begun = time.monotonic()
    done = fresh_box.bash(script, timeout=0.2)
    assert (done.exit_code, done.timed_out) == (124, True)
    assert time.monotonic() - begun < DEADLINE


def test_a_background_process_is_not_waited_for(fresh_box: Box) -> None:
    begun = time.monotonic()
    done = fresh_box.bash("echo out; sleep 60 & yes > /dev/stdout &")
    assert done.exit_code == 0
    assert done.stdout.startswith(b"out\n")
    assert time.monotonic() - begun < DEADLINE


def test_many_programs_at_once_do_not_mix(box: Box) -> None:
    results: dict[int, bytes] = {}

    def work(number: int) -> None:
        results[number] = box.run(["cat"], stdin=b"%d" % number * 1000).stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == {number: b"%d" % number * 1000 for number in range(12)}


def test_programs_leave_no_descriptor_behind(box: Box) -> None:
    box.run(["true"])
    before = open_now()
    for argv in (["true"], ["nonexistent-program"], ["sleep", "60"]):
        try:
            box.run(argv, stdin=b"x", timeout=0.05)
        except NsharnessError:
            continue
    eventually(lambda: open_now().keys() == before.keys())


def test_a_program_begins_in_the_working_directory(box: Box) -> None:
    assert box.out("pwd") == "/tmp"


def test_signals_that_cannot_be_sent_are_no_harm(box: Box) -> None:
    read, write = os.pipe()
    process = box.init.spawn(["cat"], [read])
    for number in (0, -1, 65, 999, 2**31 - 1):
        box.init.signal(process, number)
        box.init.signal(process, number, group=True)
    assert box.alive
    os.close(write)
    os.close(read)
    assert process.ended.wait(DEADLINE)


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/tmp/plain",
        "/tmp/with space",
        "/tmp/größer",
        "/tmp/-n",
        "/tmp/a'b\"c$d",
        "/tmp/new\nline",
        "relative",
    ],
)
def test_what_is_written_is_read(fresh_box: Box, path: str) -> None:
    data = bytes(range(256)) * 100
    fresh_box.write_file(path, data)
    assert fresh_box.read_file(path) == data
    fresh_box.write_file(path, b"")
    assert fresh_box.read_file(path) == b""


def test_reading_is_bounded(box: Box) -> None:
    assert box.read_file("/dev/zero", limit=10_000) == bytes(10_000)


@pytest.mark.parametrize("path", ["/nonexistent", "/tmp", "/proc/1/environ", "/etc/shadow"])
def test_what_cannot_be_read_is_one_clear_error(box: Box, path: str) -> None:
    with pytest.raises(NsharnessError, match=f"cannot read '{path}'"):
        box.read_file(path)


@pytest.mark.parametrize(
    "path", ["/usr/new", "/etc/passwd", "/tmp/absent/file", "/tmp", "/proc/sys/kernel/core_pattern"]
)
def test_what_cannot_be_written_is_one_clear_error(box: Box, path: str) -> None:
    with pytest.raises(NsharnessError, match=f"cannot write '{path}'"):
        box.write_file(path, b"x")


def test_a_file_of_the_workload_is_a_file_of_the_sandbox(fresh_box: Box) -> None:
    """K23: a link that it plants leads to its own files, never to ours."""
    fresh_box.out("ln -s /etc/hostname /tmp/link")
    assert fresh_box.read_file("/tmp/link") == fresh_box.id.encode() + b"\n"


def test_sandboxes_of_one_session_do_not_share_files(session: Session, box: Box) -> None:
    with opened_box(session) as other:
        other.write_file("/tmp/mine", b"x")
        assert box.bash("cat /tmp/mine").exit_code == 1
