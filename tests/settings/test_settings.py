"""Settings: where values come from, which are refused, and how a refusal reads."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from attune.service import app
from attune.service.setting_rows import describe_settings, in_force_table, settings_in_force, settings_table
from attune.service.settings import Settings, SettingsError, read_settings, variable
from tests.project.tree import ROOT


@pytest.fixture
def toml(tmp_path, monkeypatch):
    """Returns a function that makes a text the file ATTUNE_CONFIG names."""

    def write(text: str) -> str:
        path = tmp_path / "attune.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("ATTUNE_CONFIG", str(path))
        return str(path)

    return write


def refused(**arguments: object) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(**arguments)
    return str(caught.value)


def test_arguments_go_before_the_environment_before_the_file_before_defaults(monkeypatch, toml):
    toml("port = 1\nthreads = 1\nlocal_max_batch = 1\n")
    monkeypatch.setenv("ATTUNE_PORT", "2")
    monkeypatch.setenv("ATTUNE_THREADS", "2")
    settings = read_settings(port=3, host=None)
    assert (settings.port, settings.threads, settings.local_max_batch, settings.host) == (3, 2, 1, "127.0.0.1")


def test_an_unknown_variable_stops_the_start_with_its_name_and_the_nearest_one(monkeypatch):
    monkeypatch.setenv("ATTUNE_REDIS_ULR", "redis://localhost")
    assert "ATTUNE_REDIS_ULR (environment): no such setting; did you mean ATTUNE_REDIS_URL?" in refused()


def test_an_unknown_variable_that_resembles_nothing_points_to_the_list(monkeypatch):
    monkeypatch.setenv("ATTUNE_XYZZY", "1")
    assert "ATTUNE_XYZZY (environment): no such setting; `attune settings` lists them" in refused()


def test_variables_of_other_programs_are_nobodys_business(monkeypatch):
    monkeypatch.setenv("ATTUNED_PORT", "1")
    assert read_settings().port == 8000


def test_an_unknown_key_of_the_file_is_named_with_the_file(toml):
    path = toml("prot = 1\n")
    assert f"prot ({path}): no such setting; did you mean port?" in refused()


def test_a_file_that_is_nested_too_deeply_is_named(toml):
    assert "attune.toml cannot be read" in (toml("port = " + "[" * 20_000), refused())[1]


def test_a_malformed_value_is_named_with_its_source(monkeypatch, toml):
    path = toml('max_in_flight = "many"\n')
    monkeypatch.setenv("ATTUNE_PORT", "99999")
    message = refused(threads=-1)
    assert "ATTUNE_PORT (environment): is '99999'; must be less than or equal to 65535" in message
    assert f"max_in_flight ({path}): is 'many'; must be a valid integer" in message.splitlines()
    assert "threads (argument): is '-1'; must be greater than or equal to 0" in message


@pytest.mark.parametrize("name", ["redis_url", "api_keys", "user_secret"])
def test_a_value_that_may_be_secret_is_not_repeated(toml, name):
    path = toml(f'{name} = ["sesame-31"]\n')
    message = refused()
    assert message.startswith(f"{name} ({path}): must be a ")
    assert "sesame" not in message


def test_all_problems_are_told_at_once(monkeypatch):
    monkeypatch.setenv("ATTUNE_PROT", "1")
    monkeypatch.setenv("ATTUNE_THREADS", "x")
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert [problem.name for problem in caught.value.problems] == ["ATTUNE_PROT", "ATTUNE_THREADS"]


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2", "\xff"])
def test_a_file_that_is_no_toml_is_refused_with_its_path(text, toml, tmp_path):
    path = toml("")
    (tmp_path / "attune.toml").write_bytes(text.encode("latin-1"))
    assert f"ATTUNE_CONFIG (environment): {path} cannot be read" in refused()


def test_a_missing_file_is_refused_with_its_path(monkeypatch):
    monkeypatch.setenv("ATTUNE_CONFIG", "/nowhere/attune.toml")
    assert "/nowhere/attune.toml cannot be read" in refused()


def test_an_empty_variable_counts_as_not_given(monkeypatch):
    monkeypatch.setenv("ATTUNE_PORT", "")
    assert read_settings().port == 8000


def test_settings_cannot_be_changed_after_the_start():
    settings = read_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


def test_an_open_service_listens_on_loopback_only():
    message = refused(host="0.0.0.0")
    assert "host 0.0.0.0 can be reached from outside" in message
    assert "ATTUNE_API_KEYS" in message
    assert read_settings(host="0.0.0.0", api_keys="long-enough-key:acme").host == "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("10.0.0.1", False)]
)
def test_loopback_is_told_from_addresses_that_others_reach(host, expected):
    assert Settings(host=host, api_keys="long-enough-key:acme").is_loopback is expected


def test_lifetimes_must_make_sense_together():
    assert "user_ttl_s 3600 is shorter than decision_ttl_s 7200" in refused(user_ttl_s=3600, decision_ttl_s=7200)


def test_a_queue_must_hold_one_batch():
    assert "queue_max_tokens 512 cannot hold one batch of 1024 tokens" in refused(queue_max_tokens=512, batch_budget_tokens=1024)


def test_secrets_show_neither_in_the_settings_nor_in_a_refusal(monkeypatch):
    monkeypatch.setenv("ATTUNE_API_KEYS", "the-secret-key-itself;acme")
    assert "the-secret-key-itself" not in refused()
    monkeypatch.setenv("ATTUNE_API_KEYS", "the-secret-key-itself:acme")
    monkeypatch.setenv("ATTUNE_REDIS_URL", "redis://:the-password@localhost")
    monkeypatch.setenv("ATTUNE_USER_SECRET", "the-user-secret-of-32-characters")
    shown = repr(read_settings())
    assert "the-secret-key-itself" not in shown
    assert "the-password" not in shown
    assert "the-user-secret" not in shown


def test_a_short_user_secret_is_refused_with_both_numbers():
    assert "needs at least 16 characters, has 5" in refused(user_secret="short")


def test_shadow_families_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("ATTUNE_SHADOW_FAMILIES", "micro, bradley_terry,")
    assert read_settings().shadow_families == ("micro", "bradley_terry")


def test_every_setting_is_described_with_its_bounds():
    rows = describe_settings()
    assert [row.variable for row in rows] == ["ATTUNE_CONFIG", *map(variable, Settings.model_fields)]
    assert [row.variable for row in rows if not row.description] == []
    by_name = {row.variable: row for row in rows}
    assert by_name["ATTUNE_PORT"].allowed == "0 to 65 535"
    assert by_name["ATTUNE_LOG_LEVEL"].allowed == "debug | info | warning | error"
    assert by_name["ATTUNE_KEEP_TEXT"].default == "true"


def test_every_number_has_both_bounds():
    unbounded = [
        name
        for name, field in Settings.model_fields.items()
        if field.annotation in {int, float} and len({type(rule).__name__ for rule in field.metadata} & {"Ge", "Le"}) < 2
    ]
    assert unbounded == []


def test_the_table_has_four_cells_a_row_whatever_the_values_hold():
    lines = settings_table().splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert lines[0] == "| variable | default | allowed | meaning |"


def test_every_bound_is_written_out():
    assert "104 857 600 to 17 179 869 184" in settings_table()
    assert not re.search(r"e[+-]\d", settings_table())


def test_every_setting_is_read_by_the_service():
    source = "\n".join(
        (ROOT / "service" / name).read_text(encoding="utf-8")
        for name in ("__main__.py", "app.py", "machine.py", "one_process.py", "parts.py", "settings.py")
    )
    taken = {name for part in re.findall(r"numbers_for\((\w+), settings\)", source) for name in vars(app)[part].__dataclass_fields__}
    named = {name for name in Settings.model_fields if f"settings.{name}" in source or f"self.{name}" in source}
    assert set(Settings.model_fields) - taken - named == set()
    assert taken <= set(Settings.model_fields)


def test_the_name_of_the_file_in_small_letters_is_refused_and_not_passed_over(monkeypatch, toml):
    path = toml("port = 9")
    monkeypatch.delenv("ATTUNE_CONFIG")
    monkeypatch.setenv("attune_config", str(path))
    with pytest.raises(SettingsError, match=r"attune_config \(environment\): no such setting; did you mean ATTUNE_CONFIG\?"):
        read_settings()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "redis+sentinel://me:sesame@a:1,b:2/main?sentinel_username=me&sentinel_password=sesame",
            "redis+sentinel://(hidden)@a:1,b:2/main?sentinel_username=me&sentinel_password=(hidden)",
        ),
        ("redis+sentinel://a:1/main?sentinel_password=ses@me", "redis+sentinel://a:1/main?sentinel_password=(hidden)"),
        ("unix:///run/redis.sock?password=sesame&db=1", "unix:///run/redis.sock?password=(hidden)&db=1"),
        ("redis://:ses/me@store:6379/1", "redis://(hidden)@store:6379/1"),
    ],
)
def test_no_password_of_the_store_is_told_wherever_its_address_has_it(monkeypatch, url, shown):
    monkeypatch.setenv("ATTUNE_REDIS_URL", url)
    assert {row.variable: row.value for row in settings_in_force()}["ATTUNE_REDIS_URL"] == shown


def test_what_is_in_force_is_told_with_its_source_and_without_secrets(monkeypatch, toml):
    path = toml(
        'port = 9\nthreads = 3\ncors_origins = ["https://one.example", "https://two.example"]\napi_keys = "sesame-open-me-now:acme"\n'
    )
    monkeypatch.setenv("ATTUNE_PORT", "8001")
    monkeypatch.setenv("ATTUNE_USER_SECRET", "sesame sesame sesame")
    monkeypatch.setenv("ATTUNE_REDIS_URL", "redis://me:sesame@store:6379/1")
    rows = {row.variable: (row.value, row.source) for row in settings_in_force()}
    assert list(rows) == [row.variable for row in describe_settings()]
    assert rows["ATTUNE_CONFIG"] == (str(path), "environment")
    assert rows["ATTUNE_PORT"] == ("8001", "environment")
    assert rows["ATTUNE_THREADS"] == ("3", str(path))
    assert rows["ATTUNE_CORS_ORIGINS"] == ("https://one.example,https://two.example", str(path))
    assert rows["ATTUNE_USER_SECRET"] == ("(hidden)", "environment")
    assert rows["ATTUNE_REDIS_URL"] == ("redis://(hidden)@store:6379/1", "environment")
    assert rows["ATTUNE_HOST"] == ("127.0.0.1", "default")
    lines = in_force_table().splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [name for name, (_, source) in rows.items() if source != "default"]
    assert lines[-1] == "the others have their defaults"
    assert "sesame" not in in_force_table()


def test_where_nothing_is_set_that_is_said_and_what_a_start_refuses_is_refused(monkeypatch):
    assert in_force_table().startswith("nothing is set")
    monkeypatch.setenv("ATTUNE_PROT", "1")
    with pytest.raises(SettingsError, match="did you mean ATTUNE_PORT"):
        in_force_table()
