"""The engines that `bench_trunk` holds against each other, and the work that each is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.inputs import DEVICE, job
from compt_fast.config.presets import RANDOM
from compt_fast.evaluation.evaluator import predict, prompts_for, scored
from compt_fast.evaluation.passes import Asked
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.prompts.parameters import parameter_shapes
from compt_fast.runs.job import Job
from compt_fast.tasks.examples import ScoredRows, TrainingRow
from compt_fast.tasks.sampling import EpochOrder
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run

ROWS = 300  # that an evaluation scores
COMPILED = "reduce-overhead" if DEVICE == "cuda" else "default"  # torch.compile's mode: the best one there
LOOKED_AT = 21  # batches of which the one with the median of padding is timed


def made_up_start(run: Run) -> dict[str, Tensor]:
    """In place of stored prompts tokens as a fresh prompt has them: a step takes as long whatever their values are."""
    sizes, generator = parameter_shapes(run.shape), torch.Generator().manual_seed(0)
    inits = {"source": run.config.source_init, "private": run.config.private_init}
    stored = [f"{role}_tokens" for role, init in inits.items() if init != RANDOM]
    return {name: torch.rand(sizes[name], generator=generator) - 0.5 for name in stored}


@dataclass
class Engine:
    """One engine on one checkpoint, its job, and a step's batch: the same rows for all engines."""

    name: str
    job: Job
    folder: Path

    @cached_property
    def trainer(self) -> Trainer:
        """All runs of the job, admitted and ready for a step."""
        job = self.job
        trainer = Trainer(job.runs, job.trunk, job.trunk_hash, job.data, job.settings, self.folder, made_up_start)
        trainer.refill()
        return trainer

    @cached_property
    def prompts(self) -> TargetPrompts:
        """The runs' first target prompts (a leaf), as the first layer of a backward sees them."""
        targets = self.trainer.cohorts[0].compose({}).targets
        assert targets is not None
        prompts = TargetPrompts.from_stacks([targets])
        return replace(prompts, flat=prompts.flat.detach().requires_grad_())

    @cached_property
    def rows(self) -> list[list[TrainingRow]]:
        """A step's rows of each run: of `LOOKED_AT` drawn batches the one of median padding."""
        drawn = [self._drawn(torch.Generator().manual_seed(seed)) for seed in range(LOOKED_AT)]
        return sorted(drawn, key=lambda rows: self.padding(self._batch_of(rows)))[LOOKED_AT // 2]

    @cached_property
    def batch(self) -> Batch:
        """`rows` as the trunk is given them."""
        return self._batch_of(self.rows).to(self.job.trunk.device)

    def _drawn(self, generator: torch.Generator) -> list[list[TrainingRow]]:
        drawn = []
        for run in self.job.runs:
            own = self.trainer.rows[run.id]
            chosen = torch.randperm(len(own), generator=generator)[: run.config.batch_size]
            drawn.append([own[i] for i in chosen])
        return drawn

    def _batch_of(self, rows: list[list[TrainingRow]]) -> Batch:
        tasks = len(self.job.data.tasks)
        slots = [number * tasks + row.task for number, own in enumerate(rows) for row in own]
        flat = [row for own in rows for row in own]
        return make_batch([row.input_ids for row in flat], [row.label_ids for row in flat], slots)

    def padding(self, batch: Batch) -> float:
        """Slots of the padded input over its real tokens, prompts included."""
        lengths = batch.input_lengths + self.prompts.lengths[batch.slots]
        return batch.rows * int(lengths.max()) / int(lengths.sum())

    def trunk_step(self) -> tuple[Tensor, Tensor]:
        """Forward and backward of the batch: each row's loss, the prompts' gradient."""
        losses = self.job.trunk.row_losses(self.prompts, self.batch)
        (grad,) = torch.autograd.grad(losses.sum(), self.prompts.flat)
        return losses.detach(), grad

    def settle(self) -> None:
        """From now on every training step is on `rows`."""
        members = [member for cohort in self.trainer.cohorts for member in cohort.members]
        for member, rows in zip(members, self.rows, strict=True):
            member.rows, member.order = rows, EpochOrder(len(rows), len(rows), member.run.config.seed)

    @contextmanager
    def training(self) -> Iterator[Callable[[], list[float]]]:
        """A whole training step, composition and update included; it gives the runs' losses."""
        with Monitor(self.folder, 1, Console(quiet=True)) as monitor:
            yield lambda: [record["loss"] for record in self.trainer.train_step(monitor)]

    @cached_property
    def scored(self) -> list[ScoredRows]:
        """`ROWS` rows of all tasks."""
        sets = self.job.data.evaluation()
        counts = [ROWS // len(sets) + (i < ROWS % len(sets)) for i in range(len(sets))]
        return [replace(of, inputs=of.inputs[:n], golds=of.golds[:n]) for of, n in zip(sets, counts, strict=True)]

    def evaluation(self) -> dict[str, Any]:
        """Greedy answers to `ROWS` rows, and their scores: batches of rows sorted by length, as both engines
        form them.
        """
        return self.evaluations(1)[0]

    def evaluations(self, runs: int) -> list[dict[str, Any]]:
        """The same of the first so many runs of the job, in passes over the rows of all of them."""
        (cohort,) = self.trainer.cohorts
        asked = [Asked(self.job.trunk, cohort.prompts(run), self.scored, "natural") for run in range(runs)]
        size = self.job.settings.eval_batch_size
        found = predict(self.job.data, asked, scoring="generate", batch_size=size)
        return [scored(one.sets, predicted, one.mode) for one, predicted in found]

    def answers(self) -> list[list[int]]:
        """Greedy answers to `ROWS` rows, `batch_size` at a time, as they come: a row of each task in turn."""
        longest = max(len(of.inputs) for of in self.scored)
        rows = [(t, of.inputs[i]) for i in range(longest) for t, of in enumerate(self.scored) if i < len(of.inputs)]
        prompts, trunk = self.trainer.cohorts[0].prompts(0), self.job.trunk
        size, most = self.job.runs[0].config.batch_size, self.job.data.longest_label("natural")
        found = []
        for start in range(0, len(rows), size):
            slots, inputs = zip(*rows[start : start + size], strict=True)
            targets, batch = prompts_for(prompts, trunk, make_batch(inputs, None, slots).to(trunk.device))
            found += trunk.generate(targets, batch, max_new_tokens=most)
        return found


def opened(name: str, size: str, folder: Path, runs: int = 1, like: Engine | None = None) -> Engine:
    """The engine `NAME DTYPE`, as in "fast bf16", "fast int8", "transformers fp32" or "torch.compile bf16"; over the
    trunk and the rows of one that is opened already, if it is `like` that.
    """
    kind, dtype = name.rsplit(" ", 1)
    own = kind in ("fast", "replayed")
    if like is not None:
        opened_job = like.job
    else:
        opened_job = job(size, "fast" if own else "reference", "fp32" if dtype == "int8" else dtype, folder, runs)
    if dtype == "int8":
        opened_job.trunk.quantise()
    settings = replace(opened_job.settings, cuda_graphs=kind == "replayed")
    engine = Engine(name, replace(opened_job, settings=settings), folder)
    if kind == "torch.compile":
        model = engine.job.trunk.model  # type: ignore[attr-defined]
        for part in (model.encoder, model.decoder):
            part.forward = torch.compile(part.forward, dynamic=False, mode=COMPILED)
    return engine


def peft_step(size: str, folder: Path) -> tuple[Callable[[], Tensor], Tensor]:
    """PEFT's prompt tuning in bf16, forward and backward, and its prompt (m, d): one for all rows is what it
    can train.
    """
    from peft import PromptTuningConfig, get_peft_model

    engine = opened("transformers bf16", size, folder)
    trunk, batch = engine.job.trunk, engine.batch
    length = int(engine.prompts.lengths[0])
    how = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=length, num_transformer_submodules=1)
    model = get_peft_model(trunk.model, how)  # type: ignore[attr-defined]
    inputs, labels = (
        torch.nn.utils.rnn.pad_sequence(flat.split(lengths.tolist()), batch_first=True, padding_value=fill)
        for flat, lengths, fill in (
            (batch.input_ids, batch.input_lengths, 0),
            (batch.label_ids, batch.label_lengths, -100),
        )
    )

    def step() -> Tensor:
        model.zero_grad()
        loss = model(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=labels).loss
        loss.backward()
        return loss.detach()

    (prompt,) = (p.detach() for p in model.parameters() if p.requires_grad)
    return step, prompt


HAS_PEFT = find_spec("peft") is not None
