"""Triton's own launcher takes every launch, with the versions of Triton that are supported; a GPU stands in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from tests.helpers.tritons import BOTH, python

IN_A_STEP = {"prepare", "encode", "backward_prompts", "backward_layer", "squares", "update"}
IN_A_STEP |= {"_forward", "_backward_queries", "_backward_keys", "_norm", "_norm_backward"}
IN_A_STEP |= {"_products", "_softmax", "_softmax_backward", "_weighted_sum", "_states_grad"}
TAKEN = {"params", "options", "grid", "warmup", "stream", "device", "backend", "specialize_impl", "num_warps"}
"""Names that Triton's launcher has for something else."""


@pytest.mark.parametrize("triton", BOTH)
def test_every_launch_is_taken(triton: str, tmp_path: Path) -> None:
    """Of a whole captured step, with the arguments it really has, and of every setting of a composition."""
    done = python(triton, "-m", "tests.helpers.bound", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    bound = {owner: set(re.findall(rf"\d+ (\w+) of {owner}", done.stdout)) for owner in ("a step", "its own")}
    assert bound == {"a step": IN_A_STEP, "its own": IN_A_STEP | {"gather", "backward_logits", "_newest"}}
    if triton != "installed":
        assert done.stdout.startswith(f"triton {triton}.")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA's own driver is there")
@pytest.mark.parametrize("triton", BOTH)
def test_a_steps_kernels_are_started_with_what_they_are_given(triton: str, tmp_path: Path) -> None:
    """Compiled and loaded, down to the call of CUDA's driver, in whose place stands one that only prints."""
    done = python(triton, "-m", "tests.helpers.bound", str(tmp_path), "--start")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {words[1] for words in lines} == IN_A_STEP
    for asked, started in zip(lines[::2], lines[1::2], strict=True):
        assert (asked[0], started[0]) == ("asked", "started")
        assert started[1 : len(asked)] == asked[1:]


def test_a_name_that_the_launcher_has_for_something_else_is_refused(tmp_path: Path) -> None:
    done = python("installed", "-m", "tests.helpers.bound", str(tmp_path), *TAKEN, "parameters")
    refused = set(re.findall(r"^refused: kernel, (\w+):", done.stdout, re.MULTILINE))
    assert done.returncode == 1 and refused == TAKEN, done.stdout + done.stderr
