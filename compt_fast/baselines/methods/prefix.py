"""Prefix tuning (arXiv 2101.00190), PEFT's: learned keys and values before the first token of the decoder.

PEFT puts the prefix into the decoder's self-attention and nowhere else, and trains it without the paper's MLP.
"""

from __future__ import annotations

from typing import Any

from compt_fast.baselines.methods import Sizes
from compt_fast.baselines.peft import TASK_TYPE, OfPeft


class Prefix(OfPeft):
    """`length` keys and values a layer and head."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        own = model.config
        layers = getattr(own, "num_decoder_layers", None) or own.num_hidden_layers
        heads, width = own.num_heads, own.num_heads * own.d_kv  # which d_model need not be
        super().__init__(
            model,
            sizes,
            lambda peft: peft.PrefixTuningConfig(
                task_type=TASK_TYPE,
                num_virtual_tokens=sizes.length,
                num_layers=layers,
                num_attention_heads=heads,
                token_dim=width,
            ),
        )

    def cache(self, rows: int) -> Any:
        return self.peft.get_prompt(rows)


ENTRY = Prefix
