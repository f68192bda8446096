"""The view that decisions are made on: canonical, and without credentials."""

from __future__ import annotations

import dataclasses

import pytest

from nsharness.policy.request import CREDENTIAL_HEADERS, RequestError, RequestView, view


def test_a_view_of_a_request_is_canonical_and_says_what_to_send() -> None:
    request = view("GET", "http", "WIKI.local.", 80, "/a/../snippets//x?q=%2e")
    assert (request.host, request.path, request.query) == ("wiki.local", "/snippets/x", "q=%2e")
    assert request.target == "/snippets/x?q=%2e"


def test_a_view_holds_no_credential_of_the_client() -> None:
    headers = [("Accept", "*/*"), *((name.title(), "hunter22") for name in sorted(CREDENTIAL_HEADERS))]
    request = view("GET", "https", "wiki.local", 443, "/", headers)
    assert request.headers == (("Accept", "*/*"),)
    assert "hunter22" not in repr(request)
    with pytest.raises(RequestError):
        dataclasses.replace(request, headers=(("AUTHORIZATION", "x"),))


def test_a_view_does_not_change() -> None:
    request = view("GET", "https", "wiki.local", 443, "/")
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.host = "attacker.example"  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [
        {"host": "Wiki.local"},
        {"host": "wiki.local."},
        {"host": "wiki.local\0"},
        {"path": "/a/../b"},
        {"path": "/a%2fb"},
        {"path": "a"},
        {"method": "GET /x"},
        {"method": ""},
        {"scheme": "ftp"},
        {"port": 0},
        {"port": 65536},
    ],
)
def test_a_view_cannot_be_made_of_anything_but_the_canonical_form(change: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        dataclasses.replace(RequestView("GET", "http", "wiki.local", 80, "/"), **change)  # type: ignore[arg-type]
