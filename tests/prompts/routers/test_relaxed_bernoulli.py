import math

import pytest
import torch

from compt_fast.prompts.routers.relaxed_bernoulli import anneal, relaxed_bernoulli


def test_relaxed_bernoulli_formula():
    z, u = torch.tensor([[[0.7, -2.0]]]), torch.tensor([[[0.2, 0.9]]])
    w = relaxed_bernoulli(z, torch.tensor([0.5], dtype=torch.float64), u)
    assert w.dtype == torch.float32  # the parameters' dtype, whatever the schedule's
    for i in range(2):
        a, b = z[0, 0, i].item(), u[0, 0, i].item()
        expected = 1 / (1 + math.exp(-(a + math.log(b / (1 - b))) / 0.5))
        assert w[0, 0, i].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [5.0, 0.1])
def test_relaxed_bernoulli_crosses_one_half_with_the_probability_of_its_logit(temperature):
    n = 40_000
    u = torch.rand(1, 1, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = relaxed_bernoulli(torch.full_like(u, 0.8), torch.tensor([temperature]), u)
    share = (w > 0.5).double().mean().item()
    assert share == pytest.approx(1 / (1 + math.exp(-0.8)), abs=4 * 0.5 / math.sqrt(n))


@pytest.mark.parametrize("temperature", [5.0, 0.1])
def test_relaxed_bernoulli_with_noise_of_zero_and_one(temperature):
    z = torch.zeros(1, 1, 2, requires_grad=True)
    w = relaxed_bernoulli(z, torch.tensor([temperature]), torch.tensor([[[0.0, 1.0]]]))
    extreme = 1 / (1 + math.exp(math.log(2**-23) / temperature))  # fp32's step stands for 0
    assert w.flatten().tolist() == pytest.approx([1 - extreme, extreme])
    w.sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_anneal_is_linear_over_three_fifths_of_each_runs_steps():
    steps = torch.tensor([100, 100, 100, 100, 10], dtype=torch.float64)
    temperature = anneal(torch.tensor([0, 30, 60, 99, 3], dtype=torch.float64), steps)
    assert temperature.tolist() == pytest.approx([5.0, 2.55, 0.1, 0.1, 2.55])
