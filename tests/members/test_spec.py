"""A roster as an operator writes it, and every mistake named by member and field."""

from __future__ import annotations

import json

import pytest

from attune.service.members.member import Defaults, UnusableMember
from attune.service.members.spec import LocalSpec, OpenAISpec, parse_roster, read_roster

LOCAL = {"kind": "local", "base": "language_model/base", "adapter": "language_model/adapters/concise"}
SERVER = {"kind": "openai", "base_url": "https://example.org/v1", "model": "m"}


def test_both_kinds_are_read_in_order_with_their_own_sampling():
    roster = parse_roster({"gpt": SERVER | {"system": "Be brief.", "temperature": 1, "api_key_env": "KEY"}, "concise": LOCAL})
    assert list(roster) == ["gpt", "concise"]
    assert roster["gpt"] == OpenAISpec(
        "https://example.org/v1", "m", api_key_env="KEY", defaults=Defaults(temperature=1, system="Be brief.")
    )
    assert roster["concise"] == LocalSpec(LOCAL["base"], LOCAL["adapter"])
    assert parse_roster({"base": {"kind": "local", "base": "b", "adapter": None}})["base"] == LocalSpec("b")


@pytest.mark.parametrize(
    ("entry", "field", "said"),
    [
        ("x", "description", "is a string; a table is needed"),
        ({}, "kind", "is None; one of ['local', 'openai'] is needed"),
        (LOCAL | {"kind": "vllm"}, "kind", "is 'vllm'"),
        ({"kind": "local"}, "base", "is missing"),
        (LOCAL | {"base": 3}, "base", "is 3; str is needed"),
        (LOCAL | {"base": ""}, "base", "is empty"),
        (LOCAL | {"model": "m"}, "model", "is unknown; a member of kind local has kind, base, adapter"),
        (LOCAL | {"device": "tpu"}, "device", "is 'tpu'; one of ['cpu', 'cuda'] is needed"),
        (SERVER | {"max_tokens_field": []}, "max_tokens_field", "is []; one of ['max_tokens'"),
        (SERVER | {"temperature": -1}, "temperature", "is -1; it is at least 0"),
        (SERVER | {"temperature": True}, "temperature", "is true or false; float is needed"),
        (SERVER | {"top_p": 0}, "top_p", "is 0; it is above 0 and at most 1"),
        (SERVER | {"connect_s": 0}, "connect_s", "is 0; it is above 0"),
        (SERVER | {"price": -0.1}, "price", "is -0.1; it is at least 0"),
        (LOCAL | {"latency_s": float("nan")}, "latency_s", "is nan; it is at least 0"),
        (LOCAL | {"price": "1"}, "price", "is a string; float is needed"),
        (SERVER | {"failures_to_open": 2.5}, "failures_to_open", "is 2.5; int is needed"),
        (SERVER | {"include_usage": 1}, "include_usage", "is 1; bool is needed"),
        (SERVER | {"system": 1}, "system", "is 1; str or null is needed"),
        (SERVER | {"base_url": "example.org/v1"}, "base_url", "an http or https URL is needed"),
        (SERVER | {"base_url": "https://u:secret@example.org"}, "base_url", "holds a password or a query"),
        (SERVER | {"api_key": "sk-123"}, "api_key", "is unknown"),
    ],
)
def test_a_mistake_is_named_by_member_and_field(entry, field, said):
    with pytest.raises(UnusableMember) as caught:
        parse_roster({"good": SERVER, "bad": entry})
    assert (caught.value.member, caught.value.field) == ("bad", field)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "é", "a\nb", "x" * 65, "-a"])
def test_a_name_that_cannot_stand_in_a_header_is_refused(name):
    with pytest.raises(UnusableMember, match="name"):
        parse_roster({name: SERVER})


@pytest.mark.parametrize("described", [[], "x", None])
def test_a_roster_that_is_no_table_is_refused(described):
    with pytest.raises(UnusableMember, match="a table of name to description is needed"):
        parse_roster(described)


def test_json_and_toml_files_say_the_same(tmp_path):
    (tmp_path / "roster.json").write_text(json.dumps({"concise": LOCAL}))
    (tmp_path / "roster.toml").write_text("[concise]\n" + "".join(f'{key} = "{value}"\n' for key, value in LOCAL.items()))
    assert read_roster(tmp_path / "roster.json") == read_roster(tmp_path / "roster.toml")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.toml").write_text("[")
    for name in ("absent.json", "broken.toml"):
        with pytest.raises(UnusableMember, match=name):
            read_roster(tmp_path / name)
