"""Prompts to predict with, from wherever they lie: a run, a run folder, a store, an export, a PEFT adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from compt_fast.config.job import JobSettings
from compt_fast.prompts.artifact import (
    FILES,
    MANIFEST,
    About,
    RunPrompts,
    TextFormat,
    TrunkId,
    load_prompts,
    read_manifest,
)
from compt_fast.prompts.foreign import ADAPTER, VOCABULARY, read_exported, read_foreign
from compt_fast.prompts.shape import PromptShape
from compt_fast.prompts.store import PromptStore, StoredPrompt
from compt_fast.runs.loaded import stored_runs
from compt_fast.tasks.table import TASKS, Task
from compt_fast.utils.errors import InputError, unknown
from compt_fast.utils.words import listed

USUAL_TEXT = TextFormat(JobSettings.prefix, JobSettings.prompt_position, JobSettings.max_source_length, "natural")
"""What a prompt that does not say how it was trained is taken to read and write: what `train` does without flags."""


@dataclass(frozen=True)
class TaskPrompt:
    """The prompt of one task: the task `index` among those of `prompts`, which were trained on `trunk`.

    `text` lacks nothing. `where` is the folder that it was read from, for messages, `about` what is said there of all
    its prompts. `beside` are the tasks that have a prompt there, at whose longest label `evaluate` stops reading what
    the trunk writes.
    """

    task: Task
    prompts: RunPrompts
    index: int
    text: TextFormat
    trunk: TrunkId
    where: str
    about: About | None = None
    beside: tuple[Task, ...] = ()

    @property
    def d_model(self) -> int:
        """Width d."""
        return self.prompts.shape.d_model


def read_all(
    paths: Sequence[Path], run: str | None = None, task: str | None = None, known: Sequence[Task] = ()
) -> dict[str, TaskPrompt]:
    """The prompts that lie at `paths` by their tasks' names; arguments as of `read`.

    A path that is there may end in @NAME, which says of a run folder the run and of all else the task; `run` and `task`
    are then for the paths without it.

    Raises `InputError` for whatever `read` refuses, for two prompts of one task, and for prompts that no single trunk
    can read: of several trunks, or of several places in the text.
    """
    every = [one for path in paths for one in read(*_named_at(path, run, task), known)]
    places: dict[str, list[str]] = {}
    for one in every:
        places.setdefault(one.task.name, []).append(one.where)
    several = {name: where for name, where in places.items() if len(where) > 1}
    if several:
        said = "; of ".join(f"{name} in {listed(where)}" for name, where in several.items())
        name, (where, *_) = next(iter(several.items()))
        raise InputError(
            f"a task takes one prompt, and there are more of {said}: name for each task the one to take, as "
            f"{where}@{name}"
        )
    found = {one.task.name: one for one in every}
    if not found:
        raise InputError("no prompts are named")
    first = next(iter(found.values()))
    for one in found.values():
        _check_together(first, one)
    return found


def read(path: Path, run: str | None = None, task: str | None = None, known: Sequence[Task] = ()) -> list[TaskPrompt]:
    """The prompts in a run's folder, a run folder, a store, an export or an adapter's folder, one a task.

    `run` names one of a run folder's runs; without it there must be one run of each task. `task` is that of an adapter
    that does not say, and of other prompts the only one that is taken. `known` are tasks beside those of the table, for
    prompts that lack their task's definition.

    Raises `InputError` that names the folder and what is wrong with it.
    """
    exported = read_exported(path)
    if run is not None and (exported or not (path / "config.json").is_file()):
        raise InputError(
            f"{path}: a run ({run}) is named, and this is no run folder (it has no config.json of a job); beside "
            f"a run folder, name the run there: FOLDER@{run}"
        )
    if exported:
        found = [_of_entry(entry, path, known) for entry in exported]
    elif (path / MANIFEST).is_file():
        found = _of_artifact(path, known)
    elif (path / ADAPTER).is_file():
        return [_of_adapter(path, task, known)]
    elif (path / "config.json").is_file():
        found = [one for name in _runs(path, run) for one in _of_artifact(path / "prompts" / name, known)]
    elif path.is_dir() and PromptStore(path).names():
        found = _of_store(PromptStore(path), known)
    else:
        raise InputError(
            f"{path}: no prompts; name a run folder, RUN/prompts/<run-id>, a store, an export or a PEFT adapter"
        )
    every = tuple(one.task for one in found)
    found = [replace(one, beside=every) for one in found]
    if task is None:
        return found
    if task not in (names := dict.fromkeys(one.name for one in every)):
        raise unknown(f"task of {path}", task, names)
    return [one for one in found if one.task.name == task]


def _named_at(path: Path, run: str | None, task: str | None) -> tuple[Path, str | None, str | None]:
    """A path without its @NAME, and the run and the task that are taken there."""
    place, at, name = str(path).rpartition("@")
    if not at or not place or "/" in name or path.exists() or not Path(place).exists():
        return path, run, task
    return (Path(place), name, None) if _is_run_folder(Path(place)) else (Path(place), None, name)


def _is_run_folder(path: Path) -> bool:
    others = (MANIFEST, ADAPTER, VOCABULARY)
    return (path / "config.json").is_file() and not any((path / name).is_file() for name in others)


def _runs(folder: Path, run: str | None) -> list[str]:
    """The runs of a folder to take: the one that is named, or those of a method that trains each task apart; without a
    name all of them, which must be of different tasks.
    """
    names = stored_runs(folder)
    tasks = {name: read_manifest(folder / "prompts" / name, "run")["tasks"] for name in names}
    if run is not None:
        apart = [name for name in names if name in [f"{run}-{task}" for task in tasks[name]]]
        return stored_runs(folder, [run]) if run in names or not apart else apart
    owner: dict[str, str] = {}
    for name in names:
        for task in tasks[name]:
            if task in owner:
                raise InputError(
                    f"{folder}: {owner[task]} and {name} both have a prompt of the task {task}; say which run: "
                    f"{', '.join(names)}"
                )
            owner[task] = name
    return names


def _of_artifact(folder: Path, known: Sequence[Task]) -> list[TaskPrompt]:
    """The prompts of an artifact of either kind, one a task."""
    kind = next((kind for kind, file in FILES.items() if (folder / file).is_file()), "run")
    prompts, about = load_prompts(folder, kind)
    if kind == "prompt" and about.source_tasks:
        behind = ", ".join(about.source_tasks)
        part = f"a part of a prompt, which stands before those of {behind}"
        raise InputError(f"{folder}: {part}, and nothing alone: name the run that has it, whose prompt is whole")
    if not about.tasks:  # as of early runs
        raise InputError(f"{folder / MANIFEST}: tasks: none are named, so that no row is known to be of one of them")
    text = _whole(about.text)
    return [
        TaskPrompt(_task(about, name, known, str(folder)), prompts, index, text, about.trunk, str(folder), about)
        for index, name in enumerate(about.tasks)
    ]


def _of_store(store: PromptStore, known: Sequence[Task]) -> list[TaskPrompt]:
    """The prompts of a store, one a task: without those that stand before others alone, and, of a task that has a
    prompt of its own there, without the one that it shares.
    """
    tasks = {name: each["tasks"] for name in store.names() if not (each := store.manifest(name))["source_tasks"]}
    if not tasks:
        raise InputError(
            f"{store.folder}: all of its prompts are parts, which stand before others, and nothing alone: name the run "
            "that has them, whose prompts are whole"
        )
    own = {names[0] for names in tasks.values() if len(names) == 1}
    every = [(one, len(of)) for name, of in tasks.items() for one in _of_artifact(store.folder / name, known)]
    return [one for one, sharing in every if sharing == 1 or one.task.name not in own]


def _of_entry(entry: StoredPrompt, path: Path, known: Sequence[Task]) -> TaskPrompt:
    """The prompt of a task in an export of ours."""
    prompts, about = entry.artifact()
    task = _task(about, entry.task, known, str(path))
    return TaskPrompt(task, prompts, 0, _whole(about.text), about.trunk, str(path), about)


def _of_adapter(folder: Path, task: str | None, known: Sequence[Task]) -> TaskPrompt:
    """The prompt of a PEFT adapter."""
    foreign = read_foreign(folder)
    if task is None:
        raise InputError(f"{folder}: which task was the adapter trained for? Say the task")
    if foreign.model is None:
        raise InputError(f"{folder / ADAPTER}: base_model_name_or_path, the trunk of the adapter, is missing")
    length, d_model = foreign.values.shape
    prompts = RunPrompts(PromptShape("pt", 1, 0, True, length, d_model), {"targets": foreign.values[None]})
    return TaskPrompt(_named(task, known, str(folder)), prompts, 0, USUAL_TEXT, TrunkId(foreign.model), str(folder))


def _task(about: About, name: str, known: Sequence[Task], where: str) -> Task:
    return about.definitions[name] if name in about.definitions else _named(name, known, where)


def _named(name: str, known: Sequence[Task], where: str) -> Task:
    tasks = TASKS | {task.name: task for task in known}
    if name not in tasks:
        raise InputError(f"{where}: {unknown('task', name, tasks)} One of your own needs its task file.")
    return tasks[name]


def _whole(text: TextFormat) -> TextFormat:
    """A text format with the usual value of whatever is unknown."""
    lacking = [each.name for each in fields(text) if getattr(text, each.name) is None]
    return replace(text, **{name: getattr(USUAL_TEXT, name) for name in lacking})


def _check_together(first: TaskPrompt, other: TaskPrompt) -> None:
    """Raise `InputError` for what shows, without the trunk at hand, that no single one can read both."""
    what: tuple[tuple[str, Callable[[TaskPrompt], object]], ...] = (
        ("width", lambda one: one.d_model),
        ("place of the prompt", lambda one: one.text.prompt_position),
    )
    for said, of in what:
        if of(first) != of(other):
            raise InputError(f"{other.where}: its {said}, {of(other)}, is not that of {first.where}, {of(first)}")
    own, its = first.trunk, other.trunk
    # hashes of different precisions say nothing of each other
    if own.dtype == its.dtype and own.sha256 and its.sha256 and own.sha256 != its.sha256:
        raise InputError(
            f"{other.where}: belongs to trunk {its.name} (sha256 {its.sha256}), and {first.where} to trunk {own.name} "
            f"(sha256 {own.sha256})"
        )
