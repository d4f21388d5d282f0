"""An answer that fails once it has begun: nothing can be told any more but that it is not whole."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from attune.service.errors import DeadlineExceeded
from attune.service.http.edge import Edge
from attune.service.observe.metrics import Metrics
from tests.http.served import OK, served_as_it_is


@pytest.mark.parametrize("error", [DeadlineExceeded("the caller read too slowly"), RuntimeError("a bug")], ids=["foreseen", "unforeseen"])
async def test_it_is_cut_off_and_the_server_writes_no_traceback_of_its_own(error: Exception, caplog: pytest.LogCaptureFixture):
    async def fails(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    metrics = Metrics()
    async with served_as_it_is(Edge(fails, metrics)) as found:
        told = await found.told(b"GET /half HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert told.startswith(OK)
    assert told.endswith(b"4\r\nhalf\r\n"), "and no last chunk, which would say that this is all"
    assert [record.exc_info for record in caplog.records if record.name == "uvicorn.error" and record.exc_info] == []
    code = "internal" if isinstance(error, RuntimeError) else "deadline-exceeded"
    assert f'attune_errors_total{{code="{code}"}} 1.0' in metrics.render()[0].decode()
