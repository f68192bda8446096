"""The persistent shell: state in between, an end that nothing can feign, timeouts that always end."""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
import time

import pytest

from nsharness.errors import NsharnessError
from nsharness.supervisor.bounded import OUTPUT_LIMIT
from nsharness.supervisor.cancel import Cancel
from nsharness.supervisor.session import Session
from nsharness.supervisor.shell import Shell, ShellResult
from tests.support.processes import descendants, process
from tests.support.sandboxes import Box, needs_sandbox, opened_box
from tests.support.tiers import others_slow
from tests.support.waiting import DEADLINE, eventually

pytestmark = needs_sandbox

SHORT = 0.2
GRACE = 5.0
"""Seconds within which a command whose time is over has been ended, on a busy machine."""


@pytest.fixture
def shell(fresh_box: Box) -> Shell:
    return fresh_box.shell


@pytest.fixture(scope="module")
def common(box: Box) -> Shell:
    """For commands that leave no trace."""
    return box.shell


def names_inside(box: Box) -> list[str]:
    """What runs in a sandbox besides its first process and its shell."""
    found = [process(pid) for pid in descendants(box.pid)]
    return sorted(each.name for each in found if each and not each.dead and each.name != "bash")


def times_out(shell: Shell, command: str, timeout: float = SHORT) -> ShellResult:
    begun = time.monotonic()
    result = shell.run(command, timeout)
    assert time.monotonic() - begun < timeout + GRACE
    assert (result.timed_out, result.exit_code) == (True, 124)
    return result


# --- results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "stdout", "stderr"),
    [
        ("echo out; echo err >&2", 0, "out\n", "err\n"),
        ("false", 1, "", ""),
        ("(exit 255)", 255, "", ""),
        ("bash -c 'kill -TERM $$'", 143, "", None),
        ("nonexistent-program", 127, "", None),
        ("/etc/passwd", 126, "", None),
        ("", 0, "", ""),
        ("   \n\n  # nothing\n", 0, "", ""),
        ("true\nfalse\ntrue", 0, "", ""),
        ("printf 'no newline'", 0, "no newline", ""),
        ("cat <<'E'\n$HOME `x` \"y\"\nE", 0, '$HOME `x` "y"\n', ""),
        ("cat <<E\n$((1 + 1))\nE", 0, "2\n", ""),
        ("for i in 1 2 3\ndo\n  echo $i\ndone", 0, "1\n2\n3\n", ""),
        ("echo \\\n  continued", 0, "continued\n", ""),
        ("echo 'größer → 漢字 🙂'", 0, "größer → 漢字 🙂\n", ""),
        ("printf '\\377\\376x\\0y'", 0, "\ufffd\ufffdx\0y", ""),
        ("echo a | tr a b | cat; echo ${PIPESTATUS[@]}", 0, "b\n0 0 0\n", ""),
        ("echo one & wait; echo two", 0, "one\ntwo\n", None),
        ("diff <(echo a) <(echo a) && echo same", 0, "same\n", ""),
        ("set -- a b; echo $# $2", 0, "2 b\n", ""),
        ('echo "$0"', 0, "bash\n", ""),
    ],
)
def test_a_result_is_what_the_command_said(
    common: Shell, command: str, code: int, stdout: str, stderr: str | None
) -> None:
    result = common.run(command)
    assert (result.exit_code, result.stdout, result.timed_out) == (code, stdout, False)
    if stderr is not None:
        assert result.stderr == stderr
    assert result.stdout_bytes >= len(result.stdout.replace("\ufffd", "?"))


@pytest.mark.parametrize(
    "command", ["if", "echo 'unclosed", "for", "echo $(", "}", ")", "cat <<E\nunended", "a=("]
)
def test_a_syntax_error_is_one_and_the_shell_goes_on(shell: Shell, command: str) -> None:
    shell.run("kept=yes")
    result = shell.run(command)
    assert result.exit_code != 0 or "unended" in result.stdout
    assert result.stderr
    assert shell.run("echo $kept").stdout == "yes\n"


def test_standard_input_is_empty(common: Shell) -> None:
    result = common.run("cat; read -r line; echo $?; head -c 1 | wc -c", timeout=DEADLINE)
    assert (result.stdout, result.timed_out) == ("1\n0\n", False)


@pytest.mark.parametrize("command", ["echo a\0b", "\0", "x\0"])
def test_a_nul_character_is_refused(common: Shell, command: str) -> None:
    with pytest.raises(NsharnessError, match="NUL"):
        common.run(command)
    assert common.run("echo goes on").stdout == "goes on\n"


def test_half_a_surrogate_pair_is_refused_and_a_raw_byte_is_not(common: Shell) -> None:
    with pytest.raises(NsharnessError, match="surrogates"):
        common.run("echo \ud800")
    assert common.run("printf %s '\udcff' | od -An -tx1").stdout == " ff\n"


@pytest.mark.slow
def test_a_command_of_a_megabyte_is_run(common: Shell) -> None:
    text = "x" * (1 << 20)
    assert common.run(f"value='{text}'; echo ${{#value}}; unset value", timeout=30).stdout == f"{1 << 20}\n"


# --- state --------------------------------------------------------------------------------------------------


def test_state_lasts_from_command_to_command(shell: Shell) -> None:
    shell.run(
        "cd /usr; export A=1; B=2; f() { echo function; }; alias x=y; shopt -s nullglob; umask 077; set -f"
    )
    result = shell.run("pwd; env | grep ^A=; echo $B; f; alias x; shopt nullglob; umask; echo $-")
    assert result.stdout.splitlines()[:4] == ["/usr", "A=1", "2", "function"]
    assert result.stdout.splitlines()[4:7] == ["alias x='y'", "nullglob       \ton", "0077"]
    assert "f" in result.stdout.splitlines()[7]
    assert result.cwd == "/usr"


def test_background_jobs_go_on(shell: Shell, fresh_box: Box) -> None:
    shell.run("mkfifo /tmp/go; { read -r < /tmp/go; echo done > /tmp/result; } & sleep 60 &")
    assert shell.run("jobs -r | wc -l").stdout == "2\n"
    shell.run("echo > /tmp/go; wait %1")
    assert shell.run("cat /tmp/result").stdout == "done\n"
    assert names_inside(fresh_box) == ["sleep"]


def test_a_job_of_an_earlier_command_can_be_waited_for(shell: Shell) -> None:
    shell.run("(exit 7) & job=$!")
    assert shell.run("wait $job").exit_code == 7


@pytest.mark.parametrize("name", ["printf", "read", "eval", "echo", "while", "exit"])
def test_a_function_with_a_builtins_name_does_not_break_the_shell(shell: Shell, name: str) -> None:
    shell.run(f"function {name} {{ :; }}")
    assert shell.run("builtin echo goes on", DEADLINE).stdout == "goes on\n"


@pytest.mark.parametrize(
    "setting", ["IFS=0123456789abcdef", "set -f", "set -o posix", "set +m", "set -C", "LC_ALL=C"]
)
def test_settings_of_a_command_do_not_break_the_shell(shell: Shell, setting: str) -> None:
    shell.run(setting)
    result = shell.run("echo goes on", DEADLINE)
    assert (result.stdout, result.exit_code, result.cwd) == ("goes on\n", 0, "/tmp")


def test_a_directory_with_an_odd_name_is_told_exactly(shell: Shell) -> None:
    quoted = r"$'/tmp/a b\n[proxy] \'c\'\t$d'"
    shell.run(f"mkdir -- {quoted} && cd -- {quoted}")
    assert shell.run("true").cwd == "/tmp/a b\n[proxy] 'c'\t$d"


def test_a_directory_with_a_name_that_is_no_text_is_told_as_text_and_found_again(shell: Shell) -> None:
    shell.run("mkdir $'/tmp/\\377' && cd $'/tmp/\\377' && touch here")
    assert shell.run("true").cwd == "/tmp/\ufffd"
    shell.run("exit")
    assert shell.run("ls").stdout == "here\n"


def test_a_directory_that_is_gone_stays_where_it_was(shell: Shell) -> None:
    shell.run("mkdir /tmp/gone && cd /tmp/gone && rmdir /tmp/gone")
    assert shell.run("echo goes on").stdout == "goes on\n"
    assert shell.run("cd /tmp && pwd").stdout == "/tmp\n"


def test_a_new_shell_begins_where_the_old_one_was_or_else_at_the_beginning(shell: Shell) -> None:
    shell.run("mkdir /tmp/here; cd /tmp/here")
    shell.run("exit")
    assert shell.run("pwd").stdout == "/tmp/here\n"
    shell.run("rmdir /tmp/here; exit")
    assert shell.run("pwd").stdout == "/tmp\n"


# --- the end of the shell -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exit 7", 7),
        ("exec bash -c 'exit 9'", 9),
        ("exec true", 0),
        ("kill -9 $$", 137),
        ("kill -SEGV $$", 139),
        ("f() { exit 3; }; f", 3),
        ("set -e; false", 1),
        ("set -u; echo $undefined_variable", 127),
    ],
)
def test_a_command_that_ends_the_shell_gives_its_status_and_the_next_finds_a_new_one(
    shell: Shell, command: str, code: int
) -> None:
    shell.run("kept=yes")
    result = shell.run(command, DEADLINE)
    assert (result.exit_code, result.timed_out) == (code, False)
    assert result.stderr.endswith("[the shell ended with this command; the next one starts a new shell]\n")
    result = shell.run("echo new $kept")
    assert (result.stdout, result.stderr) == ("new\n", "")


def test_what_was_said_before_the_end_is_not_lost(shell: Shell) -> None:
    result = shell.run("head -c 150000 /dev/zero | tr '\\0' x; echo last >&2; exit 4")
    assert (len(result.stdout), result.exit_code) == (150_000, 4)
    assert result.stderr.startswith("last\n")


def test_a_shell_that_a_background_job_has_killed_is_replaced_and_that_is_said(
    shell: Shell, fresh_box: Box
) -> None:
    shell.run("kept=yes; mkfifo /tmp/go; { read -r < /tmp/go; kill -9 $$; } &")
    fresh_box.out("echo > /tmp/go")
    eventually(lambda: not descendants(fresh_box.pid))
    result = shell.run("echo goes on $kept")
    assert result.stdout == "goes on\n"
    assert result.stderr == "[the shell had ended since the last command; this is a new one]\n"
    assert shell.run("echo $kept").stderr == ""


# --- timeouts -----------------------------------------------------------------------------------------------

ENDLESS = {
    "a program": "sleep 60",
    "a pipeline": "yes | cat | cat > /dev/null",
    "a pipeline in the background of itself": "sleep 60 | sleep 60 & wait",
    "a loop of builtins": "while :; do :; done",
    "nested loops": "while :; do until false; do for i in 1 2; do :; done; done; done",
    "nested functions": "f() { g; }; g() { h; }; h() { while :; do :; done; }; f",
    "a loop of programs": "while :; do sleep 0.01; done",
    "a loop that goes on after failures": "while :; do sleep 60 || true; done",
    "a subshell": "(while :; do :; done)",
    "a program that ignores signals": "bash -c 'trap \"\" TERM INT HUP QUIT USR1 USR2; while :; do :; done'",
    "a read from nowhere": "mkfifo /tmp/f$$; read -r < /tmp/f$$",
    "wait": "sleep 60 & wait",
    "many processes": "for i in {1..20}; do sleep 60 & done; wait",
    "an eval in an eval": "eval 'eval \"while :; do :; done\"'",
    "a source of itself": "echo 'while :; do :; done' > /tmp/s; . /tmp/s",
    "a command substitution": "echo $(sleep 60)",
    "a process substitution": "cat <(sleep 60)",
    "a full output": "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxx; done",
    "a stopped child": "bash -c 'kill -STOP $$'; while :; do sleep 60; done",
}


@pytest.mark.parametrize("kind", others_slow(ENDLESS, 2))
def test_a_command_whose_time_is_over_is_ended_and_the_shell_goes_on(
    shell: Shell, fresh_box: Box, kind: str
) -> None:
    shell.run("kept=yes; cd /usr")
    times_out(shell, ENDLESS[kind])
    result = shell.run("echo $kept; pwd")
    assert (result.stdout, result.timed_out) == ("yes\n/usr\n", False)
    eventually(lambda: names_inside(fresh_box) == [])


STUBBORN = {
    "ignores the signal": "trap '' USR1; while :; do :; done",
    "has its own trap": "trap 'echo again' USR1; while :; do :; done",
    "has no job control": "set +m; while :; do sleep 60; done",
    "stops itself": "kill -STOP $$",
    "became something else": "exec sleep 60",
    "reads its own commands": "while IFS= read -r -d '' -u 10 x; do :; done",
}


@pytest.mark.parametrize("kind", others_slow(STUBBORN))
def test_a_shell_that_does_not_come_back_is_replaced(shell: Shell, fresh_box: Box, kind: str) -> None:
    shell.run("cd /usr")
    times_out(shell, STUBBORN[kind])
    result = shell.run("echo goes on; pwd", DEADLINE)
    assert (result.stdout, result.timed_out) == ("goes on\n/usr\n", False)
    eventually(lambda: names_inside(fresh_box) == [])


def test_a_child_in_a_session_of_its_own_is_ended_too(shell: Shell, fresh_box: Box) -> None:
    times_out(shell, "setsid sleep 61 & setsid bash -c 'sleep 62 & sleep 63' & sleep 60")
    eventually(lambda: names_inside(fresh_box) == [])


def test_earlier_background_jobs_survive_a_timeout(shell: Shell, fresh_box: Box) -> None:
    shell.run("sleep 60 & setsid sleep 60 &")
    eventually(lambda: names_inside(fresh_box) == ["sleep", "sleep"])
    times_out(shell, "sleep 50 & setsid sleep 50 & while :; do :; done")
    eventually(lambda: names_inside(fresh_box) == ["sleep", "sleep"])
    eventually(lambda: shell.run("jobs -r | wc -l").stdout == "1\n")


def test_programs_that_were_started_beside_the_shell_survive_a_timeout(shell: Shell, fresh_box: Box) -> None:
    shell.run("true")
    read, write = os.pipe()
    started = fresh_box.init.spawn(["sleep", "60"], [read])
    fresh_box.init.spawn(["bash", "-c", "sleep 60 & exit"], [read]).ended.wait(DEADLINE)
    times_out(shell, "while :; do :; done")
    assert not started.ended.is_set()
    assert names_inside(fresh_box) == ["sleep", "sleep"]
    os.close(read)
    os.close(write)


def test_what_was_written_before_the_timeout_is_there(shell: Shell) -> None:
    assert times_out(shell, "echo before; echo error >&2; sleep 60").stdout == "before\n"


def test_a_shell_that_takes_no_commands_is_a_timeout_too(shell: Shell, fresh_box: Box) -> None:
    """A background job can stop the shell; a long command then fills the pipe to it."""
    shell.run("mkfifo /tmp/go; { read -r < /tmp/go; kill -STOP $$; } &")
    fresh_box.out("echo > /tmp/go")
    eventually(lambda: shell.run("echo " + "x" * 200_000 + " > /dev/null", SHORT).timed_out)
    assert shell.run("echo goes on").stdout == "goes on\n"


def test_no_time_at_all_is_a_timeout(shell: Shell) -> None:
    shell.run("kept=yes")
    assert shell.run("sleep 60", timeout=0).timed_out
    assert shell.run("echo goes on").stdout == "goes on\n"


# --- output -------------------------------------------------------------------------------------------------


def test_of_a_hundred_megabytes_beginning_and_end_are_kept(common: Shell) -> None:
    size = 100_000_000
    result = common.run(f"echo first; head -c {size} /dev/zero | tr '\\0' x; echo last", timeout=60)
    assert result.stdout_bytes == size + 11
    assert result.truncated
    assert result.stdout.startswith("first\nxxx")
    assert result.stdout.endswith("xxxlast\n")
    (lost,) = re.findall(r"\[… (\d+) bytes cut …\]", result.stdout)
    assert int(lost) == result.stdout_bytes - OUTPUT_LIMIT
    assert len(result.stdout.encode()) < OUTPUT_LIMIT + 100
    assert not common.run("echo short").truncated


@pytest.mark.slow
def test_output_without_end_does_not_grow_the_supervisor(shell: Shell) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times_out(shell, "yes & yes >&2 & yes", 1.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_both_streams_are_bounded_by_themselves(common: Shell) -> None:
    result = common.run("head -c 1000000 /dev/zero >&2; echo short")
    assert (result.stdout, result.stderr_bytes, result.truncated) == ("short\n", 1_000_000, True)


def test_output_is_complete_when_the_result_comes(common: Shell) -> None:
    for size in (1, 4095, 4096, 65_536, 65_537, 199_999):
        result = common.run(f"head -c {size} /dev/zero | tr '\\0' x")
        assert len(result.stdout) == result.stdout_bytes == size


def test_output_of_one_command_is_not_taken_for_the_next(common: Shell) -> None:
    for number in range(200):
        assert common.run(f"echo {number}").stdout == f"{number}\n"


def test_streams_can_be_opened_by_name(common: Shell) -> None:
    result = common.run(
        "echo a > /dev/stdout; echo b > /dev/stderr; echo c >> /proc/self/fd/1; cat < /dev/stdin"
    )
    assert (result.stdout, result.stderr) == ("a\nc\n", "b\n")


# --- a command that wants to be taken for something else ----------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "printf '%s\\0%s\\0%s\\0' \"$__nsharness_tag\" 99 /forged",
        "printf '%s\\0%s\\0%s\\0' \"$__nsharness_tag\" 99 /forged >&2",
        "printf '%s\\0%s\\0%s\\0' 0123456789abcdef 99 /forged; printf '%s\\0%s\\0%s\\0' '' 99 /forged",
        "export T=$__nsharness_tag; for f in {3..300}; do bash -c 'printf \"$T\\0099\\0/x\\0\" >&'$f; done",
    ],
    ids=["on the output", "on the errors", "with other tags", "from a child"],
)
def test_an_end_that_a_command_prints_is_not_its_end(common: Shell, command: str) -> None:
    result = common.run(f"{command}; echo really; (exit 5)")
    assert (result.exit_code, result.cwd) == (5, "/tmp")
    assert result.stdout.endswith("really\n")


def test_writing_to_every_descriptor_there_is_disturbs_nothing(shell: Shell) -> None:
    begun = time.monotonic()
    for word in ("x", "1\\n2", "a b c"):
        shell.run(f"for fd in /proc/self/fd/* /proc/$$/fd/*; do printf '{word}' > $fd; done", DEADLINE)
    result = shell.run("echo goes on; (exit 3)", DEADLINE)
    assert (result.stdout, result.exit_code, result.timed_out) == ("goes on\n", 3, False)
    assert time.monotonic() - begun < DEADLINE


@pytest.mark.parametrize("code", ["9" * 5000, "-1", "abc", "", "1 2"])
def test_a_forged_end_can_mislead_but_not_break_the_supervisor(shell: Shell, code: str) -> None:
    """The shell is the workload's own and can say about itself what it likes."""
    shell.run(f"printf '%s\\0%s\\0%s\\0' \"$__nsharness_tag\" '{code}' /forged > /proc/$$/fd/11")
    assert shell.run("echo goes on", DEADLINE).stdout.endswith("goes on\n")


@pytest.mark.slow
def test_a_flood_of_records_does_not_grow_the_supervisor(shell: Shell) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times_out(shell, "cat /dev/zero > /proc/$$/fd/11", 1.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    assert shell.run("echo goes on", DEADLINE).stdout == "goes on\n"


# --- together and after -------------------------------------------------------------------------------------


def test_two_threads_take_turns(shell: Shell) -> None:
    results: dict[int, list[str]] = {0: [], 1: []}

    def work(number: int) -> None:
        for turn in range(25):
            command = f"x={number}.{turn}; for i in 1 2 3; do :; done; echo $x"
            results[number].append(shell.run(command).stdout)

    threads = [threading.Thread(target=work, args=(number,)) for number in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    for number, lines in results.items():
        assert lines == [f"{number}.{turn}\n" for turn in range(25)]


def test_a_command_is_given_up_and_the_shell_goes_on(shell: Shell, fresh_box: Box) -> None:
    shell.run("cd /usr; kept=here")
    cancel = Cancel()
    results: list[ShellResult] = []
    thread = threading.Thread(
        target=lambda: results.append(shell.run("echo begun; sleep 1000", 600, cancel)), daemon=True
    )
    thread.start()
    eventually(lambda: "sleep" in names_inside(fresh_box))
    cancel.give()
    thread.join(GRACE)
    (result,) = results
    assert (result.exit_code, result.timed_out, result.stdout) == (130, False, "begun\n")
    assert "sleep" not in names_inside(fresh_box)
    assert shell.run("touch /tmp/begun", cancel=cancel).exit_code == 130
    assert shell.run("echo $kept $PWD; ls /tmp/begun").stdout == "here /usr\n"


def test_two_sandboxes_have_two_shells(session: Session, shell: Shell) -> None:
    with opened_box(session) as other:
        shell.run("x=one; cd /usr; echo one > /tmp/file")
        result = other.shell.run("echo $x; pwd; ls /tmp")
    assert result.stdout == "\n/tmp\n"


def test_when_the_sandbox_has_ended_that_is_said(fresh_box: Box) -> None:
    fresh_box.shell.run("true")
    os.kill(fresh_box.pid, signal.SIGKILL)
    eventually(lambda: not fresh_box.alive)
    for _ in range(2):
        with pytest.raises(NsharnessError, match="the sandbox has ended"):
            fresh_box.shell.run("true")


def test_a_command_that_runs_when_the_sandbox_ends_does_not_hang(fresh_box: Box) -> None:
    fresh_box.shell.run("true")
    timer = threading.Timer(SHORT, os.kill, (fresh_box.pid, signal.SIGKILL))
    timer.start()
    begun = time.monotonic()
    result = fresh_box.shell.run("sleep 60")
    assert result.exit_code == 137
    assert time.monotonic() - begun < DEADLINE
    timer.join()
