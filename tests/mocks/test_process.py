"""The real process, on real sockets."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsharness_mocks.wiki import SNIPPETS
from tests.mocks.process import DEADLINE, HOOK_TOKEN, WIKI_TOKEN, Mocks, bearer, running, starting

TOPIC = "/snippets/durability"


@pytest.fixture(scope="module")
def mocks() -> Iterator[Mocks]:
    with running() as mocks:
        yield mocks


@pytest.mark.parametrize("topic", ["durability", "sandboxing", "replay"])
def test_a_snippet_is_text_with_one_fact(mocks: Mocks, topic: str) -> None:
    reply, event = mocks.ask("GET", "wiki.local", f"/snippets/{topic}", bearer(WIKI_TOKEN))
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    facts = [line for line in reply.body.decode().splitlines() if line.startswith("Fact: ")]
    assert len(facts) == 1
    assert len(facts[0]) > 40
    assert reply.body.decode() == SNIPPETS[topic]
    assert event["status"] == 200


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({}, "none"),
        ({"Authorization": ""}, "Bearer …"),
        ({"Authorization": WIKI_TOKEN}, "Bearer …"),
        (bearer(""), "Bearer …"),
        (bearer(WIKI_TOKEN[:-1]), "Bearer wiki_…"),
        (bearer(WIKI_TOKEN + "v"), "Bearer wiki_…"),
        (bearer(WIKI_TOKEN.upper()), "Bearer WIKI_…"),
        (bearer(f"{WIKI_TOKEN} {WIKI_TOKEN}"), "Bearer …"),
        (bearer(f"{WIKI_TOKEN},"), "Bearer wiki_…"),
        (bearer(HOOK_TOKEN), "Bearer hook_…"),
        ({"Authorization": f"Basic {WIKI_TOKEN}"}, "Bearer …"),
        ({"X-Authorization": f"Bearer {WIKI_TOKEN}"}, "none"),
    ],
)
def test_the_wiki_refuses_all_but_its_own_token_and_says_what_it_wants(
    mocks: Mocks, headers: dict[str, str], shown: str
) -> None:
    reply, event = mocks.ask("GET", "wiki.local", TOPIC, headers)
    assert reply.status == 401
    assert reply.json()["error"] == "unauthorized"
    assert "wiki.local" in reply.json()["detail"]
    assert reply.headers["www-authenticate"] == 'Bearer realm="wiki.local"'
    assert event["auth"] == shown
    assert event["status"] == 401


def test_two_authorization_headers_are_refused_though_one_is_right(mocks: Mocks) -> None:
    connection = http.client.HTTPConnection(*mocks.address, timeout=DEADLINE)
    connection.putrequest("GET", TOPIC, skip_host=True)
    connection.putheader("Host", "wiki.local")
    connection.putheader("Authorization", f"Bearer {WIKI_TOKEN}")
    connection.putheader("Authorization", f"Bearer {HOOK_TOKEN}")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()
    assert mocks.event()["auth"] == "Bearer …"


def test_each_service_has_its_own_token(mocks: Mocks) -> None:
    reply, _ = mocks.ask("POST", "webhook.local", "/webhooks/a", bearer(WIKI_TOKEN), b"{}")
    assert reply.status == 401
    assert "webhook.local" in reply.json()["detail"]
    reply, event = mocks.ask("POST", "webhook.local", "/webhooks/a", bearer(HOOK_TOKEN), b"{}")
    assert (reply.status, reply.json()) == (202, {"accepted": True, "id": "a"})
    assert event["auth"] == "Bearer hook_…"


def test_topics_are_not_named_to_somebody_without_a_token(mocks: Mocks) -> None:
    reply, _ = mocks.ask("GET", "wiki.local", "/snippets/nothing")
    assert reply.status == 401
    reply, _ = mocks.ask("GET", "wiki.local", "/snippets/nothing", bearer(WIKI_TOKEN))
    assert reply.status == 404
    assert "durability" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("method", "host", "path", "status"),
    [
        ("GET", "wiki.local", "/", 404),
        ("GET", "wiki.local", "/snippets/", 404),
        ("GET", "wiki.local", "/snippets/durability/", 404),
        ("GET", "wiki.local", "/snippets/durability%2f", 404),
        ("GET", "wiki.local", "//snippets/durability", 404),
        ("GET", "wiki.local", "/webhooks/a", 404),
        ("POST", "wiki.local", TOPIC, 405),
        ("DELETE", "wiki.local", TOPIC, 405),
        ("GET", "webhook.local", "/webhooks/a", 405),
        ("POST", "webhook.local", "/webhooks/a/", 404),
        ("POST", "webhook.local", "/webhooks/a/b", 404),
        ("GET", "webhook.local", TOPIC, 404),
    ],
)
def test_what_a_service_does_not_have_is_refused_in_json(
    mocks: Mocks, method: str, host: str, path: str, status: int
) -> None:
    reply, event = mocks.ask(method, host, path, bearer(WIKI_TOKEN))
    assert reply.status == status
    assert set(reply.json()) == {"error", "detail"}
    assert (event["method"], event["host"], event["path"], event["status"]) == (method, host, path, status)


@pytest.mark.parametrize(
    "host", ["wiki.local", "WIKI.local", "wiki.local.", "wiki.local:80", "Wiki.Local.:8080"]
)
def test_every_spelling_of_a_host_name_reaches_its_service(mocks: Mocks, host: str) -> None:
    reply, event = mocks.ask("GET", host, TOPIC, bearer(WIKI_TOKEN))
    assert (reply.status, event["host"]) == (200, "wiki.local")


@pytest.mark.parametrize(
    "host", ["evil.test", "", "wiki.local.evil.test", "xwiki.local", "127.0.0.1", "[::1]:80", "wiki.local:x"]
)
def test_any_other_host_is_misdirected(mocks: Mocks, host: str) -> None:
    reply, event = mocks.ask("GET", host, TOPIC, bearer(WIKI_TOKEN))
    assert (reply.status, reply.json()["error"], event["status"]) == (421, "misdirected_request", 421)


@pytest.mark.parametrize("hook", ["a", "0", "build-42", "a" * 63])
def test_a_webhook_id_is_a_short_plain_name(mocks: Mocks, hook: str) -> None:
    reply, _ = mocks.ask("POST", "webhook.local", f"/webhooks/{hook}", bearer(HOOK_TOKEN), b"[1]")
    assert (reply.status, reply.json()["id"]) == (202, hook)


@pytest.mark.parametrize("hook", ["A", "-a", "a" * 64, "a_b", "..", "a%0a", "%C3%A9", "a.b"])
def test_any_other_webhook_id_is_refused(mocks: Mocks, hook: str) -> None:
    reply, _ = mocks.ask("POST", "webhook.local", f"/webhooks/{hook}", bearer(HOOK_TOKEN), b"{}")
    assert (reply.status, reply.json()["error"]) == (400, "bad_id")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"a": [1, 2.5, null, "x"]}', 202),
        (b'"' + b"x" * (64 * 1024 - 2) + b'"', 202),
        (b'"' + b"x" * (64 * 1024 - 1) + b'"', 413),
        (b"", 400),
        (b"{", 400),
        (b"{} {}", 400),
        (b"NaN", 400),
        (b"\xff", 400),
        (b"[" * 60000, 400),
    ],
    ids=["object", "largest", "too large", "empty", "cut", "two", "NaN", "no UTF-8", "deep"],
)
def test_a_webhook_takes_one_bounded_json_document(mocks: Mocks, body: bytes, status: int) -> None:
    reply, _ = mocks.ask("POST", "webhook.local", "/webhooks/a", bearer(HOOK_TOKEN), body)
    assert reply.status == status


def test_a_request_gives_one_event_that_tells_enough_and_not_more(mocks: Mocks) -> None:
    before = time.monotonic_ns()
    _, event = mocks.ask("GET", "wiki.local", f"{TOPIC}?token={WIKI_TOKEN}", bearer(WIKI_TOKEN))
    assert before < event.pop("at") < time.monotonic_ns()
    assert event == {
        "event": "request",
        "method": "GET",
        "path": TOPIC,
        "host": "wiki.local",
        "auth": "Bearer wiki_…",
        "status": 200,
    }
    mocks.events.setblocking(False)
    with pytest.raises(BlockingIOError):
        mocks.events.recv(1)
    mocks.events.settimeout(DEADLINE)


def test_a_host_without_a_digest_lets_nobody_in() -> None:
    """K3: what is missing is denied."""
    with running(digests={}) as mocks:
        for token in (WIKI_TOKEN, "", "None", "0" * 64):
            reply, _ = mocks.ask("GET", "wiki.local", TOPIC, bearer(token))
            assert reply.status == 401


def test_the_end_of_the_supervisor_is_the_end_of_the_mocks_also_in_mid_request() -> None:
    with running() as mocks, socket.create_connection(mocks.address, timeout=DEADLINE) as client:
        client.sendall(b"POST /webhooks/a HTTP/1.1\r\nHost: webhook.local\r\nContent-Length: 9\r\n")
        client.sendall(f"Authorization: Bearer {HOOK_TOKEN}\r\n\r\n{{".encode())
        mocks.ask("GET", "wiki.local", TOPIC)  # so the first request has been read by now
        mocks.events.close()
        assert mocks.finish() == (0, "")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(mocks.address, timeout=DEADLINE)


def test_sigterm_ends_it_and_ctrl_c_does_not() -> None:
    with running() as mocks:
        mocks.process.send_signal(signal.SIGINT)
        assert mocks.ask("GET", "wiki.local", TOPIC)[0].status == 401
        mocks.process.send_signal(signal.SIGTERM)
        assert mocks.finish() == (0, "")


def test_it_is_undumpable_also_after_it_has_changed_its_uid() -> None:
    """K14: an undumpable process's ``/proc`` entries belong to root (proc(5)), whoever it runs as."""
    other = ("--uid", "65534", "--gid", "65534") if os.geteuid() == 0 else ()
    with running(*other) as mocks:
        proc = Path("/proc", str(mocks.process.pid))
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
        uid = "65534" if other else str(os.geteuid())
        assert status["Uid"].split() == [uid] * 4
        if other:
            assert (status["Groups"].strip(), int(status["CapPrm"], 16)) == ("", 0)
        assert (proc / "environ").stat().st_uid == 0
        limits = (proc / "limits").read_text().splitlines()
        assert [line.split()[-3:-1] for line in limits if line.startswith("Max core")] == [["0", "0"]]
        assert mocks.ask("GET", "wiki.local", TOPIC, bearer(WIKI_TOKEN))[0].status == 200


IMPORTS_AFTER_THE_CHANGE = """
import sys
from nsharness_mocks import program

def become(uid, gid):
    sys.addaudithook(lambda event, args: event == "import" and print(args[0], file=sys.stderr))

program.become = become
sys.exit(program.main())
"""


def test_nothing_is_imported_once_the_uid_has_changed() -> None:
    """The new uid may be unable to read the interpreter's files."""
    program = ("-c", IMPORTS_AFTER_THE_CHANGE)
    with running("--uid", "1", "--gid", "1", program=program) as mocks:
        for method, host, path in [("GET", "wiki.local", TOPIC), ("POST", "webhook.local", "/webhooks/a")]:
            for token in (WIKI_TOKEN, HOOK_TOKEN):
                mocks.ask(method, host, path, bearer(token), b"{}" if method == "POST" else None)
        mocks.ask("PUT", "wiki.local", TOPIC)
        mocks.ask("GET", "x.test", "/")
        mocks.process.send_signal(signal.SIGTERM)
        assert mocks.finish() == (0, "")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"bind": "0.0.0.0"}, "0.0.0.0 can be reached from elsewhere"),
        ({"listen": False}, "--listen-fd is not a listening TCP socket"),
        ({"digests": {"wiki.local": WIKI_TOKEN}}, "a value is not a SHA-256 in lower-case hex"),
        (
            {"digests": {"elsewhere.test": "0" * 64}},
            "expected an object with the keys webhook.local, wiki.local",
        ),
        ({"digests": [1]}, "expected an object with the keys webhook.local, wiki.local"),
    ],
    ids=["reachable", "not listening", "token for a digest", "unknown host", "no object"],
)
def test_it_does_not_start_on_wrong_terms_and_says_why_in_one_line(how: dict[str, object], why: str) -> None:
    with starting(**how) as mocks:
        code, errors = mocks.finish()
    assert code == 125
    assert errors.startswith("nsharness_mocks: cannot ")
    assert why in errors
    assert errors.count("\n") == 1
    assert WIKI_TOKEN not in errors
