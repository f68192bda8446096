"""A new gateway carries the very first packet."""

from __future__ import annotations

import os
import socket
import time

import pytest

from nsharness.linux import userns
from nsharness.sandbox import gateway

pytestmark = pytest.mark.kernel("userns", "veth")

_ROUNDS = 40
_RETRANSMISSION = 0.9  # Seconds: a lost SYN is sent again after one (RFC 6298 section 2).


def slow_first_connects() -> int:
    """How many of the new gateways lost their first packet; the calling process must be expendable."""
    if os.geteuid() == 0:
        os.unshare(os.CLONE_NEWNET)
    else:
        userns.enter_new(os.CLONE_NEWNET | os.CLONE_NEWNS)
    slow = 0
    for _ in range(_ROUNDS):
        made = gateway.create()
        os.setns(made.sandbox_netns, os.CLONE_NEWNET)
        started = time.monotonic()
        socket.create_connection(("203.0.113.7", 80), 10).close()
        slow += time.monotonic() - started > _RETRANSMISSION
        made.close()
    return slow


def test_the_first_packet_is_not_lost() -> None:
    child = os.fork()
    if child == 0:
        code = 255
        try:
            code = slow_first_connects()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
