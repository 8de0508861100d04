"""The CUDA kernels without a device: compiled for the host, under sanitizers, against the operator on the CPU."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compt_fast import native
from compt_fast.ops import assembly
from tests.helpers.assembly import case, needed
from tests.helpers.host_cuda import ADDRESSES, FLOATS, KERNELS, RACES, Case, Failure, build, missing, run

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.skipif(sys.platform != "linux", reason="its coroutines and sections are known to work on Linux"),
]

INDICES = ("prompt_cu_seqlens", "slots", "input_cu_seqlens", "token_ids")
WILD = (-(2**63), 2**63 - 1, -(2**62), 2**62, -1, 1, 3, 99)
ROWS = range(1100)
PAST_ONE_SLICE = ([3, 0, 1], [row % 61 == 0 for row in ROWS], [int(row % 53 > 0) for row in ROWS])
"""Lengths of prompts and rows, and slots. A block adds up 1,024 rows at a time; most are empty, for speed."""


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert native.load(), native.status().why


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host_cuda")


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    """Stops at the first access outside a tensor, misaligned access, or undefined operation."""
    return build(folder / "addresses", ADDRESSES)


def changed(folder: Path, old: str, new: str) -> Path:
    """The kernels with `new` wherever `old` stands."""
    text = KERNELS.read_text(encoding="utf-8")
    assert old in text, f"{old!r} does not stand in {KERNELS.name} any more"
    copy = folder / f"changed{len(list(folder.glob('*.cu')))}.cu"
    copy.write_text(text.replace(old, new), encoding="utf-8")
    return copy


def job(
    *args: Any,
    slack: int = 0,
    strides: dict[str, int] | None = None,
    shifts: dict[str, int] | None = None,
    **kwargs: Any,
) -> Case:
    """A `case` and a gradient; the matrices named in `strides` become parts of rows of so many elements."""
    arguments = case(*args, **kwargs)
    embedding = arguments["embedding"]
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(needed(arguments) + slack, embedding.shape[1], generator=generator).to(embedding.dtype)
    matrices = {"prompts": arguments["prompts"], "embedding": embedding, "grad": grad}
    for name, stride in (strides or {}).items():
        matrix = matrices[name]
        wider = torch.full((len(matrix), stride), torch.nan, dtype=matrix.dtype)
        wider[:, : matrix.shape[1]] = matrix
        matrices[name] = wider[:, : matrix.shape[1]]
    grad = matrices.pop("grad")
    return Case(arguments | matrices, grad, shifts or {})


def same(got: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(got, right, rtol=0, atol=0)


def check(program: Path, jobs: Sequence[Case]) -> None:
    """Offsets, values and gradient are those of the compiled and of the plain operator, to the bit."""
    for one, (cu_seqlens, packed, grad) in zip(jobs, run(program, jobs), strict=True):
        prompts = one.arguments["prompts"].detach().clone().requires_grad_()
        arguments = one.arguments | {"prompts": prompts, "total": len(one.grad)}
        for assemble in (torch.ops.compt_fast.assemble, assembly.formula):
            right, right_cu_seqlens = assemble(**arguments)
            (right_grad,) = torch.autograd.grad(right, prompts, one.grad)
            same(cu_seqlens, right_cu_seqlens)
            same(packed, right.detach())
            same(grad.to(prompts.dtype), right_grad)


def test_every_pair_of_types(program: Path) -> None:
    pairs = [(prompt, trunk, prepend) for prompt in FLOATS for trunk in FLOATS for prepend in (True, False)]
    check(
        program, [job(prompt_type=p, trunk_type=t, prepend=prepend, width=19 + 5 * prepend) for p, t, prepend in pairs]
    )


def test_widths_lengths_and_slack(program: Path) -> None:
    lengths = [((5,), (3,)), ((0,), (4, 1)), ((10, 3), (0, 0, 5)), ((40, 0, 2), (1, 31, 17, 1, 32))]
    jobs = [
        job(*lengths[i % 4], width=width, prepend=bool(i % 2), trunk_type=kind, slack=7 * i, seed=i)
        for i, width in enumerate((1, 7, 8, 16, 31, 257, 768, 769))
        for kind in (torch.float32, torch.bfloat16)
    ]
    check(program, jobs)


def test_numbers_of_rows(program: Path) -> None:
    slots = 27
    check(
        program, [job((1,) * slots, [row % 3 for row in range(rows)], width=8) for rows in (1, 31, 32, 33, 432, 1024)]
    )
    check(program, [job(*PAST_ONE_SLICE, width=8), job((2,), (1,) * 200, width=8, vocabulary=1)])


def test_nothing_in_it(program: Path) -> None:
    lengths: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ()), ((3,), ()), ((0,), (0, 0)), ((2, 0), (0,))]
    check(program, [job(*both, [0] * len(both[1]), width=width) for both in lengths for width in (0, 8)])


@pytest.mark.parametrize("matrix", ["prompts", "embedding", "grad"])
def test_strides_and_addresses_that_are_not_aligned(program: Path, matrix: str) -> None:
    jobs = []
    for kind in FLOATS:
        for shift in (kind.itemsize, 8, 16):
            jobs.append(job(prompt_type=kind, trunk_type=kind, shifts={matrix: shift}))
        for width, stride in ((24, 32), (24, 25), (21, 24)):
            jobs.append(job(prompt_type=kind, trunk_type=kind, width=width, strides={matrix: stride}))
    check(program, jobs)


@pytest.mark.parametrize(("prompt", "trunk"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float64)])
def test_elements_behind_the_last_whole_vector(program: Path, prompt: torch.dtype, trunk: torch.dtype) -> None:
    """Rows are aligned, and no multiple of a vector of the narrower type wide."""
    widths = (4, 12, 20, 132) if trunk == torch.float32 else (2, 6, 130)
    strides = [{"prompts": -(-width // 8) * 8} for width in widths]
    jobs = [
        job(prompt_type=prompt, trunk_type=trunk, width=width, strides=stride, prepend=prepend)
        for width, stride in zip(widths, strides, strict=True)
        for prepend in (True, False)
    ]
    check(program, jobs)


def test_bad_slots_and_ids_make_their_rows_nan_and_no_others(program: Path) -> None:
    bad = [("slots", 4), ("slots", -1), ("token_ids", 50), *[("token_ids", value) for value in WILD if value < 0]]
    good = job((2, 2, 2, 2), (3, 4, 5), [0, 1, 2])
    wrong = [job((2, 2, 2, 2), (3, 4, 5), [0, 1, 2]) for _ in bad]
    for one, (name, value) in zip(wrong, bad, strict=True):
        one.arguments[name][0] = value
    (_, right, _), *results = run(program, [good, *wrong])
    for (name, _), (cu_seqlens, packed, _) in zip(bad, results, strict=True):
        first = packed[: cu_seqlens[1]]
        assert first[2].isnan().all() if name == "token_ids" else first.isnan().all()
        same(packed[cu_seqlens[1] : cu_seqlens[3]], right[5 : 5 + cu_seqlens[3] - cu_seqlens[1]])


def wild_jobs(count: int) -> Iterator[Case]:
    """Valid but for one to three values of cu_seqlens, slots and ids, each a wild one."""
    for seed in range(count):
        draw = random.Random(seed)
        kind = draw.choice(FLOATS)
        one = job(width=draw.choice((8, 13)), prompt_type=kind, trunk_type=kind, prepend=seed % 2 == 0, slack=seed % 5)
        for _ in range(draw.randint(1, 3)):
            values = one.arguments[draw.choice(INDICES)]
            values[draw.randrange(len(values))] = draw.choice(WILD)
        yield one


def test_bad_cu_seqlens_touch_nothing_outside_and_rows_without_a_source_are_nan(
    program: Path,
) -> None:
    jobs = list(wild_jobs(60))
    nans = 0
    for one, (_, packed, _) in zip(jobs, run(program, jobs), strict=True):
        sources = torch.cat([one.arguments["prompts"], one.arguments["embedding"], torch.zeros_like(packed[:1])])
        known = [row for row in packed if not row.isnan().all()]
        nans += len(packed) - len(known)
        assert all((sources == row).all(1).any() for row in known)
    assert nans > 0


def test_fewer_blocks_than_rows(folder: Path) -> None:
    """As where there are more rows than a grid is given blocks: each block takes several."""
    few = changed(folder, "kMostBlocks = 1 << 20", "kMostBlocks = 2")
    jobs = [job(prepend=prepend, slack=20, trunk_type=kind) for prepend in (True, False) for kind in FLOATS]
    check(build(folder / "few", ADDRESSES, few), jobs)


RACING = [job(*PAST_ONE_SLICE, width=8), job(width=520), job(slack=30)]


def run_or_skip(program: Path, jobs: Sequence[Case]) -> None:
    try:
        check(program, jobs)
    except Failure as error:
        if "unexpected memory mapping" in str(error):
            pytest.skip("this kernel places programs where ThreadSanitizer cannot run them")
        raise


def test_no_two_threads_race(folder: Path) -> None:
    run_or_skip(build(folder / "races", RACES), RACING)


MIXED = {"prompt_type": torch.bfloat16, "trunk_type": torch.float32}
PLANTED = {
    "no barrier after the sums of warps are written": ("__syncthreads();  // every", "// every", RACES, "data race"),
    "no barrier before they are written again": (
        "__syncthreads();  // before",
        "// before",
        (),
        "depend on the order of threads",
    ),
    "a row's end is one vector late": ("width / N * N", "(width + N - 1) / N * N", ADDRESSES, "overflow"),
    "vectors where rows are not aligned": (
        "reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 &&",
        "",
        ADDRESSES,
        "misaligned address",
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(folder: Path, bug: str) -> None:
    """What holds the tests above to what they promise."""
    old, new, sanitizer, report = PLANTED[bug]
    kernels = changed(folder, old, new)
    jobs = [*RACING, job(shifts={"prompts": 4, "embedding": 2}), job(width=20, strides={"prompts": 24}, **MIXED)]
    with pytest.raises(Failure, match=report):
        run_or_skip(build(folder / kernels.stem, sanitizer, kernels), jobs)
