"""``nsharness learn -- CMD``: run a command while every public host is open, and propose a profile for it.

The road is open meanwhile: whatever the command can read, it can send anywhere. Credentials go where the
profile's own rules say and nowhere else, and its ``deny`` rules hold.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO, cast

from nsharness.audit.event import MAX_TEXT, AuditEvent
from nsharness.audit.log import read
from nsharness.cli.choice import Choice, choose
from nsharness.cli.execute import perform
from nsharness.errors import NsharnessError
from nsharness.linux.identity import Identity, current
from nsharness.policy.learning import Seen, learning_rule, proposed
from nsharness.policy.load import parse_profile
from nsharness.policy.placeholders import references
from nsharness.policy.plain import written_out
from nsharness.policy.profile import Profile
from nsharness.policy.request import Scheme
from nsharness.policy.uninjected import REASONS
from nsharness.presets.writing import document, table

_COMMENTS: Final = 20
_WARNING: Final = "nsharness: learning: until it ends, the command can reach every public host"


class _Errors:
    """Standard error, in the place of an output."""

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(2, view) :]


def learn(options: argparse.Namespace) -> int:
    """The command's exit code. The proposal is printed or written whatever that is."""
    identity = current(user=options.user)
    # What is printed is the proposal alone, unless a person looks on.
    outputs = None if options.out is not None or os.isatty(1) else (_Errors(), _Errors())
    chosen = choose(options, identity)
    with _output(options.out, identity) as write:
        print(_WARNING, file=sys.stderr, flush=True)
        ended = perform(options, identity, lambda: _opened(choose(options, identity)), outputs)
        with identity.files():
            events = tuple(read(ended.run.path / "audit.jsonl"))
        write(proposal(chosen, events))
    if ended.over is not None:
        raise ended.over
    return ended.code


@contextlib.contextmanager
def _output(out: str | None, identity: Identity) -> Iterator[Any]:
    """A function that writes the proposal. A file is made before anything starts, and is gone after a
    failure: nobody finds out at the end that it is there already."""
    if out is None:
        yield lambda text: print(text, end="", flush=True)
        return
    path = Path(out)
    try:
        with identity.files():
            # Held: a path in a shared folder may lead elsewhere once the command has run.
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(path.name, flags, 0o644, dir_fd=folder)
            except BaseException:
                os.close(folder)
                raise
    except OSError as error:
        hint = "name a file that is not there yet"
        raise NsharnessError(f"cannot write {path}", why=error.strerror or str(error), hint=hint) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            yield lambda text: _write(path, folder, stream, text)
    except BaseException:
        with identity.files(), contextlib.suppress(OSError):
            os.unlink(path.name, dir_fd=folder)
        raise
    finally:
        os.close(folder)


def _write(path: Path, folder: int, stream: TextIO, text: str) -> None:
    """The text and nothing else: in a shared folder the command could write there, too."""
    ours = os.fstat(stream.fileno())
    with contextlib.suppress(OSError):
        here = os.lstat(path.name, dir_fd=folder)
        if (here.st_dev, here.st_ino) == (ours.st_dev, ours.st_ino):
            stream.truncate(0)
            stream.write(text)
            return
    raise NsharnessError(f"cannot write {path}", why="it was removed or replaced meanwhile")


def _opened(chosen: Choice) -> Choice:
    """With every public host allowed, by a rule after all others."""
    profile = written_out(chosen.profile)
    rule = learning_rule({each.name for each in profile.sandbox_proxy_rules})
    written = {name: getattr(profile, name) for name in profile.model_fields_set}
    rules = [*profile.sandbox_proxy_rules, rule]
    return dataclasses.replace(
        chosen, profile=Profile.model_validate({**written, "sandbox_proxy_rules": rules})
    )


def proposal(chosen: Choice, events: Sequence[AuditEvent]) -> str:
    """The text of a profile by which the run of these events would have had no denial but those that it had:
    the chosen profile's rules that were used or that deny, and one or more for each host that none of them
    allowed. ``NsharnessError`` if it is none, which is a bug."""
    profile = written_out(chosen.profile)
    rules = profile.sandbox_proxy_rules
    learning = learning_rule({rule.name for rule in rules})["name"]
    used = {event.rule for event in events if event.action in ("allow", "inject")}
    wanted = {str(ref) for text in profile.env.values() for ref in references(text)}
    kept = [rule for rule in rules if rule.deny or rule.name in used or wanted & set(rule.secrets)]
    made = proposed(_seen(events, learning), {rule.name for rule in kept})
    blocks = [_block(rule.model_dump(mode="json", exclude_unset=True), []) for rule in kept]
    blocks += [_block(rule, _notes(str(rule["hosts"][0]), events)) for rule in made]
    unused = [rule.name for rule in rules if rule not in kept]
    head = _head([event for event in events if event.action == "deny"], unused)
    text = head + document(_settings(chosen), "\n".join(blocks))
    parse_profile(text, "proposal", default_name="proposal")
    return text


def _seen(events: Iterable[AuditEvent], rule: str) -> Iterator[Seen]:
    for event in events:
        if event.action in ("allow", "inject") and event.rule == rule:
            assert event.method is not None
            assert event.host is not None
            assert event.port is not None
            assert event.path is not None
            cut = len(event.path) == MAX_TEXT and event.path.endswith("…")
            path = event.path[:-1] if cut else event.path
            yield Seen(event.method, cast("Scheme", event.scheme), event.host, event.port, path, cut)


def _settings(chosen: Choice) -> dict[str, Any]:
    """The keys of the written profile but its rules, with what the command line's presets added. The files
    are those that the profile names: what a command line shares, it shares again."""
    dumped = written_out(chosen.profile).model_dump(mode="json", exclude_unset=True)
    for key in ("sandbox_proxy_rules", "filesystem", "workspace"):
        dumped.pop(key, None)
    if chosen.path is None:
        del dumped["name"]  # That of the file will do.
    files = written_out(chosen.written).model_dump(mode="json", exclude_unset=True)
    dumped |= {key: files[key] for key in ("filesystem", "workspace") if key in files}
    return {key: value for key, value in dumped.items() if value != {}}


def _block(rule: Mapping[str, Any], notes: Iterable[str]) -> str:
    return "".join(f"# {note}\n" for note in notes) + "[[sandbox_proxy_rules]]\n" + table(rule)


def _notes(host: str, events: Iterable[AuditEvent]) -> list[str]:
    """What a person should know of a host before they allow it for good."""
    notes: dict[str, None] = {}
    answered = False
    for event in events:
        if event.host != host:
            continue
        answered = answered or event.action == "response"
        if event.action == "error" and event.reason:
            notes[f"A request failed: {event.reason}."] = None
        if event.action == "allow" and event.reason in REASONS:
            notes[f"Another rule has a credential for it, which these requests had not: {event.reason}."] = (
                None
            )
    return [*notes] if answered else [*notes, "It has never answered."]


def _head(denied: Iterable[AuditEvent], unused: Iterable[str]) -> str:
    lines = [
        "Proposed by nsharness learn. It allows what was seen, and no more than paths like those that were",
        "seen: look at every host before you use it. Everything else is denied.",
    ]
    lines += [f"Not used, and left out: rule {name}." for name in unused]
    told = dict.fromkeys(_denial(event) for event in denied)
    if told:
        lines.append("Denied while learning, and still:")
        lines += [f"  {text}" for text in [*told][:_COMMENTS]]
        lines += ["  …"] if len(told) > _COMMENTS else []
    return "".join(f"# {line}\n" for line in lines) + "\n"


def _denial(event: AuditEvent) -> str:
    where = f"{event.host}:{event.port}" if event.port else event.host or "a connection"
    # What a client chose is quoted: it must not end the comment.
    return f"{json.dumps(f'{event.method or event.road} {where}{event.path or ""}')[:200]}: {event.reason}"
