"""A job that a tracker is told of, killed and gone on with, and what stands there then: run as a program, whose package
is imported once, and which prints JSON. No name is ever looked up, and no address but the machine's own called.

The first part takes 8 steps, of which the checkpoint knows 4; the second takes those beyond again, and 4 more.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from compt_fast.config.flags import read_flags
from compt_fast.training.plan import Run, plan_runs
from compt_fast.training.results import RunResult
from compt_fast.training.tracking import Tracking

Numbers = dict[str, list[list[float]]]  # by name: step and value


def tracking(name: str, folder: Path, begun: int) -> Tracking:
    """The tracker of a job of two runs, side by side."""
    settings = read_flags({"track": name, "track_every": "1", "seeds": "0,1", "tasks": "rte"}, None)
    settings = replace(settings, dtype="fp32")
    runs = plan_runs(settings, tasks=["rte"], d_model=8)
    return Tracking(folder, settings, {run.id: run for run in runs}.__getitem__, begun={run.id: begun for run in runs})


def first_of(told: Tracking) -> Run:
    """The first run of the job."""
    return told.run_of(next(iter(told.begun)))


def steps(told: Tracking, first: int, last: int) -> None:
    """Training steps of both runs, whose loss is the number of the step."""
    same = {"gradient_norm": 0.5, "learning_rate": {"source": 0.25}, "tokens_per_second": 9.0}
    for step in range(first, last + 1):
        records = [{"run": run.id, "step": step, "loss": float(step)} | same for run in map(told.run_of, told.begun)]
        with (told.folder / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        told.step(records)


def killed(name: str, folder: Path) -> None:
    """The first part."""
    told = tracking(name, folder, 0)
    steps(told, 1, 8)
    os.kill(os.getpid(), signal.SIGKILL)


def ended(name: str, folder: Path) -> None:
    """The second part."""
    told = tracking(name, folder, 4)
    steps(told, 5, 12)
    tasks = {"rte": {"scores": {"accuracy": 75.0}}}
    run = first_of(told)
    told.scores(run.id, 12, "development", tasks, 75.0)
    told.ended(RunResult.finished(run, tasks, 75.0), 12)
    told.close()
    os._exit(0 if told._going else 1)


def of_tensorboard(folder: Path, run: Run) -> tuple[Numbers, Any]:
    """As TensorBoard itself reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / run.id)).Reload()
    text = read.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    return {tag: [[e.step, e.value] for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}, text


def of_trackio(folder: Path, run: Run) -> tuple[Numbers, Any]:
    """From its tables."""
    database = sqlite3.connect(folder / "compt_fast.db")
    found: Numbers = {}
    for step, metrics in database.execute("select step, metrics from metrics where run_name = ? order by id", [run.id]):
        for name, value in json.loads(metrics).items():
            found.setdefault(name, []).append([step, value])
    (config,) = database.execute("select config from configs where run_name = ?", [run.id]).fetchone()
    return found, json.loads(config)


def of_mlflow(folder: Path, run: Run) -> tuple[Numbers, Any]:
    """As MLflow's own client gives it."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (found,) = client.search_runs(["1"], f"attributes.run_name = '{run.id}'")
    metrics = {
        name: [[metric.step, metric.value] for metric in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }
    return metrics, {**found.data.params, "status": found.info.status, **found.data.tags}


def of_wandb(folder: Path, run: Run) -> tuple[Numbers, Any]:
    """From the records of its files, the parts of the run one after the other."""
    from wandb.proto.wandb_internal_pb2 import Record

    from compt_fast.training.trackers.wandb import chunks, rows

    found: Numbers = {}
    config: dict[str, Any] = {}
    for part in sorted(folder.glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        about = [record.run for record in map(Record.FromString, chunks(part.read_bytes())) if record.HasField("run")]
        if not about or about[0].display_name != run.id:
            continue
        config = {item.key: json.loads(item.value_json) for item in about[0].config.update}
        config["group"] = about[0].run_group
        for step, row in rows(part.read_bytes()):
            for name, value in row.items():
                found.setdefault(name, []).append([step, value])
    return found, config


def only_here(family: Callable[..., Any]) -> Callable[..., Any]:
    """`connect` that refuses every address of another machine."""

    def connect(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            print(f"calls {address}", file=sys.stderr)
            os._exit(3)
        return family(self, address)

    return connect


def main(name: str, folder: Path) -> None:
    """Both parts, each in a process of its own, and what stands there then."""
    socket.socket.connect = only_here(socket.socket.connect)  # type: ignore[method-assign]
    for part, code in ((killed, -signal.SIGKILL), (ended, 0)):
        if (child := os.fork()) == 0:
            part(name, folder)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == code, (part, status)
    numbers, config = globals()[f"of_{name}"](folder / name, first_of(tracking(name, folder, 0)))
    print(json.dumps({"numbers": numbers, "config": config}))


if __name__ == "__main__":
    if sys.argv[1] != "trackio":  # which reads its folder's name when it is imported
        __import__(sys.argv[1])  # once for both parts
    main(sys.argv[1], Path(sys.argv[2]))
