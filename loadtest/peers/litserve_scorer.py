"""A peer that scores: LitServe around the bundle's graph, batches of up to 32 sorted by length into 512 padded tokens.

    python loadtest/peers/litserve_scorer.py BUNDLE PORT          POST /predict {"ids": [[...], ...]} -> {"scores": [...]}

It is given token ids, returns one number a text and knows no user: what it does is a part of what Attune does for a request.
"""

from __future__ import annotations

import os
import sys

import litserve
import numpy as np
import onnxruntime

BUDGET = 512


class LitServeScorer(litserve.LitAPI):  # type: ignore[misc]  # installed beside the other peers only
    """One session; a request is a list of texts as token ids."""

    def setup(self, device: str) -> None:
        del device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self.session = onnxruntime.InferenceSession(f"{sys.argv[1]}/scorer.onnx", options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        # LitServe takes an annotation here for FastAPI's, and then asks for a query parameter.
        return request["ids"]

    def batch(self, inputs: list[list[list[int]]]) -> list[list[list[int]]]:
        return inputs

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def predict(self, requests: list[list[list[int]]]) -> list[list[float]]:
        found: list[list[float]] = [[0.0] * len(request) for request in requests]
        texts = sorted(((len(ids), owner, index, ids) for owner, request in enumerate(requests) for index, ids in enumerate(request)))
        start = 0
        while start < len(texts):
            stop = start + 1
            while stop < len(texts) and texts[stop][0] * (stop + 1 - start) <= BUDGET:
                stop += 1
            part = texts[start:stop]
            ids, mask = (np.zeros((len(part), part[-1][0]), dtype=np.int64) for _ in range(2))
            for row, (length, _, _, tokens) in enumerate(part):
                ids[row, :length], mask[row, :length] = tokens, 1
            (scores,) = self.session.run(["bradley_terry_rewards"], {"input_ids": ids, "attention_mask": mask, "pool_mask": mask})
            for (_, owner, index, _), score in zip(part, scores[:, 0], strict=True):
                found[owner][index] = float(score)
            start = stop
        return found

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"scores": output}


if __name__ == "__main__":
    server = litserve.LitServer(LitServeScorer(max_batch_size=32, batch_timeout=0.002), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="warning")
