"""`python -m tools.compile_check`: compiles every kernel for GPUs that need not be here.

Prints registers, shared memory and spills of each as ptxas reports them, the programs that so fit a multiprocessor, the
instruction that multiplies, and how much of global memory is read and written 16 bytes at a time. Exits with 1 if one
spills, keeps anything else in local memory, or needs more shared memory than the smallest of the GPUs has. `--out`
keeps it all as JSON. What is compiled are the launches that `compose` and `adamw` make for typical cohorts, and those
of T5's layers, on tensors without memory. Arguments are bound and specialised by Triton's own launcher, so that what it
refuses fails here too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs

from compt_fast.kernels import adamw, attention, newest_attention, norms
from compt_fast.kernels.compose import Inputs, compose_backward, compose_forward
from compt_fast.kernels.launching import Launch, assuming, recorded
from compt_fast.kernels.plan import Plan
from compt_fast.kernels.stand_in import standing_in
from compt_fast.ops.cross_attention import KernelStates
from compt_fast.utils.files import write_json
from tools import machine_code
from tools.machine_code import Needs

TARGETS = (80, 90, 100)
SHARED = 99 * 1024  # bytes a program may take on compute capability 8.6; others have more
BASE = Plan(
    composition="spp",
    tasks=8,
    sources=3,
    privates=8,
    n_weights=3,
    length=5,
    d=768,
    hidden=768,
    encoder="mlp",
    per_prompt=True,
    shared=False,
    normaliser="softmax",
    tau=1.0,
    gates="learned",
    mask="none",
    private_on=True,
    products="tf32x3",
)
LINEAR = replace(BASE, length=10, encoder="linear", hidden=0, gates="none")
INSIDE = replace(LINEAR, composition="inside", sources=8, n_weights=9, per_prompt=False, shared=True, tau=0.35)
PT: dict[str, Any] = {"composition": "pt", "sources": 0, "n_weights": 0, "normaliser": "constant", "gates": "none"}
PLANS = {
    "spp": BASE,
    "spp m=100": replace(BASE, length=100),
    "scp N=10": replace(BASE, composition="scp", sources=10, n_weights=10, normaliser="sparsemax"),
    "slpn": INSIDE,
    "none": replace(BASE, encoder="none", hidden=0, gates="tied", mask="before"),
    "pt": replace(BASE, **PT),
    "mst": replace(BASE, **PT | {"composition": "mst", "sources": 1, "n_weights": 1}, privates=0),
    "p": replace(LINEAR, **PT),
    "low-rank m=100": replace(LINEAR, **PT, length=100, width=10),
    "sln": replace(INSIDE, privates=0, n_weights=8),
    "slpn m=100": replace(INSIDE, length=100),
    "by role": replace(BASE, per_prompt=False, gates="learned-global", mask="after"),
    "by role m=40": replace(BASE, per_prompt=False, length=40),
    "spp 100 tasks": replace(BASE, tasks=100, privates=100, sources=31, n_weights=31, normaliser="sparsemax"),
    "spp d=500": replace(BASE, d=500, hidden=300),
    **{f"spp {products}": replace(BASE, products=products) for products in ("fp32", "tf32", "bf16")},
    **{f"spp m=100 {products}": replace(BASE, length=100, products=products) for products in ("tf32", "bf16")},
}
"""Typical cohorts of a t5-base; the first five have every kernel."""

ATTENTION = {
    f"attention {name}": (dtype, width, max_seqlen)
    for name, dtype, width, max_seqlen in (
        ("bf16", torch.bfloat16, 64, 200),
        ("fp32", torch.float32, 64, 200),
        ("11b", torch.bfloat16, 128, 200),
        ("1 tile", torch.bfloat16, 64, 9),
    )
}
"""Dtype and width of a head, 64 in all checkpoints but T5's largest, and the longest row: for rows of a single tile
Triton compiles a kernel of its own.
"""
WIDTHS = {
    f"d={width} {name}": (dtype, width, max_queries, max_keys)
    for width, name, dtype, max_queries, max_keys in (
        (768, "bf16", torch.bfloat16, 48, 250),
        (768, "fp32", torch.float32, 48, 250),
        (512, "1 label", torch.bfloat16, 8, 40),
        (4096, "bf16", torch.bfloat16, 256, 2048),
    )
}
"""Dtype and width of the trunk, and the most queries and keys of a row: for the norms and the cross-attention."""


@dataclass(frozen=True)
class Usage:
    """What a program of a compiled kernel takes, `local` bytes a thread (its spills among them) included; what it
    multiplies with; and its accesses of global memory by their bytes.
    """

    plan: str
    kernel: str
    target: int
    needs: Needs
    spilled: int = 0
    local: int = 0
    products: str = ""
    accesses: dict[int, int] = field(default_factory=dict)

    @property
    def fails(self) -> bool:
        """Whether it is slow for a reason that a kernel here may not have, or runs not everywhere."""
        return self.spilled > 0 or self.local > 0 or self.needs.shared > SHARED

    @property
    def programs(self) -> int:
        """That a multiprocessor holds at a time."""
        return self.needs.programs(self.target)

    def line(self) -> str:
        """Of the report."""
        wide, needs = self.accesses.get(16, 0), self.needs
        return (
            f"{self.plan:16} {self.kernel:17} {'sm_' + str(self.target):>7} {needs.registers:9} {needs.shared:7} "
            f"{self.spilled:7} {self.programs:8} {self.programs * needs.warps:5} {self.products or '-':>9} "
            f"{wide:4} of {sum(self.accesses.values()):3}"
        )


def empty_inputs(plan: Plan, runs: int, device: str = "meta") -> Inputs:
    """Inputs of the plan's shapes with nothing in them."""

    def new(*size: int) -> Tensor:
        return torch.empty(runs, *size, device=device)

    def encoder(prompts: int) -> list[Tensor]:
        count = prompts if plan.per_prompt else 1
        sizes = [(plan.hidden, plan.d)] if plan.encoder == "mlp" else []
        sizes += [(plan.d, plan.last_inner)] if plan.encoder != "none" else []
        return [new(count, *size) for out in sizes for size in (out, out[:1])]

    n, t = plan.sources, plan.privates
    gates = {"learned": (plan.tasks, 2), "learned-global": (1, 2), "tied": (plan.tasks, 1), "fixed": None, "none": None}
    size = gates[plan.gates]
    return Inputs(
        new(n, plan.length, plan.width or plan.d) if n else None,
        new(t, plan.length, plan.width or plan.d) if t else None,
        encoder(n) if n else [],
        encoder(t) if t and not plan.shared else [],
        new(plan.tasks, plan.n_weights) if plan.has_router else None,
        None if size is None else new(*size),
        torch.empty(plan.n_weights, device=device) if plan.mask != "none" else None,
    )


def launches(plan: Plan, runs: int = 2) -> list[Launch]:
    """What a step of a cohort starts, but for the update."""
    inputs = empty_inputs(plan, runs)
    dtype = torch.bfloat16 if plan.products == "bf16" else torch.float32
    with recorded() as found:
        outputs = compose_forward(inputs, plan, dtype, save=True)
        assert outputs["targets"] is not None
        compose_backward(torch.empty_like(outputs["targets"]), inputs, outputs, plan)
    return found


def update_launches(plan: Plan, runs: int = 2) -> list[Launch]:
    """What an update starts."""
    params = empty_inputs(plan, runs).listed()
    table = torch.empty(runs, len(params) + 4, dtype=torch.float64, device="meta")
    healthy = torch.empty(runs, dtype=torch.bool, device="meta")
    with recorded() as found:
        adamw.by_kernel(params, params, params, params, table, healthy)
    return found


def attention_launches(dtype: torch.dtype, width: int, max_seqlen: int) -> list[Launch]:
    """What a layer's attention starts, forward and backward, and that of a token that is written."""
    heads, device = 12, "meta"
    qkv = torch.empty(2 * max_seqlen, 3, heads, width, dtype=dtype, device=device)
    cu_seqlens = torch.empty(3, dtype=torch.int64, device=device)
    bias = torch.empty(heads, 2 * max_seqlen - 1, device=device)
    with recorded() as found:
        out, lse = attention.attention_fwd(qkv, cu_seqlens, bias, max_seqlen)
        attention.attention_bwd(torch.empty_like(out), qkv, out, lse, cu_seqlens, bias, max_seqlen)
        cache = torch.empty(len(qkv), 6, 2, heads, width, dtype=dtype, device=device)
        newest_attention.attend_newest(qkv, cache, 2, bias)
    return found


def width_launches(dtype: torch.dtype, width: int, max_queries: int, max_keys: int) -> list[Launch]:
    """What a norm and a layer's cross-attention start, forward and backward, each kernel once."""
    queries, states = (torch.empty(n, width, dtype=dtype, device="meta") for n in (max_queries + 1, max_keys + 3))
    cu_seqlens = torch.empty(3, dtype=torch.int64, device="meta")
    with recorded() as found:
        y, r = norms.rms_norm(states, 1e-6)
        norms.rms_norm_backward_(y, y, r, states)
        shared = KernelStates(states, cu_seqlens, cu_seqlens, max_queries, max_keys)
        out, saved = shared.attend(queries)
        shared.attend_backward(out, queries, saved)
    return list({launch.kernel: launch for launch in found}.values())


def usage(plan: str, launch: Launch, target: int) -> Usage:
    """Compiles the kernel of a launch for a compute capability (80 for 8.0)."""
    log = io.StringIO()
    # What was compiled before is not compiled again, and has no log.
    launch.kernel.device_caches.clear()
    with knobs.nvidia.scope(), knobs.compilation.scope(), standing_in(target), contextlib.redirect_stdout(log):
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True
        compiled = launch.kernel.warmup(**launch.arguments, grid=(launch.programs,), **launch.options)
    bytes_of = {what: re.findall(rf"(\d+) bytes {what}", log.getvalue()) for what in ("spill", "stack frame")}
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", log.getvalue())]
    if not registers or not all(bytes_of.values()):
        raise RuntimeError(f"ptxas reported no registers or no spills: {log.getvalue()!r}")
    spilled, local = (sum(map(int, found)) for found in bytes_of.values())
    has, ptx = compiled.metadata, compiled.asm["ptx"]
    needs = Needs(launch.warps, max(registers), has.shared, getattr(has, "tmem_size", 0) or 0)
    name, products = launch.kernel.fn.__name__, machine_code.products(ptx)
    return Usage(plan, name, target, needs, spilled, local, products, machine_code.accesses(ptx))


def trunk_launches() -> Iterator[tuple[str, Launch]]:
    """Each launch of T5's layers, and of what."""
    for name, heads in ATTENTION.items():
        yield from ((name, launch) for launch in attention_launches(*heads))
    for name, sizes in WIDTHS.items():
        yield from ((name, launch) for launch in width_launches(*sizes))


def all_launches(plans: Sequence[str], target: int) -> list[tuple[str, Launch]]:
    """Each launch of the plans, the update and the trunk as for a target, and of what."""
    odd = replace(BASE, tasks=7, privates=7)  # its router has no multiple of four values
    updates = {"update": BASE, "update, 7 tasks": odd}
    with assuming(target):
        found = [(name, launch) for name in plans for launch in launches(PLANS[name])]
        found += [(name, launch) for name, plan in updates.items() for launch in update_launches(plan)]
        return [*found, *trunk_launches()]


def check(plans: Sequence[str], targets: Sequence[int]) -> Iterator[Usage]:
    """Compiles all kernels of the plans, and the update's and the trunk's, for each target."""
    for target in targets:
        for name, launch in all_launches(plans, target):
            yield usage(name, launch, target)


def report(found: Sequence[Usage]) -> dict[str, Any]:
    """What `--out` keeps."""
    kernels = [{**asdict(used), "programs": used.programs, "warps": used.programs * used.needs.warps} for used in found]
    return {
        "of": "a program of each compiled kernel; programs and warps are those that a multiprocessor holds at a time; "
        "accesses are instructions that read or write global memory, by the bytes that a thread's one does",
        "triton": triton.__version__,
        "kernels": kernels,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report; 1 if a kernel spills or needs too much shared memory, else 0."""
    parser = argparse.ArgumentParser(description="Compile every kernel; fail if one spills.")
    parser.add_argument("--plan", choices=PLANS, action="append", help="only this; may be repeated")
    parser.add_argument("--target", type=int, choices=TARGETS, action="append", help="only this; may be repeated")
    parser.add_argument("--out", type=Path, help="keep what is found in this file, as JSON")
    arguments = parser.parse_args(argv)
    print(
        f"{'plan':16} {'kernel':17} {'target':>7} {'registers':>9} {'shared':>7} {'spilled':>7} {'programs':>8} "
        f"{'warps':>5} {'products':>9} 16 bytes"
    )
    found = []
    for used in check(arguments.plan or list(PLANS), arguments.target or TARGETS):
        found.append(used)
        print(used.line(), flush=True)
    bad = sum(used.fails for used in found)
    if arguments.out:
        write_json(arguments.out, report(found))
    print(
        f"{bad} of {len(found)} compiled kernels spill, use local memory or more than {SHARED} bytes of shared memory"
    )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
