"""Joining a cluster of Ray, and how many processes have room on one."""

from __future__ import annotations

import signal
import socket
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import RaySystemError

from compt_fast.utils.cluster import HERE, connected, gpus_each, slots
from compt_fast.utils.errors import InputError


def test_addresses_at_which_nothing_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "nowhere", "127.0.0.1:x"):
        with pytest.raises(InputError, match=f"--ray {address}: no cluster of Ray answers there"), connected(address):
            pass


@pytest.mark.parametrize("error", [RuntimeError("no port"), RaySystemError("no store"), ConnectionError("nothing")])
def test_a_cluster_that_does_not_start_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", Mock(side_effect=error))
    with pytest.raises(InputError, match="--ray here: no cluster of Ray answers there: "), connected(HERE):
        pass


def test_a_signal_while_the_cluster_starts_ends_as_one_does_later(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def start(*args: Any, **kwargs: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    for init in (start, Mock(side_effect=SystemExit(int(signal.SIGTERM)))):  # by our handler, and by Ray's
        monkeypatch.setattr(ray, "init", init)
        with pytest.raises(SystemExit) as end, connected(HERE):
            pass
        assert end.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "room"),
    [
        ([{"CPU": 3.0}, {"CPU": 2.0}], 2, 0, 2),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], 1, 1, 2),
        ([{"CPU": 1.0, "GPU": 2.0}], 1, 1, 1),
        ([{"memory": 1e9}], 1, 0, 0),
        ([], 1, 0, 0),
    ],
)
def test_room_is_counted_on_each_machine(machines: list[dict[str, float]], cpus: int, gpus: int, room: int) -> None:
    assert slots(machines, cpus, gpus) == room


@pytest.mark.parametrize(("device", "gpus", "each"), [("auto", 2, 1), ("auto", 0, 0), ("cpu", 2, 0), ("cuda", 0, 1)])
def test_a_process_takes_a_gpu_where_it_computes_on_one(
    device: str, gpus: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": float(gpus)}},
        {"Alive": False, "Resources": {"GPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert gpus_each(device) == each
