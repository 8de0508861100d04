"""Whether what prompts begin with is as large as what the trunk reads beside it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from compt_fast.config.presets import RANDOM
from compt_fast.models.api import Trunk
from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import VOCAB_ROWS, PromptBank
from compt_fast.training.plan import Run
from compt_fast.utils.output import complain

MOST = 5.0  # times the embeddings' scale (ours): T5's are larger than any prompt begins, Llama's 15 times smaller


def note_scales(trunk: Trunk, runs: list[Run]) -> None:
    """A line on standard error where the prompts of a run begin more than `MOST` times as large as the trunk's token
    embeddings, by the root mean square of their elements. The first such run is named.
    """
    known = _scale(trunk.embedding[:VOCAB_ROWS])
    for run, scale in _initial_scales(trunk, runs):
        if scale > MOST * known:
            fitting = run.config.init_range * known / scale
            complain(
                f"note: the prompts of {run.id} begin at a scale of {scale:.2g}, and the token embeddings of "
                f"{trunk.name} have {known:.2g}: so large a prompt drowns the text beside it. --init vocab begins at "
                f"the embeddings' own scale, --init-range {fitting:.2g} near it"
            )
            return


def _initial_scales(trunk: Trunk, runs: list[Run]) -> Iterator[tuple[Run, float]]:
    """The scale that the target prompts of runs begin with, of one of those that begin alike, where it is drawn."""
    seen = set()
    for run in runs:
        config = run.config
        kind = (run.shape, config.init, config.init_range)
        if run.alone or kind in seen or run.shape.per_row or {config.source_init, config.private_init} != {RANDOM}:
            continue
        seen.add(kind)
        bank = PromptBank.create(
            run.shape, [config.seed], init=config.init, init_range=config.init_range, embedding=trunk.embedding
        )
        targets = compose(bank.params, run.shape).targets
        if targets is not None:
            yield run, _scale(targets)


def _scale(values: Tensor) -> float:
    return float(values.detach().float().square().mean().sqrt())
