"""The synchronous client; see the package. `asynchronous` has the same methods: two spellings of one list, so that both are typed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from attune.client import bodies, requests
from attune.client.answers import Deleted, Done, Feedback, Generated, Portfolio, Routed, Scored, TakenBack, User
from attune.client.bodies import Answered, Lines
from attune.client.events import Event, Events
from attune.client.failures import AttuneUnreachable, failure_of
from attune.client.requests import Chosen, Request

Prompt = str | Sequence[Mapping[str, str]]


class Client:
    """Talks to one server; use it as a context manager, or close it.

    Args:
        url: of the server.
        key: API key; None for an open server.
        timeout_s: longest silence of the server, generation included.
        retries: how often a request that may be repeated is sent again.
        transport: in place of a network.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout_s: float = 120.0, retries: int = 3, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = requests.key_header(key)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    # --- score, route, generate ---------------------------------------------------------------------------------------

    def score(
        self,
        user: str,
        prompt: Prompt,
        responses: Sequence[str],
        *,
        context: str | None = None,
        family: str | None = None,
        explain: bool = False,
    ) -> Scored:
        """Returns the responses as this user would see them."""
        return self._answer(requests.score(user, prompt, responses, context=context, family=family, explain=explain or None), Scored)

    def route(self, user: str, prompt: Prompt, *, policy: str | None = None, record: bool = True, **options: Any) -> Routed:
        """Returns who should answer; `record=False` decides without keeping anything."""
        return self._answer(requests.route(user, prompt, policy=policy, record=None if record else False, **options), Routed)

    def generate(self, user: str, prompt: Prompt, *, candidates: int = 1, **options: Any) -> Generated:
        """Returns answers of the members that suit this user; `candidates=2` gives a pair of two different members."""
        return self._answer(requests.generate(user, prompt, candidates=candidates, **options), Generated)

    def stream(self, user: str, prompt: Prompt, *, candidates: int = 1, **options: Any) -> Iterator[Event]:
        """Yields `Started`, then every `Token` as it is written, then `Done` with the whole answer.

        Raises:
            AttuneFailed: the server refused, or the generation failed after it had begun.
            AttuneUnreachable: it cannot be reached, or the stream ended before the answer was whole; nothing is sent again.
        """
        request = requests.generate(user, prompt, candidates=candidates, stream=True, **options)
        events, lines, event = Events(), Lines(), None
        try:
            with self._http.stream(request.method, request.path, **requests.arguments(request)) as response:
                if not response.is_success:
                    raise failure_of(response.status_code, response.read(), response.headers)
                for piece in response.iter_bytes():
                    for line in lines.feed(piece):
                        for event in events.feed(line):
                            yield event
        except httpx.TransportError as error:
            raise AttuneUnreachable(requests.silence(self._http.base_url, request, error)) from error
        if not isinstance(event, Done):
            raise AttuneUnreachable(requests.broken_off(self._http.base_url, request))

    # --- feedback: each is applied once for its event id, however often it is sent ---------------------------------------

    def prefer(self, user: str, chosen: Chosen, *, over: Chosen, tie: bool = False, event_id: str | None = None) -> Feedback:
        """Says which of two candidates the user liked better; with `tie` that they liked both alike."""
        fields = {"chosen": requests.id_of(chosen), "rejected": requests.id_of(over), "tie": tie or None}
        return self._answer(requests.feedback(user, event_id, **fields), Feedback)

    def prefer_text(self, user: str, prompt: str, chosen: str, *, over: str, event_id: str | None = None) -> Feedback:
        """Says the same of two texts, whoever wrote them."""
        return self._answer(requests.feedback(user, event_id, prompt=prompt, chosen_text=chosen, rejected_text=over), Feedback)

    def rate(self, user: str, candidate: Chosen, rating: float, *, event_id: str | None = None) -> Feedback:
        """Says how much the user liked one candidate, from 0 to 1; thumbs are 0 and 1."""
        return self._answer(requests.feedback(user, event_id, candidate=requests.id_of(candidate), rating=rating), Feedback)

    def rank(self, user: str, best_first: Sequence[Chosen], *, event_id: str | None = None) -> Feedback:
        """Says in which order the user liked several candidates."""
        return self._answer(requests.feedback(user, event_id, ranking=[requests.id_of(one) for one in best_first]), Feedback)

    def keep(
        self, user: str, kept: Chosen, *, over: Chosen, how: Literal["regenerate", "edit", "copy"], event_id: str | None = None
    ) -> Feedback:
        """Says what the user did instead of choosing; it weighs less than a choice."""
        return self._answer(requests.feedback(user, event_id, kept=requests.id_of(kept), over=requests.id_of(over), how=how), Feedback)

    def feedback(self, user: str, *, event_id: str | None = None, **fields: Any) -> Feedback:
        """Sends feedback in any form of the contract."""
        return self._answer(requests.feedback(user, event_id, **fields), Feedback)

    def feedback_batch(self, items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Sends many pieces of feedback; returns one result or problem for each, in order."""
        return bodies.objects(self._send(requests.feedback_batch(items)))

    # --- users and portfolio ------------------------------------------------------------------------------------------

    def user(self, name: str) -> User:
        """Returns what is known of a user."""
        return self._answer(requests.user(name), User)

    def export(self, name: str) -> list[dict[str, Any]]:
        """Returns everything that is stored of a user, one object a line of the export."""
        return bodies.whole_export(self._send(requests.export(name)))

    def forget(self, name: str) -> Deleted:
        """Deletes everything of a user; returns the receipt, whose `deleted_before` tells a repeat from a user who was never seen."""
        return self._answer(requests.forget(name), Deleted)

    def take_back(self, name: str, event_id: str) -> TakenBack:
        """Takes one piece of feedback back, exactly."""
        return self._answer(requests.take_back(name, event_id), TakenBack)

    def merge(self, name: str, into: str, *, event_id: str | None = None) -> None:
        """Adds an anonymous user to a known one, once; what is learned of `name` later needs a merge with an `event_id` of its own."""
        self._send(requests.merge(name, into, event_id))

    def portfolio(self) -> Portfolio:
        """Returns the members and what is known of them."""
        return self._answer(requests.portfolio(), Portfolio)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _answer(self, request: Request, kind: type[Answered]) -> Answered:
        return bodies.document(self._send(request), kind)

    def _send(self, request: Request) -> httpx.Response:
        for attempt in range(self._retries + 1):
            response, broken = None, None
            try:
                response = self._http.request(request.method, request.path, **requests.arguments(request))
            except httpx.TransportError as error:
                broken = error
            wait_s = requests.pause_s(attempt, response, request, broken)
            if response is not None and response.is_success:
                return response
            if wait_s is None or attempt == self._retries:
                if response is None:
                    raise AttuneUnreachable(requests.silence(self._http.base_url, request, broken)) from broken
                raise failure_of(response.status_code, response.content, response.headers)
            time.sleep(wait_s)
        raise AssertionError("unreachable: the last attempt returns or raises")
