"""Steps that are captured and replayed train what the same steps train operator by operator.

On a CPU a recording of all operators and launches stands in for the capture; everything around it is what a GPU runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from compt_fast.kernels.launching import Launch
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.runs.job import Job
from compt_fast.runs.summary import replaying
from compt_fast.tasks.examples import TrainingRow
from compt_fast.training import roster as training
from compt_fast.training.cohort import Cohort, Member
from compt_fast.training.graphs import Graphs, eager
from compt_fast.training.loop import Trainer
from compt_fast.training.plan import Run
from compt_fast.training.step import pack
from tests.helpers import jobs, made_up
from tests.helpers.recording import CpuRecorder, as_on_a_gpu, quick_attention, step_launched
from tests.helpers.tiny_t5 import make_t5

# On a GPU products round by their batch.
CLOSE = {"rtol": 1e-2, "atol": 1e-3} if torch.cuda.is_available() else {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys, dtype="fp32"))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The runs of every step that is captured, where trainings are to run as on a GPU."""
    found: list[list[str]] = []
    as_on_a_gpu(monkeypatch)
    quick_attention(monkeypatch)
    monkeypatch.setattr(training, "Graphs", lambda trunk: Graphs(trunk, CpuRecorder(found)))
    yield found


def plan(job: Job, tiny_t5: Path, toys: list[Path], **changes: Any) -> list[Run]:
    """Runs whose batches hold all of their rows: one bucket each."""
    chosen = {"shots": 2, "batch_size": 2 * len(toys), "encoder": "linear"} | changes
    return jobs.planned(job.trunk, [path.stem for path in toys], jobs.settings(tiny_t5, toys, **chosen))


def compare(job: Job, runs: list[Run], folder: Path, **flags: Any) -> Trainer:
    """Train `runs` with and without graphs: all losses and the prompts agree."""
    replayed = jobs.train(job, runs, folder / "replayed", cuda_graphs=True, **flags)
    jobs.train(job, runs, folder / "eager", cuda_graphs=False, **flags)
    for run in runs:
        found, wanted = (jobs.losses(folder / name, run.id) for name in ("replayed", "eager"))
        assert found == pytest.approx(wanted, rel=CLOSE["rtol"] / 10)
    for found, wanted in zip(*(jobs.metrics(folder / name) for name in ("replayed", "eager")), strict=True):
        assert found["run"] == wanted["run"] and found["learning_rate"] == wanted["learning_rate"]
        assert found["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=CLOSE["rtol"])
    stored = jobs.prompts(folder / "eager")
    for name, prompts in jobs.prompts(folder / "replayed").items():
        for part, tensor in prompts.items():
            torch.testing.assert_close(tensor, stored[name][part], **CLOSE)
    return replayed


@pytest.mark.slow
def test_a_fleet_of_which_runs_leave_and_enter(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, captures: list[list[str]]
) -> None:
    """Two at a time of three, of two shapes: whoever leaves or enters, all is captured anew."""
    runs = [
        *plan(job, tiny_t5, toys, method="spp", steps=4, seeds=1),
        *plan(job, tiny_t5, toys, method="pt-joint", steps=7, prompt_length=3),
        *plan(job, tiny_t5, toys, method="spp", steps=6, seeds=2, lr_router=0.0, clip_norm=0.01),
    ]
    compare(job, runs, tmp_path, runs_at_once=2)
    first, second, third = (run.id for run in runs)
    assert captures == [[first, second], [second, third], [third]]


def test_a_routers_draws_are_those_of_the_step(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, captures: list[list[str]]
) -> None:
    runs = plan(job, tiny_t5, toys, router="relaxed-bernoulli", normalisation="auto", seeds="0,1", steps=4)
    compare(job, runs, tmp_path)
    assert len(captures) == 1


def test_factors_are_captured(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, captures: list[list[str]]
) -> None:
    runs = plan(job, tiny_t5, toys, method="mpt-m", source_init="random", encoder=None, seeds="0,1", steps=4)
    compare(job, runs, tmp_path)
    assert captures == [[run.id for run in runs]]


@pytest.mark.slow
def test_batches_of_several_buckets(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, captures: list[list[str]]
) -> None:
    """Three batches an epoch, the last one smaller: each bucket is captured when it is met again."""
    (run,) = plan(job, tiny_t5, toys, shots=4, batch_size=5, steps=12, method="pt-joint")
    trainer = compare(job, [run], tmp_path)
    assert trainer.graphs is not None and trainer.graphs.captured == 0  # the run has left
    assert 2 <= len(captures) < 10


@pytest.mark.slow
def test_what_no_capture_takes_goes_operator_by_operator(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, captures: list[list[str]]
) -> None:
    """Beside such a run the others do, too."""
    runs = plan(job, tiny_t5, toys, gates="input", steps=3) + plan(job, tiny_t5, toys, method="pt-joint", steps=5)
    compare(job, runs, tmp_path)
    assert captures == [[runs[1].id]]  # once it is alone
    (lstm,) = plan(job, tiny_t5, toys, encoder="lstm", steps=3)
    compare(job, [lstm], tmp_path / "lstm")
    assert len(captures) == 1 and "lstm" in eager(lstm.shape)


def test_gates_that_nobody_vouches_for_are_not_captured(
    job: Job,
    tiny_t5: Path,
    toys: list[Path],
    tmp_path: Path,
    captures: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_up.register(monkeypatch)
    planned = plan(job, tiny_t5, toys, steps=3)
    runs = [made_up.changed(run, gates=gates) for run in planned for gates in ("made-up", "made-up-rows")]
    for run in runs:
        assert eager(run.shape) == f"gates {run.shape.gates!r} is composed operator by operator"
        jobs.train(job, [run], tmp_path / run.shape.gates, cuda_graphs=True)
    assert eager(planned[0].shape) == "" and captures == []


def test_targets_that_are_read_best_by_projecting_are_not_captured(
    job: Job, tiny_t5: Path, toys: list[Path], captures: list[list[str]]
) -> None:
    (run,) = plan(job, tiny_t5, toys, method="pt-joint")
    assert isinstance(job.trunk, PackedTrunk)
    graphs = Graphs(job.trunk, CpuRecorder([]))
    short, long = TrainingRow([5] * 60 + [1], [7, 1], 0), TrainingRow([5, 1], [7] * 60 + [1], 0)
    for row, fits in ((short, True), (long, False)):
        cohort = Cohort(run.shape, job.trunk.embedding)
        cohort.admit(Member(run, [row] * 4))
        assert (graphs.fit([cohort], pack([cohort])) is not None) == fits


@pytest.mark.slow
def test_a_run_that_is_not_finite_is_stopped_and_the_others_go_on(
    job: Job,
    tiny_t5: Path,
    toys: list[Path],
    tmp_path: Path,
    captures: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = plan(job, tiny_t5, toys, seeds="0,1,2", steps=4)
    wanted = jobs.train(job, runs[::2], tmp_path / "two", cuda_graphs=False)
    jobs.poison(monkeypatch, runs[1].id, "private_tokens", torch.nan)
    trained = jobs.train(job, runs, tmp_path / "three", cuda_graphs=True)
    assert captures and trained.step == wanted.step
    assert "not finite at step 1" in trained.results[runs[1].id].reason
    for run in runs[::2]:
        found, alone = (jobs.losses(tmp_path / name, run.id) for name in ("three", "two"))
        assert len(found) == 4 and found == pytest.approx(alone, rel=CLOSE["rtol"] / 10)


def test_the_same_runs_at_other_addresses_are_captured_anew(
    job: Job, tiny_t5: Path, toys: list[Path], captures: list[list[str]]
) -> None:
    (run,) = plan(job, tiny_t5, toys, method="pt-joint", steps=9)
    cohort = Cohort(run.shape, job.trunk.embedding)
    member = Member(run, job.data.training(run.config))
    cohort.admit(member)
    assert isinstance(job.trunk, PackedTrunk)
    graphs = Graphs(job.trunk, CpuRecorder(captures))

    def step() -> None:
        fitted = graphs.fit([cohort], pack([cohort]))
        assert fitted is not None
        graphs.step([cohort], fitted)
        member.step += 1

    for _ in range(3):
        step()
    assert (graphs.captured, len(captures)) == (1, 1)
    old = cohort.bank
    cohort.keep([0])
    assert old is not None and cohort.bank is not None  # the old tensors live, so that the new ones lie elsewhere
    step()
    assert (graphs.captured, len(captures)) == (0, 1)
    before = old.params["private_tokens"].clone()
    step()
    assert (graphs.captured, len(captures)) == (1, 2)
    assert torch.equal(old.params["private_tokens"], before)
    assert not torch.equal(cohort.bank.params["private_tokens"], before)


@pytest.mark.parametrize("router", ["direct", "relaxed-bernoulli"])
@pytest.mark.parametrize("family", ["t5", "v1.1"])
def test_a_step_touches_nothing_but_the_device(
    family: str, router: str, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors without data stand for a GPU's: an operator that took one of the host's, or read one, would fail."""
    as_on_a_gpu(monkeypatch)
    job = jobs.opened(jobs.settings(make_t5(tmp_path / "trunk", family), toys))
    settings = jobs.settings(tmp_path / "trunk", toys, method="spp,scp,pt-joint", router=router, lr_private=0.0)
    runs = jobs.planned(job.trunk, [path.stem for path in toys], settings)
    launches = step_launched(job, tmp_path / "trunk", runs)
    named = {launch.kernel.fn.__name__ for launch in launches}
    assert {"_forward", "_backward_queries", "_backward_keys", "squares", "update"} <= named
    assert all(tensor.device.type == "meta" for launch in launches for tensor in tensors_of(launch))


def tensors_of(launch: Launch) -> list[Tensor]:
    return [
        x
        for value in launch.arguments.values()
        for x in (value if isinstance(value, tuple) else [value])
        if isinstance(x, Tensor)
    ]


def test_without_a_gpu_or_where_it_is_not_wanted_nothing_is_captured(
    tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.opened(jobs.settings(tiny_t5, toys, device="cpu"))
    runs = plan(job, tiny_t5, toys, steps=3)
    flagged, plain = (jobs.train(job, runs, tmp_path / str(on), cuda_graphs=on) for on in (True, False))
    jobs.equal(tmp_path / "True", tmp_path / "False")
    for trainer in (flagged, plain):
        assert trainer.graphs is None and replaying(trainer) == []
    as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(training, "Graphs", lambda trunk: Graphs(trunk, CpuRecorder([])))
    unasked = replace(job.settings, cuda_graphs=False)
    default, without = (
        Trainer(runs, job.trunk, job.trunk_hash, job.data, settings, tmp_path) for settings in (job.settings, unasked)
    )
    assert without.graphs is None and replaying(without) == []
    assert default.graphs is not None and replaying(default) == ["steps are replayed as CUDA graphs"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_gpus_graphs_train_as_its_operators_do(
    dtype: str, tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With runs that leave and enter, and so with graphs that are dropped."""
    job = jobs.opened(jobs.settings(tiny_t5, toys, device="cuda", dtype=dtype))
    runs = [
        run
        for method, steps in (("spp", 6), ("pt-joint", 9), ("spp", 7))
        for run in plan(job, tiny_t5, toys, method=method, steps=steps, seeds=steps)
    ]
    captured: list[int] = []
    step = Graphs.step

    def counted(self: Graphs, *given: Any) -> Any:
        found = step(self, *given)
        captured.append(self.captured)
        return found

    monkeypatch.setattr(Graphs, "step", counted)
    jobs.train(job, runs, tmp_path / "replayed", cuda_graphs=True, runs_at_once=2)
    assert captured[:6] == [0, 1, 1, 1, 1, 1] and captured.count(0) >= 2  # dropped, and captured again
    steps = len(captured)
    jobs.train(job, runs, tmp_path / "eager", cuda_graphs=False, runs_at_once=2)
    assert len(captured) == steps
    for run in runs:
        found, wanted = (jobs.losses(tmp_path / name, run.id) for name in ("replayed", "eager"))
        assert found == pytest.approx(wanted, rel=1e-3 if dtype == "fp32" else 3e-2)
