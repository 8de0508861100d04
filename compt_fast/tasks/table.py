"""The one table of tasks and suites (section 3.1 of ComPT, arXiv 2408.13227, and of CrossPT, arXiv
2509.14253; SuperGLUE and the four others as T5, ATTEMPT, MPT and DePT write them), with the embedded
task of each kind. The names of fields and labels are ours where the papers do not print them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from compt_fast.mini import comprehension, lexicon, skills
from compt_fast.mini.rows import GROUP, Maker

METRICS = ("accuracy", "f1", "matthews", "em", "spearman", "pearson")
SCORE_METRICS = ("spearman", "pearson")


@dataclass(frozen=True)
class Task:
    """What a task is: its rows, its text, the names of its labels, its metrics.

    A task with no `labels` is a score: a number between the ends of `score_range`, written in steps
    of `step`. A task with `thresholds` has numbers in its data, and class `i` are those from
    threshold `i - 1` on and below threshold `i`. Rows that agree in the column `group` (those of one question) stay
    together in evaluation; the metric "em" counts the groups whose every row is right.
    """

    name: str
    prefix: str  # the name that stands in the text
    fields: tuple[tuple[str, str], ...]  # (column of the data, name in the text), in text order
    labels: tuple[str, ...]  # natural label words by class id
    metrics: tuple[str, ...]  # the primary one first
    letter: str = ""  # of the synthetic labels
    origin: Literal["hub", "mini", "file"] = "hub"  # where its rows come from; "mini" is the embedded world
    dataset: str = ""  # id on the hub
    config: str | None = None
    path: Path | None = None  # of a user's rows: a folder of splits, or one file
    train_split: str = "train"
    eval_split: str = "validation"
    label_column: str = "label"
    label_values: tuple[str, ...] = ()  # what the data write for `labels`, where it differs
    group: str = ""  # column of what rows belong to, such as the question that they answer
    reading: str = ""  # how published rows become rows of `fields`, where their columns are others
    thresholds: tuple[float, ...] = ()
    score_range: tuple[float, float] = (0.0, 5.0)
    step: float = 0.2

    @property
    def is_score(self) -> bool:
        """Whether a label is a number to be approached, not a class to be hit."""
        return not self.labels

    @property
    def primary(self) -> str:
        """The metric that counts in averages."""
        return self.metrics[0]


_Fields = tuple[tuple[str, str], ...]
_ONE = (("sentence", "sentence1"),)
_PAIR = (("sentence1", "sentence1"), ("sentence2", "sentence2"))
_QUESTIONS = (("question1", "sentence1"), ("question2", "sentence2"))
_QNLI = (("question", "sentence1"), ("sentence", "sentence2"))
_MNLI = (("premise", "sentence1"), ("hypothesis", "sentence2"))
_NLI = (("premise", "premise"), ("hypothesis", "hypothesis"))
_TEXT = (("text", "sentence"),)


def _same(*names: str) -> _Fields:
    """Fields that the text calls by the names of their columns."""
    return tuple((name, name) for name in names)


_THREE_WAY = ("entailment", "neutral", "contradiction")
_TWO_WAY = ("entailment", "not_entailment")
_POLARITY = ("negative", "positive")
_EQUIVALENT = ("not_equivalent", "equivalent")
_DUPLICATE = ("not_duplicate", "duplicate")
_TRUTH = ("False", "True")  # T5's words

_GLUE = "nyu-mll/glue"
_SUPERGLUE = "aps/super_glue"
_PAWS = "google-research-datasets/paws"


def _hub(
    name: str,
    place: tuple[str, str, str],
    fields: _Fields,
    labels: tuple[str, ...],
    *metrics: str,
    **more: Any,
) -> Task:
    """A task of the hub; `place` is (data set, configuration, evaluation split).

    The evaluation split is the test split where its labels are public, otherwise the validation
    split (CrossPT, section 3.2).
    """
    dataset, config, split = place
    return Task(
        name=name,
        prefix=name,
        fields=fields,
        labels=labels,
        metrics=metrics or ("accuracy",),
        dataset=dataset,
        config=config,
        eval_split=split,
        **more,
    )


def _glue(name: str, fields: _Fields, labels: tuple[str, ...], *metrics: str) -> Task:
    return _hub(name, (_GLUE, name, "validation"), fields, labels, *metrics)


def _superglue(name: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: str, **more: Any) -> Task:
    """A task of SuperGLUE; its columns stand in the order of the code of ATTEMPT, which MPT and DePT build on."""
    config = more.pop("config", name)
    return _hub(name, (_SUPERGLUE, config, "validation"), _same(*columns), labels, *metrics, **more)


_EACH_OF_THREE = ((0,), (1,), (2,))
_EACH_OF_SIX = tuple((parts,) for parts in range(6))

# Each task of the hub, and how the rows of the embedded task of its kind are made; None where there is none.
_KINDS: tuple[tuple[Task, Maker | None], ...] = (
    (_glue("cola", _ONE, ("unacceptable", "acceptable"), "accuracy", "matthews"), Maker(skills.acceptability)),
    (_hub("mnli", (_GLUE, "mnli", "validation_matched"), _MNLI, _THREE_WAY), Maker(skills.inference, _EACH_OF_THREE)),
    (_glue("mrpc", _PAIR, _EQUIVALENT, "accuracy", "f1"), Maker(skills.paraphrase)),
    (_glue("qnli", _QNLI, _TWO_WAY), Maker(skills.question_answer)),
    (_glue("qqp", _QUESTIONS, _DUPLICATE, "accuracy", "f1"), Maker(skills.question_paraphrase)),
    (_glue("rte", _PAIR, _TWO_WAY), Maker(skills.inference, ((0,), (1, 2)))),
    (_glue("sst2", _ONE, _POLARITY), Maker(skills.sentiment)),
    (_glue("stsb", _PAIR, (), "spearman", "pearson"), Maker(skills.similarity, _EACH_OF_SIX, graded=True)),
    (_hub("imdb", ("stanfordnlp/imdb", "plain_text", "test"), _TEXT, _POLARITY), Maker(skills.long_sentiment)),
    (
        _hub("multinli", ("nyu-mll/multi_nli", "default", "validation_matched"), _NLI, _THREE_WAY),
        Maker(skills.reported_inference, _EACH_OF_THREE),
    ),
    (_hub("paws", (_PAWS, "labeled_final", "test"), _PAIR, _EQUIVALENT), Maker(skills.adversarial_paraphrase)),
    (
        _hub(
            "scitail",
            ("allenai/scitail", "tsv_format", "test"),
            _NLI,
            ("entailment", "neutral"),
            label_values=("entails", "neutral"),
        ),
        Maker(partial(skills.inference, generic=True)),
    ),
    (
        _hub("yelp_polarity", ("fancyzhx/yelp_polarity", "plain_text", "test"), _TEXT, _POLARITY),
        Maker(partial(skills.long_sentiment, topics=lexicon.VENUE_TOPICS)),
    ),
    # STS-B in three classes (CrossPT, section 3.1); its thresholds are unpublished: these are ours.
    (
        _hub(
            "stsb2",
            (_GLUE, "stsb", "validation"),
            _PAIR,
            ("low", "medium", "high"),
            thresholds=(2.0, 4.0),
        ),
        None,
    ),
    (_superglue("boolq", ("question", "passage"), _TRUTH), Maker(comprehension.polar)),
    (
        _superglue("cb", ("premise", "hypothesis"), ("entailment", "contradiction", "neutral"), "accuracy", "f1"),
        Maker(skills.inference, ((0,), (2,), (1,))),
    ),
    (
        _superglue("copa", ("premise", "question", "choice1", "choice2"), ("choice1", "choice2")),
        Maker(comprehension.choice, labels=("alpha", "beta")),
    ),
    (
        # Its F1 over all answers is F1a (Khashabi et al. 2018).
        _superglue(
            *("multirc", ("question", "answer", "paragraph"), _TRUTH, "f1", "em"),
            group="question_id",
            reading="multirc",
        ),
        Maker(comprehension.answer, each=True),
    ),
    (
        # A row a candidate, as MultiRC's answers are: a generated entity would be a label of its row alone. Ours.
        _superglue(*("record", ("query", "entity", "passage"), _TRUTH, "f1", "em"), group="query_id", reading="record"),
        Maker(comprehension.candidate, each=True),
    ),
    (_superglue("wic", ("sentence1", "sentence2", "word"), _TRUTH), Maker(comprehension.same_role)),
    (
        _superglue("wsc", ("text",), _TRUTH, config="wsc.fixed", reading="wsc"),
        Maker(comprehension.coreference),
    ),
    (
        _hub(
            "winogrande",
            ("allenai/winogrande", "winogrande_xl", "validation"),
            _same("sentence", "option1", "option2"),
            ("option1", "option2"),
            label_column="answer",
            label_values=("1", "2"),
        ),
        Maker(comprehension.cloze, labels=("alpha", "beta")),
    ),
)


def _mini(task: Task, maker: Maker) -> Task:
    """The embedded task of the same kind: the same text and labels, other rows. Label words have no capitals, and
    are the maker's where it has words of its own, as the embedded trunk says few.
    """
    fields = tuple((f"sentence{k}", name) for k, (_, name) in enumerate(task.fields, start=1))
    return replace(
        task,
        name=f"mini_{task.name}",
        fields=fields,
        labels=maker.labels or tuple(map(str.lower, task.labels)),
        origin="mini",
        dataset="",
        config=None,
        eval_split="validation",
        label_column="label",
        label_values=(),
        group=GROUP if maker.each else "",
        reading="",
    )


# A to N, which the embedded trunk knows, then S with a second letter: a user's own tasks take those between.
_LETTERS = [*ascii_uppercase[:14], *(f"S{second}" for second in ascii_uppercase)]
_HUB = {task.name: replace(task, letter=letter) for (task, _), letter in zip(_KINDS, _LETTERS, strict=False)}
_MINI = {task.name: _mini(_HUB[task.name], maker) for task, maker in _KINDS if maker}
TASKS: dict[str, Task] = _HUB | {task.name: task for task in _MINI.values()}
MAKERS: dict[str, Maker] = {_MINI[task.name].name: maker for task, maker in _KINDS if maker}
"""How the rows of each embedded task are made."""

_SET2 = ("imdb", "mrpc", "multinli", "paws", "scitail", "yelp_polarity")
# Each suite of the papers: the embedded one of its kind, and its tasks. `others` is what MPT and DePT call so.
_SUITES: dict[str, tuple[str, tuple[str, ...]]] = {
    "glue": ("mini", ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")),
    "set2": ("mini2", _SET2),
    "crosspt-set2": ("mini2", (*_SET2, "stsb2")),
    "superglue": ("mini3", ("boolq", "cb", "copa", "multirc", "record", "wic", "wsc")),
    "others": ("mini4", ("paws", "scitail", "winogrande", "yelp_polarity")),
}
SUITES: dict[str, tuple[str, ...]] = {
    kind: tuple(_MINI[name].name for name in names if name in _MINI) for kind, names in _SUITES.values()
} | {suite: names for suite, (_, names) in _SUITES.items()}
DEFAULT_SUITE = "mini"

EMBEDDED: dict[str, str] = (
    {suite: kind for suite, (kind, _) in _SUITES.items()}
    | {name: task.name for name, task in _MINI.items()}
    | {name: name for name in (*(kind for kind, _ in _SUITES.values()), *MAKERS)}
)
"""The embedded suite or task of the kind of each suite and task, which of an embedded one is itself. `stsb2` has
none, which the suite `crosspt-set2` loses."""
