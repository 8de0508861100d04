"""Rows of a job: what each run trains on and what every run is scored on, drawn and tokenised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from compt_fast.config.job import JobSettings
from compt_fast.config.run import RunConfig
from compt_fast.tasks.loaders import TaskData
from compt_fast.tasks.sampling import Draw, draw_development, draw_training, evaluation_indices
from compt_fast.tasks.splits import Split
from compt_fast.tasks.table import Task
from compt_fast.tasks.text import InputTokens, check_writable, encode_label, label_text, label_texts, read_input
from compt_fast.utils.errors import InputError

Seen = Mapping[str, Sequence[Draw]]
"""By task: what was drawn of its training rows for the stored prompts that a run starts from."""


def seen_nothing(run: object) -> Seen:
    """What a run that starts from no stored prompts has seen before."""
    return {}


@dataclass(frozen=True)
class TrainingRow:
    """One example: token ids of input and label, and the index of its task among the run's."""

    input_ids: list[int]
    label_ids: list[int]
    task: int


@dataclass(frozen=True)
class ScoredRows:
    """Rows of one task to be predicted: token ids of the inputs, the gold labels, and the number of the group that
    each belongs to, where the task has groups.
    """

    task: Task
    inputs: list[list[int]]
    golds: list[int | float]
    groups: list[int] | None = None


@dataclass(frozen=True)
class Measure:
    """A row's text before it is cut: all its tokens, those of its texts alone, and how many of these are unknown."""

    length: int
    tokens: int
    unknown: int


def draw_of(config: RunConfig) -> Draw:
    """Which rows a run trains on."""
    return Draw(config.shots, config.seed, config.sampling, config.max_train)


def _known(data: TaskData, draws: Sequence[Draw]) -> np.ndarray:
    """The training rows of a task, by index, that are among the `draws`."""
    known = np.zeros(len(data.train.labels), dtype=bool)
    for draw in draws:
        with suppress(InputError):  # where there are too few rows for it, it was drawn from others
            known[draw_training(data.train.labels, data.task, draw, development=False)] = True
    return np.flatnonzero(known)


def _groups(split: Split, chosen: Sequence[int]) -> list[int] | None:
    """The groups of some rows, by number, of a task that has groups."""
    return None if split.groups is None else [int(split.groups[index]) for index in chosen]


class JobData:
    """Draws and encodes rows; a text is encoded once however many runs use it.

    `measures` are those of the rows encoded so far, by the index of their task, whether they are of its training
    split, and their index there.
    """

    def __init__(self, tasks: list[TaskData], settings: JobSettings, tokenizer: Any) -> None:
        self.tasks = tasks
        self.tokenizer = tokenizer
        self.prefix = settings.prefix
        self._eval_size = settings.eval_size
        self._develops = settings.develops
        self.max_length = settings.max_source_length
        self.measures: dict[tuple[int, bool, int], Measure] = {}
        self._encoded: dict[tuple[int, int], list[int]] = {}
        self._labels: dict[str, list[int]] = {}  # token ids of a text, once for the many rows with that label
        self._scored: list[ScoredRows] | None = None

    def training(self, config: RunConfig) -> list[TrainingRow]:
        """The examples of a run's tasks that it trains on (task by task, as they were drawn)."""
        rows = []
        for slot, (t, data) in enumerate(self._own(config)):
            for index in draw_training(data.train.labels, data.task, draw_of(config), development=self._develops):
                text = label_text(data.task, data.train[int(index)].label, config.label_mode)
                if text not in self._labels:
                    self._labels[text] = encode_label(text, self.tokenizer)
                rows.append(TrainingRow(self._input(t, int(index)), self._labels[text], slot))
        return rows

    def development(self, config: RunConfig, seen: Seen) -> list[ScoredRows]:
        """A run's development sample: as many further training examples as it has shots, none of which is among what
        was `seen` by what the run starts from.
        """
        sets = []
        for t, data in self._own(config):
            known = _known(data, seen.get(data.task.name, ()))
            chosen = [int(i) for i in draw_development(data.train.labels, data.task, draw_of(config), known)]
            golds = [data.train[i].label for i in chosen]
            inputs = [self._input(t, i) for i in chosen]
            sets.append(ScoredRows(data.task, inputs, golds, _groups(data.train, chosen)))
        return sets

    def evaluation(self) -> list[ScoredRows]:
        """The rows that every run is scored on, the same whatever its seed."""
        if self._scored is None:
            self._scored = self._draw_evaluation()
        return self._scored

    def scored_indices(self, data: TaskData) -> list[int]:
        """Which rows of a task's evaluation split, from 0, are scored, in the order of `evaluation`."""
        split = data.evaluation
        return [int(i) for i in evaluation_indices(len(split), self._eval_size, split.groups)]

    def _draw_evaluation(self) -> list[ScoredRows]:
        sets = []
        for t, data in enumerate(self.tasks):
            chosen = self.scored_indices(data)
            inputs = [self._encode(t, index, train=False) for index in chosen]
            golds = [data.evaluation.labels[index].item() for index in chosen]
            sets.append(ScoredRows(data.task, inputs, golds, _groups(data.evaluation, chosen)))
        return sets

    def longest_label(self, mode: str) -> int:
        """Tokens of the longest label of any task, its end token included."""
        return max(len(ids) for data in self.tasks for ids in self.label_ids(data.task, mode))

    def label_ids(self, task: Task, mode: str) -> list[list[int]]:
        """Token ids of each label of a task, in the order of `label_texts`."""
        return [encode_label(text, self.tokenizer) for text in label_texts(task, mode)]

    def check_labels(self, mode: str) -> None:
        """Raise `InputError` for a label of any task that the trunk cannot write."""
        for data in self.tasks:
            check_writable(data.task, mode, self.tokenizer)

    def names(self, config: RunConfig) -> list[str]:
        """The tasks of a run: all of the job, or the one that it was trained for apart."""
        return [data.task.name for _, data in self._own(config)]

    def _own(self, config: RunConfig) -> list[tuple[int, TaskData]]:
        """A run's tasks, each with its place among the job's."""
        return [(t, data) for t, data in enumerate(self.tasks) if config.task in (None, data.task.name)]

    def _input(self, t: int, index: int) -> list[int]:
        if (t, index) not in self._encoded:
            self._encoded[t, index] = self._encode(t, index, train=True)
        return self._encoded[t, index]

    def _encode(self, t: int, index: int, *, train: bool) -> list[int]:
        return self.read(t, index, train=train).cut(self.max_length)

    def read(self, t: int, index: int, *, train: bool) -> InputTokens:
        """The whole text of a row of task `t`, of its training or its evaluation split; its measure is kept."""
        data = self.tasks[t]
        row = (data.train if train else data.evaluation)[index]
        read = read_input(data.task, row.texts, self.tokenizer, prefix=self.prefix)
        ids = [token for text in read.texts for token in text]
        self.measures[t, train, index] = Measure(read.length, len(ids), ids.count(self.tokenizer.unk_token_id))
        return read
