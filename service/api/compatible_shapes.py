"""Shapes of compatible answers, as clients of OpenAI, Cohere and Jina read them: for the OpenAPI document, as `shapes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from attune.service.members.member import FinishReason
from attune.service.usecases.people import Personalization


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """What a choice says.

    Attributes:
        role: always `assistant`
        content: the text, a refusal's too; null where there are calls of tools and no text
        refusal: what the member's server says in place of an answer; null where it does not refuse
        tool_calls: the tools that a member calls which passes `tools` to its server; missing where it calls none
    """

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class ChatChoice:
    """One choice, and what only Attune says of it.

    Attributes:
        index: place of the choice, from 0
        message: what it says
        logprobs: always null
        finish_reason: `stop`, `length` where it was cut at the limit of tokens, `content_filter` where its server's filter cut it, or
            `tool_calls` where it waits for the results of the tools that it calls
        candidate_id: names the answer for `/feedback`; null where nobody was named as `user`, or nothing could be kept
        member: the member that wrote it
        score: its reward for this user, in logits; only with `attune.score`
        std: standard deviation of the score; only with `attune.score`
        rank: 1 for the choice with the highest score; only with `attune.score`
    """

    index: int
    message: ChatMessage
    logprobs: None
    finish_reason: FinishReason
    candidate_id: str | None
    member: str
    score: float | None = None
    std: float | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """Tokens, as the members count them.

    Attributes:
        prompt_tokens: of the prompt, once for all choices
        completion_tokens: of all choices
        total_tokens: their sum
        prompt_tokens_details: as the member's server sent them, and so is what else it says of its counts; of one choice alone
        completion_tokens_details: likewise
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ChatTold:
    """What a client that knows Attune may want; a stream has it in the chunk in which the last choice ends.

    Attributes:
        decision_id: names the decision for `/feedback`; null if it was not kept
        bundle: the bundle that decided
        personalization: `applied`, `prior` or `unavailable`, as on native routes
        comparisons: what is known of the user
        ignored: fields of the request that were read and not used
    """

    decision_id: str | None
    bundle: str
    personalization: Personalization
    comparisons: int
    ignored: list[str]


@dataclass(frozen=True, slots=True)
class ResponseUsage:
    """Tokens of a response, as the member's server counts them.

    Attributes:
        input_tokens: of what was read
        input_tokens_details: `cached_tokens`, and what else the server says of it
        output_tokens: of the answer
        output_tokens_details: `reasoning_tokens`, and what else the server says of it
        total_tokens: their sum
    """

    input_tokens: int
    input_tokens_details: dict[str, Any]
    output_tokens: int
    output_tokens_details: dict[str, Any]
    total_tokens: int


@dataclass(frozen=True, slots=True)
class ResponseTold:
    """What a client that knows Attune may want of a response.

    Attributes:
        decision_id: names the decision; null if it was not kept
        candidate_id: names the answer for `/feedback`; null where nobody was named as `user`, or nothing could be kept
        member: the member that wrote it
        bundle: the bundle that decided
        personalization: `applied`, `prior` or `unavailable`, as on native routes
        comparisons: what is known of the user
        ignored: what the request offered and this member did not use
        score: the answer's reward for this user, in logits; only with `attune.score`
        std: standard deviation of the score; only with `attune.score`
    """

    decision_id: str | None
    candidate_id: str | None
    member: str
    bundle: str
    personalization: Personalization
    comparisons: int
    ignored: list[str]
    score: float | None = None
    std: float | None = None


@dataclass(frozen=True, slots=True)
class ResponseObject:
    """Answer of `POST /v1/responses` without `stream`; the fields of the request come back in it as well.

    Attributes:
        id: of this response; nothing can be fetched by it
        object: always `response`
        created_at: Unix seconds
        status: `completed`, or `incomplete` where the answer was cut
        incomplete_details: `reason`: `max_output_tokens` or `content_filter`; null where the answer is complete
        error: always null: an error has a status of its own
        model: the member that wrote it
        output: `reasoning` where the member passes its thoughts, a `message` with the text or a refusal, and a `function_call` or
            `custom_tool_call` for each tool that is called
        store: always false
        usage: tokens
        attune: what OpenAI's API has no field for
        service_tier: as the member's server says; missing where it says nothing
    """

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    incomplete_details: dict[str, Any] | None
    error: None
    model: str
    output: list[dict[str, Any]]
    store: Literal[False]
    usage: ResponseUsage
    attune: ResponseTold
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    """Answer of `POST /v1/chat/completions` without `stream`.

    What else a member's server says of a choice and its message is passed on as it said it, and of the whole answer where there is one
    choice; not its thoughts.

    Attributes:
        id: of this completion
        object: always `chat.completion`
        created: Unix seconds
        model: the member that wrote the first choice
        system_fingerprint: what the member's server says where there is one choice; else the bundle that decided
        service_tier: as the member's server says, where there is one choice
        choices: the answers
        usage: tokens
        attune: what OpenAI's API has no field for
    """

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: ChatUsage
    attune: ChatTold
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One result.

    Attributes:
        index: place of the document in the request, from 0
        relevance_score: logistic function of its reward for this user, from 0 to 1; the order is that of the rewards
        document: the document's text, under `text`; only with `return_documents`
    """

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class RankedText:
    """One result of a request with `texts`; they come best first.

    Attributes:
        index: place of the text in the request, from 0
        score: logistic function of its reward for this user, from 0 to 1; with `raw_scores` the reward, and -1000 for a text without words
        text: the text; only with `return_text`
    """

    index: int
    score: float
    text: str | None = None


@dataclass(frozen=True, slots=True)
class RerankUsage:
    """Tokens through the scorer.

    Attributes:
        total_tokens: all of them
        prompt_tokens: the same
        truncated_tokens: those that the scorer had no room for; missing if there were none
        unknown_tokens: tokens that the trunk's vocabulary does not know, on which a score rests badly; missing if there were none
    """

    total_tokens: int
    prompt_tokens: int
    truncated_tokens: int | None = None
    unknown_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class RerankAnswer:
    """Answer of the three rerank routes.

    Attributes:
        id: of this answer
        model: the reward family that scored
        results: best first, at most `top_n`
        usage: tokens, as Jina has them
        meta: version and billed units, as Cohere has them
    """

    id: str
    model: str
    results: list[RankedDocument]
    usage: RerankUsage
    meta: dict[str, Any]
