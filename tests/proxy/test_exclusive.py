"""On a host with a credential of ours the client is nobody else: K17, and what could change a decision."""

from __future__ import annotations

import pytest

from tests.proxy.rig import Proxy, Sandbox, policy, rule
from tests.proxy.upstreams import Upstream

CREDENTIALS = (
    "Cookie",
    "X-Api-Key",
    "x_api_key",
    "Api-Key",
    "X-Goog-Api-Key",
    "PRIVATE-TOKEN",
    "X-Auth-Token",
    "X-Amz-Security-Token",
    "Proxy-Authorization",
)


@pytest.fixture
def attached(proxy: Proxy, sandbox: Sandbox, upstream: Upstream) -> Sandbox:
    rules = policy(
        rule("wiki", "wiki.local", headers=["Authorization"]),
        rule("shared", "secure.local", headers=["Authorization"], exclusive=False),
        rule("open", "open.local"),
        upstreams={f"{name}.local:80": upstream.port for name in ("wiki", "secure", "open")},
    )
    proxy.attach(sandbox, rules)
    return sandbox


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_credential_of_the_clients_own_does_not_go_where_ours_goes(
    attached: Sandbox, upstream: Upstream, token: str, name: str
) -> None:
    """K17: an attacker's account at an allowed service is no way out."""
    assert attached.get("http://wiki.local/", f"{name}: theirs").status == 200
    assert b"theirs" not in upstream.received
    assert upstream.requests[0].all("Authorization") == [f"Bearer {token}"]
    if name != "Proxy-Authorization":
        for host in ("secure.local", "open.local"):
            assert attached.get(f"http://{host}/", f"{name}: theirs").status == 200
            assert upstream.requests[-1].all(name) == ["theirs"]


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Signature=1",
        "x-goog-date=1",
        "sig=1",
        "Signature=1",
        "access_token=1",
        "a=b&API_KEY=1",
        "%6bey=1",
        "a;key=1",
    ],
)
def test_a_query_with_a_credential_is_refused(attached: Sandbox, upstream: Upstream, query: str) -> None:
    """K17: presigned URLs."""
    answer = attached.get(f"http://wiki.local/?{query}")
    assert (answer.status, answer.reason) == (403, "query-credential")
    assert not upstream.accepted
    for host in ("secure.local", "open.local"):
        assert attached.get(f"http://{host}/?{query}").status == 200


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "x_http_method", "X-Original-URL", "X-Rewrite-URL"]
)
def test_what_asks_for_another_request_is_refused(attached: Sandbox, upstream: Upstream, name: str) -> None:
    for host in ("wiki.local", "secure.local"):
        answer = attached.get(f"http://{host}/", f"{name}: DELETE")
        assert (answer.status, answer.reason) == (403, "method-override")
    assert not upstream.accepted
    assert attached.get("http://open.local/", f"{name}: DELETE").status == 200


def test_trace_is_never_sent_with_a_credential(attached: Sandbox, upstream: Upstream) -> None:
    answer = attached.get("http://wiki.local/", method="TRACE")
    assert (answer.status, answer.reason) == (403, "method-not-allowed")
    assert not upstream.accepted


def test_an_answer_in_pieces_is_not_asked_for(attached: Sandbox, upstream: Upstream) -> None:
    """K15: a secret in two ranges would be none in either."""
    fields = ("Range: bytes=0-3", 'If-Range: "x"', "Accept-Encoding: gzip")
    attached.get("http://wiki.local/", *fields)
    attached.get("http://open.local/", *fields)
    wiki, other = upstream.requests
    assert [wiki.all(name) for name in ("Range", "If-Range", "Accept-Encoding")] == [[], [], ["identity"]]
    assert other.all("Range") == ["bytes=0-3"]
