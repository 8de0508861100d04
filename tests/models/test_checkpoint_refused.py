"""Every kind of checkpoint that is refused, and what is said of it."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from compt_fast.models import checkpoint
from compt_fast.models.checkpoint import load_checkpoint
from compt_fast.utils.errors import InputError
from tests.helpers.checkpoints import Bomb, edit_json, edit_weights, pickled, shard
from tests.helpers.tiny_t5 import make_t5

FP32 = torch.float32


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder, FP32)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    return message


def test_no_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in refused(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model_type": ', "config.json: not well-formed json"),
        (b"\xff\xfe{}", "config.json:1: not UTF-8"),
        (b"[1]", "expected a JSON object, found list"),
        (b"{}", "model_type None is not supported; a trunk is a T5"),
    ],
)
def test_a_broken_configuration(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    assert message in refused(folder)


@pytest.mark.parametrize("family", ["bert", "umt5", "longt5", "gpt2"])
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
    assert "config.json: num_layers must be a whole number from 1 to 512, not 'two'" in refused(folder)


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
    assert "config.json: d_ff is 64, but tensor" in message and "has shape (32, 48)" in message


def test_weights_that_are_not_finite(folder: Path) -> None:
    name = "encoder.block.1.layer.1.DenseReluDense.wi.weight"
    edit_weights(folder, lambda weights: weights[name][3, 4].fill_(float("nan")))
    assert f"tensor {name} holds values that are not finite" in refused(folder)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex64])
@pytest.mark.parametrize("form", ["safetensors", "pickled"])
def test_weights_that_are_no_floats(form: str, dtype: torch.dtype, folder: Path) -> None:
    name = "encoder.block.1.layer.1.DenseReluDense.wi.weight"
    edit_weights(folder, lambda weights: weights.update({name: weights[name].to(dtype)}))
    if form == "pickled":
        pickled(folder)
    assert f"tensor {name} holds values of" in refused(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_layers", 10**9, "num_layers must be a whole number from 1 to 512"),
        ("num_layers", 3, "num_layers is 3, but the weights hold 2 blocks of the encoder"),
        ("num_decoder_layers", 2, "num_decoder_layers is 2, but the weights hold 3 blocks of the decoder"),
        ("d_kv", True, "d_kv must be a whole number from 1 to 65,536, not True"),
        ("d_kv", 9, "num_heads * d_kv is 27, but tensor"),
        ("vocab_size", 1000, "vocab_size is 1000, but tensor shared.weight has shape"),
        ("pad_token_id", -1, "pad_token_id must be a token's id, from 0 to"),
        ("layer_norm_epsilon", "1e-6", "layer_norm_epsilon must be a number from 0 to 1, not '1e-6'"),
        ("feed_forward_proj", "gated-nothing", "feed_forward_proj 'gated-nothing' is no activation"),
        ("tie_word_embeddings", 1, "tie_word_embeddings must be true or false, not 1"),
    ],
)
def test_settings_that_no_t5_has(key: str, value: object, message: str, folder: Path) -> None:
    edit_json(folder / "config.json", **{key: value})
    assert f"config.json: {message}" in refused(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer; expected one of tokenizer.json, spiece.model" in refused(folder)


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert "the tokenizer cannot be read" in refused(folder)


def test_a_broken_sentencepiece_model(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"junk")
    assert "spiece.model: not a whole sentencepiece model" in refused(folder)


def test_a_tokenizer_of_another_trunk(folder: Path) -> None:
    edit_json(folder / "config.json", vocab_size=200)
    edit_weights(folder, lambda weights: weights.update({"shared.weight": weights["shared.weight"][:200]}))
    assert "has 355 tokens, but the trunk embeds only 200" in refused(folder)


def test_a_tokenizer_without_an_end(folder: Path) -> None:
    config = folder / "tokenizer_config.json"
    edit_json(config, eos_token=None, tokenizer_class="PreTrainedTokenizerFast")
    edit_json(folder / "config.json", model_type="t5")
    assert "no end-of-sequence token" in refused(folder)
