"""Settings as env files, shells and editors write them, and names that could never be met."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.service.settings import SettingsError, read_settings, variable


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("host", " 127.0.0.1\r", "127.0.0.1"),
        ("host", "LocalHost", "localhost"),
        ("host", "[::1]", "::1"),
        ("log_level", "DEBUG", "debug"),
        ("log_level", "warning \r", "warning"),
        ("require_gpu", "False\r", False),
        ("port", "8001 \n", 8001),
        ("redis_url", " redis://localhost:6379/0\r", "redis://localhost:6379/0"),
        ("bundle", "/srv/bundle ", "/srv/bundle"),
        ("allowed_hosts", "a.example, [::2] ,", ("a.example", "[::2]")),
    ],
)
def test_what_stands_around_a_value_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch, name: str, written: str, meant: object):
    monkeypatch.setenv(variable(name), written)
    assert getattr(read_settings(), name) == meant


def test_every_character_of_a_secret_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATTUNE_USER_SECRET", "a secret of enough letters ")
    assert read_settings().user_secret.get_secret_value() == "a secret of enough letters "


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("allowed_hosts", host) for host in ("http://a.example", "a.example:8000", "*.example", "a.example/x", "::1", "a b")),
        *(
            ("cors_origins", origin)
            for origin in ("https://a.example/", "a.example", "https://a.example/app", "HTTPS://a.example", "https://u@a")
        ),
    ],
)
def test_a_name_that_no_request_could_have_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv("ATTUNE_API_KEYS", "key-of-acme:acme")
    monkeypatch.setenv(variable(name), value)
    with pytest.raises(SettingsError, match=f"{variable(name)} .environment.: '.*' is no (name of a host|origin); write"):
        read_settings()


def test_a_file_with_a_byte_order_mark_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "attune.toml").write_bytes(b"\xef\xbb\xbfport = 8001\r\n")
    monkeypatch.setenv("ATTUNE_CONFIG", f"{tmp_path / 'attune.toml'} ")
    assert read_settings().port == 8001
