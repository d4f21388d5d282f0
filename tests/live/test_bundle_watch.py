"""Another bundle at the configured place is found and loaded; a refused one is left alone, and nothing stops what serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from attune.service.errors import BundleRefused, ReloadNotNow
from attune.service.live.bundle_watch import BundleWatch
from attune.service.machine import bundle_there
from attune.service.observe.metrics import Metrics
from attune.service.settings import Settings
from tests.tiny_bundle import write_tiny_bundle


class Deployment:
    """What serves, and what was loaded; whatever `bad` names is refused."""

    def __init__(self, link: Path) -> None:
        self.settings = Settings(bundle=str(link))
        self.serving = bundle_there(self.settings)
        self.loads: list[str] = []
        self.bad, self.busy = "", False
        self.metrics = Metrics()
        self.watch = BundleWatch(lambda: bundle_there(self.settings), lambda: self.serving, self.load, 3600.0, self.metrics)

    async def load(self) -> None:
        found = bundle_there(self.settings)
        self.loads.append(found)
        if self.busy:
            raise ReloadNotNow("another reload is under way")
        if found == self.bad:
            raise BundleRefused(f"{found} is bad")
        self.serving = found

    def reloads(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("attune_bundle_reloads_total", {"result": result}) or 0.0


async def test_every_look_swaps_to_what_the_link_names_and_tries_a_refused_bundle_once(tmp_path: Path):
    first, second = write_tiny_bundle(tmp_path / "one"), write_tiny_bundle(tmp_path / "two", salt=0.5)
    link = tmp_path / "current"
    link.symlink_to(first)
    deployment = Deployment(link)
    before = deployment.serving
    await deployment.watch.look()
    assert deployment.loads == []

    link.unlink()
    await deployment.watch.look()  # for a moment there is none
    assert (deployment.loads, deployment.serving) == ([], before)

    link.symlink_to(second)
    deployment.bad = bundle_there(deployment.settings)
    assert deployment.bad != before
    await deployment.watch.look()
    await deployment.watch.look()
    assert (deployment.loads, deployment.serving) == ([deployment.bad], before)
    assert deployment.reloads("refused") == 1

    link.unlink()
    link.symlink_to(first)
    await deployment.watch.look()
    assert deployment.loads == [deployment.bad]


async def test_a_bundle_that_came_while_another_reload_was_under_way_is_tried_again(tmp_path: Path):
    deployment = Deployment(write_tiny_bundle(tmp_path))
    deployment.serving = "another"
    deployment.busy = True
    await deployment.watch.look()
    assert (deployment.serving, deployment.reloads("refused")) == ("another", 0)
    deployment.busy = False
    await deployment.watch.look()
    assert deployment.serving == bundle_there(deployment.settings)
    assert deployment.reloads("loaded") == 1


@pytest.mark.parametrize("manifest", ["[" * 200_000, "[]", "{}", "half of it {", ""])
async def test_a_manifest_that_cannot_be_read_is_told_once_and_looked_at_again(tmp_path: Path, manifest: str):
    first = write_tiny_bundle(tmp_path / "one")
    deployment = Deployment(first)
    whole = (first / "manifest.json").read_text()
    (first / "manifest.json").write_text(manifest)
    with structlog.testing.capture_logs() as lines:
        await deployment.watch.look()
        await deployment.watch.look()
    assert [line["log_level"] for line in lines] == ["warning"]
    (first / "manifest.json").write_text(whole)
    deployment.serving = "another"
    await deployment.watch.look()
    assert deployment.serving == bundle_there(deployment.settings)


async def test_whatever_a_look_raises_the_next_one_is_made(tmp_path: Path):
    looks, enough = 0, asyncio.Event()

    def there() -> str:
        nonlocal looks
        looks += 1
        if looks == 3:
            loop.call_soon_threadsafe(enough.set)
        raise RuntimeError("a network's folder did what nobody foresaw")

    loop, deployment = asyncio.get_running_loop(), Deployment(write_tiny_bundle(tmp_path))
    watch = BundleWatch(there, lambda: "", deployment.load, 0.0, deployment.metrics)
    watch.start()
    await enough.wait()
    await watch.aclose()
    assert deployment.loads == []
