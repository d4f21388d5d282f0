"""A member on any server that speaks the OpenAI API: vLLM, TGI, llama.cpp, `transformers serve`, a hosted model.

    request ── cooldown? breaker? ── OpenAIServer ──> 200 ── AnswerReader ──> pieces, Finish

Where nobody reads the pieces the answer is asked for in one, unless the server is slow or only streams. Every way out
closes the upstream's connection at once and without awaiting, which is how such servers learn to stop. Knows no other member.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping

from attune.service.errors import AttuneError, DeadlineExceeded
from attune.service.members.breaker import AttemptEnd, Breaker, State
from attune.service.members.member import Event, GenerationRequest, OneMemberFailed, TextPiece
from attune.service.members.openai_answer import AnswerReader
from attune.service.members.openai_server import Asked, OpenAIServer
from attune.service.members.openai_wire import BadAnswer
from attune.service.members.patience import MemberPace, Patience, first_limit_s
from attune.service.members.pool import ConnectionFailed, Exchange, UpstreamPool
from attune.service.members.spec import OpenAISpec


class OpenAIMember:
    """One model of one server.

    Args:
        member_id: its name in the portfolio.
        spec: where it is and how long to wait.
        connections: shared by all members on servers.
        environ: where the values that the roster names are looked up, once.
        clock: seconds, for breaker and cooldown.
        backoff_s: seconds before the one retry, where the upstream names none itself.
        observe_breaker: told every change of the circuit breaker.

    Raises:
        UnusableMember: an environment variable is not set or cannot be used.
    """

    def __init__(
        self,
        member_id: str,
        spec: OpenAISpec,
        connections: UpstreamPool,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        backoff_s: float = 0.25,
        observe_breaker: Callable[[State], None] = lambda _state: None,
    ) -> None:
        self._id = member_id
        self._spec = spec
        self._connections = connections
        self._server = OpenAIServer(member_id, spec, connections, environ, clock, backoff_s)
        self._breaker = Breaker(clock, spec.failures_to_open, spec.open_s, observe_breaker)
        self._pace = MemberPace(spec.first_event_s)

    @property
    def id(self) -> str:
        """The name under which the portfolio knows this member."""
        return self._id

    @property
    def breaker(self) -> State:
        """The state of the circuit breaker."""
        return self._breaker.state

    async def stream(self, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        asked = self._asked(request, deadline_s)
        patience, exchange = asked.patience, None
        await self._cooled_down(asked)
        attempt = self._breaker.enter()
        if attempt.wait_s > 0.0:
            failures = self._spec.failures_to_open
            raise self._server.failed("breaker-open", f"not tried for another {attempt.wait_s:.1f} s after {failures} failures in a row")
        end: AttemptEnd = "undecided"
        try:
            exchange = await self._server.open(asked)
            reader = AnswerReader(asked.request, self._spec, exchange.media_type, lambda *told: self._server.note(request, *told))
            patience.arm(exchange.close)
            while not reader.ended and (received := await self._part(exchange, reader, asked)):
                if text := _pushed(reader, received, patience):
                    end = "succeeded"
                    yield TextPiece(text)
            text, finish = reader.end()
            end = "succeeded"
            self._pace.answered(patience.first_event_s, asyncio.get_running_loop().time() - patience.began_s)
            patience.disarm()
            self._connections.settle(exchange)
            if text:
                yield TextPiece(text)
            yield finish
        except (AttuneError, BadAnswer) as error:
            failure = error if isinstance(error, AttuneError) else self._server.unusable(error, asked, exchange)
            if asked.whole and patience.until_s <= asyncio.get_running_loop().time():
                self._pace.was_late()
            if _opens_breaker(failure, patience, begun=end == "succeeded"):
                end = "failed"
            raise failure from None
        finally:
            patience.disarm()
            if exchange is not None:
                exchange.close()
            self._breaker.leave(attempt, end)

    async def check(self) -> None:
        cooldown_s = self._server.cooldown.left_s
        if cooldown_s > 0.0:
            raise self._server.failed("cooling-down", f"it asked to be left alone for another {cooldown_s:.1f} s")
        if self._breaker.state == "open":
            raise self._server.failed("breaker-open", "it failed too often a moment ago")
        await self._server.check()

    async def aclose(self) -> None:
        """Does nothing: the connections belong to whoever made them, and streams hold their own."""

    def _asked(self, request: GenerationRequest, deadline_s: float) -> Asked:
        """Returns the request with its defaults and limits, and whether it is asked for in one piece."""
        left_s = max(0.0, deadline_s - asyncio.get_running_loop().time())
        limit_s, stand_ins = self._spec.first_event_s, request.stand_ins
        whole = self._server.never_streams or not (request.streamed or self._server.only_streams)
        if whole and stand_ins and not self._server.never_streams:
            # There is no sign of life before a whole answer: only one that usually comes early enough is asked for so.
            whole = self._pace.whole_s <= min(limit_s, left_s) / (stand_ins + 1)
        if whole:
            first_s = first_limit_s(
                max(limit_s, self._spec.first_text_s) if not stand_ins else limit_s, self._pace.whole_s, stand_ins, left_s
            )
        else:
            first_s = first_limit_s(limit_s, self._pace.first_s, stand_ins, left_s)
        given = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed, "stop": request.stop or None}
        by_caller = frozenset(name for name, value in given.items() if value is not None)
        filled = self._spec.defaults.applied_to(request)
        return Asked(filled, by_caller, Patience(self._spec, deadline_s, first_s, whole=whole), whole)

    async def _cooled_down(self, asked: Asked) -> None:
        """Returns when the server may be asked: at once, or, where nobody can stand in, after the time that it named."""
        wait_s = self._server.cooldown.left_s
        if wait_s <= 0.0:
            return
        if asked.request.stand_ins or asyncio.get_running_loop().time() + wait_s >= asked.patience.until_s:
            raise self._server.failed("cooling-down", f"it asked to be left alone for another {wait_s:.1f} s")
        await asyncio.sleep(wait_s)

    async def _part(self, exchange: Exchange, reader: AnswerReader, asked: Asked) -> bytes:
        """Returns the next bytes of the body; none at its end, or where it broke off, which the reader is told."""
        try:
            return await exchange.read()
        except ConnectionFailed as error:
            if asked.patience.rang and not asked.patience.is_complete:
                raise self._server.late(asked) from None
            exchange.close()
            reader.broken = error.detail
            return b""


def _pushed(reader: AnswerReader, received: bytes, patience: Patience) -> str:
    """Returns the text that these bytes complete; moves the limit if they are a sign of the answer."""
    signs = reader.signs
    text = reader.push(received)
    if reader.signs > signs:
        patience.heard(begun=reader.begun, finishing=reader.finishing)
    return text


def _opens_breaker(failure: AttuneError, patience: Patience, *, begun: bool) -> bool:
    """Whether a failure counts: the next request would meet it too. An upstream that hangs past every deadline does."""
    if isinstance(failure, OneMemberFailed):
        return failure.lasting
    return isinstance(failure, DeadlineExceeded) and patience.hung and not begun
