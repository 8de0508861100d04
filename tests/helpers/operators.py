"""What the compiled operators should give for good arguments, in float64, by the operator's name.

An operator that writes into an argument is held against what that should hold afterwards, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.ops.linear_int8 import int16_limit, quantise
from tests.helpers.assembly import cu_seqlens_of, expected, expected_grad

Results = tuple[Tensor, ...]


def assemble(total: int | None, **arguments: Any) -> Results:
    return expected(arguments, total)


def assemble_backward(grad: Tensor, packed_cu_seqlens: Tensor, prompt_rows: int, **arguments: Any) -> Results:
    texts = packed_cu_seqlens.diff() - arguments["prompt_cu_seqlens"].diff()[arguments["slots"]]
    prompts = grad.new_empty(prompt_rows, grad.shape[1])
    return (expected_grad(arguments | {"prompts": prompts, "input_cu_seqlens": cu_seqlens_of(texts.tolist())}, grad),)


def packed_attention(qkv: Tensor, cu_seqlens: Tensor, bias: Tensor) -> Results:
    out = torch.zeros(len(qkv), *qkv.shape[2:], dtype=torch.float64)
    lse = torch.zeros(len(qkv), qkv.shape[2], dtype=torch.float64)
    for row, scores in _scores(qkv, cu_seqlens, bias):
        out[row] = torch.einsum("hqk,khd->qhd", scores.softmax(2), qkv[row, 2].double())
        lse[row] = scores.logsumexp(2).T
    return out, lse


def packed_attention_backward(grad_out: Tensor, qkv: Tensor, lse: Tensor, cu_seqlens: Tensor, bias: Tensor) -> Results:
    result = torch.zeros(qkv.shape, dtype=torch.float64)
    for row, scores in _scores(qkv, cu_seqlens, bias):
        q, k, v = qkv[row].double().unbind(1)
        weights = scores.softmax(2)  # whatever `lse` is: it keeps the exponentials small, and drops out
        of_weights = torch.einsum("qhd,khd->hqk", grad_out[row].double(), v)
        slopes = weights * (of_weights - (weights * of_weights).sum(2, keepdim=True))
        result[row, 0] = torch.einsum("hqk,khd->qhd", slopes, k)
        result[row, 1] = torch.einsum("hqk,qhd->khd", slopes, q)
        result[row, 2] = torch.einsum("hqk,qhd->khd", weights, grad_out[row].double())
    return (result,)


def _scores(qkv: Tensor, cu_seqlens: Tensor, bias: Tensor) -> list[tuple[slice, Tensor]]:
    """Each row that is not empty and its scores (heads, queries, keys)."""
    found = []
    for row in _rows(cu_seqlens):
        q, k, _ = qkv[row].double().unbind(1)
        at = torch.arange(len(q))
        distances = bias.shape[1] // 2 + at[None, :] - at[:, None]
        found.append((row, torch.einsum("qhd,khd->hqk", q, k) + bias.double()[:, distances]))
    return [(row, scores) for row, scores in found if scores.numel()]


def _rows(cu_seqlens: Tensor) -> list[slice]:
    ends = cu_seqlens.tolist()
    return [slice(start, end) for start, end in zip(ends, ends[1:], strict=False)]


def attend_newest(qkv: Tensor, cache: Tensor, written: int, bias: Tensor) -> Results:
    """The result, and the cache afterwards."""
    after = cache.double().clone()
    after[:, written] = qkv[:, 1:].double()
    k, v = after[:, : written + 1].unbind(2)
    reach = bias.shape[1] // 2
    scores = torch.einsum("nhc,njhc->nhj", qkv[:, 0].double(), k) + bias[:, reach - written : reach + 1].double()
    return torch.einsum("nhj,njhc->nhc", scores.softmax(2), v), after


def rms_norm(x: Tensor, eps: float) -> Results:
    r = torch.rsqrt(x.double().square().mean(1, keepdim=True) + eps)
    return x * r, r


def rms_norm_backward(grad_y: Tensor, y: Tensor, r: Tensor, grad: Tensor) -> Results:
    g, y = grad_y.double(), y.double()
    return (grad + r * (g - y * (g * y).mean(1, keepdim=True)),)


def gated_gelu(uv: Tensor) -> Results:
    u, v = uv.double().chunk(2, 1)
    return (F.gelu(u, approximate="tanh") * v,)


def gated_gelu_backward(grad: Tensor, uv: Tensor) -> Results:
    leaf = uv.double().requires_grad_()
    return torch.autograd.grad(gated_gelu(leaf)[0], leaf, grad.double())


def product(x: Tensor, weight: Tensor, back: bool, relu: bool) -> Results:
    y = x.double() @ (weight if back else weight.T).double()
    return (y.relu() if relu else y,)


def grouped_product(x: Tensor, weight: Tensor, back: bool) -> Results:
    return (torch.einsum("ngi,gic->ngc" if back else "ngi,gci->ngc", x.double(), weight.double()),)


def product_where(x: Tensor, weight: Tensor, inner: Tensor) -> Results:
    return (torch.ops.aten.threshold_backward.default(x.double() @ weight.double(), inner.double(), 0),)


def product_add(x: Tensor, weight: Tensor, total: Tensor) -> Results:
    return (total + x.double() @ weight.T.double(),)


def pack_int8(weight: Tensor) -> Results:
    """Units of four entries, each plus 128, of a panel's columns side by side; nothing else is said of its layout."""
    columns, inner = weight.shape
    width = torch.ops.compt_fast.pack_int8(weight).shape[2]
    padded = weight.new_zeros(-(-columns // width) * width, -(-inner // 4) * 4)
    padded[:columns, :inner] = weight
    units = padded.view(-1, width, padded.shape[1] // 4, 4).transpose(1, 2).contiguous()
    return ((units.view(torch.uint8) ^ 0x80).view(torch.int32)[..., 0].double(),)


def product_int8(x: Tensor, panels: Tensor, steps: Tensor, relu: bool) -> Results:
    rounded, row_steps = quantise(x)
    units = panels.contiguous().view(torch.uint8).view(*panels.shape, 4) ^ 0x80
    weight = units.view(torch.int8).transpose(1, 2).flatten(2).flatten(0, 1)[: len(steps), : x.shape[1]]
    y = (rounded.double() @ weight.double().T) * row_steps * steps
    return (y.relu() if relu else y,)


def product_int8_add(x: Tensor, panels: Tensor, steps: Tensor, total: Tensor) -> Results:
    return (total + product_int8(x, panels, steps, False)[0],)


def pack_int16(weight: Tensor) -> Results:
    """As `pack_int8`, of several matrices and of units of two entries, none shifted."""
    groups, columns, inner = weight.shape
    width = torch.ops.compt_fast.pack_int16(weight).shape[3]
    padded = weight.new_zeros(groups, -(-columns // width) * width, -(-inner // 2) * 2)
    padded[:, :columns, :inner] = weight
    units = padded.view(groups, -(-columns // width), width, padded.shape[2] // 2, 2).transpose(2, 3).contiguous()
    return (units.view(torch.int16)[..., 0].double(),)


def product_int16(x: Tensor, panels: Tensor, steps: Tensor) -> Results:
    rounded, row_steps = quantise(x, int16_limit(x.shape[2]))
    units = panels.contiguous().view(torch.int8).view(*panels.shape, 2)
    weight = units.transpose(2, 3).flatten(3).flatten(1, 2)[:, : steps.shape[1], : x.shape[2]]
    return (torch.einsum("ngi,gci->ngc", rounded.double(), weight.double()) * row_steps * steps,)


def cross_attention(queries: Tensor, states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> Results:
    out = torch.zeros(queries.shape, dtype=torch.float64)
    lse = torch.zeros(len(queries), dtype=torch.float64)
    for asking, read in zip(_rows(cu_seqlens_q), _rows(cu_seqlens_k), strict=True):
        scores = queries[asking].double() @ states[read].double().T
        out[asking], lse[asking] = scores.softmax(1) @ states[read].double(), scores.logsumexp(1)
    return out, lse


def cross_attention_backward(
    grad_out: Tensor,
    queries: Tensor,
    lse: Tensor,
    states: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    grad_states: Tensor,
) -> Results:
    grad_queries, sums = torch.zeros(queries.shape, dtype=torch.float64), grad_states.double()
    for asking, read in zip(_rows(cu_seqlens_q), _rows(cu_seqlens_k), strict=True):
        q, s, g = queries[asking].double(), states[read].double(), grad_out[asking].double()
        weights = (q @ s.T).softmax(1)
        of_weights = g @ s.T
        slopes = weights * (of_weights - (weights * of_weights).sum(1, keepdim=True))
        grad_queries[asking] = slopes @ s
        sums[read] += weights.T @ g + slopes.T @ q
    return grad_queries, sums


RESULTS: dict[str, Callable[..., Results]] = {
    result.__name__: result
    for result in (
        assemble,
        assemble_backward,
        packed_attention,
        packed_attention_backward,
        attend_newest,
        rms_norm,
        rms_norm_backward,
        gated_gelu,
        gated_gelu_backward,
        product,
        grouped_product,
        product_where,
        product_add,
        pack_int8,
        product_int8,
        product_int8_add,
        pack_int16,
        product_int16,
        cross_attention,
        cross_attention_backward,
    )
}
"""Of `pack_states` nothing is said but through the two of cross-attention; they take the `states` in its place."""
