"""Products with a frozen matrix, compiled, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from compt_fast import native

TYPES = [torch.float32, torch.bfloat16]
# (rows, inner, columns): whole panels, parts of them, odd ones, many chunks of rows, a deep inner dimension in parts.
SIZES = [
    (1, 1, 1),
    (7, 5, 3),
    (6, 64, 64),
    (49, 66, 65),
    (50, 192, 576),
    (3, 4098, 130),
    (1030, 34, 70),
    (2100, 4101, 20),
    (0, 8, 8),
    (5, 8, 0),
]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert native.load(), native.status().why


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(mine: Tensor, right: Tensor, inner: int) -> None:
    """Within one rounding to mine's dtype, and those of `inner` fp32 sums of numbers around 1."""
    rtol = 2**-8 if mine.dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(mine.double(), right, rtol=rtol, atol=1e-6 * inner**0.5 * 4)


def sides(size: tuple[int, int, int], dtype: torch.dtype, back: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x, the weight as it lies for this way, and their product in float64."""
    rows, inner, columns = size
    x = drawn(rows, inner, dtype=dtype)
    weight = drawn(*((inner, columns) if back else (columns, inner)), dtype=dtype, seed=1)
    return x, weight, x.double() @ (weight if back else weight.T).double()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_product(size: tuple[int, int, int], back: bool, dtype: torch.dtype) -> None:
    x, weight, right = sides(size, dtype, back)
    y = torch.ops.compt_fast.product(x, weight, back)
    assert y.dtype == dtype and y.shape == right.shape
    close(y, right, size[1])
    close(torch.ops.compt_fast.product(x, weight, back, relu=True), right.clamp(min=0), size[1])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_product_where_a_relu_was_above_0(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, weight, right = sides(size, dtype, back=True)
    inner = drawn(*right.shape, dtype=dtype, seed=2).relu()
    close(torch.ops.compt_fast.product_where(x, weight, inner), right * (inner > 0), size[1])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_product_add(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, weight, right = sides(size, dtype, back=False)
    before = drawn(*right.shape, dtype=dtype, seed=2)
    total = before.clone()
    assert torch.ops.compt_fast.product_add(x, weight, total) is None
    close(total, before.double() + right, size[1])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(("inner", "columns"), [(40, 70), (5000, 70), (777, 1600), (390, 16)])
def test_a_row_has_the_same_bits_whatever_is_beside_it(
    inner: int, columns: int, back: bool, dtype: torch.dtype
) -> None:
    """A few rows read the matrix where it lies, more of them pack it."""
    x, weight, _ = sides((1500, inner, columns), dtype, back)
    y = torch.ops.compt_fast.product(x, weight, back)
    for first, last in ((0, 1), (5, 7), (9, 17), (30, 39), (5, 18), (777, 1500)):
        assert torch.equal(torch.ops.compt_fast.product(x[first:last], weight, back), y[first:last])
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.ops.compt_fast.product(x[order], weight, back), y[order])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 3, 8, 9, 200])
@pytest.mark.parametrize("size", [(12, 64, 96), (3, 5, 7), (2, 96, 64), (1, 400, 1030)])
def test_grouped_products_are_those_of_each_matrix(
    size: tuple[int, int, int], rows: int, back: bool, dtype: torch.dtype
) -> None:
    groups, inner, columns = size
    x = drawn(rows, groups, inner, dtype=dtype)
    weight = drawn(groups, *((inner, columns) if back else (columns, inner)), dtype=dtype, seed=1)
    y = torch.ops.compt_fast.grouped_product(x, weight, back)
    assert y.shape == (rows, groups, columns)
    for group in range(groups):
        alone = torch.ops.compt_fast.product(x[:, group].contiguous(), weight[group], back)
        assert torch.equal(y[:, group], alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 4)}, "x must be a dense tensor of 3 dimensions"),
        ({"x": torch.zeros(3, 5, 4)}, "x must have 2 parts a row, as many as weight has matrices, got 5"),
        ({"x": torch.zeros(3, 2, 6)}, "x must have 4 columns, as many as weight has columns, got 6"),
        ({"weight": torch.zeros(2, 6, 4).bfloat16()}, "weight must be Float, as x is, got BFloat16"),
    ],
)
def test_the_argument_of_grouped_products_at_fault_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.compt_fast.grouped_product(**{"x": torch.zeros(3, 2, 4), "weight": torch.zeros(2, 6, 4)} | change)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_not_finite_stays_so_and_in_its_row(dtype: torch.dtype) -> None:
    x, weight, right = sides((9, 32, 33), dtype, back=False)
    x[4, 7] = float("nan")
    y = torch.ops.compt_fast.product(x, weight, relu=True)
    assert y[4].isnan().all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    close(y[others], right[others].clamp(min=0), 32)
    inner = torch.ones(9, 33, dtype=dtype)
    assert torch.ops.compt_fast.product_where(x, weight.T.contiguous(), inner)[4].isnan().all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("inner", [96, 2000, 4000])
def test_threads_give_the_same_bits(inner: int, back: bool, dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    try:
        for rows in (1, 49, 53, 75, 100, 301):
            x, weight, right = sides((rows, inner, 130), dtype, back)
            found = []
            for threads in (1, 3, 8, 16):
                torch.set_num_threads(threads)
                found.append(torch.ops.compt_fast.product(x, weight, back))
            close(found[0], right, inner)
            assert all(torch.equal(y, found[0]) for y in found[1:])
    finally:
        torch.set_num_threads(before)


def test_which_types_it_multiplies_well() -> None:
    flags = torch.backends.cpu.get_cpu_capability()
    assert torch.ops.compt_fast.has_products(torch.float32) == flags.startswith("AVX512")
    assert not torch.ops.compt_fast.has_products(torch.float16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 5)}, "x must have 4 columns, as many as weight has columns, got 5"),
        ({"x": torch.zeros(3, 4).half()}, "x must be float32 or bfloat16, got Half"),
        ({"x": torch.zeros(4)}, "x must be a dense tensor of 2 dimensions"),
        ({"x": torch.zeros(4, 3).T}, "x must be contiguous"),
        ({"weight": torch.zeros(6, 4).bfloat16()}, "weight must be Float, as x is, got BFloat16"),
        ({"weight": torch.zeros(4, 6).T}, "weight must be contiguous"),
        ({"back": True}, "x must have 6 columns, as many as weight has rows, got 4"),
        ({"x": torch.zeros(3, 0), "weight": torch.zeros(6, 0)}, "weight must have an inner size of at least 1"),
    ],
)
def test_the_argument_at_fault_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.compt_fast.product(**{"x": torch.zeros(3, 4), "weight": torch.zeros(6, 4)} | change)


def test_the_third_tensor_at_fault_is_named() -> None:
    x, weight = torch.zeros(3, 4), torch.zeros(6, 4)
    with pytest.raises(ValueError, match="total must have 6 columns, got 5"):
        torch.ops.compt_fast.product_add(x, weight, torch.zeros(3, 5))
    with pytest.raises(ValueError, match="total is written to, and must not share memory with x"):
        torch.ops.compt_fast.product_add(x, torch.zeros(4, 4), x)
    with pytest.raises(ValueError, match="inner must have 3 rows, got 2"):
        torch.ops.compt_fast.product_where(x, weight.T.contiguous(), torch.zeros(2, 6))


def test_what_requires_a_gradient_is_refused_and_writing_is_noticed() -> None:
    x, weight, _ = sides((3, 4, 6), torch.float32, back=False)
    with pytest.raises(ValueError, match="x must not require a gradient"):
        torch.ops.compt_fast.product(x.clone().requires_grad_(), weight)
    total, leaf = torch.zeros(3, 6), torch.ones(3, 6, requires_grad=True)
    kept = (leaf * total).sum()
    torch.ops.compt_fast.product_add(x, weight, total)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_opcheck() -> None:
    x, weight, right = sides((5, 4, 6), torch.float32, back=False)
    ops = torch.ops.compt_fast
    opcheck(ops.product.default, (x, weight, False, True))
    opcheck(ops.product.default, (x, weight.T.contiguous(), True))
    opcheck(ops.grouped_product.default, (x[:, None], weight[None], False))
    opcheck(ops.product_where.default, (x, weight.T.contiguous(), right.float()))
    opcheck(ops.product_add.default, (x, weight, right.float()))
