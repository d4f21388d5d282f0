"""A member on any server that speaks the OpenAI API: vLLM, TGI, llama.cpp, `transformers serve`, a hosted model.

    request ── breaker? ── POST ──✗ nothing received: once more ──> 200 ── events ── stop strings ──> pieces, Finish

One shared httpx client; its pool is the bound on connections. When the caller leaves, the upstream's connection is
closed, which is how such servers learn to stop. Errors of httpx end here. Knows no other member.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Literal, cast

import httpx

from attune.service.errors import DeadlineExceeded, TextTooLong
from attune.service.members.breaker import Breaker, State, Verdict
from attune.service.members.member import (
    Event,
    Finish,
    GenerationRequest,
    OneMemberFailed,
    Reason,
    TextPiece,
    UnusableMember,
    without_secrets,
)
from attune.service.members.openai_wire import DONE, BadAnswer, Chunk, EventReader, read_chunk, reason_in, request_body, retry_after_s
from attune.service.members.spec import OpenAISpec
from attune.service.members.writing import StopScanner

log = logging.getLogger(__name__)

MAX_ERROR_BYTES = 16_384
MAX_TEXT_BYTES_AFTER_END = 65_536
RETRIED_STATUSES = frozenset({429, 502, 503})
REFUSING_STATUSES = frozenset({400, 413, 422})
# Failures that the next request would meet too; a refusal says something about the request, a 429 that it lives.
BREAKING: frozenset[Reason] = frozenset({"connect", "timeout", "status", "protocol", "upstream"})


class _Retryable(OneMemberFailed):
    """A failure before anything was received, with the seconds that the upstream asks to wait before another try."""

    wait_s: float | None = None


class OpenAIMember:
    """One model of one server.

    Args:
        member_id: its name in the portfolio.
        spec: where it is and how long to wait.
        client: shared by all members; its limits bound the connections. Its own timeouts are not used.
        environ: where the API key is looked up, once.
        clock: seconds, for the circuit breaker.
        backoff_s: seconds before the one retry, where the upstream names none itself.
        observe_breaker: told every change of the circuit breaker.

    Raises:
        UnusableMember: the environment variable that should hold the key is not set.
    """

    def __init__(
        self,
        member_id: str,
        spec: OpenAISpec,
        client: httpx.AsyncClient,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        backoff_s: float = 0.25,
        observe_breaker: Callable[[State], None] = lambda _state: None,
    ) -> None:
        key = environ.get(spec.api_key_env, "") if spec.api_key_env else ""
        if spec.api_key_env and not key:
            raise UnusableMember(member_id, "api_key_env", f"the environment variable {spec.api_key_env} is not set")
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise UnusableMember(
                member_id, "api_key_env", f"the value of {spec.api_key_env} cannot stand in a header: spaces or other signs"
            )
        self._id = member_id
        self._spec = spec
        self._client = client
        self._key = key
        self._headers = {"accept": "text/event-stream, application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._base_url = spec.base_url.rstrip("/")
        self._timeout = httpx.Timeout(None, connect=spec.connect_s, pool=spec.connect_s)
        self._breaker = Breaker(clock, spec.failures_to_open, spec.open_s, observe_breaker)
        self._backoff_s = backoff_s
        self._named: set[str] = set()

    @property
    def id(self) -> str:
        """The name under which the portfolio knows this member."""
        return self._id

    @property
    def breaker(self) -> State:
        """The state of the circuit breaker."""
        return self._breaker.state

    async def stream(self, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        request = self._spec.defaults.applied_to(request)
        wait_s = self._breaker.enter()
        if wait_s > 0.0:
            raise self._failed(
                "breaker-open", f"not tried for another {wait_s:.1f} s after {self._spec.failures_to_open} failures in a row"
            )
        verdict: Verdict = "undecided"
        try:
            first_by_s = asyncio.get_running_loop().time() + self._spec.first_token_s
            response = await self._open(request, first_by_s, deadline_s)
            try:
                async with aclosing(self._answer(response, request, first_by_s, deadline_s)) as events:
                    async for event in events:
                        verdict = "succeeded"
                        yield event
            finally:
                await response.aclose()
        except DeadlineExceeded:
            # An upstream that hangs longer than any deadline must open the breaker too.
            verdict = "failed" if verdict == "undecided" else verdict
            raise
        except OneMemberFailed as error:
            verdict = "failed" if error.reason in BREAKING else "undecided"
            raise
        finally:
            self._breaker.leave(verdict)

    async def check(self) -> None:
        """Returns if the server answers and takes the key.

        `GET /models` costs nothing anywhere; a server that does not know or breaks on that route is there all the same.
        """
        if self._breaker.state == "open":
            raise self._failed("breaker-open", "it failed too often a moment ago")
        limit_s = asyncio.get_running_loop().time() + self._spec.connect_s + self._spec.between_tokens_s
        call = self._client.build_request("GET", f"{self._base_url}/models", headers=self._headers, timeout=self._timeout)
        response = await self._send(call, limit_s, limit_s + 1.0)
        try:
            if response.status_code in {401, 403, 502, 503, 504}:
                raise await self._refused(response, limit_s)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Does nothing: the client belongs to whoever made it, and streams hold their own connections."""

    # --- before the answer ----------------------------------------------------------------------------------------

    async def _open(self, request: GenerationRequest, first_by_s: float, deadline_s: float) -> httpx.Response:
        """Returns a response of status 200 whose body is a stream of events; tries twice if nothing was received.

        Raises:
            OneMemberFailed: no connection, another status, another kind of body, or too late.
            TooLarge: the upstream says that the prompt does not fit its context.
            DeadlineExceeded: the deadline passed.
        """
        try:
            return await self._open_once(request, first_by_s, deadline_s)
        except _Retryable as error:
            # Compared with both limits before sleeping: an answer that would come too late is not waited for.
            wait_s = self._backoff_s if error.wait_s is None else error.wait_s
            if asyncio.get_running_loop().time() + wait_s >= min(first_by_s, deadline_s):
                raise
            await asyncio.sleep(wait_s)
        return await self._open_once(request, first_by_s, deadline_s)

    async def _open_once(self, request: GenerationRequest, first_by_s: float, deadline_s: float) -> httpx.Response:
        body = request_body(request, self._spec.model, self._spec.max_tokens_field, include_usage=self._spec.include_usage)
        url = f"{self._base_url}/chat/completions"
        call = self._client.build_request("POST", url, json=body, headers=self._headers, timeout=self._timeout)
        response = await self._send(call, first_by_s, deadline_s)
        kind = response.headers.get("content-type", "")
        if response.status_code == 200 and kind.startswith("text/event-stream"):
            return response
        try:
            if response.status_code == 200:
                error: OneMemberFailed | TextTooLong = self._failed(
                    "protocol", f"the body is {kind or 'of no type'!r}, not text/event-stream"
                )
            else:
                error = await self._refused(response, min(first_by_s, deadline_s))
        finally:
            await response.aclose()
        raise error

    async def _send(self, call: httpx.Request, limit_s: float, deadline_s: float) -> httpx.Response:
        """Returns the response with its body unread, translating every failure of the connection."""
        try:
            async with asyncio.timeout_at(min(limit_s, deadline_s)):
                return await self._client.send(call, stream=True)
        except TimeoutError:
            raise self._late(limit_s, deadline_s, "no answer began") from None
        except httpx.PoolTimeout:
            raise self._failed("overloaded", f"no connection of the pool was free for {self._spec.connect_s} s") from None
        except httpx.TransportError as error:
            # Before a byte of the answer: refused, unreachable, or a kept-alive connection that the server closed meanwhile.
            raise self._failed("connect", f"{type(error).__name__}: {error}", retryable=True) from error

    async def _refused(self, response: httpx.Response, limit_s: float) -> OneMemberFailed | TextTooLong:
        """Returns the error for a status other than 200, with what the body says."""
        body = b""
        try:
            async with asyncio.timeout_at(limit_s):
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_ERROR_BYTES:
                        break
        except (TimeoutError, httpx.HTTPError):
            body = body or b"(its body could not be read)"
        said, code = reason_in(body[:MAX_ERROR_BYTES], response.headers.get("content-type", ""), (self._key,))
        status = response.status_code
        if code == "context_length_exceeded" or status == 413:
            return TextTooLong(f"member {self._id!r}: HTTP {status}: {said}")
        reason: Reason = "overloaded" if status == 429 else "refused" if status in REFUSING_STATUSES else "status"
        error = self._failed(reason, f"HTTP {status}: {said}", retryable=status in RETRIED_STATUSES)
        if isinstance(error, _Retryable):
            error.wait_s = retry_after_s(response.headers.get("retry-after"))
        return error

    # --- the answer -----------------------------------------------------------------------------------------------

    async def _answer(
        self, response: httpx.Response, request: GenerationRequest, first_by_s: float, deadline_s: float
    ) -> AsyncGenerator[Event, None]:
        """Yields the pieces and the finish of the stream in the response's body."""
        scanner = StopScanner(request.stop)
        finish: Literal["stop", "length"] | None = None
        usage: tuple[int, int] | None = None
        pieces = 0
        async with aclosing(self._chunks(response, first_by_s, deadline_s)) as chunks:
            async for chunk in chunks:
                usage = chunk.usage or usage
                if chunk.text and finish is not None:
                    raise self._failed("protocol", "more text came after finish_reason")
                pieces += bool(chunk.text)
                text = scanner.push(chunk.text) if chunk.text else ""
                if chunk.finish is not None:
                    finish = chunk.finish
                    text += scanner.close()
                if text:
                    yield TextPiece(text)
                if scanner.stopped:  # the upstream did not stop there itself: leave it
                    finish = "stop"
                    break
        if finish is None:
            raise self._failed("protocol", f"the stream ended after {pieces} pieces without a finish_reason")
        if usage is None:
            characters = sum(len(message.content) for message in request.messages)
            yield Finish(finish, max(1, characters // 4), pieces, "estimated")
        else:
            yield Finish(finish, *usage)

    async def _chunks(self, response: httpx.Response, first_by_s: float, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Yields the chunks up to the end of the stream; comments that keep the connection alive buy no time."""
        loop = asyncio.get_running_loop()
        events, limit_s, begun = EventReader(), first_by_s, False
        async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_bytes())) as parts:
            while (part := await self._next_part(parts, limit_s, deadline_s, begun=begun)) is not None:
                try:
                    for data in events.push(part):
                        if data == DONE:
                            await self._drain(parts, loop.time() + 1.0)
                            return
                        if not data:  # some proxies keep a connection alive with empty events
                            continue
                        chunk = read_chunk(data)
                        self._name(chunk)
                        begun = begun or bool(chunk.text)
                        yield chunk
                        if begun:
                            limit_s = loop.time() + self._spec.between_tokens_s
                except BadAnswer as error:
                    raise self._failed(error.reason, error.detail) from error

    async def _next_part(self, parts: AsyncIterator[bytes], limit_s: float, deadline_s: float, *, begun: bool) -> bytes | None:
        """Returns the next bytes of the body, None at its end."""
        try:
            async with asyncio.timeout_at(min(limit_s, deadline_s)):
                return await anext(parts, None)
        except TimeoutError:
            raise self._late(limit_s, deadline_s, "no next token came" if begun else "no first token came") from None
        except httpx.HTTPError as error:
            raise self._failed("protocol", f"the connection broke: {type(error).__name__}: {error}") from error

    async def _drain(self, parts: AsyncIterator[bytes], limit_s: float) -> None:
        """Reads the little that follows the end of the stream, so that the connection can serve again."""
        size = 0
        try:
            async with asyncio.timeout_at(limit_s):
                async for part in parts:
                    size += len(part)
                    if size > MAX_TEXT_BYTES_AFTER_END:
                        return
        except (TimeoutError, httpx.HTTPError):
            return  # the answer is complete; the connection is closed instead of kept

    def _name(self, chunk: Chunk) -> None:
        """Logs each field that is left out, once."""
        for name in chunk.unsupported:
            if name not in self._named and len(self._named) < 32:
                self._named.add(name)
                log.warning("member %s: the upstream sends %s, which is not supported and left out", self._id, name)

    # --- errors ---------------------------------------------------------------------------------------------------

    def _late(self, limit_s: float, deadline_s: float, missing: str) -> OneMemberFailed | DeadlineExceeded:
        """Returns the error of the limit that passed first."""
        if deadline_s <= limit_s:
            return DeadlineExceeded(f"member {self._id!r}: {missing} before the deadline")
        return self._failed(
            "timeout", f"{missing} within its limit (first token {self._spec.first_token_s} s, between {self._spec.between_tokens_s} s)"
        )

    def _failed(self, reason: Reason, detail: str, *, retryable: bool = False) -> OneMemberFailed:
        kind = _Retryable if retryable else OneMemberFailed
        return kind(self._id, reason, without_secrets(detail, (self._key,)))
