"""What a request passes before the application sees it: its host, its token, how many others there are, its size, and
the clock.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from compt_fast.serving.limits import Limits
from compt_fast.serving.metrics import Metrics
from compt_fast.utils.errors import InputError

OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")
"""What anybody may read: pages without data. Everything else needs the token, where there is one."""
READING = ("GET", "HEAD", "OPTIONS", "POST")
ALWAYS = ("/healthz", "/readyz", "/metrics")
"""What is answered however many requests there are, where it is asked for by GET or HEAD: nothing is held for it."""
MOST_REQUESTS = 512
"""Requests at a time; more are answered by 503. Each holds a body of at most `Limits.max_body`."""
METHODS = (*READING, "DELETE", "PATCH", "PUT")  # others share a line of the metrics
READ_AWAY = 8  # times the largest body
_TOKEN = re.compile(r"[!-~]{16,}")


@dataclass(frozen=True)
class Access:
    """Who may do what. Requests need `token`, where there is one; those that change what is served need `admin`, and
    without one nobody may. A server that only this machine reaches is `local`: it answers to `localhost` and to
    addresses alone, so that no page of another site can have a browser ask it under a name of that site.

    Raises `InputError` for a token that is short or holds other than printable ASCII without blanks.
    """

    token: str | None = None
    admin: str | None = None
    local: bool = True

    def __post_init__(self) -> None:
        for flag, token in (("--token", self.token), ("--admin-token", self.admin)):
            if token is not None and not _TOKEN.fullmatch(token):
                raise InputError(f"{flag}: a token has 16 or more printable ASCII characters and no blanks")

    def refusal(self, method: str, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """The status and the message by which a request is refused, or None where it is not."""
        if self.local and not _is_own(headers.get(b"host", b"").decode("latin-1")):
            return 421, "this server answers under localhost and addresses alone"
        given = headers.get(b"authorization", b"")
        if method not in READING:
            if self.admin is None:
                return 403, "what is served can be changed only where the server was started with an admin token"
            return None if _bears(given, self.admin) else (401, "this needs the admin token as a bearer token")
        if self.token is None or path in OPEN or _bears(given, self.token) or _bears(given, self.admin):
            return None
        return 401, "this needs the server's token as a bearer token"


def _is_own(host: str) -> bool:
    """Whether a `Host` names this machine, or no machine by a name that others could have given it."""
    name = re.sub(r":\d*$", "", host.lower())
    try:
        return name == "localhost" or ipaddress.ip_address(name.removeprefix("[").removesuffix("]")) is not None
    except ValueError:
        return False


def _bears(header: bytes, token: str | None) -> bool:
    scheme, _, given = header.partition(b" ")
    return token is not None and scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


class Gate:
    """Refuses what `Access` and `Limits` do not let pass, hands over whole bodies, and counts answers."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, metrics: Metrics) -> None:
        self._app, self._access, self._limits, self._metrics = app, access, limits, metrics
        self._requests = 0  # that are being handled, but for those that always are

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, statuses = time.perf_counter(), []

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(str(message["status"]))
            await send(message)

        try:
            await self._handle(scope, receive, noting)
        except Exception:
            statuses = statuses or ["500"]  # which is answered outside of this
            raise
        finally:
            path = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(method, path, *statuses or ["gone"]).inc()
            self._metrics.latency.labels(path).observe(time.perf_counter() - began)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if refused := self._access.refusal(scope["method"], scope["path"], dict(scope["headers"])):
                raise _Refused(*refused)
            weight = 0 if scope["path"] in ALWAYS and scope["method"] in ("GET", "HEAD") else 1
            with self._counted(weight):
                body = await self._body(receive) if weight else b""
                if body is not None:
                    await self._app(scope, _with_body(body, receive), send)
        except _Refused as refusal:
            headers = _HEADERS.get(refusal.status)
            await JSONResponse({"error": refusal.said}, refusal.status, headers)(scope, receive, send)

    @contextmanager
    def _counted(self, weight: int) -> Iterator[None]:
        """Count a request while it is handled; raises `_Refused` for one too many."""
        if self._requests + weight > MOST_REQUESTS:
            raise _Refused(503, f"{MOST_REQUESTS} requests are being answered; try again in a second")
        self._requests += weight
        try:
            yield
        finally:
            self._requests -= weight

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body, None where the client has gone; raises `_Refused` for one that is too large, or too slow."""
        parts, size, most = [], 0, self._limits.max_body
        try:
            async with asyncio.timeout(self._limits.timeout):
                # Of one that is somewhat too large the rest is read and thrown away: a client that still sends when
                # its connection is closed may never see the answer.
                while size <= READ_AWAY * most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    size += len(message.get("body", b""))
                    if size <= most:
                        parts.append(message.get("body", b""))
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise _Refused(408, f"the body did not come within {self._limits.timeout:g} s") from None
        if size > most:
            raise _Refused(413, f"a body has up to {most:,} bytes")
        return b"".join(parts)


_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}
"""What a refusal says beside its message."""


class _Refused(Exception):
    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status, self.said = status, said


def _with_body(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the whole body, then whatever comes."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received
