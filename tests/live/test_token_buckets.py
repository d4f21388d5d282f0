"""Token buckets: what one lets through at once and on average, and when it says that the next may come."""

from __future__ import annotations

import pytest

from attune.service.live.token_buckets import TokenBuckets


def test_a_full_bucket_gives_its_depth_at_once_and_then_says_when_the_next_may_come():
    now_s = 100.0
    buckets = TokenBuckets(4.0, 3.0, lambda: now_s)
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.25]
    now_s += 0.2
    assert buckets.take("a") == pytest.approx(0.05)
    now_s += 0.05
    assert buckets.take("a") == 0.0


def test_over_a_long_time_it_gives_what_comes_in_and_never_holds_more_than_its_depth():
    now_s = 0.0
    buckets = TokenBuckets(4.0, 16.0, lambda: now_s)
    taken = 0
    for _ in range(100 * 64 + 1):
        taken += buckets.take("a") == 0.0
        now_s += 1 / 64
    assert taken == 16 + 4 * 100
    now_s += 3600.0
    assert sum(buckets.take("a") == 0.0 for _ in range(100)) == 16


def test_a_depth_below_one_token_still_gives_one_at_a_time():
    now_s = 0.0
    buckets = TokenBuckets(0.5, 0.5, lambda: now_s)
    assert [buckets.take("a"), buckets.take("a")] == [0.0, 2.0]


def test_a_rate_of_nothing_lets_everything_through():
    buckets = TokenBuckets(0.0, 1.0, lambda: 0.0)
    assert [buckets.take("a") for _ in range(100)] == [0.0] * 100


def test_each_name_has_a_bucket_of_its_own():
    buckets = TokenBuckets(1.0, 2.0, lambda: 0.0)
    assert [buckets.take(name) for name in ("much", "much", "much", "little", "little", "little")] == [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
