"""Training steps replayed as CUDA graphs, so that the host starts one thing a step and not a thousand.

A graph belongs to the runs that train and to a bucket of batches. Of a bucket the first step runs as it is, on the
stream of the captures, which warms up all that it needs; the second is captured, and replayed like all that follow.
When a run enters or leaves, parameters move and all graphs are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard

import torch
from torch import Tensor

from compt_fast.kernels import moved, unavailable
from compt_fast.models.api import Trunk
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.t5.fixed import Bucket, FixedBatch, integers
from compt_fast.prompts.shape import PromptShape
from compt_fast.training.cohort import Cohort
from compt_fast.training.step import Inputs, Packed, Part, forward, gradients, update

Work = Callable[[], None]


class Recorder(Protocol):
    """What turns a step into something that can be repeated on whatever then stands at the same addresses."""

    def warm_up(self, work: Work) -> None:
        """Do `work` once, as it will be captured."""

    def capture(self, work: Work) -> Work:
        """What repeats `work`, which is not done now."""

    def forget(self) -> None:
        """Nothing that was captured will be repeated."""


class CudaRecorder:
    """Captures on a stream of its own; captures share their memory, as no two run at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self.forget()

    def forget(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()  # the memory of the one before is freed with its last graph

    def warm_up(self, work: Work) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def capture(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        return graph.replay


def refused(trunk: Trunk) -> str:
    """Why no step with this trunk is replayed; empty where steps are."""
    if why := unavailable(trunk.device):
        return why
    return "" if isinstance(trunk, PackedTrunk) else "only the engine fast computes on fixed shapes"


def captures(trunk: Trunk) -> TypeGuard[PackedTrunk]:
    """Whether steps with this trunk can be captured."""
    return not refused(trunk)


def eager(shape: PromptShape, distils: bool = False) -> str:
    """What of a run is computed operator by operator only; empty where a capture takes all."""
    for setting, name, entry in shape.named_entries:
        if not entry.captured:
            return f"{setting} {name!r} is composed operator by operator"
    return "what is learned from teachers is computed operator by operator" if distils else ""


@dataclass(frozen=True)
class Fitted:
    """A packed step that can be captured, and on the host what its rows are in their bucket: see `integers`."""

    packed: Packed
    bucket: Bucket
    integers: Tensor


class FixedStep:
    """The steps of these cohorts' members on batches of one bucket, on tensors that stay where they are.

    What differs from step to step is copied to them by `put`; of what `run` does nothing reads the host's memory or
    waits for the device. `found` is what `update` gave.
    """

    def __init__(self, trunk: PackedTrunk, cohorts: Sequence[Cohort], first: Fitted) -> None:
        self.cohorts = cohorts
        self._batch = FixedBatch(trunk, first.bucket)
        parts = [_kept(part, trunk.device) for part in first.packed.parts]
        self._inputs = Inputs(self._batch, first.packed.counts, parts)
        self.found = torch.zeros(3, len(first.packed.counts), device=trunk.device)
        self.replay: Work | None = None  # once it is captured

    def put(self, fitted: Fitted) -> None:
        """Copy what the next `run` is to compute with."""
        self._batch.put(fitted.integers)
        for mine, part in zip(self._inputs.parts, fitted.packed.parts, strict=True):
            table = mine.hyperparameters.table
            assert table is not None
            table.copy_(moved(part.hyperparameters.tabled(), table.device))
            for name, drawn in part.draws.items():
                mine.draws[name].copy_(moved(drawn, table.device))

    def run(self) -> None:
        """One step; every tensor that it makes is gone with it, so that it can be captured."""
        losses = forward(self.cohorts, self._inputs)
        self.found.copy_(update(self.cohorts, self._inputs, losses, gradients(self.cohorts, losses)))


def _kept(part: Part, device: torch.device) -> Part:
    """A part whose draws and hyperparameters are room on the device."""
    table = torch.empty_like(part.hyperparameters.tabled(), device=device)
    draws = {name: torch.empty_like(drawn, device=device) for name, drawn in part.draws.items()}
    return replace(part, draws=draws, hyperparameters=replace(part.hyperparameters, table=table))


class Graphs:
    """The captured steps of the runs that train now."""

    def __init__(self, trunk: PackedTrunk, recorder: Recorder | None = None) -> None:
        self.trunk = trunk
        self._recorder = recorder or CudaRecorder(trunk.device)
        self._members: tuple[object, ...] = ()
        self._steps: dict[tuple[tuple[int, ...], Bucket], FixedStep] = {}

    @property
    def captured(self) -> int:
        """Graphs that are kept."""
        return sum(step.replay is not None for step in self._steps.values())

    def fit(self, cohorts: Sequence[Cohort], packed: Packed) -> Fitted | None:
        """What a step is to its graph, worked out on the host; None for a step that cannot be captured."""
        members = [member.run for cohort in cohorts for member in cohort.members]
        if any(eager(run.shape, run.config.distils) for run in members):
            return None
        bucket = Bucket.of(packed.prompt_lengths, packed.batch)
        if not bucket.absorbs(self.trunk.weights):
            return None
        return Fitted(packed, bucket, integers(bucket, packed.cu_seqlens, packed.batch, self.trunk.prepend))

    def step(self, cohorts: Sequence[Cohort], fitted: Fitted) -> Tensor:
        """One step of all members: what `update` gives, for which the host does not wait."""
        self._follow(cohorts)
        key = (fitted.packed.counts, fitted.bucket)
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = FixedStep(self.trunk, list(cohorts), fitted)
            step.put(fitted)
            self._recorder.warm_up(step.run)
        else:
            step.put(fitted)
            if step.replay is None:
                step.replay = self._recorder.capture(step.run)
            step.replay()
        return step.found

    def _follow(self, cohorts: Sequence[Cohort]) -> None:
        """Drop everything if other runs train than at the last step, or the same at other addresses."""
        members = tuple(part for cohort in cohorts for part in _identity(cohort))
        if members != self._members:
            self.drop()
            self._members = members

    def drop(self) -> None:
        """Forget every step, and give its graph's memory back."""
        self._steps.clear()
        self._recorder.forget()


def _identity(cohort: Cohort) -> list[object]:
    """Who trains in a cohort, and where."""
    assert cohort.optim is not None
    tensors = [*cohort.params.values(), *cohort.optim.first.values(), *cohort.optim.second.values()]
    return [*(member.run.id for member in cohort.members), *(tensor.data_ptr() for tensor in tensors)]
