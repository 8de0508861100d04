"""What a server counts of what it was asked."""

from __future__ import annotations

import pytest

from compt_fast.prediction.predictor import Predictor
from compt_fast.serving.limits import Limits
from tests.helpers.serving import ASK, running

ROW = {"sentence1": "the film was a joy"}


def test_metrics_count_what_was_answered(offline: Predictor) -> None:
    with running(offline, Limits(batch_tokens=1000)) as server:
        assert ASK.get(f"{server.url}/readyz").json() == {"status": "ready"}
        assert server.post({"rows": [ROW] * 3, "task": "mini_sst2"}).status_code == 200
        assert server.post({"rows": [ROW] * 3}).status_code == 422
        ASK.request("BREW", f"{server.url}/coffee")
        lines = ASK.get(f"{server.url}/metrics").text.splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    for status, count in (("200", 1), ("422", 1)):
        key = f'compt_fast_requests_total{{method="POST",path="/v1/predict",status="{status}"}}'
        assert float(found[key]) == count
    assert 'compt_fast_requests_total{method="other",path="other",status="401"}' in found
    row = len(offline.trunk.tokenizer("sst2: sentence1: the film was a joy")["input_ids"])
    assert float(found["compt_fast_tokens_total"]) == pytest.approx(3 * (5 + row), abs=6)
    assert float(found["compt_fast_rows_total"]) == 3
    assert float(found["compt_fast_batch_fill_count"]) == float(found["compt_fast_batch_seconds_count"]) == 1
    assert float(found["compt_fast_batch_fill_sum"]) == float(found["compt_fast_tokens_total"]) / 1000
    assert float(found["compt_fast_queue_rows"]) == 0
    assert float(found['compt_fast_request_seconds_count{path="/v1/predict"}']) == 2
