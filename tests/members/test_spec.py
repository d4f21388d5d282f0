"""A roster as an operator writes it, and every mistake named by member and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attune.service.members.member import Defaults, UnusableMember
from attune.service.members.roster_file import MAX_FILE_BYTES, copy_roster, parse_roster, read_roster
from attune.service.members.spec import KINDS, FromEnvironment, LocalSpec, OpenAISpec

LOCAL = {"kind": "local", "base": "language_model/base", "adapter": "language_model/adapters/concise"}
SERVER = {"kind": "openai", "base_url": "https://example.org/v1", "model": "m"}


def test_both_kinds_are_read_in_order_with_their_own_sampling():
    roster = parse_roster({"gpt": SERVER | {"system": "Be brief.", "temperature": 1, "api_key_env": "KEY"}, "concise": LOCAL})
    assert list(roster) == ["gpt", "concise"]
    assert roster["gpt"] == OpenAISpec(base_url="https://example.org/v1", model="m", api_key_env="KEY", temperature=1, system="Be brief.")
    assert roster["gpt"].defaults == Defaults(temperature=1, system="Be brief.")
    assert roster["concise"] == LocalSpec(base=LOCAL["base"], adapter=LOCAL["adapter"])
    assert parse_roster({"base": {"kind": "local", "base": "b", "adapter": None}})["base"] == LocalSpec(base="b")


def test_null_leaves_a_field_of_the_request_out_for_good():
    spec = parse_roster({"gpt": SERVER | {"temperature": None, "top_p": None, "max_tokens_field": None}})["gpt"]
    assert spec.defaults == Defaults(None, None)


def test_what_a_server_needs_beside_a_key_can_be_said_and_secrets_are_named_by_variable():
    azure = SERVER | {"query": {"api-version": "2024-10-21"}, "headers": {"api-key": {"env": "AZURE_KEY"}}}
    spec = parse_roster({"gpt": azure | {"body": {"chat_template_kwargs": {"enable_thinking": False}}}})["gpt"]
    assert spec.headers == {"api-key": FromEnvironment("AZURE_KEY")}
    assert spec.variables == (("headers.api-key", "AZURE_KEY"),)
    assert "2024" not in repr(spec)


@pytest.mark.parametrize(
    ("entry", "field", "said"),
    [
        ("x", "description", "is a string; a table is needed"),
        ({}, "kind", "is missing; 'local' or 'openai' is needed"),
        (LOCAL | {"kind": "vllm"}, "kind", "is a string that is not known"),
        (LOCAL | {"kind": ["local"]}, "kind", "is a list; 'local' or 'openai' is needed"),
        ({"kind": "local"}, "base", "is missing"),
        (LOCAL | {"base": 3}, "base", "is 3; a string is needed"),
        (LOCAL | {"base": ""}, "base", "is empty"),
        (LOCAL | {"base": "\ud800"}, "base", "is a string, which is not allowed"),
        (LOCAL | {"model": "m"}, "model", "is unknown; a member of kind local has"),
        (LOCAL | {"device": "tpu"}, "device", "'cpu' or 'cuda' is needed"),
        (LOCAL | {"temperature": None}, "temperature", "is null; a number is needed"),
        (SERVER | {"max_tokens_field": []}, "max_tokens_field", "is a list that is not known; 'max_tokens'"),
        (SERVER | {"temperature": -1}, "temperature", "is -1; it is at least 0"),
        (SERVER | {"temperature": True}, "temperature", "is true or false; a number or null is needed"),
        (SERVER | {"top_p": 0}, "top_p", "is 0; it is above 0"),
        (SERVER | {"top_p": 1.5}, "top_p", "is 1.5; it is at most 1"),
        (SERVER | {"connect_s": 0}, "connect_s", "is 0; it is above 0"),
        (SERVER | {"connect_s": float("inf")}, "connect_s", "a finite number"),
        (SERVER | {"price": -0.1}, "price", "is -0.1; it is at least 0"),
        (LOCAL | {"latency_s": float("nan")}, "latency_s", "is nan; a finite number is needed"),
        (LOCAL | {"price": "1"}, "price", "is a string; a number is needed"),
        (SERVER | {"failures_to_open": 2.5}, "failures_to_open", "is 2.5; a whole number is needed"),
        (SERVER | {"include_usage": 1}, "include_usage", "is 1; true or false is needed"),
        (SERVER | {"system": 1}, "system", "is 1; a string or null is needed"),
        (SERVER | {"base_url": "example.org/v1"}, "base_url", "is no http or https URL"),
        (SERVER | {"base_url": "http://[::1/v1"}, "base_url", "is no URL that can be read"),
        (SERVER | {"base_url": "https://u:secret@example.org"}, "base_url", "holds a user, a password, a query"),
        (SERVER | {"base_url": "https://example.org/v1?key=secret"}, "base_url", "a query into query"),
        (SERVER | {"base_url": "https://example.org/v1/chat/completions/"}, "base_url", "ends before /chat/completions, often in /v1"),
        (SERVER | {"api_key": "sk-123"}, "api_key", "is unknown"),
        (SERVER | {"api_key_env": "sk-123"}, "api_key_env", "is no name of an environment variable"),
        (SERVER | {"headers": {"x": {"env": "Bearer sk-123"}}}, "headers.x", "is no name of an environment variable"),
        (SERVER | {"think_tag": 5}, "think_tag", "is neither a name, a list of names nor null"),
        (LOCAL | {"think_tag": ["ok", "<b>"]}, "think_tag.1", "does not match"),
        (SERVER | {"headers": {"authorization": "Bearer ${SECRET_KEY}"}}, "headers.authorization", "api_key_env names the one"),
        (SERVER | {"headers": {"x": "$SECRET"}}, "headers.x", '{"env": "NAME"} is sent as the whole value'),
        (SERVER | {"headers": {"x": "Bearer $SECRET"}}, "headers.x", "variables are not put into strings"),
        (SERVER | {"headers": {"x": "Bearer {{ secret }}"}}, "headers.x", "variables are not put into strings"),
        (SERVER | {"headers": {"x": "os.environ/SECRET"}}, "headers.x", "variables are not put into strings"),
        (SERVER | {"query": {"key": "$(SECRET)"}}, "query.key", "variables are not put into strings"),
        (SERVER | {"base_url": "http://${SECRET}:8000/v1"}, "base_url", "write the value itself"),
        (SERVER | {"base_url": "http://$SECRET:8000/v1"}, "base_url", "write the value itself"),
        (SERVER | {"model": "${SECRET}"}, "model", "write the value itself"),
        (SERVER | {"headers": {"x": 1}}, "headers.x", 'is neither a string nor {"env": "NAME"}'),
        (SERVER | {"headers": {"x": {"env": "N", "or": "secret"}}}, "headers.x", "is neither"),
        (SERVER | {"headers": {"x": "secret\r\ny: 1"}}, "headers.x", "cannot be sent"),
        (SERVER | {"headers": {"Host": "secret"}}, "headers", "which the client sets itself"),
        (SERVER | {"headers": {"a": "secret", "A": "secret"}}, "headers", "twice"),
        (SERVER | {"body": {"messages": []}}, "body", "holds messages, which is said by"),
        (SERVER | {"body": {"x": "\ud800 secret"}}, "body", "cannot be sent as JSON"),
    ],
)
def test_a_mistake_is_named_by_member_and_field(entry, field, said):
    with pytest.raises(UnusableMember) as caught:
        parse_roster({"good": SERVER, "bad": entry})
    assert (caught.value.member, caught.value.field) == ("bad", field)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize("value", ["pa$$word", "$5", "a$b", "Basic YTokYg==", "{json}", "100%"])
def test_a_value_that_only_has_signs_of_a_reference_is_sent_as_it_stands(value):
    assert parse_roster({"gpt": SERVER | {"headers": {"x": value}}})["gpt"].headers == {"x": value}


@pytest.mark.parametrize("name", ["", "a b", "é", "a\nb", "x" * 65, "-a"])
def test_a_name_that_cannot_stand_in_a_header_is_refused(name):
    with pytest.raises(UnusableMember, match="name"):
        parse_roster({name: SERVER})


@pytest.mark.parametrize("name", ["auto", "AUTO"])
def test_a_name_that_could_never_be_asked_for_is_refused(name):
    with pytest.raises(UnusableMember, match=r"name: is the model of /v1 that routes"):
        parse_roster({name: SERVER})


@pytest.mark.parametrize("name", ["roster.yaml", "roster.yml", "ROSTER.YML"])
def test_a_format_that_is_not_read_is_told_with_those_that_are(tmp_path, name):
    (tmp_path / name).write_text("concise: {kind: local, base: b}")
    with pytest.raises(UnusableMember, match=r"is YAML by its name, which is not read; write it as JSON, or as TOML"):
        read_roster(tmp_path / name)


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


def test_further_mistakes_of_a_member_are_told_with_the_first():
    with pytest.raises(UnusableMember, match=r"'m', temperature: is -1; it is at least 0; top_p: is 2; it is at most 1"):
        parse_roster({"m": SERVER | {"temperature": -1, "top_p": 2}})


@pytest.mark.parametrize(
    ("text", "member", "field"),
    [
        ('{"a": {"kind": "local", "base": "b"}, "a": {"kind": "local", "base": "c"}}', "a", "name"),
        ('{"a": {"kind": "local", "base": "b", "base": "c"}}', "a", "base"),
        ('{"a": {"kind": "openai", "base_url": "http://h", "model": "m", "body": {"x": [{"y": 1, "y": 2}]}}}', "a", "body.x.y"),
    ],
)
def test_a_name_that_stands_twice_is_refused_wherever_it_stands(tmp_path, text, member, field):
    (tmp_path / "roster.json").write_text(text)
    with pytest.raises(UnusableMember, match="stands twice") as caught:
        read_roster(tmp_path / "roster.json")
    assert (caught.value.member, caught.value.field) == (member, field)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "holds a value that cannot be read"),
        (b"{", "is not JSON: .* in line 1, column 2"),
        (b"\xff", "is not UTF-8"),
        (b" " * (MAX_FILE_BYTES + 1), "a roster has at most"),
    ],
)
def test_a_file_that_is_no_roster_is_refused_in_a_sentence(tmp_path, content, said):
    (tmp_path / "roster.json").write_bytes(content)
    with pytest.raises(UnusableMember, match=said):
        read_roster(tmp_path / "roster.json")


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "roster.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"concise": LOCAL}).encode())
    assert list(read_roster(tmp_path / "roster.json")) == ["concise"]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_field_is_documented(kind):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "roster.md").read_text()
    assert [name for name in KINDS[kind].model_fields if f"`{name}`" not in page] == []


@pytest.mark.parametrize("content", [None, b"\xff", b"{", b"[]", b"1", b'{"a"', b"{" + b" " * MAX_FILE_BYTES + b"}"])
@pytest.mark.parametrize("name", ["roster.json", "roster.toml"])
def test_what_is_wrong_with_a_whole_roster_is_said_of_the_roster_and_of_no_member(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableMember) as caught:
        read_roster(tmp_path / name)
    assert str(caught.value).startswith("roster")
    assert "member" not in str(caught.value)


def test_a_copy_says_the_same_from_another_folder(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here.json"
    there.mkdir()
    text = """
        [small]
        kind = "local"
        base = "base"
        adapter = "adapters/a"
        system = "\u0439"
        [far]
        kind = "openai"
        base_url = "http://localhost:9/v1"
        model = "m"
        first_token_s = 3
        headers = {x-key = {env = "KEY"}}
        body = {since = 2026-11-28T07:00:00Z, top_k = 3}
    """
    (there / "roster.toml").write_text(text, encoding="utf-8")
    described = copy_roster(there / "roster.toml", here)
    copied = read_roster(here)
    assert list(copied) == list(described) == ["small", "far"]
    small, far = copied["small"], copied["far"]
    assert small == described["small"].model_copy(update={"base": str(there / "base"), "adapter": str(there / "adapters/a")})
    assert far == described["far"].model_copy(update={"body": {"since": "2026-11-28T07:00:00+00:00", "top_k": 3}})
    (there / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(UnusableMember, match="is not JSON"):
        copy_roster(there / "broken.json", tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()
