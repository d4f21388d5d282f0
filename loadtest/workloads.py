"""What scorers are measured with: requests of texts of drawn lengths, and the ceiling that raw ONNX Runtime sets on them.

    equal    32 tokens each           skewed   words log-normal (mu 4.0, sigma 0.7), 16 to 256 tokens: most short, a few long

Both the load test of Attune and those of its peers draw from here, so that everybody gets the same texts in the same order.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from attune.models.seam.padding import pad
from attune.models.seam.processor import int8_session_entries
from attune.models.seam.text import Encoded, TextEncoder
from attune.service.batching.batcher import Batcher
from attune.service.batching.calibrate import filler
from attune.service.batching.engines import Engine
from attune.service.batching.session import CPU, CUDA, session_options, with_options
from attune.service.batching.submission import BatchReport
from attune.service.live.opened_scorer import TableScorer

LAWS = ("equal", "skewed")
SHORTEST, LONGEST, EQUAL = 16, 256, 32
LEAST_BUDGETS = {CPU: 128, CUDA: 8192}
"""Where the search for the best budget begins, tokens: below it a device is so slow that trying takes longer than the rest."""
MOST_BUDGET, CLEARLY_FALLING = 1 << 20, 0.9
WORDS = [
    *("the", "a", "and", "of", "to", "in", "it", "is", "you", "that", "he", "was", "for", "on", "are", "with", "as", "his", "they", "be"),
    *("one", "have", "this", "from", "word", "what", "some", "can", "out", "other", "were", "all", "there", "when", "use", "your", "how"),
    *("water", "call", "first", "who", "may", "down", "side", "been", "now", "find", "any", "new", "work", "part", "take", "place", "year"),
]


@dataclass(frozen=True, slots=True)
class ScoreWork:
    """One request: the texts a client sends, and what the scorer makes of them."""

    prompt: str
    responses: list[str]
    rows: list[Encoded]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over all requests: wall-clock and CPU time of the one who scores, and each request's latency, seconds."""

    elapsed_s: float
    cpu_s: float
    latencies_s: list[float]


def make_requests(encoder: TextEncoder, *, law: str, texts: int, responses: int, seed: int) -> list[ScoreWork]:
    """Returns requests of `responses` texts each, `texts` of them together, with lengths by one of `LAWS`."""
    draw = random.Random(seed)
    longest = min(LONGEST, encoder.template.max_tokens)
    made = []
    for _ in range(max(1, texts // responses)):
        prompt = " ".join(draw.choices(WORDS, k=6))
        sizes = [EQUAL if law == "equal" else _skewed(draw, longest) for _ in range(responses)]
        answers = [_response(encoder, prompt, draw, size) for size in sizes]
        made.append(ScoreWork(prompt, answers, encoder.candidates(prompt, answers)))
    return made


def _skewed(draw: random.Random, longest: int) -> int:
    return max(SHORTEST, min(longest, round(draw.lognormvariate(4.0, 0.7))))


def _response(encoder: TextEncoder, prompt: str, draw: random.Random, tokens: int) -> str:
    words = draw.choices(WORDS, k=tokens)
    for _ in range(8):  # a word is one token in most vocabularies; where it is not, a few corrections come close enough
        over = len(encoder.candidates(prompt, [" ".join(words)])[0]) - tokens
        if over <= 0:
            break
        del words[max(1, len(words) - over) :]
    return " ".join(words)


def roomy_batcher(
    engine: Engine,
    *,
    max_text_tokens: int,
    budget_tokens: int,
    overhead_tokens: float,
    tokens_per_s: float | None = None,
    on_batch: Callable[[BatchReport], None] | None = None,
) -> tuple[TableScorer, Batcher[NDArray[np.float32]]]:
    """Returns the batcher that a scorer's process has around an engine, with room for all that a load test asks; not started."""
    scorer = TableScorer(engine, filler(4))
    batcher = Batcher(
        scorer,
        at_once=engine.at_once,
        beside=None if engine.beside is None else TableScorer(engine.beside, filler(4)),
        max_items=1 << 16,
        max_tokens=1 << 24,
        max_text_tokens=max_text_tokens,
        budget_tokens=budget_tokens,
        overhead_tokens=overhead_tokens,
        tokens_per_s=tokens_per_s,
        canary=filler(4),
        on_batch=on_batch,
    )
    return scorer, batcher


# --- the ceiling ------------------------------------------------------------------------------------------------------


def sorted_batches(rows: Sequence[Encoded], budget_tokens: int) -> Iterator[list[Encoded]]:
    """Yields all rows, shortest first, in batches of at most `budget_tokens` padded tokens."""
    batch: list[Encoded] = []
    for row in sorted(rows, key=len):
        if batch and len(row) * (len(batch) + 1) > budget_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def raw_sessions(path: Path, threads: int) -> dict[str, onnxruntime.InferenceSession]:
    """Returns the graph in a session with the runtime's own options, and in one with the service's."""
    defaults = onnxruntime.SessionOptions()
    defaults.intra_op_num_threads = threads
    for entry in int8_session_entries().items():  # or int8 is fast and wrong where there is no VNNI
        defaults.add_session_config_entry(*entry)
    available = onnxruntime.get_available_providers()
    providers = [with_options(name) for name in (CUDA, CPU) if name in available]
    options = {"the runtime's options": defaults, "the service's options": session_options(threads)}
    return {name: onnxruntime.InferenceSession(path, each, providers=providers) for name, each in options.items()}


def run_raw(session: onnxruntime.InferenceSession, batches: Sequence[dict[str, NDArray[np.int64]]]) -> Pass:
    """Runs the arrays through the session and nothing else."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    for arrays in batches:
        session.run(None, arrays)
    return Pass(time.perf_counter() - started_s, time.process_time() - cpu_s, [])


def fastest(sessions: Mapping[str, onnxruntime.InferenceSession], rows: Sequence[Encoded]) -> tuple[str, int]:
    """Prints texts/s of each session and budget and returns the fastest pair; budgets double until the speed falls."""
    best: tuple[float, str, int] = (math.inf, "", 0)
    for name, session in sessions.items():
        told, least_s, budget = [], math.inf, LEAST_BUDGETS[session.get_providers()[0]]
        while budget <= MOST_BUDGET:
            batches = [pad(batch) for batch in sorted_batches(rows, budget)]
            run_raw(session, batches[:2])
            taken_s = min(run_raw(session, batches).elapsed_s for _ in range(2))
            told.append(f"{budget}: {len(rows) / taken_s:.1f}")
            best = min(best, (taken_s, name, budget))
            if taken_s * CLEARLY_FALLING > least_s or len(batches) == 1:
                break
            least_s, budget = min(least_s, taken_s), 2 * budget
        print(f"raw with {name}, texts/s by budget: {', '.join(told)}", flush=True)
    return best[1], best[2]


def summary(name: str, values: Sequence[float], form: str) -> str:
    """Returns least, median and greatest."""
    low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
    return f"{name} {middle:{form}} [{low:{form}} to {high:{form}}]"
