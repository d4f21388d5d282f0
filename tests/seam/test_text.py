"""Texts to tokens: the template's limits, what is pooled, what is dropped."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from attune.models.seam.text import Encoded, TextEncoder, TextTemplate, conversation_text

CLS, SEP, PAD, UNK = 0, 1, 2, 3
LIMITS = {"max_tokens": 16, "max_prompt_tokens": 5, "max_context_tokens": 3}
TEMPLATE = TextTemplate(prefix=(CLS,), middle=(SEP,), suffix=(SEP,), separator=(SEP, SEP), **LIMITS)


def word_tokenizer() -> Tokenizer:
    """`w0` is 4, `w1` is 5 and so on; configured for its former life: truncation, padding, specials around everything."""
    vocabulary = {"[CLS]": CLS, "[SEP]": SEP, "[PAD]": PAD, "[UNK]": UNK, **{f"w{index}": 4 + index for index in range(40)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]", "[UNK]"])
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4, pad_id=PAD, pad_token="[PAD]")
    return tokenizer


def byte_tokenizer() -> Tokenizer:
    """Encodes any text without loss, in pieces of one or more bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat", "the dog and the cat"], trainer)
    return tokenizer


BYTES = byte_tokenizer()
ROOMY = TextTemplate((0,), middle=(1, 1), suffix=(1,), separator=(1,), max_tokens=4096, max_prompt_tokens=1024)


def words(*indices: int) -> str:
    return " ".join(f"w{index}" for index in indices)


def ids(*indices: int) -> tuple[int, ...]:
    return tuple(4 + index for index in indices)


@pytest.fixture
def encoder() -> TextEncoder:
    return TextEncoder(word_tokenizer(), TEMPLATE)


# --- candidates


def test_a_candidate_is_prompt_and_response_between_the_special_pieces(encoder):
    assert encoder.candidates(words(1, 2), [words(3, 4, 5)]) == [Encoded((CLS, *ids(1, 2), SEP, *ids(3, 4, 5), SEP), 4, 7)]


def test_a_long_prompt_keeps_its_end_and_all_the_room_that_a_short_response_leaves(encoder):
    # 16 tokens less prefix, middle, suffix and one of the response leave 12 for the prompt.
    (row,) = encoder.candidates(words(*range(14)), [words(30)])
    assert row == Encoded((CLS, *ids(*range(2, 14)), SEP, *ids(30), SEP), 14, 15, dropped_prompt_tokens=2)
    (row,) = encoder.candidates(words(*range(12)), [words(30)])
    assert (len(row), row.dropped_tokens) == (TEMPLATE.max_tokens, 0)


def test_of_a_long_prompt_and_a_long_response_each_keeps_its_share(encoder):
    (row,) = encoder.candidates(words(*range(14)), [words(*range(20))])
    assert row == Encoded((CLS, *ids(*range(9, 14)), SEP, *ids(*range(8)), SEP), 7, 15, 9, 12)
    assert row.dropped_tokens == 21


def test_a_text_of_which_the_tokenizer_knows_nothing_says_so(encoder):
    (row,) = encoder.candidates("w1 who", ["what w2 w3", "w4"])[:1]
    assert (row.unknown_prompt_tokens, row.unknown_response_tokens) == (1, 1)
    assert encoder.prompt("who knows w1").unknown_prompt_tokens == 2
    # Only what is read counts: the start of this prompt was cut.
    assert encoder.prompt("who " + words(*range(20))).unknown_prompt_tokens == 0
    bytewise = TextEncoder(byte_tokenizer(), ROOMY)
    assert bytewise.candidates("Ω 🥞", ["aaaa"])[0].unknown_response_tokens == 0


def test_the_unknown_token_of_a_unigram_model_is_found_in_its_file():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], unk_id=0))
    encoder = TextEncoder(tokenizer, TextTemplate((), (1,), (), (1,), 8, 2, 2))
    assert encoder.candidates("a", ["abz"])[0].unknown_response_tokens == 1


def test_a_long_response_loses_its_end_and_the_loss_is_counted(encoder):
    # 16 tokens less prefix, 2 of the prompt, middle and suffix leave 11 for the response.
    (row,) = encoder.candidates(words(1, 2), [words(*range(14))])
    assert row == Encoded((CLS, *ids(1, 2), SEP, *ids(*range(11)), SEP), 4, 15, dropped_response_tokens=3)
    assert len(row) == TEMPLATE.max_tokens


def test_an_exact_fit_drops_nothing(encoder):
    (row,) = encoder.candidates(words(*range(5)), [words(*range(8))])
    assert (len(row), row.dropped_prompt_tokens, row.dropped_response_tokens) == (16, 0, 0)


def test_an_empty_response_is_a_row_that_pools_nothing(encoder):
    assert encoder.candidates(words(1), ["", "  "]) == [Encoded((CLS, *ids(1), SEP, SEP), 3, 3)] * 2


def test_an_empty_prompt_and_no_responses(encoder):
    assert encoder.candidates("", [words(1)]) == [Encoded((CLS, SEP, *ids(1), SEP), 2, 3)]
    assert encoder.candidates(words(1), []) == []


def test_candidates_come_in_order_and_do_not_see_each_other(encoder):
    responses = [words(*range(length)) for length in (9, 1, 0, 14, 3)]
    together = encoder.candidates(words(1, 2), responses)
    assert together == [encoder.candidates(words(1, 2), [response])[0] for response in responses]


def test_a_prompt_may_be_allowed_no_tokens_at_all():
    template = TextTemplate((CLS,), (SEP,), (SEP,), (SEP,), max_tokens=6, max_prompt_tokens=0, max_context_tokens=0)
    encoder = TextEncoder(word_tokenizer(), template)
    assert encoder.candidates(words(1, 2), [words(3)]) == [Encoded((CLS, SEP, *ids(3), SEP), 2, 3, dropped_prompt_tokens=2)]
    assert encoder.prompt(words(1), context=words(9)) == Encoded((CLS, *ids(1), SEP), 1, 2, of_prompt=True)


# --- prompts


def test_a_prompt_alone_pools_all_between_prefix_and_suffix(encoder):
    assert encoder.prompt(words(1, 2)) == Encoded((CLS, *ids(1, 2), SEP), 1, 3, of_prompt=True)


def test_a_prompt_alone_may_be_longer_than_in_a_candidate_and_keeps_its_end(encoder):
    row = encoder.prompt(words(*range(20)))
    assert row == Encoded((CLS, *ids(*range(6, 20)), SEP), 1, 15, dropped_prompt_tokens=6, of_prompt=True)
    assert len(row) == TEMPLATE.max_tokens


def test_a_context_stands_before_the_prompt_and_keeps_its_start(encoder):
    row = encoder.prompt(words(1, 2), context=words(20, 21, 22, 23))
    assert row == Encoded((CLS, *ids(20, 21, 22), SEP, SEP, *ids(1, 2), SEP), 1, 8, of_prompt=True)


def test_a_context_is_kept_when_the_prompt_is_too_long(encoder):
    row = encoder.prompt(words(*range(20)), context=words(30, 31, 32))
    # 16 less prefix, suffix, context and separator leave 9 for the prompt's end.
    assert row == Encoded((CLS, *ids(30, 31, 32), SEP, SEP, *ids(*range(11, 20)), SEP), 1, 15, dropped_prompt_tokens=11, of_prompt=True)


@pytest.mark.parametrize("context", [None, "", "   \n"])
def test_an_empty_context_is_none(encoder, context):
    assert encoder.prompt(words(1), context=context) == encoder.prompt(words(1))


# --- tokenizers


def test_truncation_and_padding_of_a_former_life_are_neutralised(encoder):
    assert encoder.prompt(words(*range(10))).input_ids[1:-1] == ids(*range(10))
    (row,) = encoder.candidates(words(1), [words(*range(9))])
    assert row.input_ids[row.pool_start : row.pool_stop] == ids(*range(9))
    assert PAD not in encoder.candidates(words(1), [words(2), words(*range(9))])[0].input_ids


def test_the_same_holds_for_a_tokenizer_from_a_file(tmp_path, encoder):
    path = tmp_path / "tokenizer.json"
    word_tokenizer().save(str(path))
    assert json.loads(path.read_text())["truncation"]["max_length"] == 4
    again = TextEncoder.from_file(path, TEMPLATE)
    assert again.prompt(words(*range(10))) == encoder.prompt(words(*range(10)))


def test_a_text_that_spells_a_special_piece_is_plain_text(encoder):
    # "[", "SEP" and "]" are three unknown words; as a special token they would end the response within itself.
    (row,) = encoder.candidates("w1 [SEP]", ["w2 [SEP] w3 [CLS]"])
    spelled = (UNK, UNK, UNK)
    assert row == Encoded((CLS, *ids(1), *spelled, SEP, *ids(2), *spelled, *ids(3), *spelled, SEP), 6, 14, 0, 0, 3, 6)
    assert encoder.prompt("[SEP]").input_ids == (CLS, *spelled, SEP)


@pytest.mark.parametrize("content", [None, "", "{}", "no tokenizer"])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        TextEncoder.from_file(path, TEMPLATE)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(texts, texts)
def test_the_pooled_span_is_exactly_the_response(prompt, response):
    (row,) = TextEncoder(BYTES, ROOMY).candidates(prompt, [response])
    assert BYTES.decode(list(row.input_ids[row.pool_start : row.pool_stop])) == response
    assert BYTES.decode(list(row.input_ids[1 : row.pool_start - 2])) == prompt
    assert row.input_ids[row.pool_start - 2 : row.pool_start] == (1, 1)
    assert row.input_ids[row.pool_stop :] == (1,)


@given(texts, texts, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_no_text_is_longer_than_the_limits_and_every_token_is_kept_or_counted(prompt, response, context):
    template = TextTemplate((0,), (1,), (1,), (1,), max_tokens=40, max_prompt_tokens=16, max_context_tokens=8)
    encoder = TextEncoder(BYTES, template)
    prompt_tokens, response_tokens = (len(BYTES.encode(text, add_special_tokens=False).ids) for text in (prompt, response))
    (candidate,) = encoder.candidates(prompt, [response])
    assert len(candidate) <= 40
    assert candidate.pool_stop - candidate.pool_start + candidate.dropped_response_tokens == response_tokens
    assert candidate.pool_start - 2 + candidate.dropped_prompt_tokens == prompt_tokens
    alone = encoder.prompt(prompt, context)
    assert len(alone) <= 40
    assert alone.pool_stop == len(alone) - 1
    assert encoder.prompt(prompt).pool_stop - 1 + encoder.prompt(prompt).dropped_prompt_tokens == prompt_tokens


# --- templates


def test_a_template_survives_json():
    assert TextTemplate.from_json(json.loads(json.dumps(TEMPLATE.to_json()))) == TEMPLATE


def test_a_template_without_room_for_a_response_is_refused_with_the_numbers():
    # 16 less 1 + 1 + 1 + 2 special less 10 of the prompt leave 1; one more leaves none.
    assert TextTemplate((0,), (1,), (1,), (1, 1), max_tokens=16, max_prompt_tokens=10, max_context_tokens=3)
    with pytest.raises(ValueError, match=r"max_tokens 16 leaves 0 tokens .* 5 special, 11 prompt and 3 context"):
        TextTemplate((0,), (1,), (1,), (1, 1), max_tokens=16, max_prompt_tokens=11, max_context_tokens=3)
    with pytest.raises(ValueError, match="leaves 0 tokens"):
        TextTemplate((0,), (1,), (1,), (1, 1), max_tokens=16, max_prompt_tokens=3, max_context_tokens=11)


@pytest.mark.parametrize("limits", [{"max_prompt_tokens": -1}, {"max_context_tokens": -1}])
def test_limits_below_zero_are_refused(limits):
    with pytest.raises(ValueError, match="below 0"):
        TextTemplate((0,), (1,), (1,), (1,), **limits)


@pytest.mark.parametrize("data", [{}, {"prefix": [1]}, {**TEMPLATE.to_json(), "infix": [1]}])
def test_a_template_of_other_fields_is_refused(data):
    with pytest.raises(TypeError):
        TextTemplate.from_json(data)


# --- conversations


def test_a_conversation_of_one_message_is_its_prompt(encoder):
    assert conversation_text([("user", "how are\nyou?")]) == "how are\nyou?"
    assert encoder.prompt(conversation_text([("user", words(1, 2))])) == encoder.prompt(words(1, 2))


def test_a_conversation_of_several_names_who_spoke():
    turns = [("system", "be kind"), ("user", "hello"), ("assistant", "hi"), ("user", "bye")]
    assert conversation_text(turns) == "system: be kind\nuser: hello\nassistant: hi\nuser: bye"


def test_a_message_that_is_not_the_users_is_named_even_alone():
    assert conversation_text([("system", "be kind")]) == "system: be kind"
    assert conversation_text([]) == ""
