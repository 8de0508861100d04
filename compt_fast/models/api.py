"""The seam between the trainer and the frozen T5: what every engine offers, how one is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from compt_fast.config.choices import ENGINES
from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.utils.errors import unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Trunk(Protocol):
    """A frozen T5 that reads rows with soft prompts.

    "prepend" places a row's prompt before its first token, as ComPT (arXiv 2408.13227) does;
    "append" after its last one, the text's </s> (ours). `name` is what the user called the trunk.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    prompt_position: str

    @property
    def d_model(self) -> int:
        """Width of the token embeddings and so of every prompt token."""

    @property
    def max_input_length(self) -> int:
        """Tokens, prompt and text together, that the trunk was trained for: T5's 512, else mT5's
        and ByT5's 1024.
        """

    @property
    def embedding(self) -> Tensor:
        """The token embeddings (V, d) in the trunk's dtype, detached."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def row_losses(self, prompts: TargetPrompts, batch: Batch) -> Tensor:
        """Each row's cross-entropy in nats, summed over its target tokens with </s>: (B,) fp32.

        Differentiable in `prompts.flat`. The logarithm of the softmax is taken in fp32 whatever the
        trunk's dtype.
        """

    def generate(self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int) -> list[list[int]]:
        """Each row's greedy answer: its token ids up to </s>, which is left out."""

    def label_scores(
        self, prompts: TargetPrompts, batch: Batch, candidates: Sequence[Sequence[Sequence[int]]]
    ) -> list[Tensor]:
        """The log-likelihood in nats of each candidate target, by row: (n_b,) fp32 on the CPU.

        `candidates[b]` are the token ids of row b's candidates, each with its </s>.
        """

    def mean_embeddings(self, batch: Batch) -> Tensor:
        """Each row's mean token embedding, with </s> and without prompt: (B, d) fp32."""

    def fingerprint(self) -> str:
        """SHA-256 of all weights (names, shapes, dtypes, bytes) in hexadecimal."""


def open_trunk(
    engine: str,
    name_or_dir: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    prompt_position: str = "prepend",
) -> Trunk:
    """Load the checkpoint `name_or_dir`, a folder or a name on the hub, behind one of `ENGINES`.

    "auto" takes "fast" wherever that knows the checkpoint's layers. Raises InputError for an unknown engine or prompt
    position and for every checkpoint that is missing, broken or not of the T5 family.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    # transformers is slow to import
    from compt_fast.models.reference import ReferenceTrunk
    from compt_fast.models.t5.trunk import PackedTrunk
    from compt_fast.models.t5.weights import UnknownLayerError

    how: dict[str, Any] = {"dtype": dtype, "device": device, "prompt_position": prompt_position}
    if engine != "reference":
        try:
            return PackedTrunk.load(name_or_dir, **how)
        except UnknownLayerError:
            if engine == "fast":
                raise
    return ReferenceTrunk.load(name_or_dir, **how)
