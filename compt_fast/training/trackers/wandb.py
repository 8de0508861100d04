"""Weights & Biases, offline unless WANDB_MODE says otherwise: `wandb sync RUN/wandb/offline-run-*`

Each part of a job that was interrupted is a folder of its own, under the run's one id. W&B writes blocks of 32 KiB: of
a job that is killed the last one is missing, of which the curves are filled in when it goes on.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from compt_fast.training.trackers import PROJECT, Backend, Status, TrackedRun

BLOCK = 32768  # bytes, as LevelDB's log has them
HEADER = 7  # bytes, of W&B's file as of each part of a record


class _Handed:
    def __init__(self, run: Any, last: Mapping[str, int]) -> None:
        self.last = last
        self._run = run

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self, status: Status) -> None:
        self._run.finish(exit_code={"finished": 0, "stopped": 1, "interrupted": 255}[status])


def _open(run: TrackedRun) -> _Handed:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    run.folder.mkdir(exist_ok=True)
    last: dict[str, int] = {}
    for path in sorted(run.folder.glob(f"*run-*-{run.key}/*.wandb")):
        for step, names in rows(path.read_bytes()):
            last |= dict.fromkeys(names, step)
    opened = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        dir=str(run.folder.parent),  # it makes the folder wandb there
        id=run.key,
        name=run.name,
        group=run.group,
        config=dict(run.config),
        mode=os.environ.get("WANDB_MODE", "offline"),
        resume="allow",
        reinit="create_new",
        # Of the machine, the code and the environment nothing is kept: secrets may stand there.
        settings=wandb.Settings(
            console="off",
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
        ),
    )
    return _Handed(opened, last)


def rows(content: bytes) -> Iterator[tuple[int, dict[str, float]]]:
    """The steps, with their numbers, in a file of W&B's records."""
    from wandb.proto.wandb_internal_pb2 import Record

    for chunk in chunks(content):
        items = Record.FromString(chunk).history.item
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        if row:
            yield row["_step"], {name: value for name, value in row.items() if name[0] != "_"}


def chunks(content: bytes) -> Iterator[bytes]:
    """The records of a log whose blocks hold parts of them: a checksum, a length, a kind and the bytes each.

    What a kill has left half written ends it.
    """
    at, joined = HEADER, b""
    while at + HEADER <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        at += HEADER + length
        if kind == 0 or at > len(content):
            return
        joined += content[at - length : at]
        if kind in (1, 4):  # a whole record, or the last of several parts
            yield joined
            joined = b""


ENTRY = Backend(_open, packages=("wandb",))
