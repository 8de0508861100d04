"""What of a T5's weights is rounded to int8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.linear import FrozenLinear
from compt_fast.ops.linear_int8 import Int8Linear, Int16Linear
from tests.helpers.tiny_t5 import make_t5


def opened(folder: Path) -> Weights:
    return PackedTrunk.load(str(folder), dtype=torch.float32, device="cpu", prompt_position="prepend").weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["t5", "v1.1"])
def test_layers_are_int8_and_attention_finer(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    floats = opened(make_t5(tmp_path / "trunk", family))
    layers = (len(floats.encoder), len(floats.decoder))
    tied = floats.head.weight.data_ptr() == floats.embedding.data_ptr()
    in_int16 = dtype == torch.float32 and Int16Linear.here(floats.embedding)
    made = floats.to_int8(dtype)
    assert (len(made.encoder), len(made.decoder)) == layers and floats.encoder == floats.decoder == []
    for layer in [*made.encoder, *made.decoder]:
        assert type(layer.feed_forward.wi) is type(layer.feed_forward.wo) is Int8Linear
        assert type(layer.attention.o) is (Int16Linear if in_int16 else Int8Linear)
        assert type(layer.attention.qkv) is (Int16Linear if in_int16 else FrozenLinear)
        assert in_int16 or layer.attention.qkv.weight.dtype == dtype
    for layer in made.decoder:
        assert type(layer.cross.q) is Int8Linear and layer.cross.kv.dtype == dtype
        assert type(layer.cross.o) is type(layer.attention.o)
        assert (layer.cross.absorbed is not None) == in_int16 == (layer.cross.kv.numel() == 0)
    assert made.embedding.dtype == made.head.weight.dtype == dtype
    assert (made.head.weight.data_ptr() == made.embedding.data_ptr()) == tied


def test_a_change_of_int8_or_of_its_steps_is_seen(tmp_path: Path) -> None:
    made = opened(make_t5(tmp_path / "trunk")).to_int8(torch.float32)
    before = made.digest()
    assert made.digest() == before
    matrix = made.encoder[0].feed_forward.wo
    assert isinstance(matrix, Int8Linear)
    for tensor in matrix.tensors:
        kept = tensor.clone()
        tensor.view(torch.uint8).flatten()[0] += 1
        assert made.digest() != before
        tensor.copy_(kept)
    assert made.digest() == before
