"""Many sandboxes of one session with one proxy: how fast the n-th is made, whether all of them are served,
what each costs in memory, and what thousands of them leave behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import census
from measure import Row, Table
from proxies import service
from sandboxed import proxied

from nsharness.policy.profile import Profile
from nsharness.supervisor.proxy import NamespaceProxy
from nsharness.supervisor.sandbox import NamespaceSandbox
from nsharness.supervisor.session import Session

_AT_ONCE = 8
_WARMING = 20


class _One(NamespaceSandbox):
    """One of several in a session: each has an id of its own."""

    def __init__(self, made: _Made, number: int) -> None:
        super().__init__(made.session, made.profile, made.proxy)
        self._number = number

    @property
    def id(self) -> str:
        return f"{super().id}-{self._number}"


@dataclass(frozen=True, slots=True)
class _Made:
    session: Session
    profile: Profile
    proxy: NamespaceProxy

    def processes(self) -> dict[str, int]:
        return {"supervisor": os.getpid(), "zygote": self.session.zygote.pid, "proxy": self.proxy.pid}

    def visible(self) -> dict[str, int]:
        """Those that we may look into: as an ordinary user not the proxy."""
        return {name: pid for name, pid in self.processes().items() if census.visible(pid)}


def _create(made: _Made, stack: ExitStack, first: int, last: int) -> tuple[list[_One], list[float]]:
    """Sandboxes ``first`` to ``last``, and the seconds that each took."""
    found, seconds = [], []
    for number in range(first, last + 1):
        begun = time.perf_counter()
        found.append(stack.enter_context(_One(made, number)))
        seconds.append(time.perf_counter() - begun)
    return found, seconds


def _asks(box: NamespaceSandbox) -> bool:
    done = box.run(["curl", "-s", "-w", "%{http_code}", "-o", "/dev/null", "http://bench.example/"])
    return done.exit_code == 0 and done.stdout == b"200"


def _served(boxes: list[_One], each: int) -> tuple[int, float]:
    """How many requests failed, and how many a second there were (with the start of curl for each)."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(_asks, boxes * each))
    return answers.count(False), len(answers) / (time.perf_counter() - begun)


def _memory(made: _Made) -> dict[str, float]:
    return {name: census.private(pid) for name, pid in made.visible().items()}


def _growth(made: _Made, sizes: tuple[int, ...], asking: int) -> Iterator[Table]:
    """From one sandbox to many that live at the same time."""
    with ExitStack() as stack:
        boxes, _ = _create(made, stack, 1, 1)
        assert _asks(boxes[0])
        before = _memory(made)
        rows: list[Row] = []
        for size in sizes:
            new, seconds = _create(made, stack, len(boxes) + 1, size)
            boxes += new
            rows.append(Row(f"up to the {size}th", tuple(seconds[-25:])))
            if size == asking:
                failed, rate = _served(boxes, 3)
                requests = (Row("requests a second", (rate,)), Row("failed requests", (float(failed),)))
        yield Table("Creation of one more sandbox, all of them alive", "ms", 1000.0, tuple(rows))
        yield Table(f"{asking} sandboxes ask through one proxy", "", 1.0, requests, ratios=False)
        after = _memory(made)
        number = len(boxes) - 1
        each = {f"the {name}, more for each": (after[name] - before[name]) / number for name in after}
        if census.visible(boxes[0].pid):
            each["its first process"] = sum(census.private(box.pid) for box in boxes[1:]) / number
            each["together"] = sum(each.values())
        parts = tuple(Row(name, (megabytes,)) for name, megabytes in each.items())
        yield Table(f"Private memory of an idle sandbox, {len(boxes)} alive", "MB", 1.0, parts, ratios=False)
        begun = time.perf_counter()
    seconds = (time.perf_counter() - begun) / len(boxes)
    yield Table("End of one of them", "ms", 1000.0, (Row("each", (seconds,)),), ratios=False)


def _counts(made: _Made) -> dict[str, float]:
    processes = made.processes()
    found = {
        f"descriptors of the {name}": float(census.descriptors(pid)) for name, pid in made.visible().items()
    }
    found["namespaces"] = float(census.namespaces(census.below(os.getpid())))
    found["processes"] = float(len(census.below(os.getpid())))
    found["mounts of the zygote"] = float(census.mounts(processes["zygote"]))
    found["links of the zygote"] = float(census.links(processes["zygote"]))
    found["links of the machine"] = float(census.links(os.getpid()))
    return found | {f"resident MB of the {name}": census.resident(pid) for name, pid in processes.items()}


def _settled(made: _Made) -> dict[str, float]:
    """When nothing of the last sandbox is on its way any more."""
    found = _counts(made)
    for _ in range(50):
        time.sleep(0.1)
        earlier, found = found, _counts(made)
        if earlier == found:
            break
    return found


def _cycle(made: _Made, number: int) -> None:
    with _One(made, number) as box:
        assert box.run(["true"]).exit_code == 0


def _cycles(made: _Made, count: int) -> Table:
    for number in range(_WARMING):
        _cycle(made, number)
    before = _settled(made)
    for number in range(count):
        _cycle(made, number)
    after = _settled(made)
    rows = tuple(Row(f"more {name}", (after[name] - before[name],)) for name in after)
    return Table(f"After {count:,} sandboxes that came and went", "", 1.0, rows, ratios=False)


def tables(folder: Path, rounds: int) -> Iterator[Table]:
    """All in one session with one proxy; memory and descriptors of undumpable processes are shown to root."""
    quick = rounds <= 6
    sizes = (2, 10, 20, 30) if quick else (2, 50, 100, 200, 350, 500)
    with service() as port, proxied(folder, port) as parts:
        made = _Made(*parts)
        yield from _growth(made, sizes, 20 if quick else 200)
        yield _cycles(made, 40 if quick else 2000)
