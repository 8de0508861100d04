"""The layers of encoder and decoder, for TorchScript: each adds to the residual stream `x` (n, d) in place."""

# No postponed annotations: TorchScript takes those of a module's attributes for types.

import torch
from torch import Tensor, nn

from compt_fast.models.scripted.attention import Encoded, attend, cross_attention, self_attention
from compt_fast.models.scripted.products import How, gated_gelu, linear, linear_add_, rms_norm
from compt_fast.models.scripted.rows import Padding
from compt_fast.models.t5.decode import ROOM
from compt_fast.models.t5.weights import DecoderLayer, EncoderLayer, FeedForwardWeights, Weights


class FeedForward(nn.Module):
    """`x += wo act(wi norm(x))`: `wi` (f, d) or, gated, (2f, d), and `wo` (d, f)."""

    wi: Tensor
    wo: Tensor

    def __init__(self, layer: FeedForwardWeights, eps: float) -> None:
        super().__init__()
        self.gated, self.eps = layer.gated, eps
        self.register_buffer("wi", layer.wi.weight)
        self.register_buffer("wo", layer.wo.weight)

    def forward(self, x: Tensor, how: How) -> None:
        """In place."""
        inner = linear(rms_norm(x, self.eps, how), self.wi, how, not self.gated)
        linear_add_(gated_gelu(inner, how) if self.gated else inner, self.wo, x, how)


class Encoder(nn.Module):
    """A layer of the encoder: `qkv` (3 H c, d), `o` (d, H c), and its feed-forward."""

    qkv: Tensor
    o: Tensor

    def __init__(self, layer: EncoderLayer, weights: Weights) -> None:
        super().__init__()
        self.heads, self.head_dim, self.eps = weights.heads, weights.head_dim, weights.eps
        self.register_buffer("qkv", layer.attention.qkv.weight)
        self.register_buffer("o", layer.attention.o.weight)
        self.feed_forward = FeedForward(layer.feed_forward, weights.eps)

    def forward(self, x: Tensor, cu_seqlens: Tensor, bias: Tensor, padding: Padding, how: How) -> None:
        """On packed rows; arguments as of `self_attention`."""
        qkv = linear(rms_norm(x, self.eps, how), self.qkv, how).view(-1, 3, self.heads, self.head_dim)
        linear_add_(self_attention(qkv, cu_seqlens, bias, padding, how).flatten(1), self.o, x, how)
        self.feed_forward(x, how)


class Decoder(nn.Module):
    """Layer `depth` of the decoder: besides, `q` (H c, d), `kv` (2 H c, d) and `cross_o` (d, H c)."""

    qkv: Tensor
    o: Tensor
    q: Tensor
    kv: Tensor
    cross_o: Tensor

    def __init__(self, layer: DecoderLayer, weights: Weights, depth: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.eps, self.depth = weights.heads, weights.head_dim, weights.eps, depth
        self.room = ROOM
        self.register_buffer("qkv", layer.attention.qkv.weight)
        self.register_buffer("o", layer.attention.o.weight)
        self.register_buffer("q", layer.cross.q.weight)
        self.register_buffer("kv", layer.cross.kv)
        self.register_buffer("cross_o", layer.cross.o.weight)
        self.feed_forward = FeedForward(layer.feed_forward, weights.eps)

    def forward(
        self, x: Tensor, bias: Tensor, paths: Tensor | None, written: int, cache: list[Tensor], of: Encoded, how: How
    ) -> None:
        """A token attends to those at its `paths` (M, P), itself among them, or, without, to the `written` ones that
        `cache` holds of its row by layer, (M, t, 2, H, c), to which it is added. And to the states `of` the encoder.

        `bias` (1 or M, H, 1, P or t+1); where the extension attends to the cache, (H, 2 W - 1) by distance, W > t.
        """
        qkv = linear(rms_norm(x, self.eps, how), self.qkv, how).view(-1, 3, self.heads, self.head_dim)
        if paths is None and how.host:
            attended = torch.ops.compt_fast.attend_newest(qkv, self._with_room(qkv, written, cache), written, bias)
        else:
            kv = qkv[:, 1:][paths] if paths is not None else self._remembered(qkv[:, None, 1:], cache)
            k, v = kv.transpose(1, 3).unbind(2)
            attended = attend(qkv[:, 0, :, None], k, v, bias)
        linear_add_(attended.flatten(1), self.o, x, how)
        q = linear(rms_norm(x, self.eps, how), self.q, how).view(-1, self.heads, self.head_dim)
        linear_add_(cross_attention(q, of, self.kv, self.depth, how).flatten(1), self.cross_o, x, how)
        self.feed_forward(x, how)

    def _with_room(self, qkv: Tensor, written: int, cache: list[Tensor]) -> Tensor:
        """Memory of this layer's keys and values, with room for more than the `written` ones."""
        if self.depth == len(cache):
            cache.append(qkv.new_empty([len(qkv), self.room, 2, self.heads, self.head_dim]))
        elif cache[self.depth].shape[1] == written:
            cache[self.depth] = torch.cat([cache[self.depth], torch.empty_like(cache[self.depth])], 1)
        return cache[self.depth]

    def _remembered(self, newest: Tensor, cache: list[Tensor]) -> Tensor:
        """All of this layer's keys and values up to the `newest` (M, 1, 2, H, c), which are put to them."""
        if self.depth == len(cache):
            cache.append(newest)
        else:
            cache[self.depth] = torch.cat([cache[self.depth], newest], 1)
        return cache[self.depth]
