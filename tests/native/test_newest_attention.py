"""Attention of the newest token of each row, compiled, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from compt_fast import native
from tests.helpers.operators import attend_newest

TYPES = [torch.float32, torch.bfloat16]
# (rows, heads, width, room, written): nothing before, a full room, odd widths, more than a vector of tokens, no row.
SIZES = [
    (1, 12, 64, 16, 0),
    (8, 12, 64, 16, 15),
    (3, 2, 5, 4, 2),
    (40, 3, 33, 70, 69),
    (5, 1, 1, 2, 1),
    (0, 2, 8, 4, 3),
]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert native.load(), native.status().why


def drawn(size: tuple[int, int, int, int, int], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Arguments; what is not written is not a number."""
    rows, heads, width, room, written = size
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(rows, 3, heads, width, generator=generator).to(dtype)
    cache = torch.randn(rows, room, 2, heads, width, generator=generator).to(dtype)
    cache[:, written:] = float("nan")
    return {
        "qkv": qkv,
        "cache": cache,
        "written": written,
        "bias": torch.randn(heads, 2 * room + 3, generator=generator),
    }


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_result_and_cache(size: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
    given = drawn(size, dtype)
    right, after = attend_newest(**given)
    out = torch.ops.compt_fast.attend_newest(**given)
    assert out.dtype == dtype and torch.equal(given["cache"].double().nan_to_num(7), after.nan_to_num(7))
    tolerance = 2**-8 if dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(out.double(), right, rtol=tolerance, atol=tolerance)


def test_a_row_has_the_same_bits_whatever_is_beside_it_and_whoever_computes_it() -> None:
    given = drawn((300, 12, 64, 40, 39))
    out = torch.ops.compt_fast.attend_newest(**given)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for rows in (slice(0, 1), slice(7, 30), slice(0, 300)):
                part: dict[str, Any] = {name: given[name][rows].clone() for name in ("qkv", "cache")}
                assert torch.equal(torch.ops.compt_fast.attend_newest(**given | part), out[rows])
    finally:
        torch.set_num_threads(before)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    given = drawn((3, 2, 5, 4, 2))
    out = torch.ops.compt_fast.attend_newest(**given).clone()
    given["qkv"][1, 1, 0, 2] = float("nan")
    spoilt = torch.ops.compt_fast.attend_newest(**given)
    assert spoilt[1, 0].isnan().all()
    assert torch.equal(spoilt[[0, 2]], out[[0, 2]])


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": zeros(3, 2, 2, 5)}, r"qkv must be \(rows, 3, heads, width\), got"),
        ({"cache": zeros(2, 4, 2, 2, 5)}, "cache must have 3 rows, as many as qkv, got 2"),
        ({"cache": zeros(3, 4, 2, 2, 5).bfloat16()}, "cache must be Float, as qkv is, got BFloat16"),
        ({"cache": zeros(3, 4, 3, 2, 5)}, r"cache must be \(rows, room, 2, heads, width\)"),
        ({"cache": zeros(3, 4, 2, 1, 5)}, "cache must have 2 heads, as qkv has, got 1"),
        ({"cache": zeros(3, 4, 2, 2, 6)}, "cache must be 5 wide, as qkv is, got 6"),
        ({"cache": zeros(3, 4, 2, 5, 2).mT}, "cache must be contiguous"),
        ({"written": 4}, "cache must have room for more than the 4 tokens that are written, got 4"),
        ({"written": -1}, "written must not be negative, got -1"),
        ({"bias": zeros(2, 3)}, "bias must have 2 W - 1 columns, W at least 2 and 1, got 3"),
        ({"bias": zeros(2, 6)}, "bias must have 2 W - 1 columns, got 6"),
        ({"bias": zeros(3, 7)}, "bias must have a row for each head, 2, got 3"),
        ({"bias": zeros(2, 7).double()}, "bias must be float32, got Double"),
        ({"qkv": zeros(3, 3, 2, 5).requires_grad_()}, "qkv must not require a gradient"),
    ],
)
def test_the_argument_at_fault_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.compt_fast.attend_newest(**drawn((3, 2, 5, 4, 2)) | change)


def test_opcheck() -> None:
    given = drawn((3, 2, 5, 4, 2))
    given["cache"][:, 2:] = 0
    opcheck(torch.ops.compt_fast.attend_newest.default, tuple(given.values()))
