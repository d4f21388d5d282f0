from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from attune.models.data.embeddings import SHARD_ROWS, EmbeddingInvalid, embed_rows, embed_texts
from attune.models.data.preferences import Texts
from attune.models.seam.text import Encoded
from tests.models.small_world import BagOfWords

WORDS = ["boil the egg for nine minutes ask a cook why not never now hello there"]
TEXTS = Texts(
    (("boil the egg", None), ("hello", None), ("hello", "never ask")),
    (("hello", "why not"), ("boil the egg", "nine minutes"), ("hello", "never"), ("boil the egg", "ask a cook now")),
)


def silent(done, total):
    pass


def test_a_vector_belongs_to_its_text_whatever_the_order_of_computing(tmp_path):
    trunk = BagOfWords(WORDS)
    vectors = embed_texts(TEXTS, trunk, tmp_path, progress=silent)
    alone = embed_texts(Texts((("hello", "never ask"),), (("boil the egg", "ask a cook now"),)), trunk, progress=silent)
    assert np.array_equal(vectors.prompts[2], alone.prompts[0])
    assert np.array_equal(vectors.candidates[3], alone.candidates[0])
    assert not np.array_equal(vectors.prompts[1], vectors.prompts[2])


def test_a_second_run_reads_the_cache_and_computes_only_what_is_new(tmp_path):
    first = embed_texts(TEXTS, BagOfWords(WORDS), tmp_path, progress=silent)
    trunk = BagOfWords(WORDS)
    again = embed_texts(TEXTS, trunk, tmp_path, progress=silent)
    assert trunk.asked == []
    assert np.array_equal(first.candidates, again.candidates)
    embed_texts(Texts(TEXTS.prompts, (*TEXTS.candidates, ("hello", "hello there"))), trunk, tmp_path, progress=silent)
    assert trunk.asked == [1]


def test_another_trunk_never_gets_these_vectors(tmp_path):
    embed_texts(TEXTS, BagOfWords(WORDS), tmp_path, progress=silent)
    other = BagOfWords(WORDS, sha256="another")
    embed_texts(TEXTS, other, tmp_path, progress=silent)
    assert sum(other.asked) == 7


def test_a_text_that_occurs_twice_is_computed_once(tmp_path):
    trunk = BagOfWords(WORDS)
    texts = Texts((("hello", None),), (("hello", "why not"), ("hello", "never"), ("hello", "why not")))
    vectors = embed_texts(texts, trunk, tmp_path, progress=silent)
    assert sum(trunk.asked) == 3
    assert np.array_equal(vectors.candidates[0], vectors.candidates[2])


class NanOnThirdCall(BagOfWords):
    def embed(self, rows):
        vectors = super().embed(rows)
        if len(self.asked) == 3:
            vectors[0, 2] = np.nan
        return vectors


def test_a_vector_that_is_not_finite_is_refused_and_what_came_before_is_kept(tmp_path):
    trunk = NanOnThirdCall(WORDS)
    with pytest.raises(EmbeddingInvalid, match="1 of 2 vectors that are not finite"):
        embed_texts(TEXTS, trunk, tmp_path, progress=silent, chunk=2)
    again = BagOfWords(WORDS)
    embed_texts(TEXTS, again, tmp_path, progress=silent)
    assert sum(again.asked) == 3


def test_what_is_written_grows_with_what_is_computed_and_not_with_what_was_there(tmp_path):
    """Every run adds a file and leaves those before it alone."""
    trunk, written = BagOfWords(WORDS), []
    for count in range(1, 5):
        embed_texts(Texts((("hello", None),), TEXTS.candidates[:count]), trunk, tmp_path, progress=silent)
        written.append({file.name: file.stat().st_size for file in (tmp_path / "vectors-bag-of-words").iterdir()})
    assert [len(files) for files in written] == [1, 2, 3, 4]
    assert all(earlier.items() <= later.items() for earlier, later in pairwise(written))
    assert all(len(np.load(file)) <= 2 for file in (tmp_path / "vectors-bag-of-words").iterdir())


class Ones(BagOfWords):
    def embed(self, rows):
        return np.ones((len(rows), self.width), dtype=np.float32)


def test_within_one_run_no_vector_is_written_twice(tmp_path):
    rows = [Encoded((1, number), 0, 1) for number in range(2 * SHARD_ROWS + 5)]
    embed_rows(rows, Ones(WORDS, width=2), tmp_path, progress=silent)
    files = list((tmp_path / "vectors-bag-of-words").iterdir())
    assert len(files) >= 3
    assert sum(len(np.load(file)) for file in files) == len(rows)


def test_progress_tells_what_is_done_of_what_was_missing(tmp_path):
    told = []
    embed_texts(TEXTS, BagOfWords(WORDS), tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(7, 7)]


def test_a_cache_of_another_width_is_refused_by_its_name(tmp_path):
    embed_texts(TEXTS, BagOfWords(WORDS), tmp_path, progress=silent)
    with pytest.raises(EmbeddingInvalid, match=r"vectors-bag-of-words/[0-9a-f]{16}\.npy holds vectors \(65,\); this trunk gives \(33,\)"):
        embed_texts(TEXTS, BagOfWords(WORDS, width=33), tmp_path, progress=silent)


def test_a_file_that_was_cut_off_is_computed_again_and_said(tmp_path, capsys):
    first = embed_texts(TEXTS, BagOfWords(WORDS), tmp_path, progress=silent)
    (file,) = (tmp_path / "vectors-bag-of-words").iterdir()
    for kept in (300, 40, 0):
        file.write_bytes(file.read_bytes()[:kept])
        trunk = BagOfWords(WORDS)
        again = embed_texts(TEXTS, trunk, tmp_path, progress=silent)
        assert sum(trunk.asked) == 7
        assert np.array_equal(first.candidates, again.candidates)
        assert f"{file} is damaged and was deleted; its vectors are computed again" in capsys.readouterr().err


def test_many_tokens_are_computed_and_reported_in_parts_whatever_the_number_of_rows():
    trunk, said = BagOfWords(WORDS), []
    trunk.tokens_at_once = 8
    embed_texts(TEXTS, trunk, progress=lambda done, total: said.append((done, total)))
    assert len(trunk.asked) > 2
    assert said == [(sum(trunk.asked[: part + 1]), 7) for part in range(len(trunk.asked))]
