"""What peers that batch requests are given to run: a bundle's graph, over texts sorted by length in batches of 512 padded tokens.

Written for the comparison, since a peer that pads a whole batch to its longest text falls far behind on mixed lengths.
"""

from __future__ import annotations

import os

import numpy as np
import onnxruntime

BUDGET = 512


class SortedSession:
    """One session of ONNX Runtime on all cores.

    Args:
        bundle: folder with a `scorer.onnx` that has one head for all.
    """

    def __init__(self, bundle: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self.session = onnxruntime.InferenceSession(f"{bundle}/scorer.onnx", options, providers=["CPUExecutionProvider"])

    def score(self, requests: list[list[list[int]]]) -> list[list[float]]:
        """Returns one number for each text of each request; texts are token ids."""
        found: list[list[float]] = [[0.0] * len(request) for request in requests]
        texts = sorted((len(ids), owner, index, ids) for owner, request in enumerate(requests) for index, ids in enumerate(request))
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
