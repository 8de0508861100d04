"""Training steps replayed as CUDA graphs, so that the host starts one thing a step and not a thousand.

A graph belongs to the runs that train and to a bucket of batches. Of a bucket the first step runs as it is, on the
stream of the captures, which warms up all that it needs; the second is captured, and replayed like all that follow.
When a run enters or leaves, parameters move and all graphs are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from compt_fast.kernels import unavailable
from compt_fast.models.api import Trunk
from compt_fast.models.t5.fixed import Bucket
from compt_fast.models.t5.trunk import PackedTrunk
from compt_fast.prompts.shape import PromptShape
from compt_fast.training.cohort import Cohort
from compt_fast.training.fixed_step import Batches, FixedStep, Outcome, Rows

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
    if not isinstance(trunk, PackedTrunk):
        return "only the engine fast computes on fixed shapes"
    return ""


def eager(shape: PromptShape) -> str:
    """What of a run's prompts is composed operator by operator only; empty where a capture takes all."""
    for setting, name, entry in shape.named_entries:
        if not entry.captured:
            return f"{setting} {name!r} is composed operator by operator"
    return ""


@dataclass
class _Entry:
    """One bucket's step; `replay` once it is captured."""

    step: FixedStep
    replay: Work | None = None


class Graphs:
    """The captured steps of the runs that train now."""

    def __init__(self, trunk: PackedTrunk, recorder: Recorder | None = None) -> None:
        self.trunk = trunk
        self._recorder = recorder or CudaRecorder(trunk.device)
        self._members: tuple[object, ...] = ()
        self._entries: dict[tuple[tuple[int, ...], Bucket], _Entry] = {}

    @property
    def captured(self) -> int:
        """Graphs that are kept."""
        return sum(entry.replay is not None for entry in self._entries.values())

    def rows(self, cohorts: Sequence[Cohort], batches: Batches) -> Rows | None:
        """The rows of a step that can be captured; None for one that cannot."""
        if any(eager(cohort.shape) for cohort in cohorts):
            return None
        rows = Rows.of(cohorts, batches)
        return rows if rows.bucket.carried(self.trunk.weights) else None

    def step(self, cohorts: Sequence[Cohort], rows: Rows) -> list[Outcome]:
        """One step of all members on `rows`: what it gave each cohort."""
        self._follow(cohorts)
        key = (rows.counts, rows.bucket)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(FixedStep(self.trunk, list(cohorts), *key))
            entry.step.put(rows)
            self._recorder.warm_up(entry.step.run)
        else:
            entry.step.put(rows)
            if entry.replay is None:
                entry.replay = self._recorder.capture(entry.step.run)
            entry.replay()
        return entry.step.outcomes()

    def _follow(self, cohorts: Sequence[Cohort]) -> None:
        """Drop everything if other runs train than at the last step, or the same at other addresses."""
        members = tuple(part for cohort in cohorts for part in _identity(cohort))
        if members != self._members:
            self.drop()
            self._members = members

    def drop(self) -> None:
        """Forget every step, and give its graph's memory back."""
        self._entries.clear()
        self._recorder.forget()


def _identity(cohort: Cohort) -> list[object]:
    """Who trains in a cohort, and where."""
    assert cohort.bank is not None and cohort.optim is not None
    tensors = [*cohort.bank.params.values(), *cohort.optim.first.values(), *cohort.optim.second.values()]
    return [*(member.run.id for member in cohort.members), *(tensor.data_ptr() for tensor in tensors)]
