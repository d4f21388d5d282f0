"""`attune reload`: every replica is asked, each has its line, and the exit code says whether all of them serve the same bundle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from attune.models.__main__ import app as models_app
from attune.service.__main__ import app
from attune.service.rollout import NameNotFound, find_replicas, reload_replica
from attune.service.settings import Settings
from tests.endpoints.conftest import bundle, running, settings_of
from tests.project.test_command_line import attune
from tests.socket_server import on_socket
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

KEYS = "admin-key-of-acme:acme:admin,other-key-of-acme:acme"


@contextlib.asynccontextmanager
async def listening(settings: Settings) -> AsyncIterator[str]:
    """Serves on a free port, and gives the URL."""
    async with running(settings, FreshStore()) as service, on_socket(service.app) as (url, _):
        yield url


async def reload(*args: str, key: str = "admin-key-of-acme") -> Result:
    return await asyncio.to_thread(CliRunner(env={"KEY": key}).invoke, app, ["reload", "--key-env", "KEY", *args])


def told(result: Result) -> list[str]:
    """Returns the lines of the command; the servers of this process log to the same place."""
    return [line for line in result.stdout.splitlines() if line.startswith("127.0.0.1:")]


async def test_all_replicas_are_moved_one_refusal_does_not_stop_the_others_and_a_difference_is_an_error(
    settings_of: Callable[..., Settings], tmp_path: Path
):
    first, second = write_tiny_bundle(tmp_path / "one"), write_tiny_bundle(tmp_path / "two", salt=0.5)
    links = [tmp_path / name for name in ("current", "other")]
    for link in links:
        link.symlink_to(first)
    one, other = (settings_of(bundle=str(link), api_keys=KEYS) for link in links)
    async with listening(one) as here, listening(other) as there:
        for link in links:
            link.unlink()
            link.symlink_to(second)
        moved = await reload("--url", here, "--url", there)
        assert moved.exit_code == 0, moved.output
        lines = told(moved)
        assert [line.split(": ")[0] for line in lines] == [here.removeprefix("http://"), there.removeprefix("http://")]
        assert all(" in place of " in line for line in lines)
        assert all(
            line.endswith("; its basis is another: users begin at the prior until `attune replay` has learned their choices")
            for line in lines
        )
        assert told(await reload("--url", here))[0].endswith(" as before")

        links[1].unlink()
        links[1].symlink_to(first)
        # A process of its own: the servers of this one log to standard output too.
        apart = await asyncio.to_thread(
            attune, "reload", "--json", "--key-env", "KEY", "--url", here, "--url", there, KEY=KEYS.partition(":")[0]
        )
        found = json.loads(apart.stdout)
        assert (apart.returncode, found["same"]) == (1, False)
        assert [each["address"] for each in found["replicas"]] == [url.removeprefix("http://") for url in (here, there)]
        assert [each["users_kept"] for each in found["replicas"]] == [True, False]
        assert found["replicas"][1]["before"] == found["replicas"][0]["bundle"] != found["replicas"][1]["bundle"]
        assert "2 bundles serve side by side" in apart.stderr

        differ = await reload("--url", here, "--url", there)
        assert (differ.exit_code, "2 bundles serve side by side" in differ.output) == (1, True)

        nobody = await reload("--url", "http://127.0.0.1:1", "--url", there)
        assert nobody.exit_code == 1
        assert "127.0.0.1:1: did not answer: connection refused" in nobody.output
        assert f"{there.removeprefix('http://')}: " in nobody.output
        assert "not every replica serves the newest bundle\n  1 of 2 did not load the bundle" in nobody.output

        refused = await reload("--url", here, "--all", key="other-key-of-acme")
        assert (refused.exit_code, "403 forbidden: " in refused.output) == (1, True)
        assert told(refused)[0].endswith("; --key-env NAME names the environment variable that holds an API key that has the right")


@pytest.mark.parametrize("command", ["reload", "replay", "import"])
async def test_a_command_without_the_key_that_a_server_wants_says_how_it_is_given(settings_of: Callable[..., Settings], tmp_path, command):
    (tmp_path / "a.jsonl").write_text('{"user": "ada", "prompt": "tell me", "chosen": "yes", "rejected": "no"}\n')
    async with listening(settings_of(api_keys=KEYS)) as url:
        if command == "import":
            done = await asyncio.to_thread(CliRunner().invoke, models_app, ["users", "import", str(tmp_path / "a.jsonl"), "--url", url])
        else:
            done = await asyncio.to_thread(CliRunner().invoke, app, [command, "--url", url])
    assert done.exit_code == 1
    assert "401 unauthenticated: no API key" in done.output
    assert "; --key-env NAME names the environment variable that holds an API key of the server\n" in done.output
    assert "goes on with what is left" not in done.output


def test_a_name_stands_for_all_its_addresses_where_that_is_asked_and_for_one_replica_otherwise():
    asked = []

    def addresses(host: str, port: int, **_: object) -> list[object]:
        asked.append((host, port))
        places = [("10.0.0.5", port), ("10.0.0.6", port), ("10.0.0.5", port), ("fd00::7", port, 0, 0)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

    found = find_replicas(["http://attune-replicas:8000/", "http://10.0.0.6:8000"], every_address=True, resolve=addresses)
    assert [replica.address for replica in found] == ["10.0.0.5:8000", "10.0.0.6:8000", "[fd00::7]:8000"]
    assert {replica.host for replica in found} == {"attune-replicas:8000"}
    assert asked == [("attune-replicas", 8000), ("10.0.0.6", 8000)]
    (single,) = find_replicas(["https://attune.example.com/attune"], every_address=False, resolve=addresses)
    assert f"{single.url}/admin/reload" == "https://attune.example.com/attune/admin/reload"


@pytest.mark.parametrize(
    "url", ["attune:8000", "ftp://attune", "http://", "http://[::1", "http://attune", "http://attune?x=1", f"http://{'a' * 70}"]
)
def test_what_is_no_url_and_a_name_without_address_are_told_before_anybody_is_asked(url: str):
    def nowhere(host: str, *_: object, **__: object) -> list[object]:
        if len(host) > 63:
            raise UnicodeError("label too long")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(NameNotFound, match=r"is no URL|has no address: (Name or service not known|label too long)"):
        find_replicas([url], every_address=True, resolve=nowhere)


async def test_a_server_that_is_none_of_ours_is_a_reason_and_not_a_mistake_of_the_program():
    def answers(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>hello</html>")

    with httpx.Client(transport=httpx.MockTransport(answers)) as client:
        (replica,) = find_replicas(["http://[::1]:8000"], every_address=False)
        assert replica.name == "::1"
        done = reload_replica(replica, bundle=None, key="", client=client)
    assert done.reason == "answered, and names no bundle; is it an Attune?"


async def test_a_key_that_no_header_can_hold_is_refused_without_being_shown_and_a_line_break_at_its_end_is_none_of_it():
    refused = await reload("--url", "http://127.0.0.1:1", key="secret-of-acme\nx-other: 1")
    assert refused.exit_code == 2
    assert "KEY holds signs that no key has" in " ".join(refused.output.replace("│", " ").split())
    assert "secret-of-acme" not in refused.output
    taken = await reload("--url", "http://127.0.0.1:1", key="secret-of-acme\n")
    assert "did not answer: connection refused" in taken.output
