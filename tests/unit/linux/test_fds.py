"""Messages with descriptors, and sealed memory."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.linux import fds
from tests.support.descriptors import open_now

type Pair = tuple[socket.socket, socket.socket]

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = fds.message_pair()
    with one, other:
        yield one, other


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def send_raw(sock: socket.socket, data: bytes, *descriptors: int) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    sock.sendmsg([data], [rights] if descriptors else [])


@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=4))
def test_a_message_arrives_as_it_was_sent(message: dict[str, object]) -> None:
    one, other = fds.message_pair()
    with one, other:
        fds.send(one, message)
        assert fds.receive(other) == (message, [])


def test_messages_keep_their_borders(pair: Pair) -> None:
    for number in range(3):
        fds.send(pair[0], {"n": number})
    assert [fds.receive(pair[1])[0] for _ in range(3)] == [{"n": number} for number in range(3)]


def test_descriptors_arrive_in_order_and_close_on_exec(pair: Pair) -> None:
    sent = [os.memfd_create(f"m{number}") for number in range(fds.MAX_DESCRIPTORS)]
    fds.send(pair[0], {}, sent)
    _, received = fds.receive(pair[1])
    assert [os.fstat(number).st_ino for number in received] == [os.fstat(number).st_ino for number in sent]
    assert not any(os.get_inheritable(number) for number in received)
    fds.close_all([*sent, *received])


def test_the_end_is_none(pair: Pair) -> None:
    pair[0].close()
    assert fds.receive(pair[1]) == (None, [])


def test_the_largest_message_passes_and_a_larger_one_is_refused(pair: Pair) -> None:
    frame = len(json.dumps({"a": ""}, separators=(",", ":")))
    fds.send(pair[0], {"a": "x" * (fds.MAX_MESSAGE - frame)})
    assert fds.receive(pair[1])[0] is not None
    with pytest.raises(ValueError, match="too large"):
        fds.send(pair[0], {"a": "x" * (fds.MAX_MESSAGE - frame + 1)})


def test_too_many_descriptors_are_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="17 descriptors"):
        fds.send(pair[0], {}, [0] * (fds.MAX_DESCRIPTORS + 1))


def test_sending_to_nobody_raises_and_no_signal_comes(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        fds.send(pair[0], {})


def test_sending_without_waiting_does_not_block(pair: Pair) -> None:
    def fill() -> None:
        while True:
            fds.send(pair[0], {"a": "x" * 60_000}, wait=False)

    with pytest.raises(BlockingIOError):
        fill()


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xff", b"{}x"),
        *(b'{"a":' + b"9" * 5000 + b"}", b"[" * 60_000, b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}"),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_json_object_is_refused_and_its_descriptors_are_closed(pair: Pair, data: bytes) -> None:
    with Path("/dev/null").open() as null:
        send_raw(pair[0], data, null.fileno())
        before = open_now()
        with pytest.raises(ValueError, match="message"):
            fds.receive(pair[1])
        assert open_now() == before


def test_a_message_that_was_cut_is_refused(pair: Pair) -> None:
    pair[0].send(b" " * (fds.MAX_MESSAGE - 1) + b"{}")
    with pytest.raises(ValueError, match="cut"):
        fds.receive(pair[1])


def test_more_descriptors_than_fit_are_refused_and_all_closed(pair: Pair) -> None:
    with Path("/dev/null").open() as null:
        before = open_now()
        send_raw(pair[0], b"{}", *[null.fileno()] * (fds.MAX_DESCRIPTORS + 4))
        with pytest.raises(ValueError, match="cut"):
            fds.receive(pair[1])
        assert open_now() == before


def test_sealed_memory_cannot_be_changed_resized_or_unsealed() -> None:
    descriptor = fds.memfd("secret", b"content")
    assert fds.is_sealed(descriptor)
    for change in (
        lambda: os.write(descriptor, b"x"),
        lambda: os.ftruncate(descriptor, 0),
        lambda: os.ftruncate(descriptor, 100),
        lambda: fds.seal(descriptor),
    ):
        with pytest.raises(PermissionError):
            change()
    # Nor through a second opening of the same memory.
    again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.write(again, b"x")
    assert fds.read_all(descriptor) == b"content"
    fds.close_all([descriptor, again])


def test_memory_without_content_is_not_sealed_yet() -> None:
    descriptor = fds.memfd("later")
    assert not fds.is_sealed(descriptor)
    fds.write_all(descriptor, b"x")
    fds.seal(descriptor)
    assert fds.is_sealed(descriptor)
    os.close(descriptor)


def test_memory_does_not_survive_an_exec() -> None:
    descriptor = fds.memfd("secret", b"x")
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_reading_all_starts_at_the_beginning_and_leaves_the_offset() -> None:
    content = os.urandom(3 << 20)
    descriptor = fds.memfd("large", content)
    os.lseek(descriptor, 7, os.SEEK_SET)
    assert fds.read_all(descriptor) == content
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 7
    os.close(descriptor)


def test_closing_twice_is_no_error() -> None:
    descriptor = os.dup(0)
    fds.close_all([descriptor, descriptor, -1])
    assert not is_open(descriptor)
