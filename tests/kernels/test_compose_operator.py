"""The fused composition as an operator: what it launches, and under torch.compile, graphs and training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from compt_fast.kernels import adamw
from compt_fast.kernels import compose as kernels
from compt_fast.kernels.launching import recorded
from compt_fast.ops import compose as fused
from compt_fast.ops.compose import input_names, plan_text, run_kernel
from compt_fast.prompts.compose import compose as reference
from compt_fast.prompts.shape import PromptShape
from compt_fast.training.optimizer import FleetAdamW, Hyperparameters
from tests.helpers.compositions import DEVICE, INSIDE, PT, SPP, bank_of, direction, name, near


@pytest.mark.parametrize(
    ("shape", "forward", "backward"),
    [
        (SPP, ["prepare", "encode"], ["backward_prompts", "backward_layer", "backward_layer"]),
        (INSIDE, ["prepare", "encode"], ["backward_prompts", "backward_layer"]),
        (replace(SPP, encoder="none"), ["prepare", "gather"], ["backward_prompts", "backward_logits"]),
        (replace(PT, encoder="none"), ["prepare", "gather"], ["backward_prompts"]),
    ],
    ids=name,
)
def test_launches(shape, forward, backward):
    bank = bank_of(replace(shape, d_model=4, hidden=4 * (shape.encoder == "mlp"), length=1), runs=1)
    with recorded(started=True) as found:
        targets = run_kernel(bank.params, bank.shape).targets
        assert targets is not None
        assert [launch.kernel.fn.__name__ for launch in found] == forward
        found.clear()
        targets.sum().backward()
        assert [launch.kernel.fn.__name__ for launch in found] == backward


@pytest.mark.parametrize("grad", [True, False])
def test_the_seam_takes_the_kernel_where_it_runs(grad, monkeypatch):
    monkeypatch.setattr(fused, "unavailable", lambda device: "")
    shape = replace(SPP, d_model=4, hidden=4, gates="learned")
    bank = bank_of(shape)
    with recorded(started=True) as found, torch.set_grad_enabled(grad):
        composed = fused.compose(bank.params, shape, training=True)
    assert len(found) == 2 and composed.sources is None and composed.privates is None
    wanted = reference(bank.params, shape)
    for part in ("targets", "weights", "gates"):
        torch.testing.assert_close(getattr(composed, part), getattr(wanted, part))
    with recorded() as found:
        fused.compose(bank.to(torch.float64).params, shape)
    assert not found  # the kernel takes fp32 only


def test_without_gradients_nothing_is_saved():
    shape = replace(SPP, d_model=8, hidden=8)
    bank = bank_of(shape)
    tensors = [bank.params[key] for key in input_names(shape)]
    plan = plan_text(shape, None, "fp32")
    with torch.no_grad():
        assert len(kernels.compose(tensors, plan, torch.float32, False)) == 3
        few = run_kernel(bank.params, shape).targets
    whole = run_kernel(bank.params, shape).targets
    assert few is not None and whole is not None and torch.equal(few, whole)


def test_the_operator_is_registered_as_torch_wants():
    shape = replace(SPP, tasks=2, d_model=4, hidden=4, length=2)
    bank = bank_of(shape, runs=1)
    tensors = [bank.params[key] for key in input_names(shape)]
    plan = plan_text(shape, None, "fp32")
    torch.library.opcheck(kernels.compose, (tensors, plan, torch.float32, True))


@pytest.mark.xfail(
    torch.__version__.startswith("2.11."), reason="torch 2.11 cannot compile what takes a frozen dataclass", strict=True
)
def test_it_compiles_into_one_graph(monkeypatch):
    monkeypatch.setattr(fused, "unavailable", lambda device: "")
    shape = replace(SPP, tasks=2, d_model=4, hidden=4, length=2)
    bank = bank_of(shape)

    def loss(params: dict[str, Tensor]) -> Tensor:
        targets = fused.compose(params, shape).targets
        assert targets is not None
        return (targets**2).sum()

    eager = torch.autograd.grad(loss(bank.params), [*bank.params.values()])
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(bank.params), [*bank.params.values()])
    for own, other in zip(found, eager, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.gpu
def test_a_replayed_graph_gives_what_eager_gives():
    """Forward and backward captured once, replayed on other parameters."""
    bank = bank_of(SPP)
    leaves = list(bank.params.values())
    grad = direction(run_kernel(bank.params, SPP).targets)

    def work() -> tuple[Tensor, ...]:
        targets = run_kernel(bank.params, SPP).targets
        return (targets, *torch.autograd.grad(targets, leaves, grad))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    with torch.no_grad():
        for leaf in leaves:
            leaf.mul_(1.5)
    graph.replay()
    for found, wanted in zip(captured, work(), strict=True):
        assert torch.equal(found, wanted)


def trained(shape: PromptShape, steps: int, kernel: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Parameters of a run after steps of composition and update towards fixed targets."""
    monkeypatch.setattr(adamw, "PARTS", 4)  # less for the interpreter to do
    for module in (fused, adamw):
        monkeypatch.setattr(module, "unavailable", lambda device: "" if kernel else "not here")
    bank = bank_of(shape, runs=1)
    size = (bank.runs, shape.tasks, shape.target_length, shape.d_model)
    goal = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    optim = FleetAdamW(bank.params)
    same = torch.ones(bank.runs, dtype=torch.float64)
    for step in range(steps):
        targets = fused.compose(bank.params, shape).targets
        assert targets is not None
        loss = ((targets - goal) ** 2).mean((1, 2, 3)).sum()
        grads = torch.autograd.grad(loss, list(bank.params.values()))
        now = Hyperparameters(dict.fromkeys(bank.params, 0.01 * same), 0.01 * same, same, step * same)
        optim.step(bank.params, grads, now, same.bool().to(DEVICE))
    return [p.detach() for p in bank.params.values()]


@pytest.mark.slow
def test_60_steps_of_training_end_where_the_reference_ends(monkeypatch):
    shape = replace(SPP, tasks=2, length=2, d_model=4, gates="learned", encoder="linear")
    found, wanted = (trained(shape, 60, kernel, monkeypatch) for kernel in (True, False))
    for own, other in zip(found, wanted, strict=True):
        near(own, other.double(), 1e-3)
