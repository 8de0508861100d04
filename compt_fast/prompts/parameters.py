"""The trainable tensors of a cohort: runs of one `PromptShape`, stacked along a run axis R."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compt_fast.config.choices import INITS
from compt_fast.prompts.encoders import (
    ENCODER_PARAMETERS,
    encoder_prefix,
    encoder_shapes,
    init_bound,
)
from compt_fast.prompts.shape import ROLES, PromptShape
from compt_fast.utils.errors import InputError, unknown

__all__ = ["LR_GROUP", "PromptBank", "PromptShape", "parameter_count", "parameter_shapes"]

VOCAB_ROWS = 5000
SPECIAL_IDS = 3  # T5's padding, end and unknown

_ENCODERS = ("source_encoder", "private_encoder", "shared_encoder")
LR_GROUP = {
    "source_tokens": "source",
    "private_tokens": "private",
    "router": "router",
    "gates": "router",
    "gates.weight": "router",
    "gates.bias": "router",
} | {f"{prefix}.{name}": prefix for prefix in _ENCODERS for name in ENCODER_PARAMETERS}


def parameter_shapes(shape: PromptShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one run's parameters, without the run axis.

    `source_tokens` (N, m, d), `private_tokens` (T, m, d); `source_encoder.*`, `private_encoder.*`
    (K, ...) with K = N or T by prompt and 1 by role, or `shared_encoder.*` (1, ...); `router`
    (T, n_weights); `gates` (T, 2), (1, 2) for learned-global, (T, 1) for tied, or `gates.weight`
    (2, d) and `gates.bias` (2,) for input.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    roles = [role for role in ROLES if shape.prompts(role)]
    for role in roles:
        shapes[f"{role}_tokens"] = (shape.prompts(role), shape.length, shape.d_model)
    for role in filter(shape.has_encoder, roles):
        encoders = shape.prompts(role) if shape.sharing == "per-prompt" else 1
        for name, size in encoder_shapes(shape).items():
            shapes[f"{encoder_prefix(shape, role)}.{name}"] = (encoders, *size)
    if shape.has_router:
        shapes["router"] = (shape.tasks, shape.n_weights)
    gates: dict[str, dict[str, tuple[int, ...]]] = {
        "fixed": {},
        "learned": {"gates": (shape.tasks, 2)},
        "learned-global": {"gates": (1, 2)},
        "tied": {"gates": (shape.tasks, 1)},
        "input": {"gates.weight": (2, shape.d_model), "gates.bias": (2,)},
    }
    return shapes | gates[shape.gates]


def parameter_count(shape: PromptShape) -> int:
    """Trainable numbers of one run."""
    return sum(math.prod(size) for size in parameter_shapes(shape).values())


class PromptBank:
    """Parameters of R runs of one shape: leaf tensors (R, ...) that require gradients.

    `params` maps the names of `parameter_shapes` to them; `LR_GROUP` maps each name to the learning
    rate it trains at ("source", "private", "router", or an encoder's first part of the name).
    """

    def __init__(self, shape: PromptShape, params: Mapping[str, Tensor]) -> None:
        """Takes `params` over without copying them.

        Raises `InputError` naming a tensor that is missing, unknown or of a wrong shape.
        """
        expected = parameter_shapes(shape)
        for name in params:
            if name not in expected:
                raise unknown("tensor of prompt parameters", name, expected)
        runs = max((tensor.shape[0] for tensor in params.values() if tensor.dim()), default=0)
        for name, size in expected.items():
            if name not in params:
                raise InputError(f"prompt parameters: tensor {name!r} is missing")
            if params[name].shape != (runs, *size):
                raise InputError(
                    f"prompt parameters: tensor {name!r} is {tuple(params[name].shape)}; of {runs} "
                    f"runs it must be {(runs, *size)}"
                )
        self.shape = shape
        self.params = {name: params[name].detach().requires_grad_() for name in expected}

    @classmethod
    def create(
        cls,
        shape: PromptShape,
        seeds: Sequence[int],
        *,
        init: str = "uniform",
        init_range: float = 0.5,
        embedding: Tensor | None = None,
        device: torch.device | str = "cpu",
        task: str | None = None,
    ) -> PromptBank:
        """Fresh fp32 parameters, one run a seed.

        Raw tokens are drawn by `init`: `uniform` from U(-init_range, init_range), `vocab` as rows
        of the trunk's `embedding` (V, d), with replacement, from its first 5000 but for the special
        ids 0 to 2. Encoders start as torch's own layers do, router and gates at zero. Every tensor
        of a run follows from its seed and its name alone: neither the other runs nor the other
        tensors matter, so that runs that differ in their sources start from the same privates. It follows from
        `task` besides, the one task of runs that are trained apart, so that no two tasks start alike.

        Raises `InputError` for an unknown `init` and for an embedding that `vocab` cannot use.
        """
        if init not in INITS:
            raise unknown("initialisation", init, INITS)
        if not 0 < init_range < math.inf:
            raise InputError(f"the initial range is {init_range}; it must be positive and finite")
        table = _vocabulary(embedding, shape) if init == "vocab" else None
        params = {
            name: torch.stack([_initial(name, size, seed, shape, init_range, table, task) for seed in seeds]).to(device)
            for name, size in parameter_shapes(shape).items()
        }
        return cls(shape, params)

    @classmethod
    def concat(cls, banks: Sequence[PromptBank]) -> PromptBank:
        """One bank of the runs of several, in order; all of one shape and on one device."""
        shape = banks[0].shape
        if any(bank.shape != shape for bank in banks):
            raise ValueError("runs of different shapes cannot share a bank")
        stacks = {name: [bank.params[name] for bank in banks] for name in banks[0].params}
        return cls(shape, {name: torch.cat(stack) for name, stack in stacks.items()})

    @property
    def runs(self) -> int:
        """R."""
        return len(next(iter(self.params.values())))

    def select(self, indices: Sequence[int]) -> PromptBank:
        """A bank of copies of the runs at `indices`, in that order."""
        chosen = list(indices)  # indexing by a list copies
        return PromptBank(self.shape, {name: p[chosen] for name, p in self.params.items()})

    def to(self, target: torch.dtype | torch.device | str) -> PromptBank:
        """A copy in another dtype or on another device."""
        params = {name: p.detach().to(target, copy=True) for name, p in self.params.items()}
        return PromptBank(self.shape, params)


def _vocabulary(embedding: Tensor | None, shape: PromptShape) -> Tensor:
    """The rows (K, d), fp32 on the CPU, that `vocab` draws from."""
    if embedding is None:
        raise InputError("initialisation 'vocab' needs the trunk's embedding")
    if embedding.dim() != 2 or embedding.shape[1] != shape.d_model:
        raise InputError(
            f"initialisation 'vocab': the embedding is {tuple(embedding.shape)}, but the prompts "
            f"need (vocabulary, {shape.d_model})"
        )
    if len(embedding) <= SPECIAL_IDS:
        raise InputError(
            f"initialisation 'vocab': the embedding has {len(embedding)} rows, of which the first "
            f"{SPECIAL_IDS} are special; use 'uniform'"
        )
    return embedding[SPECIAL_IDS:VOCAB_ROWS].detach().to("cpu", torch.float32)


def _initial(
    name: str,
    size: tuple[int, ...],
    seed: int,
    shape: PromptShape,
    init_range: float,
    table: Tensor | None,
    task: str | None,
) -> Tensor:
    """One run's initial value of one parameter, on the CPU so that the device does not matter."""
    if LR_GROUP[name] == "router":
        return torch.zeros(size)
    whose = f"{seed} {name}" if task is None else f"{seed} {name} {task}"
    digest = hashlib.sha256(whose.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    if not name.endswith("_tokens"):
        bound = init_bound(shape, name.split(".", 1)[1])
    elif table is not None:
        return table[torch.randint(len(table), size[:-1], generator=generator)]
    else:
        bound = init_range
    return torch.empty(size).uniform_(-bound, bound, generator=generator)
