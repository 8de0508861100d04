"""Adapters for PEFT: what it answers with them, what a card says, and the way back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import compt_fast
from compt_fast.exports import write_export
from compt_fast.exports.peft import copy_checkpoint
from compt_fast.prediction.predictor import Predictor
from compt_fast.prediction.stored import stored_prompt
from compt_fast.prompts.artifact import TrunkId
from compt_fast.prompts.foreign import read_exported
from compt_fast.prompts.store import PromptStore, StoredPrompt
from compt_fast.tasks.table import TASKS
from compt_fast.utils.errors import InputError
from tests.helpers.exported import Answers, Rows, compared, made_predictor
from tests.helpers.tiny_t5 import make_t5


def test_peft_writes_the_same_strings(adapters: Path, predictor: Predictor, rows: Rows, answers: Answers) -> None:
    pytest.importorskip("peft", reason="needs the extra bench: pip install -e '.[bench]'")
    assert compared(predictor, rows, "peft", adapters) == answers


def test_one_adapter_answers_batches_of_all_tasks(
    adapters: Path, predictor: Predictor, rows: Rows, answers: Answers
) -> None:
    pytest.importorskip("peft", reason="needs the extra bench: pip install -e '.[bench]'")
    assert compared(predictor, rows, "peft, tasks mixed", adapters) == answers


def test_prompts_of_several_lengths_make_no_adapter_of_all(tiny_t5: Path, tmp_path: Path) -> None:
    store = PromptStore(tmp_path / "store")
    for k, task in enumerate(("rte", "qqp")):
        store.add(StoredPrompt(task, task, TrunkId(str(tiny_t5)), torch.randn(2 + k, 32), definition=TASKS[task]))
    write_export(compt_fast.load(store.folder), "peft", tmp_path / "out")
    assert not (tmp_path / "out" / "all").exists() and "`all/`" not in (tmp_path / "out" / "README.md").read_text()


def test_a_card_has_what_the_hub_reads(adapters: Path, run: Path) -> None:
    card = ModelCard.load(adapters / "mini_rte" / "README.md")
    assert card.data.library_name == "peft" and "soft-prompt" in card.data.tags
    assert card.data.base_model is None  # the trunk is on no hub, and lies beside
    (result,) = card.data.eval_results
    (stored,) = [entry for entry in read_exported(adapters) if entry.task == "mini_rte"]
    assert stored.score is not None and (result.dataset_name, result.metric_type) == ("mini_rte", "accuracy")
    assert result.metric_value == round(stored.score["value"], 2)
    for text in ("`rte: sentence1: {sentence1} sentence2: {sentence2}`", "`entailment`, `not_entailment`", "pt-joint"):
        assert text in card.text
    whole = ModelCard.load(adapters / "README.md")
    assert len(whole.data.eval_results) == whole.text.count("| mini_") == len(read_exported(adapters))


def test_a_trunk_of_the_hub_is_named_and_not_copied(tiny_t5: Path, tmp_path: Path) -> None:
    predictor = made_predictor(tiny_t5, tmp_path / "store")
    predictor.trunk.name = "google-t5/t5-small"
    write_export(predictor, "peft", tmp_path / "out")
    assert not (tmp_path / "out" / "trunk").exists()
    config = json.loads((tmp_path / "out" / "rte" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "google-t5/t5-small"
    card = ModelCard.load(tmp_path / "out" / "rte" / "README.md")
    assert card.data.base_model == "google-t5/t5-small" and card.data.datasets == ["nyu-mll/glue"]


def test_a_copied_trunk_has_all_files_of_its_tokenizer(tiny_t5: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_t5, tmp_path / "source"))
    for name in ("vocab.json", "merges.txt", "notes.txt"):
        (source / name).write_text(name)
    copy_checkpoint(source, tmp_path / "trunk")
    copied = {path.name for path in (tmp_path / "trunk").iterdir()}
    assert copied == {path.name for path in source.iterdir()} - {"notes.txt"}


def test_all_of_it_comes_back(adapters: Path, predictor: Predictor, rows: Rows, answers: Answers) -> None:
    """Without a word on which task or which trunk."""
    back = compt_fast.load(adapters)
    for task, one in predictor.prompts.items():
        assert back.tasks[task] == one.task and back.prompts[task].text == one.text
        values = back.prompts[task].prompts.tensors["targets"][0]
        assert torch.equal(values, one.prompts.tensors["targets"][one.index])
    assert [answer.text for answer in back.predict(rows["mini_rte"], "mini_rte")] == answers["mini_rte"]
    alone = compt_fast.load(adapters / "mini_rte")
    assert list(alone.prompts) == ["mini_rte"]


def test_where_the_trunk_is_not_its_copy_takes_its_place(tmp_path: Path) -> None:
    trunk = make_t5(tmp_path / "trunk")
    predictor = made_predictor(trunk, tmp_path / "store")
    write_export(predictor, "peft", tmp_path / "out")
    trunk.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="trunk'.*no such folder"):
        compt_fast.load(tmp_path / "out")
    row = {"sentence1": "a man reads", "sentence2": "he reads"}
    again = compt_fast.load(tmp_path / "out", model=str(tmp_path / "out" / "trunk"))
    assert again.predict(row) == predictor.predict(row)


def test_values_that_somebody_changed_are_not_taken_for_those_of_the_manifest(adapters: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in (adapters / "mini_rte").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    file = folder / "adapter_model.safetensors"
    save_file({name: values + 1 for name, values in load_file(file).items()}, file)
    with pytest.raises(InputError, match="its values are not those its manifest was written for"):
        read_exported(folder)
    (folder / "manifest.json").unlink()  # then it is another program's
    assert read_exported(folder) == []


def test_what_peft_cannot_hold(tiny_t5: Path, tmp_path: Path) -> None:
    behind = made_predictor(tiny_t5, tmp_path / "a", prompt_position="append")
    with pytest.raises(InputError, match="PEFT puts a prompt before the text, and these stand behind it"):
        write_export(behind, "peft", tmp_path / "out")
    for task in ("trunk", "all"):
        with pytest.raises(InputError, match=f"a task is called {task}"):
            write_export(made_predictor(tiny_t5, tmp_path / task, task=task), "peft", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_an_entry_of_the_store_keeps_its_name(tiny_t5: Path, tmp_path: Path) -> None:
    predictor = made_predictor(tiny_t5, tmp_path / "store")
    (entry,) = (stored_prompt(one) for one in predictor.prompts.values())
    assert [entry.name] == PromptStore(tmp_path / "store").names()
