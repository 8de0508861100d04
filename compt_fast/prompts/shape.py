"""What a cohort of runs has in common: the composition and the sizes of everything trainable."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from compt_fast.config.choices import AUTO, SHARINGS
from compt_fast.prompts.compositions import COMPOSITIONS, Rule
from compt_fast.prompts.encoders import ENCODERS, Encoder
from compt_fast.prompts.entry import Entry
from compt_fast.prompts.gates import GATES, Gate
from compt_fast.prompts.normalisations import NORMALISATIONS, Normalisation
from compt_fast.prompts.routers import ROUTERS, Router
from compt_fast.utils.errors import InputError, unknown
from compt_fast.utils.words import listed

ROLES = ("source", "private")
ENCODED = ("both", *ROLES)


class Entries(NamedTuple):
    """What a shape's settings name."""

    composition: Rule
    encoder: Encoder
    router: Router
    normalisation: Normalisation
    gates: Gate


@dataclass(frozen=True)
class PromptShape:
    """Everything that decides which parameters a run has and how its target prompts are composed.

    Runs of equal shape form one cohort. composition, encoder, router, normalisation and gates name
    entries of the folders `compositions`, `encoders`, `routers`, `normalisations` and `gates`.

    tasks T, sources N, length m (prompt tokens), d_model d. hidden h is the inner width of encoders
    that have one (0 stands for d_model) and 0 for the others, whatever is given. `encoded` says
    which role has prompt encoders where only one has: prompts that start from stored values, which
    an encoder has already made, have none. The
    temperature of `softmax-temperature` is max(tau_min, tau0 * N**-tau_power): CrossPT
    (Section 2.2) says only that it falls as N grows, so its form and numbers are ours.

    Raises `InputError` where a value is unknown or where two do not go together. A setting that
    would have no effect is refused too, so that equal models have equal shapes.
    """

    composition: str
    tasks: int
    sources: int
    private: bool
    length: int
    d_model: int
    encoder: str = "mlp"
    sharing: str = "per-prompt"
    hidden: int = 0
    encoded: str = "both"
    router: str = "direct"
    normalisation: str = AUTO
    gates: str = "fixed"
    tau0: float = 1.0
    tau_power: float = 0.5
    tau_min: float = 0.1

    def __post_init__(self) -> None:
        known: tuple[tuple[str, str, Collection[str]], ...] = (
            ("composition", self.composition, COMPOSITIONS),
            ("prompt encoder", self.encoder, ENCODERS),
            ("encoder sharing", self.sharing, SHARINGS),
            ("role with prompt encoders", self.encoded, ENCODED),
            ("router", self.router, ROUTERS),
            ("normalisation", self.normalisation, (AUTO, *NORMALISATIONS)),
            ("gates", self.gates, GATES),
        )
        for kind, value, choices in known:
            if value not in choices:
                raise unknown(kind, value, choices)
        self._check_sizes()
        self._check_prompts()
        self._check_router_and_gates()
        self._check_encoder()

    def _check_sizes(self) -> None:
        for name, value in (
            ("the number of tasks", self.tasks),
            ("the prompt length", self.length),
            ("d_model", self.d_model),
        ):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        for name, number in (("tau0", self.tau0), ("tau_min", self.tau_min)):
            if not 0 < number < float("inf"):
                raise InputError(f"{name} is {number}; a temperature must be positive and finite")
        if not 0 <= self.tau_power < float("inf"):
            raise InputError(f"tau_power is {self.tau_power}; it must be 0 or more and finite")

    def _check_prompts(self) -> None:
        name, sources, rule = self.composition, self.sources, self.entries.composition
        if rule.sources == "none" and sources != 0:
            raise InputError(f"{name} has no source prompts: sources must be 0, not {sources}")
        if rule.sources == "one" and sources != 1:
            raise InputError(f"{name} shares one source prompt: sources must be 1, not {sources}")
        if rule.sources == "many" and sources < 1:
            raise InputError(f"{name} mixes sources: sources must be at least 1, not {sources}")
        if rule.private is True and not self.private:
            raise InputError(f"{name} needs private prompts: private must be true")
        if rule.private is False and self.private:
            raise InputError(f"{name} has no private prompts: private must be false")

    def _check_router_and_gates(self) -> None:
        name, no_gates, default_router = self.composition, PromptShape.gates, PromptShape.router
        if self.gates != no_gates and not self.has_gates:
            gated = listed([each for each, rule in COMPOSITIONS.items() if rule.gated])
            raise InputError(
                f"{name} has no gates: gates must be {no_gates!r}, not {self.gates!r} ({gated} have gates)"
            )
        if self.entries.composition.router and (self.router, self.normalisation) != (default_router, AUTO):
            raise InputError(
                f"{name} has no source weights: router {self.router!r} and normalisation "
                f"{self.normalisation!r} have no effect; leave them at {default_router!r} and {AUTO!r}"
            )
        only = self.entries.router.normalisation
        if only and self.normalisation not in (AUTO, only):
            raise InputError(
                f"router {self.router!r} has a normalisation of its own: "
                f"normalisation must be {AUTO!r} or {only!r}, not {self.normalisation!r}"
            )

    def _check_encoder(self) -> None:
        encoder = self.entries.encoder
        if self.encoded != "both" and (encoder.formula is None or not all(map(self.prompts, ROLES))):
            raise InputError(
                f"encoded {self.encoded!r} leaves one of two roles without prompt encoders, but here encoder "
                f"{self.encoder!r} is asked for {self.sources} sources and {self.prompts('private')} privates; "
                "leave it at 'both'"
            )
        if self.hidden < 0:
            raise InputError(f"the encoder's hidden size is {self.hidden}; it must not be negative")
        # one value for one meaning, so that equal models have equal shapes
        hidden = (self.hidden or self.d_model) if encoder.hidden else 0
        object.__setattr__(self, "hidden", hidden)
        encoder.check(self)

    @cached_property
    def entries(self) -> Entries:
        """What composes its prompts. A composition that weighs its sources in one way only brings the router for it."""
        rule = COMPOSITIONS[self.composition]
        return Entries(
            rule,
            ENCODERS[self.encoder],
            ROUTERS[rule.router or self.router],
            NORMALISATIONS[self.normaliser],
            GATES[self.gates],
        )

    @property
    def router_name(self) -> str:
        """The router that has an effect: the composition's own, if it has one."""
        return self.entries.composition.router or self.router

    @property
    def named_entries(self) -> list[tuple[str, str, Entry]]:
        """Setting, name and entry of all that has an effect."""
        rule, encoder, router, normalisation, gates = self.entries
        found: list[tuple[str, str, Entry]] = [
            ("composition", self.composition, rule),
            ("encoder", self.encoder, encoder),
            ("router", self.router_name, router),
        ]
        if self.has_router:
            found.append(("normalisation", self.normaliser, normalisation))
        if self.has_gates:
            found.append(("gates", self.gates, gates))
        return found

    @property
    def per_row(self) -> bool:
        """Whether target prompts depend on the input, so that each row has one of its own."""
        return bool(self.reads_rows)

    @property
    def reads_rows(self) -> str:
        """What of it depends on the input: "gates 'input'"; empty where nothing does."""
        rule, _, router, _, gates = self.entries
        named = (
            ("composition", self.composition, rule),
            ("router", self.router_name, router),
            ("gates", self.gates, gates),
        )
        return ", ".join(f"{setting} {name!r}" for setting, name, entry in named if entry.per_row)

    @property
    def target_length(self) -> int:
        """Tokens L of a target prompt: 2m for `scp`, else m."""
        return self.entries.composition.target_length(self)

    @property
    def n_weights(self) -> int:
        """Weights a target prompt has: N, one more with a private inside, none for `pt`."""
        return self.sources + (self.entries.composition.private_inside and self.private)

    @property
    def has_router(self) -> bool:
        """Whether the weights are a normalisation of logits."""
        return self.entries.router.weights is None

    @property
    def has_gates(self) -> bool:
        """Whether alpha and beta stand in the composition (ComPT Eq. 4)."""
        return self.entries.composition.gated

    @property
    def normaliser(self) -> str:
        """The normalisation with `auto` resolved.

        ComPT, Section 2.3: sigmoid for one source, sparsemax for more sources than half the tasks,
        softmax otherwise. A router or composition may have one of its own: `relaxed-bernoulli` the
        sigmoid, `inside` CrossPT's softmax with temperature.
        """
        if self.normalisation != AUTO:
            return self.normalisation
        own = ROUTERS[self.router].normalisation or COMPOSITIONS[self.composition].normalisation
        if own:
            return own
        if self.sources == 1:
            return "sigmoid"
        return "sparsemax" if 2 * self.sources > self.tasks else "softmax"

    @property
    def tau(self) -> float:
        """The temperature of `softmax-temperature`."""
        return max(self.tau_min, self.tau0 * self.sources**-self.tau_power)

    def has_encoder(self, role: str) -> bool:
        """Whether the prompts of a role go through a prompt encoder."""
        encodes = self.entries.encoder.formula is not None
        return encodes and self.prompts(role) > 0 and self.encoded in ("both", role)

    def prompts(self, role: str) -> int:
        """How many prompts of a role ("source", "private") a run has."""
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}: {' or '.join(ROLES)}")
        return self.sources if role == "source" else self.tasks * self.private
