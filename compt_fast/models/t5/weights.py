"""The weights of a frozen T5 as the packed engine computes with them.

What only training would need apart is joined: queries, keys and values are one matrix, a gated
feed-forward's two inputs another, and every norm's weight is folded into the matrices that read its
output, `W' = W diag(g)`, in fp32 and rounded once. The decoder's last norm is the exception: it would
double a head that is tied to the embeddings.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compt_fast.models.checkpoint import UnsupportedCheckpointError
from compt_fast.models.t5.likeliest import Likeliest
from compt_fast.models.t5.position_bias import PositionBias
from compt_fast.ops.linear import FrozenLinear
from compt_fast.ops.linear_int8 import Int8Linear, Int16Linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ACTIVATIONS = ("relu", "gated-gelu")
KEPT = ("qkv", "kv")
"""Matrices whose products are not all in int8: their tokens are in int16, or both in floats where the extension has no
such products, or bf16 is quick. A softmax magnifies what is wrong with queries and keys, values count as much, and with
all of them in int8 the embedded trunk's likelihoods lie half as far again from fp32's (docs/int8.md). Cross-attention's
keys and values are taken to the queries, which are few.
"""
FINE = ("qkv", "o")
"""Matrices whose tokens are in int16 where the extension has such products: beside KEPT's that of attention's output.
All heads of a token share one step, which in int8 is too coarse for some; its product is small.
"""


@dataclass(frozen=True)
class FeedForwardWeights:
    """`wo(relu(wi x))`: wi (f, d), wo (d, f); or, gated, wi (2f, d) with the gelu's input first."""

    wi: FrozenLinear
    wo: FrozenLinear
    gated: bool


@dataclass(frozen=True)
class SelfAttentionWeights:
    """qkv (3 H c, d): queries, keys, values of all heads; o (d, H c)."""

    qkv: FrozenLinear
    o: FrozenLinear


@dataclass(frozen=True)
class AbsorbedWeights:
    """Cross-attention's keys and values as absorbed queries meet them, for inference: `to_states` (H, d, c) takes the
    heads' queries to the encoder's states, `from_states` (H, c, d) takes what they attended to back.
    """

    to_states: Int16Linear
    from_states: Int16Linear


@dataclass(frozen=True)
class CrossAttentionWeights:
    """q (H c, d), of the decoder's states; kv (2 H c, d), of the encoder's; o (d, H c). Where `absorbed` is there, it
    stands for kv, which is (0, d).
    """

    q: FrozenLinear
    kv: Tensor
    o: FrozenLinear
    absorbed: AbsorbedWeights | None = None


@dataclass(frozen=True)
class EncoderLayer:
    attention: SelfAttentionWeights
    feed_forward: FeedForwardWeights


@dataclass(frozen=True)
class DecoderLayer:
    attention: SelfAttentionWeights
    cross: CrossAttentionWeights
    feed_forward: FeedForwardWeights


@dataclass(frozen=True)
class Weights:
    """A whole T5: `embedding` and `head` (V, d); `head_scale` (d,) fp32 is what the decoder's last
    normed states are multiplied with before the head; `heads` H of width `head_dim` c.
    """

    embedding: Tensor
    head: FrozenLinear
    head_scale: Tensor
    encoder: list[EncoderLayer]
    decoder: list[DecoderLayer]
    encoder_bias: PositionBias
    decoder_bias: PositionBias
    heads: int
    head_dim: int
    eps: float

    @property
    def inner(self) -> int:
        """H c, the width of all heads together."""
        return self.heads * self.head_dim

    @property
    def in_int8(self) -> bool:
        """Whether the layers' matrices are (`to_int8`)."""
        return isinstance(self.decoder[0].feed_forward.wo, Int8Linear)

    @cached_property
    def likeliest(self) -> Likeliest:
        """The head's likeliest tokens; made when first asked for."""
        return Likeliest(self.head)

    @classmethod
    def from_model(cls, model: PreTrainedModel) -> Weights:
        """The weights of transformers' `model`, which is emptied: both together may not fit.

        Raises UnsupportedCheckpointError for a feed-forward layer other than those of `ACTIVATIONS`.
        """
        config = model.config
        if config.feed_forward_proj not in ACTIVATIONS:
            raise UnsupportedCheckpointError(
                f"the fast engine knows feed_forward_proj {' and '.join(ACTIVATIONS)}, not"
                f" {config.feed_forward_proj!r}; use --engine reference"
            )
        state = dict(model.state_dict())
        model.to("meta")
        norm = state.pop("encoder.final_layer_norm.weight")
        scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
        tables = {
            part: state.pop(f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
            for part in ("encoder", "decoder")
        }
        weights = cls(
            embedding=state.pop("shared.weight"),
            head=FrozenLinear(state.pop("lm_head.weight")),
            head_scale=state.pop("decoder.final_layer_norm.weight").float() * scale,
            encoder=[
                EncoderLayer(
                    _self_attention(state, f"encoder.block.{i}.layer.0"),
                    _feed_forward(state, f"encoder.block.{i}.layer.1"),
                )
                for i in range(config.num_layers)
            ],
            decoder=[
                DecoderLayer(
                    _self_attention(state, f"decoder.block.{i}.layer.0"),
                    _cross_attention(state, f"decoder.block.{i}.layer.1", norm),
                    _feed_forward(state, f"decoder.block.{i}.layer.2"),
                )
                for i in range(config.num_decoder_layers)
            ],
            encoder_bias=PositionBias(tables["encoder"], True, config.relative_attention_max_distance),
            decoder_bias=PositionBias(tables["decoder"], False, config.relative_attention_max_distance),
            heads=config.num_heads,
            head_dim=config.d_kv,
            eps=config.layer_norm_epsilon,
        )
        _trim_heap()
        return weights

    def to_int8(self, dtype: torch.dtype) -> Weights:
        """The same for inference: the layers' matrices in int8, but for those of `KEPT` where `dtype` is bf16 or the
        extension does not multiply int16; all else in `dtype`, fp32 or bf16.

        Empties the layers as it goes, so that one at a time is in memory twice.
        """
        tied = self.head.weight.data_ptr() == self.embedding.data_ptr()
        embedding = self.embedding.to(dtype)
        return replace(
            self,
            embedding=embedding,
            head=FrozenLinear(embedding if tied else self.head.weight.to(dtype)),
            encoder=[_int8(self.encoder.pop(0), dtype) for _ in range(len(self.encoder))],
            decoder=[self._int8_decoder(self.decoder.pop(0), dtype) for _ in range(len(self.decoder))],
        )

    def _int8_decoder(self, layer: DecoderLayer, dtype: torch.dtype) -> DecoderLayer:
        made: DecoderLayer = _int8(layer, dtype)
        if not _in_int16(layer.cross.kv, dtype):
            return made
        k, v = layer.cross.kv.view(2, self.heads, self.head_dim, -1)
        absorbed = AbsorbedWeights(Int16Linear(k.transpose(1, 2)), Int16Linear(v))
        return replace(made, cross=replace(made.cross, kv=layer.cross.kv.new_empty(0, v.shape[-1]), absorbed=absorbed))

    def digest(self) -> str:
        """SHA-256 of every tensor, in hexadecimal: it tells whether one has changed."""
        sha = hashlib.sha256()
        for tensor in _tensors(self):
            sha.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, FrozenLinear):
        yield from part.tensors
    elif isinstance(part, list):
        for item in part:
            yield from _tensors(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _tensors(getattr(part, field.name))


def _int8(part: Any, dtype: torch.dtype, name: str = "") -> Any:
    """A layer, or the field `name` of one, with its matrices in int8, or as `KEPT` and `FINE` say."""
    if isinstance(part, FrozenLinear):
        if name in FINE and _in_int16(part.weight, dtype):
            return Int16Linear(part.weight)
        return FrozenLinear(part.weight.to(dtype)) if name in KEPT else Int8Linear(part.weight)
    if isinstance(part, Tensor):
        return part.to(dtype)
    if is_dataclass(part) and not isinstance(part, type):
        made = {field.name: _int8(getattr(part, field.name), dtype, field.name) for field in fields(part)}
        return replace(part, **made)
    return part


def _in_int16(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether a matrix is multiplied by tokens in int16: bf16, where it is quick, is nearer."""
    return dtype == torch.float32 and Int16Linear.here(weight)


def _self_attention(state: dict[str, Tensor], layer: str) -> SelfAttentionWeights:
    norm = state.pop(f"{layer}.layer_norm.weight")
    parts = [_fold(state.pop(f"{layer}.SelfAttention.{name}.weight"), norm) for name in "qkv"]
    return SelfAttentionWeights(
        FrozenLinear(torch.cat(parts)), FrozenLinear(state.pop(f"{layer}.SelfAttention.o.weight"))
    )


def _cross_attention(state: dict[str, Tensor], layer: str, encoder_norm: Tensor) -> CrossAttentionWeights:
    norm = state.pop(f"{layer}.layer_norm.weight")
    q, k, v, o = (state.pop(f"{layer}.EncDecAttention.{name}.weight") for name in "qkvo")
    kv = torch.cat([_fold(k, encoder_norm), _fold(v, encoder_norm)])
    return CrossAttentionWeights(FrozenLinear(_fold(q, norm)), kv, FrozenLinear(o))


def _feed_forward(state: dict[str, Tensor], layer: str) -> FeedForwardWeights:
    norm = state.pop(f"{layer}.layer_norm.weight")
    names = [name for name in ("wi", "wi_0", "wi_1") if f"{layer}.DenseReluDense.{name}.weight" in state]
    parts = [_fold(state.pop(f"{layer}.DenseReluDense.{name}.weight"), norm) for name in names]
    wo = state.pop(f"{layer}.DenseReluDense.wo.weight")
    return FeedForwardWeights(FrozenLinear(torch.cat(parts)), FrozenLinear(wo), gated=len(parts) == 2)


def _trim_heap() -> None:
    """Give back to the system what the heap keeps of matrices that are joined now: half of the weights' size."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _fold(weight: Tensor, norm: Tensor) -> Tensor:
    return (weight.float() * norm.float()).to(weight.dtype)
