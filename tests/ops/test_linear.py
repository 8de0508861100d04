"""Products with frozen matrices on a GPU, where they end in sums and relu, against their formula."""

from __future__ import annotations

import pytest
import torch

from compt_fast.ops.linear import FrozenLinear, product_by_head

pytestmark = pytest.mark.gpu
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_a_product_with_relu_and_one_that_is_added(tokens: int) -> None:
    x, weight, total = (torch.randn(size, device="cuda") for size in ((tokens, 24), (40, 24), (tokens, 40)))
    linear, wanted = FrozenLinear(weight), x @ weight.T
    torch.testing.assert_close(linear(x, relu=True), wanted.relu(), **CLOSE)
    torch.testing.assert_close(linear(x), wanted, **CLOSE)
    before = total.clone()
    linear.add_(x, total)
    torch.testing.assert_close(total, before + wanted, **CLOSE)


@pytest.mark.parametrize("tokens", [0, 1, 9])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_by_head_are_written_where_they_stand(tokens: int, transposed: bool) -> None:
    matrices = torch.randn(3, 8, 16, device="cuda")
    x = torch.randn(tokens, 3, 8 if transposed else 16, device="cuda")
    found = product_by_head(x, matrices, transposed=transposed)
    wanted = torch.einsum("mhc,hcd->mhd" if transposed else "mhd,hcd->mhc", x, matrices)
    assert found.is_contiguous()
    torch.testing.assert_close(found, wanted, **CLOSE)
