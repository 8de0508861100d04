"""Requests to a job that is going: a file each in `requests/` of its run folder, answered in `requests/answers.jsonl`.

Whoever asks writes the file atomically; the job takes it up between two steps, writes the answer, and removes it.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compt_fast.config.flags import parse
from compt_fast.config.run import RUN_FLAGS
from compt_fast.runs.folder import LOCK, check_run_folder
from compt_fast.runs.job import recorded_identity
from compt_fast.runs.results import read_results
from compt_fast.training.results import RunResult
from compt_fast.utils.errors import InputError, unknown
from compt_fast.utils.files import write_json, write_text
from compt_fast.utils.inputs import check_type, dataclass_from, read_object
from compt_fast.utils.locks import is_held
from compt_fast.utils.names import is_name

FOLDER, ANSWERS = "requests", "answers.jsonl"
STOP, RESUME, CLONE, ADD = DEEDS = ("stop", "resume", "clone", "add")
OF_A_RUN = (STOP, RESUME, CLONE)
POLL = 0.1  # seconds from one look for an answer to the next
_number = itertools.count()


@dataclass(frozen=True)
class Request:
    """What is asked: one of `DEEDS`, of which run, by id, and with which flags of runs, by key and as text."""

    do: str
    run: str = ""
    flags: dict[str, str] = field(default_factory=dict)

    def check(self, known: Sequence[str]) -> None:
        """Raise `InputError` for a deed, a run or a flag that is not known, and a value that its flag does not take."""
        if self.do not in DEEDS:
            raise unknown("request", self.do, DEEDS)
        if self.do in OF_A_RUN and self.run not in known:
            raise unknown("run", self.run, known)
        self.values()
        if self.do in (CLONE, ADD) and not self.flags:
            raise InputError(f"{self.do}: name at least one flag of runs and its value, as --lr-source 0.2")

    def values(self) -> dict[str, list[Any]]:
        """The values of its flags by the field of each; `InputError` as `check` raises."""
        found = {}
        for key, text in self.flags.items():
            if key not in RUN_FLAGS:
                raise unknown("flag of runs", key, RUN_FLAGS)
            flag = RUN_FLAGS[key]
            found[flag.field] = parse(key, text, f"--{flag.name}")
            for value in found[flag.field]:
                flag.check(value)
        return found


@dataclass(frozen=True)
class Answer:
    """What became of the request of this name: whether it was `done`, and what the job `says`."""

    request: str
    done: bool
    says: str


def ask(folder: Path, request: Request) -> str:
    """Put a request into a run folder; returns its name."""
    (folder / FOLDER).mkdir(exist_ok=True)
    name = f"{time.time_ns():020d}-{os.getpid()}-{next(_number)}"
    write_json(folder / FOLDER / f"{name}.json", asdict(request))
    return name


def waiting(folder: Path) -> list[str]:
    """The names of the requests that are not answered, the earliest first."""
    try:
        with os.scandir(folder / FOLDER) as entries:
            names = [entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")]
    except FileNotFoundError:
        return []
    return sorted(name for name in names if is_name(name))


def read(folder: Path, name: str) -> Request:
    """The request of this name; `InputError` for a file that is none."""
    path = folder / FOLDER / f"{name}.json"
    return dataclass_from(Request, read_object(path, "a request"), str(path))


def answers(folder: Path) -> dict[str, Answer]:
    """All answers so far, by the name of the request."""
    path = folder / FOLDER / ANSWERS
    found = [dataclass_from(Answer, content, f"{path}: line {n}") for n, content in enumerate(_objects(path), 1)]
    return {answer.request: answer for answer in found}


def _objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, without a last line that is still being written; none where it is not there.

    Raises `InputError` that names the line which is no object.
    """
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.is_file() else (), start=1):
        try:
            content = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no JSON: {error}") from None
        check_type(content, dict, f"{path}: line {number}")
        found.append(content)
    return found


def answer(folder: Path, given: Mapping[str, Answer]) -> None:
    """Write answers down, those that are not, and remove their requests."""
    before = answers(folder)
    lines = [json.dumps(asdict(one)) for one in (before | dict(given)).values()]
    write_text(folder / FOLDER / ANSWERS, "\n".join(lines) + "\n")
    for name in given:
        (folder / FOLDER / f"{name}.json").unlink(missing_ok=True)


def is_going(folder: Path) -> bool:
    """Whether a job is at work in a run folder."""
    return is_held(folder / LOCK)


def request_of(folder: Path, request: Request, late: Callable[[], None] = lambda: None) -> Answer:
    """Ask the job that is going in `folder`, and wait for its answer; `late` is called where it takes seconds.

    Raises `InputError`, and leaves nothing behind, for a request that cannot be met, and where no job is going or it
    ends before it has taken the request up.
    """
    check_run_folder(folder)
    known = recorded_identity(folder).runs
    request.check(list(known))
    done = [of.id for of in _results(folder) if of.status == "finished"]
    if request.do in (STOP, RESUME) and request.run in done:
        raise InputError(f"{request.run}: it has finished already")
    if not is_going(folder):
        flags = f" --runs {request.run}" if request.do == RESUME else ""
        raise InputError(
            f"{folder}: no job is going there that could take this up; python -m compt_fast.train --resume "
            f"{folder}{flags} goes on with it"
        )
    name = ask(folder, request)
    asked = time.monotonic()
    try:
        while True:
            going = is_going(folder)
            found = answers(folder).get(name)
            if found is not None:
                return found
            if not going:
                raise InputError(
                    f"{folder}: the job ended before it answered; list shows whether it did what was asked"
                )
            if time.monotonic() - asked > 5:
                late()
                asked = float("inf")
            time.sleep(POLL)
    finally:
        (folder / FOLDER / f"{name}.json").unlink(missing_ok=True)


@dataclass(frozen=True)
class RunState:
    """A run of a job as its folder shows it: `waiting`, `training`, `waits to go on`, or what its result says."""

    id: str
    state: str
    steps: int
    loss: float | None
    result: RunResult | None

    @property
    def score(self) -> str:
        """Its average on the evaluation rows or, of one that was stopped, on the development sample, in words."""
        if self.result is None:
            return "-"
        if self.result.average is not None:
            return f"{self.result.average:.1f}"
        return f"{self.result.development['average']:.1f} (development)" if self.result.development else "-"


def curves(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of `metrics.jsonl` by run, in the order of its steps; `InputError` for a line that is none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in _records(folder):
        found.setdefault(record["run"], []).append(record)
    return found


def _records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    found = _objects(path)
    for number, record in enumerate(found, start=1):
        for key, kind in {"run": str, "step": int}.items():
            check_type(record.get(key), kind, f"{path}: line {number}: {key}")
        if record.get("loss") is not None:
            check_type(record["loss"], float, f"{path}: line {number}: loss")
    return found


def states(folder: Path) -> list[RunState]:
    """Every run of a folder's job, in the plan's order; `InputError` where it is no run folder."""
    check_run_folder(folder)
    known, going = recorded_identity(folder).runs, is_going(folder)
    results = {of.id: of for of in _results(folder)}
    records = curves(folder)
    training = _training(folder) if going else set()
    found = []
    for name in known:
        result, own = results.get(name), records.get(name, [])
        ended = result is not None and result.status != "unfinished"
        begun = "training" if name in training else "waits to go on" if going else "midway"
        state = result.status if result is not None and ended else begun if own else "waiting"
        loss = own[-1]["loss"] if own else None
        found.append(RunState(name, state, own[-1]["step"] if own else 0, loss, result if ended else None))
    return found


def _results(folder: Path) -> list[RunResult]:
    return read_results(folder) if (folder / "results.json").is_file() else []


def _training(folder: Path) -> set[str]:
    """The runs of the latest step: the last lines of `metrics.jsonl` up to the first run that stands there twice."""
    found: set[str] = set()
    for record in reversed(_records(folder)):
        if record["run"] in found:
            break
        found.add(record["run"])
    return found
