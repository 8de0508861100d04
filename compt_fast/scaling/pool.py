"""The trainers of a cluster: actors of Ray, as many as there is room for, and new ones for those that end."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from compt_fast.scaling.cluster import Spread
from compt_fast.scaling.queue import Load
from compt_fast.scaling.worker import Worker
from compt_fast.training.plan import Run
from compt_fast.utils.cluster import HERE, machines, slots
from compt_fast.utils.errors import InputError

LOOKED = 2.0  # seconds from one look at the cluster's machines to the next
COMING = 60.0  # seconds for which a trainer that is asked for counts as one that will be there


@dataclass(eq=False)
class Device:
    """A trainer: its actor, what it is busy with, the job that it is open for, and its runs with the steps taken."""

    actor: Any
    call: ray.ObjectRef[Any] | None = None
    work: object = None
    ready: bool = False  # for that job
    runs: dict[str, Run] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    leaving: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    pace: float = 0.0  # seconds a step
    losses: list[float] = field(default_factory=list)
    speed: float = 0.0
    since: float = field(default_factory=time.monotonic)  # it was asked for, or the present call was

    def open(self, work: object) -> None:
        """Let it be ready for the runs of a job."""
        self.work, self.ready = work, False
        self.runs, self.steps, self.leaving, self.dropped = {}, {}, [], []
        self.call = self.actor.open.remote(work)

    def drop(self, runs: Collection[str]) -> None:
        """Have some of its runs no more: nobody wants to know what comes of them here."""
        self.dropped += [name for name in self.runs if name in runs]
        self.runs = {name: run for name, run in self.runs.items() if name not in runs}

    def load(self, totals: Mapping[str, int]) -> Load:
        """What it has left, by the steps that runs take in all."""
        return Load({name: totals[name] - self.steps.get(name, 0) for name in self.runs}, self.pace)


class Pool:
    """The trainers, in the order in which they were asked for."""

    def __init__(self, spread: Spread, gpus: int) -> None:
        """Each with `gpus` GPUs. Raises `InputError` where the cluster has no room for a single one."""
        self.spread, self.gpus = spread, gpus
        self._devices: list[Device] = []
        self._looked = float("-inf")
        if (spread.trainers is None or spread.address == HERE) and not self._room():
            has = ", ".join(f"{of.get('CPU', 0):g} and {of.get('GPU', 0):g}" for of in machines())
            raise InputError(
                f"--ray: the cluster has no room for a trainer of {spread.says(gpus)}; its machines have processors "
                f"and GPUs: {has}" + ("; --device cpu takes no GPU" if gpus else "")
            )

    def __iter__(self) -> Iterator[Device]:
        return iter(list(self._devices))

    def __len__(self) -> int:
        return len(self._devices)

    @property
    def expected(self) -> int:
        """Trainers that share the runs: those that are ready, and those that will be."""
        now = time.monotonic()
        return sum(device.ready or now - device.since < COMING for device in self._devices)

    def fill(self, most: int) -> None:
        """Ask for trainers where there is room, for up to `most` runs; from time to time."""
        now = time.monotonic()
        if now - self._looked < LOOKED:
            return
        self._looked = now
        options: dict[str, Any] = {
            "num_cpus": self.spread.trainer_cpus,
            "num_gpus": self.gpus,
            "scheduling_strategy": "SPREAD",
            "concurrency_groups": {"aside": 1},  # a thread that hears what is to end the work of the first
        }
        made = ray.remote(**options)(Worker)
        for _ in range(min(self.wanted, most) - len(self._devices)):
            self._devices.append(Device(made.remote(self.spread.trainer_cpus)))

    def remove(self, device: Device) -> None:
        """Have one less: one that ended, or that cannot be reached and is not to come back."""
        self._devices.remove(device)
        self._looked = float("-inf")
        with suppress(Exception):
            ray.kill(device.actor)

    def close(self) -> None:
        """End all."""
        ending = [device.actor.close.remote() for device in self if device.ready and device.call is None]
        if ending:
            ray.wait(ending, num_returns=len(ending), timeout=5)
        for device in self:
            self.remove(device)

    @property
    def wanted(self) -> int:
        """Trainers that there are to be."""
        return self.spread.trainers or self._room()

    def _room(self) -> int:
        return slots(machines(), self.spread.trainer_cpus, self.gpus)
