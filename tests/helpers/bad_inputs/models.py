"""Model folders, files of prompts, and adapters of PEFT."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.helpers.bad_inputs import (
    ANY_FILE,
    GONE,
    JSON_FILE,
    NO_NUMBER,
    NO_SWITCH,
    NO_TEXT,
    NO_WHOLE,
    TEXT_FILE,
    WEIGHTS_FILE,
    Case,
    Make,
    Materials,
    Spoil,
    edited_json,
    spoilt_files,
)
from tests.helpers.bad_inputs.settings import line
from tests.helpers.foreign import peft_adapter

_SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers")
_SIZES_BAD = NO_WHOLE | {"none": 0, "negative": -1, "billions": 10**9, "one more": 33}
_BUCKETS = ("relative_attention_num_buckets", "relative_attention_max_distance", "n_positions")


def _model(materials: Materials) -> Make:
    def make(folder: Path) -> list[str]:
        shutil.copytree(materials.model, folder / "t5")
        return line(folder, model="t5", max_source_length="32")

    return make


def _pickled(materials: Materials) -> Make:
    def make(folder: Path) -> list[str]:
        made = _model(materials)(folder)
        torch.save(load_file(folder / "t5/model.safetensors"), folder / "t5/pytorch_model.bin")
        (folder / "t5/model.safetensors").unlink()
        return made

    return make


def _sharded(materials: Materials) -> Make:
    def make(folder: Path) -> list[str]:
        made = _model(materials)(folder)
        names = list(load_file(folder / "t5/model.safetensors"))
        (folder / "t5/model.safetensors").rename(folder / "t5/one.safetensors")
        index = {"metadata": {}, "weight_map": {name: "one.safetensors" for name in names}}
        (folder / "t5/model.safetensors.index.json").write_text(json.dumps(index))
        return made

    return make


def _configs(materials: Materials) -> Iterator[Case]:
    path, good = "t5/config.json", _model(materials)
    for key in _SIZES:
        yield from edited_json("model", path, good, [key], _SIZES_BAD)
    for key in _BUCKETS:
        yield from edited_json("model", path, good, [key], NO_WHOLE | {"none": 0, "negative": -1})
    for key in ("layer_norm_epsilon", "dropout_rate"):
        yield from edited_json("model", path, good, [key], NO_NUMBER | {"negative": -1, "large": 10})
    for key in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        yield from edited_json("model", path, good, [key], NO_WHOLE | {"negative": -1, "beyond": 10**6})
    yield from edited_json("model", path, good, ["feed_forward_proj"], NO_TEXT | {"unknown": "gated-nothing"})
    yield from edited_json("model", path, good, ["tie_word_embeddings"], NO_SWITCH)
    yield from edited_json("model", path, good, ["model_type"], NO_TEXT | {"bert": "bert", "gone": GONE})
    yield from edited_json("model", path, good, ["auto_map"], {"code": {"AutoModel": "own.Model"}})
    yield from edited_json("model", path, good, ["quantization_config"], {"any": {"bits": 4}})
    ways = [(way, spoil) for way, spoil in (ANY_FILE | TEXT_FILE | JSON_FILE).items()]
    yield from spoilt_files("model", path, good, dict(ways))
    settings = {
        way: spoil for way, spoil in ways if way not in ("removed", "folder", "dangling", "loop", "device", "pipe")
    }
    yield from spoilt_files("model", "t5/tokenizer_config.json", good, settings)


def _tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Spoil:
    def spoil(path: Path) -> None:
        tensors = change(load_file(path))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})

    return spoil


_Q = "encoder.block.0.layer.0.SelfAttention.q.weight"
_CHANGES: dict[str, Spoil] = {
    "a tensor less": _tensors(lambda t: {name: v for name, v in t.items() if name != _Q}),
    "a tensor more": _tensors(lambda t: t | {"own.weight": torch.zeros(2)}),
    "another shape": _tensors(lambda t: t | {_Q: t[_Q][:-1]}),
    "nan": _tensors(lambda t: t | {_Q: t[_Q] * float("nan")}),
    "inf": _tensors(lambda t: t | {_Q: t[_Q] / 0}),
    "bool": _tensors(lambda t: t | {_Q: t[_Q] > 0}),
    "whole": _tensors(lambda t: t | {_Q: t[_Q].long()}),
    "bytes": _tensors(lambda t: t | {_Q: t[_Q].to(torch.uint8)}),
    "complex": _tensors(lambda t: t | {_Q: t[_Q].to(torch.complex64)}),
    "empty": _tensors(lambda t: t | {_Q: t[_Q][:0]}),
    "scalar": _tensors(lambda t: t | {_Q: torch.tensor(1.0)}),
}


def _weights(materials: Materials) -> Iterator[Case]:
    file = "t5/model.safetensors"
    yield from spoilt_files(
        "model", file, _model(materials), {k: v for k, v in ANY_FILE.items() if k in _THERE}, WEIGHTS_FILE
    )
    for case in spoilt_files("model", file, _model(materials), _CHANGES):
        yield Case(case.name, case.make, ("t5", "own.weight" if "more" in case.name else _Q))
    pickled = {k: v for k, v in ANY_FILE.items() if k in _THERE} | {
        k: WEIGHTS_FILE[k] for k in ("cut", "short", "text")
    }
    yield from spoilt_files("model", "t5/pytorch_model.bin", _pickled(materials), pickled, _PICKLES)
    index, good = "t5/model.safetensors.index.json", _sharded(materials)
    shard = {"list": [], "number": 3, "gone": GONE, "unknown": {"a": "none.safetensors"}, "numbers": {"a": 3}}
    shard |= {"nul": {"a": "a\0b"}, "long": {"a": "a" * 300}}
    for case in edited_json("model", index, good, ["weight_map"], shard):
        yield Case(case.name, case.make, ("model.safetensors.index.json",))
    yield from spoilt_files("model", index, good, TEXT_FILE, JSON_FILE)
    for kept, words in (("config.json", ("config.json",)), ("tokenizer.json", ("t5", "tokenizer"))):
        yield from (
            Case(f"model/no {kept}", case.make, words)
            for case in spoilt_files("model", f"t5/{kept}", _model(materials), {"removed": ANY_FILE["removed"]})
        )
    spoils = (
        {k: ANY_FILE[k] for k in ("empty", "noise")}
        | TEXT_FILE
        | {k: JSON_FILE[k] for k in ("cut", "list", "deep", "number")}
    )
    for case in spoilt_files("model", "t5/tokenizer.json", _model(materials), spoils):
        yield Case(case.name, case.make, ("t5", "tokenizer"))


_THERE = ("empty", "noise", "grown", "device", "pipe")  # a removed file is another's turn to be read


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch run-by-a-pickle",)


def _saved(content: Any) -> Spoil:
    return lambda path: torch.save(content, path)


def _pickle(content: Any) -> Spoil:
    import pickle

    def spoil(path: Path) -> None:
        path.write_bytes(pickle.dumps(content))

    return spoil


_PICKLES: dict[str, Spoil] = {
    "code": _saved({"a": _Code()}),
    "plain code": _pickle(_Code()),
    "list": _saved([torch.zeros(2)]),
    "numbers": _saved({"a": 3}),
    "nothing": _saved({}),
    "text": _saved("text"),
    "none": _saved(None),
}
_PROMPTS: dict[str, Any] = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "meta": lambda: torch.empty(4, 8, device="meta"),
    "complex": lambda: torch.zeros(4, 8, dtype=torch.complex64),
    "bool": lambda: torch.ones(4, 8, dtype=torch.bool),
    "whole": lambda: torch.ones(4, 8, dtype=torch.int64),
    "flat": lambda: torch.ones(8),
    "stacked": lambda: torch.ones(2, 4, 8),
    "none": lambda: torch.ones(0, 8),
    "no width": lambda: torch.ones(4, 0),
    "nan": lambda: torch.full((4, 8), float("nan")),
    "inf": lambda: torch.full((4, 8), float("inf")),
    "expanded": lambda: torch.ones(1, 1).expand(10**6, 10**6),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(4, 8), 0.1, 0, torch.qint8),
    "two": lambda: {"a": torch.ones(4, 8), "b": torch.ones(4, 8)},
    "nested": lambda: {"a": {"b": torch.ones(4, 8)}},
    "list": lambda: [torch.ones(4, 8)],
    "number": lambda: 3,
    "text": lambda: "text",
    "no keys": lambda: {},
    "code": lambda: {"a": _Code()},
    "another width": lambda: torch.ones(4, 8),
}


def _prompt(name: str, write: Callable[[Path], Any]) -> Make:
    def make(folder: Path) -> list[str]:
        write(folder / name)
        return ["store", "add", name, "--store=s", "--task=rte", "--model=mini"]

    return make


def _prompts() -> Iterator[Case]:
    for way, content in _PROMPTS.items():

        def write(path: Path, content: Any = content) -> None:
            torch.save(content(), path)

        wanted = ("rte-m4", "d_model") if way == "another width" else ("own.pt",)
        yield Case(f"prompt/pt: {way}", _prompt("own.pt", write), wanted)
    good = _prompt("own.pt", lambda path: torch.save(torch.ones(4, 192), path))
    yield from spoilt_files("prompt", "own.pt", good, ANY_FILE, WEIGHTS_FILE, {"plain code": _pickle(_Code())})
    tensors = _prompt("own.safetensors", lambda path: save_file({"a": torch.ones(4, 192)}, path))
    yield from spoilt_files("prompt", "own.safetensors", tensors, ANY_FILE, WEIGHTS_FILE)
    for name in ("own.txt", "own.npy", "own"):
        yield Case(f"prompt/{name}", _prompt(name, lambda path: torch.save(torch.ones(4, 192), path)), (name, ".pt"))
    for flag, text in {
        "name": ("", "a/b", "..", "a" * 300, "a\0"),
        "task": ("", "a/b", "a\0", "a" * 300),
    }.items():
        for value in text:

            def make(folder: Path, flag: str = flag, value: str = value) -> list[str]:
                return [*(part for part in good(folder) if f"--{flag}=" not in part), f"--{flag}={value}"]

            yield Case(f"prompt/--{flag}={value[:9]!r}", make, (value[:3].replace("\0", "\\x00"), flag))


def _adapter(**changes: object) -> Make:
    def make(folder: Path) -> list[str]:
        peft_adapter(folder / "adapter", torch.ones(4, 192), **({"base_model_name_or_path": "mini"} | changes))
        return ["store", "add", "adapter", "--store=s", "--task=rte", "--model=mini"]

    return make


def _adapters() -> Iterator[Case]:
    good, path = _adapter(), "adapter/adapter_config.json"
    yield from spoilt_files("adapter", path, good, ANY_FILE, TEXT_FILE, JSON_FILE)
    whole = NO_WHOLE | {"none": 0, "negative": -1, "more": 5}
    for key in ("num_virtual_tokens", "num_transformer_submodules", "token_dim"):
        for case in edited_json("adapter", path, good, [key], whole):
            if "transformer_submodules=none" not in case.name and "submodules=more" not in case.name:
                yield Case(case.name, case.make, ("adapter",))
    yield from edited_json("adapter", path, good, ["peft_type"], NO_TEXT | {"gone": GONE})
    for case in edited_json("adapter", path, good, ["peft_type"], {"lora": "LORA", "prefix": "PREFIX_TUNING"}):
        yield Case(case.name, case.make, ("adapter_config.json", "PROMPT_TUNING"))
    yield from edited_json("adapter", path, good, ["base_model_name_or_path"], NO_TEXT)
    weights = {k: v for k, v in ANY_FILE.items() if k not in ("folder",)}
    yield from spoilt_files("adapter", "adapter/adapter_model.safetensors", good, weights, WEIGHTS_FILE)


def cases(materials: Materials) -> Iterator[Case]:
    """Bad model folders, prompts and adapters."""
    yield from _configs(materials)
    yield from _weights(materials)
    yield from _prompts()
    yield from _adapters()


def sound(materials: Materials) -> Iterator[Case]:
    """The same, with nothing wrong."""
    yield Case("model/safetensors", _model(materials), ())
    yield Case("model/pickled", _pickled(materials), ())
    yield Case("model/shards", _sharded(materials), ())
    yield Case("prompt/pt", _prompt("own.pt", lambda path: torch.save(torch.ones(4, 192), path)), ())
    yield Case("adapter", _adapter(), ())
