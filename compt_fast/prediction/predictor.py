"""Answers to rows of any tasks by trained prompts, over one frozen trunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from compt_fast.config.choices import INT8
from compt_fast.config.flags import parse
from compt_fast.config.job import JobSettings
from compt_fast.evaluation.evaluator import prompts_for, update_for
from compt_fast.evaluation.scorings import Labels
from compt_fast.evaluation.scorings.generate import texts_of
from compt_fast.models.api import Trunk
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.ops.varlen import cu_seqlens_of
from compt_fast.prediction.belonging import Belonging
from compt_fast.prediction.prompts import TaskPrompt, read_all
from compt_fast.prediction.rows import TASK, CheckedRow, EncodedRow, Placed, checked, encoded, rows_of
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.runs.job import named_trunk, settled_dtype
from compt_fast.tasks.metrics import finite
from compt_fast.tasks.table import Task
from compt_fast.tasks.text import check_writable, encode_label, label_texts
from compt_fast.tasks.user import load_task_file
from compt_fast.utils.errors import InputError

AHEAD = 2048
"""Rows that are read before the first of them is answered, and sorted by length, so that batches hold little padding
in the engine that pads; what is in memory at a time.
"""


@dataclass(frozen=True)
class Answer:
    """What was predicted for a row of `task`.

    `text` is what the trunk wrote, up to the length of the longest label of the tasks that its prompt was read with.
    `label` is the task's label word (`Task.labels`) that this text stands for, or its number where labels are scores;
    where it is none of these, `label` is the most likely one if `scores` were asked for, and None if not. `scores` are
    the likelihoods of the task's labels, normalised to sum to 1. Of a row that could not be read, `error` says why,
    and `task` is what it calls its task, or "".
    """

    task: str
    label: str | float | None
    text: str
    scores: dict[str, float] | None = None
    error: str | None = None


@dataclass(frozen=True)
class ReadyTask:
    """A task that can be answered: its prompt, its labels as the trunk writes them and its own words for these, and how
    many tokens of an answer are read.
    """

    prompt: TaskPrompt
    labels: Labels
    words: Sequence[str]
    longest: int

    def answer(self, text: str, likely: Tensor | None = None) -> Answer:
        """The answer to a row of which the trunk wrote `text`; `likely` (labels,) are the labels' log-likelihoods."""
        task, texts = self.prompt.task, self.labels.texts
        scores = None if likely is None else dict(zip(self.words, likely.softmax(0).tolist(), strict=True))
        label: str | float | None = self.words[texts.index(text)] if text in texts else None
        if task.is_score:
            label = finite(text)
        if label is None and scores is not None:
            word = max(scores, key=scores.__getitem__)
            label = float(word) if task.is_score else word
        return Answer(task.name, label, text, scores)


class Predictor:
    """A trunk, and the prompt of each task that it answers."""

    def __init__(self, trunk: Trunk, prompts: Mapping[str, TaskPrompt], belonging: Belonging | None = None) -> None:
        """`belonging`, where it is given, is what prompts that are added later are checked by (`compt_fast.serving`).

        Raises `InputError` for prompts of another width, and for labels that the trunk cannot write.
        """
        self.trunk, self.belonging = trunk, belonging
        self.ready: Mapping[str, ReadyTask] = {}
        self.set(prompts)

    def set(self, prompts: Mapping[str, TaskPrompt]) -> None:
        """Answer with these prompts from now on; what is being answered goes on with those before.

        Raises `InputError` as the class does, and changes nothing then.
        """
        self.ready = {name: self._checked(one) for name, one in prompts.items()}

    def _checked(self, one: TaskPrompt) -> ReadyTask:
        if one.d_model != self.trunk.d_model:
            raise InputError(
                f"{one.where}: prompts of d_model {one.d_model} do not fit the trunk {self.trunk.name} of d_model "
                f"{self.trunk.d_model}"
            )
        assert one.text.label_mode is not None
        check_writable(one.task, one.text.label_mode, self.trunk.tokenizer)
        texts = label_texts(one.task, one.text.label_mode)
        labels = Labels(texts, [encode_label(text, self.trunk.tokenizer) for text in texts])
        others = [text for task in one.beside for text in label_texts(task, one.text.label_mode)]
        lengths = [*map(len, labels.ids), *(len(encode_label(text, self.trunk.tokenizer)) for text in others)]
        return ReadyTask(one, labels, label_texts(one.task, "natural"), max(lengths))

    @property
    def prompts(self) -> Mapping[str, TaskPrompt]:
        """The prompt of each task, by its name."""
        return {name: known.prompt for name, known in self.ready.items()}

    @property
    def tasks(self) -> dict[str, Task]:
        """What each task is, by its name: its columns (`fields`), its label words."""
        return {name: known.prompt.task for name, known in self.ready.items()}

    @overload
    def predict(
        self, rows: Mapping[str, Any], task: str | None = None, *, scores: bool = False, batch_size: int = 128
    ) -> Answer: ...

    @overload
    def predict(
        self, rows: Any, task: str | None = None, *, scores: bool = False, batch_size: int = 128
    ) -> list[Answer]: ...

    def predict(
        self, rows: Any, task: str | None = None, *, scores: bool = False, batch_size: int = 128
    ) -> Answer | list[Answer]:
        """The answer to a row (a mapping from column to text), or those to many, in their order.

        Many rows are a list of mappings, a pandas or polars data frame, or a `datasets.Dataset`; rows that are too
        many to hold go through `stream`. Without `task` each row names its own in the column "task", unless there is
        only one. Raises `InputError` that counts rows from 1.
        """
        if isinstance(rows, Mapping):
            (answer,) = self.stream([rows], task, scores=scores, batch_size=batch_size)
            return answer
        return list(self.stream(rows, task, scores=scores, batch_size=batch_size))

    def stream(
        self,
        rows: Any,
        task: str | None = None,
        *,
        scores: bool = False,
        batch_size: int = 128,
        keep_going: bool = False,
    ) -> Iterator[Answer]:
        """As `predict`, for rows of any number: they are read as their answers are asked for, `AHEAD` at a time.

        With `keep_going` a row that cannot be read is answered by what is wrong with it.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        numbered = enumerate(rows_of(rows), start=1)
        while part := list(islice(numbered, AHEAD)):
            known = self.ready  # what is set while these rows are answered is for those after them
            prompts = {name: one.prompt for name, one in known.items()}
            placed = [row if isinstance(row, Placed) else Placed(row, f"row {number}") for number, row in part]
            read = [_read(row, prompts, task, keep_going) for row in placed]
            inputs = encoded([row for row in read if isinstance(row, CheckedRow)], self.trunk.tokenizer)
            answers = iter(self._answers(inputs, known, scores, batch_size))
            yield from (row if isinstance(row, Answer) else next(answers) for row in read)

    def answer(self, rows: Sequence[EncodedRow], *, scores: bool = False) -> list[Answer]:
        """The answers to rows that were encoded with these prompts, in their order: one batch."""
        return self._answers(rows, self.ready, scores, len(rows))

    @torch.no_grad()
    def _answers(
        self, rows: Sequence[EncodedRow], known: Mapping[str, ReadyTask], scores: bool, batch_size: int
    ) -> list[Answer]:
        """The answers to rows, in their order, which go through the trunk sorted by length."""
        found: dict[int, Answer] = {}
        order = sorted(range(len(rows)), key=lambda row: len(rows[row].input_ids))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            own = [rows[place] for place in places]
            targets, batch, update = self._batch(own)
            tasks = [known[row.prompt.task.name] for row in own]
            most = [task.longest for task in tasks]
            likely: Sequence[Tensor | None] = [None] * len(own)
            if scores:
                labels = [task.labels.ids for task in tasks]
                ids, likely = self.trunk.generate_and_score(targets, batch, max(most), labels, update)
            else:
                ids = self.trunk.generate(targets, batch, max(most), update)
            answers = map(ReadyTask.answer, tasks, texts_of(self.trunk, ids, most), likely)
            found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(rows))]

    def _batch(self, rows: Sequence[EncodedRow]) -> tuple[TargetPrompts, Batch, Tensor | None]:
        """The target prompts of some rows, those of one artifact beside those of the next, the rows' batch, and what is
        added to its token embeddings, if some artifact adds something.
        """
        slots = [row.prompt.index for row in rows]
        batch = make_batch([row.input_ids for row in rows], None, slots).to(self.trunk.device)
        whose: dict[int, tuple[RunPrompts, list[int]]] = {}
        for place, row in enumerate(rows):
            own = whose.setdefault(id(row.prompt.prompts), (row.prompt.prompts, []))
            own[1].append(place)
        flats: list[Tensor] = []
        lengths: list[int] = []
        new_slots = batch.slots.clone()
        update: Tensor | None = None
        for prompts, places in whose.values():
            chosen = torch.tensor(places)
            mine = batch.take(chosen)
            added = update_for(prompts, self.trunk, mine)
            if added is not None:
                update = added.new_zeros(batch.input_tokens, added.shape[1]) if update is None else update
                update = update.index_copy(0, batch.input_places(chosen).to(added.device), added)
            targets, part = prompts_for(prompts, self.trunk, mine)
            new_slots[chosen] = part.slots + len(lengths)
            flats.append(targets.flat)
            lengths += targets.lengths.tolist()
        return TargetPrompts(torch.cat(flats), cu_seqlens_of(lengths)), replace(batch, slots=new_slots), update


def _read(row: Placed, prompts: Mapping[str, TaskPrompt], task: str | None, keep_going: bool) -> CheckedRow | Answer:
    """A row that can be answered, or with `keep_going` what is wrong with it."""
    try:
        return checked(row, prompts, task)
    except InputError as error:
        if not keep_going:
            raise
        named = task or (row.row.get(TASK) if isinstance(row.row, Mapping) else None)
        return Answer(named if isinstance(named, str) else "", None, "", None, str(error))


def load(
    *paths: str | Path,
    run: str | None = None,
    task: str | None = None,
    task_files: Iterable[str | Path | Task] = (),
    model: str | None = None,
    engine: str = JobSettings.engine,
    device: str = JobSettings.device,
    dtype: str | None = None,
) -> Predictor:
    """What answers rows with the trained prompts that lie at `paths`.

    A path is a run folder (with `run`, the id of one of its runs, where several have prompts of one task), a folder
    RUN/prompts/<run-id>, a store, an export that prompts come back from, or a PEFT adapter (with `task`); `task` takes
    that task's prompt alone. Where several paths need other names, each says its own, as PATH@NAME (`read_all`).
    Nothing but the prompts' folder and the trunk is needed: prompts of a task of one's own carry what it is, and
    `task_files`, or tasks that were read from such, say it of those that do not. `model` is the trunk, where it is not
    to be found under the name that the prompts were trained with; `dtype` "fp32", "bf16" or, on a CPU, "int8", by
    default that of the training; `engine` and `device` as the flags of `train`.

    Raises `InputError` for prompts that are damaged, of another trunk, of several trunks, or two of one task.
    """
    known = [file if isinstance(file, Task) else load_task_file(Path(file)) for file in task_files]
    prompts = read_all([Path(path) for path in paths], run, task, known)
    first = next(iter(prompts.values()))
    assert first.text.prompt_position is not None
    trained = next((one.trunk.dtype for one in prompts.values() if one.trunk.dtype), None)
    given = {"engine": engine, "device": device, "dtype": dtype or trained or JobSettings.dtype}
    settings = JobSettings(
        model=model or first.trunk.name,
        prompt_position=first.text.prompt_position,
        **{name: parse(name, value, name) for name, value in given.items()},
    )
    settings = replace(settings, dtype=settled_dtype(settings))
    made_of = trained or "fp32"
    trunk = named_trunk(settings, made_of)
    # one in int8 keeps the hash of what it is made of
    hashes: dict[str | None, str] = {made_of if settings.dtype == INT8 else settings.dtype: trunk.fingerprint()}
    belonging = Belonging(trunk, settings, model is not None, hashes, made_of)
    for one in prompts.values():
        belonging.check(one)
    trunk.prepare()
    return Predictor(trunk, prompts, belonging)
