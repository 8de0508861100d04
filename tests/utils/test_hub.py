"""A hub that does not answer is told at once, and what is cached is taken without it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import datasets
import pytest
from huggingface_hub import constants

from compt_fast import train
from compt_fast.tasks.loaders import load_task
from compt_fast.tasks.table import TASKS
from compt_fast.utils import hub
from tests.helpers.jobs import error_of


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As without HF_HUB_OFFLINE, and nothing asked yet."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    hub.unreachable.cache_clear()
    yield monkeypatch
    hub.unreachable.cache_clear()


def test_a_hub_that_refuses(online: pytest.MonkeyPatch) -> None:
    with hub.asked() as why:
        assert why.startswith("http://127.0.0.1:9 cannot be reached (")
        assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_a_hub_that_never_answers(online: pytest.MonkeyPatch) -> None:
    online.setattr(hub, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.perf_counter()
        assert hub.unreachable()
        assert time.perf_counter() - began < 2


def test_a_hub_that_answers(online: pytest.MonkeyPatch) -> None:
    online.setattr(hub, "_ask", lambda endpoint: "")
    with hub.asked() as why:
        assert why == "" and not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_set_offline_it_is_not_asked(online: pytest.MonkeyPatch) -> None:
    online.setattr(constants, "HF_HUB_OFFLINE", True)
    online.setattr(hub, "_ask", lambda endpoint: pytest.fail("asked"))
    assert hub.unreachable() == "HF_HUB_OFFLINE is set"


def test_rows_and_trunk_out_of_reach_are_told_within_seconds(
    online: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match="rte: cannot read .* cannot be reached .* no copy is cached; .*--data-root"):
        load_task(TASKS["rte"])
    said = error_of(capsys, train.main, ["--tasks=mini_rte", "--model=nobody/nothing"])
    assert "trunk 'nobody/nothing'" in said and "cannot be reached" in said and "a checkpoint's folder" in said
    assert time.perf_counter() - began < 10
