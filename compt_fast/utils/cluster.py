"""A cluster of Ray: joined, or begun for a command, and left at its end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import Any, NoReturn

from compt_fast.utils.errors import FIRST_SIGNAL, InputError
from compt_fast.utils.numbers import integer

HERE = "here"
"""The address of a cluster that does not run yet: one on this machine, for as long as the command runs."""
URGENT = {"worker_niceness": 0}
"""For Ray: processes of its workers are as urgent as the one that waits for them; its own way is a niceness of 15."""
RUNNING = "auto"
"""That of the cluster which this machine belongs to."""


@cache
def gone() -> tuple[type[Exception], ...]:
    """The errors by which Ray says that a process or a machine ended, and its answer with it."""
    from ray import exceptions as of

    return of.RayActorError, of.WorkerCrashedError, of.ObjectLostError, of.OutOfMemoryError, of.NodeDiedError


def check_member(address: str, what: str) -> None:
    """Raise `InputError` for the address of a client, which is no member of the cluster, and `what` a client cannot."""
    if address.startswith("ray://"):
        raise InputError(
            f"--ray {address}: a client of a cluster cannot {what}; run this on a machine of the "
            "cluster, with --ray auto, or give the address of its head, HOST:6379"
        )


def machines() -> list[dict[str, float]]:
    """What each living machine of the cluster has, "CPU" and "GPU" among it."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def gpus_each(device: str) -> int:
    """The GPUs of a process that computes on `device`: with "auto" one, if any machine of the cluster has some."""
    return int(device == "cuda" or (device == "auto" and any(machine.get("GPU") for machine in machines())))


def slots(machines: Sequence[Mapping[str, float]], cpus: int, gpus: int) -> int:
    """Processes that have room on `machines`, each with so many processors and GPUs."""
    room = 0
    for machine in machines:
        by_cpus = int(machine.get("CPU", 0) // cpus)
        room += min(by_cpus, int(machine.get("GPU", 0) // gpus)) if gpus else by_cpus
    return room


@contextmanager
def connected(address: str, cpus: int | None = None) -> Iterator[None]:
    """Within it, Ray's cluster at `address` is there for this process; one that begins `HERE` has so many `cpus`, by
    default those of the machine.

    Raises `InputError` where none answers. SIGTERM ends the process in order.
    """
    if address == HERE and "ray" not in sys.modules:  # Ray reads it once, as it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # its own choice, which it tells of where nobody names it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of this command
    import ray
    from ray.exceptions import RayError

    said: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    # A short path: sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="compt-fast-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        before = signal.signal(signal.SIGTERM, _end)
        try:
            try:
                with redirect_stdout(sys.stderr):  # Ray prints what happens to its processes
                    if address == HERE:
                        said |= {"_system_config": URGENT, "_temp_dir": folder}
                        _begin(cpus, said)
                    else:
                        _check_head(address)
                        ray.init(address, **said)
            except (OSError, ValueError, RuntimeError, RayError) as error:  # among these ConnectionError
                raise InputError(f"--ray {address}: no cluster of Ray answers there: {error}") from None
            except SystemExit as end:  # of Ray's own handler, which says the bare number
                raise SystemExit(FIRST_SIGNAL + signal.SIGTERM if end.code == signal.SIGTERM else end.code) from None
            signal.signal(signal.SIGTERM, _end)  # in place of Ray's
            yield
        finally:
            with redirect_stdout(sys.stderr):
                ray.shutdown()
            signal.signal(signal.SIGTERM, before)


def _begin(cpus: int | None, said: dict[str, Any]) -> None:
    """Start a cluster of this machine with so many processors, `said` being arguments of `ray.init`."""
    import ray

    # A terminal that closes tells all processes in it; those of the cluster are to go on until the command has ended
    # what it does. Ray itself keeps SIGINT from them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        ray.init("local", num_cpus=cpus, include_dashboard=False, **said)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _check_head(address: str) -> None:
    """Raise `OSError` or `ValueError` where nothing listens at an address: Ray itself would try for minutes."""
    if address != RUNNING:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, integer(port)), timeout=5):
            pass


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(FIRST_SIGNAL + number)
