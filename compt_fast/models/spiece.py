"""A tokenizer's vocabulary as a model of sentencepiece, for programs that have no library of transformers' tokenizers.

T5's tokenizers cut at spaces and choose the likeliest pieces of each word (unigram). Sentencepiece does the same from a
file in the wire format of protocol buffers: messages `ModelProto`, `SentencePiece`, `TrainerSpec`, `NormalizerSpec`.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # SentencePiece.Type
_UNIGRAM = 1  # TrainerSpec.ModelType


def sentencepiece_model(tokenizer: PreTrainedTokenizerBase) -> bytes | None:
    """The file's content: each piece at its id. None for a tokenizer that is not T5's, such as ByT5's bytes.

    Special tokens are control pieces: decoding leaves them out, and no text is read as one.
    """
    if not hasattr(tokenizer, "backend_tokenizer"):
        return None
    held = json.loads(tokenizer.backend_tokenizer.to_str())
    model, charsmap = held["model"], _charsmap(held["normalizer"])
    if model.get("type") != "Unigram" or model.get("byte_fallback") or charsmap is None or not _by_words(held):
        return None
    special = {token["id"] for token in held["added_tokens"] if token["special"]}
    pieces: dict[int, tuple[str, float]] = {i: (text, score) for i, (text, score) in enumerate(model["vocab"])}
    pieces |= {token["id"]: (token["content"], 0.0) for token in held["added_tokens"] if token["id"] not in pieces}
    if sorted(pieces) != list(range(len(pieces))):
        return None
    unknown = model["unk_id"]
    kinds = [_UNKNOWN if i == unknown else _CONTROL if i in special else _NORMAL for i in range(len(pieces))]
    content = b"".join(_piece(*pieces[i], kind) for i, kind in enumerate(kinds))
    return content + _trainer(len(pieces), unknown, tokenizer) + _normalizer(charsmap)


def _charsmap(normalizer: dict[str, Any] | None) -> bytes | None:
    """Sentencepiece's own table of normalised characters, empty where there is none; None for other normalisers."""
    if normalizer is None:
        return b""
    return base64.b64decode(normalizer["precompiled_charsmap"]) if normalizer["type"] == "Precompiled" else None


def _by_words(held: dict[str, Any]) -> bool:
    """Whether the text is cut at spaces and each word begins with U+2581."""
    steps = (held["pre_tokenizer"] or {}).get("pretokenizers", [])
    return [step["type"] for step in steps] == ["WhitespaceSplit", "Metaspace"]


def _piece(text: str, score: float, kind: int) -> bytes:
    message = _bytes(1, text.encode()) + _tag(2, 5) + struct.pack("<f", score) + _number(3, kind)
    return _bytes(1, message)


def _trainer(size: int, unknown: int, tokenizer: PreTrainedTokenizerBase) -> bytes:
    ids = {40: unknown, 41: -1, 42: tokenizer.eos_token_id, 43: tokenizer.pad_token_id}
    message = _number(3, _UNIGRAM) + _number(4, size) + b"".join(_number(key, value) for key, value in ids.items())
    names = {45: tokenizer.unk_token, 47: tokenizer.eos_token, 48: tokenizer.pad_token}
    return _bytes(2, message + b"".join(_bytes(key, str(value).encode()) for key, value in names.items()))


def _normalizer(charsmap: bytes) -> bytes:
    message = _bytes(1, b"nmt_nfkc" if charsmap else b"identity") + _bytes(2, charsmap)
    # a dummy space before the text, other spaces once, all of them as U+2581
    return _bytes(3, message + b"".join(_number(key, 1) for key in (3, 4, 5)))


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers, as int32 has them
    parts = bytearray()
    while value >= 1 << 7:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _tag(key: int, kind: int) -> bytes:
    return _varint(key << 3 | kind)


def _number(key: int, value: int) -> bytes:
    return _tag(key, 0) + _varint(value)


def _bytes(key: int, value: bytes) -> bytes:
    return _tag(key, 2) + _varint(len(value)) + value
