"""A cluster of Ray: joined or started for a server, with replicas of its trunk, and left at its end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from compt_fast.config.choices import AUTO
from compt_fast.config.fields import POSITIVE, Flag, Kind, flags_of, stated
from compt_fast.serving.limits import Limits
from compt_fast.utils.errors import FIRST_SIGNAL, InputError
from compt_fast.utils.numbers import integer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from compt_fast.prediction.predictor import Predictor
    from compt_fast.serving.service import Answers

HERE = "here"
"""The address of a cluster that does not run yet: one on this machine, for as long as the server runs."""
MOST_REQUESTS = 256  # that a replica works on at a time, so that batches fill; others wait where they came in
BUSY_REQUESTS = 32  # a replica's, on average, above which another one is started
MORE_SECONDS, FEWER_SECONDS = 10, 300  # that there have to be too many requests, or too few, before replicas change
_flag = stated(Flag)


def _span(text: str) -> str:
    """A number, or a least and a most one, as they were written; `ValueError` for what is neither."""
    parts = [integer(part) for part in text.split("-")]
    if not 1 <= len(parts) <= 2 or parts[0] < 1 or parts[-1] < parts[0]:
        raise ValueError(text)
    return text


SPAN = Kind(_span, "a number of at least 1, or two as in 1-4", "N|MIN-MAX")


@dataclass(frozen=True)
class Replication:
    """How a trunk is replicated over the cluster at `address`. Raises `InputError` for what no replica can be."""

    replicas: str = field(
        default="1", metadata=_flag("replicas of the trunk; MIN-MAX follows the load between the two", kind=SPAN)
    )
    replica_cpus: int = field(
        default=1, metadata=_flag("processors that a replica claims, and threads it computes in", ranges=(POSITIVE,))
    )
    address: str = HERE

    def __post_init__(self) -> None:
        REPLICATION["replica_cpus"].check(self.replica_cpus)
        if self.address.startswith("ray://"):
            raise InputError(
                f"--ray {self.address}: a client of a cluster cannot listen for it; run this on a machine of the "
                "cluster, with --ray auto, or give the address of its head, HOST:6379"
            )

    @property
    def least(self) -> int:
        """Replicas at least."""
        return int(self.replicas.split("-")[0])

    @property
    def most(self) -> int:
        """Replicas at most."""
        return int(self.replicas.split("-")[-1])

    def options(self, gpus: int, timeout: float) -> dict[str, Any]:
        """What Ray Serve is told of the deployment, each replica of which has `gpus`, and a request `timeout` s."""
        scaled: dict[str, Any] = {"num_replicas": self.least}
        if self.most > self.least:
            scaled = {
                "autoscaling_config": {
                    "min_replicas": self.least,
                    "max_replicas": self.most,
                    "target_ongoing_requests": BUSY_REQUESTS,
                    "upscale_delay_s": MORE_SECONDS,
                    "downscale_delay_s": FEWER_SECONDS,
                }
            }
        return scaled | {
            "ray_actor_options": {"num_cpus": self.replica_cpus, "num_gpus": gpus},
            "max_ongoing_requests": MOST_REQUESTS,
            "graceful_shutdown_timeout_s": timeout,
        }


REPLICATION: dict[str, Flag] = flags_of(Replication, Flag)


@dataclass(frozen=True)
class Weightless:
    """What is asked of a trunk by those who check prompts and encode rows for it; its weights lie elsewhere."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    prompt_position: str
    d_model: int
    device: torch.device

    @classmethod
    def of(cls, predictor: Predictor) -> Predictor:
        """A predictor of the same prompts, which answers nothing itself and holds no weights."""
        from compt_fast.models.api import Trunk
        from compt_fast.prediction.predictor import Predictor

        of = predictor.trunk
        trunk = cast(Trunk, cls(of.name, of.tokenizer, of.prompt_position, of.d_model, of.device))
        assert predictor.belonging is not None
        return Predictor(trunk, predictor.prompts, replace(predictor.belonging, trunk=trunk))


@contextmanager
def replicated(predictor: Predictor, asked: Replication, limits: Limits, name: str) -> Iterator[Answers]:
    """What answers with replicas of a predictor's trunk, which run until the end of the context.

    `name` is what the cluster calls the application: another one of that name is replaced. Raises `InputError` where
    there is no cluster, and where no replica starts.
    """
    import ray
    from ray import serve

    from compt_fast.serving.replicas import Replica, Replicas

    assert predictor.belonging is not None
    settings, made_of = predictor.belonging.settings, predictor.belonging.made_of
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # which its import has set
    with redirect_stdout(sys.stderr), _connected(asked):  # Ray prints what happens to its processes
        gpus = int(settings.device == "cuda" or (settings.device == AUTO and "GPU" in ray.cluster_resources()))
        deployment = serve.deployment(name="trunk", **asked.options(gpus, limits.timeout))(Replica)
        try:
            serve.start(proxy_location="Disabled")  # the server's own process listens
            application = deployment.bind(settings, made_of, limits, asked.replica_cpus)
            try:
                handle = serve.run(application, name=name, route_prefix=None)
            except RuntimeError as error:
                raise InputError(f"--ray: no replica of the trunk starts: {error}") from error
            yield partial(Replicas, handle)
        finally:
            if asked.address != HERE:  # what is there for this server alone ends with its cluster
                serve.delete(name)


@contextmanager
def _connected(asked: Replication) -> Iterator[None]:
    """Within it, Ray's cluster is there for this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of this server
    import ray

    said: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    # A short path: sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="compt-fast-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            if asked.address == HERE:
                cpus = asked.most * asked.replica_cpus
                # A terminal that closes tells all processes in it; those of the cluster are to go on until the server
                # has answered what it holds. Ray itself keeps SIGINT from them.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
                # Replicas are as urgent as this process, which waits for them; Ray's own way is a niceness of 15.
                said |= {"_system_config": {"worker_niceness": 0}, "_temp_dir": folder}
                ray.init("local", num_cpus=cpus, include_dashboard=False, **said)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            else:
                _check_head(asked.address)
                ray.init(asked.address, **said)
        except (OSError, ValueError) as error:  # among these ConnectionError
            raise InputError(f"--ray {asked.address}: no cluster of Ray answers there: {error}") from None
        signal.signal(signal.SIGTERM, _end)  # Ray's own handler ends with another exit code
        try:
            yield
        finally:
            ray.shutdown()


def _check_head(address: str) -> None:
    """Raise `OSError` or `ValueError` where nothing listens at an address: Ray itself would try for minutes."""
    if address != AUTO:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, integer(port)), timeout=5):
            pass


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(FIRST_SIGNAL + number)
