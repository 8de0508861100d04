"""What all engines have in common: how they are opened, and what they refuse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.config.choices import PROMPT_POSITIONS
from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.checkpoint import find_folder, load_checkpoint
from compt_fast.models.distillation import Teachers
from compt_fast.models.families import T5, Families
from compt_fast.prompts.entry import Texts
from compt_fast.utils.errors import InputError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = (torch.float32, torch.bfloat16)
NO_HIDDEN = (
    "--distil-hidden: this engine compares no hidden states; take --engine reference, where the trunk is an "
    "encoder-decoder, or --distil-hidden 0 and the answers' probabilities alone (--distil)"
)
"""What a trunk says that does not `compares_hidden`."""


class BaseTrunk(ABC):
    """A frozen language model behind `compt_fast.models.api.Trunk`, which says what it offers.

    `families` are the checkpoints that the engine opens.
    """

    families: ClassVar[Families] = T5
    padding_side: ClassVar[str] = "right"

    compares_hidden = False
    joins = False  # padding and most products round by what shares their batch

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        prompt_position: str,
    ) -> None:
        self.config: Any = model.config
        self.tokenizer = tokenizer
        self.name = name
        self.prompt_position = prompt_position
        self.end_id = int(tokenizer.eos_token_id)
        tokenizer.padding_side = self.padding_side

    @classmethod
    def load(
        cls,
        name_or_dir: str,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        prompt_position: str,
    ) -> Self:
        """The checkpoint in the folder `name_or_dir`, or of that name on the hub, in fp32 or bf16.

        Raises InputError for what `find_folder` and `load_checkpoint` refuse, another dtype, an
        unknown position and a device that is not there; UnsupportedCheckpointError for another family.
        """
        if dtype not in DTYPES:
            raise InputError(f"a trunk computes in fp32 or bf16, not in {dtype}")
        device = torch.device(device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError("device cuda: torch sees no GPU here; use cpu")
        if prompt_position not in PROMPT_POSITIONS:
            raise unknown("prompt position", prompt_position, PROMPT_POSITIONS)
        model, tokenizer = load_checkpoint(find_folder(name_or_dir), dtype, cls.families)
        return cls(model.to(device), tokenizer, name_or_dir, prompt_position)

    def prepare(self) -> None:
        return

    def quantise(self) -> None:
        raise InputError("--dtype int8: this engine computes in fp32 or bf16; of a T5 --engine fast has int8")

    def begin_generate(
        self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int, input_update: Tensor | None = None
    ) -> Callable[[], list[list[int]]]:
        found = self.generate(prompts, batch, max_new_tokens, input_update)
        return lambda: found

    def generate_and_score(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        max_new_tokens: int,
        candidates: Sequence[Sequence[Sequence[int]]],
        input_update: Tensor | None = None,
    ) -> tuple[list[list[int]], list[Tensor]]:
        found = self.generate(prompts, batch, max_new_tokens, input_update)
        return found, self.label_scores(prompts, batch, candidates, input_update)

    @abstractmethod
    def generate(
        self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int, input_update: Tensor | None = None
    ) -> list[list[int]]: ...

    @abstractmethod
    def label_scores(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        candidates: Sequence[Sequence[Sequence[int]]],
        input_update: Tensor | None = None,
    ) -> list[Tensor]: ...

    @property
    @abstractmethod
    def embedding(self) -> Tensor: ...

    @property
    def prepend(self) -> bool:
        """Whether prompts stand before the text."""
        return self.prompt_position == "prepend"

    @property
    def d_model(self) -> int:
        return int(self.embedding.shape[1])

    @property
    def family(self) -> str:
        return str(self.config.model_type)

    @property
    def continues(self) -> bool:
        return self.padding_side == "left"

    @property
    def start_id(self) -> int:
        """What an encoder-decoder's decoder reads first."""
        ids = ("decoder_start_token_id", "pad_token_id" if self.family in T5.classes() else "bos_token_id")
        known = (getattr(self.config, name, None) for name in ids)
        return next(int(token) for token in known if token is not None)

    @property
    def max_input_length(self) -> int:
        config = self.config.get_text_config()
        lengths = (getattr(config, name, None) for name in ("n_positions", "max_position_embeddings"))
        return next((int(length) for length in lengths if length), 1024)

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def texts(self, batch: Batch) -> Texts:
        embeddings = F.embedding(batch.input_ids.to(self.device), self.embedding).float()
        return Texts(embeddings, batch.input_lengths.to(self.device))

    def _text(self, batch: Batch, input_update: Tensor | None) -> Tensor:
        """The embeddings of all input tokens (N, d); with an update the sums, rounded once."""
        text = F.embedding(batch.input_ids.to(self.device), self.embedding)
        return text if input_update is None else (text + input_update).to(self.dtype)

    def _check_inputs(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> None:
        if prompts.flat.shape[1] != self.d_model:
            raise InputError(
                f"prompts of d_model {prompts.flat.shape[1]} do not fit the trunk {self.name!r},"
                f" whose d_model is {self.d_model}"
            )
        if int(batch.slots.min()) < 0 or int(batch.slots.max()) >= prompts.slots:
            raise ValueError(
                f"the rows ask for slots {batch.slots.tolist()}, but there are only {prompts.slots} target prompts"
            )
        if input_update is None:
            return
        wanted = (batch.input_tokens, self.d_model)
        if not input_update.is_floating_point() or input_update.shape != wanted:
            raise ValueError(
                f"an update of the inputs must be a float tensor {wanted}, a row for each of their tokens, got"
                f" {input_update.dtype} {tuple(input_update.shape)}"
            )

    def _check_labels(self, batch: Batch) -> None:
        if bool((batch.label_lengths == 0).any()):
            raise ValueError("every row needs a label for its loss")

    def _check_teachers(self, prompts: TargetPrompts, batch: Batch, teachers: Teachers | None) -> None:
        if teachers is None:
            return
        if int(teachers.slots.max()) >= teachers.prompts.slots or int(teachers.rows.max()) >= batch.rows:
            raise ValueError("teachers of rows, or prompts of teachers, that are not there")
        if not bool(teachers.hidden.any()):
            return
        if not self.compares_hidden:
            raise InputError(NO_HIDDEN)
        own, other = prompts.lengths[batch.slots[teachers.rows]], teachers.prompts.lengths[teachers.slots]
        if not torch.equal(own, other):
            raise ValueError(f"hidden states of prompts of {own.tolist()} tokens and teachers of {other.tolist()}")

    def _check_candidates(self, batch: Batch, candidates: Sequence[Sequence[Sequence[int]]]) -> None:
        counts = [len(row) for row in candidates]
        if len(counts) != batch.rows or 0 in counts:
            raise ValueError(f"candidates for each of the {batch.rows} rows are needed, got counts {counts}")
        if any(len(label) == 0 for row in candidates for label in row):
            raise ValueError("a candidate needs at least one token, its </s>")
