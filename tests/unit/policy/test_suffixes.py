"""Domains whose names belong to many owners."""

from __future__ import annotations

import pytest

from nsharness.policy.suffixes import is_shared


@pytest.mark.parametrize(
    "base",
    [
        "com",
        "local",
        "co.uk",
        "kobe.jp",
        "github.io",
        "blogspot.com",
        "pages.dev",
        "workers.dev",
        "vercel.app",
        "amazonaws.com",
        "execute-api.eu-west-1.amazonaws.com",
        "lambda-url.eu-west-1.on.aws",
        "blob.core.windows.net",
        "xn--p1ai",
        "xn--55qx5d.cn",
        "anything.ck",  # by a wildcard rule
        "core.windows.net",
    ],
)
def test_strangers_have_names_below_it(base: str) -> None:
    assert is_shared(base)


@pytest.mark.parametrize(
    "base",
    [
        "example.com",
        "wiki.local",
        "myname.github.io",
        "bbc.co.uk",
        "svc.cluster.local",
        "www.ck",
        "city.kobe.jp",
    ],
)
def test_one_owner_has_all_names_below_it(base: str) -> None:
    assert not is_shared(base)
