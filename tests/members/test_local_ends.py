"""Local members: deadlines, rows that fail, stops, templates and closing."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

pytest.importorskip("peft")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from attune.service.cores import usable_cores
from attune.service.errors import DeadlineExceeded, InvalidRequest, MemberFailed, TooLarge
from attune.service.members import local_worker
from attune.service.members.local import LocalEngine
from attune.service.members.local_decode import READ_CHARS, READ_CHARS_A_TOKEN
from attune.service.members.local_worker import SMALL_BYTES
from attune.service.members.member import ChatTurn, Defaults, Finish, GenerationRequest, OneMemberFailed, TextPiece
from tests.members.asking import ask, collect, soon
from tests.members.gate import Gate, around_each_pass
from tests.members.local_asking import PROMPTS, members_of, requests, settled
from tests.members.tiny import CONTEXT, write_tokenizer


async def test_a_deadline_in_the_middle_ends_the_answer_after_what_was_written(shared_engine, gate):
    gate.close()
    events = []

    async def read():
        async for event in members_of(shared_engine)[0].stream(ask(max_tokens=60), soon(0.3)):
            events.append(event)  # noqa: PERF401 -- what was read before the error counts

    reading = asyncio.create_task(read())
    await gate.reached()
    while not events:
        await gate.step()
    with pytest.raises(DeadlineExceeded, match="'concise'"):
        await reading
    assert events
    assert all(isinstance(event, TextPiece) for event in events)
    gate.open()
    assert (await settled(shared_engine)).rows == 0


async def test_the_worker_drops_a_late_row_by_its_own_clock(engine_with):
    now = [0.0]
    engine = engine_with(clock=lambda: now[0])
    gate, member = Gate(engine), members_of(engine)[0]
    gate.close()
    reading = asyncio.create_task(collect(member, ask(max_tokens=60), 1e12))
    await gate.reached()
    await gate.step()
    now[0] = 1e12
    gate.open()
    with pytest.raises(DeadlineExceeded):
        await reading
    assert len(gate.widths) <= 3


async def test_a_request_whose_deadline_passed_is_never_begun(shared_engine, gate):
    with pytest.raises(DeadlineExceeded):
        await collect(members_of(shared_engine)[0], ask(), soon(-1.0))
    assert gate.widths == []


async def test_only_the_row_that_cannot_be_computed_fails(shared_engine, gate):
    members, asked = members_of(shared_engine), requests()
    alone = [await collect(members[i % 4], request) for i, request in enumerate(asked)]
    gate.poison = shared_engine.model.tokenizer("§", add_special_tokens=False)["input_ids"][0]
    bad = GenerationRequest((ChatTurn("user", "§"),), 8, 1.0, 1.0)
    answers = await asyncio.gather(
        *(collect(members[i % 4], request) for i, request in enumerate(asked[:9])), collect(members[1], bad), return_exceptions=True
    )
    *good, failed = answers
    survivors = [answer for answer in good if not isinstance(answer, Exception)]
    assert isinstance(failed, MemberFailed)
    assert "'detailed'" in str(failed)
    assert "this row cannot be computed" in str(failed)
    # A row that chose the poisonous token itself fails in its own middle; nobody else does.
    assert survivors == [answer for answer, result in zip(alone, good, strict=False) if not isinstance(result, Exception)]
    assert len(survivors) >= 6
    assert max(gate.widths) > 4


async def test_a_row_that_breaks_in_the_middle_leaves_the_others_their_text(shared_engine, gate):
    members = members_of(shared_engine)
    asked = [ask(PROMPTS[i % 4], seed=i, max_tokens=30) for i in range(6)]
    alone = [await collect(members[i % 4], request) for i, request in enumerate(asked)]
    tokenizer = shared_engine.model.tokenizer
    # A token that exactly some of the rows write, so that it is read in the middle of decoding.
    written = [set(tokenizer(text, add_special_tokens=False)["input_ids"]) for text, _ in alone]
    prompts = set().union(*(tokenizer(str(prompt), add_special_tokens=False)["input_ids"] for prompt in PROMPTS))
    candidates = {token for tokens in written for token in tokens} - prompts
    gate.poison = min(token for token in candidates if sum(token in tokens for tokens in written) == 1)
    answers = await asyncio.gather(*(collect(members[i % 4], request) for i, request in enumerate(asked)), return_exceptions=True)
    failed = [i for i, answer in enumerate(answers) if isinstance(answer, Exception)]
    assert failed == [i for i, tokens in enumerate(written) if gate.poison in tokens]
    assert all(answers[i] == alone[i] for i in range(6) if i not in failed)


async def test_logits_that_are_no_numbers_fail_the_row_and_not_the_worker(shared_engine):
    member = members_of(shared_engine)[0]

    def spoil(logits):
        logits[0] = float("nan")

    take_back = around_each_pass(shared_engine, after=spoil)
    with pytest.raises(OneMemberFailed, match="not finite at token 1"):
        await collect(member, ask())
    take_back()
    assert (await collect(member, ask()))[0]


async def test_a_prompt_longer_than_the_context_is_too_large_with_both_numbers(shared_engine):
    with pytest.raises(TooLarge, match=rf"has \d+ tokens; member 'base' reads at most {CONTEXT - 1}"):
        await collect(shared_engine.member("base"), ask("word " * 300))


async def test_what_cannot_fit_is_refused_before_it_is_tokenized(shared_engine):
    most = max(READ_CHARS, READ_CHARS_A_TOKEN * CONTEXT)
    with pytest.raises(TooLarge, match=rf"has {most + 1:,} characters; member 'base' reads at most {most:,}"):
        await collect(shared_engine.member("base"), ask("x" * (most + 1)))
    with pytest.raises(TooLarge, match=r"has \d+ tokens"):
        await collect(shared_engine.member("base"), ask("x " * (most // 2)))


async def test_an_answer_ends_with_the_context(shared_engine):
    request = ask("so " * 40, max_tokens=10_000, temperature=1.5, seed=3)
    _, finish = await collect(shared_engine.member("base"), request)
    assert finish.reason == "stop" or finish.prompt_tokens + finish.completion_tokens == CONTEXT


async def test_a_stop_string_that_spans_tokens_is_never_begun(shared_engine):
    member = shared_engine.member("base")
    text, _ = await collect(member, ask(max_tokens=40, seed=11))
    ids = shared_engine.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    middle = text[len(text) // 2 - 3 : len(text) // 2 + 3]
    assert len(shared_engine.model.tokenizer(middle, add_special_tokens=False)["input_ids"]) > 1 < len(ids)
    events = [event async for event in member.stream(ask(max_tokens=40, seed=11, stop=(middle, "never there")), soon())]
    *pieces, finish = events
    assert "".join(piece.text for piece in pieces) == text[: text.index(middle)]
    assert isinstance(finish, Finish)
    assert finish.reason == "stop"
    assert finish.completion_tokens < 40


async def test_no_piece_holds_half_a_character(shared_engine):
    member = shared_engine.member("base")
    for seed in range(4):
        text, _ = await collect(member, ask("naïve café 東京 🙂", seed=seed, max_tokens=60, temperature=1.2))
        events = [event async for event in member.stream(ask("naïve café 東京 🙂", seed=seed, max_tokens=60, temperature=1.2), soon())]
        assert "".join(event.text for event in events[:-1]) == text
        assert not text.endswith("\ufffd")


async def test_system_prompt_and_sampling_of_the_member_are_used(shared_engine):
    plain = shared_engine.member("base")
    greedy = shared_engine.member("greedy", defaults=Defaults(temperature=0.0, top_p=1.0))
    told = shared_engine.member("told", defaults=Defaults(temperature=0.0, top_p=1.0, system="Be brief."))
    open_request = ask(temperature=None, top_p=None, seed=None)
    assert await collect(greedy, open_request) == await collect(plain, ask(temperature=0.0))
    messages = (ChatTurn("system", "Be brief."), *open_request.messages)
    assert await collect(told, open_request) == await collect(plain, GenerationRequest(messages, 24, 0.0))
    assert await collect(told, open_request) != await collect(greedy, open_request)


async def test_a_tokenizer_without_a_template_reads_role_and_content_lines(language_model, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        (base / file).write_bytes((language_model / "base" / file).read_bytes())
    write_tokenizer(base, template=None)
    engine = LocalEngine(base, {}, threads=1)
    engine.load()
    _, finish = await collect(engine.member("plain"), ask("Hi"))
    assert finish.prompt_tokens == len(engine.model.tokenizer("user: Hi\nassistant:")["input_ids"])
    await engine.aclose()


async def test_a_conversation_that_the_template_refuses_is_an_invalid_request(language_model, engine_with):
    engine = engine_with()
    engine.model.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        await collect(engine.member("base"), ask())
    assert [error.field for error in caught.value.errors] == ["messages"]
    engine.model.tokenizer.chat_template = None
    assert await collect(engine.member("base"), ask())


async def test_closing_the_engine_fails_open_streams_and_later_ones(engine_with):
    engine = engine_with()
    gate, member = Gate(engine), members_of(engine)[0]
    gate.close()
    reading = asyncio.create_task(collect(member, ask(max_tokens=60)))
    await gate.reached()
    closing = asyncio.create_task(engine.aclose())
    await asyncio.sleep(0)
    gate.open()
    with pytest.raises(OneMemberFailed, match="engine was closed"):
        await reading
    await closing
    for attempt in (collect(member, ask()), member.check()):
        with pytest.raises(OneMemberFailed, match="closed"):
            await attempt


async def test_an_engine_lives_as_long_as_one_of_its_members(engine_with):
    engine = engine_with()
    one, *others = members_of(engine)
    for member in others:
        await member.aclose()
    assert await collect(one, ask())
    await one.aclose()
    with pytest.raises(OneMemberFailed):
        await one.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_worker_that_dies_leaves_nobody_waiting(engine_with):
    broken = [False]

    def clock():
        if broken[0]:
            raise RuntimeError("the clock broke")
        return 0.0

    engine = engine_with(clock=clock, max_batch=1)
    gate, member = Gate(engine), members_of(engine)[0]
    gate.close()
    running, waiting = (asyncio.create_task(collect(member, ask())) for _ in range(2))
    await gate.reached()
    broken[0] = True
    gate.open()
    for reading in (running, waiting):
        with pytest.raises(OneMemberFailed, match="worker died of RuntimeError: the clock broke"):
            await reading
    with pytest.raises(OneMemberFailed, match="worker died"):
        await member.check()


async def test_a_member_of_an_engine_that_is_not_loaded_cannot_serve(language_model):
    member = LocalEngine(language_model / "base", {}).member("base")
    for attempt in (collect(member, ask()), member.check()):
        with pytest.raises(OneMemberFailed, match="not loaded"):
            await attempt


async def test_torch_runs_with_the_threads_that_were_asked_for(shared_engine):
    seen = []
    take_back = around_each_pass(shared_engine, before=lambda _: seen.append(torch.get_num_threads()))
    await collect(shared_engine.member("base"), ask(max_tokens=2))
    take_back()
    assert set(seen) == {1}


@pytest.mark.parametrize("most_cores", [3, 1])
async def test_a_small_base_takes_one_thread_where_none_are_asked_for_and_another_what_torch_chooses(language_model, tmp_path, most_cores):
    large = tmp_path / "base"
    shape = {"vocab_size": 400, "hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4}
    network = LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=8192, max_position_embeddings=64))
    assert sum(tensor.nbytes for tensor in network.parameters()) > SMALL_BYTES
    network.save_pretrained(large)
    write_tokenizer(large)
    granted = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(granted)[:most_cores])  # threads that are begun from here on have these cores
    expected = usable_cores()
    assert expected <= most_cores
    local_worker._threads_of_torch.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    found = []
    try:
        for base in (language_model / "base", large, language_model / "base", large):
            engine = LocalEngine(base, {})
            member, seen = engine.member("base"), set()
            try:
                loading = threading.Thread(target=engine.load)  # torch gives it what was set last in any thread
                loading.start()
                await asyncio.to_thread(loading.join)
                around_each_pass(engine, before=lambda _, seen=seen: seen.add(torch.get_num_threads()))
                await collect(member, ask(max_tokens=2))
            finally:
                await engine.aclose()
            found.append(seen)
    finally:
        os.sched_setaffinity(0, granted)
        torch.set_num_threads(before)
        local_worker._threads_of_torch.cache_clear()
    assert found == [{1}, {expected}] * 2
