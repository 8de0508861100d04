"""What one job is: its settings, a field each, and the sweep of its runs' settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, Literal

from compt_fast.config.baselines import METHODS
from compt_fast.config.budget import BUDGET
from compt_fast.config.choices import (
    ASYNCHRONOUS,
    ENGINE_NAMES,
    FITS,
    HALVINGS,
    INT8,
    NONE,
    PROMPT_POSITIONS,
    RETRAIN,
    SAMPLER_NAMES,
    SCORING_NAMES,
    SYNCHRONOUS,
    TRACKER_NAMES,
)
from compt_fast.config.fields import FOLDER, NOT_NEGATIVE, PLACE, POSITIVE, TRUNK, Flag, Range, flags_of, stated, up_to
from compt_fast.config.run import RUN_FLAGS

MOST_RUNS = 10_000  # of a job: their plan alone takes seconds


@dataclass(frozen=True)
class JobFlag(Flag):
    """The flag of a setting of a job: one value, or a list that stays one.

    A job goes on under another value of a `free` setting: it changes no number, or what it changed is done already.
    Of the others one that is not `hashed` is no part of the hash of a job's files. `names_tasks` says that it holds
    tasks or suites, `of_stored` that it means something only where runs start from stored sources, or from stored
    prompts of either role, `of_search` that it does only beside `--search`. What `decides` who is stopped is kept where
    it is given anew. Under another `pace` a job computes the same, faster or slower.

    `also` are the commands besides `train` and `check` that have the flag, "load" those that load trained prompts. A
    report keeps runs of two values in panels of their own, compares them, or takes no notice of the setting.
    """

    _: KW_ONLY
    free: bool = False
    hashed: bool = True
    names_tasks: bool = False
    of_stored: Literal["", "sources", "prompts", "shared"] = ""
    of_search: bool = False
    decides: bool = False
    pace: bool = False
    also: tuple[str, ...] = ()
    report: Literal["", "panel", "compared"] = ""


_flag = stated(JobFlag)
_decides = partial(_flag, free=True, decides=True)


@dataclass(frozen=True)
class Sweep:
    """The values of the settings of runs, by field; each combination of them is a run.

    What has no values is left to the presets.
    """

    values: Mapping[str, list[Any]]

    @classmethod
    def of(cls, **values: list[Any] | None) -> Sweep:
        """These values, and those of the other flags without them; None leaves a setting to the presets."""
        every = {flag.field: flag.default for flag in RUN_FLAGS.values()} | values
        return cls({name: of for name, of in every.items() if of is not None})

    @property
    def methods(self) -> list[str]:
        """The presets."""
        return self.values["method"]

    def choices(self) -> Iterator[dict[str, Any]]:
        """One value a field, or None where the preset decides, for each combination; the last field varies fastest."""
        names = [flag.field for flag in RUN_FLAGS.values()]
        for chosen in itertools.product(*(self.values.get(name, [None]) for name in names)):
            yield dict(zip(names, chosen, strict=True))


@dataclass(frozen=True)
class JobSettings:
    """The settings of a job, as read and checked; `dtype` and `source_tasks` are settled where the job is opened."""

    sweep: Sweep = field(default_factory=Sweep.of)
    model: str = field(
        default="mini",
        metadata=_flag(
            "trunk: 'mini' (embedded), a folder, or a hub name such as t5-base",
            kind=TRUNK,
            hashed=False,  # the weights are
            also=("store", "load"),
            report="panel",
        ),
    )
    suite: str | None = field(
        default=None,
        metadata=_flag(
            "tasks to train together: mini, mini2, mini3, mini4, glue, set2, crosspt-set2, superglue, others "
            "(default: mini)"
        ),
    )
    tasks: list[str] | None = field(default=None, metadata=_flag("tasks by name, instead of a suite", names_tasks=True))
    include: list[str] = field(default_factory=list, metadata=_flag("tasks to add to the suite", names_tasks=True))
    exclude: list[str] = field(
        default_factory=list, metadata=_flag("tasks to leave out of the suite", names_tasks=True)
    )
    task_file: list[str] = field(
        default_factory=list, metadata=_flag("your own tasks: TOML or YAML files", kind=PLACE, also=("load",))
    )
    data_root: str | None = field(
        default=None,
        metadata=_flag(
            "local folder in the hub's layout (DIR/nyu-mll/glue/...)", kind=PLACE, also=("evaluate",), report="panel"
        ),
    )
    data: str | None = field(
        default=None,
        metadata=_flag(
            "local folder DIR/<task>/{train,validation}.{jsonl,csv,tsv,parquet}",
            kind=PLACE,
            also=("evaluate",),
            report="panel",
        ),
    )
    skip_empty: bool = field(
        default=False,
        metadata=_flag(
            "leave out rows of --data and task files that lack a text or label (default: refuse them)",
            also=("evaluate",),
        ),
    )
    prefix: bool = field(
        default=True, metadata=_flag("begin each text with '<task>:' (default: yes)", report="compared")
    )
    prompt_position: str = field(
        default="prepend", metadata=_flag("the prompt's place", choices=PROMPT_POSITIONS, report="compared")
    )
    max_source_length: int = field(
        default=256,
        metadata=_flag("tokens of a text, the prompt not counted", ranges=(POSITIVE,), report="panel"),
    )
    apart: bool | None = field(
        default=None,
        metadata=_flag(
            "a run for each task alone, or one for all tasks (default: as the papers train the method: "
            + ", ".join(name for name, preset in METHODS.items() if preset.apart)
            + " each task alone, the others all together)"
        ),
    )
    store: str | None = field(
        default=None,
        metadata=_flag("folder of stored prompts (default: store/ in the run folder)", kind=PLACE, free=True),
    )
    source_tasks: list[str] | None = field(
        default=None,
        metadata=_flag(
            "tasks, or suites, whose stored prompts runs start from; what the store lacks is trained first (default: "
            "the tasks trained)",
            names_tasks=True,
            of_stored="sources",
            report="compared",
        ),
    )
    shared_from: str | None = field(
        default=None,
        metadata=_flag(
            "folder RUN/prompts/RUN-ID of a run of mpt-source, whose shared prompt and factors runs start from "
            "(default: one that is trained first, on the source tasks)",
            kind=PLACE,
            of_stored="shared",
            report="compared",
        ),
    )
    source_examples: int = field(
        default=200,
        metadata=_flag(
            "examples a task that lacking source prompts are trained on, at most",
            ranges=(POSITIVE,),
            free=True,
            report="compared",
        ),
    )
    source_steps: int | None = field(
        default=None,
        metadata=_flag(
            "steps that train source prompts which the store lacks, whatever --steps says (default: the epochs of the "
            "presets that train them: p, mst, mpt-source, progressive)",
            ranges=(POSITIVE,),
            free=True,
            of_stored="prompts",
            report="compared",
        ),
    )
    fit_length: str | None = field(
        default=None,
        metadata=_flag(
            "what to do with a stored prompt of another length: its first tokens, means of neighbouring ones, its "
            "tokens again and again, or train one of the right length (default: refuse it)",
            choices=(*FITS, RETRAIN),
            hashed=False,  # so that a job may begin without it, and go on with it
            of_stored="prompts",
        ),
    )
    out: str | None = field(
        default=None,
        metadata=_flag(
            "run folder (default: runs/<suite>-<time>); one that is there is extended by the runs that it lacks",
            kind=FOLDER,
            free=True,
        ),
    )
    engine: str = field(
        default="auto", metadata=_flag("what runs the trunk", choices=ENGINE_NAMES, also=("load",), report="compared")
    )
    device: str = field(
        default="auto",
        metadata=_flag(
            "where the trunk runs", choices=("auto", "cpu", "cuda"), free=True, pace=True, also=("evaluate", "load")
        ),
    )
    dtype: str = field(
        default="auto",
        metadata=_flag(
            "the trunk's numbers; auto is bf16 on a GPU and fp32 elsewhere; int8, on a CPU, scores and predicts, and "
            "does not train",
            choices=("auto", "bf16", "fp32", INT8),
            also=("evaluate", "store", "load"),
            report="panel",
        ),
    )
    cuda_graphs: bool = field(
        default=True,
        metadata=_flag(
            "on a GPU, replay training steps of the engine fast as CUDA graphs (default: yes)",
            free=True,
            pace=True,
        ),
    )
    runs_at_once: int = field(
        default=12,
        metadata=_flag(
            "runs that train side by side, in one pass over the trunk, while the rest wait: more take more memory, and "
            "fill a larger device; what a run learns does not depend on it (on a CPU in fp32 to the last bit)",
            ranges=(POSITIVE,),
            free=True,
            pace=True,
        ),
    )
    eval_size: int = field(
        default=300,
        metadata=_flag("evaluation rows a task", ranges=(POSITIVE,), also=("evaluate",), report="panel"),
    )
    eval_batch_size: int = field(
        default=128,
        metadata=_flag(
            "rows a batch in evaluation, all of one run; a pass takes batches of several runs, on a CPU up to so many "
            "rows in all, on a GPU up to 8 times as many",
            ranges=(POSITIVE,),
            pace=True,
            also=("evaluate",),
        ),
    )
    scoring: str = field(
        default="generate",
        metadata=_flag(
            "greedy decoding, or likelihood of each label",
            choices=SCORING_NAMES,
            also=("evaluate",),
            report="panel",
        ),
    )
    select: str = field(
        default="last",
        metadata=_flag(
            "weights that are reported: last, or best on the development sample",
            choices=("last", "best"),
            report="compared",
        ),
    )
    search: str | None = field(
        default=None,
        metadata=_flag(
            "TOML, YAML or JSON file of a space of flags of runs, of which trials are chosen by their development "
            "scores; the flags of runs beside it, one value each but for --seeds, are every trial's (docs/search.md)",
            kind=PLACE,
            hashed=False,  # a run is the same whatever else is tried
        ),
    )
    trials: int | None = field(
        default=None,
        metadata=_flag(
            "trials of --search (default: 100, of the sampler grid all points)",
            ranges=(POSITIVE, up_to(MOST_RUNS)),
            free=True,
            of_search=True,
        ),
    )
    sampler: str = field(
        default="tpe",
        metadata=_flag("what chooses the trials of --search", choices=SAMPLER_NAMES, hashed=False, of_search=True),
    )
    search_seed: int = field(
        default=0,
        metadata=_flag(
            "seed of what chooses the trials of --search", ranges=(NOT_NEGATIVE,), hashed=False, of_search=True
        ),
    )
    confirm: int = field(
        default=5,
        metadata=_flag(
            "fresh seeds that the best trial of --search is trained with at the end, to report it by",
            ranges=(NOT_NEGATIVE, up_to(1000)),
            free=True,
            of_search=True,
        ),
    )
    halve: str | None = field(
        default=None,
        metadata=_decides(
            "stop runs early that do worse than others on the development sample, and give their places to those that "
            f"wait: {ASYNCHRONOUS} (ASHA) decides of those that have come to a rung so far, {SYNCHRONOUS} once all "
            f"have, none stops nobody (without a value: {ASYNCHRONOUS})",
            choices=(*HALVINGS, NONE),
            bare=ASYNCHRONOUS,
        ),
    )
    halve_factor: int = field(
        default=3,
        metadata=_decides(
            "of the runs at a rung one in so many goes on",
            ranges=(Range("must be 2 or more, not {}", 2),),
        ),
    )
    least_steps: int | None = field(
        default=None,
        metadata=_decides(
            "steps to the first rung of --halve; each further one lies --halve-factor times as far (default: three "
            "rungs, the last at the end divided by --halve-factor)",
            ranges=(POSITIVE,),
        ),
    )
    rungs: list[int] | None = field(
        default=None,
        metadata=_decides("the rungs of --halve themselves: step counts where runs are compared", ranges=(POSITIVE,)),
    )
    budget: str | None = field(
        default=None,
        metadata=_decides(
            "stop the whole once so much is spent, with the best so far: a time (90s, 30m, 4h) or training tokens "
            "(2e6tokens); --resume with a larger one, or none, goes on",
            kind=BUDGET,
        ),
    )
    checkpoint_every: int = field(
        default=200, metadata=_flag("steps between checkpoints", ranges=(POSITIVE,), free=True, pace=True)
    )
    track: list[str] = field(
        default_factory=list,
        metadata=_flag(
            "where curves and scores go beside metrics.jsonl, into the run folder: nothing leaves the machine",
            choices=TRACKER_NAMES,
            free=True,
        ),
    )
    track_every: int = field(
        default=10,
        metadata=_flag("steps of a run from one tracked point of its curve to the next", ranges=(POSITIVE,), free=True),
    )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> JobSettings:
        """The settings with these values, by the keys of all flags; those of runs are lists or None."""
        sweep = Sweep({flag.field: values[key] for key, flag in RUN_FLAGS.items() if values[key] is not None})
        return cls(sweep, **{flag.field: values[key] for key, flag in JOB_FLAGS.items()})

    @property
    def develops(self) -> bool:
        """Whether runs are scored on development samples: to select their weights, or to choose among them."""
        return self.select == "best" or self.search is not None

    def to_json(self) -> dict[str, Any]:
        """What `of` takes: every value by the key of its flag, as `config.json` keeps it."""
        runs = {key: self.sweep.values.get(flag.field) for key, flag in RUN_FLAGS.items()}
        return runs | {key: getattr(self, flag.field) for key, flag in JOB_FLAGS.items()}


JOB_FLAGS = flags_of(JobSettings, JobFlag)
"""The flags of a job by key."""
