"""A cluster of Ray: joined or started for a server, with replicas of its trunk, and left at its end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from compt_fast.config.fields import POSITIVE, Flag, Kind, flags_of, stated
from compt_fast.serving.limits import Limits
from compt_fast.utils.cluster import HERE, check_member, connected, gpus_each, machines, slots
from compt_fast.utils.errors import InputError
from compt_fast.utils.numbers import integer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from compt_fast.prediction.predictor import Predictor
    from compt_fast.serving.service import Answers

REQUESTS_A_REPLICA = 256  # that a replica works on at a time, so that batches fill; others wait where they came in
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
        check_member(self.address, "listen for it")

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
            "max_ongoing_requests": REQUESTS_A_REPLICA,
            "graceful_shutdown_timeout_s": timeout,
        }


REPLICATION: dict[str, Flag] = flags_of(Replication, Flag)


@dataclass(frozen=True)
class Weightless:
    """What is asked of a trunk by those who check prompts and encode rows for it; its weights lie elsewhere."""

    name: str
    family: str
    sha256: str
    tokenizer: PreTrainedTokenizerBase
    prompt_position: str
    d_model: int
    device: torch.device

    def fingerprint(self) -> str:
        """As the trunk's."""
        return self.sha256

    @classmethod
    def of(cls, predictor: Predictor) -> Predictor:
        """A predictor of the same prompts, which answers nothing itself and holds no weights."""
        from compt_fast.models.api import Trunk
        from compt_fast.prediction.predictor import Predictor

        of = predictor.trunk
        said = (of.name, of.family, of.fingerprint(), of.tokenizer, of.prompt_position, of.d_model, of.device)
        trunk = cast(Trunk, cls(*said))
        assert predictor.belonging is not None
        return Predictor(trunk, predictor.prompts, replace(predictor.belonging, trunk=trunk))


@contextmanager
def replicated(predictor: Predictor, asked: Replication, limits: Limits, name: str) -> Iterator[Answers]:
    """What answers with replicas of a predictor's trunk, which run until the end of the context.

    `name` is what the cluster calls the application: another one of that name is replaced. Raises `InputError` where
    there is no cluster, where it has no room for them, and where no replica starts.
    """
    assert predictor.belonging is not None
    settings, made_of = predictor.belonging.settings, predictor.belonging.made_of
    here = asked.most * asked.replica_cpus
    with redirect_stdout(sys.stderr), connected(asked.address, here):  # Ray prints what happens to its processes
        from ray import serve
        from ray.exceptions import RayError

        from compt_fast.serving.replicas import Replica, Replicas

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # which its import has set
        gpus = gpus_each(settings.device)
        check_room(asked, gpus, machines())
        deployment = serve.deployment(name="trunk", **asked.options(gpus, limits.timeout))(Replica)
        application = deployment.bind(settings, made_of, predictor.trunk.fingerprint(), limits, asked.replica_cpus)
        began = False
        try:
            try:
                serve.start(proxy_location="Disabled")  # the server's own process listens
                began = True
                handle = serve.run(application, name=name, route_prefix=None)
            except (RuntimeError, RayError) as error:
                raise InputError(f"--ray: no replica of the trunk starts: {error}") from error
            yield partial(Replicas, handle)
        finally:
            if began and asked.address != HERE:  # what is there for this server alone ends with its cluster
                with suppress(RayError):  # the cluster may have ended before
                    serve.delete(name)


def check_room(asked: Replication, gpus: int, machines: Sequence[Mapping[str, float]]) -> None:
    """Raise `InputError` unless `machines`, each with so many "CPU" and "GPU", have room for the least replicas asked
    for, each with `gpus`: Ray Serve itself would wait for such machines without end.
    """
    room = slots(machines, asked.replica_cpus, gpus)
    if room < asked.least:
        each = f"--replica-cpus {asked.replica_cpus}" + (f" and {gpus} GPU" if gpus else "")
        has = ", ".join(f"{machine.get('CPU', 0):g} and {machine.get('GPU', 0):g}" for machine in machines)
        raise InputError(
            f"--replicas {asked.replicas}: the cluster has room for {room} of {each}; its machines have processors and "
            f"GPUs: {has}" + ("; --device cpu takes no GPU" if gpus else "")
        )
