"""Replaying users' logs under the basis that serves now: what they chose under earlier bundles is scored again and added to the new sum.

    users with a log ─> comparisons that the new sum lacks ─> kept texts ─> scorer ─> evidence ─> one atomic add, once per event

A call works for a bounded time and says where to go on from; it can be broken off and repeated at any point, by any replica, because
an event is added to a sum once. In memory there are a page of users and a handful of comparisons.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from attune.service.errors import FieldError, InvalidRequest, Overloaded, ScorerFailed, TooLarge, invalid
from attune.service.live.runtime import Call
from attune.service.state.replies import RecordDamaged
from attune.service.state.store import LoggedComparison, NewComparison, Replayed, UserKey, UsersPage, user_tag
from attune.service.usecases.authors import add_for_everybody, for_everybody, told_everybody
from attune.service.usecases.forms_of_feedback import PayloadUnreadable, comparisons_of, logged, pack_payload, read_payload
from attune.service.usecases.learning import study
from attune.service.usecases.people import person
from attune.service.usecases.text_scores import encode, submit_judged

Array = NDArray[np.float64]

TOGETHER = 8
"""Comparisons that are scored side by side: enough to fill a batch of the scorer, few enough to leave room for requests."""

_NO_DIGEST = b"\0" * 16


@dataclass(frozen=True, slots=True)
class ReplayScope:
    """Whose logs: everybody's, those of a tenant, or one user's (of the caller's tenant if none is named); and for how long.

    Attributes:
        cursor: where the call before this one ended; None begins.
        limit_s: how long to work at most; half of what is left until the deadline is the limit too.
    """

    tenant: str | None
    user: str | None
    cursor: str | None
    limit_s: float


@dataclass(slots=True)
class Progress:
    """What a call has done so far; what cannot be replayed is counted with the user's end, so that it is counted once.

    `without_texts` are comparisons whose texts were not kept; `unusable` those that the scorer of this bundle fails on, one
    answer alone where there are no members, and what is damaged. `damaged` are users of whom the store has a record that
    cannot be read: what came before it is replayed, and so are the others. `cursor` says where to go on from; None where
    everything is done.
    """

    users: int = 0
    replayed: int = 0
    without_texts: int = 0
    unusable: int = 0
    damaged: int = 0
    cursor: str | None = None


async def replay(call: Call, scope: ReplayScope) -> Progress:
    """Returns what was replayed in this call, and the cursor to go on from.

    Raises:
        InvalidRequest: the cursor is not one that was given out.
        Overloaded: the scorer has no room; what was replayed stays, and the same request goes on with the rest.
        StoreUnavailable: likewise; not of a record that is damaged, whose user is counted.
    """
    loop = asyncio.get_running_loop()
    ends_at_s = loop.time() + min(scope.limit_s, call.left_s / 2)
    progress = Progress()
    place, _, after = (scope.cursor or "").partition("/")
    while True:
        page = await _page(call, scope, place)
        # In the order of what a cursor says of how far a page was done; a page read again may have its users in another one.
        users = {f"{key.tenant}:{key.tag}": key for key in page.users}
        for here in sorted(users):
            if here <= after:
                continue
            finished = await _replay_user(call, users[here], progress, ends_at_s)
            if not finished:
                progress.cursor = f"{place}/{after}"
                return progress
            after = here
        if page.cursor is None:
            return progress
        place, after = page.cursor, ""
        if loop.time() >= ends_at_s:
            progress.cursor = f"{place}/"
            return progress


async def _page(call: Call, scope: ReplayScope, place: str) -> UsersPage:
    if scope.user is not None:
        tenant = scope.tenant or call.caller.tenant
        return UsersPage((UserKey(tenant, user_tag(call.runtime.user_secret, tenant, scope.user)),), None)
    try:
        return await call.runtime.store.users(scope.tenant, place)
    except ValueError as error:
        raise invalid([FieldError("cursor", str(error))]) from None


async def _replay_user(call: Call, key: UserKey, progress: Progress, ends_at_s: float) -> bool:
    """Returns whether the user is done; False if the time ended before, and then something was replayed: every call gets on."""
    loop, waiting, mine = asyncio.get_running_loop(), list[LoggedComparison](), Progress()
    source = cast("AsyncGenerator[LoggedComparison, None]", call.runtime.store.to_replay(key, call.kept_under))
    try:
        async with aclosing(source):
            async for logged in source:
                waiting.append(logged)
                if len(waiting) == TOGETHER:
                    await _replay_some(call, key, waiting, mine)
                    waiting.clear()
                    if mine.replayed and loop.time() >= ends_at_s:
                        progress.replayed += mine.replayed
                        return False
        await _replay_some(call, key, waiting, mine)
    except RecordDamaged:  # which the store has logged
        progress.damaged += 1
    progress.users += 1
    progress.replayed += mine.replayed
    progress.without_texts += mine.without_texts
    progress.unusable += mine.unusable
    return True


async def _replay_some(call: Call, key: UserKey, entries: Sequence[LoggedComparison], progress: Progress) -> None:
    # Predicted from the sum as it stood before these together: what they say of each other is not counted for or against the user.
    known = person(call, "", key, (await call.runtime.store.read(key, call.kept_under)).sum).evidence
    outcomes = await asyncio.gather(*(_replay_one(call, key, one, known, progress) for one in entries), return_exceptions=True)
    for one, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, Overloaded):  # by these themselves, where the queue is short: alone there may be room
            await _replay_one(call, key, one, known, progress)
        elif isinstance(outcome, BaseException):
            raise outcome


async def _replay_one(call: Call, key: UserKey, entry: LoggedComparison, known: Array, progress: Progress) -> None:
    try:
        kept = logged(read_payload(entry.payload))
    except PayloadUnreadable:
        progress.unusable += 1
        return
    if kept is None:
        progress.without_texts += 1
        return
    try:
        *rows, row = await submit_judged(call, await encode(call, kept.prompt, kept.texts, context=kept.context, with_prompt=True))
        comparisons = await comparisons_of(call, kept.form, rows, row, (kept.prompt, kept.context), kept.authors)
        evidence, everyone = study(call, known, comparisons).evidence, await for_everybody(call, known, comparisons)
    except (ScorerFailed, TooLarge, InvalidRequest):  # of this entry, not of the scorer: it is counted, and the others go on
        progress.unusable += 1
        return
    vector, epoch = call.runtime.decay.stamp(evidence, entry.observed_s)
    # For taking it back; with a token, so that after a lost answer it is still told everybody, by this request and by no other.
    payload = b"" if everyone is None else pack_payload({**told_everybody(everyone), "token": secrets.token_hex(4)})
    comparison = NewComparison(entry.event_id, _NO_DIGEST, call.kept_under, epoch, entry.observed_s, vector, payload)

    async def add_and_tell() -> Replayed:
        added = await call.runtime.store.replay_comparison(key, comparison)
        if added == "applied":
            add_for_everybody(call, key.tenant, everyone, evidence)
        return added

    # To its end even if the caller leaves: a comparison that is there already tells everybody nothing.
    if await call.runtime.finish(add_and_tell()) == "applied":
        progress.replayed += 1
