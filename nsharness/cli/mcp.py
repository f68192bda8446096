"""``nsharness mcp``: a sandbox for a client of the Model Context Protocol.

It speaks on standard input and output. They get descriptors of their own before the SDK is loaded: what is
printed by mistake goes to standard error. The sandbox is that of ``nsharness exec`` and ends with the client.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from nsharness.cli.choice import choose
from nsharness.cli.execute import opened
from nsharness.errors import NsharnessError
from nsharness.linux.identity import current
from nsharness.supervisor.onecall import one_call


def mcp(options: argparse.Namespace) -> int:
    """0 when the client has gone, 125 when nsharness failed."""
    if os.isatty(0):
        print("nsharness: waiting for an MCP client on standard input; Ctrl-D ends it", file=sys.stderr)
    reading, writing = _standard_streams()
    try:
        from nsharness.tools.serving import serve
        from nsharness.tools.stdio import Channel
    except ImportError as error:
        raise NsharnessError(
            "cannot serve MCP", why=str(error), hint="install nsharness with its extra: nsharness[mcp]"
        ) from None
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if options.verbose else logging.CRITICAL,
        format="[mcp]           %(message)s",
    )
    identity = current(user=options.user)
    with opened(options, identity, choose(options, identity), lambda: choose(options, identity)) as run:
        run.proxy.start()
        serve(lambda: one_call(run.sandbox), Channel(reading, writing))
        over = run.sandbox.ended_by
        hits = [hit.to_record() for hit in run.sandbox.limits_hit]
        ended = {} if over is None else {"error": str(over)}
        run.session.run.write_result({"run": run.session.run.id, "exit_code": 0, "limits_hit": hits, **ended})
    return 0


def _standard_streams() -> tuple[int, int]:
    """Descriptors of standard input and output, which are the null device and standard error from now on."""
    reading, writing = os.dup(0), os.dup(1)  # Not inherited (PEP 446).
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return reading, writing
