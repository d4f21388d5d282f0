"""FastAPI's application, entered at our own outermost layer.

    server ─> Application ─┬─ http ─────> CORS, where it is set ─> Edge ─> ...
                           └─ lifespan ─> FastAPI

What FastAPI and Starlette put around an application (an answer to errors, telemetry of their own, a limit of bodies) does what `Edge` and
`Admission` do, a second time and for every request.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send


class Application(FastAPI):
    """See the module."""

    _entered: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        if self._entered is None:
            self._entered = self._outermost()
        await self._entered(scope, receive, send)

    def _outermost(self) -> ASGIApp:
        """Returns the outermost of the layers that were added, with all that is inside of it; all layers where it cannot be told."""
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        outermost: Any = self.user_middleware[0].cls if self.user_middleware else None
        # Whoever embeds this application may have added a function that makes a layer, of which nobody knows what it made.
        entered: Any = self.middleware_stack if isinstance(outermost, type) else None
        while entered is not None and not isinstance(entered, outermost):
            entered = getattr(entered, "app", None)  # a layer has what is inside of it, by convention
        return entered or self.middleware_stack
