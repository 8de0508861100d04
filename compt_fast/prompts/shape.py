"""What a cohort of runs has in common: the composition and the sizes of everything trainable."""

from __future__ import annotations

from dataclasses import dataclass

from compt_fast.config.choices import COMPOSITIONS, ENCODERS, GATES, NORMALISATIONS, ROUTERS, SHARINGS
from compt_fast.utils.errors import InputError, unknown

ROLES = ("source", "private")
ENCODED = ("both", *ROLES)


@dataclass(frozen=True)
class PromptShape:
    """Everything that decides which parameters a run has and how its target prompts are composed.

    Runs of equal shape form one cohort. Compositions: `spp` (sources plus private) and `scp`
    (sources concatenated with private), ComPT Eq. 4; `pt`, a private prompt a task; `mst`, one
    source for all tasks; `inside`, CrossPT Eq. 1, where the private prompt, if there is one, stands
    inside the sources' softmax.

    tasks T, sources N, length m (prompt tokens), d_model d. hidden h is the inner width of `mlp`
    and `lstm` (0 stands for d_model) and 0 for the other encoders, whatever is given. `encoded` says
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
    normalisation: str = "auto"
    gates: str = "fixed"
    tau0: float = 1.0
    tau_power: float = 0.5
    tau_min: float = 0.1

    def __post_init__(self) -> None:
        for kind, value, choices in (
            ("composition", self.composition, COMPOSITIONS),
            ("prompt encoder", self.encoder, ENCODERS),
            ("encoder sharing", self.sharing, SHARINGS),
            ("role with prompt encoders", self.encoded, ENCODED),
            ("router", self.router, ROUTERS),
            ("normalisation", self.normalisation, NORMALISATIONS),
            ("gates", self.gates, GATES),
        ):
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
        name, sources = self.composition, self.sources
        if name == "pt" and sources != 0:
            raise InputError(f"pt has no source prompts: sources must be 0, not {sources}")
        if name == "mst" and sources != 1:
            raise InputError(f"mst shares one source prompt: sources must be 1, not {sources}")
        if name not in ("pt", "mst") and sources < 1:
            raise InputError(f"{name} mixes sources: sources must be at least 1, not {sources}")
        if name in ("spp", "scp", "pt") and not self.private:
            raise InputError(f"{name} needs private prompts: private must be true")
        if name == "mst" and self.private:
            raise InputError("mst has no private prompts: private must be false")

    def _check_router_and_gates(self) -> None:
        name = self.composition
        if self.gates != "fixed" and not self.has_gates:
            raise InputError(f"{name} has no gates: gates must be 'fixed', not {self.gates!r} (spp and scp have gates)")
        if name in ("pt", "mst") and (self.router, self.normalisation) != ("direct", "auto"):
            raise InputError(
                f"{name} has no source weights: router {self.router!r} and normalisation "
                f"{self.normalisation!r} have no effect; leave them at 'direct' and 'auto'"
            )
        if self.router == "relaxed-bernoulli" and self.normalisation not in ("auto", "sigmoid"):
            raise InputError(
                "router 'relaxed-bernoulli' draws each weight by itself and normalises no further: "
                f"normalisation must be 'auto' or 'sigmoid', not {self.normalisation!r}"
            )

    def _check_encoder(self) -> None:
        if self.encoded != "both" and (self.encoder == "none" or not all(map(self.prompts, ROLES))):
            raise InputError(
                f"encoded {self.encoded!r} leaves one of two roles without prompt encoders, but here encoder "
                f"{self.encoder!r} is asked for {self.sources} sources and {self.prompts('private')} privates; "
                "leave it at 'both'"
            )
        if self.hidden < 0:
            raise InputError(f"the encoder's hidden size is {self.hidden}; it must not be negative")
        # one value for one meaning, so that equal models have equal shapes
        hidden = (self.hidden or self.d_model) if self.encoder in ("mlp", "lstm") else 0
        object.__setattr__(self, "hidden", hidden)
        if self.encoder == "lstm" and self.d_model % 2:
            raise InputError(
                f"encoder 'lstm' gives each direction half of d_model, and d_model {self.d_model} "
                "is odd; use 'mlp', 'linear' or 'none' with this trunk"
            )

    @property
    def target_length(self) -> int:
        """Tokens of a target prompt: 2m for `scp`, else m."""
        return 2 * self.length if self.composition == "scp" else self.length

    @property
    def n_weights(self) -> int:
        """Weights a target prompt has: N, one more with a private inside, none for `pt`."""
        return self.sources + (self.composition == "inside" and self.private)

    @property
    def has_router(self) -> bool:
        """Whether the weights are learned from logits."""
        return self.composition not in ("pt", "mst") and self.router != "constant"

    @property
    def has_gates(self) -> bool:
        """Whether alpha and beta stand in the composition (ComPT Eq. 4)."""
        return self.composition in ("spp", "scp")

    @property
    def normaliser(self) -> str:
        """The normalisation with `auto` resolved.

        ComPT, Section 2.3: sigmoid for one source, sparsemax for more sources than half the tasks,
        softmax otherwise. `inside` always takes CrossPT's softmax with temperature.
        """
        if self.normalisation != "auto":
            return self.normalisation
        if self.router == "relaxed-bernoulli":
            return "sigmoid"
        if self.composition == "inside":
            return "softmax-temperature"
        if self.sources == 1:
            return "sigmoid"
        return "sparsemax" if 2 * self.sources > self.tasks else "softmax"

    @property
    def tau(self) -> float:
        """The temperature of `softmax-temperature`."""
        return max(self.tau_min, self.tau0 * self.sources**-self.tau_power)

    def has_encoder(self, role: str) -> bool:
        """Whether the prompts of a role go through a prompt encoder."""
        return self.encoder != "none" and self.prompts(role) > 0 and self.encoded in ("both", role)

    def prompts(self, role: str) -> int:
        """How many prompts of a role ("source", "private") a run has."""
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}: {' or '.join(ROLES)}")
        return self.sources if role == "source" else self.tasks * self.private
