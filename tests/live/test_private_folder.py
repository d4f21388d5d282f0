"""A service's own folder in a place that many share: gone with its owner, and nobody else's is touched."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from attune.service.live.private_folder import OWNER, private_folder


def test_what_a_dead_owner_left_goes_and_what_is_somebody_elses_stays(tmp_path: Path):
    for name in ("attune-dead", "attune-alive", "attune-tests-1", "other"):
        (tmp_path / name).mkdir()
    for name in ("attune-dead", "attune-alive", "other"):
        (tmp_path / name / OWNER).touch()
    (tmp_path / "attune-link").symlink_to(tmp_path / "other")
    (tmp_path / "attune-file").touch()
    with (tmp_path / "attune-alive" / OWNER).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with private_folder(tmp_path) as folder:
            assert folder.stat().st_mode & 0o077 == 0
            kept = {"attune-alive", "attune-tests-1", "other", "attune-link", "attune-file", folder.name}
            assert {each.name for each in tmp_path.iterdir()} == kept
    assert {each.name for each in tmp_path.iterdir()} == kept - {folder.name}
    assert (tmp_path / "other" / OWNER).exists()


def test_two_that_live_beside_each_other_keep_theirs_and_a_failure_leaves_none(tmp_path: Path):
    with private_folder(tmp_path) as one, private_folder(tmp_path) as other:
        assert {each.name for each in tmp_path.iterdir()} == {one.name, other.name}
    with pytest.raises(RuntimeError, match="the start failed"), private_folder(tmp_path):
        raise RuntimeError("the start failed")
    assert list(tmp_path.iterdir()) == []
