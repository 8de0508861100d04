"""The update of a cohort against AdamW's formula in float64, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from compt_fast import kernels
from compt_fast.kernels import adamw
from compt_fast.kernels.launching import recorded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ALIGNED = ((3, 4, 7), (2500,), (4,), (4, 1))
ODD = ((4, 4, 4), (3, 5, 7), (2500,), (1,))  # sizes that four numbers a load do not divide, and one before them
RATES = (0.1, 0.02, 0.3, 0.0)
OURS, TORCHS = 1e-5, 5e-5  # relative errors: on a GPU torch's fused update rounds its factors to fp32
R = 3
Step = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less for the interpreter to do: several blocks a part, and a part without one."""
    monkeypatch.setattr(adamw, "BLOCK", 512)
    monkeypatch.setattr(adamw, "PARTS", 4)


def tensors(seed: int, shapes: tuple[tuple[int, ...], ...] = ODD, runs: int = R) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(runs, *shape, generator=generator).to(DEVICE) for shape in shapes]


def groups_of(shapes: tuple[tuple[int, ...], ...] = ODD) -> list[list[Tensor]]:
    """Parameters, gradients, first and second moments."""
    return [*(tensors(seed, shapes) for seed in range(3)), [v.square() for v in tensors(3, shapes)]]


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(params=["torch", "kernel"])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Step:
    """`adamw.step` on either path, on whatever device there is."""
    refused = {"torch": "not here", "kernel": ""}[request.param]
    monkeypatch.setattr(adamw, "unavailable", lambda device: refused)
    return adamw.step


def one(
    p: float, g: float, m: float, v: float, *, rate: float, decay: float, taken: float, scale: float
) -> list[float]:
    """AdamW of one number."""
    g *= scale
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g * g
    p *= 1 - rate * decay
    p -= rate * (m / (1 - 0.9 ** (taken + 1))) / (math.sqrt(v / (1 - 0.999 ** (taken + 1))) + 1e-8)
    return [p, m, v]


def test_a_gradient_that_two_parameters_share_is_clipped_once(step: Step) -> None:
    options = {
        "rates": [numbers(0.1, 0.2, 0.3)] * 2,
        "decay": numbers(0, 0, 0),
        "clip": numbers(0.5, 1e9, 0.1),
        "taken": numbers(0, 3, 9),
        "healthy": torch.ones(R, dtype=torch.bool, device=DEVICE),
    }
    grad = tensors(1, ((7,),))[0]
    found = []
    for grads in (
        [grad.clone(), grad.clone()],
        [grad.clone()] * 2,
        [(own := grad.clone())[:, None], own.unsqueeze(-1)],
    ):
        groups = [tensors(seed, ((7,), (7,))) for seed in (0, 2, 3)]
        shaped = [
            [tensor.view(gradient.shape) for tensor, gradient in zip(group, grads, strict=True)] for group in groups
        ]
        norm, _ = step(shaped[0], grads, shaped[1], [v.square() for v in shaped[2]], **options)
        found.append([norm, *(tensor for group in groups for tensor in group)])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("shapes", [ALIGNED, ODD], ids=["aligned", "odd"])
def test_every_run_has_its_own_rate_clip_and_count(step: Step, shapes: Any, request: pytest.FixtureRequest) -> None:
    close = TORCHS if DEVICE == "cuda" and request.node.callspec.params["step"] == "torch" else OURS
    params, grads, first, second = groups_of(shapes)
    before = [[t.cpu().double() for t in group] for group in (params, grads, first, second)]
    rates = [numbers(*(rate * (run + 1) for run in range(R))) for rate in RATES]
    decay, clip, taken = numbers(0.01, 0.0, 0.1), numbers(1.0, 1e9, 5.0), numbers(0, 7, 900)
    healthy = torch.ones(R, dtype=torch.bool, device=DEVICE)
    options = {"rates": rates, "decay": decay, "clip": clip, "taken": taken, "healthy": healthy}
    norm, updated = step(params, grads, first, second, **options)
    assert updated.all()
    for run in range(R):
        length = math.sqrt(sum(g[run].square().sum().item() for g in before[1]))
        assert norm[run].item() == pytest.approx(length, rel=1e-5)
        own = {"decay": decay[run].item(), "taken": taken[run].item(), "scale": min(1.0, clip[run].item() / length)}
        for i, rate in enumerate(rates):
            for place in range(0, params[i][run].numel(), 37):
                values = [group[i][run].flatten()[place].item() for group in before]
                found = [group[i][run].flatten()[place].item() for group in (params, first, second)]
                assert found == pytest.approx(one(*values, rate=rate[run].item(), **own), rel=close, abs=close / 10)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_run_that_is_not_finite_or_not_healthy_stays_as_it_is(step: Step, bad: float) -> None:
    groups = groups_of()
    groups[1][2][0, 2400] = bad
    before = [[t.clone() for t in group] for group in groups]
    healthy = torch.tensor([True, False, True], device=DEVICE)
    same = numbers(0.1, 0.1, 0.1)
    norm, updated = step(*groups, rates=[same] * 4, decay=same, clip=10 * same, taken=0 * same, healthy=healthy)
    assert updated.tolist() == [False, False, True]
    assert not norm[0].isfinite() and norm[1:].isfinite().all()
    for group in (0, 2, 3):
        for tensor, value in zip(groups[group], before[group], strict=True):
            assert torch.equal(tensor[:2], value[:2])
    assert all((groups[0][i][2] != before[0][i][2]).all() for i in range(len(ODD)))


def trained(steps: int = 10) -> list[Tensor]:
    """Parameters after steps towards a minimum that differs from number to number."""
    params, goals = tensors(0, runs=2), tensors(1, runs=2)
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for taken in range(steps):
        adamw.step(
            params, [2 * (p - goal) for p, goal in zip(params, goals, strict=True)], first, second,
            rates=[numbers(rate, rate / 2) for rate in RATES], decay=numbers(0.01, 0.01),
            clip=numbers(1.0, 2.0), taken=numbers(taken, taken),
            healthy=torch.ones(2, dtype=torch.bool, device=DEVICE),
        )  # fmt: skip
    return params


def test_both_paths_agree_over_steps_and_the_kernel_repeats_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for refused in ("", "", "not here"):
        monkeypatch.setattr(adamw, "unavailable", lambda device, why=refused: why)
        found.append(trained())
    for kernel, again, other in zip(*found, strict=True):
        assert torch.equal(kernel, again)
        torch.testing.assert_close(kernel, other, rtol=1e-5, atol=1e-6 if DEVICE == "cpu" else 1e-5)


def test_a_runs_bits_do_not_depend_on_the_others(step: Step) -> None:
    together, alone = groups_of(), [[t[1:2].clone() for t in group] for group in groups_of()]
    for groups, runs in ((together, 3), (alone, 1)):
        same = numbers(*[0.1] * runs)
        healthy = torch.ones(runs, dtype=torch.bool, device=DEVICE)
        step(*groups, rates=[same] * 4, decay=same, clip=same, taken=same, healthy=healthy)
    for group in (0, 2, 3):
        assert all(torch.equal(a[1:2], b) for a, b in zip(together[group], alone[group], strict=True))


def test_the_kernel_takes_two_launches_and_no_other_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw, "unavailable", lambda device: "")
    same = numbers(0.1)
    options = {"rates": [same], "decay": same, "clip": same, "taken": same}
    healthy = torch.ones(1, dtype=torch.bool, device=DEVICE)

    def step_of(p: Tensor) -> None:
        adamw.step([p], [torch.ones_like(p)], [p.clone()], [p.clone()], **options, healthy=healthy)

    with recorded() as found:
        step_of(torch.randn(1, 3, device=DEVICE))
    assert [launch.kernel.fn.__name__ for launch in found] == ["squares", "update"]
    for odd in (torch.randn(1, 4, 6).transpose(1, 2), torch.randn(1, 3).double()):
        with pytest.raises(ValueError, match="contiguous fp32"):
            step_of(odd.to(DEVICE))


def test_why_no_kernel_runs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cpu" in kernels.unavailable(torch.device("cpu"))
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "8.0" in kernels.unavailable(cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert kernels.unavailable(cuda) == ""
    monkeypatch.setattr(kernels, "HAS_TRITON", False)
    assert "triton" in kernels.unavailable(cuda)
