"""Connections to the servers of members: one bounded pool, nothing taken from the environment but what is named here.

    open() ── permit, connection ──> Exchange ── read() ──> bytes ── close(): at once, without awaiting

Nothing is made before the first member needs it. Closing is synchronous, so that no cancellation can break it off. Errors
of the HTTP library end here. Of the environment are read HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE,
and nothing else: no .netrc, no cookies. A key goes where the roster says, and, over plain http, to the proxy in between.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import certifi
from yarl import URL

from attune.service.members.proxies import proxy_for, shown_proxy
from attune.service.observe.tracing import Outbound, begin_outbound

KEEPALIVE_S = 30.0
READ_BYTES = 1 << 16
CHECKS_AT_ONCE = 8
SETTLE_S = 1.0
SETTLE_BYTES = 1 << 16


class ConnectionFailed(Exception):
    """No answer came, or it broke off.

    Args:
        detail: what happened, without anything that the server said.
        disconnected: whether the server took the request and closed before a byte of an answer, as one does with a connection that was
            kept for too long.
    """

    def __init__(self, detail: str, *, disconnected: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.disconnected = disconnected


class PoolFull(Exception):
    """No connection was free in time."""


class Exchange:
    """One request that was answered: status, headers, and a body that is read piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse, permits: asyncio.Semaphore, outbound: Outbound | None = None) -> None:
        self._response = response
        self._outbound = outbound
        self._permits: asyncio.Semaphore | None = permits
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def media_type(self) -> str:
        """The media type in lower case, without its parameters; empty if none was sent."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def complete(self) -> bool:
        """Whether the body was read to its end, so that the connection can serve again."""
        return self._response.content.at_eof()

    @property
    def closed(self) -> bool:
        """Whether it was closed from here."""
        return self._permits is None

    async def read(self) -> bytes:
        """Returns the next bytes of the body, none at its end.

        Raises:
            ConnectionFailed: it broke off, or it was closed from here meanwhile.
        """
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a body that cannot be decompressed
            raise ConnectionFailed(f"the connection broke in the answer's body ({type(error).__name__})") from None

    def handed_over(self) -> Exchange:
        """Returns this exchange under another owner; this one has nothing to close any more."""
        permits, self._permits = self._permits, None
        assert permits is not None, "an exchange that is closed is handed to nobody"
        return Exchange(self._response, permits, self._outbound)

    def close(self) -> None:
        """Gives the connection back, or closes it if there is more to read; a second call does nothing."""
        permits, self._permits = self._permits, None
        if permits is not None:
            self._response.close()
            permits.release()
            if self._outbound is not None:
                self._outbound.end()


class UpstreamPool:
    """What members on servers share.

    Args:
        max_connections: exchanges at once; one more waits. All of them may be kept open for the next.
        environ: where proxies and certificates are named.
        settle_s: how long what follows a complete answer is waited for, so that its connection can be kept.
    """

    def __init__(self, max_connections: int = 512, *, environ: Mapping[str, str] = os.environ, settle_s: float = SETTLE_S) -> None:
        self._environ = environ
        self._settle_s = settle_s
        self.max_connections = max_connections
        self._permits = asyncio.Semaphore(max_connections)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # by whether each request has a connection of its own
        self._tls: ssl.SSLContext | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._checks: UpstreamPool | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every connection; exchanges that are open break, and nothing is opened any more."""
        self._closed = True
        for task in tuple(self._settling):
            task.cancel()
        if self._checks is not None:
            await self._checks.aclose()
        while self._sessions:
            await self._sessions.popitem()[1].close()

    @property
    def checks(self) -> UpstreamPool:
        """A small pool beside this one, so that checks and answers do not wait for each other; closed with it."""
        if self._checks is None:
            self._checks = UpstreamPool(CHECKS_AT_ONCE, environ=self._environ)
        return self._checks

    def prepare(self, base_url: str) -> str | None:
        """Returns the proxy for a server, None for a direct connection.

        Raises:
            ValueError: the environment names a proxy or certificates that cannot be used; the message has the variable.
        """
        if base_url.startswith("https:") and self._tls is None:
            self._tls = _tls(self._environ)
        return proxy_for(base_url, self._environ)

    async def open(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        proxy: str | None,
        connect_s: float,
        fresh: bool = False,
    ) -> Exchange:
        """Returns the answer with its body unread; no redirect is followed, for a key goes where the roster says.

        A `fresh` request has a new connection: where a kept one has ended, so may have all that were kept as long.

        Raises:
            ConnectionFailed: nothing was received, or the pool is closed.
            PoolFull: every connection was in use for `connect_s`.
        """
        if self._permits.locked():
            try:
                async with asyncio.timeout(connect_s):
                    await self._permits.acquire()
            except TimeoutError:
                raise PoolFull(f"no connection of {self.max_connections} was free for {connect_s:g} s") from None
        else:
            await self._permits.acquire()  # free, so it does not wait
        if self._closed:  # somebody who tries again once their connection broke; a session opened now would be closed by nobody
            self._permits.release()
            raise ConnectionFailed("the connections to members' servers are closed")
        through = f" through the proxy {shown_proxy(proxy)}" if proxy else ""
        traced, outbound = begin_outbound(method, url.host or "", url.port or 0)
        try:
            response = await self._ready(fresh=fresh).request(
                method,
                url,
                data=body,
                headers={**headers, **traced},
                proxy=proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s),
                ssl=self._tls or True,
            )
        except BaseException as error:
            self._permits.release()
            if outbound is not None:
                outbound.end()
            if isinstance(error, (aiohttp.ClientError, OSError, ValueError)):
                raise ConnectionFailed(_said(error) + through, disconnected=_disconnected(error)) from None
            raise
        if outbound is not None:
            outbound.status = response.status
        return Exchange(response, self._permits, outbound)

    def settle(self, exchange: Exchange) -> None:
        """Gives back the connection of an answer that is complete; the little that may follow its text is read by a task of its own."""
        if exchange.closed or exchange.complete:
            exchange.close()
            return
        task = asyncio.ensure_future(_read_rest(exchange.handed_over(), self._settle_s))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _ready(self, *, fresh: bool) -> aiohttp.ClientSession:
        if fresh not in self._sessions:
            kept: dict[str, Any] = {"force_close": True} if fresh else {"keepalive_timeout": KEEPALIVE_S}
            self._sessions[fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, **kept),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                read_bufsize=READ_BYTES,
            )
        return self._sessions[fresh]


async def _read_rest(exchange: Exchange, settle_s: float) -> None:
    """Reads what follows a complete answer, so that its connection can serve again, and closes it if that is long or slow."""
    size = 0
    try:
        async with asyncio.timeout(settle_s):
            while size < SETTLE_BYTES and (part := await exchange.read()):
                size += len(part)
    except (TimeoutError, ConnectionFailed):
        pass  # the answer is complete; its connection is closed instead of kept
    finally:
        exchange.close()


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    path = environ.get("SSL_CERT_FILE", "")
    try:
        return ssl.create_default_context(cafile=path or certifi.where())
    except (OSError, ValueError) as error:
        raise ValueError(f"the certificates that SSL_CERT_FILE names cannot be read ({type(error).__name__}): {path}") from error


def _disconnected(error: BaseException) -> bool:
    if isinstance(error, aiohttp.ClientOSError):  # a reset, as load balancers send on a connection that they have forgotten
        return error.errno in {None, errno.ECONNRESET, errno.EPIPE} and not isinstance(error, aiohttp.ClientConnectorError)
    return isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionError))


def _said(error: BaseException) -> str:
    """Returns what failed, in words that hold nothing of the URL but host and port."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refused to connect: HTTP {error.status}"
    if isinstance(error, aiohttp.ClientConnectorError):
        why = error.os_error.strerror or type(error.os_error).__name__
        return f"cannot connect to {error.host}:{error.port} ({type(error).__name__}: {why})"
    if isinstance(error, TimeoutError):
        return f"no connection within its limit ({type(error).__name__})"
    if _disconnected(error):
        return f"the server closed the connection before an answer ({type(error).__name__})"
    return f"no HTTP answer ({type(error).__name__})"
