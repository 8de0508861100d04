"""P-tuning (arXiv 2103.10385), PEFT's: prompt tokens before the text, made by an MLP of learned embeddings.

The paper's encoder is an LSTM; PEFT's own default is the MLP.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from compt_fast.baselines.methods import Sizes
from compt_fast.baselines.peft import TASK_TYPE, OfPeft

HIDDEN = 128


class PTuning(OfPeft):
    """`length` tokens `W_3 relu(W_2 relu(W_1 e + b_1) + b_2) + b_3`, of inner width 128."""

    prompted: ClassVar[bool] = True

    def __init__(self, model: Any, sizes: Sizes) -> None:
        super().__init__(
            model,
            sizes,
            lambda peft: peft.PromptEncoderConfig(
                task_type=TASK_TYPE,
                num_virtual_tokens=sizes.length,
                num_transformer_submodules=1,  # the encoder: else as many tokens that nothing reads
                encoder_hidden_size=HIDDEN,
            ),
        )

    def prompt(self) -> Tensor:
        tokens: Tensor = self.peft.get_prompt(1)[0]
        return tokens


ENTRY = PTuning
