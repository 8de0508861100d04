"""MLflow's database, or MLFLOW_TRACKING_URI: `mlflow ui --backend-store-uri sqlite:///RUN/mlflow/mlflow.db`

A transaction takes it tens of milliseconds, so that numbers are held back for some seconds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from compt_fast.training.trackers import PROJECT, Backend, Status, TrackedRun

EVERY = 10.0  # seconds for which numbers are held back
MOST = 1000  # of a batch, by MLflow's interface
_ENDS = {"finished": "FINISHED", "stopped": "FAILED", "interrupted": "KILLED"}


class _Logged:
    def __init__(self, client: Any, run_id: str, last: Mapping[str, int]) -> None:
        self.last = last
        self._client, self._run_id = client, run_id
        self._held: list[Any] = []
        self._flushed = time.monotonic()

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._held += [Metric(name, value, now, step) for name, value in numbers.items()]
        if len(self._held) >= MOST or time.monotonic() - self._flushed > EVERY:
            self._flush()

    def _flush(self) -> None:
        while self._held:
            self._client.log_batch(self._run_id, metrics=self._held[:MOST])
            del self._held[:MOST]
        self._flushed = time.monotonic()

    def close(self, status: Status) -> None:
        self._flush()
        self._client.set_terminated(self._run_id, _ENDS[status])


def _open(run: TrackedRun) -> _Logged:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Param

    for name in ("mlflow", "alembic"):  # which tell of every table that they make
        logging.getLogger(name).setLevel(logging.WARNING)
    run.folder.mkdir(exist_ok=True)
    own = f"sqlite:///{(run.folder / 'mlflow.db').absolute()}"
    client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", own))
    title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    experiment = client.get_experiment_by_name(title)
    number = experiment.experiment_id if experiment else client.create_experiment(title)
    found = client.search_runs([number], f"tags.key = '{run.key}'")
    if found:
        (before,) = found
        client.update_run(before.info.run_id, status="RUNNING")
        histories = (client.get_metric_history(before.info.run_id, name) for name in before.data.metrics)
        last = {history[0].key: max(metric.step for metric in history) for history in histories}
        return _Logged(client, before.info.run_id, last)
    made = client.create_run(number, run_name=run.name, tags={"key": run.key, "group": run.group})
    client.log_batch(made.info.run_id, params=[Param(name, str(value)) for name, value in run.config.items()])
    return _Logged(client, made.info.run_id, {})


ENTRY = Backend(_open, packages=("mlflow", "sqlalchemy", "alembic"))
