"""The reference formula of target prompts, in plain PyTorch: ComPT Eq. 4 and CrossPT Eq. 1.

Target prompts are constants of (run, task) unless something in the shape depends on the input (`per_row`): then
`compose_rows` finishes for each input row what `compose` began. What a composition adds to the texts themselves is
`update_inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compt_fast.prompts.compositions import Parts
from compt_fast.prompts.encoding import encode
from compt_fast.prompts.entry import Rows, Texts
from compt_fast.prompts.products import batched, chosen
from compt_fast.prompts.routing import Mask, weights
from compt_fast.prompts.shape import PromptShape


@dataclass(frozen=True)
class Composition:
    """Target prompts of R runs and T tasks, and what they were made of; a lacking part is None.

    targets (R, T, L, d), L the shape's target length. sources
    (R, N, m, d) and privates (R, T, m, d), encoded; masked privates are zero. Of a half of `scp`
    that a mask removes nothing is left, and L is m less. weights
    (R, T, n_weights), in `inside` the private prompt's last. gates (R, T, 2): alpha (private) and
    beta (sources), of `spp` and `scp`. What depends on the input is None, and so are then the targets.
    """

    targets: Tensor | None
    sources: Tensor | None
    privates: Tensor | None
    weights: Tensor | None
    gates: Tensor | None


def compose(
    params: Mapping[str, Tensor],
    shape: PromptShape,
    *,
    training: bool = False,
    temperature: Tensor | None = None,
    noise: Tensor | None = None,
    mask: Mask | None = None,
) -> Composition:
    """The target prompts of all runs and tasks, differentiable in `params`, in their dtype.

    `params` are a bank's, each with the run axis R first. temperature (R,) and noise
    (R, T, n_weights) are what a router that samples needs in training. `mask` switches
    prompts off: a masked private's term is zero, and where all sources are masked so is their
    mixture; in `scp` either's m tokens stay, as zeros, unless the mask removes them. A router that
    depends on the input weighs whole prompts: `compose_rows` masks them then.

    Raises `InputError` for a mask of another number of sources.
    """
    rule, _, router, _, gates = shape.entries
    if mask and (router.per_row or not shape.n_weights):
        mask.candidates(shape)  # for its check: there are no weights to mask
    if router.per_row:
        mask = None
    sources = encode(params, shape, "source") if shape.sources else None
    privates = encode(params, shape, "private") if shape.private else None
    if mask and not mask.private and privates is not None:
        privates = torch.zeros_like(privates)
    w = None
    if sources is not None and shape.n_weights and not router.per_row:
        logits = router.logits(params, shape)
        w = weights(logits, shape, training=training, temperature=temperature, noise=noise, mask=mask)
    if mask and mask.tokens == "remove" and rule.removable:
        privates = privates if mask.private else None
        sources, w = (sources, w) if any(mask.sources) else (None, None)
    alpha_beta = gates.formula(params, shape) if shape.has_gates and not gates.per_row else None
    found = Composition(None, sources, privates, w, alpha_beta)
    if shape.per_row:
        return found
    mixture = None if w is None else _mixture(w, sources, shape)
    listed = _listed(sources, shape, mask) if rule.sources == "listed" else None
    parts = Parts(params, mixture, privates, w, alpha_beta, sources=listed)
    return replace(found, targets=rule.formula(parts))


def compose_rows(
    composition: Composition,
    params: Mapping[str, Tensor],
    shape: PromptShape,
    runs: Tensor,
    tasks: Tensor,
    texts: Texts,
    mask: Mask | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """The target prompt (B, L, d) of each of B input rows, for shapes that are `per_row`.

    `composition` is what `compose` gave for `params`, of which `mixing_parameters` are enough, and for the `mask`; runs
    and tasks (B,) int64 say whose row each is, `texts` what stands in them. noise (B, n_weights) is what a router of
    each row that samples needs in training.
    """
    if not shape.per_row:
        raise ValueError("nothing of this shape depends on the input: the targets of compose() are whole")
    rule, _, router, _, gates = shape.entries
    sources, w = composition.sources, composition.weights
    rows = Rows(runs, tasks, texts, sources, composition.privates)

    def own(part: Tensor | None) -> Tensor | None:
        return None if part is None else chosen(part.flatten(0, 1), runs * shape.tasks + tasks)

    alpha_beta = gates.formula(params, shape, rows) if gates.per_row else own(composition.gates)
    privates = own(composition.privates)
    mixture: Tensor | None
    if not router.per_row:
        mixture = own(None if w is None else _mixture(w, sources, shape))
        return rule.formula(Parts(params, mixture, privates, own(w), alpha_beta, rows))
    assert sources is not None
    logits = router.logits(params, shape, rows)
    row_weights = weights(logits, shape, training=noise is not None, noise=noise, mask=mask)
    mixture = _mixture(row_weights[:, None], chosen(sources, runs), shape).squeeze(1)
    if mask and not mask.private and privates is not None:
        privates = torch.zeros_like(privates)
    if mask and mask.tokens == "remove" and rule.removable:
        privates = privates if mask.private else None
        mixture = mixture if any(mask.sources) else None
    return rule.formula(Parts(params, mixture, privates, row_weights, alpha_beta, rows))


def update_inputs(
    params: Mapping[str, Tensor], shape: PromptShape, runs: Tensor, tasks: Tensor, texts: Texts
) -> Tensor:
    """What is added to the token embeddings of B input rows, for shapes that `updates_inputs`: (N, d) in the
    parameters' dtype, differentiable in `params`, of which `mixing_parameters` are enough. The other arguments are
    those of `compose_rows`.
    """
    rule = shape.entries.composition
    if rule.input_update is None:
        raise ValueError(f"{shape.composition} adds nothing to the embeddings of a text")
    return rule.input_update(params, shape, Rows(runs, tasks, texts, None, None))


def _mixture(w: Tensor, sources: Tensor | None, shape: PromptShape) -> Tensor:
    """sum_i w[t, i] P_src[i]: w (R, T, n_weights) and sources (R, N, m, d) -> (R, T, m, d)."""
    assert sources is not None
    return batched(w[..., : shape.sources], sources.flatten(2)).unflatten(2, sources.shape[2:])


def _listed(sources: Tensor | None, shape: PromptShape, mask: Mask | None) -> Tensor | None:
    """The sources (R, N, m, d) as every task has them, (R, T, N, m, d); without those that a mask removes, and zero
    where it leaves their tokens.
    """
    if sources is None:
        return None
    if mask and mask.tokens == "remove":
        sources = sources[:, [i for i, on in enumerate(mask.sources) if on]]
    elif mask:
        sources = sources * sources.new_tensor(mask.sources)[:, None, None]
    return sources[:, None].expand(-1, shape.tasks, -1, -1, -1)
