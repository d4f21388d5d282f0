"""Writing over what is damaged, and clearing away what killed writers left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from attune.models.seam.bundle import BundleInvalid, read_bundle
from attune.models.seam.staging import LEFT_BEHIND_S
from tests.seam.test_bundle import write

DAMAGE = {
    "a changed byte": lambda path: (path / "scorer.onnx").write_bytes(b"changed"),
    "a missing file": lambda path: (path / "tokenizer.json").unlink(),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "a manifest cut short": lambda path: (path / "manifest.json").write_text('{"id"'),
    "an unreadable manifest": lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe"),
    "a folder in place of a file": lambda path: ((path / "probes.npz").unlink(), (path / "probes.npz").mkdir()),
    "a file in place of the bundle": lambda path: (shutil.rmtree(path), path.write_text("what is this")),
    "a link to nowhere": lambda path: (shutil.rmtree(path), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_bundle_is_replaced_by_the_next_writer_of_the_same(tmp_path, kind):
    path = write(tmp_path)
    DAMAGE[kind](path)
    with pytest.raises(BundleInvalid):
        read_bundle(path)
    assert write(tmp_path) == path
    assert read_bundle(path).path == path
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_bundle_is_kept_and_not_written_again(tmp_path):
    path = write(tmp_path)
    before = (path.stat().st_ino, (path / "scorer.onnx").stat().st_ino)
    assert write(tmp_path) == path
    assert (path.stat().st_ino, (path / "scorer.onnx").stat().st_ino) == before


@pytest.mark.slow
def test_writers_that_find_it_damaged_at_once_agree(tmp_path):
    barrier = Barrier(6)

    def writer(root: Path) -> Path:
        barrier.wait(timeout=30)
        return write(root)

    for attempt in range(8):
        root = tmp_path / str(attempt)
        DAMAGE["a changed byte"](write(root))
        with ThreadPoolExecutor(6) as pool:
            paths = set(pool.map(writer, [root] * 6))
        assert list(root.iterdir()) == list(paths)
        read_bundle(paths.pop())


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.seam.test_bundle import write

class Kill:
    def __fspath__(self):
        os.kill(os.getpid(), signal.SIGKILL)

write(Path(sys.argv[1]), tokenizer__json=Kill())
"""


@pytest.mark.slow
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2], timeout=120, check=False)
    assert [path.name.startswith(".writing-") for path in tmp_path.iterdir()] == [True]
    path = write(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_old_is_removed_whoever_wrote_it_and_what_is_young_of_others_is_not(tmp_path):
    old, young, unnamed = (tmp_path / f".writing-{name}" for name in ("00000000-1-abc", "00000000-2-abc", "abc"))
    for folder in (old, young, unnamed):
        folder.mkdir()
    for folder in (old, unnamed):
        now_s = folder.stat().st_mtime
        os.utime(folder, (now_s, now_s - LEFT_BEHIND_S - 60))
    path = write(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([path, young])


def test_a_writer_that_is_still_at_it_is_left_alone(tmp_path):
    seen = []

    class Meanwhile:
        def __fspath__(self) -> str:
            mine = next(folder for folder in tmp_path.iterdir() if folder.name.startswith(".writing-"))
            write(tmp_path, metadata={"note": "another"})
            seen.append(mine.is_dir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, tokenizer__json=Meanwhile())
    assert seen == [True]
