"""One server that speaks the OpenAI API, up to the moment at which its answer begins.

    Asked ── POST ──✗ nothing received, or a habit of ours refused: once more ──> 200, body unread
                └─✗ another status ──> the error that it is, its cooldown, the parameter that it refuses

What a server says in words stays in the debug log, without a piece of the conversation. Knows no pieces of an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import orjson
from yarl import URL

from attune.service.errors import AttuneError, CallerError, DeadlineExceeded, TextTooLong
from attune.service.members import model_list
from attune.service.members.breaker import Cooldown
from attune.service.members.member import (
    LATER,
    GenerationRequest,
    OneMemberFailed,
    PassedFieldRefused,
    PromptFiltered,
    Reason,
    UnusableMember,
)
from attune.service.members.openai_errors import ServerRefusal, read_refusal, refusal_in
from attune.service.members.openai_request import request_body
from attune.service.members.openai_wire import BadAnswer
from attune.service.members.patience import Patience
from attune.service.members.redaction import told_word
from attune.service.members.roster_values import filled, values_of
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import ConnectionFailed, Exchange, PoolFull, UpstreamPool

log = logging.getLogger(__name__)

MAX_ERROR_BYTES = 16_384
MAX_NOTED = 32
CHECK_S = 5.0
LIST_S = 2.0
"""For the rest of a list of models, within the time of a check."""
COOLDOWN_S = 1.0
"""How long a server that answers 429 without naming a time is left alone."""

RETRIED_STATUSES = frozenset({429, 502, 503})
LIMITED_STATUSES = frozenset({429, 503, 529})
REFUSING_STATUSES = frozenset({400, 413, 422})
# What can be asked for in another way, each tried once: the field that is refused, and the habit that is dropped.
_ADJUSTABLE = frozenset({"stream", "stream_options"})


class _Again(Exception):
    """The same request may be sent once more.

    Args:
        wait_s: seconds before.
        failure: what it is if it is not.
        adjusted: whether it is sent otherwise than before; each habit is dropped once, so this ends.
    """

    def __init__(self, wait_s: float, failure: AttuneError, *, adjusted: bool = False) -> None:
        super().__init__()
        self.adjusted = adjusted
        self.wait_s = wait_s
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Asked:
    """One request on its way: what the caller asked, what is sent, and the limits.

    Args:
        request: with every default filled in.
        by_caller: fields of the body whose values the caller chose.
        patience: its limits.
        whole: whether it is asked for in one piece.
        late_s: seconds after which its caller goes to another member if it shows no sign; those of `patience` where nobody can stand in.
    """

    request: GenerationRequest
    by_caller: frozenset[str]
    patience: Patience
    whole: bool
    late_s: float


class OpenAIServer:
    """Where the requests of one member go.

    Args:
        member_id: its name, for errors and the log.
        spec: where the server is and how it speaks.
        connections: for answers; its small pool beside it is for checks.
        environ: where the values that the roster names are looked up, once.
        clock: seconds, for the cooldown.
        backoff_s: before the one retry, where the server names no time itself.

    Raises:
        UnusableMember: an environment variable is not set or cannot be used.
    """

    def __init__(
        self,
        member_id: str,
        spec: OpenAISpec,
        connections: UpstreamPool,
        environ: Mapping[str, str],
        clock: Callable[[], float],
        backoff_s: float,
    ) -> None:
        values = values_of(member_id, spec, environ)
        try:
            self._proxy = connections.prepare(spec.base_url)
            connections.checks.prepare(spec.base_url)
        except ValueError as error:
            raise UnusableMember(member_id, "base_url", str(error)) from error
        self._id = member_id
        self._spec = spec
        self._connections = connections
        self.secrets = (*values.values(), *(value for value in spec.headers.values() if isinstance(value, str)))
        self._headers = {"accept": "text/event-stream, application/json", "accept-encoding": "identity"}
        self._headers |= {"content-type": "application/json"} | filled(spec.headers, values)
        if spec.api_key_env:
            self._headers["authorization"] = f"Bearer {values[spec.api_key_env]}"
        self._query = filled(spec.query, values)
        self._backoff_s = backoff_s
        self._noted: set[str] = set()
        self._include_usage = spec.include_usage
        self.cooldown = Cooldown(clock)
        self.only_streams = spec.streaming == "always"
        self.never_streams = False
        self._list_read = False
        self.doubt = ""

    async def open(self, asked: Asked) -> Exchange:
        """Returns an answer of status 2xx with its body unread; asks once more if nothing was received or a habit of ours was refused.

        Raises:
            OneMemberFailed: no connection, another status, or too late.
            TextTooLong: the upstream says that the prompt does not fit its context.
            PromptFiltered: its filter refuses the prompt.
            PassedFieldRefused: it refuses a request of which a part was passed on as it came.
            DeadlineExceeded: the deadline passed.
        """
        retried = False
        while True:
            try:
                return await self._open_once(asked, last=retried)
            except _Again as again:
                # Compared with the limits before sleeping: an answer that would come too late is not waited for.
                if asyncio.get_running_loop().time() + again.wait_s >= asked.patience.until_s:
                    raise again.failure from None
                retried = retried or not again.adjusted
                if again.wait_s > 0.0:
                    await asyncio.sleep(again.wait_s)

    async def _open_once(self, asked: Asked, *, last: bool) -> Exchange:
        stream = self.only_streams or (not asked.whole and not self.never_streams)
        body = request_body(asked.request, self._spec, stream=stream, include_usage=self._include_usage)
        try:
            async with asyncio.timeout_at(asked.patience.until_s):
                exchange = await self._connections.open(
                    "POST",
                    self._url("chat/completions"),
                    headers=self._headers,
                    body=orjson.dumps(body),
                    proxy=self._proxy,
                    connect_s=self._spec.connect_s,
                    fresh=last,
                )
        except TimeoutError:
            raise self.late(asked) from None
        except PoolFull as error:
            raise self.failed("overloaded", str(error)) from None
        except ConnectionFailed as error:
            failure = self.failed("connect", error.detail)
            if last or (asked.request.stand_ins and not error.disconnected):
                raise failure from None
            raise _Again(0.0 if error.disconnected else self._backoff_s, failure) from None
        if 200 <= exchange.status < 300:
            return exchange
        try:
            raise await self._refused(exchange, asked, body, last=last)
        finally:
            exchange.close()

    async def _refused(self, exchange: Exchange, asked: Asked, body: Mapping[str, object], *, last: bool) -> Exception:
        """Returns the error for a status other than 2xx, or the wish to ask again."""
        status = exchange.status
        content = b""
        try:
            async with asyncio.timeout_at(min(asked.patience.until_s, asyncio.get_running_loop().time() + CHECK_S)):
                while len(content) < MAX_ERROR_BYTES and (part := await exchange.read()):
                    content += part
        except (TimeoutError, ConnectionFailed):
            pass  # what came of it says what it can
        refusal = read_refusal(
            content[:MAX_ERROR_BYTES], exchange.headers, asked.request, body.keys(), self.secrets, limited=status in LIMITED_STATUSES
        )
        failure = self._failure(status, refusal, asked)
        if isinstance(failure, TextTooLong | PromptFiltered):  # no habit of ours is why
            return failure
        if status in REFUSING_STATUSES and refusal.parameter in _ADJUSTABLE and self._adjust(refusal.parameter, asked):
            return _Again(0.0, failure, adjusted=True)
        if last:
            return failure
        if status in RETRIED_STATUSES and not (asked.request.stand_ins and (status == 429 or refusal.wait_s)):
            return _Again(self._backoff_s if refusal.wait_s is None else refusal.wait_s, failure)
        return failure

    def _adjust(self, parameter: str, asked: Asked) -> bool:
        """Drops the habit that the server refuses; returns whether that changes anything."""
        if parameter == "stream_options":
            changed, self._include_usage = self._include_usage, False
            return changed
        if asked.whole and not self.only_streams:
            self.only_streams = True
            return True
        changed = not asked.whole and not self.never_streams and self._spec.streaming == "as-asked"
        self.never_streams = self.never_streams or changed
        return changed

    def _failure(self, status: int, refusal: ServerRefusal, asked: Asked) -> OneMemberFailed | CallerError:
        """Returns the error that a refusal is, after taking note of what it asks for."""
        said = f"HTTP {status}" + (f" ({refusal.code})" if refusal.code else "")
        log.debug("member %s: %s: %s", self._id, said, refusal.words)
        inner = refusal.status or status
        if status == 413 or (refusal.too_long and (inner < 300 or inner in REFUSING_STATUSES)):
            return TextTooLong(f"member {self._id!r}: the prompt is longer than it reads: {said}")
        if refusal.filtered and (inner < 300 or inner in REFUSING_STATUSES):
            return PromptFiltered(f"member {self._id!r}: its server's filter refuses the conversation: {said}")
        limited = 429 in {status, inner}
        if refusal.wait_s is not None or limited:
            self.cooldown.ask(COOLDOWN_S if refusal.wait_s is None else refusal.wait_s)
        if limited:
            wait = "" if refusal.wait_s is None else f", it asks to wait {refusal.wait_s:.1f} s"
            return self.failed("overloaded", f"{said}{wait}")
        if refusal.parameter is not None and refusal.parameter not in asked.by_caller:
            told = f"refuses the field {refusal.parameter} of every request; the roster can leave it out"
            self._note_once(f"parameter {refusal.parameter}", told)
            return self.failed("refused", f"{said}: it refuses the field {refusal.parameter}", lasting=True)
        if inner not in REFUSING_STATUSES:
            return self.failed("refused" if refusal.about_content else "upstream" if status < 300 else "status", said)
        passed = asked.request.passed.names(self._spec.passes) if asked.request.passed else []
        # The limit is the caller's to lower. Messages are ours to write where none are passed on, and another server may take them.
        callers = {*asked.by_caller, self._spec.max_tokens_field} - ({"messages"} - {*passed})
        if (field := refusal.parameter or (refusal.about if refusal.about in callers else None)) is not None:
            self._note_once(f"parameter {field}", f"refuses the field {field} where a request names it")
            return PassedFieldRefused(f"member {self._id!r}: its server refuses the field {field} of this request: {said}")
        if passed and refusal.about is None:
            # Nobody else would hear of a server that takes none of it: the caller is told, or another member stands in.
            names = ", ".join(passed)
            self._note_once(f"passed {names}", f"refuses a request with {names} passed on; where it always does, `passes` can leave it out")
            told = f"refuses this request and names no field; passed on as the caller wrote it: {names}: {said}"
            return PassedFieldRefused(f"member {self._id!r}: its server {told}")
        return self.failed("refused", said)

    def _url(self, path: str) -> URL:
        url = URL(f"{self._spec.base_url}/{path}")
        return url.with_query(self._query) if self._query else url

    async def check(self) -> None:
        """Returns if the server answers and takes the key.

        `GET /models` costs nothing anywhere; a server that does not know or breaks on that route is there all the same.

        Raises:
            OneMemberFailed: it does not, within seconds.
        """
        exchange: Exchange | None = None
        try:
            async with asyncio.timeout(self._spec.connect_s + CHECK_S):
                exchange = await self._connections.checks.open(
                    "GET", self._url("models"), headers=self._headers, body=None, proxy=self._proxy, connect_s=self._spec.connect_s
                )
            if exchange.status in {401, 403, 502, 503, 504}:
                raise self.failed("status", f"HTTP {exchange.status}")
            if exchange.status == 200 and not self._list_read:
                await self._read_list(exchange)
        except TimeoutError:
            raise self.failed("timeout", f"its list of models did not come within {self._spec.connect_s + CHECK_S:g} s") from None
        except ConnectionFailed as error:
            raise self.failed("connect", error.detail) from None
        except PoolFull as error:
            raise self.failed("overloaded", str(error)) from None
        finally:
            if exchange is not None:
                exchange.close()

    async def _read_list(self, exchange: Exchange) -> None:
        """Reads the list of models once, and notes where it does not name ours; a list that does not come is asked for another time."""
        content = b""
        try:
            async with asyncio.timeout(LIST_S):
                while len(content) <= model_list.MOST_BYTES and (part := await exchange.read()):
                    content += part
        except (TimeoutError, ConnectionFailed):
            return
        self._list_read = True
        self.doubt = model_list.doubt_of(self._spec.model, content) if len(content) <= model_list.MOST_BYTES else ""
        if self.doubt:
            log.warning("member %s: %s", self._id, self.doubt)

    def unusable(self, error: BadAnswer, asked: Asked, exchange: Exchange | None) -> OneMemberFailed | CallerError:
        """Returns the error of an answer under a status that says success and that cannot be used."""
        if error.said is None or exchange is None:
            return self.failed(error.reason, error.detail)
        refusal = refusal_in(error.said, "", exchange.headers, asked.request, (), self.secrets, limited=False)
        if refusal.status == 429:
            again = refusal_in(error.said, "", exchange.headers, asked.request, (), self.secrets, limited=True)
            refusal = replace(refusal, wait_s=again.wait_s)
        return self._failure(exchange.status, refusal, asked)

    def late(self, asked: Asked) -> OneMemberFailed | DeadlineExceeded:
        """Returns the error of the limit that has passed."""
        patience = asked.patience
        if patience.is_deadline:
            return DeadlineExceeded(f"member {self._id!r}: its answer was not complete before the deadline")
        return self.failed("timeout", patience.said(), lasting=patience.hung)

    def failed(self, reason: Reason, detail: str, *, lasting: bool | None = None, left_alone_s: float = 0.0) -> OneMemberFailed:
        """Returns the error of this member, which is not asked for the next `left_alone_s`, or for as long as it asked for."""
        return OneMemberFailed(
            self._id, reason, detail, lasting=lasting, retry_after_s=self.cooldown.left_s if reason in LATER else left_alone_s
        )

    def note(self, request: GenerationRequest, kind: str, name: str) -> None:
        """Logs a field that is left out, or a word that is not known, once."""
        key = f"{kind} {name}"
        if key in self._noted or len(self._noted) >= MAX_NOTED:  # as of every piece with a thought: it is searched for no second time
            return
        shown = told_word(name.removeprefix("delta.").removeprefix("message."), request, self.secrets) or "a name that is not shown"
        told = (
            f"sends the field {shown}, which is left out"
            if kind == "field"
            else f"ends an answer with {kind} {shown}, which is taken for an end"
        )
        self._note_once(key, told)

    def _note_once(self, key: str, sentence: str) -> None:
        if key not in self._noted and len(self._noted) < MAX_NOTED:
            self._noted.add(key)
            log.warning("member %s: the upstream %s", self._id, sentence)
