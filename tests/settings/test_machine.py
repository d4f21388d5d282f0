"""What is settled from settings and the machine: keyring, user secret, bundle folder, cautions."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from attune.service.machine import cautions, find_bundle, load_keyring, load_user_secret
from attune.service.settings import Settings, SettingsError


def make_bundle(folder, name, age_s):
    path = folder / "bundles" / name
    path.mkdir(parents=True)
    manifest = path / "manifest.json"
    manifest.write_text("{}", encoding="utf-8")
    os.utime(manifest, (1_700_000_000 - age_s,) * 2)
    return path


def test_the_user_secret_is_made_once_and_only_its_owner_reads_it(tmp_path):
    settings = Settings(data_dir=tmp_path / "new")
    secret = load_user_secret(settings)
    assert len(secret) == 64
    assert load_user_secret(settings) == secret
    assert (tmp_path / "new" / "user.secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["user.secret"]


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path):
    settings = Settings(data_dir=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        secrets = {future.result() for future in [pool.submit(load_user_secret, settings) for _ in range(32)]}
    assert len(secrets) == 1


def test_a_given_secret_goes_before_the_file(tmp_path):
    assert load_user_secret(Settings(data_dir=tmp_path, user_secret="sixteen-characters")) == b"sixteen-characters"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_secret_file_stops_the_start_instead_of_losing_every_user(tmp_path):
    (tmp_path / "user.secret").write_text("cut", encoding="ascii")
    with pytest.raises(SettingsError, match="needs at least 16 bytes, has 3"):
        load_user_secret(Settings(data_dir=tmp_path))


@pytest.mark.parametrize(("below", "said"), [("", "File exists"), ("data", "Not a directory")])
def test_a_data_directory_that_cannot_be_made_is_named_in_words(tmp_path, below, said):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError) as refused:
        load_user_secret(Settings(data_dir=tmp_path / "file" / below))
    assert re.search(rf"ATTUNE_DATA_DIR \(.*/file.*\): cannot be a folder: {said}$", str(refused.value))


def test_the_newest_complete_bundle_is_found(tmp_path):
    make_bundle(tmp_path, "bundle-old-000000000000", age_s=100)
    newest = make_bundle(tmp_path, "bundle-new-000000000000", age_s=50)
    make_bundle(tmp_path, "other", age_s=0)
    (tmp_path / "bundles" / "bundle-half-written").mkdir()
    assert find_bundle(Settings(data_dir=tmp_path)) == newest


def test_a_named_bundle_goes_before_the_newest(tmp_path):
    old = make_bundle(tmp_path, "bundle-old-000000000000", age_s=100)
    make_bundle(tmp_path, "bundle-new-000000000000", age_s=50)
    assert find_bundle(Settings(data_dir=tmp_path, bundle=str(old))) == old


def test_no_bundle_is_refused_with_the_way_to_make_one(tmp_path):
    with pytest.raises(SettingsError, match="`attune bundle demo` makes the demo's"):
        find_bundle(Settings(data_dir=tmp_path))


def test_an_incomplete_named_bundle_is_refused_with_its_path(tmp_path):
    with pytest.raises(SettingsError, match=r"bundle-x.*no manifest\.json"):
        find_bundle(Settings(bundle=str(tmp_path / "bundle-x")))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("https://bundles.example.com/bundle-x", "`attune bundle fetch` brings a bundle"),
        ("s3://bucket/bundle-x", "`attune bundle fetch` brings a bundle"),
        ("families", "`attune bundle build` packs into a bundle"),
        ("adapter", "it is a member's adapter"),
        ("model", "it is a model"),
        ("roster.json", "it is a roster"),
        ("\0", "no complete bundle"),
    ],
)
def test_what_stands_in_place_of_a_bundle_is_told(tmp_path, value, said):
    for folder, file in {"families": "heads.json", "adapter": "adapter_config.json", "model": "config.json"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}", encoding="utf-8")
    (tmp_path / "roster.json").write_text('{"m": {"kind": "local", "base": "b"}}', encoding="utf-8")
    there = tmp_path / value
    with pytest.raises(SettingsError, match=said):
        find_bundle(Settings(bundle=str(there) if value.isprintable() and there.exists() else value))


def test_keys_come_from_the_variable_and_the_file_together(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# made in spring\nsecond-key:globex\n\n", encoding="utf-8")
    keyring = load_keyring(Settings(api_keys="first-key:acme", api_keys_file=str(path)))
    assert keyring.identify("Bearer first-key", None).tenant == "acme"
    assert keyring.identify(None, "second-key").tenant == "globex"


def test_a_key_file_without_keys_does_not_open_the_service_to_the_world(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# none yet\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"holds no key, and host 0\.0\.0\.0 needs one"):
        load_keyring(Settings(host="0.0.0.0", api_keys_file=str(path)))


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"no-tenant-here"])
def test_a_bad_key_file_is_refused_with_its_path(tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="ATTUNE_API_KEYS_FILE") as caught:
        load_keyring(Settings(api_keys_file=str(path)))
    assert str(path) in str(caught.value)
    assert "no-tenant-here" not in str(caught.value)


def test_a_shared_redis_with_a_secret_of_this_machine_is_cautioned_against():
    assert cautions(Settings()) == []
    assert "ATTUNE_USER_SECRET" in cautions(Settings(redis_url="redis://shared"))[0]
    assert cautions(Settings(redis_url="redis://shared", user_secret="sixteen-characters")) == []
