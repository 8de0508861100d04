"""Stored prompts: the same bits back, and refused when they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compt_fast.evaluation.evaluator import target_prompts
from compt_fast.models.batch import make_batch
from compt_fast.prompts.artifact import RunPrompts, TrunkId, check_trunk, load_prompts, save_prompts
from compt_fast.prompts.compose import Mask, compose, compose_rows
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.shape import PromptShape
from compt_fast.runs.job import Job
from compt_fast.utils.errors import InputError
from tests.helpers import jobs

ABOUT = {"run": "r", "tasks": ["a", "b"], "trunk": "tiny", "trunk_hash": "abc"}


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
    loaded, manifest = load_prompts(tmp_path / "r")
    assert loaded.shape == prompts.shape
    assert loaded.tensors.keys() == prompts.tensors.keys()
    assert all(torch.equal(loaded.tensors[n], t) for n, t in prompts.tensors.items())
    assert ("targets" in loaded.tensors) == (gates != "input")
    assert {key: manifest[key] for key in ABOUT} == ABOUT
    assert manifest["shape"]["d_model"] == 32 and manifest["format"] == 1
    assert manifest["tensors"]["sources"] == [3, 2, 32]


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
    targets, same = target_prompts(prompts, job.trunk, batch)
    assert same is batch and torch.equal(targets.flat, prompts.tensors["targets"].flatten(0, 1))
    prompts, bank = made("input")
    targets, own = target_prompts(prompts, job.trunk, batch)
    assert own.slots.tolist() == [0, 1, 2]
    means = job.trunk.mean_embeddings(batch)
    runs = torch.zeros(3, dtype=torch.int64)
    composed = compose(bank.params, prompts.shape)
    rows = compose_rows(composed, bank.params, prompts.shape, runs, batch.slots, means)
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
    rows, _ = target_prompts(prompts.masked(mask), job.trunk, batch)
    composed = compose(bank.params, prompts.shape, mask=mask)
    runs, means = torch.zeros(2, dtype=torch.int64), job.trunk.mean_embeddings(batch)
    expected = compose_rows(composed, bank.params, prompts.shape, runs, batch.slots, means)
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
        ({"shape": {"tasks": 3}}, r"manifest\.json: its shape does not go with its tensors"),
        ({"shape": {"length": 4}}, "its shape does not go with its tensors"),
        ({"shape": {"d_model": 64}}, "its shape does not go with its tensors"),
        ({"shape": {"gates": "input"}}, "its shape does not go with its tensors"),
        ({"shape": {"composition": "ssp"}}, "manifest.json: shape: .*Did you mean 'spp'"),
        ({"shape": {"width": 4}}, "unknown key in .*manifest.json: shape: 'width'"),
        ({"shape": 3}, "not a manifest of stored prompts"),
        ({"tensors": []}, "not a manifest of stored prompts"),
    ],
)
def test_an_edited_manifest_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_prompts(tmp_path / "r", made()[0], ABOUT)
    edit(tmp_path / "r", **changes)
    with pytest.raises(InputError, match=message):
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


def test_prompts_of_another_trunk(tmp_path: Path) -> None:
    trunk = TrunkId("mini", "0123")
    manifest = {"trunk": "t5-base", "trunk_hash": "abc", "shape": {"d_model": 768}}
    with pytest.raises(InputError, match="d_model 768 do not fit trunk .* of d_model 32.*t5-base"):
        check_trunk(tmp_path, manifest, trunk, 32)
    manifest["shape"] = {"d_model": 32}
    with pytest.raises(InputError, match=r"prompts of trunk t5-base \(sha256 abc\), not of"):
        check_trunk(tmp_path, manifest, trunk, 32)
    check_trunk(tmp_path, manifest | {"trunk_hash": "0123"}, trunk, 32)
