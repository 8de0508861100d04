"""The methods: what each preset's name decides. A method is a line of `PRESETS`.

They follow ComPT (arXiv 2408.13227, sections 2 and 3: `spp`, `scp`, `pt`, `mst`) and CrossPT (arXiv 2509.14253,
Table 1: `p`, `pi`, `sl`, `slp`, `sln`, `slpn`, `sil`, `sip`, `silp`); `pt-joint` is ours. Those of other papers name
them where they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compt_fast.config.compositions import Composed, composed

PER_TASK = -1  # "as many sources as there are tasks", for the presets sln and slpn
INIT_RANGE = 0.5  # of uniform tokens
RANDOM, STORED, SPOT, JOINT = "random", "stored", "spot", "joint"  # where the tokens of a role's prompts start from
CHAIN = "chain"  # beside them of sources: each from the stored prompt that was trained behind those before it
SHARED = "shared"  # and from the shared prompt and the factors of source tasks


@dataclass(frozen=True)
class Preset:
    """One configuration of a paper: how it composes target prompts, and values of settings, each a flag's to override.

    `private` says whether each task has a private prompt. `settings` are by the names of the fields of `RunConfig`,
    and what is not among them is the usual value there. `learn_sources` False freezes the sources whatever their
    rate; `apart` trains each task in a run of its own, as the papers train their baselines. `weights` names the file of
    `compt_fast.baselines.methods` that says which weights of the trunk train, or beside it; empty: prompts do.
    """

    composition: str
    private: bool
    settings: Mapping[str, Any]
    learn_sources: bool = True
    apart: bool = False
    weights: str = ""

    @property
    def composed(self) -> Composed:
        """The facts of its composition."""
        return composed(self.composition)

    def init(self, role: str) -> str:
        """Where the prompts of a role ("source", "private") start."""
        return str(self.settings.get(f"{role}_init", RANDOM))

    def one_source_a_task(self) -> bool:
        """Whether it has as many sources as there are tasks."""
        return self.settings.get("sources") == PER_TASK

    # What it has a use for; a flag of anything else would change nothing.

    def mixes(self) -> bool:
        """Whether it has sources that a router weighs."""
        return self.composed.sources == "many"

    def has_gates(self) -> bool:
        """Whether gates stand in its composition."""
        return self.composed.gated

    def chooses_sources(self) -> bool:
        """Whether number and start of its sources are open; stored ones are one a source task."""
        return self.mixes() and self.init("source") != STORED

    def chooses_start(self) -> bool:
        """Whether the start of its sources, or of the prompt that its tasks share, is open."""
        return self.chooses_sources() or self.composed.factors

    def trains_sources(self) -> bool:
        """Whether it has sources that learn."""
        return self.composed.has_sources and self.learn_sources

    def trains_private(self) -> bool:
        """Whether it has private prompts, or factors that scale a shared one for each task."""
        return self.private or self.composed.factors

    def chooses_private(self) -> bool:
        """Whether it has private prompts whose start is open."""
        return self.private and self.init("private") != STORED

    def updates(self) -> bool:
        """Whether it updates the token embeddings of the texts."""
        return self.composed.updates

    def updates_by_place(self) -> bool:
        """Whether it does so by their places."""
        return self.composed.by_place

    def trains_prompts(self) -> bool:
        """Whether it trains prompts, and no weights of the trunk."""
        return not self.weights

    def has_length(self) -> bool:
        """Whether it has prompts, or a prefix, of some length."""
        return self.settings.get("prompt_length") != 0

    def trains_weights(self) -> bool:
        """Whether it trains weights of the trunk, or beside it."""
        return bool(self.weights)

    def has_bottleneck(self) -> bool:
        """Whether what it adds to the trunk has an inner width."""
        return "bottleneck" in self.settings

    def encodes(self) -> bool:
        """Whether any of its prompts go through prompt encoders."""
        return bool(encoded_roles(self.composition, self.private, self.init("source"), self.init("private")))


def encoded_roles(composition: str, private: bool, source_init: str, private_init: str) -> list[str]:
    """The roles ("source", "private") whose prompts go through prompt encoders: what starts from stored values, which
    an encoder has already made, has none.
    """
    there = {"source": (composed(composition).has_sources, source_init), "private": (private, private_init)}
    return [role for role, (has, init) in there.items() if has and init == RANDOM]


def _method(
    composition: str, *, private: bool = True, learn_sources: bool = True, apart: bool = False, **settings: Any
) -> Preset:
    return Preset(composition, private, settings, learn_sources, apart)


def _crosspt(**more: Any) -> Preset:
    """A CrossPT preset: one linear encoder for all prompts, one softmax with temperature over sources and private."""
    common: dict[str, Any] = {"prompt_length": 10, "lr_router": 0.1, "encoder": "linear", "encoder_sharing": "shared"}
    return _method("inside", **common, normalisation="softmax-temperature", **more)


def _attempt(**more: Any) -> Preset:
    """ATTEMPT (arXiv 2205.11961): each row attends to frozen stored prompts; one rate, that of the authors' files."""
    rates: dict[str, Any] = {"lr_private": 0.3, "lr_router": 0.3, "learn_sources": False}
    stored: dict[str, Any] = {"sources": PER_TASK, "source_init": STORED, "prompt_length": 10, "epochs": 20}
    return _method("attempt", **stored, **rates, encoder="none", router="attention", **more)


def _spot(start: str) -> Preset:
    """SPoT (arXiv 2110.07904): plain prompt tuning from another prompt, at the paper's rate."""
    common: dict[str, Any] = {"prompt_length": 10, "lr_private": 0.3, "encoder": "linear"}
    return _method("pt", **common, private_init=start, apart=True)


def _from_store(**more: Any) -> Preset:
    """A CrossPT preset whose sources are stored prompts, which trains for ten epochs fewer (section 3.2)."""
    return _crosspt(sources=PER_TASK, source_init=STORED, epochs=20, **more)


def _updating(composition: str, **more: Any) -> Preset:
    """DePT (arXiv 2309.05173) and ADePT (2501.03291): a short prompt and an update of the texts, each with a rate of
    its own (the published scripts' first ones).
    """
    return _method(composition, lr_private=0.3, encoder="none", apart=True, **more)


def _encoded(encoder: str, **more: Any) -> Preset:
    """Plain prompt tuning, the prompt parametrised otherwise: Residual Prompt Tuning (arXiv 2305.03937), DPT (Xiao et
    al. 2023: `low-rank`) and SuperPos-Prompt (2406.05279).
    """
    return _method("pt", encoder=encoder, apart=True, **more)


def _mpt(**more: Any) -> Preset:
    """MPT (arXiv 2303.02861): a prompt that all tasks share and factors of each, at two rates (section 4.1)."""
    return _method("factored", private=False, sources=1, encoder="none", lr_source=0.3, prompt_length=100, **more)


PRESETS: dict[str, Preset] = {
    "spp": _method("spp", sources=3, prompt_length=5, lr_source=0.07, lr_private=0.02, lr_router=0.1, gates="learned"),
    "scp": _method("scp", sources=3, prompt_length=5, lr_source=0.1, lr_private=0.1, lr_router=0.1, gates="learned"),
    "pt": _method("pt", prompt_length=5, lr_private=0.07, apart=True),
    "pt-joint": _method("pt", prompt_length=5, lr_private=0.07),
    "mst": _method("mst", private=False, sources=1, prompt_length=5, lr_source=0.15, lr_router=0.1),
    "p": _method("pt", prompt_length=10, lr_private=0.07, encoder="linear", apart=True),
    "pi": _method(
        "pt", prompt_length=10, lr_private=0.02, encoder="linear", private_init=STORED, epochs=20, apart=True
    ),
    "sl": _crosspt(private=False, sources=1, lr_source=0.15),
    "slp": _crosspt(sources=1, lr_source=0.15, lr_private=0.07),
    "sln": _crosspt(private=False, sources=PER_TASK, lr_source=0.15),
    "slpn": _crosspt(sources=PER_TASK, lr_source=0.15, lr_private=0.07),
    "sil": _from_store(private=False, lr_source=0.05),
    "sip": _from_store(lr_private=0.02, learn_sources=False),
    "silp": _from_store(lr_source=0.05, lr_private=0.02),
    "spot": _spot(JOINT),
    "spot-nearest": _spot(SPOT),
    "progressive": _method(  # arXiv 2301.12314
        "progressive",
        prompt_length=10,
        encoder="none",
        lr_private=0.3,
        source_init=CHAIN,
        learn_sources=False,
        apart=True,
    ),
    "attempt": _attempt(apart=True),
    "attempt-m": _attempt(),
    "dept": _updating("dept", prompt_length=40, lr_update=5e-3, update_length=256),
    "adept": _updating("adept", prompt_length=60, lr_update=1e-4),
    "residual": _encoded("residual", prompt_length=10, encoder_hidden=800, lr_private=0.3),
    "low-rank": _encoded("low-rank", prompt_length=100, encoder_hidden=10, lr_private=0.3),
    "superpos": _encoded("superpos", prompt_length=10, encoder_hidden=128, lr_private=0.01, lr_encoder=0.0),
    "mpt-source": _mpt(lr_private=0.3, distil=0.9),
    "mpt": _mpt(lr_private=0.4, source_init=SHARED, apart=True),
    "mpt-m": _mpt(lr_private=0.4, source_init=SHARED),
    "smop": _method(  # EMNLP 2023, page 14306
        "inside",
        private=False,
        sources=4,
        prompt_length=5,
        lr_source=0.5,
        lr_router=0.5,
        encoder="none",
        router="sparse",
        apart=True,
    ),
}
