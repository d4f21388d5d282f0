"""`GET /`, `/docs` and the files beside them: the pages of `service.ui`, which talk to the native routes like any other client.

The files are read once, at import, and only these are served: a name in a path never reaches the file system. Addresses in them are
relative, so the page works behind whatever prefix a proxy puts in front; for that its own address has to end in a slash.
"""

from __future__ import annotations

from importlib import resources
from pathlib import PurePath

from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.service.errors import NotFound
from attune.service.http.documentation import operation_name
from attune.service.http.segments import Segment

router = APIRouter(generate_unique_id_function=operation_name)

# Nothing is loaded from elsewhere, nothing stands inline, and nothing may be.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES = {
    entry.name: (entry.read_bytes(), _TYPES[PurePath(entry.name).suffix])
    for entry in resources.files("attune.service.ui").iterdir()
    if PurePath(entry.name).suffix in _TYPES
}


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page; under a prefix without its last slash, the way to the address with it."""
    asked: bytes = request.scope.get("raw_path") or b"/"
    if not asked.endswith(b"/"):
        last = asked.rsplit(b"/", 1)[1].decode("latin-1")
        return Response(status_code=307, headers={"location": f"{last}/"})
    return _file("index.html")


@router.get("/docs", include_in_schema=False)
async def reference() -> Response:
    """The reference of the API, drawn from the document by a script of our own."""
    return _file("api.html")


@router.get("/ui/{name:segment}", include_in_schema=False)
async def page_file(name: Segment) -> Response:
    """A style sheet, a script or the picture of the page."""
    if name not in _FILES:
        raise NotFound("the page has no such file")
    return _file(name)


def _file(name: str) -> Response:
    content, media_type = _FILES[name]
    return Response(content, media_type=media_type, headers=_HEADERS)
