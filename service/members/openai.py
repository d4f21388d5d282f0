"""A member on any server that speaks the OpenAI API: vLLM, TGI, llama.cpp, `transformers serve`, a hosted model.

    request ── cooldown? silence? breaker? ── OpenAIServer ──> 200 ── AnswerReader ──> pieces, Finish
                                                    └─ no sign in time ──> another member; this one is listened to alone

Where nobody reads the pieces the answer is asked for in one, unless the server is slow or only streams. Every way out
closes the upstream's connection without awaiting, which is how such servers learn to stop. Knows no other member.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from attune.service.errors import AttuneError, DeadlineExceeded
from attune.service.members.breaker import Attempt, AttemptEnd, Breaker, State
from attune.service.members.member import Event, GenerationRequest, OneMemberFailed
from attune.service.members.openai_answer import AnswerReader
from attune.service.members.openai_server import Asked, OpenAIServer
from attune.service.members.openai_wire import BadAnswer
from attune.service.members.patience import MemberPace, Patience, late_after_s
from attune.service.members.silence import Silence, Waiting
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import ConnectionFailed, Exchange, UpstreamPool
from attune.service.members.verdicts import reason_of

log = logging.getLogger(__name__)

NOTICED_S = 0.5
"""A failure that kept its caller waiting for less costs the next one little; a longer one is remembered."""


@dataclass(slots=True)
class _Opened:
    """An answer from its first sign on.

    Args:
        exchange: the open answer; whoever has this closes it.
        reader: what has read it so far.
        text: the text that the first sign brought.
        over: whether there is nothing more to read.
    """

    exchange: Exchange
    reader: AnswerReader
    text: str = ""
    over: bool = False


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
        self._silence = Silence(clock, spec.open_s)
        self._last_failure = ""
        self.pace = MemberPace()

    @property
    def id(self) -> str:
        """The name under which the portfolio knows this member."""
        return self._id

    @property
    def breaker(self) -> State:
        """The state of the circuit breaker."""
        return self._breaker.state

    @property
    def passes(self) -> frozenset[str]:
        """What it sends to its server as the caller wrote it."""
        return self._spec.passes

    @property
    def doubt(self) -> str:
        """What a check found that speaks against this member though its server answers, in one sentence; empty where nothing does."""
        return self._server.doubt

    async def stream(self, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        asked = self._asked(request, deadline_s)
        patience, opened = asked.patience, None
        await self._cooled_down(asked)
        attempt = self._enter(asked)
        waiting = self._silence.enter()
        end: AttemptEnd = "undecided"
        try:
            opened = await self._opened(asked, waiting)
            pieces = opened.reader.pieces(opened.text)
            while pieces or not opened.over:
                for piece in pieces:
                    if piece.text or piece.calls:  # a server that thinks and never answers has failed
                        end = "succeeded"
                    yield piece
                pieces = opened.reader.pieces(await self._read(opened, asked, waiting))
            text, finish = opened.reader.end()
            pieces, end = opened.reader.pieces(text), "succeeded"
            self._silence.heard(waiting)
            self.pace.answered(patience.first_event_s, asyncio.get_running_loop().time() - patience.began_s)
            patience.disarm()
            self._connections.settle(opened.exchange)
            for piece in pieces:
                yield piece
            yield finish
        except (AttuneError, BadAnswer) as error:
            failure = error if isinstance(error, AttuneError) else self._server.unusable(error, asked, opened.exchange if opened else None)
            if self._is_lasting(failure, asked, waiting, begun=end == "succeeded"):
                end, self._last_failure = "failed", reason_of(self._id, failure)
            raise failure from None
        finally:
            if opened is not None:  # else its limits are those of the request that goes on listening, which would wait for ever without
                patience.disarm()
                opened.exchange.close()
            self._silence.leave(waiting)
            self._breaker.leave(attempt, end)

    async def check(self) -> None:
        cooldown_s = self._server.cooldown.left_s
        if cooldown_s > 0.0:
            raise self._server.failed("cooling-down", f"it asked to be left alone for another {cooldown_s:.1f} s")
        if self._breaker.state == "open":
            raise self._server.failed("breaker-open", f"it failed too often a moment ago, at last: {self._last_failure}")
        await self._server.check()

    async def aclose(self) -> None:
        """Ends what listens alone; the connections belong to whoever made them, and streams hold their own."""
        self._silence.close()

    def _asked(self, request: GenerationRequest, deadline_s: float) -> Asked:
        """Returns the request with its defaults and limits, and whether it is asked for in one piece."""
        left_s = max(0.0, deadline_s - asyncio.get_running_loop().time())
        limit_s, stand_ins = self._spec.first_event_s, request.stand_ins
        whole = self._server.never_streams or not (request.streamed or self._server.only_streams)
        if whole and stand_ins and not self._server.never_streams:
            # There is no sign of life before a whole answer: only one that is known to come early enough is asked for so.
            whole = self.pace.whole_s is not None and self.pace.whole_s <= min(limit_s, left_s) / (stand_ins + 1)
        if whole and not stand_ins:
            limit_s = max(limit_s, self._spec.first_text_s)
        late_s = late_after_s(limit_s, self.pace.whole_s if whole else self.pace.first_s, stand_ins, left_s)
        given = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed, "stop": request.stop or None}
        # No roster leaves messages out: a server that refuses them refuses this conversation.
        by_caller = frozenset({"messages", *(name for name, value in given.items() if value is not None)})
        if request.passed:
            by_caller |= request.passed.body(self._spec.passes).keys()
        filled = self._spec.defaults.applied_to(request)
        return Asked(filled, by_caller, Patience(self._spec, deadline_s, limit_s, whole=whole), whole, late_s)

    def _enter(self, asked: Asked) -> Attempt:
        """Returns leave to try; raises OneMemberFailed where the server is left alone."""
        if asked.request.stand_ins and self._silence.lasts:
            raise self._server.failed("silent", "not tried: another request has waited for a sign of its answer in vain")
        attempt = self._breaker.enter()
        if attempt.wait_s > 0.0:
            after = f"after {self._spec.failures_to_open} failures in a row, at last: {self._last_failure}"
            raise self._server.failed("breaker-open", f"not tried for another {attempt.wait_s:.1f} s {after}", left_alone_s=attempt.wait_s)
        return attempt

    def _is_lasting(self, failure: AttuneError, asked: Asked, waiting: Waiting, *, begun: bool) -> bool:
        """Whether the next request would meet this failure too; takes note of the wait that it cost."""
        patience = asked.patience
        if asked.whole and patience.until_s <= asyncio.get_running_loop().time():
            self.pace.was_late()
        if not _opens_breaker(failure, patience, begun=begun):
            return False
        if patience.silent_s >= NOTICED_S:
            self._silence.fell(waiting)
        return True

    async def _cooled_down(self, asked: Asked) -> None:
        """Returns when the server may be asked: at once, or, where nobody can stand in, after the time that it named."""
        wait_s = self._server.cooldown.left_s
        if wait_s <= 0.0:
            return
        if asked.request.stand_ins or asyncio.get_running_loop().time() + wait_s >= asked.patience.until_s:
            raise self._server.failed("cooling-down", f"it asked to be left alone for another {wait_s:.1f} s")
        await asyncio.sleep(wait_s)

    async def _opened(self, asked: Asked, waiting: Waiting) -> _Opened:
        """Returns the answer at its first sign; where others can stand in, only if that comes before it is late.

        Raises:
            OneMemberFailed, TextTooLong, DeadlineExceeded: see `OpenAIServer.open`; nothing is left open, or it is listened to alone.
        """
        if not asked.request.stand_ins:
            return await self._open(asked, waiting)
        opening, begins = asyncio.ensure_future(self._open(asked, waiting)), self._silence.begins
        either: set[asyncio.Future[Any]] = {opening, begins}
        try:
            await asyncio.wait(either, timeout=asked.late_s, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                return opening.result()
        except asyncio.CancelledError:
            _abandon(opening)
            raise
        if begins.done():
            _abandon(opening)
            raise self._server.failed("silent", "left: another request has waited for a sign of its answer in vain")
        if asked.whole:
            self.pace.was_late()
        is_long = asked.late_s >= NOTICED_S  # less is left of a deadline, and says little about the server
        if is_long and self._silence.fell(waiting) and self._silence.listen(opening):
            opening.add_done_callback(partial(self._listened, asked.patience, waiting))
        else:
            _abandon(opening)
        raise self._server.failed("timeout", asked.patience.said_late(asked.late_s), lasting=is_long)

    async def _open(self, asked: Asked, waiting: Waiting) -> _Opened:
        """Returns the answer at its first sign, whenever that comes within the limits; raises what `OpenAIServer.open` raises."""
        exchange = await self._server.open(asked)
        try:
            server, request = self._server, asked.request
            reader = AnswerReader(request, self._spec, exchange.media_type, lambda *told: server.note(request, *told), server.secrets)
            opened = _Opened(exchange, reader, over=reader.ended)
            asked.patience.arm(exchange.close)
            while not (opened.over or reader.signs):
                opened.text += await self._read(opened, asked, waiting)
        except BaseException as error:
            asked.patience.disarm()
            exchange.close()
            if isinstance(error, BadAnswer):
                raise self._server.unusable(error, asked, exchange) from None
            raise
        return opened

    async def _read(self, opened: _Opened, asked: Asked, waiting: Waiting) -> str:
        """Returns the text that the next bytes complete, none if it is over; moves the limit if they are a sign of the answer."""
        if opened.over:
            return ""
        received = await self._part(opened.exchange, opened.reader, asked)
        if not received:
            opened.over = True
            return ""
        signs = opened.reader.signs
        text = opened.reader.push(received)
        if opened.reader.signs > signs:
            asked.patience.heard(begun=opened.reader.begun, finishing=opened.reader.finishing)
            self._silence.heard(waiting)
        opened.over = opened.reader.ended
        return text

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

    def _listened(self, patience: Patience, waiting: Waiting, opening: asyncio.Task[_Opened]) -> None:
        """Takes note of what came of a request whose caller has gone: the pace of a slow server, or a longer silence."""
        if opening.cancelled():
            return
        error = opening.exception()
        if error is None:
            _close(opening)
            patience.disarm()
            self._silence.heard(waiting)
            self.pace.began_late(asyncio.get_running_loop().time() - patience.began_s)
        elif isinstance(error, AttuneError):
            self._silence.fell(waiting)
        else:
            log.error("member %s: the answer that was listened to failed", self._id, exc_info=error)


def _abandon(opening: asyncio.Task[_Opened]) -> None:
    """Leaves an answer that nobody waits for, at whatever stage it is."""
    opening.cancel()
    opening.add_done_callback(_close)


def _close(opening: asyncio.Task[_Opened]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().exchange.close()


def _opens_breaker(failure: AttuneError, patience: Patience, *, begun: bool) -> bool:
    """Whether a failure counts: the next request would meet it too. An upstream that hangs past every deadline does."""
    if isinstance(failure, OneMemberFailed):
        return failure.lasting
    return isinstance(failure, DeadlineExceeded) and patience.hung and not begun
