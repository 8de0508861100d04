"""What one run is: its settings, a field each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any, ClassVar

from compt_fast.config.baselines import METHODS
from compt_fast.config.choices import (
    ENCODER_NAMES,
    GATE_NAMES,
    INITS,
    LABEL_MODES,
    NORMALISATION_NAMES,
    ROUTER_NAMES,
    SAMPLINGS,
    SHARINGS,
)
from compt_fast.config.fields import NOT_NEGATIVE, POSITIVE, SHOTS, Flag, Range, flags_of, stated, up_to
from compt_fast.config.presets import (
    INIT_RANGE,
    JOINT,
    RANDOM,
    SHARED,
    SPOT,
    STORED,
    Preset,
    encoded_roles,
)

SEEDS = 2**32  # what NumPy takes as a seed
MAX_TRAIN = 5000  # examples a task, where a run takes all of them


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
            "training steps, instead of --epochs (default: whole epochs); source prompts that are trained first take "
            "--source-steps",
            ranges=(POSITIVE,),
            excludes="epochs",
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
