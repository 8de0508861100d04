"""The CUDA half: compiles everywhere there is an nvcc, and runs where there is a device."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compt_fast import native
from compt_fast.native import build, library
from tests.helpers.assembly import case, expected, expected_grad, needed

ARCHITECTURES = (80, 90, 100)
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HOST = ("prompt_cu_seqlens", "slots", "input_cu_seqlens")

needs_nvcc = pytest.mark.skipif(build.cuda_home() is None, reason="needs nvcc")


def compiled(*options: str | Path) -> str:
    """What nvcc says of the kernels."""
    home = build.cuda_home()
    assert home is not None
    command = [home / "bin" / "nvcc", "-std=c++20", "-O3", "-Werror", "all-warnings", *options]
    source = library.sources() / "assembly_cuda.cu"
    done = subprocess.run([*map(str, command), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernels_compile_without_spilling(tmp_path: Path, architecture: int) -> None:
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    said = compiled("-cubin", target, "-Xptxas", "-v", "-o", tmp_path / "assembly.cubin")
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(frames) == 2 * (16 + 4) + 1 and set(frames) == {("0", "0", "0")}


@needs_nvcc
@pytest.mark.slow
def test_aligned_rows_are_moved_sixteen_bytes_at_a_time(tmp_path: Path) -> None:
    compiled("-ptx", "-arch=compute_80", "-o", tmp_path / "assembly.ptx")
    kernels = (tmp_path / "assembly.ptx").read_text(encoding="utf-8").split(".entry ")[1:]
    wide = [code for code in kernels if re.match(r"\w+kernelI\w+Li[2-9]", code)]
    assert len(wide) == 16 + 4
    for code in wide:
        for access in ("ld", "st"):
            assert re.search(rf"{access}\.global[.\w]*\.(v4\.[a-z]32|v2\.[a-z]64)", code), code[:100]


@needs_nvcc
@pytest.mark.slow
def test_the_registrations_compile_against_this_torch(tmp_path: Path) -> None:
    """Also against a torch for CPUs, which lacks one generated header and nothing else."""
    home = build.cuda_home()
    include = Path(torch.__file__).parent / "include"
    macros = Path("c10", "cuda", "impl", "cuda_cmake_macros.h")
    if not (include / macros).exists():
        (tmp_path / macros).parent.mkdir(parents=True)
        (tmp_path / macros).write_text("", encoding="utf-8")
    folders = [tmp_path, include, include / "torch" / "csrc" / "api" / "include", f"{home}/include"]
    searched = [word for folder in folders for word in ("-isystem", str(folder))]
    source = library.sources() / "assembly_cuda.cpp"
    done = subprocess.run(
        ["c++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *searched, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def on_device(arguments: dict[str, Any], metadata: bool = True, device: str = "cuda") -> dict[str, Any]:
    """A case on the device; `metadata`: its cu_seqlens and slots too."""
    kept = () if metadata else HOST
    return {
        name: value.to(device) if isinstance(value, Tensor) and name not in kept else value
        for name, value in arguments.items()
    }


def check(arguments: dict[str, Any], metadata: bool, device: str = "cuda", slack: int = 0) -> None:
    """Values, cu_seqlens and gradient of a case on the device are those of the host, to the bit."""
    there = on_device(arguments, metadata, device)
    prompts = there["prompts"].requires_grad_()
    total = needed(arguments) + slack
    packed, cu_seqlens = torch.ops.compt_fast.assemble(**there, total=total)
    right, right_cu_seqlens = expected(arguments, total)
    torch.testing.assert_close(packed.detach().cpu(), right, rtol=0, atol=0)
    assert cu_seqlens.device == there["input_cu_seqlens"].device and cu_seqlens.tolist() == right_cu_seqlens.tolist()
    grad = torch.randn(right.shape).to(right.dtype)
    (got,) = torch.autograd.grad(packed, prompts, grad.to(device))
    right_grad = expected_grad(arguments, grad).to(arguments["prompts"].dtype)
    torch.testing.assert_close(got.cpu(), right_grad, rtol=0, atol=0)


@pytest.fixture(scope="module")
def cuda() -> None:
    assert native.load(), native.status().why
    assert "CUDA" in native.status().why


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
class TestOnADevice:
    @pytest.mark.parametrize("metadata", [True, False])
    @pytest.mark.parametrize("trunk_type", FLOATS)
    @pytest.mark.parametrize("prompt_type", FLOATS)
    def test_every_pair_of_types(self, prompt_type: torch.dtype, trunk_type: torch.dtype, metadata: bool) -> None:
        for prepend in (True, False):
            check(case(prompt_type=prompt_type, trunk_type=trunk_type, prepend=prepend), metadata)

    @pytest.mark.parametrize("width", [1, 7, 24, 768, 769, 1024])
    def test_widths_and_slack(self, width: int) -> None:
        check(case(width=width), True, slack=77)

    @pytest.mark.parametrize("rows", [1, 31, 32, 33, 432, 1024, 1025, 5000])
    def test_numbers_of_rows(self, rows: int) -> None:
        lengths = [(7 * row) % 23 for row in range(rows)]
        check(case((5,) * 27, lengths, width=64), True)

    def test_nothing_in_it(self) -> None:
        check(case((3,), (), []), True)
        check(case((0,), (0,), [0]), True)

    def test_strides(self) -> None:
        arguments = on_device(case(trunk_type=torch.float32))
        total = 40
        right, _ = torch.ops.compt_fast.assemble(**arguments, total=total)
        prompts = arguments["prompts"]
        for laid in (prompts.T.contiguous().T, torch.cat([prompts[:, :1], prompts], 1)[:, 1:]):
            got, _ = torch.ops.compt_fast.assemble(**arguments | {"prompts": laid}, total=total)
            assert torch.equal(got, right)

    @pytest.mark.parametrize(
        ("name", "value"), [("slots", 4), ("slots", -1), ("token_ids", 50), ("token_ids", -(2**40))]
    )
    def test_a_bad_slot_or_id_makes_its_rows_nan_and_no_others(self, name: str, value: int) -> None:
        arguments = case((2, 2, 2, 2), (3, 4, 5), [0, 1, 2])
        there = on_device(arguments)
        there[name][0] = value
        packed, cu_seqlens = torch.ops.compt_fast.assemble(**there, total=needed(arguments))
        first = packed[: cu_seqlens[1]]
        assert first[2].isnan().all() if name == "token_ids" else first.isnan().all()
        right, right_cu_seqlens = expected(arguments)
        behind = right[right_cu_seqlens[1] :]
        torch.testing.assert_close(packed[cu_seqlens[1] : cu_seqlens[3]].cpu(), behind, rtol=0, atol=0)

    def test_bad_cu_seqlens_and_a_small_total_are_survived(self) -> None:
        arguments = on_device(case())
        for name in HOST:
            for value in (-(2**60), 2**60, 3):
                bad = arguments[name].clone()
                bad[1] = value
                torch.ops.compt_fast.assemble(**arguments | {name: bad}, total=40)
        packed, _ = torch.ops.compt_fast.assemble(**arguments, total=5)
        torch.cuda.synchronize()
        assert packed.isnan().all()

    def test_arguments_on_the_wrong_device_are_named(self) -> None:
        arguments = on_device(case())
        for name in ("token_ids", "embedding", "slots"):
            with pytest.raises(ValueError, match=f"{name} must be on cuda:0, got cpu"):
                torch.ops.compt_fast.assemble(**arguments | {name: arguments[name].cpu()}, total=40)
        with pytest.raises(ValueError, match="total must be given"):
            torch.ops.compt_fast.assemble(**arguments)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
    def test_another_device_than_the_current_one(self) -> None:
        check(case(), True, "cuda:1")

    def test_another_stream_and_a_captured_graph(self) -> None:
        arguments = on_device(case(width=64))
        prompts = arguments["prompts"].requires_grad_()
        total = needed(arguments)

        def step() -> tuple[Tensor, Tensor]:
            packed, _ = torch.ops.compt_fast.assemble(**arguments, total=total)
            (grad,) = torch.autograd.grad(packed.float().square().sum(), prompts)
            return packed, grad

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        with torch.no_grad():
            prompts.add_(1)
            arguments["token_ids"].remainder_(17)
            arguments["slots"].copy_(arguments["slots"].flip(0))
        graph.replay()
        replayed = [x.clone() for x in captured]
        for mine, right in zip(replayed, step(), strict=True):
            assert torch.equal(mine, right)

    def test_it_waits_for_nothing(self) -> None:
        arguments = on_device(case())
        arguments["prompts"].requires_grad_()
        torch.cuda.set_sync_debug_mode("error")
        try:
            packed, _ = torch.ops.compt_fast.assemble(**arguments, total=40)
            packed.sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own compiler scripts
    def test_compiled_whole(self) -> None:
        arguments = on_device(case())

        @torch.compile(fullgraph=True)
        def run(total: int) -> Tensor:
            return torch.ops.compt_fast.assemble(**arguments, total=total)[0] + 1

        right, _ = expected(case(), 40)
        torch.testing.assert_close(run(40).cpu(), right + 1)

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer")
    def test_under_compute_sanitizer(self, repository: Path) -> None:
        code = (
            "import torch; from tests.native.test_cuda import *; native.load()\n"
            "one = TestOnADevice(); one.test_widths_and_slack(24); one.test_numbers_of_rows(33)\n"
            "one.test_widths_and_slack(769); one.test_bad_cu_seqlens_and_a_small_total_are_survived()"
        )
        command = ["compute-sanitizer", "--error-exitcode", "9", sys.executable, "-c", code]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
        if "Device not supported" in done.stdout:
            pytest.skip("compute-sanitizer does not support this device")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
