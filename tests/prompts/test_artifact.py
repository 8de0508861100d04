"""Stored prompts: the same bits back, and refused when they do not fit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compt_fast.evaluation.evaluator import prompts_for
from compt_fast.models.batch import make_batch
from compt_fast.prompts.artifact import (
    About,
    RunPrompts,
    TextFormat,
    TrunkId,
    check_trunk,
    load_prompts,
    save_prompts,
)
from compt_fast.prompts.compose import compose, compose_rows
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
from compt_fast.prompts.tensors import sha256_of
from compt_fast.runs.job import Job
from compt_fast.tasks.table import TASKS
from compt_fast.tasks.user import definition
from compt_fast.utils.errors import InputError
from tests.helpers import jobs

ABOUT = About(
    "run",
    "r",
    ("rte", "stsb"),
    TrunkId("tiny", "abc", "fp32"),
    TextFormat(True, "prepend", 64, "synthetic"),
    {name: TASKS[name] for name in ("rte", "stsb")},
    ("rte", "mine", "cola"),
    {"config": {"method": "spp"}},
)


def made(gates: str = "learned", composition: str = "spp") -> tuple[RunPrompts, PromptBank]:
    shape = PromptShape(composition, 2, 3, True, 2, 32, gates=gates)
    bank = PromptBank.create(shape, [4])
    with torch.no_grad():
        for p in bank.params.values():
            p.add_(torch.randn_like(p) * 0.1)
    return RunPrompts.of(shape, compose(bank.params, shape), bank.params), bank


@pytest.mark.parametrize("gates", ["fixed", "learned", "tied", "input"])
def test_the_same_bits_come_back(gates: str, tmp_path: Path) -> None:
    prompts, _ = made(gates)
    save_prompts(tmp_path / "r", prompts, ABOUT)
    loaded, about = load_prompts(tmp_path / "r")
    assert loaded.shape == prompts.shape
    assert loaded.tensors.keys() == prompts.tensors.keys()
    assert all(torch.equal(loaded.tensors[n], t) for n, t in prompts.tensors.items())
    assert ("targets" in loaded.tensors) == (gates != "input")
    assert replace(about, created="") == ABOUT and about.created
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["shape"]["d_model"] == manifest["trunk"]["d_model"] == 32 and manifest["format"] == 2
    assert manifest["tensors"]["sources"] == [3, 2, 32] and manifest["sha256"] == sha256_of(prompts.tensors)


def test_a_manifest_says_what_is_read_and_written(tmp_path: Path) -> None:
    """Without knowing any of our tasks or rules."""
    save_prompts(tmp_path / "r", made()[0], ABOUT)
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    rte, stsb = (manifest["definitions"][name] for name in manifest["tasks"])
    assert rte["input"] == "rte: sentence1: {sentence1} sentence2: {sentence2}"
    assert rte["label_texts"] == ["F0", "F1"] and rte["labels"] == ["entailment", "not_entailment"]
    assert stsb["label_texts"][:3] == ["0.0", "0.2", "0.4"] and stsb["metric"] == ["spearman", "pearson"]
    text = {"prefix": True, "prompt_position": "prepend", "max_source_length": 64, "label_mode": "synthetic"}
    assert manifest["text"] == text


def test_the_hash_is_of_the_bytes_in_the_order_of_names() -> None:
    one, other = torch.tensor([1.0, 2.0]), torch.tensor(3.0)
    bytes_of = [t.numpy().tobytes() for t in (other, one)]
    assert sha256_of({"b": one, "a": other}) == hashlib.sha256(b"".join(bytes_of)).hexdigest()


def test_prompts_are_copies(tmp_path: Path) -> None:
    prompts, bank = made("fixed")
    before = {name: t.clone() for name, t in prompts.tensors.items()}
    with torch.no_grad():
        for p in bank.params.values():
            p.zero_()
    assert all(torch.equal(prompts.tensors[name], t) for name, t in before.items())


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys))


def test_targets_are_composed_once_a_slot_but_for_input_gates(job: Job) -> None:
    batch = make_batch([[5, 6, 1], [7, 1], [8, 9, 10, 1]], None, [1, 0, 1])
    prompts, _ = made("learned")
    targets, same = prompts_for(prompts, job.trunk, batch)
    assert same is batch and torch.equal(targets.flat, prompts.tensors["targets"].flatten(0, 1))
    prompts, bank = made("input")
    targets, own = prompts_for(prompts, job.trunk, batch)
    assert own.slots.tolist() == [0, 1, 2]
    texts = job.trunk.texts(batch)
    runs = torch.zeros(3, dtype=torch.int64)
    composed = compose(bank.params, prompts.shape)
    rows = compose_rows(composed, bank.params, prompts.shape, runs, batch.slots, texts)
    torch.testing.assert_close(targets.flat, rows.detach().flatten(0, 1))


@pytest.mark.parametrize("composition", ["spp", "scp", "inside"])
@pytest.mark.parametrize("how", ["before", "after"])
def test_masked_prompts_are_composed_as_from_the_parameters(composition: str, how: str) -> None:
    prompts, bank = made("learned" if composition != "inside" else "fixed", composition)
    for mask in (Mask((True, False, True), how=how), Mask((False,) * 3, how=how), Mask((True,) * 3, False, how)):
        masked = prompts.masked(mask)
        expected = compose(bank.params, prompts.shape, mask=mask)
        for part in ("targets", "sources", "privates", "weights"):
            torch.testing.assert_close(masked.tensors[part], getattr(expected, part)[0].detach())
        assert masked.shape == prompts.shape and masked.tensors.keys() == prompts.tensors.keys()
    whole = prompts.masked(Mask((True,) * 3))
    assert torch.equal(whole.tensors["targets"], prompts.tensors["targets"])
    with pytest.raises(InputError, match="2 source prompts, but there are 3"):
        prompts.masked(Mask((True, True)))


def test_masks_and_gates_of_each_row(job: Job) -> None:
    prompts, bank = made("input")
    batch = make_batch([[5, 6, 1], [7, 1]], None, [1, 0])
    mask = Mask((True, False, False), private=False)
    rows, _ = prompts_for(prompts.masked(mask), job.trunk, batch)
    composed = compose(bank.params, prompts.shape, mask=mask)
    runs, texts = torch.zeros(2, dtype=torch.int64), job.trunk.texts(batch)
    expected = compose_rows(composed, bank.params, prompts.shape, runs, batch.slots, texts)
    torch.testing.assert_close(rows.flat, expected.detach().flatten(0, 1))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for key, value in changes.items():
        if isinstance(value, dict):
            manifest[key] |= value
        else:
            manifest[key] = value
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensors": {"targets": [2, 2, 31]}}, r"prompts\.safetensors: holds .*but its manifest"),
        ({"tensors": {"more": [1]}}, "but its manifest says"),
        ({"shape": {"tasks": 3}}, r"manifest\.json: tasks are 2, but its shape has 3"),
        ({"shape": {"length": 4}}, "its shape does not go with its tensors"),
        ({"shape": {"d_model": 64}}, "trunk: d_model must be that of its shape, 64"),
        ({"shape": {"gates": "input"}}, "its shape does not go with its tensors"),
        ({"shape": {"composition": "ssp"}}, "manifest.json: shape: .*Did you mean 'spp'"),
        ({"shape": {"width": 4}}, "unknown key in .*manifest.json: shape: 'width'"),
        ({"shape": 3}, "manifest.json: shape must be an object"),
        ({"tensors": []}, "manifest.json: tensors must be an object"),
        ({"format": 3}, "stored prompts of format 3, not 2"),
        ({"kind": "prompt"}, "stored prompts of the kind 'prompt', not 'run'"),
        ({"tasks": ["rte"]}, "tasks are 1, but its shape has 2"),
        ({"tasks": ["rte", "../b"]}, "no name of a task, in .*manifest.json: tasks"),
        ({"source_tasks": [3]}, "source_tasks: a name must be a text"),
        ({"source_tasks": ["rte", "cola"]}, "source_tasks are 2, but its shape has 3 sources"),
        ({"trunk": {"d_model": 64}}, "trunk: d_model must be that of its shape, 32"),
        ({"trunk": {"width": 64}}, "unknown key in .*manifest.json: trunk: 'width'"),
        ({"text": {"label_mode": "own"}}, "manifest.json: text: unknown label_mode 'own'"),
        ({"text": {"prompt_position": "after"}}, "text: unknown prompt_position 'after'"),
        ({"text": {"max_source_length": 0}}, "text: max_source_length is 0; it must be at least 1"),
        ({"text": {"prefix": False}}, r"definitions: rte: input is 'rte: .*but by its other keys it is 'sentence1: "),
        ({"text": {"label_mode": "numeric"}}, "definitions: rte: label_texts is .*but by its other keys"),
        ({"definitions": {"rte": 3}}, "definitions: rte must be an object"),
        ({"definitions": {"cola": definition(TASKS["cola"])}}, "definitions: cola: input is None"),
        ({"sha256": "0" * 64}, r"prompts.safetensors: its values are not those its manifest was written for"),
        ({"sha256": None}, "sha256 must be a text, not None"),
    ],
)
def test_an_edited_manifest_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_prompts(tmp_path / "r", made()[0], ABOUT)
    edit(tmp_path / "r", **changes)
    with pytest.raises(InputError, match=message):
        load_prompts(tmp_path / "r")


def test_a_parameter_that_rows_are_composed_with_cannot_be_missing(tmp_path: Path) -> None:
    prompts, _ = made("input")
    lost = next(name for name in prompts.tensors if name.startswith("param."))
    left = {name: t for name, t in prompts.tensors.items() if name != lost}
    save_prompts(tmp_path / "r", replace(prompts, tensors=left), ABOUT)
    with pytest.raises(InputError, match=rf"its shape does not go with its tensors \({lost}\)"):
        load_prompts(tmp_path / "r")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    save_prompts(folder, made()[0], ABOUT)
    whole = (folder / "prompts.safetensors").read_bytes()
    for content in (b"", whole[:50], whole[:-4]):
        (folder / "prompts.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"prompts\.safetensors: cannot be read"):
            load_prompts(folder)
    save_file({"targets": torch.zeros(2, 2, 32)}, folder / "prompts.safetensors")
    with pytest.raises(InputError, match="holds .*, but its manifest says"):
        load_prompts(folder)
    save_file({name: t.double() for name, t in made()[0].tensors.items()}, folder / "prompts.safetensors")
    with pytest.raises(InputError, match=r"prompts\.safetensors: .* is of torch.float64; prompts are of torch.float32"):
        load_prompts(folder)
    (folder / "prompts.safetensors").unlink()
    with pytest.raises(InputError, match=r"prompts\.safetensors: cannot be read"):
        load_prompts(folder)
    for text, message in (("{", "not well-formed"), ("[]", "not a manifest"), ("{}", "not a manifest")):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=rf"manifest\.json: {message}"):
            load_prompts(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json: no such file"):
        load_prompts(folder)


def test_prompts_of_another_trunk() -> None:
    own, here = TrunkId("t5-base", "abc"), TrunkId("mini", "0123")
    with pytest.raises(InputError, match="^r: its d_model 768 does not fit trunk mini of d_model 32; .* t5-base"):
        check_trunk("r", own, 768, here, 32)
    with pytest.raises(InputError, match=r"^r belongs to trunk t5-base \(sha256 abc\), not to mini \(sha256 0123\)"):
        check_trunk("r", own, 32, here, 32)
    with pytest.raises(InputError, match="^r is said to belong to trunk t5-base .* add it again with --model mini"):
        check_trunk("r", TrunkId("t5-base"), 32, here, 32)
    check_trunk("r", TrunkId("mini"), 32, here, 32)
    check_trunk("r", replace(own, sha256="0123"), 32, here, 32)


def test_texts_agree_as_far_as_they_are_known() -> None:
    text = TextFormat(True, "prepend", 64, "natural")
    assert text.agrees(text) and text.agrees(TextFormat()) and TextFormat().agrees(text)
    assert text.agrees(replace(text, max_source_length=32))
    for changes in ({"prefix": False}, {"prompt_position": "append"}, {"label_mode": "numeric"}):
        assert not text.agrees(replace(text, **changes)) and not replace(text, **changes).agrees(text)
