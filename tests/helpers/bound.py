"""`python -m tests.helpers.bound FOLDER`: binds every kernel's launches by Triton's launcher, for a GPU that is not
here.

Beside a captured training step these are the launches of all settings of a composition. What the launcher refuses is
listed, and the exit code is then 1. In a process of its own, because the interpreter, in which tests run kernels, binds
arguments by itself. With names behind FOLDER, what is bound instead are kernels whose argument has one of them.

With `--start` a step's kernels are compiled and started, too, by Triton's own driver on `no_cuda.c`.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver

from compt_fast.kernels import compose, launching
from compt_fast.kernels.launching import Launch, assuming, recorded
from compt_fast.kernels.plan import PRODUCTS, Plan
from compt_fast.kernels.stand_in import standing_in
from compt_fast.ops.compose import plan_text
from tests.helpers import jobs
from tests.helpers.compositions import GRID, SIZES, setting_of
from tests.helpers.recording import as_on_a_gpu, step_launched
from tests.helpers.tiny_t5 import make_t5
from tools import compile_check


class _Direct(torch.autograd.Function):
    """What the registered operator does where tensors have data; to those without it only says their shapes."""

    @staticmethod
    def forward(ctx: Any, plan: str, dtype: torch.dtype, save: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.plan, of = plan, Plan.parsed(plan)
        found = compose._listed(compose.compose_forward(compose.Inputs.of(tensors, of), of, dtype, save), save)
        ctx.tensors, ctx.saved = tensors, found[1:]
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Any, ...]:
        of = Plan.parsed(ctx.plan)
        inputs = compose.Inputs.of(ctx.tensors, of)
        found = compose.compose_backward(grad.contiguous(), inputs, compose._named(ctx.saved, of), of)
        return None, None, None, *found.listed()


def composed(tensors: list[Tensor], plan: str, dtype: torch.dtype, save: bool) -> list[Tensor]:
    """In place of `compose.compose`: its launches are made for tensors without data, too."""
    return list(_Direct.apply(plan, dtype, save, *tensors))


def step_launches(trunk_folder: Path, toys: list[Path], **changes: Any) -> list[Launch]:
    """What a captured training step of one run of each method starts, on tensors without data."""
    changes["device"] = "cpu"
    with pytest.MonkeyPatch.context() as patch:
        as_on_a_gpu(patch)
        patch.setattr(compose, "compose", composed)
        job = jobs.opened(jobs.settings(trunk_folder, toys, **changes))
        names = [path.stem for path in toys]
        return step_launched(
            job, trunk_folder, jobs.planned(job.trunk, names, jobs.settings(trunk_folder, toys, **changes))
        )


def all_launches(folder: Path) -> Iterator[tuple[str, Launch]]:
    """Each launch, and whose it is."""
    toys = [jobs.toy_task(folder, name) for name in ("toy_a", "toy_b")]
    for dtype in ("fp32", "bf16"):
        found = step_launches(make_t5(folder / "trunk"), toys, method="spp,scp,pt", lr_private=0.0, dtype=dtype)
        yield from ((f"step {dtype}", launch) for launch in found)
    for i, setting in enumerate(GRID):
        for sizes in (SIZES[i % len(SIZES)], (8, 3, 5)):
            shape_and_mask = setting_of(setting, sizes)
            if shape_and_mask is not None:
                plan = Plan.parsed(plan_text(*shape_and_mask, PRODUCTS[i % len(PRODUCTS)]))
                yield from ((str(setting), launch) for launch in compile_check.launches(plan))
                yield from ((str(setting), launch) for launch in compile_check.update_launches(plan))
    for target in (80, 90):
        with assuming(target):
            found = [(f"{name}, sm_{target}", launch) for name, launch in compile_check.trunk_launches()]
        yield from found


KERNEL = """
import triton

@triton.jit
def kernel({name}, place):
    pass
"""


def launches_named(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, Launch]]:
    """A launch for each name, of a kernel whose first argument, a tuple of two tensors, has it."""
    for name in names:
        file = folder / f"named_{name}.py"
        file.write_text(KERNEL.format(name=name))
        kernel = runpy.run_path(str(file))["kernel"]
        with recorded() as found:
            place = torch.empty(3, device="meta")
            launching.launch(kernel, 1, {name: (place, place), "place": place})
        yield name, found[0]


def refusal(launch: Launch) -> str:
    """Why Triton's launcher does not take a launch; empty where it does, short of compiling."""
    compiled = []
    with knobs.runtime.scope(), standing_in(90):
        knobs.runtime.jit_cache_hook = lambda **given: compiled.append(given) or True
        launch.kernel.device_caches.clear()
        try:
            launching._start(launch)
        except Exception as error:  # whatever it is, the launch fails
            return f"{type(error).__name__}: {error}"
    return "" if compiled else "the launcher came to no kernel"


class WithoutCuda(CudaDriver):
    """Triton's own driver, which asks torch where it runs: here torch knows no GPU, and `no_cuda.c` is the driver's."""

    def __init__(self, folder: Path) -> None:
        knobs.nvidia.libcuda_path = str(folder)
        library = folder / "libcuda.so.1"
        headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
        source = Path(__file__).with_name("no_cuda.c")
        flags = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-I{headers}", "-o", str(library)]
        subprocess.run([os.environ.get("CC", "cc"), str(source), *flags], check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)  # whoever looks for libcuda.so.1 finds this one
        super().__init__()
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def with_memory(value: Any, given: list[Tensor]) -> Any:
    """An argument with its tensors replaced by some that have memory, until `given` holds two."""
    if isinstance(value, Tensor) and len(given) < 2:
        given.append(torch.empty(4, dtype=value.dtype))
        return given[-1]
    if isinstance(value, tuple):
        changed = [with_memory(each, given) for each in value]
        return type(value)(*changed) if hasattr(value, "_fields") else tuple(changed)
    return value


def start(folder: Path) -> int:
    """Starts a step's kernels, once each; the numbers that `no_cuda.c` prints are those of the launch."""
    toys = [jobs.toy_task(folder, name) for name in ("toy_a", "toy_b")]
    found = step_launches(make_t5(folder / "trunk"), toys, method="spp,scp", dtype="bf16")
    triton.runtime.driver.set_active(WithoutCuda(folder))
    for launch in {launch.kernel: launch for launch in found}.values():
        # The first two tensors get memory, so that one can see them arrive.
        given: list[Tensor] = []
        arguments = {name: with_memory(value, given) for name, value in launch.arguments.items()}
        places = [x.data_ptr() for x in given]
        print("asked", launch.kernel.fn.__name__, launch.programs, 32 * launch.warps, *places, flush=True)
        launching._start(replace(launch, arguments=arguments))
    return 0


def main() -> int:
    """Prints how often each kernel was bound, and each refusal."""
    assert not knobs.runtime.interpret, "the interpreter binds arguments by itself"
    bound: Counter[str] = Counter()
    refused = set()
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    if names == ["--start"]:
        return start(folder)
    for owner, launch in launches_named(folder, names) if names else all_launches(folder):
        name = launch.kernel.fn.__name__
        if why := refusal(launch):
            refused.add(f"{name}, {owner}: {why}")
        else:
            bound[f"{name} of {'a step' if owner.startswith('step') else 'its own'}"] += 1
    print("triton", triton.__version__, "torch", torch.__version__)
    for name, count in sorted(bound.items()):
        print(f"{count:4} {name}")
    for line in sorted(refused):
        print("refused:", line)
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
