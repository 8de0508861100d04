"""The load test's clients, against a server in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bench_serve
from compt_fast.prediction.predictor import load
from tests.helpers.serving import make_prompts, running


def test_clients_ask_all_rows_and_are_timed_from_when_a_request_was_due(tmp_path: Path) -> None:
    offline = load(make_prompts(tmp_path / "prompts"))
    asked = bench_serve.mixed("mini", tmp_path, 3)
    assert [row["task"] for row in asked] == [*offline.tasks] * 3
    with running(offline) as server:
        port = int(server.url.rpartition(":")[2])
        assert bench_serve.strings(port, asked) == [answer.text for answer in offline.predict(asked)]
        assert bench_serve.throughput(port, asked, 4, 0.5) > 1
        took = bench_serve.latencies(port, asked, 4, 40.0, 0.5)
        assert 5 < len(took) < 60 and (took > 0).all()
        # Twice what one client can get: each request waits for those before it, and that counts.
        one = bench_serve.throughput(port, asked, 1, 0.5)
        late = bench_serve.latencies(port, asked, 1, 2 * one, 1.0)
        assert late[len(late) // 2 :].mean() > 2 / one


def test_an_error_of_a_client_is_one_of_the_measurement(tmp_path: Path) -> None:
    with running(load(make_prompts(tmp_path / "prompts", ["mini_rte"]))) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(RuntimeError, match="422: row 1: unknown task 'mini_sst2'"):
            bench_serve.throughput(port, [{"task": "mini_sst2", "sentence1": "a"}], 2, 0.2)


def test_what_cannot_run_here_is_left_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else object())
    monkeypatch.setattr("compt_fast.exports.EXPORTS", {})
    names = ["fast fp32", "peft fp32", "ctranslate2 int8"]
    assert bench_serve.available(names) == ["fast fp32"]
    said = capsys.readouterr().out
    assert "peft is not installed" in said and "there is no export `vocabulary`" in said
