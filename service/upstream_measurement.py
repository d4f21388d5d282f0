"""`attune members measure`: asks upstreams the same prompts, scores their answers with a bundle, and says what each is worth.

    prompts x members ─> answers (JSON lines; a run that was broken off goes on) ─> rewards ─> means, intervals, certificate ─> V, import

Upstreams are asked by the service's own members, with their keys, limits and refusals. Rewards have no bounds, so intervals are Student's
for a mean over prompts. `K` heads of a family.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from attune.client.failures import failure_of, why_silent
from attune.command_line import key_hint
from attune.models.seam.counts import counted
from attune.models.seam.families import Families, Row
from attune.models.seam.json_lines import LinesInvalid
from attune.models.seam.prompt_file import prompts_in
from attune.service.errors import AttuneError
from attune.service.live.loading import load_serving
from attune.service.live.opened_scorer import LoadPlan
from attune.service.live.runtime import Serving
from attune.service.machine import find_bundle
from attune.service.members.member import ChatTurn, GenerationRequest, TextPiece
from attune.service.members.roster import MemberEvent
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.members.verdicts import reason_of
from attune.service.observe.metrics import Metrics
from attune.service.settings import Settings, numbers_for
from attune.service.usecases.decision_record import digest_of

CONFIDENCE = 0.95
ANSWER_S = 120.0
TOLD_S = 5.0
"""Between two lines of progress at least; an upstream may take minutes for the answers of a batch."""

Array = NDArray[np.float64]
Say = Callable[[str], None]


class MeasureFailed(Exception):
    """Nothing can be said of a member, or the deployment refused what was measured.

    Args:
        said: why.
        goes_on: whether the same command, given again, goes on with what is left; bad input is to be changed first.
    """

    def __init__(self, said: str, *, goes_on: bool = False) -> None:
        super().__init__(said)
        self.goes_on = goes_on


@dataclass(frozen=True, slots=True)
class Asking:
    """How upstreams are asked.

    Attributes:
        max_tokens: of an answer.
        together: requests at a time, to all members.
        per_second: requests begun each second at most; 0 sets no limit.
        tries: of one answer before it is left out; the wait doubles from one second on.
    """

    max_tokens: int = 512
    together: int = 8
    per_second: float = 0.0
    tries: int = 4


def measure_members(settings: Settings, prompts: Sequence[str], out: Path, asking: Asking, say: Say) -> dict[str, Any]:
    """Returns what was measured and writes it to `out`; answers are kept beside it in `<out>.answers.jsonl`, where the next run finds them.

    Raises:
        MeasureFailed: a member answered fewer than two prompts.
        AttuneError: bundle or roster cannot be used.
    """
    document = asyncio.run(_measure(settings, prompts, out, asking, say))
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


def read_prompts(file: Path) -> list[str]:
    """Returns the prompts of a file, one a line, each once: plain text, or JSON objects with the field `prompt`.

    Raises:
        MeasureFailed: the file cannot be read, a line of JSON has no such text, or there are fewer than two prompts.
    """
    try:
        found = prompts_in(file)
    except LinesInvalid as error:
        raise MeasureFailed(str(error)) from error
    if len(found) < 2:
        raise MeasureFailed(f"{file} has {counted(len(found), 'different prompt')}; two or more are needed")
    return found


def import_measured(url: str, document: dict[str, Any], key: str) -> dict[str, Any]:
    """Returns what a running deployment says to the import of what was measured.

    Raises:
        MeasureFailed: it cannot be reached, or refuses.
    """
    body = {"basis": document["basis"], "event_id": document["event_id"], "members": {}}
    body["members"] = {name: {part: one[part] for part in ("answers", "means", "covariances")} for name, one in document["members"].items()}
    try:
        answer = httpx.post(f"{url}/admin/members", json=body, headers={"authorization": f"Bearer {key}"} if key else {}, timeout=60.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MeasureFailed(f"{url} did not answer: {why_silent(error)}", goes_on=True) from error
    if answer.status_code != httpx.codes.OK:
        said = failure_of(answer.status_code, answer.content, answer.headers)
        raise MeasureFailed(f"{url} answered {said}{key_hint(said.status)}")
    try:
        found: dict[str, Any] = answer.json()
        return {**found, "members": dict(found["members"])}
    except (ValueError, KeyError, TypeError) as error:
        raise MeasureFailed(f"{url} answered, and does not say what it took; is it an Attune?") from error


def in_lines(document: dict[str, Any], out: Path, url: str, taken: dict[str, Any] | None) -> list[str]:
    """Returns what was measured, where it was written and what the deployment at `url` said to it, for people."""
    counts = ", ".join(f"{name} by {counted(one['answers'], 'answer')}" for name, one in document["members"].items())
    lost = ", ".join(f"{gap:.3f} under {family}" for family, gap in document["certificate"]["gap"].items())
    lines = [
        f"measured {counts}; written to {out}",
        f"serving the member with the greatest measured value loses at most so much reward, in {CONFIDENCE:.0%} of cases: {lost}",
    ]
    if taken is None:
        return lines
    by_result: dict[str, list[str]] = {}
    for name, result in taken["members"].items():
        by_result.setdefault(result, []).append(name)
    said = {"applied": "took as evidence", "duplicate": "had as evidence already"}
    return lines + [f"{url} {said.get(result, result)}: {', '.join(names)}" for result, names in by_result.items()]


async def _measure(settings: Settings, prompts: Sequence[str], out: Path, asking: Asking, say: Say) -> dict[str, Any]:
    async with AsyncExitStack() as parts:
        connections = await parts.enter_async_context(UpstreamPool())
        serving = await load_serving(find_bundle(settings), numbers_for(LoadPlan, settings), None, Metrics(), connections)
        parts.push_async_callback(serving.aclose)
        if not serving.bundle.portfolio.names:
            raise MeasureFailed("the roster names no member; one or more are needed")
        answers = await _Answers(serving, out.with_name(out.name + ".answers.jsonl"), asking, say).collect(prompts)
        say(f"scoring {counted(sum(map(len, answers.values())), 'answer')}")
        rows = {name: [await _score(serving, prompts[at], text) for at, text in sorted(found.items())] for name, found in answers.items()}
    return summary(serving.bundle.id, serving.bundle.basis, serving.bundle.families, rows, answers)


class _Answers:
    def __init__(self, serving: Serving, file: Path, asking: Asking, say: Say) -> None:
        self._serving = serving
        self._file = file
        self._asking = asking
        self._say = say
        self._room = asyncio.Semaphore(asking.together)
        self._turn = asyncio.Lock()
        self._failing: set[str] = set()

    async def collect(self, prompts: Sequence[str]) -> dict[str, dict[int, str]]:
        """Returns the answers, member -> index of the prompt -> text; a prompt that a member failed at is left out."""
        names = self._serving.bundle.portfolio.names
        index = {digest_of(prompt): at for at, prompt in enumerate(prompts)}
        found: dict[str, dict[int, str]] = {name: {} for name in names}
        broken_off = False
        if self._file.is_file():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            broken_off = bool(lines) and not lines[-1].endswith("\n")
            for line in lines:
                kept = _kept(line)
                if kept is not None and kept["prompt"] in index and kept["member"] in found:
                    found[kept["member"]][index[kept["prompt"]]] = kept["text"]
        missing = [(name, at) for at in range(len(prompts)) for name in names if at not in found[name]]
        began_s = told_s = time.monotonic()
        done = 0
        if len(missing) < len(prompts) * len(names):
            self._say(f"{counted(len(prompts) * len(names) - len(missing), 'answer is', 'answers are')} there already")
        if missing:
            self._say(f"asking {', '.join(names)} for {counted(len(missing), 'answer')}, {self._asking.together:,} at a time")
        with self._file.open("a", encoding="utf-8") as kept_answers:
            if broken_off:  # in the middle of a line, which the next answer must not join
                kept_answers.write("\n")
            for ended in asyncio.as_completed([self._ask(name, at, prompts[at]) for name, at in missing]):
                name, at, text = await ended
                done += 1
                if text is not None:
                    found[name][at] = text
                    kept_answers.write(json.dumps({"prompt": digest_of(prompts[at]), "member": name, "text": text}) + "\n")
                    kept_answers.flush()
                now_s = time.monotonic()
                if now_s - told_s >= TOLD_S or done == len(missing):
                    told_s = now_s
                    self._say(
                        f"{done:,} of {counted(len(missing), 'answer')}, "
                        f"about {(now_s - began_s) / done * (len(missing) - done):,.0f} s left"
                    )
        return found

    async def _ask(self, name: str, at: int, prompt: str) -> tuple[str, int, str | None]:
        request = GenerationRequest((ChatTurn("user", prompt),), self._asking.max_tokens)
        loop = asyncio.get_running_loop()
        async with self._room:
            for attempt in range(self._asking.tries):
                if self._asking.per_second > 0:
                    async with self._turn:
                        await asyncio.sleep(1.0 / self._asking.per_second)
                try:
                    async with aclosing(self._serving.roster.stream([name], request, loop.time() + ANSWER_S)) as events:
                        pieces = [
                            one.event.text async for one in events if isinstance(one, MemberEvent) and isinstance(one.event, TextPiece)
                        ]
                    return name, at, "".join(pieces)
                except AttuneError as error:
                    if name not in self._failing and self._asking.tries > 1:
                        self._failing.add(name)
                        self._say(f"{name} fails, and is tried up to {self._asking.tries} times an answer: {reason_of(name, error)}")
                    if attempt + 1 == self._asking.tries:
                        self._say(f"{name} gave no answer to prompt {at + 1}: {reason_of(name, error)}")
                    else:
                        await asyncio.sleep(2.0**attempt)
        return name, at, None


async def _score(serving: Serving, prompt: str, text: str) -> Row:
    submitted = await serving.batcher.submit(serving.encoder.candidates(prompt, [text]), ANSWER_S)
    return submitted.rows[0]


def summary(bundle: str, basis: str, families: Families, rows: dict[str, list[Row]], answers: dict[str, dict[int, str]]) -> dict[str, Any]:
    """Returns the document of what was measured: per member the number of answers, means, covariances and half widths, and a certificate.

    The event id is a digest of the answers: importing the same ones again adds nothing.

    Args:
        bundle: id.
        basis: under which the rewards mean something.
        families: of the bundle.
        rows: member -> scorer's outputs for each answer.
        answers: member -> index of the prompt -> text.

    Raises:
        MeasureFailed: a member has fewer than two answers.
    """
    short = [name for name, found in rows.items() if len(found) < 2]
    if short:
        raise MeasureFailed(
            f"{', '.join(short)} answered fewer than two prompts; nothing can be said of the spread of their rewards", goes_on=True
        )
    heads = {family: len(families[family].heads) for family in families.names}
    # Of a member whose answers are all alike, the spread of everybody's is taken.
    together = [row for found in rows.values() for row in found]
    likely = {family: _of(family, together).std(axis=0, ddof=1) for family in heads}
    alike = [family for family, spread in likely.items() if not spread.any()]
    if alike:
        raise MeasureFailed(
            f"every answer has the same rewards under {', '.join(alike)}; nothing can be said of their spread; take other prompts"
        )
    members: dict[str, Any] = {}
    for name, found in rows.items():
        rewards = {family: _of(family, found) for family in heads}
        members[name] = {
            "answers": len(found),
            "means": {family: array.mean(axis=0).tolist() for family, array in rewards.items()},
            "covariances": {
                family: np.cov(array.T, ddof=0).reshape(heads[family], heads[family]).tolist() for family, array in rewards.items()
            },
            "intervals": {family: half_widths(array, 1.0 - CONFIDENCE, likely[family]).tolist() for family, array in rewards.items()},
        }
    gaps = {
        family: max(2.0 * float(half_widths(_of(family, found), error, likely[family]).max()) for found in rows.values())
        for family, error in ((family, (1.0 - CONFIDENCE) / (len(rows) * heads[family])) for family in heads)
    }
    told = json.dumps({name: sorted(found.items()) for name, found in sorted(answers.items())}) + basis
    return {
        "schema": 1,
        "bundle": bundle,
        "basis": basis,
        "event_id": "measured-" + hashlib.blake2b(told.encode(), digest_size=12).hexdigest(),
        "heads": {family: list(families[family].heads) for family in families.names},
        "members": members,
        "certificate": {
            "says": "serving the member with the greatest measured value loses at most `gap` in reward against the best of these members, "
            "at every weight over the heads of the family at once",
            "confidence": CONFIDENCE,
            "gap": gaps,
        },
    }


def _of(family: str, found: list[Row]) -> Array:
    """Returns the rewards `[P, K]` of answers under the heads of a family."""
    return np.array([row[f"{family}_rewards"] for row in found], dtype=np.float64)


def half_widths(rewards: Array, error: float, likely: Array | None = None) -> Array:
    """Returns half widths `[K]` of two-sided intervals of the means of `rewards` `[P, K]`, each wrong with probability `error`.

    Equal rewards show no spread, which does not say that there is none: `likely` `[K]` stands in for it.

    Student's quantile by the expansion of Abramowitz and Stegun, 26.7.5; within 1 % of the exact one from ten answers on.
    """
    count = len(rewards)
    z, degrees = NormalDist().inv_cdf(1.0 - error / 2.0), count - 1
    quantile = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    spread = rewards.std(axis=0, ddof=1)
    if likely is not None:
        spread = np.where(spread > 1e-12 * np.maximum(1.0, np.abs(rewards).max(axis=0)), spread, likely)
    found: Array = quantile * spread / np.sqrt(count)
    return found


def _kept(line: str) -> dict[str, str] | None:
    """Returns a line of kept answers; None of one that was cut when a run was killed."""
    try:
        kept: dict[str, str] = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return kept
