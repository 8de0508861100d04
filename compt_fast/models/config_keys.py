"""The settings in a T5's `config.json`: their types and ranges, and that the stored tensors are of these sizes;
and of other models' how large they may be.

transformers raises whatever a setting of a wrong type trips, or builds a model of any size before it looks
at the weights; here the key is named first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compt_fast.utils.errors import InputError, shown

Shapes = Mapping[str, tuple[int, ...]]

# The largest that T5 families have are 65536 wide, 48 deep, and have 256000 tokens.
_SIZES = {
    "vocab_size": 2**24,
    "d_model": 2**20,
    "d_kv": 2**16,
    "d_ff": 2**20,
    "num_heads": 2**12,
    "num_layers": 2**9,
    "num_decoder_layers": 2**9,
    "relative_attention_num_buckets": 2**16,
    "relative_attention_max_distance": 2**20,
    "n_positions": 2**24,
}
_IDS = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
_TEXTS = ("feed_forward_proj", "tokenizer_class", "dense_act_fn")
_SWITCHES = ("tie_word_embeddings", "is_gated_act", "use_cache", "is_encoder_decoder")
_NUMBERS = ("layer_norm_epsilon", "dropout_rate", "initializer_factor", "classifier_dropout")


def check_settings(file: Path, config: Mapping[str, Any]) -> None:
    """Raise `InputError` that names the key of `config`, read from `file`, whose value no T5 can have."""
    for key, most in _SIZES.items():
        value: Any = config.get(key, 1)
        if value is None and key in ("num_decoder_layers", "n_positions"):
            continue  # as many as num_layers; no such limit
        if type(value) is not int or not 1 <= value <= most:
            raise InputError(f"{file}: {key} must be a whole number from 1 to {most:,}, not {shown(value)}")
    for key in _IDS:
        value, most = config.get(key, 0), config.get("vocab_size", 1 + _SIZES["vocab_size"])
        if value is not None and (type(value) is not int or not 0 <= value < most):
            raise InputError(f"{file}: {key} must be a token's id, from 0 to {most - 1:,}, not {shown(value)}")
    for keys, kinds, what in (
        (_TEXTS, (str,), "a text"),
        (_SWITCHES, (bool,), "true or false"),
        (_NUMBERS, (int, float), "a number from 0 to 1"),
    ):
        for key in keys:
            value = config.get(key)
            fits = type(value) in kinds and (kinds[0] is not int or 0 <= value <= 1)
            if value is not None and not fits:
                raise InputError(f"{file}: {key} must be {what}, not {shown(value)}")
    _check_activation(file, config.get("feed_forward_proj", "relu"))


def check_counts(file: Path, config: Mapping[str, Any]) -> None:
    """Raise `InputError` for a number of layers, heads or features of any other model than a T5 that none has.

    What else is wrong with a setting, transformers itself says; but it would first build a model of any size.
    """
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    for key, value in ((key, value) for part in parts for key, value in part.items()):
        match = re.search(r"(layers?|_size|_heads?|_dim|^d_model|^n_embd|_experts)$", key)
        most = _SIZES["num_layers"] if match and match[1].startswith("layer") else _SIZES["vocab_size"]
        if match and type(value) is int and abs(value) > most:
            raise InputError(f"{file}: {key} must be a whole number up to {most:,}, not {shown(value)}")


def _check_activation(file: Path, value: str) -> None:
    from transformers.activations import ACT2FN  # slow to import

    gate, _, name = value.rpartition("-")
    if gate not in ("", "gated") or name not in ACT2FN:
        known = "relu, gelu, gated-gelu, gated-silu"
        raise InputError(f"{file}: feed_forward_proj {shown(value)} is no activation; T5 families have {known}")


def check_sizes(file: Path, config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise `InputError` where a size in `config` is another than that of the stored tensors.

    `shapes` are those of the tensors by name; what they lack is told when the trunk is built.
    """
    for stack, key in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
        said = config.get(key) or config.get("num_layers")
        blocks = {int(match[1]) for name in shapes if (match := re.match(rf"{stack}\.block\.(\d{{1,6}})\.", name))}
        if said is not None and blocks and said != max(blocks) + 1:
            raise InputError(f"{file}: {key} is {said}, but the weights hold {max(blocks) + 1} blocks of the {stack}")
    first = "encoder.block.0.layer"
    tensors: dict[str, tuple[str, ...]] = {
        "shared.weight": ("vocab_size", "d_model"),
        f"{first}.0.SelfAttention.q.weight": ("num_heads * d_kv", "d_model"),
        f"{first}.0.SelfAttention.relative_attention_bias.weight": ("relative_attention_num_buckets", "num_heads"),
        f"{first}.1.DenseReluDense.wo.weight": ("d_model", "d_ff"),
    }
    for name, keys in tensors.items():
        for size, key in zip(shapes.get(name, ()), keys, strict=False):
            factors: list[Any] = [config.get(part) for part in key.split(" * ")]
            if None in factors:
                continue  # transformers' own default
            said = factors[0] * factors[-1] if len(factors) > 1 else factors[0]
            if size != said:
                raise InputError(
                    f"{file}: {key} is {said}, but tensor {name} has shape {tuple(shapes[name])} for "
                    f"({', '.join(keys)})"
                )
