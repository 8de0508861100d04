"""The prompt artifact: prompts on disk with all that it takes to use them, with no other file at hand.

A folder holds `manifest.json` and one file of tensors, in fp32. There are two kinds of it:

- `run`: the prompts of a run, one a task, with the parts that they are composed of; `prompts.safetensors`, in a run
  folder's `prompts/<run-id>/`;
- `prompt`: the prompt of one task, or the one that several tasks share, an entry of a store; `prompt.safetensors` with
  one tensor `prompt` (m, d).

Values are those that the trunk read, composed and after any prompt encoder, not the parameters that they came from,
so that a reload scores the same to the last bit. The manifest says:

    format, kind, name    2; "run" or "prompt"; the run's id or the entry's name
    tasks                 their names, in the order of every task axis
    definitions           by name, of those that are known: the task in the words of a task file, with `input`, how a
                          row becomes text, and `label_texts`, all that the trunk is to write
    source_tasks          the task of each source prompt that started from a stored one, else null; of a prompt, the
                          tasks whose prompts stand behind it
    text                  `TextFormat`: prefix, place of the prompt, truncation, label words
    trunk                 `TrunkId` and d_model
    shape, tensors        `PromptShape`, and the shape of each tensor
    sha256                of the tensors (`sha256_of`)
    score                 of a prompt: {"metric", "value" in percent} on its task, where known
    training              how it was trained ("config": `RunConfig`), or where it came from
    created               when it was written
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from compt_fast.config.choices import LABEL_MODES, PROMPT_POSITIONS
from compt_fast.kernels import moved
from compt_fast.prompts.compose import Composition, compose
from compt_fast.prompts.former import present_manifest
from compt_fast.prompts.parameters import mixing_parameters
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
from compt_fast.prompts.tensors import read_safetensors, sha256_of
from compt_fast.tasks.table import Task
from compt_fast.tasks.text import input_text, label_texts
from compt_fast.tasks.user import defined_task, definition
from compt_fast.utils.errors import InputError, shown, unknown
from compt_fast.utils.files import new_folder, write_json
from compt_fast.utils.inputs import check_type, dataclass_from, read_object
from compt_fast.utils.names import check_name

_PARTS = ("targets", "sources", "privates", "weights", "gates")
FORMAT = 2
MANIFEST = "manifest.json"
FILES = {"run": "prompts.safetensors", "prompt": "prompt.safetensors"}
"""The kinds of artifact, and the file of the tensors of each."""
LARGEST = {"run": 2**36, "prompt": 2**30}  # bytes of that file
_KEYS: dict[str, Any] = {
    "format": int,
    "kind": str,
    "name": str,
    "tasks": list,
    "definitions": dict,
    "source_tasks": list | None,
    "text": dict,
    "trunk": dict,
    "shape": dict,
    "tensors": dict,
    "sha256": str | None,  # null only of runs of format 1
    "score": dict | None,
    "training": dict,
    "created": str,
}


@dataclass(frozen=True)
class TrunkId:
    """Which trunk a prompt belongs to: what the user called it and, where its weights were at hand,
    their SHA-256 in the precision `dtype` ("fp32" or "bf16"), and of which `family` it is ("t5", "gpt2"), which follows
    from them.
    """

    name: str
    sha256: str | None = None
    dtype: str | None = None
    family: str | None = field(default=None, compare=False)

    @property
    def called(self) -> str:
        """Its name, with its family where that is known."""
        return self.name if self.family is None else f"{self.name} of the family {self.family}"


@dataclass(frozen=True)
class TextFormat:
    """How a row becomes what the trunk reads and writes; None where that is unknown, as of another program's prompt.

    `prefix` is whether the task's name begins the text, of which `max_source_length` tokens are kept; the prompt
    stands before it or behind it. Raises `InputError` for an unknown word and for a length below 1.
    """

    prefix: bool | None = None
    prompt_position: str | None = None
    max_source_length: int | None = None
    label_mode: str | None = None

    def __post_init__(self) -> None:
        for kind, value, choices in (
            ("prompt_position", self.prompt_position, PROMPT_POSITIONS),
            ("label_mode", self.label_mode, LABEL_MODES),
        ):
            if value is not None and value not in choices:
                raise unknown(kind, value, choices)
        if self.max_source_length is not None and self.max_source_length < 1:
            raise InputError(f"max_source_length is {self.max_source_length}; it must be at least 1")

    def agrees(self, other: TextFormat) -> bool:
        """Whether prompts of both answer the same texts with the same words, as far as both know. Where a long text
        is cut makes no other prompt.
        """
        keys = [each.name for each in fields(self) if each.name != "max_source_length"]
        pairs = ((getattr(self, key), getattr(other, key)) for key in keys)
        return all(None in pair or pair[0] == pair[1] for pair in pairs)


@dataclass(frozen=True)
class About:
    """What an artifact says of its prompts, beside their values and sizes; the head of this file explains each."""

    kind: str
    name: str
    tasks: tuple[str, ...]
    trunk: TrunkId
    text: TextFormat = field(default_factory=TextFormat)
    definitions: Mapping[str, Task] = field(default_factory=dict)
    source_tasks: tuple[str, ...] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] | None = None
    created: str = ""


@dataclass(frozen=True)
class RunPrompts:
    """Composition of one run (its run axis is 1) and the small parameters that evaluation needs.

    `tensors` holds the composition's parts that exist (`targets` (T, L, d), `sources` (N, m, d),
    `privates` (T, m, d), `weights`, `gates`), and `param.*`: the parameters that mix them. `mask` switches some off
    where a router weighs them for each row; elsewhere the tensors are masked.
    """

    shape: PromptShape
    tensors: dict[str, Tensor]
    mask: Mask | None = None

    @classmethod
    def of(cls, shape: PromptShape, composition: Composition, params: dict[str, Tensor]) -> RunPrompts:
        """Copies, on the CPU, of a composition and of the parameters beside it, both of one run."""
        tensors = {part: getattr(composition, part) for part in _PARTS}
        tensors |= {f"param.{name}": params[name] for name in mixing_parameters(shape)}
        kept = {name: t[0].detach().to("cpu", copy=True).contiguous() for name, t in tensors.items() if t is not None}
        return cls(shape, kept)

    def masked(self, mask: Mask) -> RunPrompts:
        """The prompts with some switched off, composed anew from the parts (ComPT's and CrossPT's
        ablations). Raises `InputError` for a mask of another number of sources.
        """
        tokens = {"source_tokens": "sources", "private_tokens": "privates"}
        params = {name: self.tensors[part][None] for name, part in tokens.items() if part in self.tensors}
        kept = {name: t for name, t in self.tensors.items() if name.startswith("param.")}
        params |= {name.removeprefix("param."): t[None] for name, t in kept.items()}
        encoded = replace(self.shape, encoder="none", encoded="both")
        found = RunPrompts.of(self.shape, compose(params, encoded, mask=mask), params)
        return replace(found, mask=mask)

    def composed(self, device: torch.device) -> tuple[Composition, dict[str, Tensor]]:
        """The composition and the parameters beside it, of one run, on a device: what `compose_rows` takes."""
        wide = {name: moved(t[None], device) for name, t in self.tensors.items()}
        params = {name.removeprefix("param."): t for name, t in wide.items() if name.startswith("param.")}
        return Composition(**{part: wide.get(part) for part in _PARTS}), params


def save_prompts(folder: Path, prompts: RunPrompts, about: About) -> None:
    """Write an artifact, atomically; of the kind `prompt` the one target prompt alone."""
    with new_folder(folder) as temporary:
        save_file(_tensors(prompts, about), temporary / FILES[about.kind])
        write_json(temporary / MANIFEST, manifest_of(prompts, about))


def _tensors(prompts: RunPrompts, about: About) -> dict[str, Tensor]:
    return prompts.tensors if about.kind == "run" else {"prompt": prompts.tensors["targets"][0]}


def manifest_of(prompts: RunPrompts, about: About) -> dict[str, Any]:
    """What the manifest of an artifact says, JSON-ready."""
    tensors, shape = _tensors(prompts, about), prompts.shape
    return {
        "format": FORMAT,
        "kind": about.kind,
        "name": about.name,
        "tasks": about.tasks,
        "definitions": {name: _definition(task, about.text) for name, task in about.definitions.items()},
        "source_tasks": about.source_tasks,
        "text": asdict(about.text),
        "trunk": asdict(about.trunk) | {"d_model": shape.d_model},
        "shape": asdict(shape),
        "tensors": {name: list(t.shape) for name, t in tensors.items()},
        "sha256": sha256_of(tensors),
        "score": about.score,
        "training": about.training,
        "created": about.created or datetime.now(UTC).isoformat(timespec="seconds"),
    }


def load_prompts(folder: Path, kind: str = "run") -> tuple[RunPrompts, About]:
    """The prompts of an artifact, and what it says of them; those of the kind `prompt` as of a run `pt` of one task, or
    `mst` of several.

    Raises `InputError` that names the file when one is missing, damaged or does not fit the other.
    """
    manifest, weights = read_manifest(folder, kind), folder / FILES[kind]
    return described(manifest, read_safetensors(weights, LARGEST[kind]), folder / MANIFEST, weights)


def described(
    manifest: dict[str, Any], tensors: dict[str, Tensor], path: Path, weights: Path
) -> tuple[RunPrompts, About]:
    """As `load_prompts`, of a manifest that `check_manifest` made, which stands in `path`, and of the tensors that are
    said to be its own, which stand in `weights`. Raises `InputError` as it does.
    """
    kind = manifest["kind"]
    shape = dataclass_from(PromptShape, manifest["shape"], f"{path}: shape")
    about = _about(manifest, shape, path)
    expected = manifest["tensors"]
    found = {name: list(t.shape) for name, t in tensors.items()}
    if found != expected:
        raise InputError(f"{weights}: holds {shown(found, 400)}, but its manifest says {shown(expected, 400)}")
    sizes = _sizes(shape, kind)
    wrong = [name for name in expected if sizes.get(name, expected[name]) != expected[name]]
    whole = ("targets" in expected) != shape.per_row if kind == "run" else expected.keys() == sizes.keys()
    if kind == "run" and (shape.updates_inputs or shape.per_row):  # what evaluation computes with
        wrong += [name for name in sizes if name.startswith("param.") and name not in expected]
    if wrong or not whole:
        raise InputError(f"{path}: its shape does not go with its tensors ({', '.join(wrong)})")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise InputError(f"{weights}: {name} is of {tensor.dtype}; prompts are of torch.float32")
    if manifest["sha256"] not in (None, digest := sha256_of(tensors)):
        raise InputError(
            f"{weights}: its values are not those its manifest was written for (sha256 {digest}, not "
            f"{shown(manifest['sha256'])})"
        )
    if kind == "prompt":
        tensors = {"targets": tensors["prompt"].expand(shape.tasks, -1, -1)}
    return RunPrompts(shape, tensors), about


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of an artifact of a kind, each key of its type; one of format 1 in the words of this one.

    Raises `InputError` that names the file, and what is missing or wrong in it.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(f"{path}: no such file; a folder of stored prompts holds a {MANIFEST}")
    return check_manifest(read_object(path, "a manifest of stored prompts"), kind, path)


def check_manifest(manifest: dict[str, Any], kind: str, path: Path) -> dict[str, Any]:
    """As `read_manifest`, of one that was read from `path`."""
    check_type(manifest.get("format"), int, f"{path}: not a manifest of stored prompts: format")
    if manifest["format"] == 1:
        manifest = present_manifest(manifest, kind, path)
    elif manifest["format"] != FORMAT:
        raise InputError(f"{path}: stored prompts of format {manifest['format']}, not {FORMAT}")
    for key, what in _KEYS.items():
        if key not in manifest:
            raise InputError(f"{path}: {key} is missing")
        check_type(manifest[key], what, f"{path}: {key}")
    if manifest["format"] == FORMAT:
        check_type(manifest["sha256"], str, f"{path}: sha256")
    if manifest["kind"] != kind:
        raise InputError(f"{path}: stored prompts of the kind {shown(manifest['kind'])}, not {kind!r}")
    for name in manifest["tasks"]:
        check_name(name, f"a task, in {path}: tasks")
    if kind == "prompt" and not manifest["tasks"]:
        raise InputError(f"{path}: tasks: a stored prompt is of one task or more, and none is named")
    for name in manifest["source_tasks"] or ():
        check_type(name, str, f"{path}: source_tasks: a name")
    for key, what in {"metric": str, "value": float}.items() if manifest["score"] is not None else ():
        check_type(manifest["score"].get(key), what, f"{path}: score: {key}")
    return manifest


def _about(manifest: dict[str, Any], shape: PromptShape, path: Path) -> About:
    """What a manifest that `read_manifest` checked says of its prompts."""
    tasks, trunk = tuple(manifest["tasks"]), dict(manifest["trunk"])
    if len(tasks) != shape.tasks and (tasks or manifest["format"] == FORMAT):  # early ones of format 1 name none
        raise InputError(f"{path}: tasks are {len(tasks)}, but its shape has {shape.tasks}")
    if trunk.pop("d_model", None) != shape.d_model:
        raise InputError(f"{path}: trunk: d_model must be that of its shape, {shape.d_model}")
    text = dataclass_from(TextFormat, manifest["text"], f"{path}: text")
    definitions = {}
    for name, entries in manifest["definitions"].items():
        where = f"{path}: definitions: {name}"
        definitions[name] = _defined(entries, text, where)
        if definitions[name].name != name or name not in tasks:
            raise InputError(f"{where}: of the task {definitions[name].name}, and the tasks are {', '.join(tasks)}")
    sources = manifest["source_tasks"]
    if manifest["kind"] == "run" and sources is not None and len(sources) != shape.sources:
        raise InputError(f"{path}: source_tasks are {len(sources)}, but its shape has {shape.sources} sources")
    return About(
        kind=manifest["kind"],
        name=manifest["name"],
        tasks=tasks,
        trunk=dataclass_from(TrunkId, trunk, f"{path}: trunk"),
        text=text,
        definitions=definitions,
        source_tasks=None if sources is None else tuple(sources),
        training=manifest["training"],
        score=manifest["score"],
        created=manifest["created"],
    )


def _definition(task: Task, text: TextFormat) -> dict[str, Any]:
    """A task's definition with what it makes of a row and of its labels, as far as that is known."""
    entries = definition(task)
    if text.prefix is not None:
        entries["input"] = input_text(task, [f"{{{column}}}" for column, _ in task.fields], prefix=text.prefix)
    if text.label_mode is not None:
        entries["label_texts"] = label_texts(task, text.label_mode)
    return entries


def _defined(entries: Any, text: TextFormat, where: str) -> Task:
    """The task that `_definition` wrote; `InputError` that begins with `where` for anything else."""
    check_type(entries, dict, where)
    made = ("input", "label_texts")
    task = defined_task({key: value for key, value in entries.items() if key not in made}, where)
    for key, value in _definition(task, text).items():
        if entries.get(key) != value:
            said = f"{key} is {shown(entries.get(key))}, but by its other keys it is {shown(value)}"
            raise InputError(f"{where}: {said}")
    return task


def _sizes(shape: PromptShape, kind: str) -> dict[str, list[int]]:
    """What each tensor of an artifact measures."""
    if kind == "prompt":
        one = "pt" if shape.tasks == 1 else "mst"
        return {"prompt": [shape.length, shape.d_model]} if shape.composition == one else {}
    return {
        "targets": [shape.tasks, shape.target_length, shape.d_model],
        "sources": [shape.sources, shape.length, shape.d_model],
        "privates": [shape.tasks, shape.length, shape.d_model],
        "weights": [shape.tasks, shape.n_weights],
        "gates": [shape.tasks, 2],
        **{f"param.{name}": list(one.size) for name, one in mixing_parameters(shape).items()},
    }


def check_trunk(what: str, own: TrunkId, width: int, trunk: TrunkId, d_model: int) -> None:
    """Raise `InputError` that begins with `what` unless prompts of the trunk `own` and of `width` belong to `trunk`.

    Hashes of different precisions say nothing of each other: compare those of one `dtype`. Of prompts without a hash
    only name and width can be compared.
    """
    if width != d_model:
        raise InputError(
            f"{what}: its d_model {width} does not fit trunk {trunk.called} of d_model {d_model}; it belongs to trunk "
            f"{own.called}"
        )
    if own.sha256 is None and own.name != trunk.name:
        raise InputError(
            f"{what} is said to belong to trunk {own.name} (its weights were not at hand when it was added), not to "
            f"{trunk.name}; if they are the same, add it again with --model {trunk.name}"
        )
    if own.sha256 not in (None, trunk.sha256):
        raise InputError(
            f"{what} belongs to trunk {own.called} (sha256 {own.sha256}), not to {trunk.called} (sha256 "
            f"{trunk.sha256}), whose weights differ"
        )
