"""The page's files, without a browser: small, whole, and nothing from elsewhere."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from tests.endpoints.conftest import Service, bundle, running, service, settings_of
from tests.stores import FreshStore

__all__ = ["bundle", "service", "settings_of"]  # fixtures of the service's own tests

FOLDER = Path(str(resources.files("attune.service.ui")))
FILES = {entry.name: entry.read_text(encoding="utf-8") for entry in FOLDER.iterdir() if entry.suffix in {".html", ".css", ".js", ".svg"}}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
PAGES = {"index.html": SCRIPTS.keys() - {"api.js"}, "api.html": {"api.js", "drawing.js", "calls.js", "state.js"}}
"""Which scripts each page runs."""
NAMESPACES = ("http://www.w3.org/2000/svg",)


def test_the_page_is_small_and_so_is_each_of_its_files():
    assert sum(len(text.encode()) for text in FILES.values()) < 150_000
    assert {name: text.count("\n") for name, text in FILES.items() if text.count("\n") > 350} == {}


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_names_an_address_elsewhere_or_from_the_root(name: str):
    text = FILES[name]
    for namespace in NAMESPACES:
        text = text.replace(namespace, "")
    assert "://" not in text
    assert not re.search(r"""(?:href|src|action)=["']/""", text)
    assert not re.search(r"""(?:read|call|tell|fetch)\(\s*["'`]/""", text)


@pytest.mark.parametrize("page", PAGES)
def test_nothing_stands_inline(page: str):
    html = FILES[page]
    assert not re.search(r"\son\w+=", html)
    assert not re.search(r"\sstyle=", html)
    assert "<style" not in html
    assert re.findall(r"<script[^>]*>([^<]*)</script>", html) == [""]
    assert not any(re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text) for text in SCRIPTS.values())


@pytest.mark.parametrize("page", PAGES)
def test_every_element_that_a_script_asks_for_is_there_once(page: str):
    ids = re.findall(r'\sid="([^"]+)"', FILES[page])
    assert len(ids) == len(set(ids))
    asked = {name for script in PAGES[page] for name in re.findall(r"""(?:\$|getElementById)\("([^"]+)"\)""", SCRIPTS[script])}
    assert asked - set(ids) == set()
    assert set(re.findall(r'(?:for|aria-labelledby)="([^"]+)"', FILES[page])) - set(ids) == set()


def test_the_keys_of_a_tab_are_read_and_written_by_name():
    assert not any(
        re.search(r"(session|local)Storage\.(?!getItem|setItem|removeItem)", text.split("\n\n", 1)[1]) for text in SCRIPTS.values()
    )


@pytest.mark.parametrize("name", sorted(FILES))
async def test_every_file_is_served_with_its_type_and_the_policy(service: Service, name: str):
    answer = await service.client.get("/" if name == "index.html" else f"/ui/{name}")
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert (answer.status_code, answer.text) == (200, FILES[name])
    assert answer.headers["content-type"].startswith(kinds[name.rsplit(".", 1)[1]])
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", ["__init__.py", "nothing.js", "..%2Fapp.py", "%2e%2e%2fapp.py"])
async def test_no_other_file_is_served(service: Service, name: str):
    assert (await service.client.get(f"/ui/{name}")).status_code == 404


async def test_the_page_needs_no_key_and_its_address_under_a_prefix_ends_in_a_slash(settings_of):
    settings = settings_of(root_path="/attune", api_keys="key-of-acme:acme")
    async with running(settings, FreshStore()) as keyed:
        assert (await keyed.client.get("/ui/page.js")).status_code == 200
        assert (await keyed.client.get("/attune/ui/page.js")).status_code == 200
        assert (await keyed.client.get("/attune/")).status_code == 200
        assert (await keyed.client.get("/docs")).text == (await keyed.client.get("/attune/docs")).text == FILES["api.html"]
        moved = await keyed.client.get("/attune")
        assert (moved.status_code, moved.headers["location"]) == (307, "attune/")
