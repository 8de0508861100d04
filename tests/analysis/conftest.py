"""A report over made-up runs that has every section."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib", reason="a report needs the extra 'plot'")
pytest.importorskip("jinja2", reason="a report needs the extra 'plot'")

from compt_fast.config.run import RunConfig
from compt_fast.prompts.artifact import TrunkId
from compt_fast.prompts.store import PromptStore, StoredPrompt
from compt_fast.report import main
from compt_fast.search.record import NAME
from tests.helpers.made_runs import made_run
from tests.helpers.made_searches import made_search

TASKS = "mini_rte,mini_mnli,mini_stsb"


def odds(config: RunConfig, task: str) -> float:
    """Better with shots, sources and learned weights, so that the sentences have something to say."""
    lead = {"spp": 0.1, "pt-joint": 0.0, "sl": -0.1}.get(config.method, 0.05)
    return 0.4 + lead + 0.01 * (config.shots or 0) + 0.02 * config.sources + 0.05 * (config.router == "direct")


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Run folders and a store that between them allow every section."""
    top = tmp_path_factory.mktemp("runs")
    few = {"tasks": TASKS, "seeds": "0,1", "prompt_length": "2", "encoder": "linear"}
    small = few | {"shots": "16", "method": "spp", "sources": "2"}
    made_run(top / "base", odds, **(few | {"method": "spp,pt-joint,sl", "sources": "1,2", "shots": "8,16"}))
    (top / "base" / NAME).write_text(json.dumps(made_search().to_json()))
    made_run(top / "fixed", odds, **(small | {"gates": "fixed", "shots": "8,16"}))
    made_run(top / "constant", odds, **(small | {"router": "constant"}))
    made_run(top / "bare", odds, **small, prefix=False)  # type: ignore[arg-type]
    made_run(top / "numbers", odds, **(small | {"label_mode": "numeric"}))
    made_run(top / "more", odds, **(small | {"include": "mini_sst2"}))
    rates = {"method": "slp", "shots": "16", "lr_source": "0.1,0.2", "lr_private": "0.05,0.1"}
    made_run(top / "rates", odds, **(few | rates))
    store = PromptStore(top / "prompts-of-others")
    for k, name in enumerate(("near", "far", "away")):
        values = torch.randn(3 + k, 8, generator=torch.Generator().manual_seed(k))
        store.add(StoredPrompt(name, "rte", TrunkId("t5-tiny"), values))
    return [*(top / name for name in ("base", "fixed", "constant", "bare", "numbers", "more", "rates")), store.folder]


@pytest.fixture(scope="session")
def whole(every_kind: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with every section."""
    out = tmp_path_factory.mktemp("report")
    assert main([*map(str, every_kind), "-o", str(out), "--no-masking"]) == 0
    return out
