"""API keys: which caller a request is, and what is refused without telling a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.service.auth import Caller, Keyring, parse_keys, require_admin
from attune.service.errors import Forbidden, Unauthenticated

KEYRING = parse_keys("acme-key-1:acme,acme-key-2:acme:admin\nglobex-key:globex")


def test_a_key_names_its_tenant_in_either_header():
    assert KEYRING.identify("Bearer acme-key-1", None).tenant == "acme"
    assert KEYRING.identify("bearer   globex-key", None).tenant == "globex"
    assert KEYRING.identify(None, "globex-key").tenant == "globex"


def test_authorization_goes_before_the_other_header():
    assert KEYRING.identify("Bearer acme-key-1", "globex-key").tenant == "acme"


def test_another_scheme_leaves_the_other_header_to_speak():
    assert KEYRING.identify("Basic YTpi", "globex-key").tenant == "globex"


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [(None, None), ("", ""), ("Bearer", None), ("Bearer ", None), ("Basic acme-key-1", None), ("acme-key-1", None)],
)
def test_a_request_without_a_key_is_told_how_to_send_one(authorization, api_key):
    with pytest.raises(Unauthenticated, match="Authorization: Bearer"):
        KEYRING.identify(authorization, api_key)


@given(st.text(max_size=80))
def test_no_other_key_is_let_in_and_none_is_repeated(sent):
    with pytest.raises(Unauthenticated) as caught:
        KEYRING.identify(None, sent)
    assert len(sent) < 4 or sent not in caught.value.detail


def test_a_key_is_compared_whole():
    for sent in ("acme-key", "acme-key-11", "ACME-KEY-1", "acme-key-1:acme"):
        with pytest.raises(Unauthenticated):
            KEYRING.identify(None, sent)


def test_without_keys_everybody_is_the_default_tenant_with_the_admin_right():
    keyring = parse_keys(" \n ")
    assert keyring.is_open
    assert keyring.identify(None, None) == Caller(tenant="default", admin=True, key_id="open")
    assert keyring.identify("Bearer anything", None).tenant == "default"


def test_only_keys_marked_so_have_the_admin_right():
    require_admin(KEYRING.identify("Bearer acme-key-2", None))
    with pytest.raises(Forbidden, match="tenant acme has no admin right"):
        require_admin(KEYRING.identify("Bearer acme-key-1", None))


def test_keys_of_one_tenant_are_told_apart_by_an_id_that_is_not_the_key():
    first, second = KEYRING.identify(None, "acme-key-1"), KEYRING.identify(None, "acme-key-2")
    assert first.key_id != second.key_id
    assert "acme-key" not in first.key_id + second.key_id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("some-long-key", "entry 1 of 1: expected `key:tenant`"),
        ("good-key-1:acme,bad-entry", "entry 2 of 2"),
        ("some-long-key:acme:root", "expected `key:tenant`"),
        ("some-long-key:acme:admin:more", "expected `key:tenant`"),
        ("short:acme", "8 to 256 printable characters without blanks, this one has 5"),
        ("some long key:acme", "without blanks"),
        ("some-long-key:", "a tenant has 1 to 64"),
        ("some-long-key:a{b}", "a tenant has 1 to 64"),
        ("some-long-key:acme,some-long-key:globex", "entry 2 of 2: this key stands twice"),
    ],
)
def test_a_malformed_entry_is_named_by_its_place_and_never_repeated(text, message):
    with pytest.raises(ValueError, match="entry") as caught:
        parse_keys(text)
    assert message in str(caught.value)
    assert "some-long-key" not in str(caught.value)


def test_a_keyring_holds_no_key_in_the_clear():
    keyring = parse_keys("a-very-secret-key:acme")
    assert len(keyring) == 1
    assert isinstance(keyring, Keyring)
    assert "a-very-secret-key" not in repr(keyring._keys)
