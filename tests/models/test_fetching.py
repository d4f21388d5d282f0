"""A bundle is fetched whole or not at all: from a folder, a web server, and an object store's protocol."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import pytest

from attune.models.export.fetching import NotFetched, fetch_bundle
from attune.models.seam.bundle import BundleInvalid, read_bundle
from tests.tiny_bundle import write_tiny_bundle


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A bundle under `shelf/bundles/own`, as a store would have it."""
    made = write_tiny_bundle(tmp_path / "made")
    (tmp_path / "shelf" / "bundles").mkdir(parents=True)
    return made.rename(tmp_path / "shelf" / "bundles" / "own")


@pytest.fixture
def web(kept: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(kept.parents[1]))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_bundle_comes_from_a_folder_or_a_web_server_and_the_link_moves_to_it(kept: Path, web: str, tmp_path: Path):
    identity = read_bundle(kept).id
    for source, into in ((str(kept), "one"), (kept.as_uri(), "two"), (f"{web}/bundles/own/", "three")):
        told: list[str] = []
        found = fetch_bundle(source, tmp_path / into, "current", told.append)
        assert found.name == f"bundle-{identity}"
        assert read_bundle(tmp_path / into / "current").id == identity
        assert (tmp_path / into / "current").readlink() == Path(found.name)
        assert len(told) == len(json.loads((kept / "manifest.json").read_text())["files"])
        assert sorted(path.name for path in (tmp_path / into).iterdir()) == [found.name, "current"]


def test_a_bundle_that_is_there_is_not_fetched_again(kept: Path, tmp_path: Path):
    first = fetch_bundle(str(kept), tmp_path / "out")
    for path in kept.iterdir():
        if path.name != "manifest.json":
            path.unlink()
    told: list[str] = []
    assert fetch_bundle(str(kept), tmp_path / "out", told=told.append) == first
    assert told == [f"{first.name} is there already"]


def test_a_damaged_bundle_is_refused_and_what_the_link_names_stays(kept: Path, tmp_path: Path):
    out = tmp_path / "out"
    (out / "bundle-old").mkdir(parents=True)
    (out / "current").symlink_to("bundle-old")
    size = (kept / "families.json").stat().st_size
    for content, said in (
        (b"{}".ljust(size), r"families\.json has sha256"),
        (b"{}", rf"own: families\.json ended after 2 bytes; manifest\.json says {size:,}$"),
        (b"{}".ljust(size + 1), rf"own: families\.json goes on after {size:,} bytes"),
    ):
        (kept / "families.json").write_bytes(content)
        with pytest.raises(BundleInvalid, match=said):
            fetch_bundle(str(kept), out, "current")
    assert (out / "current").readlink() == Path("bundle-old")
    assert sorted(path.name for path in out.iterdir()) == ["bundle-old", "current"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": {"../../evil": {"bytes": 1, "sha256": ""}}}, "outside of the bundle"),
        ({"files": {"/etc/passwd": {"bytes": 1, "sha256": ""}}}, "outside of the bundle"),
        ({"id": "../x"}, "no name of a folder"),
        ({"files": 3}, "is none of a bundle"),
    ],
)
def test_a_manifest_cannot_name_what_lies_elsewhere(change: dict[str, object], said: str, kept: Path, tmp_path: Path):
    manifest = json.loads((kept / "manifest.json").read_text())
    (kept / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(BundleInvalid, match=said):
        fetch_bundle(str(kept), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "content", ["[" * 200_000, '{"id": "x", "files": {"a": {"bytes": 1e400}}}', "[]", "\ufeff{", '{"id": "a", "id": "b"}']
)
def test_a_manifest_that_cannot_be_read_is_refused(content: str, kept: Path, tmp_path: Path):
    (kept / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(BundleInvalid, match=r"manifest\.json is none of a bundle"):
        fetch_bundle(str(kept), tmp_path / "out")


def test_a_source_that_is_not_there_is_named(web: str, tmp_path: Path):
    with pytest.raises(NotFetched, match=r"nowhere/manifest\.json cannot be read: .*File not found"):
        fetch_bundle(f"{web}/nowhere", tmp_path / "out")
    with pytest.raises(NotFetched, match=r"absent/manifest.json cannot be read: No such file or directory$"):
        fetch_bundle(str(tmp_path / "absent"), tmp_path / "out")


class Hasty(BaseHTTPRequestHandler):
    """Promises a piece of so many bytes, sends fewer and hangs up; or says what is no HTTP."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"
        self.wfile.write(cut if self.path.startswith("/cut/") else b"nonsense\r\n\r\n")
        self.close_connection = True


def test_a_server_that_hangs_up_or_speaks_no_http_is_named(tmp_path: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hasty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        for path, said in (("cut", "IncompleteRead"), ("none", "nonsense")):
            with pytest.raises(NotFetched, match=rf"{address}/{path}/manifest\.json cannot be read: {said}"):
                fetch_bundle(f"{address}/{path}", tmp_path / "out")
        server.shutdown()
    with pytest.raises(NotFetched, match=r"cannot be read: nonnumeric port: '1x'"):
        fetch_bundle("http://127.0.0.1:1x/own", tmp_path / "out")


def test_a_folder_of_bundles_in_place_of_one_is_told_with_their_names(kept: Path, tmp_path: Path):
    with pytest.raises(NotFetched, match=f"No such file or directory; it is a folder of bundles; name one of them: {kept.name}$"):
        fetch_bundle(str(kept.parent), tmp_path / "out")


def test_an_object_store_is_read_by_its_own_protocol(kept: Path, web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("obstore", reason="obstore (the extra `store`) is not installed")
    # It wants certificates for plain HTTP too, and some machines keep theirs where it does not look.
    (tmp_path / "certificates").mkdir()
    shutil.copy(certifi.where(), tmp_path / "certificates" / "00000000.0")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "certificates"))
    for name, value in {"AWS_ENDPOINT": web, "AWS_ALLOW_HTTP": "true", "AWS_SKIP_SIGNATURE": "true", "AWS_REGION": "here"}.items():
        monkeypatch.setenv(name, value)
    assert read_bundle(fetch_bundle("s3://bundles/own", tmp_path / "out")).id == read_bundle(kept).id
    with pytest.raises(NotFetched, match=r"s3://bundles/none/manifest\.json cannot be read"):
        fetch_bundle("s3://bundles/none", tmp_path / "out")
    with pytest.raises(NotFetched, match=r"s3://a b/none cannot be read"):
        fetch_bundle("s3://a b/none", tmp_path / "out")
