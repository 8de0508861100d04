"""The interface: answers equal those offline, whatever else is asked; wrong requests are answered by what is wrong."""

from __future__ import annotations

import http.client
import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from compt_fast.prediction.predictor import Answer, Predictor
from compt_fast.serving.app import described
from compt_fast.serving.limits import Limits
from tests.helpers.serving import ADMIN, AS_ADMIN, ASK, Held, Running, mixed_rows, running, until

ROW = {"sentence1": "the film was a joy"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def held(offline: Predictor, artifacts: Path) -> Iterator[tuple[Running, Held]]:
    """A server whose batches wait until they are let go, with room for two rows in its queue."""
    slow = Held(offline)
    limits = Limits(timeout=1.5, queue_rows=2, max_rows=2, max_wait_ms=0)
    with running(slow, limits, root=artifacts) as server:
        yield server, server.service.served.predictor  # type: ignore[misc]
        slow.go.set()


def same(found: list[dict[str, Any]], expected: list[Answer]) -> None:
    """The same strings and labels, and likelihoods but for the rounding of other sums."""
    assert len(found) == len(expected)
    for own, answer in zip(found, expected, strict=True):
        assert (own["task"], own["label"], own["text"]) == (answer.task, answer.label, answer.text)
        if answer.scores is None:
            assert own["scores"] is None
        else:
            assert own["scores"] == pytest.approx(answer.scores, abs=1e-5)


def test_labels_are_words_whatever_the_trunk_writes(offline: Predictor) -> None:
    one = offline.prompts["mini_rte"]
    numeric = replace(one, text=replace(one.text, label_mode="numeric"))
    said = described(numeric)
    assert (said.labels, said.written) == (["entailment", "not_entailment"], ["0", "1"])
    row = {"sentence1": "a dog sleeps", "sentence2": "a dog rests"}
    answer = Predictor(offline.trunk, {"mini_rte": numeric}).predict(row, scores=True)
    assert answer.scores is not None and list(answer.scores) == said.labels


@pytest.mark.parametrize("scores", [False, True])
def test_answers_equal_those_offline_whatever_shares_their_batches(
    server: Running, offline: Predictor, scores: bool
) -> None:
    rows = mixed_rows(12)
    expected = offline.predict(rows, scores=scores)
    assert len({answer.text for answer in expected}) > 10
    chance, parts, at = random.Random(0), [], 0
    while at < len(rows):
        size = chance.choice((1, 1, 2, 5, 17))
        parts.append(slice(at, at + size))
        at += size
    chance.shuffle(parts)
    with ThreadPoolExecutor(8) as clients:
        asked = [{"rows": rows[part], "scores": scores} for part in parts]
        for part, answer in zip(parts, clients.map(server.post, asked), strict=True):
            assert answer.status_code == 200, answer.text
            assert answer.json()["milliseconds"] > 0
            same(answer.json()["answers"], expected[part])


def test_one_row_may_stand_alone_and_the_request_name_its_task(server: Running, offline: Predictor) -> None:
    answer = server.post({"rows": ROW, "task": "mini_sst2", "scores": True}).json()
    same(answer["answers"], [offline.predict(ROW, "mini_sst2", scores=True)])
    assert sum(answer["answers"][0]["scores"].values()) == pytest.approx(1)


def test_tasks_say_what_their_rows_and_labels_are(server: Running, artifacts: Path) -> None:
    found = ASK.get(f"{server.url}/v1/tasks").json()
    assert found["trunk"] == "mini" and len(found["tasks"]) == 8
    by_name = {task.pop("name"): task for task in found["tasks"]}
    where = str(artifacts / "mini")
    assert by_name["mini_rte"] == {
        "columns": ["sentence1", "sentence2"],
        "labels": ["entailment", "not_entailment"],
        "written": ["entailment", "not_entailment"],
        "prompt_length": 5,
        "where": where,
    }
    assert by_name["mini_stsb"]["labels"][:2] == ["0.0", "0.2"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"rows": [ROW, ROW], "task": "mini_sst"}, "row 1: unknown task 'mini_sst'. Did you mean 'mini_sst2'?"),
        ({"rows": [ROW | {"task": "mini_cola"}, ROW]}, "row 2: of which task is it?"),
        ({"rows": [ROW, {"sentence": "a"}], "task": "mini_sst2"}, "row 2: no column 'sentence1'"),
        ({"rows": [ROW, ROW, {"sentence1": " "}], "task": "mini_sst2"}, "row 3: column 'sentence1' is empty"),
        ({"rows": {"sentence1": None}, "task": "mini_sst2"}, "row 1: column 'sentence1' is missing"),
        ({"rows": {"sentence1": 3}, "task": "mini_sst2"}, "row 1: column 'sentence1' holds the number 3"),
        ({"rows": {"sentence1": "a\0b"}, "task": "mini_sst2"}, "row 1: column 'sentence1' holds a NUL character"),
        ({"rows": [ROW, {"sentence1": "a" * 20_001}], "task": "mini_sst2"}, "row 2: column 'sentence1' holds 20,001"),
        ({"rows": [ROW, "the film"], "task": "mini_sst2"}, "row 2: a row is a mapping"),
        ({"rows": [], "task": "mini_sst2"}, "rows is an object"),
        ({"rows": "the film", "task": "mini_sst2"}, "rows is an object"),
        ({"rows": [ROW] * 1025, "task": "mini_sst2"}, "rows are 1,025; a request has up to 1,024"),
        ({"rows": [ROW], "tasks": "mini_sst2"}, "tasks: Extra inputs are not permitted"),
        ({"rows": [ROW], "task": ["mini_sst2"]}, "task: Input should be a valid string"),
        ({"rows": [ROW], "task": "mini_sst2", "scores": 1}, "scores: Input should be a valid boolean"),
        ({"task": "mini_sst2"}, "rows: Field required"),
        ([ROW], "the body: "),
    ],
)
def test_wrong_rows_are_refused_by_their_numbers(server: Running, body: Any, said: str) -> None:
    answer = server.post(body)
    assert answer.status_code == 422 and list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith(said)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, b'{"rows": '),
        (400, b'{"rows": [{"sentence1": "caf\xe9"}], "task": "mini_sst2"}'),
        (400, b'{"rows": %b}' % (b"[" * 100_000)),
        (400, b'{"rows": 1%b}' % (b"0" * 5000)),
        (422, b""),
        (422, b"null"),
        (422, b'{"rows": {"sentence1": NaN}, "task": "mini_sst2"}'),
        (422, b'{"rows": {"sentence1": "\\ud800"}, "task": "mini_sst2"}'),
        (422, b'{"rows": {"\\ud800": 1}, "task": "mini_sst2"}'),
        (422, b'{"rows": {"task": "\\ud800"}}'),
        (422, b'{"rows": [], "\\ud800": 1}'),
    ],
)
def test_bodies_that_are_no_json_or_no_text_are_refused(server: Running, status: int, content: bytes) -> None:
    answer = ASK.post(f"{server.url}/v1/predict", content=content, headers=JSON)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and answer.json()["error"]


def test_other_paths_and_methods_are_refused_in_the_same_form(server: Running) -> None:
    for method, path, status in (("GET", "/v2", 404), ("GET", "/v1/predict", 405), ("POST", "/v1/tasks", 405)):
        answer = ASK.request(method, server.url + path)
        assert answer.status_code == status and list(answer.json()) == ["error"]
    form = ASK.post(f"{server.url}/v1/predict", content=b'{"rows": {}}', headers={"Content-Type": "text/plain"})
    assert form.status_code == 422


def test_tasks_come_and_go_while_requests_are_answered_by_what_they_were_accepted_with(
    held: tuple[Running, Held], offline: Predictor
) -> None:
    server, slow = held
    first = server.later({"rows": ROW, "task": "mini_sst2"})
    until(lambda: slow.batches)
    second = server.later({"rows": ROW, "task": "mini_sst2"})
    until(lambda: server.service.metrics.queue_rows._value.get() == 1)
    url = f"{server.url}/v1/tasks/mini_sst2"
    assert ASK.delete(url, headers=AS_ADMIN).status_code == 204
    assert ASK.delete(url, headers=AS_ADMIN).status_code == 404
    refused = server.post({"rows": ROW, "task": "mini_sst2"})
    assert refused.status_code == 422 and "unknown task 'mini_sst2'" in refused.json()["error"]
    slow.go.set()
    expected = [offline.predict(ROW, "mini_sst2")]
    for answer in (first(), second()):
        assert answer.status_code == 200
        same(answer.json()["answers"], expected)
    artifact = {"path": "mini"}
    put = ASK.put(url, json=artifact, headers=AS_ADMIN)
    assert put.status_code == 201 and put.json()["name"] == "mini_sst2"
    assert ASK.put(url, json=artifact, headers=AS_ADMIN).status_code == 200
    same(server.post({"rows": ROW, "task": "mini_sst2"}).json()["answers"], expected)


def test_what_waits_too_long_is_answered_by_504_and_forgotten(held: tuple[Running, Held]) -> None:
    server, slow = held
    answers = [server.later({"rows": ROW, "task": "mini_sst2"})]
    until(lambda: slow.batches)
    answers.append(server.later({"rows": ROW, "task": "mini_sst2"}))
    for answer in answers:
        assert answer().status_code == 504 and "--timeout" in answer().json()["error"]
    assert server.service.batcher.idle
    slow.go.set()
    assert server.post({"rows": ROW, "task": "mini_sst2"}).status_code == 200
    assert [len(batch) for batch in slow.batches] == [1, 1]  # the second never began


def test_a_full_queue_says_when_to_come_back(held: tuple[Running, Held]) -> None:
    server, slow = held
    first = server.later({"rows": ROW, "task": "mini_sst2"})
    until(lambda: slow.batches)
    second = server.later({"rows": [ROW, ROW], "task": "mini_sst2"})
    until(lambda: server.service.metrics.queue_rows._value.get() == 2)
    refused = server.post({"rows": ROW, "task": "mini_sst2"})
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
    slow.go.set()
    assert first().status_code == second().status_code == 200


def test_the_rows_of_a_client_that_goes_away_are_dropped(held: tuple[Running, Held]) -> None:
    server, slow = held
    first = server.later({"rows": ROW, "task": "mini_sst2"})
    until(lambda: slow.batches)
    host, port = server.url.removeprefix("http://").split(":")
    leaving = http.client.HTTPConnection(host, int(port))
    leaving.request("POST", "/v1/predict", json.dumps({"rows": ROW, "task": "mini_sst2"}), JSON)
    until(lambda: server.service.metrics.queue_rows._value.get() == 1)
    assert leaving.sock is not None
    leaving.sock.shutdown(socket.SHUT_RDWR)
    leaving.close()
    until(lambda: server.service.metrics.queue_rows._value.get() == 0, seconds=1)  # before its time is over
    slow.go.set()
    assert first().status_code == 200
    until(lambda: server.service.batcher.idle)
    time.sleep(0.05)
    assert len(slow.batches) == 1


def test_an_error_of_the_trunk_is_a_500_that_says_nothing_of_it(
    held: tuple[Running, Held], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server, slow = held
    slow.go.set()
    monkeypatch.setattr(slow, "answer", lambda *rows, **how: 1 / 0)
    failed = server.post({"rows": ROW, "task": "mini_sst2"})
    assert failed.status_code == 500 and failed.json() == {"error": "an error of the server; its log has more"}
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert server.post({"rows": ROW, "task": "mini_sst2"}).status_code == 200


def test_a_server_that_is_being_stopped_answers_what_it_holds_and_refuses_more(held: tuple[Running, Held]) -> None:
    server, slow = held
    answers = [server.later({"rows": ROW, "task": "mini_sst2"})]
    until(lambda: slow.batches)
    answers.append(server.later({"rows": ROW, "task": "mini_sst2"}))
    until(lambda: server.service.metrics.queue_rows._value.get() == 1)
    server.server.handle_exit(15, None)
    until(lambda: server.service.batcher.stopping)
    refused = server.post({"rows": ROW, "task": "mini_sst2"})
    assert refused.status_code == 503 and "being stopped" in refused.json()["error"]
    unready = ASK.get(f"{server.url}/readyz")
    assert unready.status_code == 503
    assert refused.headers["Retry-After"] == unready.headers["Retry-After"] == "1"
    assert ASK.get(f"{server.url}/healthz").status_code == 200
    slow.go.set()
    assert [answer().status_code for answer in answers] == [200, 200]
    server.thread.join(10)
    assert not server.thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        server.post({"rows": ROW})


def test_the_description_names_every_path_and_the_token(server: Running) -> None:
    found = ASK.get(f"{server.url}/openapi.json").json()
    assert set(found["paths"]) == {
        *("/v1/predict", "/v1/tasks", "/v1/tasks/{name}", "/healthz", "/readyz", "/metrics"),
    }
    assert found["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
    assert "swagger" in ASK.get(f"{server.url}/docs").text
    assert ADMIN not in json.dumps(found)
