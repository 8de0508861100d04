"""From what a predictor answers with to entries of a store."""

from __future__ import annotations

from pathlib import Path

import torch

import compt_fast
from compt_fast.prediction.stored import longest_label, stored_prompt
from compt_fast.prompts.artifact import About, RunPrompts, TextFormat, TrunkId, save_prompts
from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.shape import PromptShape
from compt_fast.tasks.table import TASKS
from tests.helpers.exported import made_predictor
from tests.helpers.foreign import peft_adapter


def test_an_entry_of_a_store_is_itself(tiny_t5: Path, tmp_path: Path) -> None:
    predictor = made_predictor(tiny_t5, tmp_path / "store", label_mode="synthetic")
    entry = stored_prompt(predictor.prompts["rte"])
    assert entry.name == "mine" and entry.trunk == TrunkId(str(tiny_t5))
    assert entry.text == TextFormat(True, "prepend", 256, "synthetic")  # what was not said is the usual


def test_a_task_of_a_run_is_named_as_the_store_would(tiny_t5: Path, tmp_path: Path) -> None:
    """And what the run's manifest lacks is filled in."""
    shape = PromptShape("spp", 2, 2, True, 3, 32)
    bank = PromptBank.create(shape, [4])
    prompts = RunPrompts.of(shape, compose(bank.params, shape), bank.params)
    about = About(
        "run", "r", ("rte", "stsb"), TrunkId(str(tiny_t5)), TextFormat(False), training={"config": {"shots": 4}}
    )
    save_prompts(tmp_path / "r", prompts, about)
    entry = stored_prompt(compt_fast.load(tmp_path / "r").prompts["stsb"])
    assert (entry.name, entry.task, entry.definition) == ("stsb-m3-no-prefix", "stsb", TASKS["stsb"])
    assert torch.equal(entry.values, prompts.tensors["targets"][1])
    assert entry.training == {"run": "r", "config": {"shots": 4}} and entry.score is None


def test_an_adapter_of_another_program(tiny_t5: Path, tmp_path: Path) -> None:
    values = torch.randn(4, 32)
    folder = peft_adapter(tmp_path / "adapter", values, base_model_name_or_path=str(tiny_t5))
    entry = stored_prompt(compt_fast.load(folder, task="rte").prompts["rte"])
    assert entry.name == "rte-m4" and torch.equal(entry.values, values) and entry.definition == TASKS["rte"]


def test_as_many_tokens_as_the_longest_label_takes(tiny_t5: Path, tmp_path: Path) -> None:
    predictor = made_predictor(tiny_t5, tmp_path / "store")
    texts = [predictor.trunk.tokenizer(label)["input_ids"] for label in TASKS["rte"].labels]
    assert longest_label(predictor) == max(map(len, texts))
