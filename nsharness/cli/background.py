"""``nsharness up`` and ``down``: the background supervisor."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shlex
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Final, NoReturn

from nsharness.background.daemon import our_code, serve_until_over
from nsharness.background.listening import RunningError, end, running
from nsharness.background.place import SOCKET
from nsharness.cli.command import main
from nsharness.cli.parser import parser
from nsharness.errors import NsharnessError
from nsharness.linux.identity import current

_END_SECONDS: Final = 10.0
# What a run imports, also what not every run needs, so that none has to.
_AHEAD: Final = (
    "nsharness.cli.asking",
    "nsharness.cli.execute",
    "nsharness.cli.run",
    "nsharness.credentials.build",
    "nsharness.credentials.kinds",
    "nsharness.credentials.placeholder",
    "nsharness.linux.probe",
    "nsharness.policy.asking",
    "nsharness.policy.commandline",
    "nsharness.policy.load",
    "nsharness.policy.narrowing",
    "nsharness.policy.uninjected",
    "nsharness.presets.filling",
    "nsharness.presets.settings",
    "nsharness.supervisor.amend",
    "nsharness.supervisor.layers",
    "nsharness.supervisor.reload",
    "nsharness.stages.stage4.flow",
    "nsharness.agent.checkpoints",
    "nsharness.agent.loop",
)
_SERVICE: Final = """\
# ~/.config/systemd/user/nsharness.service
[Unit]
Description=nsharness background supervisor
Requires=nsharness.socket

[Service]
Type=notify
ExecStart={command}
# Runs that were started from it go on when it ends.
KillMode=process
SendSIGKILL=no
"""
_SOCKET: Final = """
# ~/.config/systemd/user/nsharness.socket, then: systemctl --user enable --now nsharness.socket
[Unit]
Description=nsharness background supervisor

[Socket]
ListenSequentialPacket=%t/nsharness/{name}
SocketMode=0600
DirectoryMode=0700

[Install]
WantedBy=sockets.target
"""


def up(options: argparse.Namespace) -> int:
    """Start it, unless it runs already."""
    if options.systemd:
        idle = f" --idle {options.idle:g} --spares {options.spares}"
        command = shlex.join([sys.executable, "-I", "-m", "nsharness.cli", "up", "--foreground"]) + idle
        print(_SERVICE.format(command=command) + _SOCKET.format(name=SOCKET), end="")
        return 0
    if "SUDO_UID" in os.environ and os.getuid() == 0:
        raise NsharnessError(
            "cannot start a background supervisor under sudo",
            why="each run has to ask who invoked it",
            hint="start it as the user, or as root itself (sudo -i)",
        )
    if (pid := running()) != 0:
        print(f"the background supervisor is running (pid {pid})")
        return 0
    try:
        if options.foreground:
            _serve(options, _notify)
        else:
            _in_background(options)
    except RunningError as already:
        print(f"the background supervisor is running (pid {already.pid})")
    return 0


def down(_: argparse.Namespace) -> int:
    """End it, if it runs."""
    pid = running()
    if pid == 0:
        print("no background supervisor is running")
        return 0
    if not end(pid, _END_SECONDS):
        raise NsharnessError(f"the background supervisor (pid {pid}) does not end", hint=f"kill -9 {pid}")
    print("the background supervisor has ended")
    return 0


def _serve(options: argparse.Namespace, started: Callable[[], None]) -> None:
    code = our_code()
    for name in _AHEAD:
        import_module(name)
    os.chdir("/")
    _rehearse()
    gc.collect()
    gc.freeze()
    serve_until_over(main, _rehearse, code, spares=options.spares, idle=options.idle, started=started)


def _rehearse() -> None:
    """What a run does before there is anything of its own in it."""
    from nsharness.linux.signals import prompt_handlers
    from nsharness.plan.limits import LimitPlan
    from nsharness.policy.plain import PlainProfile, written_out
    from nsharness.supervisor.hub import Hub
    from nsharness.supervisor.planning import plan_for

    for words in (["exec", "--", "true"], ["shell"], ["run", "stage4"]):
        parser(words[0]).parse_args(words)
    # Threads leave their stacks and memory to the next ones.
    with prompt_handlers(), Hub(lambda _: None) as hub:
        hub.flush()
    with contextlib.suppress(OSError, NsharnessError):
        profile = PlainProfile("rehearsal")
        written_out(profile).policy_json({})
        limits = LimitPlan()
        plan = plan_for(
            profile, current(), sandbox=profile.name, ca_pem="", environment={}, limits=limits, overlay=""
        )
        plan.to_json()


def _notify() -> None:
    """Tell systemd that clients can come (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] in ("/", "@"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(b"READY=1", address.replace("@", "\0", 1) if address[0] == "@" else address)


def _in_background(options: argparse.Namespace) -> None:
    """Return when it serves; ``NsharnessError`` with what kept it from that."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    sys.stdout.flush()
    if os.fork() == 0:
        ours.close()
        _detached(options, theirs)
    theirs.close()
    with ours:
        said = ours.recv(4096).decode(errors="replace")
    what, _, pid = said.partition(" ")
    if what == "started":
        print(f"the background supervisor is running (pid {pid})")
    elif what == "running":
        raise RunningError(int(pid))
    else:
        raise NsharnessError("cannot start the background supervisor", why=said or "it ended at once")


def _detached(options: argparse.Namespace, parent: socket.socket) -> NoReturn:
    code = 1
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        with open(os.devnull, "r+b", buffering=0) as nothing:  # noqa: PTH123
            for place in range(3):
                os.dup2(nothing.fileno(), place)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            if int(name) > 2 and int(name) != parent.fileno():
                with contextlib.suppress(OSError):
                    os.close(int(name))

        def started() -> None:
            parent.send(f"started {os.getpid()}".encode())
            parent.close()

        _serve(options, started)
        code = 0
    except RunningError as already:
        parent.send(f"running {already.pid}".encode())
    except (NsharnessError, OSError, ImportError) as error:
        parent.send(str(error).encode()[:4000])
    finally:
        os._exit(code)
