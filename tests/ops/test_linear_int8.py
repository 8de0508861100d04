"""Products with a matrix in int8: both that compute them, and how far they are from the floats'."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compt_fast.ops import paths
from compt_fast.ops.linear_int8 import STEPS, Int8Linear, Int16Linear, int16_limit, quantise

DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(1, 1, 1), (13, 70, 33), (130, 192, 129)]


def sides(size: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    rows, inner, columns = size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, inner, generator=generator).to(dtype), torch.randn(columns, inner, generator=generator)


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Torch computes what is made now."""
    monkeypatch.setitem(paths.FAMILIES, "linear_int8", paths.Family())
    return monkeypatch


def test_a_row_is_rounded_to_the_nearest_of_its_steps() -> None:
    x = torch.tensor([[254.0, -1.0, 1.0, 3.0, -254.0], [0.0, 0.0, 0.0, 0.0, 0.0], [1e-20, 5e-21, 0.0, 0.0, -1e-20]])
    rounded, steps = quantise(x)
    assert rounded.dtype == torch.int8 and steps.shape == (3, 1)
    assert rounded.tolist() == [[127, 0, 0, 2, -127], [0] * 5, [127, 64, 0, 0, -127]]
    assert steps[0].item() == 2.0
    assert quantise(-x)[0].tolist() == (-rounded).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_entry_moves_by_more_than_half_a_step(dtype: torch.dtype) -> None:
    x = sides((40, 300, 1), dtype)[0].float() * torch.logspace(-10, 10, 40)[:, None]
    rounded, steps = quantise(x)
    assert ((rounded * steps.double() - x).abs() <= 0.5001 * steps).all()
    assert rounded.abs().max() == 127


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_extension_and_torch_agree_to_the_last_bit(
    size: tuple[int, int, int], dtype: torch.dtype, formula: pytest.MonkeyPatch
) -> None:
    x, weight = sides(size, dtype)
    plain = Int8Linear(weight)
    formula.undo()
    compiled = Int8Linear(weight)
    if torch.ops.compt_fast.has_products(torch.int8):
        assert compiled.weight.dtype == torch.int32 and plain.weight.dtype == torch.int8
    for relu in (False, True):
        assert torch.equal(compiled(x, relu), plain(x, relu)) and plain(x, relu).dtype == dtype
    totals = [torch.ones(size[0], size[2], dtype=dtype) for _ in range(2)]
    for linear, total in zip((compiled, plain), totals, strict=True):
        linear.add_(x, total)
    torch.testing.assert_close(*totals, rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=1e-5)


def test_the_product_is_as_near_as_eight_bits_are() -> None:
    x, weight = sides((200, 768, 100))
    right = x.double() @ weight.double().T
    assert (Int8Linear(weight)(x) - right).norm() / right.norm() < 0.015


def test_nothing_but_int8_is_kept_and_no_gradient_given() -> None:
    made = Int8Linear(sides((1, 128, 64))[1])
    kept = sum(tensor.numel() * tensor.element_size() for tensor in made.tensors)
    assert kept == 128 * 64 + 4 * 64
    with pytest.raises(RuntimeError, match="no gradient: train in fp32 or bf16"):
        made.backward(torch.zeros(1, 64))


@pytest.mark.parametrize("inner", [1, 2, 64, 768, 4096, 1 << 16])
def test_as_many_steps_of_int16_as_int32_has_room_for(inner: int) -> None:
    limit = int16_limit(inner)
    assert inner * limit * STEPS < 2**31 and (limit == 32767 or inner * (limit + 1) * STEPS >= 2**31)


@pytest.mark.parametrize("shape", [(200, 768), (200, 12, 64)])
def test_int16_is_as_near_as_its_matrix_is(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=generator), torch.randn(*shape[1:-1], 100, shape[-1], generator=generator)
    made = Int16Linear(weight)
    way = "ngi,gci->ngc" if len(shape) == 3 else "ni,ci->nc"
    right = torch.einsum(way, x.double(), weight.double())
    rounded, steps = quantise(weight)
    near = torch.einsum(way, x.double(), rounded.double() * steps)
    assert (made(x) - near).norm() < 2e-4 * right.norm() < 0.05 * (near - right).norm()
    kept = sum(tensor.numel() * tensor.element_size() for tensor in made.tensors)
    assert kept == made.weight.numel() * 2 + steps.numel() * 4 and made.weight.dtype == torch.int16
    assert torch.equal(made(x, relu=True), made(x).relu())
    total = torch.ones(right.shape)
    made.add_(x, total)
    assert torch.equal(total, 1 + made(x))
    with pytest.raises(RuntimeError, match="no gradient: train in fp32 or bf16"):
        made.backward(x)
