"""LangChain in front of Attune: the model is `auto`, the user goes with each call, and the thumb needs nothing of LangChain.

pip install langchain-openai httpx
python examples/langchain_chat.py --user ada "How do I make pancakes?"
"""

from __future__ import annotations

import argparse
import os
import sys

import httpx
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from openai import OpenAIError


def main() -> None:
    """Asks one question in a chain, and says that the answer was good."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--user", default="ada")
    given = parser.parse_args()
    try:
        ask(given.url.rstrip("/"), given.user, given.question)
    except (httpx.HTTPError, OpenAIError) as error:
        sys.exit(f"{given.url} does not answer: {error}")


def ask(url: str, user: str, question: str) -> None:
    """Prints the answer, and sends a thumb for it."""
    key = os.environ.get("ATTUNE_KEY", "no-key-needed")
    model = ChatOpenAI(model="auto", base_url=f"{url}/v1", api_key=key).bind(user=user)
    chain = ChatPromptTemplate.from_messages([("system", "You help at home."), ("user", "{question}")]) | model
    answer = chain.invoke({"question": question})
    print(answer.content)
    print(f"[{answer.response_metadata['model_name']}]")
    # LangChain keeps the id of the completion, which holds the decision's; the decision knows the turns that it was made for.
    decision = answer.response_metadata["id"].removeprefix("chatcmpl-")
    thumb = {"user": user, "decision_id": decision, "response_text": answer.content, "rating": 1.0}
    told = httpx.post(f"{url}/feedback", json=thumb, headers={"authorization": f"Bearer {key}"}, timeout=30)
    if not told.is_success:
        sys.exit(told.text)
    print(f"[learned: {told.json()['user']['comparisons']} so far]")


if __name__ == "__main__":
    main()
