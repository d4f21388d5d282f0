"""Local members: neighbours, adapters, seeds, joining, leaving and full queues."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

pytest.importorskip("peft")

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from attune.service.errors import Overloaded
from tests.members.asking import ask, collect, soon
from tests.members.gate import Gate
from tests.members.local_asking import members_of, requests, settled
from tests.members.tiny import ADAPTERS


async def test_an_answer_is_the_same_alone_and_among_fifteen_of_other_adapters(shared_engine):
    members = members_of(shared_engine)
    alone = [await collect(members[i % 4], request) for i, request in enumerate(requests())]
    together = await asyncio.gather(*(collect(members[i % 4], request) for i, request in enumerate(requests())))
    assert together == alone


async def test_an_answer_is_the_same_when_others_join_and_leave_in_its_middle(shared_engine, gate):
    members = members_of(shared_engine)
    asked = requests()
    alone = [await collect(members[i % 4], request) for i, request in enumerate(asked)]
    gate.close()
    answers = []
    for i in (15, 2, 14, 7, 13):  # long and short ones, each joining two steps after the one before
        answers.append((i, asyncio.create_task(collect(members[i % 4], asked[i]))))
        if len(answers) == 1:
            await gate.reached()
        await gate.step()
        await gate.step()
    async with aclosing(members[0].stream(ask("somebody who leaves", max_tokens=60), soon())) as leaver:
        first = asyncio.create_task(anext(leaver))
        await gate.step()
        await gate.step()
        gate.open()
        await first
    for i, answer in answers:
        assert await answer == alone[i]
    assert max(gate.widths) > 2


async def test_every_adapter_and_the_base_answer_differently(shared_engine):
    answers = [await collect(member, ask(temperature=0.0, max_tokens=16)) for member in members_of(shared_engine)]
    assert len({text for text, _ in answers}) == 4


@pytest.mark.parametrize("name", [*ADAPTERS, None])
async def test_greedy_answers_are_those_of_transformers_generate(shared_engine, language_model, name):
    text, finish = await collect(shared_engine.member("m", name), ask("Where should I travel?", temperature=0.0, max_tokens=30))
    tokenizer = AutoTokenizer.from_pretrained(language_model / "base")
    model = AutoModelForCausalLM.from_pretrained(language_model / "base").eval()
    if name:
        model = PeftModel.from_pretrained(model, str(language_model / "adapters" / name)).eval()
    messages = [{"role": "user", "content": "Where should I travel?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**ids, max_new_tokens=30, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert text == tokenizer.decode(written, skip_special_tokens=True).rstrip("\ufffd")
    assert finish.prompt_tokens == ids["input_ids"].shape[1]
    assert finish.completion_tokens == len(written)


async def test_equal_seeds_give_equal_answers_and_others_do_not(shared_engine):
    member = shared_engine.member("base")
    one, again, other = [await collect(member, ask(seed=seed)) for seed in (1, 1, 2)]
    assert one == again != other
    assert await collect(member, ask(seed=None)) != await collect(member, ask(seed=None))


async def test_newcomers_join_between_two_steps(shared_engine, gate):
    one, other = members_of(shared_engine)[:2]
    gate.close()
    first = asyncio.create_task(collect(one, ask(max_tokens=12)))
    await gate.reached()  # its prompt is about to be read
    await gate.step()
    await gate.step()
    second = asyncio.create_task(collect(other, ask(max_tokens=12)))
    await asyncio.sleep(0)
    for _ in range(3):
        await gate.step()
    gate.open()
    await asyncio.gather(first, second)
    assert gate.widths[:3] == [1, 1, 1]
    assert 2 in gate.widths


async def test_a_row_whose_caller_left_is_not_computed_any_more(shared_engine, gate):
    one, other = members_of(shared_engine)[:2]
    gate.close()
    stays = asyncio.create_task(collect(one, ask(max_tokens=20)))
    await gate.reached()
    leaver = other.stream(ask(max_tokens=60), soon())
    first_piece = asyncio.create_task(anext(leaver))
    while not first_piece.done():
        await gate.step()
    assert max(gate.widths) == 2
    await leaver.aclose()
    gate.widths.clear()
    await gate.step()
    await gate.step()
    assert gate.widths[-1] == 1
    gate.open()
    assert await stays == await collect(one, ask(max_tokens=20))


async def test_a_caller_who_is_cancelled_before_the_first_token_frees_the_row(shared_engine, gate):
    gate.close()
    caller = asyncio.create_task(collect(members_of(shared_engine)[0], ask(max_tokens=60)))
    await gate.reached()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.open()
    load = await settled(shared_engine)
    assert (load.waiting, load.rows) == (0, 0)


async def test_a_full_queue_is_overloaded_and_leaving_it_frees_the_place(engine_with):
    engine = engine_with(max_batch=1, max_waiting=1)
    gate, member = Gate(engine), members_of(engine)[0]
    gate.close()
    running = asyncio.create_task(collect(member, ask()))
    await gate.reached()
    waiting = asyncio.create_task(collect(member, ask()))
    await asyncio.sleep(0)
    assert engine.load_now().waiting == 1
    with pytest.raises(Overloaded, match="holds 1 of 1 requests"):
        await collect(member, ask())
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert engine.load_now().waiting == 0
    third = asyncio.create_task(collect(member, ask()))
    await asyncio.sleep(0)
    gate.open()
    assert await running == await third


async def test_no_more_rows_than_the_bound_are_decoded_together(engine_with):
    engine = engine_with(max_batch=3)
    gate, members = Gate(engine), members_of(engine)
    await asyncio.gather(*(collect(members[i % 4], request) for i, request in enumerate(requests())))
    assert max(gate.widths) == 3


async def test_an_answer_that_nobody_reads_piece_by_piece_comes_in_two_with_the_same_text(shared_engine):
    member = members_of(shared_engine)[0]
    for request in (ask(seed=3, max_tokens=30, temperature=1.5), ask(seed=4, max_tokens=30, stop=["e"], temperature=1.5)):
        streamed, whole = [], []
        async with aclosing(member.stream(request, soon())) as events:
            streamed += [event async for event in events]
        async with aclosing(member.stream(replace(request, streamed=False), soon())) as events:
            whole += [event async for event in events]
        assert "".join(event.text for event in streamed[:-1]) == "".join(event.text for event in whole[:-1])
        assert whole[-1] == streamed[-1]
        assert len(whole) <= 3
        assert whole[:1] == streamed[:1], "the first piece tells when the answer began"
