"""Keys, tags, seals, and the bounds of what can be stored."""

from __future__ import annotations

import math

import numpy as np
import pytest
from redis.crc import key_slot

from attune.service.state.keys import (
    DECISION,
    MAX_FORMER,
    SUM,
    Owners,
    UserKey,
    WrongUser,
    pack_pointer,
    pointer_key,
    seal_of,
    unpack_pointer,
    unseal,
    user_tag,
)
from attune.service.state.store import Limits, NewComparison, UserSum
from tests.state.conftest import comparison

SECRET = b"sixteen bytes or more"
ALICE = UserKey("acme", user_tag(SECRET, "acme", "alice"))
BOB = UserKey("acme", user_tag(SECRET, "acme", "bob"))


def test_a_tag_is_128_bits_of_hmac_in_url_safe_characters() -> None:
    tag = user_tag(SECRET, "acme", "alice")
    assert tag == "EqCCZq8Fj5oklFd-YaBKzA"
    assert len(UserKey("acme", tag).raw_tag) * 8 == 128


def test_a_tag_depends_on_secret_tenant_and_user() -> None:
    tags = {
        user_tag(SECRET, "acme", "alice"),
        user_tag(SECRET + b"!", "acme", "alice"),
        user_tag(SECRET, "acme2", "alice"),
        user_tag(SECRET, "acme", "alice2"),
        user_tag(SECRET, "acm", "e:alice"),
        user_tag(SECRET, "4:acme", "alice"),
    }
    assert len(tags) == 6


@pytest.mark.parametrize("user", ["", "\x00", "\ud800", "{}", "é" * 256])
def test_every_string_has_a_tag_that_fits_a_key(user: str) -> None:
    tag = user_tag(SECRET, "acme", user)
    assert UserKey("acme", tag).tag == tag
    assert tag != user_tag(SECRET, "acme", user + "x")


def test_a_secret_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="has 15 bytes; at least 16"):
        user_tag(b"x" * 15, "acme", "alice")


def test_all_keys_of_a_user_are_on_one_slot_and_pointers_are_spread() -> None:
    keys = [ALICE.sum("one"), ALICE.sum("two"), ALICE.events, ALICE.log, ALICE.decisions, ALICE.deleting, ALICE.decision("any")]
    assert len({key_slot(key.encode()) for key in keys}) == 1
    assert len(set(keys)) == len(keys)
    assert len({key_slot(pointer_key("acme", f"decision-{n}").encode()) for n in range(50)}) > 40


@pytest.mark.parametrize("tenant", ["", "a{b", "a}b", "a:b", "a b", "x" * 65, "é"])
def test_a_tenant_that_could_move_or_forge_a_key_is_refused(tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        UserKey(tenant, ALICE.tag)


@pytest.mark.parametrize("tag", ["", "alice", ALICE.tag + "x", ALICE.tag[:-1] + "}"])
def test_only_a_tag_is_a_tag(tag: str) -> None:
    with pytest.raises(ValueError, match="user tag"):
        UserKey("acme", tag)


def test_a_seal_opens_for_its_user_and_kind_only() -> None:
    record = seal_of(SUM, ALICE) + b"body"
    assert unseal(SUM, ALICE, record) == b"body"
    for kind, key, given in [(SUM, BOB, record), (DECISION, ALICE, record), (SUM, ALICE, b""), (SUM, ALICE, record[1:])]:
        with pytest.raises(WrongUser):
            unseal(kind, key, given)


def test_a_pointer_names_its_user_for_its_decision_only() -> None:
    pointer = pack_pointer(ALICE, "decision-1")
    assert unpack_pointer("acme", "decision-1", pointer) == Owners(ALICE)
    moved = pack_pointer(BOB, "decision-1", [ALICE])
    assert unpack_pointer("acme", "decision-1", moved) == Owners(BOB, (ALICE,))
    assert len(unpack_pointer("acme", "decision-1", pack_pointer(BOB, "decision-1", [ALICE] * 100)).former) == MAX_FORMER
    for decision_id, given in [
        ("decision-2", pointer),
        ("decision-1", b""),
        ("decision-1", pointer[:-1]),
        ("decision-1", b"S" + pointer[1:]),
        ("decision-1", moved[:-1]),
    ]:
        with pytest.raises(WrongUser):
            unpack_pointer("acme", decision_id, given)


@pytest.mark.parametrize("packed", [b"", b"x" * 31, b"\0" * 32, b"\0" * 41])
def test_bytes_that_are_no_sum_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="packed sum"):
        UserSum.unpack(packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_id": ""}, "has 0 bytes; it must have 1 to 256"),
        ({"event_id": "é" * 129}, "has 258 bytes"),
        ({"event_id": "a\x01b"}, "control character"),
        ({"event_id": "a\x00"}, "control character"),
        ({"event_id": "\udc00"}, "lone surrogate at character 0"),
        ({"digest": b"short"}, "digest has 5 bytes, not 16"),
        ({"evidence": np.zeros((2, 2))}, r"shape \(2, 2\)"),
        ({"evidence": np.zeros(0)}, r"shape \(0,\)"),
        ({"evidence": np.zeros(2049)}, "1 to 2048"),
        ({"evidence": np.array([1.0, math.nan, math.inf])}, "2 numbers that are not finite"),
        ({"observed_s": math.inf}, "out of range"),
        ({"epoch": 2**41}, "out of range"),
    ],
)
def test_a_comparison_out_of_bounds_is_refused_with_the_numbers(change: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {
        "event_id": "event-1", "digest": b"\0" * 16, "basis": "basis-1", "epoch": 0, "observed_s": 1.0, "evidence": np.ones(3),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        NewComparison(**(fields | change))  # type: ignore[arg-type]


def test_negative_zero_is_added_as_zero() -> None:
    assert comparison(evidence=[-0.0]).packed()[16:] == b"\0" * 8


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="every limit must be positive"):
        Limits(max_decisions=0)
    with pytest.raises(ValueError, match="max_log is -1"):
        Limits(max_log=-1)
