"""Target prompts of a cohort's runs and tasks in two launches, and their gradients in three.

README.md beside this derives the formulas. `compose` is a registered operator: it works under
autograd, `torch.compile` and CUDA graphs. Parameters are fp32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import backward, forward
from .arguments import Layer, LayerGrads, LogitGrads, Logits, Mix, Prompts
from .launching import launch
from .plan import Constants, Plan, ceil

ROLES = ("source", "private")

SAVED = (
    "weights",
    "gates",
    "used",
    "source",
    "private",
    "source_hidden",
    "private_hidden",
    "source_slope",
    "private_slope",
)
"""What the backward pass needs of the forward pass, in the order the operator returns it."""


class Inputs(NamedTuple):
    """A cohort's parameters, fp32 and contiguous; what a plan has not is None or ().

    source_tokens (R, N, m, d), private_tokens (R, T, m, d). An encoder is (weight (R, K, d, d),
    bias (R, K, d)) for `linear`, where the plan's width may stand for the d of tokens and the last
    of the weight; for `mlp` the hidden weight (R, K, h, d) and bias (R, K, h) stand
    before the last weight (R, K, d, h) and bias. One shared by both roles is given as the sources'.
    router (R, T, n_weights); gate logits (R, T, 2), (R, 1, 2) or, tied, (R, T, 1). `keep`
    (n_weights,): 1 where a prompt is on, 0 where it is masked.
    """

    source_tokens: Tensor | None
    private_tokens: Tensor | None
    source_encoder: Sequence[Tensor]
    private_encoder: Sequence[Tensor]
    router: Tensor | None
    gates: Tensor | None
    keep: Tensor | None

    @classmethod
    def of(cls, tensors: Sequence[Tensor], plan: Plan) -> Inputs:
        """The inputs that `listed` gave."""
        rest = iter([x.contiguous() for x in tensors])

        def one(there: object) -> Tensor | None:
            return next(rest) if there else None

        layers = {"none": 0, "linear": 1, "mlp": 2}[plan.encoder]
        own = layers * bool(plan.privates) * (not plan.shared)
        return cls(
            one(plan.sources),
            one(plan.privates),
            [next(rest) for _ in range(2 * layers * bool(plan.sources))],
            [next(rest) for _ in range(2 * own)],
            one(plan.has_router),
            one(plan.gates not in ("none", "fixed")),
            one(plan.mask != "none"),
        )

    def listed(self) -> list[Tensor]:
        """All tensors that there are, in order."""
        parts = [self.source_tokens, self.private_tokens, *self.source_encoder]
        parts += [*self.private_encoder, self.router, self.gates, self.keep]
        return [x for x in parts if x is not None]

    def empty(self) -> Inputs:
        """Tensors of the same shapes for the gradients; `keep` has none, so a zero."""
        return Inputs(
            _like(self.source_tokens),
            _like(self.private_tokens),
            [torch.empty_like(x) for x in self.source_encoder],
            [torch.empty_like(x) for x in self.private_encoder],
            _like(self.router),
            _like(self.gates),
            None if self.keep is None else torch.zeros_like(self.keep),
        )

    @property
    def tokens(self) -> Tensor:
        found = self.private_tokens if self.source_tokens is None else self.source_tokens
        assert found is not None
        return found

    def logits(self, plan: Plan) -> Logits:
        return Logits(self.router, self.gates, self.keep, plan.tau)

    def layer(self, role: str, plan: Plan, index: int) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias of the linear layer 0 or 1 of a role's encoders."""
        encoder = self.source_encoder if role == "source" or plan.shared else self.private_encoder
        return (encoder[2 * index], encoder[2 * index + 1]) if encoder else (None, None)


@lru_cache
def constants(plan: Plan) -> Constants:
    """The plan's compile-time constants."""
    return plan.constants()


def outputs(inputs: Inputs, plan: Plan, dtype: torch.dtype, save: bool) -> dict[str, Any]:
    """Empty tensors: the targets (R, T, L, d) in `dtype` and all of `SAVED`, None where not needed.

    weights (R, T, n_weights); gates (R, T, 2), alpha and beta; used (R, N) int32, 1 where a source
    has a weight; encoded prompts (R, P, m, d); hidden (R, P, m, h), GELU's values, and its slopes.
    """
    new, runs = inputs.tokens.new_empty, inputs.tokens.shape[0]
    found: dict[str, Any] = {
        "targets": new(runs, plan.tasks, plan.target_length, plan.d, dtype=dtype),
        "weights": new(runs, plan.tasks, plan.n_weights),
        "gates": new(runs, plan.tasks, 2),
        "used": new(runs, plan.sources, dtype=torch.int32),
    }
    for role, prompts in (("source", plan.sources), ("private", plan.privates)):
        tokens = (runs, prompts, plan.length)
        encoded, hidden = prompts and plan.encoder != "none", prompts and plan.hidden
        found[role] = new(*tokens, plan.d) if encoded else None
        found[f"{role}_hidden"] = new(*tokens, plan.hidden) if hidden else None
        found[f"{role}_slope"] = new(*tokens, plan.hidden) if hidden and save else None
    return found


def compose_forward(inputs: Inputs, plan: Plan, dtype: torch.dtype, save: bool) -> dict[str, Tensor | None]:
    """`outputs`, filled: router, gates and hidden layer in one launch, the rest in another."""
    found = outputs(inputs, plan, dtype, save)
    runs = inputs.tokens.shape[0]
    arrivals = inputs.tokens.new_empty(runs * plan.pieces, dtype=torch.int32)
    values = _common(inputs, found, plan)
    values |= {"arrivals": arrivals, "targets": found["targets"], "runs": runs, "SAVE": save}
    columns = ceil(plan.hidden, plan.columns)
    programs = runs * (1 + columns * plan.row_tiles * plan.token_tiles)
    first = {role: _layer(inputs, found, plan, role, 0) for role in ROLES}
    launch(forward.prepare, programs, values | first, plan.warps)
    if plan.encoder == "none":
        prompts = {"source": inputs.source_tokens, "private": inputs.private_tokens}
        launch(forward.gather, runs * plan.pieces, values | prompts)
        return found
    last = {role: _layer(inputs, found, plan, role, int(plan.hidden > 0)) for role in ROLES}
    values |= {"INNER": plan.last_inner}
    launch(forward.encode, runs * plan.pieces * plan.row_tiles, values | last, plan.warps)
    return found


def _common(inputs: Inputs, found: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Arguments that kernels of both passes have."""
    mix = Mix(found["weights"], found["gates"], found["used"])
    return {"PLAN": constants(plan), "logits": inputs.logits(plan), "mix": mix}


def _layer(inputs: Inputs, found: Mapping[str, Any], plan: Plan, role: str, index: int) -> Layer:
    """The linear layer 0 or 1 of a role's encoders, from which and to where it goes forward."""
    given = found[f"{role}_hidden"] if index else getattr(inputs, f"{role}_tokens")
    hidden = plan.hidden and not index
    made = found[f"{role}_hidden" if hidden else role]
    weight, bias = inputs.layer(role, plan, index)
    return Layer(given, weight, bias, made, found[f"{role}_slope"] if hidden else None)


def compose_backward(grad: Tensor, inputs: Inputs, saved: Mapping[str, Tensor | None], plan: Plan) -> Inputs:
    """Gradients of all inputs, from that of the targets and what the forward pass saved."""
    found, runs = inputs.empty(), inputs.tokens.shape[0]
    # <gradient of each target, each prompt> over each piece, the private prompt last.
    dots = inputs.tokens.new_empty(runs, plan.pieces, plan.tasks, plan.sources + 1) if plan.has_logits else None
    values = _common(inputs, saved, plan)
    values |= {"grad": grad, "dots": dots, "DOTS": plan.has_logits, "used": saved["used"]}
    values |= {"logit_grads": LogitGrads(found.router, found.gates)}
    d_encoded: dict[str, Tensor | None] = {}
    for role in ROLES:
        tokens, d_tokens = getattr(inputs, f"{role}_tokens"), getattr(found, f"{role}_tokens")
        d_encoded[role] = d_tokens if plan.encoder == "none" else _like(saved[role])
        values[role] = Prompts(tokens if plan.encoder == "none" else saved[role], d_encoded[role])
    launch(backward.backward_prompts, runs * plan.pieces, values)
    if plan.encoder != "none":
        _encoder_backward(values, d_encoded, inputs, saved, found, plan)
    elif plan.has_logits:
        launch(backward.backward_logits, runs, values)
    return found


def _encoder_backward(
    values: Mapping[str, Any],
    d_encoded: Mapping[str, Tensor | None],
    inputs: Inputs,
    saved: Mapping[str, Tensor | None],
    found: Inputs,
    plan: Plan,
) -> None:
    """Back through the encoders' layers, the last first; the logits' gradients in the same launch."""
    runs, d_outputs = inputs.tokens.shape[0], dict(d_encoded)
    for index in (1, 0) if plan.hidden else (0,):
        last = index == bool(plan.hidden)
        inner = plan.last_inner if last else plan.d
        outer = plan.hidden if plan.hidden and not index else plan.d
        layers = {}
        for role in ROLES:
            given = saved[f"{role}_hidden"] if index else getattr(inputs, f"{role}_tokens")
            d_given = _like(given) if index else getattr(found, f"{role}_tokens")
            slope = saved[f"{role}_slope"] if index else None
            weight, _ = inputs.layer(role, plan, index)
            d_weight, d_bias = found.layer(role, plan, index)
            layers[role] = LayerGrads(given, weight, slope, d_outputs[role], d_given, d_weight, d_bias)
            d_outputs[role] = d_given
        first = plan.has_logits and last
        logit_programs = runs if first else 0
        input_programs = runs * ceil(inner, plan.columns) * plan.row_tiles * plan.token_tiles
        weight_tiles = ceil(inner, plan.tiles.grad_columns) * ceil(outer, plan.tiles.grad_rows)
        programs = logit_programs + input_programs + runs * plan.encoders * weight_tiles
        counts = {"logit_programs": logit_programs, "input_programs": input_programs}
        sizes = {"INNER": inner, "OUTER": outer, "DOTS": first}
        launch(backward.backward_layer, programs, {**values, **layers, **counts, **sizes}, plan.warps)


def _like(x: Tensor | None) -> Tensor | None:
    return None if x is None else torch.empty_like(x)


def _listed(found: Mapping[str, Tensor | None], save: bool) -> list[Tensor]:
    names = ("targets", *SAVED) if save else ("targets", "weights", "gates")
    return [tensor for name in names if (tensor := found[name]) is not None]


def _named(saved: Sequence[Tensor], plan: Plan) -> dict[str, Tensor | None]:
    """The tensors of `SAVED` by name, of a list that lacks those that the plan has not."""
    rest = iter(saved)
    found: dict[str, Tensor | None] = {name: next(rest) for name in SAVED[:3]}
    for name in SAVED[3:]:
        prompts = plan.sources if name.startswith("source") else plan.privates
        made = plan.hidden if "_" in name else plan.encoder != "none"
        found[name] = next(rest) if prompts and made else None
    return found


@torch.library.custom_op("compt_fast::compose", mutates_args=())
def compose(inputs: Sequence[Tensor], plan: str, dtype: torch.dtype, save: bool) -> list[Tensor]:
    """[targets (R, T, L, d), weights (R, T, n_weights), gates (R, T, 2)].

    `inputs` is `Inputs.listed`, `plan` a `Plan.text`; targets are in `dtype`, the rest is fp32. With
    `save`, which gradients need, the tensors of `SAVED` follow. Only the targets, and in `inputs`,
    are differentiable.
    """
    of = Plan.parsed(plan)
    return _listed(compose_forward(Inputs.of(inputs, of), of, dtype, save), save)


@compose.register_fake
def _(inputs: Sequence[Tensor], plan: str, dtype: torch.dtype, save: bool) -> list[Tensor]:
    of = Plan.parsed(plan)
    return _listed(outputs(Inputs.of(inputs, of), of, dtype, save), save)


@torch.library.custom_op("compt_fast::compose_backward", mutates_args=())
def gradients(grad: Tensor, inputs: Sequence[Tensor], saved: Sequence[Tensor], plan: str) -> list[Tensor]:
    """The gradient of each of the `inputs` of `compose`, from that of its targets.

    Of `keep`, which has none, there is a zero.
    """
    of = Plan.parsed(plan)
    named = Inputs.of(inputs, of)
    return compose_backward(grad.contiguous(), named, _named(saved, of), of).listed()


@gradients.register_fake
def _(grad: Tensor, inputs: Sequence[Tensor], saved: Sequence[Tensor], plan: str) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, ctx.plan, _, save = inputs
    assert save, "gradients need compose(..., save=True)"
    ctx.count = len(tensors)
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    inputs, saved = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
    found = gradients(grads[0], list(inputs), list(saved), ctx.plan)
    return found, None, None, None


compose.register_autograd(_backward, setup_context=_setup)
