"""The methods: what each preset's name decides. A method is a line of `PRESETS`.

They follow ComPT (arXiv 2408.13227, sections 2 and 3: `spp`, `scp`, `pt`, `mst`) and CrossPT (arXiv 2509.14253,
Table 1: `p`, `pi`, `sl`, `slp`, `sln`, `slpn`, `sil`, `sip`, `silp`); `pt-joint` is ours. Of others, MPT (arXiv
2303.02861: `mpt-source`, `mpt`, `mpt-m`) and SMoP (EMNLP 2023, page 14306: `smop`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PER_TASK = -1  # "as many sources as there are tasks", for the presets sln and slpn
RANDOM, STORED, SPOT = "random", "stored", "spot"  # where the tokens of a role's prompts start from
SHARED = "shared"  # from the shared prompt and the factors of source tasks


@dataclass(frozen=True)
class Preset:
    """One configuration of a paper: how it composes target prompts, and values of settings, each a flag's to override.

    `private` says whether each task has a private prompt. `settings` are by the names of the fields of `RunConfig`,
    and what is not among them is the usual value there. `learn_sources` False freezes the sources whatever their
    rate; `apart` trains each task in a run of its own, as the papers train their baselines.
    """

    composition: str
    private: bool
    settings: Mapping[str, Any]
    learn_sources: bool = True
    apart: bool = False

    def init(self, role: str) -> str:
        """Where the prompts of a role ("source", "private") start."""
        return str(self.settings.get(f"{role}_init", RANDOM))

    def one_source_a_task(self) -> bool:
        """Whether it has as many sources as there are tasks."""
        return self.settings.get("sources") == PER_TASK

    # What it has a use for; a flag of anything else would change nothing.

    def mixes(self) -> bool:
        """Whether it has sources that a router weighs."""
        return self.composition not in ("pt", "mst", "factored")

    def has_gates(self) -> bool:
        """Whether gates stand in its composition."""
        return self.composition in ("spp", "scp")

    def chooses_sources(self) -> bool:
        """Whether number and start of its sources are open; stored ones are one a source task."""
        return self.mixes() and self.init("source") != STORED

    def chooses_start(self) -> bool:
        """Whether the start of its sources, or of the prompt that its tasks share, is open."""
        return self.chooses_sources() or self.composition == "factored"

    def trains_sources(self) -> bool:
        """Whether it has sources that learn."""
        return self.composition != "pt" and self.learn_sources

    def trains_private(self) -> bool:
        """Whether it has private prompts, or factors that scale a shared one for each task."""
        return self.private or self.composition == "factored"

    def chooses_private(self) -> bool:
        """Whether it has private prompts whose start is open."""
        return self.private and self.init("private") != STORED

    def encodes(self) -> bool:
        """Whether any of its prompts go through prompt encoders."""
        return bool(encoded_roles(self.composition, self.private, self.init("source"), self.init("private")))


def encoded_roles(composition: str, private: bool, source_init: str, private_init: str) -> list[str]:
    """The roles ("source", "private") whose prompts go through prompt encoders: what starts from stored values, which
    an encoder has already made, has none.
    """
    there = {"source": (composition != "pt", source_init), "private": (private, private_init)}
    return [role for role, (has, init) in there.items() if has and init == RANDOM]


def _method(
    composition: str, *, private: bool = True, learn_sources: bool = True, apart: bool = False, **settings: Any
) -> Preset:
    return Preset(composition, private, settings, learn_sources, apart)


def _crosspt(**more: Any) -> Preset:
    """A CrossPT preset: one linear encoder for all prompts, one softmax with temperature over sources and private."""
    common: dict[str, Any] = {"prompt_length": 10, "lr_router": 0.1, "encoder": "linear", "encoder_sharing": "shared"}
    return _method("inside", **common, normalisation="softmax-temperature", **more)


def _from_store(**more: Any) -> Preset:
    """A CrossPT preset whose sources are stored prompts, which trains for ten epochs fewer (section 3.2)."""
    return _crosspt(sources=PER_TASK, source_init=STORED, epochs=20, **more)


def _mpt(**more: Any) -> Preset:
    """MPT: a prompt that all tasks share and factors of each, at two rates (section 4.1)."""
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
    "mpt-source": _mpt(lr_private=0.3, distil=0.9),
    "mpt": _mpt(lr_private=0.4, source_init=SHARED, apart=True),
    "mpt-m": _mpt(lr_private=0.4, source_init=SHARED),
    "smop": _method(
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
