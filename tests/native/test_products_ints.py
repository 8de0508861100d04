"""Products of integers, compiled: their sums to the last bit, whatever instructions sum them, and their floats."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.utils.cpp_extension import include_paths

from compt_fast import native
from compt_fast.native import library
from compt_fast.ops.linear_int8 import STEPS, int16_limit, quantise

TYPES = [torch.float32, torch.bfloat16]
# (rows, inner, columns): whole units and panels, parts of them, odd ones, several chunks of rows.
SIZES = [
    (1, 1, 1),
    (7, 5, 3),
    (6, 64, 64),
    (24, 192, 576),
    (49, 66, 65),
    (3, 4098, 130),
    (1030, 34, 70),
    (401, 515, 129),
]
EMPTY = [(0, 8, 8), (5, 8, 0)]
NOTHING = [(0, 2, 8, 8), (2, 0, 8, 8)]
# Groups of parts of a row, beside those sizes.
GROUPED = [(1, 12, 64, 96), (9, 3, 5, 7), (40, 2, 97, 65), (420, 1, 64, 64), (3, 1, 1031, 200), *NOTHING]
INTS = (torch.int8, torch.int16)  # of x; the matrix is in int8
INSTRUCTIONS = ("-march=x86-64", "-mavx2", "-march=native")


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert native.load(), native.status().why


@pytest.fixture(scope="module", params=INSTRUCTIONS)
def sums(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """The arithmetic of csrc/ints.h, for the instructions that a flag allows."""
    made = tmp_path_factory.mktemp("ints") / "driver.so"
    folders = [f"-I{library.sources()}", *(f"-I{path}" for path in include_paths())]
    source = Path(__file__).parent / "int_driver.cpp"
    command = [os.environ.get("CXX", "c++"), "-O2", "-std=c++20", request.param, "-shared", "-fPIC", *folders]
    subprocess.run([*command, str(source), "-o", str(made)], check=True)
    yield ctypes.CDLL(str(made))


def call(function: Any, *arguments: Tensor | int) -> None:
    """A C function of pointers to tensors and of sizes."""
    function(*[ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a) for a in arguments])


def limit_of(dtype: torch.dtype, inner: int) -> int:
    return STEPS if dtype == torch.int8 else int16_limit(inner)


def function(sums: ctypes.CDLL, name: str, dtype: torch.dtype) -> Any:
    return getattr(sums, f"{name}_{str(dtype).removeprefix('torch.')}")


def whole(rows: int, inner: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Integers, the largest one or its negative in every row, so that it is what its own floats are rounded to."""
    limit = limit_of(dtype, inner)
    drawn = torch.randint(-limit, limit + 1, (rows, inner), generator=torch.Generator().manual_seed(seed))
    drawn[:, seed % max(inner, 1)] = limit - 2 * limit * (torch.arange(rows) % 2)
    return drawn.to(dtype)


def right(x: Tensor, weight: Tensor) -> Tensor:
    """The sums in float64, which holds them exactly."""
    return x.double() @ weight.double().T


def sides(size: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random x, and a matrix rounded to int8, its steps, and it as the extension packs it."""
    rows, inner, columns = size
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, inner, generator=generator).to(dtype)
    weight, steps = quantise(torch.randn(columns, inner, generator=generator))
    return x, weight, steps.flatten(), torch.ops.compt_fast.pack_int8(weight)


def expected(x: Tensor, weight: Tensor, steps: Tensor) -> Tensor:
    """The product in fp32, of integers that are exact."""
    rounded, row_steps = quantise(x)
    return right(rounded, weight).float() * row_steps * steps


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.parametrize("size", SIZES)
def test_sums_are_exact_whatever_the_instructions(
    size: tuple[int, int, int], dtype: torch.dtype, sums: ctypes.CDLL
) -> None:
    rows, inner, columns = size
    x, weight = whole(rows, inner, dtype), whole(columns, inner, torch.int8, seed=1)
    found = torch.empty(rows, columns, dtype=torch.int32)
    call(function(sums, "sums", dtype), x.float(), weight, *size, found)
    assert torch.equal(found.double(), right(x, weight))


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.parametrize("inner", [2, 768, 1 << 16])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_the_largest_sums_are_exact(signs: tuple[int, int], inner: int, dtype: torch.dtype, sums: ctypes.CDLL) -> None:
    """Where the sums, shifted or not, come nearest to int32's bounds."""
    x = torch.full((2, inner), limit_of(dtype, inner) * signs[0], dtype=dtype)
    weight = torch.full((2, inner), STEPS * signs[1], dtype=torch.int8)
    found = torch.empty(2, 2, dtype=torch.int32)
    call(function(sums, "sums", dtype), x.float(), weight, 2, inner, 2, found)
    assert torch.equal(found.double(), right(x, weight))


@pytest.mark.parametrize("dtype", INTS)
def test_rows_are_rounded_as_the_formula_rounds_them(dtype: torch.dtype, sums: ctypes.CDLL) -> None:
    x = torch.randn(50, 133, generator=torch.Generator().manual_seed(3)) * torch.logspace(-36, 30, 50)[:, None]
    limit = limit_of(dtype, 133)
    x[7], x[8, :5] = 0, torch.tensor([limit, 0.5, 1.5, -2.5, -126.5])  # halves go to even
    x[8, 5:] = 0
    found, steps = torch.empty(50, 133, dtype=dtype), torch.empty(50, 1)
    call(function(sums, "round_rows", dtype), x, 50, 133, found, steps)
    wanted, wanted_steps = quantise(x, limit)
    assert torch.equal(found, wanted) and torch.equal(steps, wanted_steps)
    assert found[8, :5].tolist() == [limit, 0, 2, -2, -126]


def test_this_machine_s_instructions_are_used() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    quick = "avx512_vnni" in flags and "amx_int8" not in flags
    assert torch.ops.compt_fast.has_products(torch.int8) == quick


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [*SIZES, *EMPTY])
def test_product(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, weight, steps, packed = sides(size, dtype)
    wanted = expected(x, weight, steps)
    y = torch.ops.compt_fast.product_int8(x, packed, steps)
    assert y.dtype == dtype and torch.equal(y, wanted.to(dtype))
    assert torch.equal(torch.ops.compt_fast.product_int8(x, packed, steps, relu=True), wanted.relu().to(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [*SIZES, *EMPTY])
def test_product_add(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, weight, steps, packed = sides(size, dtype)
    wanted = expected(x, weight, steps)
    before = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    total = before.clone()
    assert torch.ops.compt_fast.product_int8_add(x, packed, steps, total) is None
    # rounded once or twice, as the compiler joins multiplication and addition
    bound = {"rtol": 2**-8, "atol": 1e-6} if dtype == torch.bfloat16 else {"rtol": 1e-6, "atol": 1e-5}
    torch.testing.assert_close(total.double(), before.double() + wanted.double(), **bound)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_row_has_the_same_bits_whatever_is_beside_it_and_whoever_computes_it(dtype: torch.dtype) -> None:
    x, _, steps, packed = sides((1500, 70, 130), dtype)
    y = torch.ops.compt_fast.product_int8(x, packed, steps)
    for first, last in ((0, 1), (5, 18), (777, 1500)):
        assert torch.equal(torch.ops.compt_fast.product_int8(x[first:last], packed, steps), y[first:last])
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            assert torch.equal(torch.ops.compt_fast.product_int8(x[order], packed, steps), y[order])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_and_in_its_row(wrong: float, dtype: torch.dtype) -> None:
    x, weight, steps, packed = sides((9, 32, 33), dtype)
    x[4, 7] = wrong
    y = torch.ops.compt_fast.product_int8(x, packed, steps)
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert not y[4].isfinite().any()
    assert torch.equal(y[others], expected(x[others], weight, steps).to(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 4).half()}, "x must be float32 or bfloat16, got Half"),
        ({"x": torch.zeros(4, 3).T}, "x must be contiguous"),
        ({"x": torch.zeros(3, 9)}, "panels must have 3 units, for as many columns as x has, got 1"),
        ({"x": torch.zeros(3, 0)}, "x must have an inner size of at least 1"),
        ({"x": torch.zeros(1, 65537)}, "x must have an inner size of at most 65536, got 65537"),
        ({"panels": torch.zeros(1, 1, 64)}, "panels must be a dense Int tensor of 3 dimensions, got Float"),
        ({"panels": torch.zeros(1, 1, 3, dtype=torch.int32)}, "panels must have panels of"),
        ({"steps": torch.zeros(999)}, "panels must have .* panels, for as many columns as steps has, got 1"),
        ({"steps": torch.zeros(2, 3)}, "steps must be a dense Float tensor of 1 dimensions"),
    ],
)
def test_the_argument_at_fault_is_named(change: dict[str, Any], message: str) -> None:
    _, _, steps, packed = sides((3, 4, 6))
    with pytest.raises(ValueError, match=message):
        torch.ops.compt_fast.product_int8(**{"x": torch.zeros(3, 4), "panels": packed, "steps": steps} | change)


def test_the_others_arguments_at_fault_are_named() -> None:
    x, _, steps, packed = sides((3, 4, 6))
    with pytest.raises(ValueError, match="weight must be a dense Char tensor of 2 dimensions, got Float"):
        torch.ops.compt_fast.pack_int8(x)
    with pytest.raises(ValueError, match="total must have 6 columns, got 5"):
        torch.ops.compt_fast.product_int8_add(x, packed, steps, torch.zeros(3, 5))
    square = sides((3, 4, 4))
    with pytest.raises(ValueError, match="total is written to, and must not share memory with x"):
        torch.ops.compt_fast.product_int8_add(square[0], square[3], square[2], square[0])
    with pytest.raises(ValueError, match="x must not require a gradient"):
        torch.ops.compt_fast.product_int8(x.clone().requires_grad_(), packed, steps)


def test_opcheck() -> None:
    x, weight, steps, packed = sides((5, 7, 6))
    ops = torch.ops.compt_fast
    opcheck(ops.pack_int8.default, (weight,))
    opcheck(ops.product_int8.default, (x, packed, steps, True))
    opcheck(ops.product_int8_add.default, (x, packed, steps, torch.zeros(5, 6)))


def grouped(size: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random x (rows, groups, inner), matrices rounded to int8, their steps, and they as the extension packs them."""
    rows, groups, inner, columns = size
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, groups, inner, generator=generator).to(dtype)
    weight, steps = quantise(torch.randn(groups, columns, inner, generator=generator))
    return x, weight, steps[..., 0], torch.ops.compt_fast.pack_int16(weight)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", GROUPED)
def test_product_int16(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    x, weight, steps, packed = grouped(size, dtype)
    y = torch.ops.compt_fast.product_int16(x, packed, steps)
    rounded, row_steps = quantise(x, int16_limit(size[2]))
    sums = torch.einsum("ngi,gci->ngc", rounded.double(), weight.double())
    assert packed.nbytes == 2 * packed.numel() and packed.dtype == torch.int16
    assert y.dtype == dtype and torch.equal(y, (sums.float() * row_steps * steps).to(dtype))
    for rows in (1, 8, 24, 25):  # read as they lie, or widened first
        assert torch.equal(torch.ops.compt_fast.product_int16(x[-rows:], packed, steps), y[-rows:])


@pytest.mark.parametrize("rows", [2, 26])
@pytest.mark.parametrize("inner", [768, 1 << 16])
def test_the_largest_products_of_int16(inner: int, rows: int) -> None:
    """Where int32 has no room for one more step."""
    signs = 1 - 2 * (torch.arange(rows) % 2)
    x = signs[:, None, None] * torch.ones(rows, 1, inner)
    packed = torch.ops.compt_fast.pack_int16(torch.full((1, 3, inner), STEPS, dtype=torch.int8))
    y = torch.ops.compt_fast.product_int16(x, packed, torch.ones(1, 3))
    sums = float(int16_limit(inner) * STEPS * inner) * signs.float()
    assert torch.equal(y[:, 0], ((sums / int16_limit(inner))[:, None]).expand(-1, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 4)}, "x must be a dense tensor of 3 dimensions"),
        ({"x": torch.zeros(3, 5, 4)}, "steps must have 5 rows, as many as x has groups, got 2"),
        ({"x": torch.zeros(3, 2, 9)}, "panels must have 5 units, for as many columns as x has, got 2"),
        ({"panels": torch.zeros(1, 1, 2, 64, dtype=torch.int16)}, "panels must have 2 groups, as many as x has, got 1"),
        ({"panels": torch.zeros(2, 1, 2, 3, dtype=torch.int16)}, "panels must have panels of"),
        ({"panels": torch.zeros(2, 1, 2, 64, dtype=torch.int32)}, "panels must be a dense Short tensor of 4"),
        ({"steps": torch.zeros(2, 999)}, "panels must have .* panels a group, for as many columns as steps has, got 1"),
    ],
)
def test_the_argument_of_int16_at_fault_is_named(change: dict[str, Any], message: str) -> None:
    _, _, steps, packed = grouped((3, 2, 4, 6), torch.float32)
    with pytest.raises(ValueError, match=message):
        torch.ops.compt_fast.product_int16(**{"x": torch.zeros(3, 2, 4), "panels": packed, "steps": steps} | change)


def test_opcheck_of_int16() -> None:
    x, weight, steps, packed = grouped((3, 2, 7, 6), torch.float32)
    with pytest.raises(ValueError, match="weight must be a dense Char tensor of 3 dimensions, got Float"):
        torch.ops.compt_fast.pack_int16(x)
    opcheck(torch.ops.compt_fast.pack_int16.default, (weight,))
    opcheck(torch.ops.compt_fast.product_int16.default, (x, packed, steps))
