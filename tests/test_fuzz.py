"""The fuzzers: half a minute of each, and that they find what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mitmproxy.net.dns import domain_names

from nsharness_proxy import dns
from tests.support import dns_fuzz

FUZZ = Path(__file__).resolve().parent.parent / "scripts" / "fuzz"


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, FUZZ, *arguments], capture_output=True, text=True, timeout=90)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["scrub", "dns"])
def test_nothing_is_found_in_half_a_minute(target: str) -> None:
    done = fuzz(target, "30")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"fuzz: {target} with seeds" in done.stdout


def test_a_case_is_made_again_by_its_seed() -> None:
    assert fuzz("dns", "0", "7").stdout == "fuzz: dns with seeds 7 to 7 is right\n"
    assert fuzz("nonsense", "0").returncode == 2


def test_a_stub_that_reads_names_in_two_ways_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x0awiki.local\0" + b"\0\1\0\1"
    assert dns_fuzz.wrong(query) == ""
    monkeypatch.setattr(dns, "_name", domain_names.unpack_from)
    assert dns_fuzz.wrong(query) != ""
