"""The tasks that a server answers: read at its start, added and removed while it runs."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from compt_fast.config.job import JobSettings
from compt_fast.prediction.belonging import Belonging
from compt_fast.prediction.predictor import Predictor
from compt_fast.prediction.prompts import TaskPrompt, read_all
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.tasks.table import Task
from compt_fast.utils.errors import InputError, shown, unknown
from compt_fast.utils.inputs import check_path

MOST_FILES = 10_000  # of a folder that a task is added from


class UnknownTask(InputError):
    """No task of that name is served."""


class Served:
    """The tasks of a server. `predictor` is the set of them at a moment, and is never changed: adding and removing puts
    another one in its place, so that whoever holds one answers by it whatever happens meanwhile.
    """

    def __init__(self, predictor: Predictor, root: Path | None = None, known: Sequence[Task] = ()) -> None:
        """`root` is the folder below which prompts to add lie, None where none can be; `known` are tasks of one's own.

        Raises `InputError` where it is no folder.
        """
        if root is not None and not root.is_dir():
            raise InputError(f"--artifacts-root {root}: no such folder")
        self._root = None if root is None else root.resolve()
        self._known = known
        self._lock = threading.Lock()  # of adding and removing
        self._predictor = _with(predictor, _in_memory(predictor.prompts))
        trunk = predictor.trunk
        unnamed = JobSettings(model=trunk.name, device=trunk.device.type, prompt_position=trunk.prompt_position)
        self._belonging = predictor.belonging or Belonging(trunk, unnamed, named=False)

    @property
    def predictor(self) -> Predictor:
        """What answers now."""
        return self._predictor

    def add(self, name: str, path: str, run: str | None = None) -> tuple[TaskPrompt, bool]:
        """Serve the task `name` with the prompts at `path` below the root, in the place of those it may have had; its
        prompt, and whether the task is new. `run` as of `compt_fast.load`.

        Raises `InputError` for a path that leads out of the root, and for prompts that are damaged, of another trunk,
        of no such task, or two of it; nothing has changed then.
        """
        folder = self._below_root(path)
        new = _in_memory(read_all([folder], run, name, self._known))
        with self._lock:
            self._check(new[name])
            before = self._predictor
            self._predictor = _with(before, {**before.prompts, **new})
            return new[name], name not in before.prompts

    def remove(self, name: str) -> None:
        """Serve the task no more. Raises `UnknownTask`."""
        with self._lock:
            before = self._predictor
            if name not in before.prompts:
                raise UnknownTask(str(unknown("task", name, before.prompts)))
            self._predictor = _with(before, {own: one for own, one in before.prompts.items() if own != name})

    def _below_root(self, path: str) -> Path:
        """The folder that is meant, whose files all lie below the root, wherever links lead."""
        if self._root is None:
            raise InputError("tasks can be added only where the server was started with --artifacts-root")
        check_path(path, "path")
        found = Path(os.path.realpath(self._root / path))
        outside = InputError(f"path {shown(path)} leads out of the folder of artifacts")
        if not found.is_relative_to(self._root):
            raise outside
        if not found.is_dir():
            raise InputError(f"path {shown(path)}: no such folder below the folder of artifacts")
        count = 0
        for folder, folders, files in os.walk(found, followlinks=True):  # one that leads in a circle ends at the count
            count += len(folders) + len(files)
            if count > MOST_FILES:
                raise InputError(f"path {shown(path)} holds more than {MOST_FILES:,} files: name the prompts alone")
            for name in (*folders, *files):
                if not Path(os.path.realpath(os.path.join(folder, name))).is_relative_to(self._root):
                    raise outside
        return found

    def _check(self, one: TaskPrompt) -> None:
        """Raise `InputError` unless the trunk that is served is that of the prompt."""
        trunk = self._predictor.trunk
        if one.text.prompt_position != trunk.prompt_position:
            raise InputError(
                f"{one.where}: its prompt stands at the place {one.text.prompt_position!r}, but those that are served "
                f"at {trunk.prompt_position!r}"
            )
        self._belonging.check(one)


def _with(predictor: Predictor, prompts: Mapping[str, TaskPrompt]) -> Predictor:
    """Another predictor over the same trunk, of these prompts."""
    changed = copy.copy(predictor)
    changed.set(prompts)
    return changed


def _in_memory(prompts: Mapping[str, TaskPrompt]) -> dict[str, TaskPrompt]:
    """The same prompts in memory of their own: those just read may be maps of files, which others can cut or remove."""
    runs = {id(one.prompts): one.prompts for one in prompts.values()}
    copies = {key: RunPrompts(run.shape, {n: t.clone() for n, t in run.tensors.items()}) for key, run in runs.items()}
    return {name: replace(one, prompts=copies[id(one.prompts)]) for name, one in prompts.items()}
