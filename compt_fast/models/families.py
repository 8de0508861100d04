"""Which checkpoints are trunks: the model types of transformers, by the way in which they read and write.

Only the T5 family is named here. Of the others transformers itself keeps the lists, by its `AutoModelForSeq2SeqLM` and
`AutoModelForCausalLM`, so that what it learns to load is a trunk here. Whether a model of such a list can be one, an
engine finds out when it opens it (`compt_fast.models.padded`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Classes = Mapping[str, str]


@dataclass(frozen=True)
class Families:
    """Model types, and the class of transformers of each; `text` is what they are called in a message."""

    text: str
    classes: Callable[[], Classes]


def _t5() -> Classes:
    return {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration"}


def _encoder_decoders() -> Classes:
    from transformers.models.auto import modeling_auto

    return dict(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)


def _causal() -> Classes:
    """Without the models of both lists, of which the decoder alone would be loaded, and those that fill in masks, whose
    text is read in both directions.
    """
    from transformers.models.auto import modeling_auto

    others = {*_encoder_decoders(), *modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    every = dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    return {name: of for name, of in every.items() if name not in others}


T5 = Families("T5, T5 v1.1, Flan-T5, mT5 or ByT5", _t5)
ENCODER_DECODERS = Families("encoder-decoder that transformers knows (T5, BART, UMT5, T5Gemma ...)", _encoder_decoders)
CAUSAL = Families("causal language model that transformers knows (GPT-2, OPT, Llama, Qwen, Gemma ...)", _causal)
ANY = Families(
    f"{T5.text}, another encoder-decoder (BART, UMT5, T5Gemma ...) or a {CAUSAL.text}",
    lambda: {**_causal(), **_encoder_decoders()},
)
