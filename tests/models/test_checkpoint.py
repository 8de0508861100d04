"""What is loaded as a trunk, from folders and from the hub."""

from __future__ import annotations

import logging
import pickle
import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from transformers import T5ForConditionalGeneration

from compt_fast.models import checkpoint
from compt_fast.models.checkpoint import find_folder, load_checkpoint, tensor_shapes
from compt_fast.utils import hub
from compt_fast.utils.errors import InputError
from tests.helpers.checkpoints import Bomb, edit_json, pickled, shard
from tests.helpers.shared import real
from tests.helpers.tiny_t5 import FAMILIES, make_t5

FP32 = torch.float32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_loads_frozen(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, tokenizer = load_checkpoint(make_t5(tmp_path, family), dtype)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer("the dog")["input_ids"][-1] == tokenizer.eos_token_id == 1


def test_what_transformers_saves_computes_the_same_again(tmp_path: Path) -> None:
    """Its own configuration files say less about the head than the published ones do."""
    first, tokenizer = load_checkpoint(make_t5(tmp_path / "published", "v1.1"), FP32)
    first.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    second, _ = load_checkpoint(tmp_path / "saved", FP32)
    inputs = {"input_ids": torch.tensor([[5, 6, 1]]), "decoder_input_ids": torch.tensor([[0, 7]])}
    assert torch.equal(first(**inputs).logits, second(**inputs).logits)


def test_shards_make_up_the_same_trunk(whole: Path, folder: Path) -> None:
    same_weights(whole, shard(folder))


def same_weights(whole: Path, folder: Path) -> None:
    stored, _ = load_checkpoint(folder, FP32)
    for name, weight in load_checkpoint(whole, FP32)[0].named_parameters():
        assert torch.equal(stored.get_parameter(name), weight), name


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_pickled_tensors_make_up_the_same_trunk(cut: bool, old_format: bool, whole: Path, folder: Path) -> None:
    stored = tensor_shapes(folder)
    pickled(folder, cut=cut, old_format=old_format)
    assert tensor_shapes(folder) == stored
    same_weights(whole, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_what_torch_saves(family: str, tmp_path: Path) -> None:
    """As published: with the embeddings under each of their names."""
    whole = make_t5(tmp_path / "whole", family)
    model, _ = load_checkpoint(whole, FP32)
    folder = Path(shutil.copytree(whole, tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert "encoder.embed_tokens.weight" in tensor_shapes(folder)
    same_weights(whole, folder)


def test_safetensors_come_before_pickled_weights(whole: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    same_weights(whole, folder)
    same_weights(whole, shard(folder))
    assert not (tmp_path / "exploded").exists()


def test_the_checkpoints_own_tokenizer_is_used(tmp_path: Path, whole: Path) -> None:
    genuine = real("t5-tokenizer")
    source = genuine or whole
    _, tokenizer = load_checkpoint(make_t5(tmp_path, tokenizer=source), FP32)
    expected = {"▁not", "_"} if genuine else {"▁not", "▁dog"}
    assert expected <= set(tokenizer.get_vocab())


def test_loading_is_quiet_and_leaves_the_settings_alone(tmp_path: Path, capfd, caplog) -> None:
    from transformers.utils import logging as settings

    before = settings.get_verbosity(), settings.is_progress_bar_enabled()
    folder = make_t5(tmp_path, "v1.1")  # transformers would warn of its untied head
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        load_checkpoint(folder, FP32)
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.text) == ("", "", "")
    assert (settings.get_verbosity(), settings.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("name", ["./none", "/none/such", "~/none-such-folder", "a/b/c"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}': there is no such folder"):
        find_folder(name)


def test_a_file_in_place_of_a_folder(whole: Path) -> None:
    with pytest.raises(InputError, match=r"is a file; give the checkpoint's folder"):
        find_folder(str(whole / "config.json"))


def test_a_folder_that_is_there(whole: Path) -> None:
    assert find_folder(str(whole)) == whole


def test_a_name_that_the_hub_cannot_serve(monkeypatch) -> None:
    def fail(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match="'t5-bse' is no folder.*HF_HUB_OFFLINE is set, and no copy is cached; "):
        find_folder("t5-bse")
    monkeypatch.setattr(hub, "unreachable", lambda: "")
    with pytest.raises(InputError, match="'t5-bse' is no folder.*ConnectionError: no route to the hub; without a"):
        find_folder("t5-bse")


def test_a_name_on_the_hub(monkeypatch, whole: Path) -> None:
    asked = []

    def serve(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", serve)
    assert find_folder("google-t5/t5-base") == whole
    assert asked == [
        ("google-t5/t5-base", ["config.json"]),
        ("google-t5/t5-base", checkpoint.HUB_FILES),
    ]


class FakeHub:
    """Stands in for `snapshot_download`: copies the files asked for, and counts each copy."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache = repository, cache
        self.fetched: list[str] = []

    def __call__(self, name: str, allow_patterns: list[str]) -> str:
        self.cache.mkdir(exist_ok=True)
        for file in sorted(self.repository.iterdir()):
            wanted = any(fnmatch(file.name, pattern) for pattern in allow_patterns)
            if wanted and not (self.cache / file.name).exists():
                shutil.copy(file, self.cache)
                self.fetched.append(file.name)
        return str(self.cache)


@pytest.mark.parametrize("cut", [False, True])
def test_a_name_on_the_hub_with_pickled_weights_alone(
    cut: bool, monkeypatch: pytest.MonkeyPatch, whole: Path, folder: Path, tmp_path: Path
) -> None:
    hub = FakeHub(pickled(folder, cut=cut), tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert find_folder("google/t5-v1_1-base") == hub.cache
    assert hub.fetched[0] == "config.json"
    assert len([name for name in hub.fetched if name.endswith(".bin")]) == 1 + cut
    same_weights(whole, hub.cache)


@pytest.mark.parametrize("cut", [False, True])
def test_pickled_weights_on_the_hub_are_left_there_beside_safetensors(
    cut: bool, monkeypatch: pytest.MonkeyPatch, whole: Path, folder: Path, tmp_path: Path
) -> None:
    if cut:
        shard(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    hub = FakeHub(folder, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    same_weights(whole, find_folder("google-t5/t5-base"))
    assert len([name for name in hub.fetched if name.endswith(".safetensors")]) == 1 + cut
    assert "pytorch_model.bin" not in hub.fetched


def test_of_another_model_on_the_hub_only_the_configuration_is_fetched(monkeypatch, folder: Path) -> None:
    edit_json(folder / "config.json", model_type="vit")
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns: asked.append(allow_patterns) or str(folder),
    )
    with pytest.raises(InputError, match="model_type 'vit' is not supported"):
        find_folder("some/vit")
    assert asked == [["config.json"]]


def test_a_byte_level_trunk_needs_no_tokenizer_files(tmp_path: Path) -> None:
    folder = make_t5(tmp_path, "byt5")
    for file in folder.glob("*tokenizer*"):
        file.unlink()
    assert load_checkpoint(folder, FP32)[1]("ab")["input_ids"] == [100, 101, 1]


def test_the_written_checkpoint_is_one_that_transformers_loads(whole: Path) -> None:
    model = T5ForConditionalGeneration.from_pretrained(whole)
    assert torch.equal(model.shared.weight, load_file(whole / "model.safetensors")["shared.weight"])
