"""A peer that scores: LitServe around the bundle's graph, batches of up to 32 requests.

    python loadtest/peers/litserve_scorer.py BUNDLE PORT          POST /predict {"ids": [[...], ...]} -> {"scores": [...]}

It is given token ids, returns one number a text and knows no user: what it does is a part of what Attune does for a request.
"""

from __future__ import annotations

import sys

import litserve

from loadtest.peers.sorted_session import SortedSession


class LitServeScorer(litserve.LitAPI):  # type: ignore[misc]  # installed beside the other peers only
    """One session; a request is a list of texts as token ids."""

    def setup(self, device: str) -> None:
        del device
        self.session = SortedSession(sys.argv[1])

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        # LitServe takes an annotation here for FastAPI's, and then asks for a query parameter.
        return request["ids"]

    def batch(self, inputs: list[list[list[int]]]) -> list[list[list[int]]]:
        return inputs

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def predict(self, requests: list[list[list[int]]]) -> list[list[float]]:
        return self.session.score(requests)

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"scores": output}


if __name__ == "__main__":
    server = litserve.LitServer(LitServeScorer(max_batch_size=32, batch_timeout=0.002), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="warning")
