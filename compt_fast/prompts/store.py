"""The prompt store: a folder of trained prompts, of one task or of several that share it, to start others from.

An entry is a folder of its name, an artifact of the kind `prompt` (`compt_fast.prompts.artifact`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from compt_fast.config.choices import FITS
from compt_fast.prompts.artifact import (
    MANIFEST,
    About,
    RunPrompts,
    TextFormat,
    TrunkId,
    check_trunk,
    load_prompts,
    read_manifest,
    save_prompts,
)
from compt_fast.prompts.shape import PromptShape
from compt_fast.prompts.tensors import sha256_of
from compt_fast.tasks.table import Task
from compt_fast.utils.errors import InputError, unknown
from compt_fast.utils.files import clean, remove_folder
from compt_fast.utils.locks import locked
from compt_fast.utils.names import check_name, is_name

LOCK = ".lock"
MOST_VALUES = 2**26  # of a prompt: as many as 65,536 tokens of width 1024


@dataclass(frozen=True)
class StoredPrompt:
    """One entry. `values` (m, d) fp32, which a prompt encoder of the kind `encoder` made; `score` is {"metric", "value"
    in percent} on the task, where known; `training` says how it was trained or where it came from, `text` what it was
    trained to read and write, and `definition` what the task is, where that is known. `others` are the tasks that share
    it, with what they are. `after` are the tasks behind whose prompts it was trained to stand, the latest last.
    """

    name: str
    task: str
    trunk: TrunkId
    values: Tensor
    encoder: str = "none"
    score: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    text: TextFormat = field(default_factory=TextFormat)
    definition: Task | None = None
    others: Mapping[str, Task | None] = field(default_factory=dict)
    after: tuple[str, ...] = ()

    @classmethod
    def of(cls, prompts: RunPrompts, about: About, what: str) -> StoredPrompt:
        """The entry that an artifact holds; `InputError` that begins with `what` for values that are no prompt."""
        task, *others = about.tasks
        return cls(
            name=about.name,
            task=task,
            trunk=about.trunk,
            values=as_prompt(prompts.tensors["targets"][0], what),
            encoder=prompts.shape.encoder,
            score=about.score,
            training=about.training,
            created=about.created,
            text=about.text,
            definition=about.definitions.get(task),
            others={name: about.definitions.get(name) for name in others},
            after=about.source_tasks or (),
        )

    def artifact(self) -> tuple[RunPrompts, About]:
        """The prompt as an artifact."""
        shared = len(self.others) > 0
        kind = ("mst", len(self.tasks), 1, False) if shared else ("pt", 1, 0, True)
        shape = PromptShape(*kind, self.length, self.d_model, encoder=self.encoder)
        definitions = {self.task: self.definition, **self.others}
        about = About(
            kind="prompt",
            name=self.name,
            tasks=self.tasks,
            trunk=self.trunk,
            text=self.text,
            source_tasks=self.after or None,
            definitions={name: task for name, task in definitions.items() if task is not None},
            training=self.training,
            score=self.score,
            created=self.created,
        )
        return RunPrompts(shape, {"targets": self.values.expand(shape.tasks, -1, -1)}), about

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the prompt is of."""
        return (self.task, *self.others)

    @property
    def length(self) -> int:
        """Prompt tokens m."""
        return self.values.shape[0]

    @property
    def d_model(self) -> int:
        """Width d."""
        return self.values.shape[1]

    @property
    def sha256(self) -> str:
        """Hash of the values' bytes, in hexadecimal."""
        return sha256_of({"prompt": self.values})

    def check(self, trunk: TrunkId, d_model: int) -> None:
        """Raise `InputError` unless the prompt belongs to this trunk (`check_trunk`)."""
        check_trunk(f"stored prompt {self.name}", self.trunk, self.d_model, trunk, d_model)


class PromptStore:
    """The prompts in a folder, which is made by the first one that is added."""

    def __init__(self, folder: Path) -> None:
        """Raises `InputError` where `folder` is a file."""
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--store {folder} is a file; name a folder")
        self.folder = folder

    def names(self) -> list[str]:
        """The entries, damaged ones too, in alphabetical order."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and is_name(p.name))

    def load(self, name: str) -> StoredPrompt:
        """An entry, read and checked.

        Raises `InputError` that names the file and what is wrong: no such entry, no manifest or one
        that was edited, a truncated or changed tensor.
        """
        folder = self._entry(name)
        prompts, about = load_prompts(folder, "prompt")
        _check_own_name(folder, about.name)
        return StoredPrompt.of(prompts, about, str(folder))

    def manifest(self, name: str) -> dict[str, Any]:
        """What stands in an entry's manifest, checked; `InputError` as of `load`."""
        folder = self._entry(name)
        manifest = read_manifest(folder, "prompt")
        _check_own_name(folder, manifest["name"])
        return manifest

    def _entry(self, name: str) -> Path:
        if name not in self.names():
            raise unknown(f"prompt in the store {self.folder}", name, self.names())
        return self.folder / name

    def add(self, prompt: StoredPrompt, *, replace: bool = False) -> None:
        """Write an entry, atomically; with `replace`, in the place of one of that name.

        Raises `InputError` for a name that is taken or no file name, for values that are no prompt
        or not finite, and where the folder cannot be written.
        """
        check_name(prompt.name, "a stored prompt")
        prompt = dataclasses.replace(prompt, values=as_prompt(prompt.values, f"stored prompt {prompt.name}"))
        with self._alone():
            if prompt.name in self.names() and not replace:
                raise InputError(
                    f"the store {self.folder} has a prompt {prompt.name!r}; remove it first, or name another"
                )
            save_prompts(self.folder / prompt.name, *prompt.artifact())

    def keep(self, prompt: StoredPrompt) -> None:
        """Write an entry, unless the store has it: the same values, or those that another job has trained with the
        same settings meanwhile. Raises `InputError` as of `add`, and where the name is another prompt's.
        """
        check_name(prompt.name, "a stored prompt")
        with self._alone():
            if prompt.name not in self.names():
                save_prompts(self.folder / prompt.name, *prompt.artifact())
                return
            there = self.load(prompt.name)
        alike = there.training == prompt.training and there.trunk == prompt.trunk and there.text.agrees(prompt.text)
        if {*there.tasks} != {*prompt.tasks} or not (there.sha256 == prompt.sha256 or alike):
            raise InputError(
                f"the store {self.folder} has another prompt {prompt.name!r} now, which was trained otherwise; "
                "remove it from there and go on with this job, or begin one with another --store"
            )

    def tidy(self) -> None:
        """Remove what a process that died while it wrote left in the folder: half an entry, its lock. Waits for one
        that lives. Raises `InputError` where the folder cannot be written.
        """
        if (self.folder / LOCK).exists():
            with self._alone():
                pass

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While entered no other process writes to the store, which is made if it is not there, and cleaned up."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / LOCK, wait=True):
                clean(self.folder, is_name)
                yield
        except (OSError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"--store {self.folder}: cannot be written ({why})") from None

    def remove(self, name: str) -> None:
        """Delete an entry, damaged or not; of a link the link alone. `InputError` if there is none of that name, or
        it holds a folder, which no entry does.
        """
        entry = self._entry(name)
        if not entry.is_symlink() and any(part.is_dir() and not part.is_symlink() for part in entry.iterdir()):
            raise InputError(f"{entry}: holds a folder, as no entry of a store does: remove it yourself")
        with self._alone():
            remove_folder(entry)


def as_prompt(values: Tensor, what: str) -> Tensor:
    """`values` as a contiguous fp32 tensor (m, d) on the CPU, which holds bf16 and fp16 exactly.

    Raises `InputError` that begins with `what` for another shape, numbers that are no floats, and
    values that are not finite.
    """
    if values.layout is not torch.strided or values.device.type == "meta":
        raise InputError(f"{what}: a {values.layout} tensor on {values.device}; a prompt is a dense one with values")
    if values.numel() > MOST_VALUES:
        raise InputError(
            f"{what}: {tuple(values.shape)} are {values.numel():,} values; a prompt has up to {MOST_VALUES:,}"
        )
    if values.dim() != 2 or 0 in values.shape or not values.is_floating_point():
        raise InputError(
            f"{what}: a prompt is a float tensor (tokens, d_model), not {values.dtype} of shape {tuple(values.shape)}"
        )
    own = values.detach().to("cpu", torch.float32).contiguous()
    if not bool(own.isfinite().all()):
        raise InputError(f"{what}: holds values that are not finite")
    return own


def fit_length(prompt: StoredPrompt, length: int, how: str) -> Tensor:
    """The values of a stored prompt (m, d) brought to `length` tokens.

    `first` takes the first ones; `mean-pool` the means of `length` runs of neighbours; `repeat`
    begins anew at the end. The choice is ours; nothing in the papers compares lengths.

    Raises `InputError` where the prompt is too short for `first` and `mean-pool`, or too long for
    `repeat`.
    """
    if how not in FITS:
        raise unknown("way to fit a prompt's length", how, FITS)
    own, values = prompt.length, prompt.values
    if own == length:
        return values
    if (how == "repeat") != (own < length):
        other = "repeat" if own < length else "first or mean-pool"
        raise InputError(
            f"stored prompt {prompt.name} has {own} tokens and {length} are needed, which --fit-length {how} cannot "
            f"give; take {other}"
        )
    if how == "first":
        return values[:length].clone()
    if how == "repeat":
        return values.repeat(math.ceil(length / own), 1)[:length].clone()
    return adaptive_avg_pool1d(values.T[None], length)[0].T.contiguous()


def _check_own_name(folder: Path, name: str) -> None:
    """Raise `InputError` where the entry in a folder says that it is another's."""
    if name != folder.name:
        raise InputError(f"{folder / MANIFEST}: its name is {name!r}, but it stands in a folder called {folder.name!r}")
