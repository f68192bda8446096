"""Which sandbox a connection belongs to: the listener says so, and with a bearer the client must too."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

import pytest

from nsharness.linux import fds
from tests.proxy.rig import Proxy, Sandbox, credential_map, new_token, policy, read_answer, rule, tunnel
from tests.proxy.upstreams import Upstream


def basic(user: str, password: str = "") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_each_sandbox_has_its_own_policy(
    proxy: Proxy, new_sandbox: Callable[[], Sandbox], upstream: Upstream, token: str
) -> None:
    """K30: what one may do says nothing about the other."""
    one, two = new_sandbox(), new_sandbox()
    wiki = rule("wiki", "wiki.local", headers=["Authorization"])
    proxy.attach(one, policy(wiki, upstreams={"wiki.local:80": upstream.port}))
    proxy.attach(two, policy(rule("bare", "wiki.local"), upstreams={"wiki.local:80": upstream.port}))
    assert one.get("http://wiki.local/").status == 200
    assert two.get("http://wiki.local/").status == 200
    assert [request.all("Authorization") for request in upstream.requests] == [[f"Bearer {token}"], []]
    assert {line["sandbox"] for line in one.log()} == {one.id}
    assert {line["sandbox"] for line in two.log()} == {two.id}


def test_a_sandbox_can_have_credentials_of_its_own(
    proxy: Proxy, new_sandbox: Callable[[], Sandbox], upstream: Upstream, token: str
) -> None:
    """K30: two sandboxes, one host, two secrets."""
    one, two = new_sandbox(), new_sandbox()
    own = new_token("own_")
    descriptor = fds.memfd("own", credential_map({"wiki.local": {"Authorization": own}}).to_bytes())
    rules = policy(
        rule("wiki", "wiki.local", headers=["Authorization"]), upstreams={"wiki.local:80": upstream.port}
    )
    proxy.attach(one, rules)
    proxy.attach(two, rules, descriptor)
    os.close(descriptor)
    for sandbox in (one, two):
        sandbox.get("http://wiki.local/")
    assert [r.all("Authorization") for r in upstream.requests] == [[f"Bearer {token}"], [own]]


class TestBearer:
    @pytest.fixture
    def bearer(self) -> str:
        return new_token("b_")

    @pytest.fixture
    def attached(self, proxy: Proxy, sandbox: Sandbox, upstream: Upstream, bearer: str) -> Sandbox:
        rules = policy(
            rule("open", "open.local"), upstreams={"open.local:80": upstream.port}, proxy_auth="bearer"
        )
        proxy.attach(sandbox, rules, bearer=bearer)
        return sandbox

    def test_the_bearer_as_user_name_is_let_in_and_stripped(
        self, attached: Sandbox, upstream: Upstream, bearer: str
    ) -> None:
        answer = attached.get("http://open.local/", f"Proxy-Authorization: {basic(bearer)}")
        assert answer.status == 200
        assert upstream.requests[0].all("Proxy-Authorization") == []
        assert bearer.encode() not in upstream.received

    @pytest.mark.parametrize(
        "change", ["absent", "other", "prefix", "longer", "password", "scheme", "twice", "junk"]
    )
    def test_anything_else_is_asked_to_authenticate(
        self, attached: Sandbox, upstream: Upstream, bearer: str, change: str
    ) -> None:
        right = f"Proxy-Authorization: {basic(bearer)}"
        lines = {
            "absent": [],
            "other": [f"Proxy-Authorization: {basic(new_token('b_'))}"],
            "prefix": [f"Proxy-Authorization: {basic(bearer[:-1])}"],
            "longer": [f"Proxy-Authorization: {basic(bearer + 'x')}"],
            "password": [f"Proxy-Authorization: {basic('', bearer)}"],
            "scheme": [right.replace("Basic", "Bearer")],
            "twice": [right, right],
            "junk": ["Proxy-Authorization: Basic \xff!"],
        }[change]
        answer = attached.get("http://open.local/", *lines)
        assert (answer.status, answer.reason) == (407, "proxy-authentication-required")
        assert answer.headers["proxy-authenticate"].startswith("Basic ")
        assert not upstream.accepted

    def test_a_tunnel_needs_it_once_and_its_requests_do_not(
        self, attached: Sandbox, upstream: Upstream, bearer: str
    ) -> None:
        with attached.connect() as client:
            assert tunnel(client, "open.local:80").status == 407
        with attached.connect() as client:
            assert tunnel(client, "open.local:80", f"Proxy-Authorization: {basic(bearer)}").status == 200
            client.sendall(b"GET / HTTP/1.1\r\nHost: open.local\r\n\r\n")
            assert read_answer(client).status == 200

    def test_every_request_outside_a_tunnel_needs_it(self, attached: Sandbox, bearer: str) -> None:
        head = "GET http://open.local/ HTTP/1.1\r\nHost: open.local\r\n{}\r\n"
        with attached.connect() as client:
            client.sendall(head.format(f"Proxy-Authorization: {basic(bearer)}\r\n").encode())
            assert read_answer(client).status == 200
            client.sendall(head.format("").encode())
            assert read_answer(client).status == 407

    def test_the_bearer_of_another_sandbox_is_none(
        self,
        proxy: Proxy,
        attached: Sandbox,
        new_sandbox: Callable[[], Sandbox],
        upstream: Upstream,
        bearer: str,
    ) -> None:
        """K30"""
        other, others = new_sandbox(), new_token("b_")
        rules = policy(
            rule("open", "open.local"), upstreams={"open.local:80": upstream.port}, proxy_auth="bearer"
        )
        proxy.attach(other, rules, bearer=others)
        assert other.get("http://open.local/", f"Proxy-Authorization: {basic(bearer)}").status == 407
        assert attached.get("http://open.local/", f"Proxy-Authorization: {basic(others)}").status == 407
        assert not upstream.accepted
