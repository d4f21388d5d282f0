"""A history is sent once, whatever breaks off: against the real application, and event ids that say what a line says."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import httpx
import pytest
from typer.testing import CliRunner

from attune.client import AsyncClient, AttuneFailed, AttuneUnreachable, Client
from attune.models.__main__ import app
from attune.models.data.logged import read_logged
from attune.models.data.preferences import Comparison, ComparisonInvalid
from attune.models.data.sending import LINES, Sent, bodies_of, send
from tests.client.test_client import url
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, bundle, settings_of
from tests.project.tree import ROOT

__all__ = ["bundle", "settings_of", "url"]  # fixtures of the service's own tests


def test_equal_files_give_equal_events_and_a_choice_made_twice_counts_twice():
    records = [
        Comparison("ada", PROMPT, WARM, LONG),
        Comparison("ada", PROMPT, WARM, LONG),
        Comparison("bob", PROMPT, WARM, LONG, time_s=1.5e9),
    ]
    events = [body["event_id"] for body in bodies_of(records)]
    assert len(set(events)) == 3
    assert [body["event_id"] for body in bodies_of(records)] == events
    assert bodies_of(records)[2]["observed_at"] == "2017-07-14T02:40:00+00:00"


def test_what_an_export_says_was_kept_is_sent_as_such_and_weighs_no_more(tmp_path: Path):
    line = {"type": "comparison", "event_id": "e", "kind": "kept", "how": "edit", "weight": 0.7, "prompt": PROMPT, "evidence": []}
    texts = {"chosen_text": WARM, "rejected_text": LONG, "tie": False}
    file = tmp_path / "export.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in ({"type": "user", "id": "ada"}, line | texts)))
    (body,) = bodies_of(read_logged(file).records)
    assert (body["kept"], body["over"], body["how"], "chosen_text" in body) == (WARM, LONG, "edit", False)
    for wrong, said in (({"weight": 0}, "weight is 0"), ({"tie": "no"}, "tie is 'no'"), ({"observed_at": "soon"}, "observed_at is 'soon'")):
        file.write_text("\n" + json.dumps(line | texts | wrong) + "\n")
        with pytest.raises(ComparisonInvalid, match=f"^export.jsonl line 2: event 'e' .*{said}"):
            read_logged(file)


def test_rows_of_nobody_are_no_persons_to_a_server_and_times_mean_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pair = {"prompt": PROMPT, "chosen": WARM, "rejected": LONG}
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(pair | more) + "\n" for more in ({}, {"user": "ada"}, {})))
    kept = read_logged(table).of_somebody()
    assert ([one.user for one in kept.records], kept.events, kept.without_user) == (["ada"], ("",), 2)
    rated = [{"user": user, "prompt": PROMPT, "response": text, "rating": len(text)} for user, text in
             (("ada", WARM), ("ada", LONG), ("bob", WARM), (None, WARM))]  # fmt: skip
    for name in ("rated.jsonl", "rated.json"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rated)))
        told = read_logged(tmp_path / name).of_somebody()
        assert (len(told.records), told.without_user, told.alone) == (1, 1, 1)

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        line = {"type": "comparison", "event_id": "e", "observed_at": "2026-01-31T12:00:00", "prompt": PROMPT, "chosen_text": WARM}
        export = tmp_path / "export.jsonl"
        export.write_text(json.dumps({"type": "user", "id": "anonymous:7"}) + "\n" + json.dumps(line | {"rejected_text": LONG}) + "\n")
        (body,) = bodies_of(read_logged(export).of_somebody().records)  # a deployment's own name
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (body["user"], body["observed_at"]) == ("anonymous:7", "2026-01-31T12:00:00+00:00")


async def test_a_history_is_imported_once_and_a_second_run_changes_nothing(url: str, tmp_path: Path):
    file = tmp_path / "choices.jsonl"
    write_choices(file, LINES + 20)

    async def run() -> tuple[int, str, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(file), "--url", url])
        return result.exit_code, result.stdout, result.stderr

    code, said, progress = await run()
    assert code == 0, progress
    assert "120 learned, 0 known before, 0 refused" in said
    assert "100 of 120 sent; about" in progress
    code, said, _ = await run()
    assert code == 0
    assert "0 learned, 120 known before, 0 refused" in said


async def test_an_export_keeps_its_event_ids_so_that_it_counts_no_second_time_where_it_came_from(url: str, tmp_path: Path):
    file = tmp_path / "export.jsonl"
    async with AsyncClient(url) as client:
        pair = await client.generate("ada", PROMPT, candidates=2)
        await client.prefer("ada", pair.candidates[0], over=pair.candidates[1], event_id="by-ids")
        texts = {"user": "ada", "prompt": PROMPT, "chosen_text": WARM, "rejected_text": LONG, "event_id": "by-texts"}
        await client.feedback_batch([texts])
        lines = await client.export("ada")
        for user, said in (
            ("ada", "0 learned, 2 known before"),
            ("eva", "2 learned, 0 known before"),
            ("eva", "0 learned, 2 known before"),
        ):
            file.write_text("".join(json.dumps(line | ({"id": user} if line["type"] == "user" else {})) + "\n" for line in lines))
            result = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(file), "--url", url])
            assert f"{said}, 0 refused" in result.stdout, result.output
            assert (await client.user(user)).comparisons == 2
        await client.take_back("eva", "by-ids")
        assert (await client.user("eva")).comparisons == 1


async def test_ratings_and_rankings_of_an_export_are_left_out_by_name(url: str, tmp_path: Path):
    file = tmp_path / "export.jsonl"
    async with AsyncClient(url) as client:
        pair = await client.generate("ada", PROMPT, candidates=2)
        await client.rate("ada", pair.candidates[0], 1.0)
        file.write_text("".join(json.dumps(line) + "\n" for line in await client.export("ada")))
    result = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(file), "--url", url])
    assert "0 learned, 0 known before, 0 refused" in result.stdout
    assert "1 line of the file is a rating, a ranking, or a comparison whose texts were not kept, and was left out" in result.stdout


async def test_attributes_of_scores_are_no_users_and_weights_of_training_are_told_to_be_left(url: str, tmp_path: Path):
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps({"prompt": PROMPT, "response": text, "kind": n}) + "\n" for n, text in enumerate((WARM, LONG))))
    run = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(table), "--url", url])
    assert (run.exit_code, run.stdout) == (1, "")
    assert "holds scores, whose attributes are no users of a server" in run.stderr
    table.write_text(json.dumps({"user": "ada", "prompt": PROMPT, "chosen": WARM, "rejected": LONG, "weight": 0.9}))
    run = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(table), "--url", url])
    assert "1 learned, 0 known before, 0 refused" in run.stdout
    assert "1 comparison has a weight of training, which no server knows: each counts once" in run.stderr


async def test_what_the_server_refuses_is_named_and_the_rest_is_learned(url: str, tmp_path: Path):
    file = tmp_path / "choices.jsonl"
    rows = [
        {"user": "ada", "prompt": PROMPT, "chosen": WARM, "rejected": LONG},
        {"user": "a" * 300, "prompt": PROMPT, "chosen": WARM, "rejected": LONG},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(file), "--url", url])
    assert result.exit_code == 1
    assert "1 learned, 0 known before, 1 refused" in result.stdout
    assert "comparison 2: 422 user" in result.stderr


async def test_a_text_that_is_too_large_for_the_server_is_refused_alone(url: str, tmp_path: Path):
    file = tmp_path / "choices.jsonl"
    rows = [{"user": "ada", "prompt": prompt, "chosen": WARM, "rejected": LONG} for prompt in ("before", "x" * 3_000_000, "after")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(file), "--url", url])
    assert result.exit_code == 1
    assert "2 learned, 0 known before, 1 refused" in result.stdout
    assert "comparison 2: 413 body has 3,000" in result.stderr


class NarrowClient:
    """Of a server that takes one line at a time."""

    def feedback_batch(self, bodies: list[dict[str, object]]) -> list[dict[str, object]]:
        if len(bodies) > 1:
            raise AttuneFailed(413, "too-large", "body has too many bytes", [], None)
        return [{"result": "applied"}]


def test_a_batch_that_is_too_large_is_sent_in_halves():
    sent = send(cast("Client", NarrowClient()), [{"event_id": str(number)} for number in range(5)])
    assert (sent.applied, sent.refused) == (5, [])


def write_choices(file: Path, count: int, users: int = 7) -> None:
    rows = [
        {"user": f"u{number % users}", "prompt": PROMPT, "chosen": (WARM, SHORT)[number % 2], "rejected": f"{LONG} {number}"}
        for number in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


async def counted(url: str, users: int = 7) -> int:
    """Returns how many comparisons the server knows of all users."""
    async with AsyncClient(url) as client:
        return sum([(await client.user(f"u{number}")).comparisons for number in range(users)])


async def test_an_import_that_is_killed_in_the_middle_is_started_again_and_each_choice_counts_once(url: str, tmp_path: Path):
    file, count = tmp_path / "choices.jsonl", 2 * LINES + 30
    write_choices(file, count)
    command = [sys.executable, "-m", "attune.models", "users", "import", str(file), "--url", url]
    importing = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    assert importing.stderr is not None
    assert b"sent; about" in await importing.stderr.readline()
    with suppress(ProcessLookupError):  # it may have ended by itself meanwhile
        importing.kill()
    await importing.wait()
    known = await counted(url)
    assert LINES <= known <= count
    result = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(file), "--url", url])
    (told,) = re.findall(r"(\d+) learned, (\d+) known before, 0 refused", result.stdout)
    learned, known_before = map(int, told)
    # What was under way when it was killed may have been learned after it was counted.
    assert learned + known_before == count
    assert known_before >= known
    assert await counted(url) == count


@asynccontextmanager
async def relay_to(url: str, breaks: list[int]) -> AsyncIterator[str]:
    """Passes requests on; of the connections whose numbers are given, the answer comes back to nobody: it breaks when it begins."""
    host, port = url.removeprefix("http://").split(":")
    numbers = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        upstream, to_upstream = await asyncio.open_connection(host, int(port))

        async def pump_requests() -> None:
            while part := await reader.read(65536):
                to_upstream.write(part)
                await to_upstream.drain()

        requests = asyncio.create_task(pump_requests())
        while part := await upstream.read(65536):
            if number in breaks:
                break
            writer.write(part)
            writer.write_eof() if upstream.at_eof() else await writer.drain()
        requests.cancel()
        writer.close()
        to_upstream.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_server_that_goes_away_after_it_learned_a_batch_is_waited_for_and_told_again(url: str):
    bodies = bodies_of([Comparison(f"u{number % 7}", PROMPT, WARM, f"{LONG} {number}") for number in range(2 * LINES)])
    waits: list[str] = []

    def tell(sent: Sent) -> None:
        waits.extend([sent.waiting] if sent.waiting else [])

    async with relay_to(url, breaks=[1]) as relayed:

        def both_batches() -> Sent:
            # One connection a client: the second batch is what meets the broken one.
            with Client(relayed, retries=0, transport=httpx.HTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))) as client:
                return send(client, bodies, tell)

        sent = await asyncio.to_thread(both_batches)
    assert (sent.applied, sent.duplicate, sent.refused) == (LINES, LINES, [])
    assert len(waits) == 1
    assert "did not answer" in waits[0]
    assert await counted(url) == 2 * LINES


async def test_a_server_that_never_answered_is_not_waited_for():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with Client(nowhere, retries=0) as client, pytest.raises(AttuneUnreachable, match=r"did not answer \w+ \S+: .*refused"):
            await asyncio.to_thread(send, client, bodies_of([Comparison("ada", PROMPT, WARM, LONG)]))
