"""Attune behind a LiteLLM proxy that you have already: the proxy answers, `/route` says by which model, thumbs go to `/feedback`.

In the proxy's config.yaml, name the models as the members of Attune's roster are named, and this module as a callback:

    model_list:
      - {model_name: concise, litellm_params: {model: openai/gpt-4o-mini}}
      - {model_name: detailed, litellm_params: {model: anthropic/claude-sonnet-4-5}}
    litellm_settings:
      callbacks: litellm_gateway.attune

Clients ask for the model `auto` and name their `user`. Where Attune does not answer within `ATTUNE_WITHIN_S` (1), `FALLBACK` does.
"""

from __future__ import annotations

import os
from typing import Any

import httpx

URL = os.environ.get("ATTUNE_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("ATTUNE_KEY", "")
FALLBACK = os.environ.get("ATTUNE_FALLBACK", "concise")
_HEADERS = {"authorization": f"Bearer {KEY}"} if KEY else {}
_client = httpx.AsyncClient(headers=_HEADERS, timeout=float(os.environ.get("ATTUNE_WITHIN_S", "1")))


async def choose(user: str, messages: list[dict[str, Any]]) -> tuple[str, str | None]:
    """Returns the model that is to answer this user, and the id of the decision; the fallback and None where Attune is out of reach."""
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages if isinstance(turn.get("content"), str)]
    try:
        answer = await _client.post(f"{URL}/route", json={"user": user, "messages": turns})
        told = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError):  # away, too late, or a page of something between
        return FALLBACK, None
    return told["routing"]["member"], told["decision_id"]


async def thumb(user: str, decision: str, text: str, *, up: bool, event_id: str) -> bool:
    """Returns whether a thumb on an answer of the gateway was learned; where Attune is away too, the same event id may be sent again."""
    told = {"user": user, "decision_id": decision, "response_text": text, "rating": float(up), "event_id": event_id}
    try:
        return (await _client.post(f"{URL}/feedback", json=told)).is_success
    except httpx.HTTPError:
        return False


try:
    from litellm.integrations.custom_logger import CustomLogger
except ModuleNotFoundError:  # `choose` and `thumb` are of use without it
    attune = None
else:

    class AttuneRouting(CustomLogger):
        """Puts the member that suits the user in the place of the model `auto`."""

        async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str) -> dict[str, Any]:
            """Returns the request with its model chosen; the decision's id is in its metadata, and so in LiteLLM's logs."""
            del user_api_key_dict, cache, call_type
            if data.get("model") == "auto" and data.get("user"):
                data["model"], decision = await choose(data["user"], data.get("messages", []))
                data.setdefault("metadata", {})["attune_decision"] = decision
            return data

    attune = AttuneRouting()
