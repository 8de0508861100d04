"""How a command line spreads a job over a cluster, and the cluster for as long as it is at work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compt_fast.config.fields import POSITIVE, Flag, flags_of, stated
from compt_fast.utils.cluster import HERE, check_member, connected

if TYPE_CHECKING:
    from compt_fast.scaling.conduct import Scaled

_flag = stated(Flag)


@dataclass(frozen=True)
class Spread:
    """Trainers over the cluster at `address`, one a GPU or, where none is used, one for so many processors.

    Raises `InputError` for what no trainer can be.
    """

    trainers: int | None = field(
        default=None,
        metadata=_flag(
            "trainers on the cluster (default: as many as it has room for, at every moment)", ranges=(POSITIVE,)
        ),
    )
    trainer_cpus: int = field(
        default=1, metadata=_flag("processors that a trainer claims, and threads it computes in", ranges=(POSITIVE,))
    )
    address: str = HERE

    def __post_init__(self) -> None:
        for flag in SPREAD.values():
            flag.check(getattr(self, flag.field))
        check_member(self.address, "keep the run folder for it")

    def says(self, gpus: int) -> str:
        """What a trainer takes."""
        own = f"--trainer-cpus {self.trainer_cpus}"
        return f"{own} and a GPU" if gpus else own


SPREAD: dict[str, Flag] = flags_of(Spread, Flag)


@contextmanager
def scaled(spread: Spread) -> Iterator[Scaled]:
    """What trains on the cluster that a line names, until the end of the context.

    Raises `InputError` where no cluster is.
    """
    with connected(spread.address), _no_gpu():
        from compt_fast.scaling.conduct import Scaled

        made = Scaled(spread)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def _no_gpu() -> Iterator[None]:
    """This process sees none: they are the trainers', and the trunk that jobs are checked with lies on the CPU."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
