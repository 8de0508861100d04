"""Checkpoints of other families than T5, tiny and of random weights, as transformers saves them.

    python -m tests.helpers.tiny_trunks DIR --family gpt2

Their configurations keep what each family does in its own way: GPT-2's and OPT's learned positions (OPT's two places
off), BART's and Gemma's scaled embeddings, T5Gemma's decoder of another size, grouped heads, windows of attention.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from compt_fast.models.checkpoint import quiet_transformers
from compt_fast.runs.job import MINI_WEIGHTS
from tests.helpers.tiny_t5 import WORDS, tiny_tokenizer

_LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 512,
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "bart": _BART | {"scale_embedding": True, "decoder_start_token_id": 1},
    "umt5": {"d_model": 32, "d_kv": 8, "num_heads": 3, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2},
    "t5gemma": {"encoder": _LLAMA, "decoder": _LLAMA | {"num_hidden_layers": 3, "cross_attention_hidden_size": 32}},
}
CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 24,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    "llama": _LLAMA,
    "qwen2": _LLAMA | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "gemma": _LLAMA,
    "gemma3_text": _LLAMA | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
}


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Byte pairs as GPT-2's and Llama 3's, with a token before every text, and none for padding or the unknown."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<begin>", "<end>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([WORDS] * 3, trainer)
    made.post_processor = processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<begin>", eos_token="<end>")


def mini_tokenizer() -> PreTrainedTokenizerBase:
    """That of the embedded trunk, which knows the words of its tasks."""
    return AutoTokenizer.from_pretrained(MINI_WEIGHTS)


def make_trunk(
    folder: Path | str, family: str, tokenizer: str = "words", seed: int = 0, embedding_scale: float = 0.3
) -> Path:
    """Write a checkpoint of `family` and a tokenizer of `TOKENIZERS` to `folder`, and return that."""
    words = TOKENIZERS[tokenizer]()
    ids = {"vocab_size": len(words) + 5, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    known = (CAUSAL | ENCODER_DECODERS)[family]
    if family == "t5gemma":
        known = {part: sizes | ids for part, sizes in known.items()}
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, **(known | ids))
        of = AutoModelForCausalLM if family in CAUSAL else AutoModelForSeq2SeqLM
        model = of.from_config(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                # Far from what models begin with, so that every part of one matters.
                weight.normal_(1.0 if "norm" in name or "ln_" in name else 0.0, 0.3)
            model.get_input_embeddings().weight.mul_(embedding_scale / 0.3)
        if family == "bart":
            model.generation_config.forced_bos_token_id = 2
        words.save_pretrained(folder)
        model.save_pretrained(folder)
    return Path(folder)


TOKENIZERS = {"words": tiny_tokenizer, "bytes": byte_tokenizer, "mini": mini_tokenizer}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint of random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=tuple(CAUSAL | ENCODER_DECODERS), default="gpt2")
    parser.add_argument("--tokenizer", choices=tuple(TOKENIZERS), default="words")
    flags = parser.parse_args()
    print(make_trunk(flags.folder, flags.family, flags.tokenizer))


if __name__ == "__main__":
    main()
