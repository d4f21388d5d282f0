"""A chat in the terminal with the OpenAI client: Attune chooses who answers, and a thumb after an answer teaches it.

pip install openai httpx
python examples/chat.py --user ada            # then type; /up and /down rate the last answer, /quit ends
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid

import httpx
from openai import OpenAI, OpenAIError


def main() -> None:
    """Talks until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--user", default="ada", help="whose preferences decide, and are learned")
    given = parser.parse_args()
    try:
        talk(given.url.rstrip("/"), given.user)
    except (httpx.HTTPError, OpenAIError) as error:
        sys.exit(f"{given.url} does not answer: {error}")


def talk(url: str, user: str) -> None:
    """Asks what is typed, and sends thumbs."""
    openai = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("ATTUNE_KEY", "no-key-needed"))
    native = httpx.Client(base_url=url, headers={"authorization": f"Bearer {openai.api_key}"}, timeout=30)
    turns: list[dict[str, str]] = []
    candidate = None
    for line in sys.stdin:
        said = line.strip()
        if said == "/quit":
            break
        if said in {"/up", "/down"}:
            if candidate is None:
                print("nothing to rate yet")
                continue
            thumb = {"user": user, "candidate": candidate, "rating": 1.0 if said == "/up" else 0.0, "event_id": str(uuid.uuid4())}
            told = (answer := native.post("/feedback", json=thumb)).json()
            print(f"[learned: {told['user']['comparisons']} so far]" if answer.is_success else f"[{told['detail']}]")
        elif said:
            turns.append({"role": "user", "content": said})
            text = member = ""
            for chunk in openai.chat.completions.create(model="auto", messages=turns, user=user, stream=True):
                choice = chunk.choices[0]
                text, member = text + (choice.delta.content or ""), chunk.model
                print(choice.delta.content or "", end="", flush=True)
                candidate = getattr(choice, "candidate_id", None) or candidate
            print(f"\n[{member}]")
            turns.append({"role": "assistant", "content": text})


if __name__ == "__main__":
    main()
