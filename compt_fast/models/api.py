"""What a trunk is: all that training, evaluation and serving ask of a frozen language model.

An engine runs checkpoints as trunks: a file of `compt_fast.models.engines`, which says how to add one. `base.BaseTrunk`
has what those of the T5 family share.

Letters of shapes: B rows in a batch, N input tokens and M label tokens of all of them, S slots and P prompt tokens
of all slots, d the width of the token embeddings, V the vocabulary. Row b's encoder input is the target prompt of
its slot and its input's token embeddings, side by side; "prepend" places the prompt before the first token, as
ComPT (arXiv 2408.13227) does, "append" after the last one, the text's </s> (ours). What it should answer is its
label.

All engines promise:

- No weight takes a gradient or ever changes. The model is in evaluation mode: no dropout.
- A row's results depend on its own input, prompt and label alone, up to the rounding of other sums; a row that is
  not finite spoils no other. The same call gives the same bits on the same machine.
- Prompts and updates come in any float dtype and are rounded to the trunk's where they meet its embeddings. Their
  gradients have their own dtype.
- Softmax, its logarithm and losses are in fp32, whatever the trunk computes in.
- `ValueError` for a batch that asks for slots, labels or candidates that are not there, or an update of another
  shape; `InputError` for prompts of another width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from compt_fast.config.choices import AUTO
from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.checkpoint import UnsupportedCheckpointError
from compt_fast.models.distillation import Teachers
from compt_fast.models.engines import ENGINES
from compt_fast.prompts.entry import Texts
from compt_fast.utils.errors import unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Trunk(Protocol):
    """A frozen language model that reads rows with soft prompts. `name` is what the user called it."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    prompt_position: str
    compares_hidden: bool
    """Whether `Teachers.hidden` may be other than 0."""
    joins: bool
    """Whether batches that were joined (`batch.join`) are answered as each would be alone, on a CPU to the last bit."""

    @property
    def family(self) -> str:
        """What transformers calls its kind, such as "t5" or "gpt2": `model_type`."""

    @property
    def continues(self) -> bool:
        """Whether it writes behind what it reads, as decoder-only models do; then its tokenizer pads on the left."""

    @property
    def d_model(self) -> int:
        """Width d of the token embeddings and so of every prompt token."""

    @property
    def max_input_length(self) -> int:
        """Tokens, prompt and text together, that the trunk was trained for, as its configuration says (T5's 512), else
        mT5's and ByT5's 1024; of a causal model without those that are left to its answer.
        """

    @property
    def embedding(self) -> Tensor:
        """The token embeddings (V, d) in the trunk's dtype, detached."""

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in: fp32 or bf16; in int8, what is between the products."""

    @property
    def device(self) -> torch.device:
        """Where it computes. Batches may lie elsewhere; prompts and updates lie here."""

    def row_losses(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        input_update: Tensor | None = None,
        teachers: Teachers | None = None,
    ) -> Tensor:
        """Each row's cross-entropy in nats, summed over its label's tokens with </s>: (B,) fp32.

        Differentiable, once, in `prompts.flat` and in `input_update` (N, d), which is added to the embeddings of
        `batch.input_ids`, token by token. Without an update no gradient is computed beyond the prompts. What rows learn
        from their `teachers` is added to their losses, and no other row's changes a bit; the update is not theirs.
        """

    def generate(
        self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int, input_update: Tensor | None = None
    ) -> list[list[int]]:
        """Each row's greedy answer: its token ids up to </s>, which is left out, at most `max_new_tokens`.

        The batch's labels are not looked at. `input_update` as in `row_losses`.
        """

    def begin_generate(
        self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int, input_update: Tensor | None = None
    ) -> Callable[[], list[list[int]]]:
        """What gives the result of `generate` when it is called, until when a GPU may work at it."""

    def label_scores(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        candidates: Sequence[Sequence[Sequence[int]]],
        input_update: Tensor | None = None,
    ) -> list[Tensor]:
        """The log-likelihood in nats of each candidate label, by row: (n_b,) fp32 on the CPU.

        `candidates[b]` are the token ids of row b's n_b candidates, each with its </s>. `input_update` as in
        `row_losses`.
        """

    def generate_and_score(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        max_new_tokens: int,
        candidates: Sequence[Sequence[Sequence[int]]],
        input_update: Tensor | None = None,
    ) -> tuple[list[list[int]], list[Tensor]]:
        """What `generate` and `label_scores` return, to the bit, where an engine can with one pass of the encoder."""

    def prepare(self) -> None:
        """Make now what answers need beside the weights, and not when the first row waits for its answer."""

    def quantise(self) -> None:
        """From now on only infer, with the products of all layers in int8; `fingerprint` stays that of the checkpoint.

        Raises `InputError` where the engine, or the device, has no products in int8.
        """

    def texts(self, batch: Batch) -> Texts:
        """The embeddings of all rows' tokens, with </s> and without prompt, as stored, in fp32."""

    def fingerprint(self) -> str:
        """SHA-256 of all weights (names, shapes, dtypes, bytes) in hexadecimal: the same in every engine, as long as
        no weight has changed.
        """


def open_trunk(
    engine: str,
    name_or_dir: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    prompt_position: str = "prepend",
) -> Trunk:
    """Load the checkpoint `name_or_dir`, a folder or a name on the hub, by one of `ENGINES`.

    "auto" takes the first of them that supports the checkpoint. Raises InputError for an unknown engine or prompt
    position and for every checkpoint that is missing, broken or of no family that the engine knows.
    """
    if engine != AUTO and engine not in ENGINES:
        raise unknown("engine", engine, (AUTO, *ENGINES))
    *earlier, last = ENGINES.values() if engine == AUTO else [ENGINES[engine]]
    for each in earlier:
        try:
            return each.load(name_or_dir, dtype=dtype, device=device, prompt_position=prompt_position)
        except UnsupportedCheckpointError:
            continue
    return last.load(name_or_dir, dtype=dtype, device=device, prompt_position=prompt_position)
