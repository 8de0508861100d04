"""The trainable tensors of a cohort: runs of one `PromptShape`, stacked along a run axis R."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compt_fast.config.choices import INITS
from compt_fast.prompts.encoding import encoder_parameters, raw_tokens
from compt_fast.prompts.entry import VOCABULARY, Parameter
from compt_fast.prompts.shape import ROLES, PromptShape
from compt_fast.utils.errors import InputError, unknown

VOCAB_ROWS = 5000
SPECIAL_IDS = 3  # T5's padding, end and unknown


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """One run's parameters by name: tokens, then those of prompt encoders, then `mixing_parameters`.

    `source_tokens` (N, m, w), `private_tokens` (T, m, w), w being d but with encoders of another width;
    `source_encoder.*`, `private_encoder.*`
    (K, ...) with K = N or T by prompt and 1 by role, or `shared_encoder.*` (1, ...).
    """
    found: dict[str, Parameter] = {}
    roles = [role for role in ROLES if shape.prompts(role)]
    for role in roles:
        found[f"{role}_tokens"] = raw_tokens(shape, role)
    for role in roles:
        found |= encoder_parameters(shape, role)
    return found | mixing_parameters(shape)


def mixing_parameters(shape: PromptShape) -> dict[str, Parameter]:
    """One run's parameters of router, gates and composition: what mixes prompts anew needs no others beside them."""
    rule, _, router, _, gates = shape.entries
    return router.parameters(shape) | gates.parameters(shape) | rule.parameters(shape)


def parameter_shapes(shape: PromptShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one run's parameters, without the run axis."""
    return {name: one.size for name, one in parameters(shape).items()}


def rate_groups(shape: PromptShape) -> dict[str, str]:
    """The learning rate that each parameter trains at: "source", "private", "router", "update", or an encoder's, which
    is the first part of its name ("source_encoder").
    """
    return {name: one.group for name, one in parameters(shape).items()}


def parameter_count(shape: PromptShape) -> int:
    """Trainable numbers of one run."""
    return sum(math.prod(size) for size in parameter_shapes(shape).values())


class PromptBank:
    """Parameters of R runs of one shape: leaf tensors (R, ...) that require gradients.

    `params` maps the names of `parameters` to them.
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
        ids 0 to 2. All else starts as the entries of its shape declare. Every tensor
        of a run follows from its seed and its name alone: neither the other runs nor the other
        tensors matter, so that runs that differ in their sources start from the same privates. It follows from
        `task` besides, the one task of runs that are trained apart, so that no two tasks start alike.

        Raises `InputError` for an unknown `init` and for an embedding that `vocab`, or an entry whose parameters
        start as rows of it, cannot use.
        """
        if init not in INITS:
            raise unknown("initialisation", init, INITS)
        if not 0 < init_range < math.inf:
            raise InputError(f"the initial range is {init_range}; it must be positive and finite")
        declared = parameters(shape)
        said = "vocab" if init == "vocab" else (-init_range, init_range)
        declared = {name: replace(one, initial=one.initial or said) for name, one in declared.items()}
        from_rows = any(isinstance(one.initial, str) for one in declared.values())
        table = _vocabulary(embedding, shape, init) if from_rows else None
        params = {
            name: torch.stack([_initial(name, one, seed, table, task) for seed in seeds]).to(device)
            for name, one in declared.items()
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


def check_vocabulary(shape: PromptShape, init: str, rows: int) -> None:
    """Raise `InputError` where a trunk's vocabulary of so many rows has none for prompts of this shape to start from:
    raw tokens are narrower than a row, or an entry takes more rows than there are.
    """
    least = max((one.size[-2] for one in parameters(shape).values() if one.initial == VOCABULARY), default=0)
    there = max(min(rows, VOCAB_ROWS) - SPECIAL_IDS, 0)
    if least > there:
        raise InputError(
            f"encoder {shape.encoder!r} sums {least} rows of the vocabulary, and there are {there} to draw from (the "
            f"first {VOCAB_ROWS} without special ones): lower --encoder-hidden to {there} or less"
        )
    for role in ROLES if init == "vocab" else ():
        tokens = raw_tokens(shape, role)
        if tokens.initial is None and tokens.size[-1] != shape.d_model:
            raise InputError(
                f"--init vocab draws tokens as wide as the trunk ({shape.d_model}), and those of encoder "
                f"{shape.encoder!r} are {tokens.size[-1]} wide: use --init uniform"
            )


def _vocabulary(embedding: Tensor | None, shape: PromptShape, init: str) -> Tensor:
    """The rows (K, d), fp32 on the CPU, that `vocab` draws from."""
    if embedding is None:
        raise InputError("initialisation 'vocab' needs the trunk's embedding")
    check_vocabulary(shape, init, len(embedding))
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
    parameter: Parameter,
    seed: int,
    table: Tensor | None,
    task: str | None,
) -> Tensor:
    """One run's initial value of one parameter, on the CPU so that the device does not matter."""
    initial = parameter.initial
    if isinstance(initial, tuple) and initial[0] == initial[1]:
        return torch.full(parameter.size, initial[0])
    whose = f"{seed} {name}" if task is None else f"{seed} {name} {task}"
    digest = hashlib.sha256(whose.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    if isinstance(initial, tuple):
        return torch.empty(parameter.size).uniform_(*initial, generator=generator)
    assert table is not None
    if initial == VOCABULARY:
        rows = [torch.randperm(len(table), generator=generator) for _ in range(math.prod(parameter.size[:-2]))]
        return table[torch.stack(rows)[:, : parameter.size[-2]]].view(parameter.size)
    return table[torch.randint(len(table), parameter.size[:-1], generator=generator)]
