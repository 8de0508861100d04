"""T5-family checkpoints of random weights, written the way the hub's own are: for tests, and for
trying commands.

    python -m tests.helpers.tiny_t5 DIR --family t5 --size t5-small --tokenizer T5-TOKENIZER-DIR

The configuration and the tensors are those of the published checkpoints, with their traps: v1.1,
Flan and ByT5 say `tie_word_embeddings: false` and bring a head of their own, T5 v1.0 ties it and
scales the decoder's output.
"""

from __future__ import annotations

import argparse
import json
import shutil
import string
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    ByT5Tokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)
from transformers.utils import logging

FAMILIES = ("t5", "v1.1", "flan", "mt5", "byt5")
# The tiny one's inner width (heads * d_kv) and its two depths differ, so that a mix-up shows.
SHAPE = ("d_model", "d_kv", "num_heads", "d_ff", "num_layers", "num_decoder_layers")
SIZES = {
    "tiny": (32, 8, 3, 48, 2, 3),
    "t5-small": (512, 64, 8, 2048, 6, 6),
    "t5-base": (768, 64, 12, 3072, 12, 12),
}
WORDS = (
    "sentence sentence1 sentence2 question premise hypothesis cola sst2 mrpc qqp stsb mnli qnli "
    "rte entail ment contra diction neutral positive negative not accept able un equivalent "
    "duplicate low medium high the a an of to and is was are in on at it he she they we you "
    "this that who what where when good bad man woman dog cat house city book river film red "
    "small reads sees gave went ate every some no with for from by"
)


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A T5 tokenizer over words and single characters, with the special tokens and sentinels."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [("▁" + word, -4.0) for word in WORDS.split()]
    words += [(word, -5.0) for word in WORDS.split() if len(word) > 1]
    letters = [(letter, -10.0) for letter in "▁" + string.ascii_letters + string.digits + string.punctuation]
    known = {piece for piece, _ in words}
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
    vocabulary = special + words + [item for item in letters if item[0] not in known] + sentinels
    return T5Tokenizer(vocab=vocabulary)


def make_t5(
    folder: Path | str,
    family: str = "t5",
    size: str = "tiny",
    tokenizer: Path | str | None = None,
    seed: int = 0,
    tokens: int = 0,
) -> Path:
    """Write a checkpoint of random fp32 weights and its tokenizer to `folder`, and return that.

    `tokenizer` is a folder whose tokenizer files are copied; without it T5 and mT5 get the tiny
    one. ByT5 has its own. There are at least `tokens` embeddings.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is None or family == "byt5":
        words = ByT5Tokenizer() if family == "byt5" else tiny_tokenizer()
        words.save_pretrained(folder)
    else:
        for file in Path(tokenizer).iterdir():
            shutil.copyfile(file, folder / file.name)
        words = T5Tokenizer.from_pretrained(folder)
    config = _config(family, size, max(tokens, len(words)))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(_weights(config, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _config(family: str, size: str, tokens: int) -> dict[str, object]:
    config: dict[str, object] = {
        "architectures": ["MT5ForConditionalGeneration" if family == "mt5" else "T5ForConditionalGeneration"],
        "model_type": "mt5" if family == "mt5" else "t5",
        "vocab_size": -(-tokens // 128) * 128,  # more embeddings than tokens, as published
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-06,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        **dict(zip(SHAPE, SIZES[size], strict=True)),
    }
    if family == "byt5":
        config["tokenizer_class"] = "ByT5Tokenizer"
    if family in ("t5", "v1.1", "flan"):
        config["n_positions"] = 512
    if family == "t5":
        return config | {"feed_forward_proj": "relu"}
    return config | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def _weights(config: dict[str, object], seed: int) -> dict[str, torch.Tensor]:
    """Every tensor by its published name, as transformers initialises it but less even."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = {name: value for name, value in config.items() if name != "architectures"}
        if config["model_type"] == "mt5":
            model = MT5ForConditionalGeneration(MT5Config(**settings))
        else:
            model = T5ForConditionalGeneration(T5Config(**settings))
        weights = {name: value.detach() for name, value in model.named_parameters()}
        for name, value in weights.items():
            if "layer_norm" in name:
                value.copy_(torch.rand_like(value) + 0.5)
            if "relative_attention_bias" in name:
                value.normal_()
            # These outweigh the residual: else a tied head only repeats the token it reads.
            if name.startswith("decoder") and name.endswith((".o.weight", ".wo.weight")):
                value.mul_(8)
        shared = weights["shared.weight"]
        if config.get("tie_word_embeddings") is False:
            weights["lm_head.weight"] = torch.randn_like(shared) * shared.shape[1] ** -0.5
    logging.set_verbosity(verbosity)
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a T5-family checkpoint of random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=FAMILIES, default="t5")
    parser.add_argument("--size", choices=tuple(SIZES), default="tiny")
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer to copy (default: a tiny one)")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    print(make_t5(flags.folder, flags.family, flags.size, flags.tokenizer, flags.seed))


if __name__ == "__main__":
    main()
