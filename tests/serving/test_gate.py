"""Who is let in, under which name, with how large a body."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from compt_fast.prediction.predictor import Predictor
from compt_fast.serving.gate import Access, Gate
from compt_fast.serving.limits import Limits
from compt_fast.serving.metrics import Metrics
from compt_fast.utils.errors import InputError
from tests.helpers.serving import ADMIN, ASK, Running, running

TOKEN = "a-token-of-tests-only"
ROW = {"rows": {"sentence1": "the film was a joy"}, "task": "mini_sst2"}


@pytest.fixture(scope="module")
def guarded(offline: Predictor, artifacts: Path) -> Iterator[Running]:
    with running(offline, Limits(max_body=2000, timeout=0.5), Access(TOKEN, ADMIN), artifacts) as found:
        yield found


@pytest.mark.parametrize(
    ("method", "path", "given", "status"),
    [
        *(("GET", path, None, 200) for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json")),
        *(("GET", path, None, 401) for path in ("/v1/tasks", "/metrics", "/v1/predict", "/nothing", "//", "/DOCS")),
        *(("GET", "/v1/tasks", given, 401) for given in ("Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "")),
        *(("GET", "/v1/tasks", given, 200) for given in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer {ADMIN}")),
        ("DELETE", "/v1/tasks/mini_rt", f"Bearer {TOKEN}", 401),
        ("DELETE", "/v1/tasks/mini_rt", f"Bearer {ADMIN}", 404),
        ("PUT", "/v1/tasks/mini_rte", None, 401),
        ("PUT", "/", f"Bearer {TOKEN}", 401),
        ("BREW", "/", None, 401),
    ],
)
def test_tokens(guarded: Running, method: str, path: str, given: str | None, status: int) -> None:
    headers = {} if given is None else {"Authorization": given}
    answer = ASK.request(method, guarded.url + path, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer" and "bearer token" in answer.json()["error"]


def test_without_an_admin_token_nobody_changes_what_is_served(offline: Predictor) -> None:
    with running(offline, access=Access()) as server:
        for given in ("Bearer", "Bearer None", f"Bearer {ADMIN}"):
            answer = ASK.delete(f"{server.url}/v1/tasks/mini_rte", headers={"Authorization": given})
            assert answer.status_code == 403 and "admin token" in answer.json()["error"]
        assert server.post(ROW).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_a_local_server_answers_to_the_machines_own_names_alone(server: Running, host: str) -> None:
    answer = ASK.get(f"{server.url}/v1/tasks", headers={"Host": host})
    assert answer.status_code in (400, 421)
    port = server.url.rpartition(":")[2]
    for own in ("localhost", f"LOCALHOST:{port}", f"[::1]:{port}", "127.0.0.1", "127.0.0.2"):
        assert ASK.get(f"{server.url}/v1/tasks", headers={"Host": own}).status_code == 200


def test_a_server_for_others_answers_to_every_name() -> None:
    others = Access(TOKEN, local=False)
    bearer = f"Bearer {TOKEN}".encode()
    assert others.refusal("GET", "/v1/tasks", {b"host": b"a.example", b"authorization": bearer}) is None


@pytest.mark.parametrize("token", ["", "short", "with a blank, but long", "Umlaute sind keine äöü"])
def test_weak_tokens_are_refused(token: str) -> None:
    for access in ({"token": token}, {"admin": token}):
        with pytest.raises(InputError, match="a token has 16 or more printable ASCII characters"):
            Access(**access)


def connection(server: Running) -> http.client.HTTPConnection:
    host, port = server.url.removeprefix("http://").split(":")
    return http.client.HTTPConnection(host, int(port), timeout=10)


def test_bodies_are_bounded_whether_their_length_is_said_or_not(guarded: Running) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    for body in (b"a" * 2001, iter([b"a" * 500] * 5)):
        asking = connection(guarded)
        asking.request("POST", "/v1/predict", body, headers, encode_chunked=not isinstance(body, bytes))
        answer = asking.getresponse()
        assert answer.status == 413 and answer.read() == b'{"error":"a body has up to 2,000 bytes"}'
        asking.close()
    text = {"rows": {"sentence1": "a " * 900}, "task": "mini_sst2"}
    assert guarded.post(text, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_an_error_of_the_server_is_counted_as_such() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a bug")

    metrics = Metrics()
    gate = Gate(fails, Access(), Limits(), metrics)
    scope = {"type": "http", "method": "GET", "path": "/v1/tasks", "headers": [(b"host", b"localhost")]}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    with pytest.raises(RuntimeError, match="a bug"):
        asyncio.run(gate(scope, receive, fails))
    assert b'status="500"' in metrics.text()


def test_one_request_too_many_is_told_so_and_health_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compt_fast.serving.gate.MOST_REQUESTS", 2)

    async def test() -> None:
        go = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await JSONResponse("done")(scope, receive, send)

        gate = Gate(app, Access(), Limits(), Metrics())
        held = [asyncio.ensure_future(asked(gate, "/v1/tasks")) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await asked(gate, "/v1/tasks")
        assert refused[0]["status"] == 503 and (b"retry-after", b"1") in refused[0]["headers"]
        assert refused[1]["body"] == b'{"error":"2 requests are being answered; try again in a second"}'
        healthy = [asyncio.ensure_future(asked(gate, path)) for path in ("/healthz", "/readyz", "/metrics")]
        go.set()
        for each in (*held, *healthy):
            assert (await each)[0]["status"] == 200
        assert (await asked(gate, "/v1/tasks"))[0]["status"] == 200

    asyncio.run(test())


def test_what_is_always_answered_holds_no_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compt_fast.serving.gate.MOST_REQUESTS", 0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        await JSONResponse("done")(scope, receive, send)

    async def test() -> None:
        gate = Gate(app, Access(), Limits(), Metrics())
        for path in ("/healthz", "/readyz", "/metrics"):
            for method, status in (("GET", 200), ("HEAD", 200), ("POST", 503), ("OPTIONS", 503)):
                assert (await asked(gate, path, method, b"a" * 1000))[0]["status"] == status

    asyncio.run(test())


async def asked(gate: Gate, path: str, method: str = "GET", body: bytes = b"") -> list[Any]:
    """What a request is answered."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    await gate({"type": "http", "method": method, "path": path, "headers": [(b"host", b"localhost")]}, receive, send)
    return sent


def test_a_body_that_does_not_come_is_not_waited_for(guarded: Running) -> None:
    asking = connection(guarded)
    asking.putrequest("POST", "/v1/predict")
    asking.putheader("Authorization", f"Bearer {TOKEN}")
    asking.putheader("Content-Length", "100")
    asking.endheaders(b'{"rows"')
    answer = asking.getresponse()
    assert answer.status == 408 and b"did not come within 0.5 s" in answer.read()


def test_a_client_that_goes_away_within_its_body_costs_nothing(guarded: Running) -> None:
    asking = connection(guarded)
    asking.putrequest("POST", "/v1/predict")
    asking.putheader("Authorization", f"Bearer {TOKEN}")
    asking.putheader("Content-Length", "100")
    asking.endheaders(b'{"rows"')
    assert asking.sock is not None
    asking.sock.shutdown(socket.SHUT_RDWR)
    asking.close()
    assert guarded.post(ROW, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
