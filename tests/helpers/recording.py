"""On a CPU, what a CUDA graph is on a GPU: steps that are noted once and repeated on the same memory; and the rules
that a capture lays down, kept by force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from compt_fast import native
from compt_fast.kernels import adamw, launching
from compt_fast.kernels.launching import Launch
from compt_fast.models.checkpoint import load_checkpoint
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.t5.weights import Weights
from compt_fast.ops import attention, paths
from compt_fast.ops import compose as fused
from compt_fast.ops.attention import attend, attend_backward
from compt_fast.ops.varlen import VarlenLayout
from compt_fast.runs.job import Job
from compt_fast.training import graphs
from compt_fast.training.cohort import Cohort, Member
from compt_fast.training.graphs import FixedStep, Graphs
from compt_fast.training.plan import Run
from compt_fast.training.step import pack

Work = Callable[[], None]


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that a GPU would run, on this CPU: kernels in Triton's interpreter, nothing compiled for the CPU."""
    monkeypatch.setattr(native, "load", lambda: False)
    for module in (fused, adamw, paths, graphs):
        monkeypatch.setattr(module, "unavailable", lambda device: "")
    monkeypatch.setattr(adamw, "PARTS", 4)  # less for the interpreter to do


def quick_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the trunk's kernels, which take long in the interpreter, their formulas; and in place of the
    attention's what they promise and no more: nothing is written behind the last row's end.
    """
    for family in ("norm_activation", "cross_attention", "newest_attention"):
        monkeypatch.setitem(paths.FAMILIES, family, replace(paths.FAMILIES[family], triton=""))
    quick = SimpleNamespace(attention_fwd=_forward, attention_bwd=_backward)
    monkeypatch.setattr(attention, "kernels", lambda family: quick)


def _layout(cu_seqlens: Tensor, qkv: Tensor, bias: Tensor, longest: int) -> tuple[VarlenLayout, int]:
    cu_seqlens = cu_seqlens.cpu()
    layout = VarlenLayout(cu_seqlens, cu_seqlens, qkv.device, 64, bias)
    assert layout.max_seqlen <= longest <= bias.shape[1] // 2 + 1
    return layout, int(cu_seqlens[-1])


# Operators, so that they are noted as one step.
@torch.library.custom_op("compt_fast_tests::attention_fwd", mutates_args=())
def _forward(qkv: Tensor, cu_seqlens: Tensor, bias: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    with torch._C.DisableTorchFunction():
        layout, end = _layout(cu_seqlens, qkv, bias, longest)
        out = torch.full_like(qkv[:, 0], torch.nan)
        out[:end] = attend(*qkv[:end].unbind(1), layout)
        return out, out.new_full(out.shape[:2], torch.nan, dtype=torch.float32)


@torch.library.custom_op("compt_fast_tests::attention_bwd", mutates_args=())
def _backward(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, cu_seqlens: Tensor, bias: Tensor, longest: int
) -> Tensor:
    with torch._C.DisableTorchFunction():
        layout, end = _layout(cu_seqlens, qkv, bias, longest)
        found = torch.full_like(qkv, torch.nan)
        found[:end] = torch.stack(attend_backward(grad[:end], *qkv[:end].unbind(1), layout), 1)
        return found


class Recording(TorchDispatchMode):
    """Inside, every operator and every kernel's launch is done and noted, with the very tensors that it took and gave.

    `replay` does them again on whatever those tensors hold then, as a graph does. Memory that nothing was written to
    holds NaN.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[Callable[[], None]] = []
        self._within = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._within += 1
        found = func(*args, **kwargs)
        self._within -= 1
        name = func.overloadpacket.__name__
        made = [x for x in tree_leaves(found) if isinstance(x, Tensor)]

        def again() -> None:
            redone = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for old, new in zip(made, redone, strict=True):
                assert old.shape == new.shape and old.dtype == new.dtype, name
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)

        def forget() -> None:
            for old in made:
                if old.is_floating_point():
                    old.fill_(torch.nan)

        empty = name.startswith(("empty", "new_empty"))
        self._steps.append(forget if empty else again)
        if empty:
            with torch.no_grad():
                forget()
        return found

    def __enter__(self) -> Recording:
        self._before = launching._starter

        def note(launch: launching.Launch) -> None:
            with _disable_current_modes():  # the interpreter's own operators are no part of it
                launching._start(launch)
            if not self._within:  # else it belongs to an operator, which starts it again itself
                self._steps.append(lambda: launching._start(launch))

        launching._starter = note
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        launching._starter = self._before
        super().__exit__(*error)

    @torch.no_grad()
    def replay(self) -> None:
        for step in self._steps:
            step()


HOST_CALLS = {
    "tolist", "item", "numpy", "cpu", "cuda", "pin_memory", "__bool__", "__int__", "__float__", "__index__",
    "tensor", "as_tensor", "from_numpy", "scalar_tensor", "asarray",
}  # fmt: skip
MAKERS = {"arange", "zeros", "ones", "full", "empty", "rand", "randn", "linspace", "eye"}
WAITING = {
    "_local_scalar_dense", "nonzero", "nonzero_static", "masked_select", "unique", "_unique2", "unique_dim", "bincount",
    "equal", "is_nonzero", "lift_fresh", "lift", "_pin_memory", "histc",
}  # fmt: skip


class Unlawful(Exception):
    """What no capture could hold was asked for."""


class _NoHostCalls(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in HOST_CALLS or (name in MAKERS and kwargs.get("device") is None):
            raise Unlawful(f"{name}: data of the host's")
        if name == "to" and any(isinstance(x, str | torch.device) for x in (*args, kwargs.get("device"))):
            raise Unlawful("to: a copy between devices")
        return func(*args, **kwargs)


class _NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            raise Unlawful(f"{func}: the host would wait for the device")
        if name == "segment_reduce" and not kwargs.get("unsafe"):
            raise Unlawful(f"{func}: checks its lengths on the host")
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices):
            raise Unlawful(f"{func}: a mask's true places are counted on the host")
        if name == "where" and any(isinstance(x, Tensor) and x.dim() == 0 for x in args):
            raise Unlawful(f"{func}: copies a number to the device")
        return func(*args, **kwargs)


@contextmanager
def lawful() -> Iterator[None]:
    """Inside, `Unlawful` is raised by what waits for a device or reads the host's memory."""
    with _NoHostCalls(), _NoWaiting():
        yield


class CpuRecorder:
    """`compt_fast.training.graphs.Recorder` by `Recording`; it adds to `captures` which runs each is of."""

    def __init__(self, captures: list[list[str]]) -> None:
        self._captures = captures
        self._current: set[Recording] = set()

    def forget(self) -> None:
        self._current.clear()

    def warm_up(self, work: Work) -> None:
        with lawful():
            work()

    def capture(self, work: Work) -> Work:
        step: FixedStep = work.__self__  # type: ignore[attr-defined]
        changed = [tensor for cohort in step.cohorts for tensor in state_of(cohort)]
        before = [tensor.detach().clone() for tensor in changed]
        recording = Recording()
        with recording:
            work()
        with torch.no_grad():  # a capture only notes
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
        self._captures.append([member.run.id for cohort in step.cohorts for member in cohort.members])
        self._current.add(recording)

        def replay() -> None:
            assert recording in self._current, "repeated after it was forgotten"
            recording.replay()

        return replay


def state_of(cohort: Cohort) -> list[Tensor]:
    """What a step changes of a cohort."""
    assert cohort.optim is not None
    return [*cohort.params.values(), *cohort.optim.first.values(), *cohort.optim.second.values()]


def on_meta(trunk: PackedTrunk, folder: Path) -> PackedTrunk:
    """The trunk, whose checkpoint is in `folder`, without data, on a device that is not the host's."""
    away = copy(trunk)
    away.weights = Weights.from_model(load_checkpoint(folder, trunk.dtype)[0].to("meta"))
    return away


class OneDevice(TorchDispatchMode):
    """Inside, no operator takes or makes a tensor of the host's; numbers that Python wraps aside."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
        if any(x.device.type == "cpu" and x.dim() for x in given) or any(x.device.type == "cpu" for x in made):
            raise Unlawful(f"{func}: a tensor of the host's")
        return found


def step_launched(job: Job, trunk_folder: Path, runs: Sequence[Run]) -> list[Launch]:
    """What a captured training step of `runs`, each a cohort of its own, starts, on tensors without data."""
    assert isinstance(job.trunk, PackedTrunk)
    trunk = on_meta(job.trunk, trunk_folder)
    cohorts = []
    for run in runs:
        member = Member(run, job.data.training(run.config))
        cohorts.append(Cohort(run.shape, trunk.embedding))
        cohorts[-1].admit(member)
    fitted = Graphs(trunk, CpuRecorder([])).fit(cohorts, pack(cohorts))
    assert fitted is not None
    step = FixedStep(trunk, cohorts, fitted)
    step.put(fitted)
    with launching.recorded() as launches, OneDevice():
        step.run()
    return launches
