"""`GET /`: the page of `service.ui`, which talks to the native routes like any other client."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from starlette.responses import Response

router = APIRouter()

# The page is one file; nothing is loaded from elsewhere, and nothing may be.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Two answers, one choice, and the user's weights moving."""
    content = resources.files("attune.service.ui").joinpath("index.html").read_bytes()
    return Response(content, media_type="text/html; charset=utf-8", headers=_HEADERS)
