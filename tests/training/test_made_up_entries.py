"""A gate and a normalisation that nobody has heard of are computed by their formulas, wherever prompts are composed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compt_fast import info, kernels
from compt_fast.ops import compose as fused
from compt_fast.ops.paths import FORMULA
from compt_fast.prompts.artifact import load_prompts
from compt_fast.prompts.compose import compose, compose_rows
from compt_fast.prompts.entry import Texts
from compt_fast.prompts.parameters import PromptBank, parameter_shapes, rate_groups
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
from compt_fast.training.graphs import eager
from compt_fast.utils.errors import InputError
from tests.helpers import jobs, made_up

R, T, N, M, D = 2, 3, 4, 2, 6
SETTINGS = {"gates": "made-up", "normalisation": "made-up"}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up.register(monkeypatch)


def shape_of(**changes: Any) -> PromptShape:
    return PromptShape("spp", T, N, True, M, D, **{"encoder": "none"} | SETTINGS | changes)


def bank_of(shape: PromptShape) -> PromptBank:
    """A bank of two runs with unlike logits and shares."""
    bank = PromptBank.create(shape, [0, 1])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in parameter_shapes(shape).keys() - {"source_tokens", "private_tokens"}:
            bank.params[name].add_(torch.rand(bank.params[name].shape, generator=generator))
    return bank


def by_hand(params: dict[str, Tensor], run: int, task: int, alpha: Tensor, beta: Tensor) -> Tensor:
    """The target prompt (m, d) of a run and task with these gates."""
    raised = (1 + params["router"][run, task]) ** 2
    mixture = sum(raised[i] / raised.sum() * params["source_tokens"][run, i] for i in range(N))
    return alpha * params["private_tokens"][run, task] + beta * mixture


def slots() -> list[tuple[int, int]]:
    return [(run, task) for run in range(R) for task in range(T)]


def test_they_start_as_they_declare_and_train_at_their_rate() -> None:
    bank = PromptBank.create(shape_of(), [0, 1])
    assert torch.equal(bank.params["share"], torch.full((R, T), 0.75))
    rows = shape_of(gates="made-up-rows")
    drawn = PromptBank.create(rows, [0, 1]).params["direction"]
    assert drawn.shape == (R, T, D) and drawn.std() > 0.3 and drawn.abs().max() <= 1
    assert (rate_groups(shape_of())["share"], rate_groups(rows)["direction"]) == ("router", "private")


def test_the_reference_composes_by_their_formulas() -> None:
    bank = bank_of(shape_of())
    found = compose(bank.params, bank.shape)
    assert found.targets is not None and not bank.shape.per_row
    for run, task in slots():
        share = bank.params["share"][run, task]
        torch.testing.assert_close(found.targets[run, task], by_hand(bank.params, run, task, share, 2 - share))
    found.targets.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in bank.params.values())


@pytest.mark.parametrize("settings", [{"gates": "made-up"}, {"normalisation": "made-up"}, {"gates": "made-up-rows"}])
def test_where_kernels_run_the_formula_composes(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "unavailable", lambda device: "")
    monkeypatch.setattr(fused, "run_kernel", None)  # a call would fail
    bank = bank_of(shape_of(**{"gates": "fixed", "normalisation": "auto"} | settings))
    ((setting, name),) = settings.items()
    assert fused.path(bank.shape, torch.device("cuda")) == (FORMULA, f"no kernel computes {setting} {name!r}")
    found, wanted = fused.compose(bank.params, bank.shape), compose(bank.params, bank.shape)
    for part in ("targets", "weights", "gates"):
        own, other = getattr(found, part), getattr(wanted, part)
        assert own is other is None or torch.equal(own, other)


def test_a_gate_of_each_row_composes_each_row() -> None:
    bank = bank_of(shape_of(gates="made-up-rows"))
    assert bank.shape.per_row
    begun = compose(bank.params, bank.shape)
    assert begun.targets is None and begun.gates is None
    runs, tasks = torch.tensor([1, 0, 1, 1]), torch.tensor([2, 0, 0, 2])
    means = torch.randn(4, D, generator=torch.Generator().manual_seed(4))
    texts = Texts(means, torch.ones(4, dtype=torch.int64))
    found = compose_rows(begun, bank.params, bank.shape, runs, tasks, texts)
    for row, (run, task) in enumerate(zip(runs.tolist(), tasks.tolist(), strict=True)):
        alpha = torch.tanh(bank.params["direction"][run, task] @ means[row])
        torch.testing.assert_close(found[row], by_hand(bank.params, run, task, alpha, torch.tensor(1.0)))


@pytest.mark.parametrize("gates", ["made-up", "made-up-rows"])
@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_they_train_and_are_evaluated(engine: str, gates: str, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    chosen = jobs.settings(tiny_t5, toys, engine=engine, steps=2, seeds="0,1")
    job = jobs.opened(chosen)
    settings = {"gates": gates, "normalisation": "made-up"}
    runs = [made_up.changed(run, **settings) for run in jobs.planned(job.trunk, [f.stem for f in toys], chosen)]
    jobs.train(job, runs, tmp_path / "out")
    for run in runs:
        losses = jobs.losses(tmp_path / "out", run.id)
        assert len(losses) == 2 and losses[0] != losses[1]
    assert all(len(entry["tasks"]) == len(toys) for entry in jobs.results(tmp_path / "out")["runs"])
    prompts, _ = load_prompts(tmp_path / "out" / "prompts" / runs[0].id)
    learned = prompts.tensors["param.share" if gates == "made-up" else "param.direction"]
    start = PromptBank.create(runs[0].shape, [0]).params
    assert not torch.equal(learned, start["share" if gates == "made-up" else "direction"][0])
    torch.testing.assert_close(prompts.tensors["weights"], made_up.squares(prompts.tensors["param.router"]))
    if gates == "made-up":
        assert torch.equal(prompts.masked(Mask((True,) * 3)).tensors["targets"], prompts.tensors["targets"])


@pytest.mark.parametrize("settings", [{"gates": "made-up"}, {"normalisation": "made-up"}, {"gates": "made-up-rows"}])
def test_nobody_vouches_for_them_in_a_graph(settings: dict[str, str]) -> None:
    ((setting, name),) = settings.items()
    why = eager(shape_of(**{"gates": "fixed", "normalisation": "auto"} | settings))
    assert why == f"{setting} {name!r} is composed operator by operator"


def test_info_names_them_where_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "unavailable", lambda device: "")
    said = info.composition_kernels().why
    for name in ("lstm encoders", "made-up normalisations", "made-up gates", "made-up-rows gates"):
        assert name in said


def test_once_they_are_gone_they_are_unknown() -> None:
    with pytest.raises(InputError, match="unknown gates 'mad-up'. Did you mean 'made-up'"):
        shape_of(gates="mad-up")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(made_up.GATES, "made-up")
        with pytest.raises(InputError, match="unknown gates 'made-up'. Did you mean 'made-up-rows'"):
            shape_of()
