"""Two queues in front of one scorer: texts that somebody waits for, and texts for which there is time where nobody does.

    asked ──> goes first, whatever waits in the other
    spare ──> its turn comes when nothing is asked and nothing runs; or `hurry`, or its patience: from then on it is asked as well

What is asked is never in one batch with what is not: it would wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from attune.service.batching.queue import Batch, BatchQueue
from attune.service.batching.running import NextBatch, WaitingTexts
from attune.service.batching.session import Scored
from attune.service.batching.submission import Submission

PATIENCE_S = 5.0
"""After which nobody's texts are everybody's equals: on a server that is never idle they would wait for good."""


class TwoQueues(Generic[Scored]):
    """See the module; like `BatchQueue` it has neither clock nor thread, and each of the two has its bounds.

    Args:
        max_items, max_tokens, budget_tokens, overhead_tokens, age_limit_s: of each; see `BatchQueue`.

    Attributes:
        asked: texts that somebody waits for.
    """

    def __init__(self, *, max_items: int, max_tokens: int, budget_tokens: int, overhead_tokens: float, age_limit_s: float) -> None:
        self.asked, self._spare = (
            BatchQueue[Submission[Scored]](
                max_items=max_items,
                max_tokens=max_tokens,
                budget_tokens=budget_tokens,
                overhead_tokens=overhead_tokens,
                age_limit_s=age_limit_s,
            )
            for _ in range(2)
        )

    @property
    def items(self) -> int:
        """Texts that wait in both."""
        return self.asked.items + self._spare.items

    @property
    def tokens(self) -> int:
        """Tokens that wait in both."""
        return self.asked.tokens + self._spare.tokens

    def put(
        self, submission: Submission[Scored], lengths: Sequence[int], *, indices: Sequence[int] | None = None, urgent: bool = False
    ) -> None:
        """Adds texts of a submission to the queue that it belongs in; see `BatchQueue.put`."""
        submission.waiting = self._of(submission).put(submission, lengths, indices=indices, urgent=urgent)

    def waiting(self, now_s: float) -> tuple[WaitingTexts, WaitingTexts]:
        """Returns what waits in each, `asked` first, once what has waited for `PATIENCE_S` is asked too."""
        if (oldest := self._spare.oldest()) is not None and now_s - oldest.submitted_at_s > PATIENCE_S:
            self.hurry(now_s)
        asked, spare = (WaitingTexts(queue.items, queue.tokens, queue.longest) for queue in (self.asked, self._spare))
        return asked, spare

    def hurry(self, now_s: float) -> None:
        """Has everything asked for, in order of arrival and as far as there is room; a submission stays in one queue."""
        while (submission := self._spare.oldest()) is not None:
            texts = self._spare.waiting_of(submission.waiting)
            lengths = [tokens for _, tokens in texts]
            if not self.asked.has_room(lengths):
                return
            self._spare.abandon(submission.waiting)
            submission.spare, submission.submitted_at_s = False, now_s  # what it waited before is no wait of somebody who asks
            self.put(submission, lengths, indices=[index for index, _ in texts])

    def take(self, now_s: float, turn: NextBatch) -> Batch[Submission[Scored]]:
        """Removes and returns the batch of a turn; see `BatchQueue.take`."""
        return (self._spare if turn.spare else self.asked).take(now_s, turn.budget_tokens)

    def abandon(self, submission: Submission[Scored]) -> int:
        """Removes what still waits of a submission; returns how many texts did."""
        return self._of(submission).abandon(submission.waiting)

    def clear(self) -> Sequence[tuple[Submission[Scored], int]]:
        """Removes and returns everything that waits."""
        return (*self.asked.clear(), *self._spare.clear())

    def _of(self, submission: Submission[Scored]) -> BatchQueue[Submission[Scored]]:
        return self._spare if submission.spare else self.asked
