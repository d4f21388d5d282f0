"""A client of an Attune server, for Python programs: synchronous (`Client`) and asynchronous (`AsyncClient`), over httpx.

    from attune.client import Client

    with Client("http://127.0.0.1:8000") as attune:
        pair = attune.generate("ada", "How do I make pancakes?", candidates=2)
        attune.prefer("ada", pair.candidates[0], over=pair.candidates[1])

Requests are built and answers read in `requests` and `answers`, without any input or output; both clients only send and wait.
"""

from attune.client.answers import (
    Candidate,
    Deleted,
    Done,
    Expected,
    Feedback,
    Generated,
    Member,
    Portfolio,
    Routed,
    Routing,
    Score,
    Scored,
    Seen,
    Started,
    TakenBack,
    Token,
    User,
)
from attune.client.asynchronous import AsyncClient
from attune.client.failures import AttuneFailed, AttuneUnreachable
from attune.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "AttuneFailed",
    "AttuneUnreachable",
    "Candidate",
    "Client",
    "Deleted",
    "Done",
    "Expected",
    "Feedback",
    "Generated",
    "Member",
    "Portfolio",
    "Routed",
    "Routing",
    "Score",
    "Scored",
    "Seen",
    "Started",
    "TakenBack",
    "Token",
    "User",
]
