"""What bodies hold is counted while they are read, of large ones until they are answered; however it ends, all of it is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.types import Message, Receive

from attune.service.errors import AttuneError, BodyTooSlow, Overloaded, TooLarge, UnsupportedEncoding
from attune.service.http.bodies import HALF_READ, LARGE_BYTES_PER_S, ORDINARY_BYTES, Bodies, ClientLeft, UnsupportedTransfer
from attune.service.http.heads import by_name

LARGE = ORDINARY_BYTES + 1000


def coming(*chunks: bytes, ends: bool = True) -> Receive:
    """Returns what gives these pieces of a body, and then, if it does not end, that the caller has left."""
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": chunk, "more_body": not (ends and left == 0)} for left, chunk in enumerate(chunks[::-1])][::-1]
    )

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    return receive


async def test_a_large_body_is_held_until_it_is_let_go_and_an_ordinary_one_is_not():
    bodies = Bodies(2500, 5.0)
    first = await bodies.read(coming(b"a" * ORDINARY_BYTES, b"b" * 1000), {}, LARGE)
    second = await bodies.read(coming(b"a" * LARGE), {}, LARGE)
    assert (len(first), bodies.large_bytes, bodies.half_read_bytes) == (LARGE, 2000, 0)
    with pytest.raises(Overloaded, match="more than 2,500 bytes together"):
        await bodies.read(coming(b"a" * LARGE), {}, LARGE)
    assert await bodies.read(coming(b"a" * ORDINARY_BYTES), {}, LARGE)
    bodies.let_go(first)
    bodies.let_go(second)
    assert bodies.large_bytes == 0


async def test_a_large_body_for_which_there_is_no_room_is_not_read():
    bodies = Bodies(500, 5.0)
    with pytest.raises(Overloaded):
        await bodies.read(coming(), {b"content-length": str(LARGE).encode()}, LARGE)


@pytest.mark.parametrize(
    ("sent", "headers", "error"),
    [
        (coming(b"a" * LARGE, ends=False), {}, ClientLeft),
        (coming(b"a" * LARGE, b"a" * LARGE), {}, TooLarge),
        (coming(b"\xff" * LARGE), {b"content-type": b"application/json; charset=latin-1"}, UnsupportedEncoding),
        (coming(b"a" * LARGE), {b"transfer-encoding": b"gzip, chunked"}, UnsupportedTransfer),
        (coming(b"a" * LARGE), {b"transfer-encoding": b",Chunked ,deflate"}, UnsupportedTransfer),
    ],
)
async def test_of_a_body_that_is_refused_nothing_stays_held(sent: Receive, headers: dict[bytes, bytes], error: type[AttuneError]):
    bodies = Bodies(10**9, 5.0)
    with pytest.raises(error):
        await bodies.read(sent, headers, LARGE)
    assert (bodies.large_bytes, bodies.half_read_bytes) == (0, 0)


async def test_a_body_is_read_that_two_lines_say_is_as_it_is():
    sent = by_name([(b"content-encoding", b"identity"), (b"content-encoding", b"Identity"), (b"transfer-encoding", b"chunked")])
    assert await Bodies(0, 5.0).read(coming(b"as it is"), sent, LARGE) == b"as it is"


async def test_half_read_bodies_have_a_bound_of_their_own():
    bodies, chunk = Bodies(0, 60.0), b"a" * ORDINARY_BYTES
    reading = [asyncio.ensure_future(bodies.read(then_silent(chunk), {}, LARGE)) for _ in range(HALF_READ + 1)]
    done, left = await asyncio.wait(reading, return_when=asyncio.FIRST_EXCEPTION)
    assert [str(one.exception()) for one in done] == [f"bodies that are being read hold more than {HALF_READ * ORDINARY_BYTES:,} bytes"]
    for one in left:
        one.cancel()
    await asyncio.wait(left)
    assert bodies.half_read_bytes == 0


def then_silent(*chunks: bytes) -> Receive:
    """Returns what gives these pieces of a body and then waits for ever."""
    messages = iter([{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks])

    async def receive() -> Message:
        message = next(messages, None)
        return message or await asyncio.get_running_loop().create_future()

    return receive


def late(first: bytes, second: bytes) -> Receive:
    """Returns what gives a body in two pieces, the second a while after the first."""
    silent = then_silent(first)

    async def receive() -> Message:
        try:
            return await asyncio.wait_for(silent(), 0.05)
        except TimeoutError:
            return {"type": "http.request", "body": second, "more_body": False}

    return receive


async def test_a_large_body_has_more_time_by_what_came_of_it():
    with pytest.raises(BodyTooSlow, match=r"within 0\.02 s$"):
        await Bodies(10**9, 0.02).read(late(b"a" * ORDINARY_BYTES, b"b"), {}, LARGE)
    larger = ORDINARY_BYTES + 20 * LARGE_BYTES_PER_S
    assert len(await Bodies(10**9, 0.02).read(late(b"a" * larger, b"b"), {}, 2 * larger)) == larger + 1
