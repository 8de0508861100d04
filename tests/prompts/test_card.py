"""What a model card says of prompts."""

from __future__ import annotations

from dataclasses import replace

import torch
import yaml

from compt_fast.prompts import card
from compt_fast.prompts.artifact import TextFormat, TrunkId
from compt_fast.prompts.store import StoredPrompt
from compt_fast.tasks.table import TASKS

ENTRY = StoredPrompt(
    "rte-m3",
    "rte",
    TrunkId("google-t5/t5-base", "ab" * 32, "bf16"),
    torch.zeros(3, 4),
    score={"metric": "accuracy", "value": 61.256},
    training={"run": "spp-k16-s2", "config": {"method": "spp", "shots": 16, "steps": None, "seed": 2}},
    text=TextFormat(True, "prepend", 128, "natural"),
    definition=TASKS["rte"],
)


def head(*entries: StoredPrompt, trunk: str | None = "google-t5/t5-base") -> dict[str, object]:
    text = card.metadata(entries, "peft", trunk, "Mine")
    assert text.startswith("---\n") and text.endswith("\n---\n")
    found: dict[str, object] = yaml.safe_load(text.strip("-\n"))
    return found


def test_the_head_is_what_the_hub_reads() -> None:
    found = head(ENTRY)
    assert found["library_name"] == "peft" and found["base_model"] == "google-t5/t5-base"
    assert found["datasets"] == ["nyu-mll/glue"] and "prompt-tuning" in found["tags"]  # type: ignore[operator]
    (model,) = found["model-index"]  # type: ignore[misc]
    (result,) = model["results"]
    assert result["dataset"] == {"name": "rte", "type": "nyu-mll/glue"}
    assert result["metrics"] == [{"type": "accuracy", "value": 61.26}]


def test_without_a_score_or_a_trunk_on_the_hub_none_is_made_up() -> None:
    found = head(replace(ENTRY, score=None, definition=TASKS["mini_rte"]), trunk=None)
    assert not {"model-index", "base_model", "datasets"} & found.keys()


def test_all_that_is_known_of_a_prompt() -> None:
    text = card.about(ENTRY)
    for said in (
        "3 tokens of width 4",
        f"`google-t5/t5-base`, SHA-256 of its weights in bf16 `{'ab' * 32}`",
        "`rte: sentence1: {sentence1} sentence2: {sentence2}`, of up to 128 tokens",
        "`entailment`, `not_entailment`",
        "`nyu-mll/glue`, `rte`",
        "61.3 % accuracy",
        "method spp, shots 16, seed 2, run spp-k16-s2",
    ):
        assert said in text
    other = replace(ENTRY, score=None, training={}, definition=TASKS["mini_stsb"], task="mini_stsb")
    text = card.about(other)
    for said in ("a number, `0.0`, `0.2` ... `5.0`", "rows that compt_fast makes", "not known", "elsewhere"):
        assert said in text


def test_a_table_has_a_line_a_task() -> None:
    task = replace(TASKS["rte"], labels=("a|b", "c"))
    assert "| writes | `a\\|b`, `c` |" in card.about(replace(ENTRY, definition=task))
    lines = card.table([ENTRY], ["<rte_0>...<rte_2> rte:"]).splitlines()
    assert lines[2] == "| rte | `<rte_0>...<rte_2> rte:` | `entailment`, `not_entailment` | 3 | 61.3 % accuracy |"
