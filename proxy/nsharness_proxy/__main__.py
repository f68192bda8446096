"""The proxy process: ``python -I -m nsharness_proxy --control-fd N --credentials-fd M``.

N is one end of a SOCK_SEQPACKET pair with the supervisor, M the sealed credential map.

The order matters. Before it says start, the supervisor asks for the authorities of its sandboxes, and gets
their certificates before anything is imported that they do not need: a sandbox needs nothing more to start.
The credentials are read by a process that nobody can trace or dump. Privileges are given up when everything
has been imported, because the unprivileged user may not be able to read the interpreter's files; from then
on nothing is imported any more but mitmproxy, should it be needed and not be there (``late``).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

from nsharness.errors import NsharnessError
from nsharness.linux import fds, open_files
from nsharness.linux.process import become, make_undumpable, set_no_new_privs
from nsharness_proxy.authorities import Authorities
from nsharness_proxy.ca import CertificateAuthority
from nsharness_proxy.control import Control
from nsharness_proxy.report import Report, describe

if TYPE_CHECKING:
    from nsharness.credentials.map import CredentialMap
    from nsharness_proxy.tls import HostSide

# What is imported when the supervisor says start, or before, where it has the time.
_LATER: Final = ("asyncio", "uvloop", "nsharness_proxy.engine", "nsharness_proxy.loader")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until the supervisor ends us. Does not return."""
    make_undumpable()
    # Nothing in it is for us, and OpenSSL and the engine would look for key logs and configuration there.
    os.environ.clear()
    # Bytecode of what is imported is for everybody who may read that, and for nobody else to write.
    os.umask(0o022)
    # Ctrl-C goes to the whole foreground group; it is the supervisor's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    given = sys.argv[1:] if arguments is None else arguments
    control_fd, credentials_fd = fds.given(given, "--control-fd", "--credentials-fd")
    control = Control(socket.socket(fileno=control_fd))
    report = Report(control.send)
    report.capture()
    code = 1
    try:
        code = run(control, report, credentials_fd)
    except NsharnessError as error:
        control.send({"event": "fatal", "text": str(error)})
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        control.send({"event": "fatal", "text": f"the proxy failed: {describe(error)}"})
    control.close()
    # A look-up that still waits in a thread must not keep the process alive.
    os._exit(code)


def run(control: Control, report: Report, credentials_fd: int) -> int:
    """The life of the process; the exit status."""
    authorities = Authorities(control.send, report)
    host_tls: HostSide | None = None
    message, descriptors = control.receive()
    while message is not None and message.get("op") in ("authority", "import"):
        try:
            if message["op"] == "import":
                for name in _LATER:
                    import_module(name)
                host_tls = import_module("nsharness_proxy.tls").rehearsed(CertificateAuthority.create())
            else:
                authorities.add(message, descriptors)
        finally:
            fds.close_all(descriptors)
        message, descriptors = control.receive()
    fds.close_all(descriptors)
    if message is None:
        return 0
    if message.get("op") != "start":
        raise NsharnessError("proxy", why="the first message is not start")
    credentials = load_credentials(credentials_fd)
    control.send(
        {"event": "credentials", "hosts": list(credentials.hosts), "headers": credentials.header_names()}
    )
    # Here, because it is slow.
    from nsharness_proxy.records import capture_records

    capture_records(report)
    import asyncio

    import uvloop

    from nsharness_proxy.engine import Engine
    from nsharness_proxy.late import Imports
    from nsharness_proxy.loader import Loader
    from nsharness_proxy.tls import rehearsed

    imports = Imports(report)
    mitmproxy = Loader(imports, report)
    if authorities.want_mitmproxy:
        mitmproxy.now()
    # What was loaded ahead may have been so for hours.
    if host_tls is None or not host_tls.is_current():
        host_tls = rehearsed(CertificateAuthority.create())
    engine = Engine(authorities, credentials, control, report, mitmproxy, host_tls)
    imports.close()
    give_up_privileges(message.get("uid"), message.get("gid"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(engine))


async def serve(engine: object) -> int:
    """Serve until the supervisor or a signal ends it."""
    import asyncio

    from nsharness_proxy.engine import Engine

    assert isinstance(engine, Engine)
    loop = asyncio.get_running_loop()
    # As the engine's own event loop runs: a hook is answered without another turn of the loop.
    loop.set_task_factory(asyncio.eager_task_factory)
    serving = asyncio.ensure_future(engine.serve())
    loop.add_signal_handler(signal.SIGTERM, serving.cancel)
    await asyncio.wait([serving])
    if not serving.cancelled() and (error := serving.exception()):
        raise error
    return 0


def load_credentials(descriptor: int) -> CredentialMap:
    """The credential map; the descriptor is closed, its offset untouched for the next process."""
    from nsharness.credentials.map import CredentialMap

    try:
        return CredentialMap.from_bytes(fds.read_all(descriptor))
    except ValueError as error:
        raise NsharnessError("proxy", why=str(error)) from None
    finally:
        os.close(descriptor)


def give_up_privileges(uid: int | None, gid: int | None) -> None:
    """Become the given user, or stay the one we are without any capability. Never root."""
    if os.geteuid() == 0 and not uid:
        raise NsharnessError("proxy", why="it would run as root", hint="start it with a uid and a gid")
    os.umask(0o077)
    open_files.raise_limit()
    set_no_new_privs()
    become(os.geteuid() if uid is None else uid, os.getegid() if gid is None else gid)
    # A change of user sets the flag anew (prctl(2)).
    make_undumpable()


if __name__ == "__main__":
    main()
