"""What runs start from: prompts of the store.

CrossPT (arXiv 2509.14253) trains in two stages: a prompt for each source task by itself (section
2.1), then targets composed of them (section 2.2). Stage two is a job like any other whose runs start
from stored values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compt_fast.config.choices import RETRAIN
from compt_fast.config.job import JobSettings
from compt_fast.config.presets import CHAIN, JOINT, RANDOM, SPOT, STORED
from compt_fast.config.run import RUN_FLAGS, RunConfig
from compt_fast.prompts.artifact import MANIFEST, About, RunPrompts, TextFormat, TrunkId, load_prompts
from compt_fast.prompts.similarity import mean_cosine
from compt_fast.prompts.store import PromptStore, StoredPrompt, fit_length
from compt_fast.runs.job import Job, fingerprint_of
from compt_fast.runs.results import read_results
from compt_fast.tasks.sampling import Draw
from compt_fast.training.plan import Run, run_sources, sources_of
from compt_fast.utils.errors import InputError

if TYPE_CHECKING:
    from compt_fast.runs.shared import SharedPrompts

_DRAWN = {field.name for field in fields(Draw)}


@dataclass(frozen=True)
class Need:
    """A stored prompt that some run starts from: of one task, or the one that `others` share with it; or one that was
    trained `after` those of other tasks, to stand before them.
    """

    task: str
    length: int
    label_mode: str
    others: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the prompt is of."""
        return (self.task, *self.others)

    @property
    def key(self) -> frozenset[str]:
        """The tasks, in whatever order they stand."""
        return frozenset(self.tasks)

    @property
    def whose(self) -> str:
        """Its tasks, as a message says it."""
        if self.others:
            return f"the tasks {', '.join(self.tasks)} together"
        return f"task {self.task}" + (f" after {', '.join(self.after)}" if self.after else "")


def stage_one_draw(settings: JobSettings) -> Draw:
    """Which rows of a task stage one trains on: all up to `source_examples`, with the defaults of the rest."""
    return Draw(None, RUN_FLAGS["seeds"].default[0], RUN_FLAGS["sampling"].default[0], settings.source_examples)


def entry_name(need: Need, text: TextFormat) -> str:
    """The name under which the store keeps a prompt for `need` that was trained on texts of this format."""
    parts = [f"joint-{_short(sorted(need.tasks))}" if need.others else need.task]
    parts += [f"after-{_short(need.after)}"] if need.after else []
    parts += [f"m{need.length}"]
    parts += [need.label_mode] if need.label_mode != "natural" else []
    parts += ["no-prefix"] if text.prefix is False else []
    parts += ["append"] if text.prompt_position == "append" else []
    return "-".join(parts)


def _short(tasks: Sequence[str]) -> str:
    """What tells tasks from others in a name, where their own in a row would be too long."""
    return hashlib.sha256(",".join(tasks).encode()).hexdigest()[:8]


class Initialisation:
    """The stored prompts that some runs of a job start from, or learn from."""

    def __init__(self, job: Job, store: PromptStore, runs: Sequence[Run], shared: SharedPrompts | None = None) -> None:
        """Reads the store's prompts of the tasks that `runs` need; `shared` are prompts beside them that several tasks
        share.

        Raises `InputError` for a damaged one, one of another trunk or width, one of another length
        where `--fit-length` says nothing of it, and for `spot` with nothing to select from.
        """
        self.job = job
        self.store = store
        self._shared = shared
        self.setting = TextFormat(job.settings.prefix, job.settings.prompt_position)
        self.needs = list(dict.fromkeys(need for run in runs for need in self._needs(run)))
        self._hashes = {job.settings.dtype: job.trunk_hash}
        self._entries: list[StoredPrompt] = []
        self.refresh()
        for need in self.lacking():
            name = entry_name(need, self.setting)
            if name in store.names():
                raise InputError(
                    f"the store {store.folder} has a prompt {name!r} that is not the prompt of {need.whose} with "
                    f"{need.length} tokens which would be trained under that name; remove it, or name another --store"
                )

    def refresh(self) -> None:
        """Read the store again: only prompts of the tasks that are needed, so that a damaged one of another task
        stands in no run's way.
        """
        needed = {need.key for need in self.needs}
        names = self.store.names() if needed else []
        own = [name for name in names if frozenset(self.store.manifest(name)["tasks"]) in needed]
        self._entries = [self.store.load(name) for name in own]
        for entry in self._entries:
            entry.check(self._trunk(entry.trunk.dtype), self.job.trunk.d_model)

    def extend(self, runs: Sequence[Run]) -> None:
        """Know of further `runs`.

        Raises `InputError`, and knows as much as before, where they start from stored prompts that are not there.
        """
        if self._shared is not None:
            self._shared.check(runs)
        before = self.needs
        self.needs = list(dict.fromkeys([*before, *(need for run in runs for need in self._needs(run))]))
        self.refresh()
        lacking = self.lacking()
        if lacking:
            self.needs = before
            self.refresh()
            raise InputError(
                f"the store {self.store.folder} has no prompt of {lacking[0].whose} with {lacking[0].length} tokens, "
                "and a job that is going trains none first: train these runs in a folder of their own"
            )

    def lacking(self) -> list[Need]:
        """What the store has not, or not in the length that is asked for."""
        return [need for need in self.needs if self._find(need) is None]

    def used(self) -> dict[str, str]:
        """The hash of every entry that the runs start from, by name."""
        found = [self._find(need) for need in self.needs]
        own = {entry.name: entry.sha256 for entry in found if entry is not None}
        return own if self._shared is None else own | self._shared.used()

    def of(self, run: Run) -> dict[str, Tensor]:
        """The parameters of a run that start from stored values: `source_tokens` (N, m, d),
        `private_tokens` (T, m, d) and what `SharedPrompts.of` gives, fp32 on the CPU.
        """
        config = run.config
        start = {} if self._shared is None else self._shared.of(run)

        def stack(tasks: Sequence[str]) -> Tensor:
            return torch.stack([self._values(Need(t, config.prompt_length, config.label_mode)) for t in tasks])

        if config.source_init == STORED:
            start["source_tokens"] = stack(self._sources)
        if config.source_init == CHAIN and config.sources:
            start["source_tokens"] = torch.stack([self._values(need) for need in self._chain(config)])
        if config.private_init != RANDOM:
            targets = self.job.data.names(config)
            if config.private_init == JOINT:
                start["private_tokens"] = self._values(self._joint(config)).expand(len(targets), -1, -1)
                return start
            start["private_tokens"] = stack(targets)
            if config.private_init == SPOT:
                nearest = select_sources(start["private_tokens"], stack(self._sources), targets, self._sources)
                start["private_tokens"] = stack(nearest)
        return start

    def teachers(self, run: Run) -> Tensor | None:
        """The stored prompts of a run's tasks (T, L, d), fp32 on the CPU, where it learns from them."""
        needs = self._taught_by(run)
        return torch.stack([self._values(need) for need in needs]) if needs else None

    def seen(self, run: Run) -> dict[str, list[Draw]]:
        """By task of the run: the draws of its training rows that the stored prompts which the run starts from were,
        or will be, trained on. Of a prompt that was trained elsewhere nothing is known.
        """
        draws: dict[str, list[Draw]] = {task: [] for task in self.job.data.names(run.config)}
        draws |= {} if self._shared is None else self._shared.seen(run)
        for need in self._needs(run):
            entry = self._find(need)
            config = entry.training.get("config") if entry is not None else None
            if entry is None:
                own, draw = need.tasks, stage_one_draw(self.job.settings)
            elif isinstance(config, dict) and config.keys() >= _DRAWN:
                alone, draw = config.get("task"), Draw(**{key: config[key] for key in _DRAWN})
                # a run of all its tasks has seen the rows of each
                own = entry.tasks if entry.others else tuple(draws) if alone is None else (alone,)
            else:
                continue
            for task in draws.keys() & set(own):
                draws[task].append(draw)
        return draws

    @property
    def _sources(self) -> list[str]:
        return sources_of(self.job.settings, [data.task.name for data in self.job.data.tasks])

    def _needs(self, run: Run) -> list[Need]:
        config, targets = run.config, self.job.data.names(run.config)
        tasks = list(self._sources) if config.source_init == STORED or config.private_init == SPOT else []
        tasks += targets if config.private_init in (STORED, SPOT) else []
        for target in targets if config.private_init == SPOT else ():
            if not set(self._sources) - {target}:
                raise InputError(f"{run.id}: spot needs a source task beside {target}; name more --source-tasks")
        joint = [self._joint(config)] if config.private_init == JOINT else []
        chain = self._chain(config) if config.source_init == CHAIN else []
        alone = [Need(task, config.prompt_length, config.label_mode) for task in dict.fromkeys(tasks)]
        return [*alone, *joint, *chain, *self._taught_by(run)]

    def _taught_by(self, run: Run) -> list[Need]:
        """The stored prompts that a run learns from, as long as its own."""
        if not run.config.distils:
            return []
        mode, targets = run.config.label_mode, self.job.data.names(run.config)
        return [Need(task, run.shape.target_length, mode) for task in targets]

    def _chain(self, config: RunConfig) -> list[Need]:
        """The prompts of the tasks before a run's own, each trained after those before it."""
        tasks = run_sources(self.job.settings, [data.task.name for data in self.job.data.tasks], config)
        size = config.prompt_length, config.label_mode
        return [Need(task, *size, after=tuple(tasks[:place])) for place, task in enumerate(tasks)]

    def _joint(self, config: RunConfig) -> Need:
        """The one prompt of all source tasks."""
        return Need(self._sources[0], config.prompt_length, config.label_mode, tuple(self._sources[1:]))

    def _trunk(self, dtype: str | None) -> TrunkId:
        """The job's trunk, with its hash in the precision `dtype`."""
        own = self.job.settings.dtype
        dtype = dtype or own
        if dtype not in self._hashes:
            self._hashes[dtype] = fingerprint_of(replace(self.job.settings, dtype=dtype))
        return TrunkId(self.job.trunk.name, self._hashes[dtype], dtype, self.job.trunk.family)

    def _find(self, need: Need) -> StoredPrompt | None:
        """The entry to start from; None where one has to be trained."""
        text = replace(self.setting, label_mode=need.label_mode)
        alike = [
            entry
            for entry in self._entries
            if (frozenset(entry.tasks), entry.after) == (need.key, need.after) and entry.text.agrees(text)
        ]
        exact = [entry for entry in alike if entry.length == need.length]
        if len(exact) > 1:
            names = ", ".join(entry.name for entry in exact)
            raise InputError(
                f"the store {self.store.folder} has {len(exact)} prompts of {need.whose} with {need.length} tokens "
                f"({names}); remove all but one"
            )
        how = self.job.settings.fit_length
        if how is None:  # stage one's own prompts of other lengths stand in no sweep's way
            alike = [entry for entry in alike if not _by_stage_one(entry)]
        if exact or not alike or how == RETRAIN:
            return exact[0] if exact else None
        longest = max(alike, key=lambda entry: entry.length)
        if how is None:
            raise InputError(
                f"stored prompt {longest.name} has {longest.length} tokens and {need.length} are needed: say "
                f"--fit-length first, mean-pool, repeat or train, or --prompt-length {longest.length}"
            )
        fit_length(longest, need.length, how)  # for its check
        return longest

    def _values(self, need: Need) -> Tensor:
        entry = self._find(need)
        if entry is None:
            raise ValueError(f"the store {self.store.folder} has no prompt for {need}")
        if entry.length == need.length:
            return entry.values
        how = self.job.settings.fit_length
        assert how is not None  # or `_find` has refused it
        return fit_length(entry, need.length, how)


def _by_stage_one(entry: StoredPrompt) -> bool:
    """Whether a run like those of stage one made the prompt, on all examples."""
    config = entry.training.get("config")
    method = "mst" if entry.others else "progressive" if entry.after else "p"
    made = {"method": method, "task": None if entry.others else entry.task, "shots": None}
    return isinstance(config, dict) and made == {key: config.get(key) for key in made}


def select_sources(own: Tensor, stored: Tensor, targets: Sequence[str], sources: Sequence[str]) -> list[str]:
    """SPoT's selection (Vu et al. 2022): for each target the other source task whose prompt is
    nearest to its own by the mean-token cosine; of equal ones the first.

    own (T, m, d) and stored (N, m, d) are the prompts of `targets` and `sources`.
    """
    similarity = mean_cosine(own, stored)
    for t, target in enumerate(targets):
        for n, source in enumerate(sources):
            if source == target:
                similarity[t, n] = -torch.inf
    return [sources[int(n)] for n in similarity.argmax(1)]


def entries_of(folder: Path) -> list[StoredPrompt]:
    """The target prompts of a run's folder `RUN/prompts/<run-id>`, one a task, as entries of a store.

    Raises `InputError` for a damaged folder, for prompts that depend on the input, of which a task has no one, and for
    methods that update the text besides.
    """
    prompts, about = load_prompts(folder)
    if prompts.shape.updates_inputs:
        raise InputError(
            f"{folder}: {prompts.shape.composition} adds to the embeddings of the text, beside its prompts, and an "
            "entry of a store has no place for that"
        )
    if "targets" not in prompts.tensors:
        raise InputError(
            f"{folder}: with {prompts.shape.by_row} every row has a prompt of its own, and the task has none"
        )
    if not about.tasks or about.trunk.sha256 is None:
        raise InputError(f"{folder / MANIFEST}: it does not say of which tasks and of which trunk its prompts are")
    scores = scores_of(folder)
    return [entry_of(prompts, about, index, scores.get(task)) for index, task in enumerate(about.tasks)]


def joint_entry_of(folder: Path) -> StoredPrompt:
    """The one prompt of a run's folder that all its tasks share, as one entry, without a score: each task has its own.

    Raises `InputError` as `entries_of` does, and for a run whose tasks have prompts of their own.
    """
    first, *rest = entries_of(folder)
    own = [entry.task for entry in rest if entry.sha256 != first.sha256]
    if own:
        raise InputError(f"{folder}: the prompt of {own[0]} is not that of {first.task}: only tasks of mst share one")
    others = {entry.task: entry.definition for entry in rest}
    need = Need(first.task, first.length, first.text.label_mode or "natural", tuple(others))
    return replace(first, name=entry_name(need, first.text), others=others, score=None)


def private_entry_of(folder: Path) -> StoredPrompt:
    """The private prompt of a run's folder with one task, as the entry that stands before those of the run's sources.

    Raises `InputError` as `entries_of` does.
    """
    (entry,) = entries_of(folder)
    prompts, about = load_prompts(folder)
    values = prompts.tensors["privates"][0]
    need = Need(entry.task, len(values), entry.text.label_mode or "natural", after=about.source_tasks or ())
    return replace(entry, name=entry_name(need, entry.text), values=values, after=need.after)


def entry_of(prompts: RunPrompts, about: About, index: int, score: dict[str, Any] | None) -> StoredPrompt:
    """The target prompt of a run's task `index`, which has this score, as an entry of a store."""
    task = about.tasks[index]
    need = Need(task, prompts.shape.target_length, about.text.label_mode or "natural")
    return StoredPrompt(
        name=entry_name(need, about.text),
        task=task,
        trunk=about.trunk,
        values=prompts.tensors["targets"][index],
        encoder=prompts.shape.encoder,
        score=score,
        training={"run": about.name, **about.training},
        text=about.text,
        definition=about.definitions.get(task),
    )


def scores_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The primary score of each task of a run, from the results of its run folder, if it is in one."""
    top = folder.parent.parent
    results = read_results(top) if (top / "results.json").is_file() else []
    return {
        task: {"metric": entry["primary"], "value": entry["scores"][entry["primary"]]}
        for result in results
        if result.id == folder.name
        for task, entry in result.tasks.items()
    }
