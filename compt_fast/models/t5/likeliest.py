"""The likeliest next token, as the head's logits give it, but with the head read in int8.

A step of decoding reads the whole head, an eighth of what t5-base's decoder reads, for one token. Its rounded logits
say which tokens can be the likeliest: by Cauchy and Schwarz, with W and x rounded to W' and x',

    |w x - w' x'| <= |x| |w - w'| + |x - x'| |w'|

and the lengths on the right are known. Those few tokens alone are then asked of the head itself, in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compt_fast.ops.linear import FrozenLinear, has_compiled_products
from compt_fast.ops.linear_int8 import Int8Linear, quantise
from compt_fast.ops.paths import COMPILED, path

WORTH = 1 << 22  # entries of a head from which on it pays (ours)
MOST = 1 << 10  # tokens a row that are asked again; where more could be the likeliest, all are (ours)
PART = 1 << 12  # rows of a head that are compared with their int8 at a time
MARGIN = 1.001  # of the bound, whose lengths are rounded themselves
TINY = 1e-36  # by which both logits together may be off where their products are too small for fp32


class Likeliest:
    """For states x (n, d) the tokens of the largest logits `W x` (n,) int64: the first of those that are equal."""

    def __init__(self, head: FrozenLinear) -> None:
        self.head = head
        self._screen = _Screen(head.weight) if _is_worth(head.weight) else None

    def __call__(self, states: Tensor) -> Tensor:
        found = None if self._screen is None else self._screen(states)
        return self.head(states).float().argmax(1) if found is None else found


def _is_worth(weight: Tensor) -> bool:
    """Whether reading in int8 is quicker, and a single logit has the bits that it has among all."""
    compiled = has_compiled_products(weight) and path("linear_int8", weight) == COMPILED
    return compiled and weight.dtype == torch.float32 and weight.numel() >= WORTH


def _lengths(x: Tensor) -> Tensor:
    """Those of the rows of x (n, d), (n,) fp64: in fp32 what is small has a square of 0, and so have such lengths."""
    return torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)


class _Screen:
    """A head W (V, d) fp32 beside its int8, and how far the two are apart."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        rounded, steps, lengths, apart = [], [], [], []
        for part in weight.split(PART):  # all at once would take several times the head's memory
            q, s = quantise(part)
            near = q * s
            rounded.append(q)
            steps.append(s)
            lengths.append(_lengths(near))
            apart.append(_lengths(part - near))
        self.rounded = Int8Linear.of(torch.cat(rounded), torch.cat(steps))
        self.lengths = torch.cat(lengths)
        # What fp32 rounds of a sum of d products joins the distance: it is at most so much of |w|, twice over here.
        rounding = 2.0**-23 * (weight.shape[1] + 8)
        self.apart = (1 + rounding) * torch.cat(apart) + rounding * self.lengths
        self.most = float(self.lengths.max()), float(self.apart.max())

    def __call__(self, states: Tensor) -> Tensor | None:
        """As `Likeliest`; None where a row is not finite, or too many tokens are alike."""
        logits = self.rounded(states)
        q, steps = quantise(states)
        lengths, apart = MARGIN * _lengths(states), MARGIN * _lengths(states - q * steps)
        top, at = logits.max(1)
        least = top - lengths * self.apart[at] - apart * self.lengths[at] - TINY  # of the largest logit
        bound = (least - lengths * self.most[1] - apart * self.most[0]).float()
        bound = torch.nextafter(bound, torch.full_like(bound, -torch.inf))
        row, token = torch.nonzero(logits >= bound[:, None], as_tuple=True)
        counts = torch.bincount(row, minlength=len(states))
        if int(counts.min()) == 0 or int(counts.max()) > MOST:
            return None
        below = lengths[row] * self.apart[token] + apart[row] * self.lengths[token]
        possible = logits[row, token] + below >= least[row]
        row, token = row[possible], token[possible]
        tokens = token.split(torch.bincount(row, minlength=len(states)).tolist())
        return torch.stack([self._first(states[i, None], own) for i, own in enumerate(tokens)])

    def _first(self, state: Tensor, tokens: Tensor) -> Tensor:
        """That of some ascending `tokens` (n,) with the largest logit of `state` (1, d)."""
        if len(tokens) == 1:
            return tokens[0]
        return tokens[FrozenLinear(self.weight[tokens])(state)[0].argmax()]
