"""`attune users` and `attune feedback` against a real server: what they print and change, and what they say when it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from attune.models.__main__ import app as offline
from attune.service.__main__ import app as serving
from attune.service.settings import Settings
from tests.endpoints.conftest import PROMPT, SHORT, WARM, Service, bundle, running, settings_of
from tests.project.tree import ROOT
from tests.socket_server import on_socket

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

KEYS = "key-of-acme-is-long:acme,key-of-zeta-is-long:zeta"
LOGGED = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[")
"""A line of the server's log, which in this process goes to the same place."""

TEXTS = ("--prompt", PROMPT, "--chosen-text", WARM, "--rejected-text", SHORT)


ROUTES = ("/feedback", "/users/{user}", "/users/{user}/comparisons/{event_id}")


def lines(result: Result) -> list[str]:
    return [line for line in result.stdout.splitlines() if not LOGGED.match(line)]


def as_a_shell_reads(command: str) -> list[str]:
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True, timeout=60)
    return read.stdout.decode().split("\0")[:-1]


@dataclass
class Place:
    """A server, and commands that are run at it."""

    service: Service
    url: str

    async def run(self, *words: str, stdin: str | bytes | None = None, key: str = "") -> Result:
        """Returns what a command did: the words before `--`, if there is one, are followed by where the server is."""
        at = words.index("--") if "--" in words else len(words)
        where = ["--url", self.url, *(["--key-env", "KEY"] if key else [])]
        app = offline if words[0] == "users" else serving
        runner = CliRunner(env={"KEY": key, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "300"})
        return await asyncio.to_thread(runner.invoke, app, [*words[:at], *where, *words[at:]], input=stdin)

    async def comparisons(self, user: str) -> int:
        known = await self.service.get(f"/users/{user}")
        return int(known["user"]["comparisons"])


@contextlib.asynccontextmanager
async def place_of(settings: Settings) -> AsyncIterator[Place]:
    async with running(settings) as service, on_socket(service.app) as (url, _):
        yield Place(service, url)


@pytest.fixture
async def place(settings_of: Callable[..., Settings]) -> AsyncIterator[Place]:
    async with place_of(settings_of()) as found:
        yield found


async def test_a_choice_between_candidates_is_learned_once_and_taken_back_as_the_output_says(place: Place):
    made = await place.service.post("/generate", {"user": "ada", "prompt": PROMPT, "candidates": 2})
    liked, other = (one["candidate_id"] for one in made["candidates"])
    words = ["feedback", "--user", "ada", "--chosen", liked, "--rejected", other, "--event-id", "mine"]
    learned, again = await place.run(*words), await place.run(*words)
    back = f"to take it back: attune users take-back --url {place.url} -- ada mine"
    assert lines(learned) == ["learned: event mine", "ada has 1 comparison", back]
    assert lines(again) == ["known before: event mine", "ada has 1 comparison", back]
    taken = await asyncio.to_thread(CliRunner().invoke, offline, as_a_shell_reads(back.removeprefix("to take it back: attune ")))
    assert (taken.exit_code, lines(taken)) == (0, ["taken back: mine; ada has 0 comparisons"])
    assert await place.comparisons("ada") == 0


async def test_texts_are_learned_under_a_new_event_each_time_and_one_may_come_from_standard_input(place: Place):
    first = await place.run("feedback", "--user", "ada", *TEXTS, "--json")
    second = await place.run("feedback", "--user", "ada", *TEXTS[:3], "-", *TEXTS[4:], "--json", stdin=f"{WARM}\n")
    one, other = (json.loads("\n".join(lines(result))) for result in (first, second))
    assert (one["result"], other["result"], other["user"]) == ("applied", "applied", {"id": "ada", "comparisons": 2})
    assert set(one) == {"event_id", "result", "user", "agreement", "weights"}
    assert one["event_id"] != other["event_id"]
    exported = [json.loads(line) for line in lines(await place.run("users", "export", "ada"))]
    kept = [line for line in exported if line["type"] == "comparison"]
    assert {line["event_id"] for line in kept} == {one["event_id"], other["event_id"]}
    assert [(line["prompt"], line["chosen_text"], line["rejected_text"]) for line in kept] == [(PROMPT, WARM, SHORT)] * 2
    tie = await place.run("feedback", "--user", "bob", *TEXTS, "--tie")
    assert (tie.exit_code, await place.comparisons("bob")) == (0, 1)


async def test_what_is_known_of_a_user_is_a_table_or_the_servers_whole_answer(place: Place):
    nobody = await place.run("users", "show", "ada")
    assert lines(nobody)[0] == "ada: 0 comparisons; this is the prior"
    await place.run("feedback", "--user", "ada", *TEXTS)
    known = await place.service.get("/users/ada")
    shown = lines(await place.run("users", "show", "ada"))
    assert shown[0].startswith("ada: 1 comparison, from 20")
    assert shown[1].startswith(f"bundle {known['bundle']}, family {known['family']} (others: ")
    weights, worth = shown.index("weight of each head"), shown.index("worth of each member's answers")
    under = known["families"][known["family"]]
    ranked = sorted(under["weights"].items(), key=lambda row: -row[1])
    assert [line.split()[0] for line in shown[weights + 1 : weights + 1 + len(ranked)]] == [name for name, _ in ranked]
    assert f"{ranked[0][1]:.3f}" in shown[weights + 1]
    assert {line.split()[0] for line in shown[worth + 1 :]} == set(known["portfolio"]["expected"])
    assert json.loads("\n".join(lines(await place.run("users", "show", "ada", "--json")))) == known
    other = next(name for name in known["families"] if name != known["family"])
    assert f"family {other} (others: " in lines(await place.run("users", "show", "ada", "--family", other))[1]
    refused = await place.run("users", "show", "ada", "--family", "none")
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert f"has no family 'none'; it has {', '.join(known['families'])}" in refused.stderr


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "no\n", "yes please\n"])
async def test_nobody_is_forgotten_without_a_yes(place: Place, answer: str):
    await place.run("feedback", "--user", "ada", *TEXTS)
    asked = await place.run("users", "forget", "ada", stdin=answer)
    assert asked.exit_code == 1
    assert f"Forget ada (1 comparison) at {place.url}? It cannot be undone [y/N]" in asked.stderr
    assert "ada is not forgotten\n  --yes does it without asking" in asked.stderr
    assert (lines(asked), await place.comparisons("ada")) == ([], 1)


@pytest.mark.parametrize(("words", "answer"), [(["--yes"], None), ([], "y\n"), ([], "YES\n")])
async def test_a_user_is_forgotten_with_a_receipt(place: Place, words: list[str], answer: str | None):
    await place.run("feedback", "--user", "ada", *TEXTS)
    done = await place.run("users", "forget", "ada", *words, stdin=answer)
    assert re.fullmatch(r"ada is forgotten: 1 comparison, 0 decisions and \d+ keys", lines(done)[0])
    assert (done.exit_code, await place.comparisons("ada")) == (0, 0)
    again = await place.run("users", "forget", "ada", "--yes")
    assert (again.exit_code, lines(again)) == (0, ["ada had been forgotten before, and nothing came since"])
    never = await place.run("users", "forget", "eve", "--yes")
    assert (never.exit_code, lines(never)) == (0, ["nothing is kept of eve"])
    receipt = await place.run("users", "forget", "ada", "--json", stdin="y\n")
    assert json.loads("\n".join(lines(receipt))) == {"deleted": {"keys": 0, "comparisons": 0, "decisions": 0}, "deleted_before": True}
    assert lines(receipt)[0] == "{"


@pytest.mark.parametrize("name", ["a/b c", "Müller ß", "-weird", "--json", "..", "'q\"", "two\nlines", " x ", "\x1b[31mred", "\u202etx"])
async def test_a_user_of_any_name_is_told_of_shown_and_forgotten(place: Place, name: str):
    learned = await place.run("feedback", f"--user={name}", *TEXTS, "--event-id", "e")
    assert learned.exit_code == 0, learned.output
    shown = await place.run("users", "show", "--json", "--", name)
    assert json.loads("\n".join(lines(shown)))["user"]["id"] == name
    assert len(lines(learned)) == 3, learned.stdout
    assert all(line.isprintable() for line in lines(learned))
    told = lines(learned)[2].removeprefix("to take it back: attune ")
    taken = await asyncio.to_thread(CliRunner().invoke, offline, as_a_shell_reads(told))
    assert "has 0 comparisons" in taken.stdout
    gone = await place.run("users", "forget", "--yes", "--", name)
    assert " is forgotten: " in gone.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["feedback", "--user", "ada"], "422 invalid-request: chosen: is missing; "),
        (["feedback", "--user", "ada", "--prompt", "p", "--chosen-text", "a"], "422 invalid-request: rejected_text: is missing; "),
        (["feedback", "--user", "ada", "--chosen", "x", "--rejected", "y"], "404 unknown-candidate: chosen is not a candidate id"),
        (["feedback", "--user", "ada", "--chosen", "x", "--rejected", "y", "--prompt", "p"], "422 invalid-request: prompt: has no place"),
        (["feedback", "--user", "", *TEXTS], "422 invalid-request: user: is too short"),
        (["feedback", "--user", "bob", *TEXTS, "--event-id", "one\ntwo"], "422 invalid-request: event_id: "),
        (["users", "take-back", "ada", "none"], "404 unknown-event: no comparison with event 'none' is kept for this user"),
        (["users", "take-back", "ada", ".."], "404 unknown-event: no comparison with event '..' is kept for this user"),
        (["users", "show", "x" * 257], "422 invalid-request: user: has 257 characters; at most 256 are allowed"),
    ],
)
async def test_a_refusal_is_one_line_with_the_field_and_changes_nothing(place: Place, words: list[str], said: str):
    await place.run("feedback", "--user", "ada", *TEXTS)
    refused = await place.run(*words)
    assert refused.exit_code == 1, refused.output
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert f"{place.url} answered {said}" in refused.stderr
    assert await place.comparisons("ada") == 1


async def test_an_event_of_another_choice_and_a_text_that_is_too_long_are_refused(place: Place):
    await place.run("feedback", "--user", "ada", *TEXTS, "--event-id", "e")
    other = await place.run("feedback", "--user", "ada", *TEXTS, "--tie", "--event-id", "e")
    assert "409 event-conflict: event 'e' was used before with another body" in other.stderr
    for size in (100_000, 10_000_000):
        large = await place.run("feedback", "--user", "ada", *TEXTS[:3], "-", *TEXTS[4:], stdin="a" * size)
        assert (large.exit_code, large.stderr.count("\n")) == (1, 1)
        assert "answered 413 too-large: " in large.stderr
    assert await place.comparisons("ada") == 1


@pytest.mark.parametrize(
    ("words", "stdin", "code", "said"),
    [
        (["users", "show", ""], None, 1, "the id of a user or an event is empty"),
        (["users", "take-back", "ada", ""], None, 1, "the id of a user or an event is empty"),
        (["users", "show", "\udcff"], None, 1, "a text is no Unicode"),
        (["feedback", "--user", "\udcff", *TEXTS], None, 1, "a text is no Unicode"),
        (["feedback", "--user", "ada", *TEXTS, "--event-id", ""], None, 2, "an id has one character at least"),
        (["feedback", "--user", "ada", *TEXTS[:1], "-", *TEXTS[2:3], "-", *TEXTS[4:]], "a", 2, "can be read for one of them"),
        (
            ["feedback", "--user", "ada", *TEXTS[:3], "-", *TEXTS[4:]],
            b"\xff",
            1,
            "standard input is not UTF-8: invalid start byte at byte 0",
        ),
    ],
)
async def test_what_no_server_could_take_is_not_sent(place: Place, words: list[str], stdin: str | bytes | None, code: int, said: str):
    await place.run("feedback", "--user", "ada", *TEXTS)
    await place.run("users", "take-back", "ada", "none")
    refused = await place.run(*words, stdin=stdin)
    assert (refused.exit_code, said in refused.stderr) == (code, True), refused.output
    counted = [await place.service.metric("attune_http_requests_total", route=route) for route in ROUTES]
    assert counted == [1, 0, 1]


async def test_a_key_is_needed_where_the_server_has_keys_and_users_of_others_are_not_seen(settings_of: Callable[..., Settings]):
    async with place_of(settings_of(api_keys=KEYS)) as place:
        for key, said in (
            ("", "401 unauthenticated: no API key"),
            ("key-of-nobody-is-long", "401 unauthenticated: this API key is not known"),
        ):
            for words in (["users", "show", "ada"], ["users", "forget", "ada", "--yes"], ["feedback", "--user", "ada", *TEXTS]):
                refused = await place.run(*words, key=key)
                assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1), refused.output
                assert said in refused.stderr
                assert "--key-env NAME names the environment variable that holds an API key of the server" in refused.stderr
                assert key not in refused.stderr or not key
        learned = await place.run("feedback", "--user", "ada", *TEXTS, key="key-of-acme-is-long")
        assert f"attune users take-back --url {place.url} --key-env KEY -- ada " in learned.stdout
        for key, count in (("key-of-acme-is-long", 1), ("key-of-zeta-is-long", 0)):
            shown = await place.run("users", "show", "ada", "--json", key=key)
            assert json.loads("\n".join(lines(shown)))["user"]["comparisons"] == count


async def test_a_candidate_of_another_user_is_refused_without_a_word_of_keys(place: Place):
    made = await place.service.post("/generate", {"user": "ada", "prompt": PROMPT, "candidates": 2})
    liked, other = (one["candidate_id"] for one in made["candidates"])
    refused = await place.run("feedback", "--user", "bob", "--chosen", liked, "--rejected", other)
    assert (refused.exit_code, "403 not-your-candidate: " in refused.stderr, "--key-env" in refused.stderr) == (1, True, False)


@pytest.mark.parametrize("words", [["users", "show", "ada"], ["users", "forget", "ada"], ["users", "take-back", "ada", "e"]])
def test_a_server_that_is_not_there_is_one_line(words: list[str]):
    refused = CliRunner().invoke(offline, [*words, "--url", "http://127.0.0.1:9"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert re.search(r"http://127.0.0.1:9 did not answer (GET|DELETE) /users/ada\S*: connection refused", refused.stderr)


def test_feedback_that_may_have_arrived_says_how_it_is_sent_again_and_counts_once():
    refused = CliRunner().invoke(serving, ["feedback", "--user", "ada", *TEXTS, "--url", "http://127.0.0.1:9", "--event-id", "it's"])
    assert "did not answer POST /feedback: connection refused; with `--event-id 'it'\"'\"'s'` it is sent again and counts" in refused.stderr
    new = CliRunner().invoke(serving, ["feedback", "--user", "ada", *TEXTS, "--url", "http://127.0.0.1:9"])
    assert re.search(r"with `--event-id [0-9a-f]{32}` it is sent again", new.stderr)


def test_certificates_that_are_not_there_are_named_by_their_variable():
    refused = CliRunner(env={"SSL_CERT_FILE": "/none"}).invoke(offline, ["users", "show", "ada", "--url", "http://127.0.0.1:9"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: no such file or directory" in refused.stderr


@contextlib.contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Serves one answer to everything, as a proxy or another server does, and gives the URL."""

    class Always(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET  # noqa: N815  the names that http.server looks for

    with ThreadingHTTPServer(("127.0.0.1", 0), Always) as server:
        answers = threading.Thread(target=server.serve_forever)
        answers.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            answers.join()


@pytest.mark.parametrize("command", ["users show ada", "users export ada", "users forget ada --yes", "users take-back ada e", "feedback"])
def test_a_page_in_place_of_an_answer_is_one_line(command: str):
    words = [*command.split(), *(["--user", "ada", *TEXTS] if command == "feedback" else [])]
    with answering(b"<!doctype html>\n<h1>Sign in</h1>\n") as url:
        refused = CliRunner().invoke(serving if command == "feedback" else offline, [*words, "--url", url])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.splitlines()[-1].endswith(f": {url} answered 200 unreadable: <!doctype html> <h1>Sign in</h1>")


def test_only_an_event_that_was_named_is_said_to_be_known_before():
    duplicate = {"event_id": "e", "result": "duplicate", "user": {"id": "ada", "comparisons": 1}}
    with answering(json.dumps(duplicate).encode()) as url:
        words = ["feedback", "--user", "ada", *TEXTS, "--url", url]
        new, named = CliRunner().invoke(serving, words), CliRunner().invoke(serving, [*words, "--event-id", "e"])
    assert (new.stdout.splitlines()[0], named.stdout.splitlines()[0]) == ("learned: event e", "known before: event e")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "", "ftp://host", "http://", "http://[::1", "http://h:99999", "http://h/?q=1", "http://a b"]
)
def test_what_is_no_address_is_a_wrong_option(url: str):
    for app, words in ((offline, ["users", "show", "ada"]), (serving, ["feedback", "--user", "a", *TEXTS]), (serving, ["replay"])):
        refused = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(app, [*words, "--url", url])
        assert (refused.exit_code, "is no address of a server" in refused.stderr) == (2, True), refused.output


@pytest.mark.parametrize("command", ["users export ada", "users show ada"])
async def test_output_whose_reader_leaves_ends_the_command_in_silence(place: Place, command: str):
    program = f"{sys.executable} -m attune.service {command} --url {place.url} | true; echo ${{PIPESTATUS[0]}}"
    run = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (run.stdout, run.stderr) == ("1\n", "")
