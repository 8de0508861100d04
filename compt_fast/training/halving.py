"""Successive halving: at rungs of the training runs are compared on their development samples, and few go on.

Of the runs that have come to a rung one in `factor` goes on (Jamieson and Talwalkar 2016). Synchronously they all wait
for one another there; asynchronously (ASHA, Li et al. 2020, arXiv 1810.05934, algorithm 2) a run goes on as soon as
it is among the best of those that have come so far, and one that was stopped is taken up again when it is by those
that come later. Whoever goes on does so with the bits that it would have had untouched.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compt_fast.config.choices import HALVINGS, SYNCHRONOUS
from compt_fast.config.job import JobSettings
from compt_fast.training.control import Uncontrolled
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError
from compt_fast.utils.words import plural

if TYPE_CHECKING:
    from compt_fast.training.interrupts import Interrupts
    from compt_fast.training.loop import Trainer
    from compt_fast.training.monitor import Monitor

RUNGS = 3  # where the steps to the first are not named


def rungs_of(settings: JobSettings, total: int) -> list[int]:
    """The rungs, in steps, of a run of `total` steps: those that are named, or r * factor^k, all before its end.

    Without `least_steps` they are the last three of total / factor^k, rounded up.
    """
    factor, least = settings.halve_factor, settings.least_steps
    if settings.rungs is not None:
        found = settings.rungs
    elif least is not None:
        found = [least * factor**k for k in range(1 + int(math.log(max(1, total / least), factor)))]
    else:
        found = [math.ceil(total / factor**k) for k in range(RUNGS, 0, -1)]
    return sorted({step for step in found if step < total})


def rivals(run: Run) -> tuple[str | None, int | None]:
    """What the runs that a run is compared with share: its task, where each is trained apart, and number of shots."""
    return run.config.task, run.config.shots


def check_halving(settings: JobSettings, runs: Sequence[Run], steps: Mapping[str, int]) -> None:
    """Raise `InputError` where halving means nothing for these runs, which take so many `steps`, by id."""
    if settings.halve not in HALVINGS:
        for name in ("rungs", "least_steps"):
            if getattr(settings, name) is not None and settings.halve is None:
                raise InputError(f"--{name.replace('_', '-')} is of --halve: give that too")
        return
    if settings.rungs is not None and settings.least_steps is not None:
        raise InputError("--rungs and --least-steps exclude each other: name one")
    groups = [rivals(run) for run in runs]
    if len(set(groups)) == len(groups):
        raise InputError(
            "--halve compares runs of the same task, or tasks, and number of shots, and each of these has its own; "
            "give more values of another flag, or leave out --halve"
        )
    for run in runs:
        if not rungs_of(settings, steps[run.id]):
            raise InputError(
                f"{run.id}: --halve has no rung before the end of its {plural(steps[run.id], 'step')}; lower "
                "--least-steps or --rungs"
            )


@dataclass
class Halving(Uncontrolled):
    """Stops and resumes the runs of a job by their `scores` at the rungs, which are averages over tasks in percent.

    `passed` says how many rungs a run was let past, `held` are those that were stopped here. Who is resumed by
    somebody else, or was past the first rung before halving began, is `exempt`: it is not stopped again.
    """

    name: str = "halving"
    scores: dict[str, list[float]] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    exempt: set[str] = field(default_factory=set)
    _seen: tuple[int, int] = (-1, -1)

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        if not trainer.halves:
            return
        back = {name for name in self.held if name not in trainer.results}
        self.held -= back
        self.exempt |= back
        measured = self._measure(trainer, monitor, interrupts)
        seen = len(trainer.results), len(trainer.runs)
        if not measured and seen == self._seen:
            return  # nothing that a decision depends on has changed
        for name in self._go_on(trainer):
            if name in self.held:
                self.held.remove(name)
                trainer.resume(name)
        for name, development in measured.items():
            if self.passed.get(name, 0) < len(self.scores[name]):
                self.held.add(name)
                trainer.stop(name, self._reason(trainer, name, development), development)
        self._seen = len(trainer.results), len(trainer.runs)

    def _measure(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> dict[str, dict[str, Any]]:
        """Score the runs in training that have come to a rung: their development scores, by id."""
        found = {}
        for cohort, member in list(trainer.members):
            name, rungs = member.run.id, rungs_of(trainer.settings, member.total)
            come = len(self.scores.get(name, ()))
            if name in self.exempt or come == len(rungs) or member.step < rungs[come]:
                continue
            if member.step > rungs[come]:
                self.exempt.add(name)
                continue
            found[name] = trainer.develop(cohort, member, monitor, interrupts)
        for name, development in found.items():  # all at once: a signal between two of them has lost nothing
            self.scores.setdefault(name, []).append(development["average"])
        return found

    def _go_on(self, trainer: Trainer) -> list[str]:
        """The runs that are let past a rung now, those at the furthest rung first."""
        groups: dict[Any, list[str]] = {}
        for run in trainer.runs:
            groups.setdefault(rivals(run), []).append(run.id)
        over = (trainer.results.keys() - self.held) | self.exempt
        late = trainer.settings.halve == SYNCHRONOUS
        found = [
            (rung, name)
            for group in groups.values()
            for rung, name in promote(group, self.scores, self.passed, over, trainer.settings.halve_factor, late)
        ]
        return [name for _, name in sorted(found, key=lambda one: -one[0])]

    def _reason(self, trainer: Trainer, name: str, development: Mapping[str, Any]) -> str:
        """Its place among those that had come so far."""
        rung, run = len(self.scores[name]) - 1, trainer.run_of(name)
        rival = [other.id for other in trainer.runs if rivals(other) == rivals(run)]
        there = [self.scores[other][rung] for other in rival if len(self.scores.get(other, ())) > rung]
        place = 1 + sum(score > self.scores[name][rung] for score in there)
        return f"development {development['average']:.1f}, place {place} of {len(there)} at this rung"

    def state(self) -> dict[str, Any]:
        lists = {"held": sorted(self.held), "exempt": sorted(self.exempt)}
        return {"scores": self.scores, "passed": self.passed, **lists}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.scores = {name: list(scores) for name, scores in state["scores"].items()}
        self.passed = dict(state["passed"])
        self.held, self.exempt = set(state["held"]), set(state["exempt"])


def promote(
    group: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    passed: dict[str, int],
    over: Collection[str],
    factor: int,
    late: bool,
) -> list[tuple[int, str]]:
    """Let runs of a `group` past the rungs that they have come to, in `passed`; each rung and run that it was.

    Of n at a rung the best n // factor, and once nobody can come any more at least one; `late` not before. Those that
    are `over` come nowhere. Of equal ones the first of the group is the better.
    """
    found = []
    whole = True  # nobody can come to this rung any more but who has come
    for rung in range(1 + max((len(of) for of in scores.values()), default=0)):
        here = [name for name in group if len(scores.get(name, ())) > rung]
        coming = [
            name
            for name in group
            if name not in over and len(scores.get(name, ())) == rung and passed.get(name, 0) == rung
        ]
        whole = whole and not coming
        quota = 0 if late and not whole else max(int(whole), len(here) // factor)
        able = [name for name in here if name not in over or passed.get(name, 0) > rung]
        for name in sorted(able, key=lambda name: -scores[name][rung])[:quota]:
            if passed.get(name, 0) == rung:
                passed[name] = rung + 1
                found.append((rung, name))
    return found
