"""The numbers of the papers' analyses (CrossPT: arXiv 2509.14253, ComPT: arXiv 2408.13227), in float64.

The similarity of a target prompt and another prompt, CrossPT Eq. 2, is `prompts.similarity.mean_cosine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cosine_similarity

from compt_fast.prompts.similarity import mean_cosine


@dataclass(frozen=True)
class Anatomy:
    """What a run's target prompts are made of; a part that it has not is None.

    weights (T, n), a private prompt's last where it stands inside; gates (T, 2): alpha (private),
    beta (sources); similarity (T, N) of targets and sources, `to_private` (T,) of targets and their
    own private prompts, `tokens` (T, T) of every two targets; `weighted` in percent.
    """

    tasks: list[str]
    sources: list[str]
    weights: Tensor | None
    gates: Tensor | None
    similarity: Tensor | None
    to_private: Tensor | None
    tokens: Tensor
    weighted: float | None


def anatomy(tensors: Mapping[str, Tensor], tasks: Sequence[str], source_names: Sequence[str] | None) -> Anatomy:
    """The anatomy of a run's stored tensors, which must hold `targets`.

    `tensors` are those of `RunPrompts`: targets (T, L, d), sources (N, m, d), privates (T, m, d),
    weights (T, n), gates (T, 2). `source_names` are the N source tasks; without them S1, S2, ...
    """
    targets, sources, privates = tensors["targets"], tensors.get("sources"), tensors.get("privates")
    weights = tensors.get("weights")
    n = 0 if sources is None else len(sources)
    similarity = None if sources is None else mean_cosine(targets, sources)
    return Anatomy(
        list(tasks),
        list(source_names or [f"S{i + 1}" for i in range(n)]),
        weights,
        tensors.get("gates"),
        similarity,
        None if privates is None else mean_cosine(targets, privates).diagonal(),
        token_similarities(targets),
        weighted_similarity(None if weights is None else weights[:, :n], similarity),
    )


def weighted_similarity(weights: Tensor | None, similarity: Tensor | None) -> float | None:
    """100/T sum_t sum_j w[t, j] sim[t, j] over the N sources: CrossPT Eq. 3, in percent.

    weights and similarity (T, N), those of a private prompt left out. Without sources (None) the
    measure is undefined, which is None and not 0.
    """
    if weights is None or similarity is None:
        return None
    return float(100 * (weights.double() * similarity.double()).sum(-1).mean())


def token_similarities(targets: Tensor) -> Tensor:
    """1/m sum_k cos(a[k], b[k]) of every two target prompts: CrossPT Eq. 4; (T, m, d) -> (T, T)."""
    wide = targets.double()
    return cosine_similarity(wide[:, None], wide[None], dim=-1).mean(-1)


def recalls(counts: dict[str, dict[str, int]]) -> dict[str, float | None]:
    """The share in percent of each label's rows that were answered with that label.

    `counts[gold][predicted]` as in `results.json`. The papers call it precision. None for a label
    without rows.
    """
    totals = {gold: sum(answers.values()) for gold, answers in counts.items()}
    return {
        gold: 100 * answers.get(gold, 0) / totals[gold] if totals[gold] else None for gold, answers in counts.items()
    }
