"""A peer that scores: BentoML's adaptive batching around the bundle's graph, batches of up to 32 requests.

    BUNDLE=bundle-... bentoml serve loadtest.peers.bentoml_scorer:BentoScorer --port PORT
    POST /predict {"requests": [[[...], ...]]} -> [[...]]

It is given token ids, returns one number a text and knows no user: what it does is a part of what Attune does for a request.
"""

# No `from __future__ import annotations`: BentoML reads the types of a method from what they are, not from their names.

import os

import bentoml

from loadtest.peers.sorted_session import SortedSession


@bentoml.service(workers=1, traffic={"timeout": 60})
class BentoScorer:
    """One session; the batch is over requests, each of which is a list of texts as token ids."""

    def __init__(self) -> None:
        self.session = SortedSession(os.environ["BUNDLE"])

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def predict(self, requests: list[list[list[int]]]) -> list[list[float]]:
        """Returns one number for each text of each request."""
        return self.session.score(requests)
