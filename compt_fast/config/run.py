"""What one run is: the settings of a run, a field each, and how they resolve from a preset and the user's changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from typing import Any, ClassVar

from compt_fast.config.baselines import METHODS, REDUCED, REDUCTION
from compt_fast.config.choices import (
    ENCODER_NAMES,
    GATE_NAMES,
    HIDDEN,
    INITS,
    LABEL_MODES,
    NORMALISATION_NAMES,
    ROUTER_NAMES,
    SAMPLINGS,
    SHARINGS,
)
from compt_fast.config.fields import FULL, NOT_NEGATIVE, POSITIVE, SHOTS, Flag, Range, flags_of, stated, up_to
from compt_fast.config.presets import (
    CHAIN,
    INIT_RANGE,
    JOINT,
    PER_TASK,
    RANDOM,
    SHARED,
    SOURCELESS,
    SPOT,
    STORED,
    Preset,
    encoded_roles,
)
from compt_fast.utils.errors import InputError, unknown

SEEDS = 2**32  # what NumPy takes as a seed
MAX_TRAIN = 5000  # examples a task, where a run takes all of them
FEW = 10  # shots, up to which a preset's epochs double


def _always(preset: Preset) -> bool:
    return True


@dataclass(frozen=True)
class RunFlag(Flag):
    """The flag of a setting of runs: a comma list, of which each value makes runs of its own.

    `default` holds the values without the flag; where it is None the preset decides, and `usual` is the value of a
    preset that says nothing of the setting. `used` says whether a preset has a use for it. The flag cannot stand
    beside the one with the key `excludes`. A setting `in_id` is always part of a run's id, the others where they
    vary. `shape` is what `PromptShape` calls it, where that is another name.
    """

    _: KW_ONLY
    usual: Any = None
    used: Callable[[Preset], bool] = _always
    excludes: str = ""
    in_id: bool = False
    shape: str = ""
    many: ClassVar[bool] = True


_flag = stated(RunFlag)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training, resolved: nothing is left to a default.

    `shots` None means all examples up to `max_train`; learning rates are peaks, and prompts, encoders,
    router or gates whose rate is 0 are frozen; `lr_encoder` None is the rate of the encoded prompts.
    `composition` and `private` are the preset's, and `task` names the one task of a run that is trained apart from
    the job's other tasks: these three have no flag. A field with a default came after the first version: its default
    is what older files mean, and counts in no hash of a job.
    """

    method: str = field(
        metadata=_flag("presets to train", choices=tuple(METHODS), default=["spp", "pt", "mst"], in_id=True)
    )
    composition: str
    private: bool
    shots: int | None = field(
        metadata=_flag(
            "examples a task, or 'full' (bounded by --max-train)",
            kind=SHOTS,
            ranges=(POSITIVE,),
            default=[16],
            in_id=True,
        )
    )
    seed: int = field(
        metadata=_flag(
            "each seed draws its own examples, initial prompts and order",
            name="seeds",
            ranges=(NOT_NEGATIVE, Range(f"must be below {SEEDS}, not {{}}", most=SEEDS - 1)),
            default=[0],
            in_id=True,
        )
    )
    sources: int = field(
        metadata=_flag(
            "number of source prompts N",
            ranges=(
                Range(
                    "must be a number of source prompts, not {}; without it the preset decides: sln and slpn take one "
                    "a task, sil, sip and silp one a source task",
                    least=0,
                ),
                up_to(10_000),
            ),
            usual=0,
            used=Preset.chooses_sources,
            in_id=True,
        )
    )
    prompt_length: int = field(
        metadata=_flag("prompt tokens m", ranges=(up_to(100_000), POSITIVE), used=Preset.has_length, shape="length")
    )
    encoder: str = field(metadata=_flag("prompt encoder", choices=ENCODER_NAMES, usual="mlp", used=Preset.encodes))
    encoder_hidden: int = field(
        metadata=_flag(
            "inner width of the encoders mlp, lstm and residual, rank of low-rank, rows that superpos sums (default: "
            "the preset's, else d_model)",
            ranges=(up_to(100_000),),
            used=Preset.encodes,
            shape="hidden",
        )
    )
    encoder_sharing: str = field(
        metadata=_flag(
            "who shares an encoder", choices=SHARINGS, usual="per-prompt", used=Preset.encodes, shape="sharing"
        )
    )
    router: str = field(
        metadata=_flag("how source weights arise", choices=ROUTER_NAMES, usual="direct", used=Preset.mixes)
    )
    normalisation: str = field(
        metadata=_flag(
            "how the router's logits become weights", choices=NORMALISATION_NAMES, usual="auto", used=Preset.mixes
        )
    )
    gates: str = field(
        metadata=_flag(
            "alpha of the private prompt and beta of the sources",
            choices=GATE_NAMES,
            usual="fixed",
            used=Preset.has_gates,
        )
    )
    init: str = field(
        metadata=_flag(
            "random prompt tokens: uniform noise or rows of the vocabulary",
            choices=INITS,
            default=["uniform"],
            used=Preset.trains_prompts,
        )
    )
    init_range: float = field(
        metadata=_flag(
            "uniform tokens lie in [-r, r]", ranges=(POSITIVE,), default=[INIT_RANGE], used=Preset.trains_prompts
        )
    )
    source_init: str = field(
        default=RANDOM,
        metadata=_flag(
            "where sources start: as --init says, from stored prompts, or (shared, of mpt and mpt-m) from the prompt "
            "that source tasks share and the mean of their factors",
            choices=(RANDOM, STORED, SHARED),
            usual=RANDOM,
            used=Preset.chooses_start,
        ),
    )
    private_init: str = field(
        default=RANDOM,
        metadata=_flag(
            "where private prompts start: as --init says, from the task's own stored prompt, (spot) from that of the "
            "most similar source task, or (joint) from the one prompt of all source tasks",
            choices=(RANDOM, STORED, SPOT, JOINT),
            usual=RANDOM,
            used=Preset.chooses_private,
        ),
    )
    lr_source: float = field(
        metadata=_flag(
            "peak learning rate of the sources; 0 freezes them and their encoders",
            ranges=(NOT_NEGATIVE,),
            usual=0.0,
            used=Preset.trains_sources,
        )
    )
    lr_private: float = field(
        metadata=_flag(
            "peak learning rate of the private prompts, or of a task's factors; 0 freezes them and their encoders",
            ranges=(NOT_NEGATIVE,),
            usual=0.0,
            used=Preset.trains_private,
        )
    )
    lr_encoder: float | None = field(
        default=None,
        metadata=_flag(
            "peak learning rate of the prompt encoders; 0 freezes them (default: that of the prompts they encode; of "
            "one that sources and private prompts share, the sources')",
            ranges=(NOT_NEGATIVE,),
            used=Preset.encodes,
        ),
    )
    lr_router: float = field(
        metadata=_flag(
            "peak learning rate of router and gates; 0 freezes them",
            ranges=(NOT_NEGATIVE,),
            usual=0.0,
            used=Preset.mixes,
        )
    )
    lr_update: float = field(
        default=0.0,
        metadata=_flag(
            "peak learning rate of an update of the texts' token embeddings; 0 freezes it",
            ranges=(NOT_NEGATIVE,),
            usual=0.0,
            used=Preset.updates,
        ),
    )
    update_rank: int = field(
        default=0,
        metadata=_flag(
            "rank r of the update; 0: as high as prompt and update together have the numbers of 100 prompt tokens",
            ranges=(up_to(100_000),),
            usual=0,
            used=Preset.updates,
        ),
    )
    update_length: int = field(
        default=0,
        metadata=_flag(
            "tokens s of a text, from its first, that an update by their places reaches",
            ranges=(up_to(100_000),),
            usual=0,
            used=Preset.updates_by_place,
        ),
    )
    lr_weights: float = field(
        default=0.0,
        metadata=_flag(
            "peak learning rate of a baseline, which trains weights and no prompts",
            name="lr",
            ranges=(POSITIVE,),
            usual=0.0,
            used=Preset.trains_weights,
        ),
    )
    bottleneck: int = field(
        default=0,
        metadata=_flag(
            "inner width of what a baseline adds: the rank of lora, the bottleneck of adapters (default: the method's)",
            ranges=(up_to(10_000), POSITIVE),
            usual=0,
            used=Preset.has_bottleneck,
        ),
    )
    distil: float = field(
        default=0.0,
        metadata=_flag(
            "weight of what a run learns from the stored prompts of its tasks beside the labels, lambda: how far its "
            "answers' probabilities are from theirs; what the store lacks is trained first",
            ranges=(NOT_NEGATIVE,),
            usual=0.0,
            used=Preset.trains_prompts,
        ),
    )
    distil_temperature: float = field(
        default=1.0,
        metadata=_flag(
            "temperature of both probabilities in --distil",
            ranges=(POSITIVE,),
            default=[1.0],
            used=Preset.trains_prompts,
        ),
    )
    distil_hidden: float = field(
        default=0.0,
        metadata=_flag(
            "weight of how far its hidden states are from theirs, encoder's and decoder's; for --engine reference",
            ranges=(NOT_NEGATIVE,),
            usual=0.0,
            used=Preset.trains_prompts,
        ),
    )
    weight_decay: float = field(
        metadata=_flag("AdamW's decoupled weight decay", ranges=(NOT_NEGATIVE,), default=[0.01])
    )
    clip_norm: float = field(
        metadata=_flag("gradient norm of a run is clipped to this", ranges=(POSITIVE,), default=[1.0])
    )
    warmup: float = field(
        metadata=_flag(
            "share of the steps over which the rate rises",
            ranges=(Range("is a share of the steps, from 0 to 1, not {}", least=0, most=1),),
            default=[0.2],
        )
    )
    epochs: int = field(
        metadata=_flag(
            "passes over the examples (default: the preset's, doubled up to 10 shots)", ranges=(POSITIVE,), usual=30
        )
    )
    steps: int | None = field(
        metadata=_flag(
            "training steps, instead of --epochs (default: whole epochs)", ranges=(POSITIVE,), excludes="epochs"
        )
    )
    batch_size: int = field(metadata=_flag("rows a step and run", ranges=(up_to(1_000_000), POSITIVE), default=[16]))
    label_mode: str = field(metadata=_flag("words for the labels", choices=LABEL_MODES, default=["natural"]))
    sampling: str = field(metadata=_flag("how the shots are drawn", choices=SAMPLINGS, default=["balanced"]))
    max_train: int = field(metadata=_flag("examples a task with --shots full", ranges=(POSITIVE,), default=[MAX_TRAIN]))
    task: str | None = None

    def rate(self, group: str) -> float:
        """The peak rate of a group of parameters (`compt_fast.prompts.parameters.rate_groups`).

        Encoders learn at `lr_encoder`; where that is None, at the rate of the prompts that they encode, and one
        that sources and privates share at the sources'.
        """
        if not group.endswith("_encoder"):
            return float(getattr(self, f"lr_{group}"))
        if self.lr_encoder is not None:
            return self.lr_encoder
        return self.lr_private if group == "private_encoder" else self.lr_source

    @property
    def encoded_roles(self) -> list[str]:
        """The roles ("source", "private") whose prompts start as prompt encoders take them."""
        return encoded_roles(self.composition, self.private, self.source_init, self.private_init)

    @property
    def distils(self) -> bool:
        """Whether it learns from stored prompts of its tasks."""
        return self.distil > 0 or self.distil_hidden > 0

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self)


RUN_FLAGS = flags_of(RunConfig, RunFlag)
"""The flags of runs by key, in the order in which their comma lists multiply."""


def resolve(choice: Mapping[str, Any], *, tasks: int, d_model: int, source_tasks: int | None = None) -> RunConfig:
    """The run that `choice` (one value a field, None where the preset decides) means for so many
    tasks, source tasks (default: as many as tasks) and such a trunk.

    Sources that start from stored prompts are one a source task; of a chain, whose number is each task's own, none
    here (`compt_fast.training.plan.plan_runs`). Prompts that start from stored
    values, which a prompt encoder has already made, have none.

    What the other values leave without effect is settled, so that it makes no second run.

    Few shots (10 or fewer) double a preset's epochs, as in ComPT's published code; epochs that the
    user names are taken as they are.

    Raises `InputError` for an unknown method and for values out of range.
    """
    method = choice["method"]
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    preset = METHODS[method]
    own = {flag.field: preset.settings.get(flag.field, flag.usual) for flag in RUN_FLAGS.values()}
    given = {flag.field: choice.get(flag.field) for flag in RUN_FLAGS.values() if flag.used(preset)}
    values = own | {name: value for name, value in given.items() if value is not None}
    if values["source_init"] == STORED:
        values["sources"] = tasks if source_tasks is None else source_tasks
    if values["sources"] == PER_TASK:
        values["sources"] = tasks
    if not encoded_roles(preset.composition, preset.private, values["source_init"], values["private_init"]):
        values |= {"encoder": "none", "encoder_sharing": own["encoder_sharing"]}
    if values["encoder"] == "none":
        values["lr_encoder"] = None
    if values["bottleneck"] == REDUCED:
        values["bottleneck"] = max(1, d_model // REDUCTION)
    values["encoder_hidden"] = _hidden(values, d_model)
    if values["shots"] == FULL:
        values["shots"] = None
    if values["shots"] is not None and values["shots"] <= FEW and choice.get("epochs") is None:
        values["epochs"] *= 2
    config = RunConfig(composition=preset.composition, private=preset.private, **values)
    _check(config)
    return settled(config)


def settled(config: RunConfig) -> RunConfig:
    """`config` with the defaults of what changes nothing in it: `max_train` beside a number of shots,
    `init_range` where tokens start from the vocabulary, a temperature of what is not distilled.
    """
    if config.shots is not None:
        config = replace(config, max_train=MAX_TRAIN)
    if config.init == "vocab":
        config = replace(config, init_range=INIT_RANGE)
    return config if config.distil else replace(config, distil_temperature=1.0)


def _hidden(values: Mapping[str, Any], d_model: int) -> int:
    """Width of the encoder's hidden layer: d_model by default, 0 where the encoder has none."""
    if values["encoder"] not in HIDDEN:
        return 0
    return d_model if values["encoder_hidden"] is None else values["encoder_hidden"]


def _check(config: RunConfig) -> None:
    """Numbers that no training can use, named by their flag."""
    preset = METHODS[config.method]
    for flag in RUN_FLAGS.values():
        if flag.used(preset):
            flag.check(getattr(config, flag.field))
    if config.encoder in HIDDEN and config.encoder_hidden < 1:
        raise InputError(f"--encoder-hidden must be above 0, not {config.encoder_hidden}")
    factored = config.composition == "factored"
    if config.source_init == (STORED if factored else SHARED):
        choices = f"{RANDOM} or {SHARED if factored else STORED}"
        raise InputError(f"--source-init of method {config.method!r} is {choices}, not {config.source_init}")
    if config.sources < 1 and config.composition not in SOURCELESS and config.source_init != CHAIN:
        raise InputError(f"--sources must be at least 1 for method {config.method!r}, not {config.sources}")
