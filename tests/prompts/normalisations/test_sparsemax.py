import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compt_fast.prompts.normalisations.sparsemax import sparsemax

ROUGH = st.integers(-40, 40).map(lambda i: i / 8)  # eighths: ties and boundary cases are common
FINE = st.floats(-5, 5, width=64)


def project(z: list[float]) -> list[float]:
    """The point of the simplex nearest to z, by trying every support."""
    best: tuple[float, list[float]] = (math.inf, [])
    for size in range(1, len(z) + 1):
        for support in itertools.combinations(range(len(z)), size):
            shift = (1 - sum(z[i] for i in support)) / size
            p = [z[i] + shift if i in support else 0.0 for i in range(len(z))]
            distance = sum((a - b) ** 2 for a, b in zip(p, z, strict=True))
            if min(p) >= 0 and distance < best[0]:
                best = (distance, p)
    return best[1]


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.lists(ROUGH, min_size=1, max_size=6), st.lists(FINE, min_size=1, max_size=6)))
def test_sparsemax_is_the_projection_onto_the_simplex(z):
    p = sparsemax(torch.tensor(z, dtype=torch.float64))
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert p.min().item() >= 0
    assert p.tolist() == pytest.approx(project(z), abs=1e-9)


def test_sparsemax_zeros_are_exact_and_ties_are_even():
    z = torch.tensor([[2.0, 0.5, -1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.3]])
    expected = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3] * 3]
    torch.testing.assert_close(sparsemax(z), torch.tensor(expected), rtol=0, atol=1e-7)
    assert (sparsemax(z) == 0).sum() == 5


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-3000, 3000), min_size=2, max_size=12, unique=True), st.integers(0, 99))
def test_sparsemax_gradient_is_the_centred_one_of_the_support(grid, seed):
    # multiples of an irrational step, so that no entry stands on the boundary of the support
    z = torch.tensor(grid, dtype=torch.float64) * math.sqrt(2) / 1000
    z.requires_grad_()
    g = torch.randn(len(grid), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p = sparsemax(z)
    (dz,) = torch.autograd.grad(p, z, g)
    support = p > 0
    expected = torch.where(support, g - g[support].mean(), 0)
    torch.testing.assert_close(dz, expected, rtol=0, atol=1e-12)


def test_sparsemax_gradcheck():
    z = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(sparsemax, (z.requires_grad_(),))
    assert torch.autograd.gradgradcheck(sparsemax, (z,))


def test_sparsemax_of_large_logits_in_fp32():
    z = torch.tensor([10000.25, 10000.0, 9998.0])
    torch.testing.assert_close(sparsemax(z), torch.tensor([0.625, 0.375, 0.0]), rtol=0, atol=0)


def test_sparsemax_lets_nan_through_to_its_own_row_only():
    z = torch.tensor([[0.0, float("nan")], [0.0, 3.0]])
    p = sparsemax(z)
    assert p[0].isnan().all()
    assert p[1].tolist() == [0.0, 1.0]
