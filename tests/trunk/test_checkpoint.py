"""What is loaded as a trunk, and every kind of checkpoint that is refused."""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

from compt_fast.errors import InputError
from compt_fast.trunk import checkpoint
from compt_fast.trunk.checkpoint import find_folder, load_checkpoint, tensor_names
from tests.helpers.tiny_t5 import FAMILIES, make_t5

FP32 = torch.float32
GENUINE_TOKENIZER = Path(__file__).resolve().parents[3] / "shared" / "t5-tokenizer"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("checkpoint") / "t5")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "trunk"))


def edit_json(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder: Path) -> Path:
    """Cut the weights in two files with an index, as large checkpoints are published."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / checkpoint.SAFETENSORS[1]).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def pickled(folder: Path, *, cut: bool = False, old_format: bool = False) -> Path:
    """Store the weights as torch pickles them, in two files with an index if `cut`."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {checkpoint.PICKLED[0]: names}
    if cut:
        parts = {f"pytorch_model-0000{n + 1}-of-00002.bin": names[n::2] for n in range(2)}
        index = {name: file for file, part in parts.items() for name in part}
        (folder / checkpoint.PICKLED[1]).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for file, part in parts.items():
        tensors = {name: weights[name] for name in part}
        torch.save(tensors, folder / file, _use_new_zipfile_serialization=not old_format)
    return folder


class Bomb:
    """What runs code as it is unpickled: it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))


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
    stored = tensor_names(folder)
    pickled(folder, cut=cut, old_format=old_format)
    assert tensor_names(folder) == stored
    same_weights(whole, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_what_torch_saves(family: str, tmp_path: Path) -> None:
    """As published: with the embeddings under each of their names."""
    whole = make_t5(tmp_path / "whole", family)
    model, _ = load_checkpoint(whole, FP32)
    folder = Path(shutil.copytree(whole, tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert "encoder.embed_tokens.weight" in tensor_names(folder)
    same_weights(whole, folder)


def test_safetensors_come_before_pickled_weights(whole: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    same_weights(whole, folder)
    same_weights(whole, shard(folder))
    assert not (tmp_path / "exploded").exists()


def test_the_checkpoints_own_tokenizer_is_used(tmp_path: Path, whole: Path) -> None:
    source = GENUINE_TOKENIZER if GENUINE_TOKENIZER.is_dir() else whole
    _, tokenizer = load_checkpoint(make_t5(tmp_path, tokenizer=source), FP32)
    expected = {"▁not", "_"} if source is GENUINE_TOKENIZER else {"▁not", "▁dog"}
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


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder, FP32)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    return message


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
    with pytest.raises(
        InputError, match="'t5-bse' is no folder.*ConnectionError: no route to the hub$"
    ):
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


def test_of_another_model_on_the_hub_only_the_configuration_is_fetched(
    monkeypatch, folder: Path
) -> None:
    edit_json(folder / "config.json", model_type="llama")
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns: asked.append(allow_patterns) or str(folder),
    )
    with pytest.raises(InputError, match="model_type 'llama' is not supported"):
        find_folder("some/llama")
    assert asked == [["config.json"]]


def test_no_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in refused(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model_type": ', "config.json: not readable as JSON"),
        (b"\xff\xfe{}", "config.json: not readable as JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b"{}", "model_type None is not supported; a trunk is a T5"),
    ],
)
def test_a_broken_configuration(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    assert message in refused(folder)


@pytest.mark.parametrize("family", ["bert", "umt5", "longt5"])
def test_another_family(folder: Path, family: str) -> None:
    edit_json(folder / "config.json", model_type=family)
    assert f"model_type {family!r} is not supported" in refused(folder)


def test_code_that_comes_with_a_checkpoint_is_not_run(folder: Path) -> None:
    (folder / "own.py").write_text("raise SystemExit('run')")
    edit_json(folder / "config.json", auto_map={"AutoModelForSeq2SeqLM": "own.Model"})
    assert "asks to run code of its own" in refused(folder)


def test_code_that_comes_with_a_tokenizer_is_not_run(folder: Path) -> None:
    (folder / "own.py").write_text("raise SystemExit('run')")
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="Own",
        auto_map={"AutoTokenizer": ["own.Own", None]},
    )
    assert "tokenizer_config.json: asks to run code of its own" in refused(folder)


def test_a_quantised_checkpoint(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"load_in_8bit": True})
    assert "quantised" in refused(folder)


def test_settings_that_make_no_model(folder: Path) -> None:
    edit_json(folder / "config.json", num_layers="two")
    assert re.search("the trunk cannot be built.*num_layers.*two", refused(folder))


@pytest.mark.parametrize("form", ["plain pickle", "torch", "torch, old format", "a shard"])
def test_a_pickle_that_would_run_code_is_refused(form: str, folder: Path) -> None:
    pickled(folder, cut=form == "a shard")
    file = max(folder.glob("*.bin"))  # of two shards the second
    if form == "plain pickle":
        file.write_bytes(pickle.dumps(Bomb(folder / "exploded")))
    else:
        content = {"shared.weight": Bomb(folder / "exploded")}
        torch.save(content, file, _use_new_zipfile_serialization="old" not in form)
    message = refused(folder)
    assert f"{file}: a pickle of something else than plain tensors" in message
    assert "give the weights as model.safetensors" in message
    assert not (folder / "exploded").exists()
    with suppress(RuntimeError):  # for want of torch's magic number, which comes too late
        torch.load(file, weights_only=False)  # the same file without the check
    assert (folder / "exploded").exists()


def test_a_pickled_shard_that_is_safe_to_load_but_holds_no_tensors(folder: Path) -> None:
    torch.save({"model": {"shared.weight": torch.ones(2)}}, pickled(folder) / "pytorch_model.bin")
    assert "pytorch_model.bin: holds other things than named tensors" in refused(folder)
    torch.save(torch.ones(2), folder / "pytorch_model.bin")
    assert "pytorch_model.bin: holds other things than named tensors" in refused(folder)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -10])
def test_cut_off_pickled_weights(keep: float, old_format: bool, folder: Path) -> None:
    file = pickled(folder, old_format=old_format) / "pytorch_model.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep) if keep == 0.5 else int(keep)])
    assert "pytorch_model.bin: not a whole file of tensors" in refused(folder)


def test_pickled_weights_that_are_no_pickle(folder: Path) -> None:
    (pickled(folder) / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "pytorch_model.bin: a pickle of something else than plain tensors, or broken" in refused(folder)


def test_a_missing_pickled_shard(folder: Path) -> None:
    (pickled(folder, cut=True) / "pytorch_model-00002-of-00002.bin").unlink()
    message = refused(folder)
    assert "pytorch_model.bin.index.json: names pytorch_model-00002-of-00002.bin, which is not" in message


@pytest.mark.parametrize("other", [None, "weights.pt", "tf_model.h5"])
def test_no_weights(other: str | None, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    if other:
        (folder / other).write_bytes(b"")
    assert "no weights; expected one of model.safetensors, " in refused(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_cut_off_weights(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "model.safetensors: not a whole safetensors file" in refused(folder)


def test_a_missing_shard(folder: Path) -> None:
    (shard(folder) / "model-00002-of-00002.safetensors").unlink()
    assert "names model-00002-of-00002.safetensors, which is not there" in refused(folder)


def test_an_index_that_names_no_files(folder: Path) -> None:
    edit_json(shard(folder) / checkpoint.SAFETENSORS[1], weight_map=None)
    assert "no weight_map" in refused(folder)


def test_missing_tensors(folder: Path) -> None:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.endswith("layer_norm.weight")]:
            del weights[name]

    edit_weights(folder, drop)
    message = refused(folder)
    assert "the weights lack tensors: decoder.block.0" in message and "more" in message


def test_a_missing_head_is_not_replaced_by_the_embeddings(tmp_path: Path) -> None:
    folder = make_t5(tmp_path, "v1.1")
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    assert "the weights lack lm_head.weight" in refused(folder)


def test_tensors_that_are_not_the_models(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"adapter.weight": torch.ones(2)}))
    assert "hold unknown tensors: adapter.weight" in refused(folder)


def test_tensors_of_another_shape(folder: Path) -> None:
    edit_json(folder / "config.json", d_ff=64)
    message = refused(folder)
    assert "DenseReluDense" in message
    assert "(48, 32), but config.json asks for (64, 32)" in message


def test_weights_that_are_not_finite(folder: Path) -> None:
    name = "encoder.block.1.layer.1.DenseReluDense.wi.weight"
    edit_weights(folder, lambda weights: weights[name][3, 4].fill_(float("nan")))
    assert f"tensor {name} holds values that are not finite" in refused(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer; expected one of tokenizer.json, spiece.model" in refused(folder)


def test_a_byte_level_trunk_needs_no_tokenizer_files(tmp_path: Path) -> None:
    folder = make_t5(tmp_path, "byt5")
    for file in folder.glob("*tokenizer*"):
        file.unlink()
    assert load_checkpoint(folder, FP32)[1]("ab")["input_ids"] == [100, 101, 1]


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert "the tokenizer cannot be read" in refused(folder)


def test_a_broken_sentencepiece_model(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"junk")
    assert "spiece.model: not a whole sentencepiece model" in refused(folder)


def test_a_tokenizer_of_another_trunk(folder: Path) -> None:
    edit_json(folder / "config.json", vocab_size=200)
    edit_weights(
        folder, lambda weights: weights.update({"shared.weight": weights["shared.weight"][:200]})
    )
    assert "has 355 tokens, but the trunk embeds only 200" in refused(folder)


def test_a_tokenizer_without_an_end(folder: Path) -> None:
    config = folder / "tokenizer_config.json"
    edit_json(config, eos_token=None, tokenizer_class="PreTrainedTokenizerFast")
    edit_json(folder / "config.json", model_type="t5")
    assert "no end-of-sequence token" in refused(folder)


def test_the_written_checkpoint_is_one_that_transformers_loads(whole: Path) -> None:
    model = T5ForConditionalGeneration.from_pretrained(whole)
    assert torch.equal(model.shared.weight, load_file(whole / "model.safetensors")["shared.weight"])
