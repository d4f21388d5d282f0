"""An agent with one tool and the OpenAI client: Attune chooses which member reasons, the program runs the tool, a thumb teaches.

The roster has to let tools through to at least one member: {"fast": {"kind": "openai", ..., "passes": ["tools"]}}

pip install openai httpx
python examples/agent.py --user ada --rating 1 "What time is it in Lisbon?"    # without --rating nothing is learned
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx
from openai import OpenAI, OpenAIError

CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Tells the time of a place.",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string", "description": "such as Europe/Lisbon"}}},
    },
}
MOST_STEPS = 8


def clock(arguments: str) -> str:
    """Returns the time in a zone, or what is wrong, so that the model can ask again."""
    try:
        return datetime.now(ZoneInfo(json.loads(arguments or "{}").get("zone", "UTC"))).strftime("%H:%M")
    except (ValueError, AttributeError, ZoneInfoNotFoundError) as error:
        return f"error: {error}"


def answer(openai: OpenAI, user: str, question: str) -> Any:
    """Returns the choice with the final answer, after running whatever tool was called on the way."""
    turns: list[Any] = [{"role": "user", "content": question}]
    for _ in range(MOST_STEPS):
        told = openai.chat.completions.create(model="auto", messages=turns, user=user, tools=[CLOCK])  # type: ignore[list-item]
        choice = told.choices[0]
        if not choice.message.tool_calls:
            return choice
        turns.append(choice.message.to_dict())
        for call in choice.message.tool_calls:
            result = clock(call.function.arguments) if call.type == "function" else "error: no such tool"
            print(f"[{told.model} calls {call.function.name}: {result}]" if call.type == "function" else f"[{told.model}: {result}]")
            turns.append({"role": "tool", "tool_call_id": call.id, "content": result})
    sys.exit(f"no answer after {MOST_STEPS} steps")


def main() -> None:
    """Asks one question, and teaches what the answer was worth where `--rating` says it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--user", default="ada", help="whose preferences decide, and are learned")
    parser.add_argument("--rating", type=float, help="0 to 1: what the answer was worth")
    given = parser.parse_args()
    url, key = given.url.rstrip("/"), os.environ.get("ATTUNE_KEY", "no-key-needed")
    try:
        choice = answer(OpenAI(base_url=f"{url}/v1", api_key=key), given.user, given.question)
        print(choice.message.content)
        print(f"[{choice.member}]")
        if given.rating is not None:
            thumb = {"user": given.user, "candidate": choice.candidate_id, "rating": given.rating, "event_id": str(uuid.uuid4())}
            told = httpx.post(f"{url}/feedback", json=thumb, headers={"authorization": f"Bearer {key}"}, timeout=30)
            told.raise_for_status()
            print(f"[learned: {told.json()['user']['comparisons']} so far]")
    except (httpx.HTTPError, OpenAIError) as error:
        sys.exit(f"{given.url}: {error}")


if __name__ == "__main__":
    main()
