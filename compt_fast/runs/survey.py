"""What a job's rows are like: how long their texts are, what the trunk's tokenizer does not know, what stands twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from compt_fast.tasks.examples import JobData, Measure
from compt_fast.tasks.sampling import evaluation_indices
from compt_fast.tasks.splits import Split
from compt_fast.tasks.table import Task
from compt_fast.tasks.text import unknown_words

ROWS = 2000  # of a split, to look at: quick, and within a point or two of the shares in all of it
UNKNOWN_SHARE = 0.01  # of a task's tokens, above which the trunk reads something else than what stands there
WORDS = 5  # that are named
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """What the rows of one split are like.

    `rows` is how many there are; `looked` (k, at most ROWS) of them, in the fixed shuffle that no seed changes, have
    the tokens `lengths` (k,), uncut. `labels` counts the class words in all rows. `repeated` of those looked at have
    the texts of one before, `contradicting` of these with another label. `texts` are those looked at.
    """

    task: Task
    name: str
    rows: int
    labels: dict[str, int]
    lengths: np.ndarray
    cut: int
    unknown_share: float
    unknown: list[str]
    repeated: int
    contradicting: int
    texts: set[Texts]

    @property
    def looked(self) -> int:
        return len(self.lengths)


def survey(data: JobData, t: int, *, train: bool) -> Survey:
    """Look at the rows of the training or evaluation split of task `t`."""
    of = data.tasks[t]
    split, task = (of.train if train else of.evaluation), of.task
    chosen = [int(i) for i in evaluation_indices(len(split), ROWS)]
    measures = []
    for index in chosen:
        data.read(t, index, train=train)
        measures.append(data.measures[t, train, index])
    labels_of: dict[Texts, Any] = {}
    repeated = contradicting = 0
    for index in chosen:
        texts, label = _texts(split, index), split.labels[index].item()
        repeated += texts in labels_of
        contradicting += labels_of.setdefault(texts, label) != label
    counts = Counter(split.labels.tolist())
    return Survey(
        task,
        "train" if train else "evaluation",
        len(split),
        {word: counts[k] for k, word in enumerate(task.labels)},
        np.array([measure.length for measure in measures]),
        sum(measure.length > data.max_length for measure in measures),
        _unknown_share(measures),
        _words(data, split, dict(zip(chosen, measures, strict=True))),
        repeated,
        contradicting,
        set(labels_of),
    )


def problems(train: Survey, evaluation: Survey, max_length: int) -> Iterator[str]:
    """What a user would want to know of the rows of one task before training on them, a line each."""
    name = train.task.name
    for seen in (train, evaluation):
        what = f"{name}, {seen.name}"
        if missing := [word for word, count in seen.labels.items() if not count]:
            yield f"{what}: no row is labelled {', '.join(missing)}"
        if seen.cut:
            yield (
                f"{what}: --max-source-length {max_length} cuts {_share(seen.cut, seen.looked)}; the longest has "
                f"{seen.lengths.max():,} tokens"
            )
        if seen.unknown_share > UNKNOWN_SHARE:
            yield f"{what}: {_unknown(seen.unknown_share, seen.unknown)}"
        if seen.repeated:
            other = f", {seen.contradicting:,} of them with another label" if seen.contradicting else ""
            yield f"{what}: {_share(seen.repeated, seen.looked)} repeat the texts of another{other}"
    if shared := len(train.texts & evaluation.texts):
        yield f"{name}: {_share(shared, len(evaluation.texts))} of evaluation have texts that stand in train too"


def row_notes(data: JobData) -> list[str]:
    """A line on each thing that may be wrong with the rows that a job has encoded, those that it uses."""
    cut, unknown, shared = [], [], []
    for t, of in enumerate(data.tasks):
        mine = {key[1:]: measure for key, measure in data.measures.items() if key[0] == t}
        long = [measure.length for measure in mine.values() if measure.length > data.max_length]
        if long:
            cut.append(f"{_share(len(long), len(mine))} of {of.task.name} (the longest has {max(long):,} tokens)")
        share = _unknown_share(list(mine.values()))
        if share > UNKNOWN_SHARE:
            words = [
                word
                for train, split in ((True, of.train), (False, of.evaluation))
                for word in _words(data, split, {index: m for (own, index), m in mine.items() if own == train})
            ]
            unknown.append(f"{of.task.name}: {_unknown(share, list(dict.fromkeys(words))[:WORDS])}")
        examples = {_texts(of.train, index) for train, index in mine if train}
        scored = [index for train, index in mine if not train]
        if twice := sum(_texts(of.evaluation, index) in examples for index in scored):
            shared.append(f"{_share(twice, len(scored))} of {of.task.name}")
    return [
        *([f"--max-source-length {data.max_length} cuts {'; '.join(cut)}"] if cut else []),
        *unknown,
        *([f"scored, and among the examples too: {'; '.join(shared)}"] if shared else []),
    ]


def _texts(split: Split, index: int) -> Texts:
    return tuple(" ".join(text.split()) for text in split[index].texts)


def _unknown_share(measures: list[Measure]) -> float:
    return sum(measure.unknown for measure in measures) / max(1, sum(measure.tokens for measure in measures))


def _words(data: JobData, split: Split, measures: dict[int, Measure]) -> list[str]:
    """The first words of some rows that the tokenizer does not know."""
    words: dict[str, None] = {}
    for index in sorted(index for index, measure in measures.items() if measure.unknown):
        words |= dict.fromkeys(unknown_words(split[index].texts, data.tokenizer))
        if len(words) >= WORDS:
            break
    return list(words)[:WORDS]


def _unknown(share: float, words: list[str]) -> str:
    named = ", ".join(word if len(word) <= 24 else f"{word[:23]}…" for word in words)
    return f"the trunk's tokenizer does not know {100 * share:.1f} % of the tokens, as of {named}"


def _share(count: int, whole: int) -> str:
    return f"{count:,} of {whole:,} rows"
