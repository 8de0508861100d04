"""From a name or a folder to the trunk that was meant, and its tokenizer.

transformers fills gaps silently: a missing tensor becomes random, a missing head is tied to the
embeddings, a folder without a tokenizer gets an empty one. Each of these is an `InputError` here, and
no code that comes with a checkpoint is ever run: of pickled weights, which older checkpoints still
are, only plain tensors are unpickled.
"""

from __future__ import annotations

import hashlib
import pickle
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import torch

from compt_fast.models.config_keys import check_counts, check_settings, check_sizes
from compt_fast.models.families import ANY, T5, Families
from compt_fast.utils.errors import InputError, shown
from compt_fast.utils.hub import asked
from compt_fast.utils.inputs import check_file, check_path, read_document

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The weights, or the index of their shards; what stands first is taken.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
OTHER_TOKENIZERS = ("tokenizer.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt")
"""What those of other families than T5 may be made of, where there is no tokenizer.json."""
HUB_FILES = ["*.json", "model*.safetensors", *TOKENIZER_FILES[1:], *OTHER_TOKENIZERS]
PICKLED_HUB_FILES = [*HUB_FILES, "pytorch_model*.bin"]
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors says
MASKS = (".attn.bias", ".attention.bias", ".masked_bias", "position_ids")
"""Tensors of masks and places in older checkpoints, of any type; transformers makes its own."""
LARGEST = 2**40  # bytes of a file of weights
PATH_STARTS = (".", "/", "~")


class UnsupportedCheckpointError(InputError):
    """A checkpoint of a family, or with layers, that this engine does not compute; another may."""


def find_folder(name_or_dir: str) -> Path:
    """The checkpoint's folder: `name_or_dir` itself, else the hub's snapshot of that name.

    Raises InputError when there is neither such a folder nor such a name.
    """
    check_path(name_or_dir, "trunk")
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"trunk {name_or_dir!r} is a file; give the checkpoint's folder")
    if name_or_dir.startswith(PATH_STARTS) or name_or_dir.count("/") > 1:
        raise InputError(f"trunk {name_or_dir!r}: there is no such folder")
    with asked() as unreachable:
        return _snapshot(name_or_dir, unreachable)


def _snapshot(name: str, unreachable: str) -> Path:
    """The hub's snapshot of `name`, from the cache where it is there; `InputError` where it is not to be had."""
    from huggingface_hub import snapshot_download

    try:
        # The configuration first: what is no trunk is refused before gigabytes of it are fetched.
        read_config(Path(snapshot_download(name, allow_patterns=["config.json"])), ANY)
        folder = Path(snapshot_download(name, allow_patterns=HUB_FILES))
        if any((folder / name).is_file() for name in SAFETENSORS):
            return folder
        return Path(snapshot_download(name, allow_patterns=PICKLED_HUB_FILES))
    except InputError:
        raise
    except Exception as error:  # unrelated kinds: a bad name, network, rights, a full disk
        why = f"{unreachable}, and no copy is cached" if unreachable else brief(error)
        raise InputError(
            f"trunk {name!r} is no folder here and cannot be had from the hub: {why}; without a network, name a "
            "checkpoint's folder"
        ) from error


def load_checkpoint(
    folder: Path, dtype: torch.dtype, families: Families = T5
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen model on the CPU in evaluation mode, with SDPA attention where it has that; and its tokenizer.

    Raises InputError, naming file or tensor, for every folder that holds no whole checkpoint of one of `families`.
    """
    config = read_config(folder, families)
    stored = tensor_shapes(folder)
    if config["model_type"] in T5.classes():
        check_sizes(folder / "config.json", config, stored)
        if config.get("tie_word_embeddings") is False and "lm_head.weight" not in stored:
            raise InputError(f"{folder}: the weights lack lm_head.weight, which config.json does not tie")
    model = load_model(folder, families.classes()[config["model_type"]], dtype)
    tokenizer = load_tokenizer(folder, config)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocabulary:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, but the trunk embeds only"
            f" {vocabulary}; give the tokenizer that belongs to it"
        )
    return model, tokenizer


def read_config(folder: Path, families: Families = T5) -> dict[str, Any]:
    """`config.json` of a checkpoint of one of `families`.

    Raises InputError when it is missing or broken, UnsupportedCheckpointError when it is another family's.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"{folder}: no config.json; a trunk is a folder as transformers saves it")
    config = _read_object(file)
    family = config.get("model_type")
    _refuse_own_code(file, config)
    if not isinstance(family, str) or family not in families.classes():
        if isinstance(family, str) and family in ANY.classes():
            why = f"this engine runs a {families.text}; --engine auto finds the one for it"
        else:
            why = f"a trunk is a {ANY.text}"
        raise UnsupportedCheckpointError(f"{file}: model_type {shown(family)} is not supported; {why}")
    if "quantization_config" in config:
        raise InputError(f"{file}: the checkpoint is quantised (quantization_config); give it in its full precision")
    (check_settings if family in T5.classes() else check_counts)(file, config)
    return config


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors by name; InputError unless they lie in whole files of plain tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        check_file(file, LARGEST)
        shapes |= _safetensors_shapes(file) if file.suffix == ".safetensors" else _pickled_shapes(file)
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of `folder`, safetensors before pickled ones, as transformers
    takes them.

    Raises InputError where there are none, or not all that an index names.
    """
    file = next((folder / name for name in SAFETENSORS + PICKLED if (folder / name).is_file()), None)
    if file is None:
        raise InputError(
            f"{folder}: no weights; expected one of {', '.join(SAFETENSORS + PICKLED)} (no other kind is loaded)"
        )
    if file.suffix != ".json":
        return [file]
    shards = _read_object(file).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise InputError(f"{file}: no weight_map; the index of a sharded checkpoint names its files there")
    files = [folder / shard for shard in sorted(set(shards.values()))]
    for shard in files:
        check_path(shard, f"{file}: weight_map")
        if not shard.is_file():
            raise InputError(f"{file}: names {shard.name}, which is not there")
    return files


def _safetensors_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            parts = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  (no mapping)
            headers = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a whole safetensors file ({brief(error)})") from error
    for name, (dtype, _) in headers.items():
        _of_floats(file, name, dtype in FLOATS, dtype)
    return {name: shape for name, (_, shape) in headers.items()}


def _of_floats(file: Path, name: str, right: bool, dtype: object) -> None:
    """Raise `InputError` for a tensor that transformers would turn into floats, whatever its values mean."""
    if not right and not name.endswith(MASKS):
        raise InputError(f"{file}: tensor {name} holds values of {dtype}; weights are fp32, bf16 or fp16")


def _pickled_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        # Files from before torch 1.6 are no zip archives, and cannot be mapped.
        with warnings.catch_warnings(action="ignore"):  # of old protocols; what cannot be read is refused below
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except pickle.UnpicklingError as error:  # its text would have the user load the file regardless
        raise InputError(
            f"{file}: a pickle of something else than plain tensors, or broken; loading it could run any code,"
            " so it is not loaded: give the weights as model.safetensors"
        ) from error
    except Exception as error:  # broken files surface as whatever the parser of their format raises
        raise InputError(f"{file}: not a whole file of tensors ({brief(error)})") from error
    if (
        not isinstance(tensors, dict)
        or not tensors
        or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    ):
        raise InputError(f"{file}: holds other things than named tensors; give the trunk's state dict")
    for name, tensor in tensors.items():
        _of_floats(file, name, tensor.is_floating_point() and tensor.layout is torch.strided, tensor.dtype)
    return {str(name): tuple(tensor.shape) for name, tensor in tensors.items()}


def load_tokenizer(folder: Path, config: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder` (ByT5's needs no vocabulary); InputError when missing or broken."""
    from transformers import AutoTokenizer

    settings = folder / "tokenizer_config.json"
    named = _read_object(settings) if settings.is_file() else {}
    _refuse_own_code(settings, named)
    byte_level = "ByT5Tokenizer" in (named.get("tokenizer_class"), config.get("tokenizer_class"))
    files = TOKENIZER_FILES if config["model_type"] in T5.classes() else TOKENIZER_FILES + OTHER_TOKENIZERS
    found = next((name for name in files if (folder / name).is_file()), None)
    if not byte_level and found is None:
        raise InputError(f"{folder}: no tokenizer; expected one of {', '.join(files)}")
    if not byte_level and found == "spiece.model":
        _check_sentencepiece(folder / found)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a broken file surfaces as whatever the parser of its format raises
        raise InputError(f"{folder}: the tokenizer cannot be read ({brief(error)})") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no end-of-sequence token; T5's is </s>")
    if config["model_type"] in T5.classes() and tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
        _end_texts(tokenizer)
    if tokenizer.pad_token_id is None:  # nothing here reads it; other software pads its batches with it
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _end_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    """Put </s> behind every text, as T5 reads it and a tokenizer that is no T5's own may not say."""
    from tokenizers.processors import TemplateProcessing

    end = (str(tokenizer.eos_token), tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])


def load_model(folder: Path, class_name: str, dtype: torch.dtype) -> PreTrainedModel:
    """transformers' own class `class_name` with the weights of `folder`, frozen.

    Raises InputError for missing, unknown, misshapen and non-finite tensors.
    """
    import transformers

    try:
        with quiet_transformers():
            model, report = getattr(transformers, class_name).from_pretrained(
                folder,
                dtype=dtype,
                weights_only=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # so that they are reported with the others below
                output_loading_info=True,
            )
    except Exception as error:  # settings out of range raise whatever checks them
        raise InputError(f"{folder}: the trunk cannot be built ({brief(error)})") from error
    if report["mismatched_keys"]:
        name, stored, expected = sorted(report["mismatched_keys"])[0]
        raise InputError(
            f"{folder}: tensor {name} has shape {tuple(stored)}, but config.json asks for {tuple(expected)}"
        )
    for problem, names in (
        ("lack", report["missing_keys"]),
        ("hold unknown", report["unexpected_keys"]),
    ):
        if names:
            raise InputError(f"{folder}: the weights {problem} tensors: {_some(names)}")
    for name, weight in _weights(model):
        if not torch.isfinite(weight).all():
            raise InputError(f"{folder}: tensor {name} holds values that are not finite")
    return model.eval().requires_grad_(False)


def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of all weights of `model` (names, shapes, dtypes, bytes), in hexadecimal."""
    digest = hashlib.sha256()
    for name, weight in _weights(model):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """All that a checkpoint stores of a model: its parameters, and the buffers that some have (BART's logits bias)."""
    yield from model.named_parameters()
    stored = model.state_dict()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in stored)


def _refuse_own_code(file: Path, settings: dict[str, Any]) -> None:
    if "auto_map" in settings:
        raise InputError(
            f"{file}: asks to run code of its own (auto_map), which is never done; where transformers' own class "
            "of that name does the same, take auto_map out of the file"
        )


def _check_sentencepiece(file: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:  # which transformers would take for another format
        raise InputError(f"{file}: not a whole sentencepiece model") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No warnings and progress bars of transformers within: what matters is an error here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _read_object(file: Path) -> dict[str, Any]:
    value = read_document(file)
    if not isinstance(value, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def brief(error: Exception) -> str:
    """The error on one line, its end cut off where it is long."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")


def _some(names: set[str], limit: int = 3) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
