"""What the filters add to a start: the same sandbox without each of them, which only the tests can make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from measure import Contender, Table, compare

from nsharness.supervisor.session import Session
from tests.support.attacks import weak_session
from tests.support.sandboxes import opened_box

_WITHOUT = {"as it is": (), "without seccomp": ("no_seccomp",), "without Landlock": ("no_landlock",)}


def _start_in(session: Session) -> Contender:
    def run() -> None:
        with opened_box(session) as box:
            assert box.run(["true"]).exit_code == 0

    return run


def tables(folder: Path, rounds: int) -> Iterator[Table]:
    """Sandbox, `true`, gone, from one zygote each."""
    with ExitStack() as stack:
        found = {}
        for number, (name, flaws) in enumerate(_WITHOUT.items()):
            session = stack.enter_context(weak_session(folder / str(number), flaws))
            found[name] = _start_in(session)
            found[name]()  # the filter of system calls is compiled once for each zygote
        yield compare("Layers: sandbox, true, gone", found, rounds * 4)
