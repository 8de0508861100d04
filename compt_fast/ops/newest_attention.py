"""Attention of the newest token of each row to those before it and to itself, for decoding: its keys and values join
those of the others, in memory that has room for more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compt_fast.ops.paths import COMPILED, TRITON, kernels, path

FAMILY = "newest_attention"


def attend_newest(qkv: Tensor, cache: Tensor, written: int, bias: Tensor) -> Tensor:
    """`softmax(q k^T + bias) v` of each row's newest token, from its projection qkv (n, 3, H, c): (n, H, c).

    `cache` (n, room, 2, H, c) holds the keys and values of the `written` tokens before it, and gets its own. `bias`
    (H, 2W - 1) fp32 is that of a key at distance d from its query at W - 1 + d. Products and softmax are in fp32.
    """
    how = path(FAMILY, qkv)
    if how == COMPILED:
        return torch.ops.compt_fast.attend_newest(qkv, cache, written, bias)
    if how == TRITON:
        attended: Tensor = kernels(FAMILY).attend_newest(qkv, cache, written, bias)
        return attended
    cache[:, written].copy_(qkv[:, 1:])
    k, v = cache[:, : written + 1].float().unbind(2)
    newest = bias.shape[1] // 2
    scores = (qkv[:, None, 0].float() * k).sum(-1) + bias[:, newest - written : newest + 1].T
    return (torch.softmax(scores, 1)[..., None] * v).sum(1).to(qkv.dtype)
