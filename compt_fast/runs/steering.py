"""Takes up requests in the job that is going, between two of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compt_fast.config.baselines import METHODS
from compt_fast.config.fields import FULL
from compt_fast.config.flags import excluded
from compt_fast.config.job import JobSettings, Sweep
from compt_fast.config.run import RUN_FLAGS, RunConfig
from compt_fast.runs import requests
from compt_fast.runs.adding import Adding
from compt_fast.runs.requests import Answer, Request
from compt_fast.training.control import Uncontrolled
from compt_fast.utils.errors import InputError
from compt_fast.utils.words import listed

if TYPE_CHECKING:
    from compt_fast.training.interrupts import Interrupts
    from compt_fast.training.loop import Trainer
    from compt_fast.training.monitor import Monitor


@dataclass
class Steering(Uncontrolled):
    """Takes up the requests in a run folder, each once, whatever ends the job meanwhile.

    `taken` are answers that are given once what was done is on the disk.
    """

    name: str = "steering"
    folder: Path = field(kw_only=True)
    adding: Adding = field(kw_only=True)
    taken: dict[str, Answer] = field(default_factory=dict)

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        names = requests.waiting(self.folder)
        if not names and not self.taken:
            return
        answered = requests.answers(self.folder)
        for name in names:
            self.taken[name] = answered.get(name) or self.taken.get(name) or self._meet(trainer, name)
        if not trainer.changed:
            self.kept(trainer)

    def _meet(self, trainer: Trainer, name: str) -> Answer:
        try:
            request = requests.read(self.folder, name)
            request.check([run.id for run in trainer.runs])
            return Answer(name, True, self._do(trainer, request))
        except InputError as error:
            return Answer(name, False, str(error))

    def _do(self, trainer: Trainer, request: Request) -> str:
        if request.do == requests.STOP:
            trainer.stop(request.run, "on request")
            return trainer.results[request.run].says
        if request.do == requests.RESUME:
            trainer.resume(request.run)
            return f"{request.run}: goes on from step {trainer.returning.get(request.run, 0)} as soon as there is room"
        given, config = request.values(), None
        if request.do == requests.CLONE:
            config = trainer.run_of(request.run).config
            sweep = cloned(config, request)
        else:
            sweep = of_the_job(trainer.settings, request)
        found = self.adding.plan(sweep, list(given), trainer.runs, None if config is None else config.task)
        if not found:
            raise InputError("the job has every run that this means")
        trainer.add(found)
        return f"added: {listed([run.id for run in found])}"

    def kept(self, trainer: Trainer) -> None:
        if self.taken:
            requests.answer(self.folder, self.taken)
            self.taken = {}

    def state(self) -> dict[str, Any]:
        return {"taken": [asdict(answer) for answer in self.taken.values()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.taken = {one["request"]: Answer(**one) for one in state["taken"]}


def cloned(config: RunConfig, request: Request) -> Sweep:
    """The runs that have every setting of a run but those that a request gives."""
    preset, given = METHODS[config.method], request.values()
    left = {RUN_FLAGS[key].field for key in excluded(request.flags)} | given.keys()
    own = {flag.field: getattr(config, flag.field) for flag in RUN_FLAGS.values() if flag.used(preset)}
    own |= {"shots": FULL if config.shots is None else config.shots, "encoder_hidden": config.encoder_hidden or None}
    values = {name: [value] for name, value in own.items() if value is not None and name not in left}
    return Sweep({"method": [config.method]} | values | given)


def of_the_job(settings: JobSettings, request: Request) -> Sweep:
    """The runs of the flags of a request; what it leaves open is as in the job, of several values the first."""
    given = request.values()
    left = {RUN_FLAGS[key].field for key in excluded(request.flags)}
    own = {name: values[:1] for name, values in settings.sweep.values.items() if name not in left}
    return Sweep(own | given)
