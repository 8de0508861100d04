"""What one run is: the table of presets, and a preset with the user's changes: a `RunConfig`.

Presets follow ComPT (arXiv 2408.13227, sections 2 and 3: `spp`, `scp`, `pt`, `mst`) and CrossPT
(arXiv 2509.14253, Table 1: `p`, `pi`, `sl`, `slp`, `sln`, `slpn`, `sil`, `sip`, `silp`); `pt-joint` is
ours. Every name of a field here, but for `task`, is the name of a flag of `compt_fast.train`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from compt_fast.utils.errors import InputError, unknown

SEEDS = 2**32  # what NumPy takes as a seed
MAX_TRAIN = 5000  # examples a task, where a run takes all of them
INIT_RANGE = 0.5  # of uniform tokens
PER_TASK = -1  # "as many sources as there are tasks", for the presets sln and slpn
RANDOM, STORED, SPOT = "random", "stored", "spot"  # where the tokens of a role's prompts start from


@dataclass(frozen=True)
class Preset:
    """One configuration of a paper: all that its name decides, each a flag's to override."""

    composition: str
    sources: int
    private: bool
    prompt_length: int
    lr_source: float
    lr_private: float
    lr_router: float
    encoder: str = "mlp"
    encoder_sharing: str = "per-prompt"
    router: str = "direct"
    normalisation: str = "auto"
    gates: str = "fixed"
    epochs: int = 30
    source_init: str = RANDOM
    private_init: str = RANDOM
    learn_sources: bool = True
    apart: bool = False  # each task in a run of its own, as the papers train their baselines


def _crosspt(sources: int, rates: tuple[float, float, float], **more: Any) -> Preset:
    """A CrossPT preset: one linear encoder for all prompts, and one softmax with temperature over
    sources and private. `rates` are those of source, private (0: there is none) and router.
    """
    return Preset(
        "inside",
        sources,
        rates[1] > 0,
        10,
        *rates,
        encoder="linear",
        encoder_sharing="shared",
        normalisation="softmax-temperature",
        **more,
    )


def _from_store(rates: tuple[float, float, float], **more: Any) -> Preset:
    """A CrossPT preset whose sources are stored prompts, which trains for ten epochs fewer
    (section 3.2)."""
    return _crosspt(PER_TASK, rates, source_init=STORED, epochs=20, **more)


PRESETS: dict[str, Preset] = {
    "spp": Preset("spp", 3, True, 5, 0.07, 0.02, 0.1, gates="learned"),
    "scp": Preset("scp", 3, True, 5, 0.1, 0.1, 0.1, gates="learned"),
    "pt": Preset("pt", 0, True, 5, 0.0, 0.07, 0.0, apart=True),
    "pt-joint": Preset("pt", 0, True, 5, 0.0, 0.07, 0.0),
    "mst": Preset("mst", 1, False, 5, 0.15, 0.0, 0.1),
    "p": Preset("pt", 0, True, 10, 0.0, 0.07, 0.0, encoder="linear", apart=True),
    "pi": Preset("pt", 0, True, 10, 0.0, 0.02, 0.0, encoder="linear", private_init=STORED, epochs=20, apart=True),
    "sl": _crosspt(1, (0.15, 0.0, 0.1)),
    "slp": _crosspt(1, (0.15, 0.07, 0.1)),
    "sln": _crosspt(PER_TASK, (0.15, 0.0, 0.1)),
    "slpn": _crosspt(PER_TASK, (0.15, 0.07, 0.1)),
    "sil": _from_store((0.05, 0.0, 0.1)),
    "sip": _from_store((0.0, 0.02, 0.1), learn_sources=False),
    "silp": _from_store((0.05, 0.02, 0.1)),
}


@dataclass(frozen=True)
class RunConfig:
    """One training, resolved: nothing is left to a default.

    `shots` None means all examples up to `max_train`; learning rates are peaks, and prompts, encoders,
    router or gates whose rate is 0 are frozen; `lr_encoder` None is the rate of the encoded prompts.
    `task` names the one task of a run that is trained apart from the job's other tasks.
    """

    method: str
    shots: int | None
    seed: int
    composition: str
    sources: int
    private: bool
    prompt_length: int
    encoder: str
    encoder_hidden: int
    encoder_sharing: str
    router: str
    normalisation: str
    gates: str
    init: str
    init_range: float
    lr_source: float
    lr_private: float
    lr_router: float
    weight_decay: float
    clip_norm: float
    warmup: float
    epochs: int
    steps: int | None
    batch_size: int
    label_mode: str
    sampling: str
    max_train: int
    source_init: str = RANDOM
    private_init: str = RANDOM
    task: str | None = None
    lr_encoder: float | None = None

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

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self)


def resolve(choice: dict[str, Any], *, tasks: int, d_model: int, source_tasks: int | None = None) -> RunConfig:
    """The run that `choice` (one value a flag, None where the preset decides) means for so many
    tasks, source tasks (default: as many as tasks) and such a trunk.

    Sources that start from stored prompts are one a source task. Prompts that start from stored
    values, which a prompt encoder has already made, have none.

    What the other values leave without effect is settled, so that it makes no second run.

    Few shots (10 or fewer) double a preset's epochs, as in ComPT's published code; epochs that the
    user names are taken as they are.

    Raises `InputError` for an unknown method and for values out of range.
    """
    method = choice["method"]
    if method not in PRESETS:
        raise unknown("method", method, PRESETS)
    preset = PRESETS[method]
    ignored = ignored_fields(preset)
    values: dict[str, Any] = {}
    for field in fields(RunConfig):
        given = choice.get(field.name)
        own = getattr(preset, field.name, None)
        values[field.name] = own if given is None or field.name in ignored else given
    if values["source_init"] == STORED:
        values["sources"] = tasks if source_tasks is None else source_tasks
    if values["sources"] == PER_TASK:
        values["sources"] = tasks
    if not encoded_roles(values):
        values |= {"encoder": "none", "encoder_sharing": preset.encoder_sharing}
    if values["encoder"] == "none":
        values["lr_encoder"] = None
    values["encoder_hidden"] = _hidden(values, d_model)
    shots = values["shots"]
    if choice.get("epochs") is None and shots is not None and shots <= 10:
        values["epochs"] *= 2
    config = RunConfig(**values)
    _check(config)
    return settled(config)


def settled(config: RunConfig) -> RunConfig:
    """`config` with the defaults of what changes nothing in it: `max_train` beside a number of shots,
    `init_range` where tokens start from the vocabulary.
    """
    if config.shots is not None:
        config = replace(config, max_train=MAX_TRAIN)
    if config.init == "vocab":
        config = replace(config, init_range=INIT_RANGE)
    return config


def ignored_fields(preset: Preset) -> set[str]:
    """The fields that mean nothing to a preset, so that its runs are the same whatever they say."""
    ignored = set() if preset.composition in ("spp", "scp") else {"gates"}
    if preset.composition in ("pt", "mst"):
        ignored |= {"sources", "router", "normalisation", "lr_router", "source_init"}
    if preset.composition == "pt" or not preset.learn_sources:
        ignored.add("lr_source")
    if preset.source_init == STORED:
        ignored |= {"sources", "source_init"}
    if preset.private_init == STORED:
        ignored.add("private_init")
    if not preset.private:
        ignored |= {"lr_private", "private_init"}
    if not encoded_roles(asdict(preset)):
        ignored |= {"encoder", "encoder_hidden", "encoder_sharing", "lr_encoder"}
    return ignored


def encoded_roles(values: Mapping[str, Any]) -> list[str]:
    """The roles ("source", "private") of a configuration's fields that have prompt encoders."""
    there = {"source": values["composition"] != "pt", "private": values["private"]}
    return [role for role, has in there.items() if has and values[f"{role}_init"] == RANDOM]


def _hidden(values: dict[str, Any], d_model: int) -> int:
    """Width of the encoder's hidden layer: d_model by default, 0 where the encoder has none."""
    if values["encoder"] in ("linear", "none"):
        return 0
    return d_model if values["encoder_hidden"] is None else values["encoder_hidden"]


def _check(config: RunConfig) -> None:
    """Numbers that no training can use, named by their flag."""
    positive = ("prompt_length", "epochs", "batch_size", "clip_norm", "init_range", "max_train")
    for name in positive:
        if getattr(config, name) <= 0:
            raise InputError(f"--{flag_name(name)} must be above 0, not {getattr(config, name)}")
    for name in ("lr_source", "lr_private", "lr_router", "lr_encoder", "weight_decay", "seed"):
        value = getattr(config, name)
        if value is not None and value < 0:
            raise InputError(f"--{flag_name(name)} must not be negative, not {value}")
    if config.seed >= SEEDS:
        raise InputError(f"--seeds must be below {SEEDS}, not {config.seed}")
    for name in ("shots", "steps"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise InputError(f"--{flag_name(name)} must be above 0, not {value}")
    if config.encoder in ("mlp", "lstm") and config.encoder_hidden < 1:
        raise InputError(f"--encoder-hidden must be above 0, not {config.encoder_hidden}")
    if not 0 <= config.warmup <= 1:
        raise InputError(f"--warmup is a share of the steps, from 0 to 1, not {config.warmup}")
    if config.sources < 1 and config.composition != "pt":
        raise InputError(f"--sources must be at least 1 for method {config.method!r}, not {config.sources}")


def flag_name(field: str) -> str:
    """The flag of a configuration field (`lr_source` -> `lr-source`, `seed` -> `seeds`)."""
    return {"seed": "seeds"}.get(field, field).replace("_", "-")
