"""The mean-token cosine."""

from __future__ import annotations

import math

import pytest
import torch

from compt_fast.prompts.similarity import mean_cosine


def test_it_is_the_cosine_of_means() -> None:
    a, b = torch.randn(3, 4, 6), torch.randn(2, 7, 6)
    found = mean_cosine(a, b)
    assert found.dtype == torch.float64 and found.shape == (3, 2)
    for p in range(3):
        for q in range(2):
            x, y = (t.double().mean(0).tolist() for t in (a[p], b[q]))
            dot = sum(i * j for i, j in zip(x, y, strict=True))
            expected = dot / math.sqrt(sum(i * i for i in x) * sum(j * j for j in y))
            assert float(found[p, q]) == pytest.approx(expected)


def test_a_prompt_is_wholly_like_itself_and_its_multiples_and_a_zero_is_like_none() -> None:
    a = torch.randn(1, 4, 6)
    assert float(mean_cosine(a, 30 * a)) == pytest.approx(1)
    assert float(mean_cosine(a, -a)) == pytest.approx(-1)
    assert float(mean_cosine(a, torch.zeros(1, 2, 6))) == 0
