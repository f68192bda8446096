"""The persistent shell: one bash in the sandbox, one command at a time, with its state kept in between.

Commands reach bash on a descriptor of its own and are evaluated in the main shell, so that ``cd``,
``export`` and functions last. Each ends with a record on another descriptor that the command itself does
not have, so that nothing a command prints can be taken for its end. With job control on, every pipeline
and every background job is a process group of its own: a timeout kills those that the command started and
leaves earlier background jobs alone, and a signal makes bash return from the function that evaluates the
command, however deep in loops it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from nsharness.errors import NsharnessError
from nsharness.frozen import frozen, replace
from nsharness.linux import fds
from nsharness.supervisor.bounded import OUTPUT_LIMIT, BoundedOutput
from nsharness.supervisor.cancel import Cancel
from nsharness.supervisor.hub import Action, Hub
from nsharness.supervisor.init import InitClient

# 250 and 251 are out of the way of what people redirect by hand. The command runs with both closed. The
# trap returns from the innermost function; one signal for each level unwinds them all.
_DRIVER: Final = """\
exec 250<&3 251>&4 3<&- 4>&-
__nsharness_run() { { builtin eval "$1"; } 250<&- 251>&-; }
trap '[ "${#FUNCNAME[@]}" -gt 0 ] && return 124' USR1
set -m
while IFS= builtin read -r -d '' -u 250 __nsharness_tag &&
    IFS= builtin read -r -d '' -u 250 __nsharness_command; do
  __nsharness_run "$__nsharness_command"
  builtin printf '%s\\0%s\\0%s\\0' "$__nsharness_tag" "$?" "$PWD" >&251
done
"""

TIMEOUT_CODE: Final = 124
CANCELLED_CODE: Final = 130
"""As after Ctrl-C."""
_PIPE_BYTES: Final = 1 << 20  # A pipe holds at most this many (pipe-max-size in pipe(7)).
_RECORD_BYTES: Final = 1 << 16  # Of what arrived as records the last so many are looked at.
_ABORT_STEP: Final = 0.05  # Seconds between two signals while a command is being ended.
_ABORT_LIMIT: Final = 2.0  # Seconds until the shell itself is given up.


@frozen
class ShellResult:
    """How one command ended; ``cwd`` is where the shell is afterwards.

    ``exit_code`` is 124 after a timeout. ``stdout``, ``stderr`` and ``cwd`` are text with undecodable bytes
    replaced; ``*_bytes`` count what was written, of which ``truncated`` says that not all is here.
    """

    exit_code: int
    stdout: str
    stderr: str
    cwd: str
    timed_out: bool = False
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: bool = False


class _Bash:
    """One bash process and its five pipes; replaced by a new one when it ends."""

    def __init__(
        self, hub: Hub, init: InitClient, cwd: str | None, owner: tuple[int, int] | None, limit: int
    ) -> None:
        self._hub = hub
        self.changed = threading.Condition()
        self.ended = False
        self.exit_status = 0
        self.records = bytearray()
        self._limit = limit
        self.streams = self._empty()
        theirs: list[int] = []
        ours: list[int] = []
        try:
            command_read, self._commands = _pipe(owner, theirs, ours, reading=True)
            stdout_write, self._stdout = _pipe(owner, theirs, ours)
            stderr_write, self._stderr = _pipe(owner, theirs, ours)
            status_write, self._status = _pipe(owner, theirs, ours)
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            theirs.append(null)
            os.set_blocking(self._commands, False)
            for descriptor, reader in (
                (self._stdout, self._output_reader(self._stdout, "stdout")),
                (self._stderr, self._output_reader(self._stderr, "stderr")),
                (self._status, self._read_status),
            ):
                os.set_blocking(descriptor, False)
                hub.add(descriptor, reader)
            self.process = init.spawn(
                ["bash", "--noprofile", "--norc", "-c", _DRIVER, "bash"],
                [null, stdout_write, stderr_write, command_read, status_write],
                cwd=cwd,
                on_exit=self._exited,
            )
        except BaseException:
            for descriptor in ours:
                hub.remove(descriptor)
            fds.close_all(ours)
            raise
        finally:
            fds.close_all(theirs)
        self._open = ours

    def _exited(self, status: int) -> None:
        with self.changed:
            self.ended = True
            self.exit_status = status if status >= 0 else 128 - status
            self.changed.notify_all()

    def look_again(self) -> None:
        """Wakes up whoever waits for a command."""
        with self.changed:
            self.changed.notify_all()

    def _output_reader(self, descriptor: int, name: str) -> Callable[[], list[Action]]:
        def read() -> list[Action]:
            self._drain(descriptor, name)
            return []

        return read

    def _drain(self, descriptor: int, name: str) -> None:
        """Everything that is in the pipe now, not what is added meanwhile: a writer may be faster than we.

        At end-of-file the pipe is watched no more.
        """
        left = _PIPE_BYTES
        while left > 0:
            try:
                data = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._hub.remove(descriptor)
                return
            left -= len(data)
            with self.changed:
                self.streams[name].add(data)

    def _read_status(self) -> list[Action]:
        try:
            data = os.read(self._status, 1 << 16)
        except BlockingIOError:
            return []
        if not data:
            self._hub.remove(self._status)
            return []
        # A command's output was written before its record: take all of it first.
        self._drain(self._stdout, "stdout")
        self._drain(self._stderr, "stderr")
        with self.changed:
            self.records += data
            del self.records[:-_RECORD_BYTES]
            self.changed.notify_all()
        return []

    def write(self, tag: str, command: bytes, deadline: float) -> bool:
        """Hand over a command; False when the shell does not take it in time, or has ended."""
        left = memoryview(tag.encode() + b"\0" + command + b"\0")
        while left and not self.ended and (seconds := deadline - time.monotonic()) > 0:
            try:
                left = left[os.write(self._commands, left) :]
            except BlockingIOError:
                # In steps: a background job may keep the pipe open when the shell has ended.
                fds.await_writable(self._commands, min(seconds, _ABORT_STEP))
            except BrokenPipeError:
                self.process.ended.wait(_ABORT_LIMIT)
                return False
        return not left

    def take(self) -> tuple[str, str]:
        """The streams' text so far; what follows belongs to the next command."""
        texts = self.streams["stdout"].text(), self.streams["stderr"].text()
        self.streams = self._empty()
        return texts

    def _empty(self) -> dict[str, BoundedOutput]:
        return {name: BoundedOutput(self._limit) for name in ("stdout", "stderr")}

    def close(self) -> None:
        for descriptor in self._open:
            with contextlib.suppress(RuntimeError):
                self._hub.remove(descriptor)
        fds.close_all(self._open)
        self._open = []


def _pipe(
    owner: tuple[int, int] | None, theirs: list[int], ours: list[int], *, reading: bool = False
) -> tuple[int, int]:
    """A pipe as (their end, our end), noted in both lists; ``reading`` when they read from it."""
    read, write = os.pipe2(os.O_CLOEXEC)
    their_end, our_end = (read, write) if reading else (write, read)
    theirs.append(their_end)
    ours.append(our_end)
    if owner is not None:
        # Programs reopen /dev/stdout by name, which checks the owner of the pipe.
        os.fchown(read, *owner)
    return their_end, our_end


class Shell:
    """``run(command)`` in the sandbox. One command at a time; callers of other threads wait their turn.

    Of each output stream of a command ``limit`` bytes are kept.
    """

    def __init__(
        self,
        hub: Hub,
        init: InitClient,
        owner: tuple[int, int] | None = None,
        limit: int = OUTPUT_LIMIT,
    ) -> None:
        self._limit = limit
        self._hub = hub
        self._init = init
        self._owner = owner
        self._turn = threading.Lock()
        self._bash: _Bash | None = None
        self._cwd: str | None = None

    def run(self, command: str, timeout: float = 60.0, cancel: Cancel | None = None) -> ShellResult:
        """Run one command (any bash text, also several lines) and wait at most ``timeout`` seconds.

        When the time is over, or ``cancel`` is given, its processes are killed; the shell, its variables and
        earlier background jobs stay. A cancelled command has the exit code 130, also one that had not begun.
        A command that ends the shell itself (``exit``, ``exec``) gives its status; the next command then
        finds a new shell in the same directory. ``NsharnessError`` when the sandbox has ended or the command
        holds a NUL character, or half of a surrogate pair.
        """
        if "\0" in command:
            raise NsharnessError("cannot run the command", why="it contains a NUL character")
        try:
            data = command.encode(errors="surrogateescape")
        except UnicodeEncodeError as error:
            raise NsharnessError("cannot run the command", why=error.reason) from None
        with self._turn:
            cancel = cancel or Cancel()
            if cancel.given:
                return ShellResult(CANCELLED_CODE, "", "", self._cwd or "")
            bash, note = self._current()
            tag = os.urandom(8).hex()
            with bash.changed:
                bash.records.clear()
            deadline = time.monotonic() + timeout
            if bash.write(tag, data, deadline):
                with cancel.waking(bash.look_again):
                    result = self._wait(bash, tag, deadline, cancel)
            else:
                result = self._give_up(bash, timed_out=not bash.ended)
            result = replace(result, stderr=note + result.stderr)
            # Also when the command seems to have ended in order: it may be a process in the middle of it that
            # was killed, and the rest follows.
            if (why := self._init.why_ended()) is not None:
                result = replace(result, exit_code=why.exit_code, stderr=f"{result.stderr}[{why}]\n")
            return result

    def _current(self) -> tuple[_Bash, str]:
        """The shell that the next command goes to, and what its user must know about it."""
        bash = self._bash or self._start()
        self._init.note_running(bash.process)
        if not bash.ended:
            return bash, ""
        # Nobody told it to: a background job, for instance.
        bash.close()
        bash = self._start()
        self._init.note_running(bash.process)
        return bash, "[the shell had ended since the last command; this is a new one]\n"

    def _start(self) -> _Bash:
        try:
            self._bash = None
            self._bash = _Bash(self._hub, self._init, self._cwd, self._owner, self._limit)
        except NsharnessError:
            if self._cwd is None:
                raise
            # The directory may be gone: begin where the sandbox begins.
            self._cwd = None
            self._bash = _Bash(self._hub, self._init, None, self._owner, self._limit)
        return self._bash

    def _wait(self, bash: _Bash, tag: str, deadline: float, cancel: Cancel) -> ShellResult:
        code: int | None = None
        with bash.changed:
            while (record := _record(bash.records, tag)) is None and not bash.ended:
                left = deadline - time.monotonic()
                if cancel.given or left <= 0:
                    code = CANCELLED_CODE if cancel.given else TIMEOUT_CODE
                    break
                bash.changed.wait(left)
        if code is not None:
            record = self._abort(bash, tag)
        timed_out = code == TIMEOUT_CODE
        if record is None:
            result = self._give_up(bash, timed_out=timed_out)
        else:
            status, self._cwd = record
            result = _result(bash, status, self._cwd, timed_out=timed_out)
        return result if code is None else replace(result, exit_code=code)

    def _abort(self, bash: _Bash, tag: str) -> tuple[int, str] | None:
        """End a command that took too long; None when the shell itself has to go with it."""
        deadline = time.monotonic() + _ABORT_LIMIT
        while time.monotonic() < deadline:
            # First the trap, so that bash stops after the process it waits for, then that process.
            self._init.signal(bash.process, signal.SIGUSR1)
            self._init.kill_newer(bash.process)
            with bash.changed:
                if (record := _record(bash.records, tag)) is None and not bash.ended:
                    bash.changed.wait(_ABORT_STEP)
                    record = _record(bash.records, tag)
            if record is not None or bash.ended:
                # What was started between a look at the processes and the signal.
                self._init.kill_newer(bash.process)
                return record
        return None

    def _give_up(self, bash: _Bash, *, timed_out: bool) -> ShellResult:
        """The command ended the shell, or has to: report, and let the next command start a new one."""
        if not bash.ended:
            self._init.signal(bash.process, signal.SIGKILL, group=True)
            bash.process.ended.wait(_ABORT_LIMIT)
        self._hub.flush()
        cwd = self._cwd or ""
        code = TIMEOUT_CODE if timed_out else bash.exit_status
        note = "[the shell ended with this command; the next one starts a new shell]\n"
        note = "" if self._init.why_ended() is not None else note
        result = _result(bash, code, cwd, timed_out=timed_out, note=note)
        bash.close()
        self._bash = None
        return result

    def close(self) -> None:
        """Let go of the pipes. The processes end with the sandbox."""
        if self._bash is not None:
            self._bash.close()
            self._bash = None


def _record(records: bytearray, tag: str) -> tuple[int, str] | None:
    """Exit code and directory from the record with this tag, when it is complete.

    Whatever stands before the tag is skipped: a command may have written into its shell's descriptors.
    """
    match = re.search(re.escape(tag.encode()) + rb"\0([0-9]{1,3})\0([^\0]*)\0", records)
    if match is None:
        return None
    return int(match[1]), match[2].decode(errors="surrogateescape")


def _result(bash: _Bash, code: int, cwd: str, *, timed_out: bool, note: str = "") -> ShellResult:
    with bash.changed:
        totals = {name: stream.total for name, stream in bash.streams.items()}
        truncated = any(stream.cut for stream in bash.streams.values())
        stdout, stderr = bash.take()
    # Where the shell begins again keeps every byte; a result is text that everybody can encode.
    shown = cwd.encode(errors="surrogateescape").decode(errors="replace")
    return ShellResult(
        code, stdout, stderr + note, shown, timed_out, totals["stdout"], totals["stderr"], truncated
    )
