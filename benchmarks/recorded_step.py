"""A training step's operators and launches, recorded on tensors without data: what a GPU would be asked for.

The code is the one that a GPU captures (`training/graphs.FixedStep`), on a trunk of which there are shapes alone.
Cumulative lengths and whatever else comes from the host are remembered, so that what depends on them can be counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from benchmarks import inputs
from benchmarks.engines import Engine
from compt_fast.kernels import adamw, compose, launching
from compt_fast.kernels.launching import Launch
from compt_fast.models.base import BaseTrunk
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.t5.fixed import Bucket
from compt_fast.models.t5.weights import Weights
from compt_fast.runs.job import Job
from compt_fast.training.graphs import FixedStep, Graphs
from compt_fast.training.step import pack
from tests.helpers.bound import composed
from tests.helpers.recording import CpuRecorder, as_on_a_gpu
from tests.helpers.shared import real
from tests.helpers.tiny_t5 import SHAPE, SIZES, tiny_tokenizer


class ShapesAlone(PackedTrunk):
    """A T5 v1.0 of one of `tiny_t5.SIZES` in bf16, without data."""

    def __init__(self, size: str) -> None:
        config = T5Config(
            vocab_size=inputs.TOKENS, decoder_start_token_id=0, **dict(zip(SHAPE, SIZES[size], strict=True))
        )
        with torch.device("meta"):
            model = T5ForConditionalGeneration(config).bfloat16().requires_grad_(False)
        folder = real("t5-tokenizer")
        tokenizer = T5Tokenizer.from_pretrained(folder) if folder else tiny_tokenizer()
        BaseTrunk.__init__(self, model, tokenizer, size, "prepend")
        self.weights = Weights.from_model(model)
        self.differentiable = True

    def fingerprint(self) -> str:
        """Of no weights."""
        return ""


@dataclass(frozen=True)
class Operator:
    """A call of one of torch's operators below autograd, and what it gave."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    found: Any
    mutates: bool

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Those that it took, and those that it gave."""
        given, made = tree_leaves((self.args, self.kwargs)), tree_leaves(self.found)
        return [x for x in given if isinstance(x, Tensor)], [x for x in made if isinstance(x, Tensor)]


class Notes(TorchDispatchMode):
    """What is done inside: `operators`, and the host's numbers in tensors that have no data."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Operator] = []
        self._host: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        self.operators.append(Operator(name, args, kwargs, found, func._schema.is_mutable))
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            values = source if source.device.type == "cpu" else self.values(source)
            if values is not None and found.device.type == "meta":
                self._host[found.untyped_storage()._cdata] = (found, values.detach().clone().flatten())
        return found

    def values(self, x: Tensor) -> Tensor | None:
        """What a contiguous tensor without data holds, if it came from the host."""
        _, known = self._host.get(x.untyped_storage()._cdata, (None, None))
        return None if known is None else known[x.storage_offset() :][: x.numel()].view(x.shape)


@dataclass(frozen=True)
class Step:
    """What a replayed step of `runs` runs does; `tokens` are real ones, those of prompts and labels included."""

    runs: int
    rows: int
    tokens: int
    bucket: Bucket
    operators: list[Operator]
    launches: list[Launch]
    notes: Notes

    def lengths(self, cu_seqlens: Tensor) -> Tensor:
        """The rows' lengths (B,) of cumulative ones (B+1,), which came from the host."""
        values = self.notes.values(cu_seqlens)
        if values is None:
            raise ValueError(f"cumulative lengths of shape {tuple(cu_seqlens.shape)} did not come from the host")
        return values.diff()


@contextmanager
def _gpu_code(capability: int) -> Iterator[None]:
    """Inside, tensors without data take the way of a GPU's."""
    with pytest.MonkeyPatch.context() as patch, launching.assuming(capability):
        parts = adamw.PARTS
        as_on_a_gpu(patch)
        patch.setattr(adamw, "PARTS", parts)
        patch.setattr(compose, "compose", composed)
        patch.setattr(Tensor, "is_cuda", property(lambda x: x.device.type == "meta"))
        yield


def recorded(size: str, runs: int, folder: Path, capability: int = 90) -> Step:
    """The step that `gpu_steps` times: `runs` runs of `spp`, 16 rows a run, on a trunk of a size in bf16."""
    trunk = ShapesAlone(size)
    with _gpu_code(capability):
        return recorded_of(inputs.job(size, "fast", "bf16", folder, runs, trunk), folder)


def recorded_of(job: Job, folder: Path) -> Step:
    """A step of all runs of a job, on its trunk without data."""
    trunk = job.trunk
    assert isinstance(trunk, PackedTrunk)
    engine = Engine("fast bf16", replace(job, settings=replace(job.settings, cuda_graphs=False)), folder)
    with launching.recorded():  # its choice of rows asks for the prompts' lengths
        engine.settle()
    cohorts = engine.trainer.cohorts
    packed = pack(cohorts)
    fitted = Graphs(trunk, CpuRecorder([])).fit(cohorts, packed)
    assert fitted is not None, "a step that is not captured"
    notes = Notes()
    with launching.recorded() as launches, notes:
        step = FixedStep(trunk, cohorts, fitted)
        step.put(fitted)
        step.run()  # as the one that warms up
        launches.clear()
        notes.operators.clear()
        step.run()
    return Step(len(job.runs), packed.batch.rows, packed.tokens, fitted.bucket, notes.operators, launches, notes)
