"""Attention of the newest token of each row: formula, extension and kernel against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compt_fast import native
from compt_fast.kernels import HAS_TRITON
from compt_fast.ops import paths
from compt_fast.ops.newest_attention import attend_newest
from tests.helpers.compositions import DEVICE

WAYS = ["formula", "compiled", pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason="no Triton"))]
SIZES = [(1, 1, 1), (2, 3, 16), (3, 1, 20)]  # rows, heads, width


def by_hand(qkv: Tensor, before: list[Tensor], bias: Tensor) -> Tensor:
    """The result (n, H, c) in float64, with the keys and values (n, 2, H, c) of each token `before`."""
    q, *newest = qkv.double().unbind(1)
    k, v = (torch.stack([*(kv[:, i].double() for kv in before), newest[i]], 1) for i in range(2))
    middle, written = bias.shape[1] // 2, len(before)
    scores = torch.einsum("nhc,nthc->nht", q, k) + bias[:, middle - written : middle + 1].double()
    return torch.einsum("nht,nthc->nhc", torch.softmax(scores, -1), v)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("rows", "heads", "width"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
def test_token_after_token(
    way: str, rows: int, heads: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "compiled":
        monkeypatch.setattr(native, "load", lambda: False)
    if way == "triton":
        monkeypatch.setattr(paths, "unavailable", lambda device: "")
    elif way == "formula":
        monkeypatch.setattr(paths, "unavailable", lambda device: "not here")
    device = torch.device("cpu") if way == "compiled" else DEVICE
    generator = torch.Generator().manual_seed(rows)
    room = 19  # more than a tile of keys
    cache = torch.full((rows, room, 2, heads, width), torch.nan, dtype=dtype, device=device)
    bias = torch.randn(heads, 2 * room - 1, generator=generator).to(device)
    before: list[Tensor] = []
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for written in range(room):
        qkv = torch.randn(rows, 3, heads, width, generator=generator).to(device, dtype)
        if written not in (0, 1, 2, 15, 16, 17, room - 1):  # the kernel takes long in the interpreter
            cache[:, written] = qkv[:, 1:]
            before.append(qkv[:, 1:])
            continue
        out = attend_newest(qkv, cache, written, bias)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), by_hand(qkv, before, bias), rtol=tolerance, atol=tolerance)
        assert torch.equal(cache[:, written], qkv[:, 1:]) and cache[:, written + 1 :].isnan().all()
        before.append(qkv[:, 1:])


def test_a_row_that_is_not_finite_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(native, "load", lambda: False)
    monkeypatch.setattr(paths, "unavailable", lambda device: "")
    qkv, cache = torch.randn(3, 3, 2, 8, device=DEVICE), torch.randn(3, 4, 2, 2, 8, device=DEVICE)
    qkv[1] = torch.nan
    out = attend_newest(qkv, cache, 2, torch.zeros(2, 7, device=DEVICE))
    assert out.isfinite().flatten(1).all(1).tolist() == [True, False, True]
